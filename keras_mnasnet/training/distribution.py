"""Where the replicas of a training step are: one device, several of one machine, or several machines."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

AUTO = "auto"


class LostProcess(ConnectionError):
    """Another process of the cluster ended; nothing can be computed any more, and the run goes on from its checkpoint."""


@dataclasses.dataclass(frozen=True, slots=True)
class Cluster:
    """One of `processes` processes that train together on the JAX backend; process 0 is at `coordinator` (HOST:PORT).

    `coordinator="auto"` leaves address, count and index to the environment, as on a Cloud TPU slice or under Slurm.
    """

    coordinator: str | None = None
    processes: int = 1
    index: int = 0

    def __post_init__(self) -> None:
        if self.processes < 1 or not 0 <= self.index < self.processes:
            raise ValueError(
                f"`processes` must be >= 1 and `process_index` from 0 to processes - 1. "
                f"Received: processes={self.processes}, process_index={self.index}"
            )
        if self.processes > 1 and not self.coordinator:
            raise ValueError(
                f"Several processes need the address of process 0 as `coordinator` (HOST:PORT). "
                f"Received: processes={self.processes} without one"
            )

    @property
    def shard(self) -> tuple[int, int]:
        """(index, count), as the data pipelines take it."""
        return self.index, self.processes

    def join(self) -> Cluster:
        """Connect to the other processes, before anything else touches the backend, and say which of them this one is.

        ValueError on another backend, or where `auto` finds no cluster.
        """
        if self.processes == 1 and self.coordinator != AUTO:
            return self
        import keras

        if keras.backend.backend() != "jax":
            raise ValueError(
                f"Training over several processes needs the JAX backend (pip install 'keras_mnasnet[jax]', "
                f"KERAS_BACKEND=jax). Received: backend={keras.backend.backend()!r}"
            )
        if self.coordinator != AUTO:
            keras.distribution.initialize(self.coordinator, self.processes, self.index)
            return self
        import jax

        try:
            keras.distribution.initialize()
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"coordinator='auto' needs a cluster that JAX recognizes (a TPU slice, Slurm, Open MPI). Received: {error}"
            ) from error
        return dataclasses.replace(self, processes=jax.process_count(), index=jax.process_index())


ALONE = Cluster()


def accelerators() -> list[str]:
    """The GPUs or TPU cores that the backend sees."""
    import keras

    names = map(str, keras.distribution.list_devices())
    return [name for name in names if not name.lower().startswith("cpu")]


@contextlib.contextmanager
def replicas(cluster: Cluster, batch_size: int, devices: list[str] | None = None) -> Iterator[None]:
    """The scope to build, compile and train in; data parallel over `devices` (default: every accelerator).

    TensorFlow: tf.distribute.MirroredStrategy. JAX: keras.distribution.DataParallel. ValueError unless the batch divides.
    """
    import keras

    backend = keras.backend.backend()
    if devices is None and cluster.processes == 1:
        devices = accelerators()
    count = len(keras.distribution.list_devices()) if devices is None else max(1, len(devices))
    if batch_size % count:
        raise ValueError(f"`batch_size` must divide among {count} replicas. Received: batch_size={batch_size}")
    if backend == "tensorflow" and count > 1:
        import tensorflow as tf

        with tf.distribute.MirroredStrategy(devices).scope():
            yield
    elif backend == "jax" and count > 1:
        data_parallel = keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False)
        keras.distribution.set_distribution(data_parallel)
        try:
            yield
        finally:
            keras.distribution.set_distribution(None)
    else:
        yield
