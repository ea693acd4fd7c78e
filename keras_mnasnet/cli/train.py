"""`mnasnet train`: train, fine-tune, resume."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from keras_mnasnet.cli.output import print_json

__all__ = ["train"]

RESUMED = (
    "model", "weights", "recipe", "epochs", "batch_size", "learning_rate", "set", "validation", "width", "depth", "se",
    "stem_stride", "resolution", "head", "max_bad", "mixed_precision", "jit_compile", "checkpoint_steps", "output",
)  # fmt: skip


def train(arguments: argparse.Namespace) -> int:
    """Start a run, or go on with one."""
    if (arguments.resume is None) == (arguments.data is None):
        raise ValueError("A run needs DATA and --output, or --resume RUN. Received: both, or neither")
    if arguments.resume is None and arguments.output is None:
        raise ValueError("A run needs a folder to write to. Received: no --output")
    if arguments.processes > 1 or arguments.coordinator:
        os.environ.setdefault("KERAS_BACKEND", "jax")

    from keras_mnasnet.training import Cluster, Diverged, LostProcess
    from keras_mnasnet.training import resume as resume_run
    from keras_mnasnet.training import train as start_run

    folder = Path(arguments.resume or arguments.output)
    cluster = Cluster(arguments.coordinator, arguments.processes, arguments.process_index)
    try:
        if arguments.resume:
            given = [f"--{key.replace('_', '-')}" for key in RESUMED if getattr(arguments, key) not in (None, [])]
            given += ["--tensorboard"] * arguments.tensorboard + ["--no-check"] * (not arguments.check)
            if given:
                raise ValueError(
                    f"A resumed run keeps the settings of its start, in {folder / 'run.json'}. Received: {', '.join(given)}. "
                    f"Leave them out, or train into a new folder."
                )
            rows = resume_run(folder, cluster=cluster)
        else:
            rows = start_run(folder, _job(arguments), cluster=cluster)
    except LostProcess as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(1)  # JAX would wait a minute for the lost process, and then abort with a stack trace
    except Diverged as error:
        raise ValueError(str(error)) from error
    except (ValueError, OSError, ImportError) as error:
        if cluster.processes == 1:
            raise
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(1)  # the other processes would wait for this one for minutes
    except KeyboardInterrupt:
        print(f"\nstopped; go on with: mnasnet train --resume {folder}", file=sys.stderr)
        return 130
    except SystemExit as stop:  # SIGTERM
        if cluster.processes > 1:
            os._exit(int(stop.code or 0))  # JAX would wait for the other processes, and they for this one
        raise
    if cluster.index == 0:
        _report(folder, rows, arguments.json)
    return 0


def _job(arguments: argparse.Namespace) -> Any:
    from keras_mnasnet.training import Job, parse_recipe, parse_values

    recipe = parse_recipe(arguments.recipe or "finetune").changed(**parse_values(arguments.set))
    given = {
        "epochs": arguments.epochs,
        "batch_size": arguments.batch_size,
        "learning_rate": arguments.learning_rate,
        "size": arguments.resolution,
    }
    recipe = recipe.changed(**{key: value for key, value in given.items() if value is not None})
    weights = arguments.weights
    own = {
        key: getattr(arguments, key)
        for key in ("model", "head", "max_bad", "checkpoint_steps")
        if getattr(arguments, key) is not None
    }
    return Job(
        data=arguments.data,
        recipe=recipe,
        validation=arguments.validation,
        weights=None if weights is None or weights.lower() == "none" else weights,
        width=arguments.width,
        depth=arguments.depth,
        se=arguments.se,
        stem_stride=arguments.stem_stride,
        mixed_precision=arguments.mixed_precision,
        jit_compile=arguments.jit_compile,
        check=arguments.check,
        tensorboard=arguments.tensorboard,
        **own,
    )


def _report(folder: Path, rows: list[dict[str, Any]], as_json: bool) -> None:
    measured = [row for row in rows if row.get("val_accuracy")]
    last = measured[-1] if measured else {}
    best = max((float(row["val_accuracy"]) for row in measured), default=None)
    if as_json:
        epochs = [_numbers(row) for row in rows]
        print_json({"run": str(folder), "model": str(folder / "model.safetensors"), "best_accuracy": best, "epochs": epochs})
        return
    if last:
        print(f"validation accuracy {float(last['val_accuracy']):.4f} after epoch {last['epoch']}, best {best:.4f}")
    print(f"wrote {folder / 'model.safetensors'}; use it with: mnasnet predict PHOTO --weights {folder / 'model.safetensors'}")


def _numbers(row: dict[str, Any]) -> dict[str, float | int]:
    """A row of the log, whose values are texts after a resume."""
    return {key: int(value) if key == "step" else float(value) for key, value in row.items() if value != ""}
