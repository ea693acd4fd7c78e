"""`mnasnet train`: train, fine-tune, resume."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_mnasnet.cli.output import print_json
from keras_mnasnet.utils.system import held_stderr

__all__ = ["changed_recipe", "drive", "log_numbers", "named_weights", "train"]

RESUMED = (
    "model", "weights", "recipe", "epochs", "batch_size", "learning_rate", "set", "validation", "width", "depth", "se",
    "stem_stride", "resolution", "head", "max_bad", "mixed_precision", "jit_compile", "checkpoint_steps", "output",
)  # fmt: skip


def train(arguments: argparse.Namespace) -> int:
    """Start a run, or go on with one."""
    if (arguments.resume is None) == (arguments.data is None):
        raise ValueError("A run needs DATA and --output, or --resume RUN. Received: both, or neither")

    def start(folder: Path, cluster: Any) -> list[dict[str, Any]]:
        from keras_mnasnet.training import train as start_run

        return start_run(folder, _job(arguments), cluster=cluster)

    def go_on(folder: Path, cluster: Any) -> list[dict[str, Any]]:
        from keras_mnasnet.training import resume as resume_run

        return resume_run(folder, cluster=cluster)

    return drive(arguments, RESUMED, start, go_on, _report, "mnasnet train")


def drive(
    arguments: argparse.Namespace,
    kept: tuple[str, ...],
    start: Callable[[Path, Any], list[dict[str, Any]]],
    go_on: Callable[[Path, Any], list[dict[str, Any]]],
    report: Callable[[Path, list[dict[str, Any]], bool], None],
    command: str,
) -> int:
    """Start or go on with a run, report it, and return the exit status; `kept` are the options that a start fixes."""
    if arguments.resume is None and arguments.output is None:
        raise ValueError("A run needs a folder to write to. Received: no --output")
    if arguments.processes > 1 or arguments.coordinator:
        os.environ.setdefault("KERAS_BACKEND", "jax")

    with held_stderr():  # TensorFlow's start-up lines
        from keras_mnasnet.training import Cluster, Diverged, LostProcess

    folder = Path(arguments.resume or arguments.output)
    cluster = Cluster(arguments.coordinator, arguments.processes, arguments.process_index)
    try:
        if arguments.resume:
            given = [f"--{key.replace('_', '-')}" for key in kept if getattr(arguments, key) not in (None, [])]
            flags = {"tensorboard": ("--tensorboard", False), "check": ("--no-check", True), "ap": ("--no-ap", True)}
            given += [text for key, (text, usual) in flags.items() if getattr(arguments, key, usual) != usual]
            if given:
                raise ValueError(
                    f"A resumed run keeps the settings of its start, in {folder / 'run.json'}. Received: {', '.join(given)}. "
                    f"Leave them out, or train into a new folder."
                )
            rows = go_on(folder, cluster)
        else:
            rows = start(folder, cluster)
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
        print(f"\nstopped; go on with: {command} --resume {folder}", file=sys.stderr)
        return 130
    except SystemExit as stop:  # SIGTERM
        if cluster.processes > 1:
            os._exit(int(stop.code or 0))  # JAX would wait for the other processes, and they for this one
        raise
    if cluster.index == 0:
        report(folder, rows, arguments.json)
    return 0


def _job(arguments: argparse.Namespace) -> Any:
    from keras_mnasnet.training import Job, Recipe, parse_recipe

    recipe: Recipe = parse_recipe(arguments.recipe or "finetune")
    weights = named_weights(arguments)
    own = {
        key: getattr(arguments, key)
        for key in ("model", "head", "max_bad", "checkpoint_steps")
        if getattr(arguments, key) is not None
    }
    return Job(
        data=arguments.data,
        recipe=changed_recipe(recipe, arguments),
        validation=arguments.validation,
        weights=weights,
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


def changed_recipe(recipe: Any, arguments: argparse.Namespace) -> Any:
    """The recipe with what `--set`, `--epochs`, `--batch-size`, `--learning-rate` and `--resolution` say."""
    from keras_mnasnet.training import parse_values

    given = {
        "epochs": arguments.epochs,
        "batch_size": arguments.batch_size,
        "learning_rate": arguments.learning_rate,
        "size": arguments.resolution,
    }
    recipe = recipe.changed(**parse_values(arguments.set))
    return recipe.changed(**{key: value for key, value in given.items() if value is not None})


def named_weights(arguments: argparse.Namespace) -> str | None:
    """`--weights`, None for `none`."""
    return None if arguments.weights is None or arguments.weights.lower() == "none" else arguments.weights


def _report(folder: Path, rows: list[dict[str, Any]], as_json: bool) -> None:
    measured = [row for row in rows if row.get("val_accuracy")]
    last = measured[-1] if measured else {}
    best = max((float(row["val_accuracy"]) for row in measured), default=None)
    if as_json:
        epochs = [log_numbers(row) for row in rows]
        print_json({"run": str(folder), "model": str(folder / "model.safetensors"), "best_accuracy": best, "epochs": epochs})
        return
    if last:
        print(f"validation accuracy {float(last['val_accuracy']):.4f} after epoch {last['epoch']}, best {best:.4f}")
    print(f"wrote {folder / 'model.safetensors'}; use it with: mnasnet predict PHOTO --weights {folder / 'model.safetensors'}")


def log_numbers(row: dict[str, Any]) -> dict[str, float | int]:
    """A row of the log, whose values are texts after a resume."""
    return {key: int(value) if key == "step" else float(value) for key, value in row.items() if value != ""}
