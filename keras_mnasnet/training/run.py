"""The doors of training: `train`, `resume`, and what they give. Loads TensorFlow and Keras when they are called."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_mnasnet.training.distribution import ALONE, Cluster
from keras_mnasnet.training.job import LABEL_FILE, MODEL_FILE, RUN_FILE, Job, numbers, validation_of
from keras_mnasnet.training.recipe import Recipe, recipe_of
from keras_mnasnet.utils.reading import fields_of, read_json, read_text
from keras_mnasnet.utils.system import held_stderr

if TYPE_CHECKING:
    import keras

    from keras_mnasnet.architecture import Architecture
    from keras_mnasnet.training.classifier import ClassifierRun
    from keras_mnasnet.weights.checkpoint import Checkpoint


@dataclasses.dataclass(frozen=True, slots=True)
class Training:
    """What a run left: its `folder`, the `rows` of log.csv as numbers, the path of its `model`, the accuracies 0..1 of the last
    and the best validation (None before the first), the class names, and what was read, as `data.Summary.as_json` says it."""

    folder: Path
    rows: list[dict[str, float | int]]
    model: Path
    accuracy: float | None
    best_accuracy: float | None
    labels: tuple[str, ...]
    data: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, output: str | os.PathLike[str], rows: list[dict[str, Any]], column: str = "val_accuracy") -> Training:
        """Of a run's folder and the rows of its log."""
        folder = Path(output).expanduser().absolute()
        found = [numbers(row) for row in rows]
        measured = [row[column] for row in found if column in row]
        labels = tuple(read_text(folder / LABEL_FILE, "A run's class names").splitlines())
        facts = fields_of(read_json(folder / RUN_FILE, "A run"), "A run", facts=dict)["facts"]
        last, best = (measured[-1], max(measured)) if measured else (None, None)
        return cls(folder, found, folder / MODEL_FILE, last, best, labels, facts.get("data", {}))

    def load(self) -> Checkpoint:
        """The trained model."""
        from keras_mnasnet.loading import load

        return load(self.folder)


def train(
    data: str | os.PathLike[str], output: str | os.PathLike[str], *,
    from_model: str | os.PathLike[str] | Checkpoint | keras.Model | None = None,
    network: str | Architecture | None = None, recipe: str | os.PathLike[str] | Recipe = "finetune", head: str = "new",
    width: float | None = None, depth: float | None = None, se: bool | float | None = None, stem_stride: int | None = None,
    size: int | None = None, epochs: int | None = None, batch_size: int | None = None, learning_rate: float | None = None,
    changes: Mapping[str, Any] | None = None, upright: bool | None = None, class_weights: str | None = None,
    sampling: str | None = None, teacher: str | os.PathLike[str] | None = None,
    validation: str | os.PathLike[str] | float | None = None, max_bad: int = 0, check: bool = True,
    checkpoint_steps: int = 1000, mixed_precision: str | None = None, jit_compile: bool | None = None,
    tensorboard: bool = False, holdout: float = 0.0,
    cluster: Cluster = ALONE, devices: Sequence[str] | None = None, progress: bool = True,
) -> Training:  # fmt: skip
    """Train a classifier of photos, pixels `[B, size, size, 3]`, and leave in `output` model.safetensors, labels.txt,
    log.csv, run.json, checkpoint.safetensors.

    Args:
        data: class folders, TFRecords, `shapes:COUNT@SIZE`, `tfds:NAME`: what `data.open_images` takes.
        output: a new or empty folder.
        from_model: what to start from: any source that `load` takes, a Checkpoint, or a keras.Model; without it `network`.
        network: the network to train with fresh weights, with `width`, `depth`, `se`, `stem_stride`; or which
            one of `from_model="imagenet"`, `"cifar10"` or `"trashnet"`.
        recipe: a name, a text such as "finetune epochs=10", the path of a .json file, or a Recipe. `size` (pixels), `epochs`,
            `batch_size` (images a step, over all replicas), `learning_rate` (at the recipe's base batch) and `changes`, such as
            {"augment.flip": False}, take the place of its values.
        upright: turn photos as their EXIF orientation says, here and wherever the model is used later (default: the recipe's).
        class_weights, sampling: "balanced" for classes of unequal size, see Recipe.
        teacher: a trained model of the same classes, any source that `load` takes or a .tflite file, for recipes with a
            `teacher_weight`, such as "distill".
        head: "new" trains a classifier for the data's classes, "keep" goes on with the model's own.
        validation: data to validate on, or a share (below 1) or number of the training images. Default: the data's own
            validation or test split, else a tenth of every class.
        max_bad: how many damaged photos are left out before the run is refused; `check=False` does not look for them.
        checkpoint_steps: the most steps between two checkpoints; an epoch is cut into equal parts for it.
        mixed_precision: None, "bfloat16" or "float16".
        jit_compile: XLA; default: on accelerators only.
        tensorboard: write TensorBoard logs to `output`/tensorboard.
        holdout: the share (0..1) of undivided data that takes no part, so that a test set is left.
        cluster: this process's place among several (JAX backend). `devices`: default every accelerator.
        progress: say on standard error what is trained on what, how far it is, and what was made.

    Raises ValueError for bad input, OSError for a folder that cannot be written, Diverged for a loss that is not finite.
    `model.safetensors` is of the epoch with the best validation, of the last one where a test split judges or the recipe
    says keep="last"; it holds the moving averages where the recipe has them. classes.csv counts the answers class by class.

    Example:
        >>> from keras_mnasnet import training
        >>> network = {"network": "small", "width": 0.35, "stem_stride": 1}
        >>> recipe = "cifar10 epochs=1 batch_size=32"
        >>> done = training.train("shapes:64@32", "run", **network, recipe=recipe, progress=False)
        >>> done.model.name, len(done.rows), done.labels[:2], 0 <= done.accuracy <= 1
        ('model.safetensors', 1, ('checkerboard', 'circle'), True)
        >>> training.resume("run", progress=False).accuracy == done.accuracy  # a finished run is left as it is
        True
    """
    source, start = named_source(from_model, network)
    job = Job(
        data=os.fspath(data), from_model=source, network=None if network is None else str(network), head=head, width=width,
        depth=depth, se=se, stem_stride=stem_stride, validation=validation_of(validation),
        recipe=recipe_of(
            recipe, changes if upright is None else {**(changes or {}), "augment.upright": upright}, size=size, epochs=epochs,
            batch_size=batch_size, learning_rate=learning_rate, class_weights=class_weights, sampling=sampling,
        ),
        teacher=None if teacher is None else os.fspath(teacher), holdout=holdout, max_bad=max_bad, check=check,
        checkpoint_steps=checkpoint_steps, mixed_precision=mixed_precision,
        jit_compile=jit_compile, tensorboard=tensorboard,
    )  # fmt: skip
    return run_job(job, output, cluster=cluster, devices=devices, progress=progress, start=start)


def run_job(
    job: Job, output: str | os.PathLike[str], *, cluster: Cluster = ALONE, devices: Sequence[str] | None = None,
    progress: bool = True, start: Any = None,
) -> Training:  # fmt: skip
    """`train` with its arguments in a Job; `start` is the model where the job names one that was given as a value."""
    kind, start_run, _ = _loaded(cluster)
    rows = start_run(kind, output, job, cluster=cluster, devices=devices, progress=progress, start=start)
    return Training.of(output, rows)


def resume(
    output: str | os.PathLike[str], *, cluster: Cluster = ALONE, devices: Sequence[str] | None = None, progress: bool = True
) -> Training:
    """Go on with the run in a folder from its last checkpoint, as if it had never stopped; example and errors as in `train`."""
    kind, _, resume_run = _loaded(cluster)
    return Training.of(output, resume_run(kind, output, cluster=cluster, devices=devices, progress=progress))


def _loaded(cluster: Cluster) -> tuple[type[ClassifierRun], Any, Any]:
    """What trains; the lines that TensorFlow writes as it loads and finds its devices are held back."""
    with held_stderr():
        import keras

        from keras_mnasnet.training.classifier import ClassifierRun
        from keras_mnasnet.training.engine import resume_run, start_run

        if cluster == ALONE:  # else the processes connect first
            keras.distribution.list_devices()
    return ClassifierRun, start_run, resume_run


def named_source(model: Any, network: Any) -> tuple[str | None, Any]:
    """The text that a job keeps of a model, and its Checkpoint where it was given as a value; ValueError without any start."""
    if model is None and network is None:
        raise ValueError(
            "`from_model` (--from) or `network` (--network) must say what the training starts from: --from imagenet, or "
            "another trained model, fine-tunes it; --network a1 begins with fresh weights. Received: neither"
        )
    if model is None or isinstance(model, str | os.PathLike):
        return (None if model is None else os.fspath(model)), None
    from keras_mnasnet.loading import load

    checkpoint = load(model)
    return checkpoint.origin.name, checkpoint
