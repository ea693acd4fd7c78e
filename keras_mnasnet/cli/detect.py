"""`mnasnet detect train`: train a detector, resume."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from keras_mnasnet.cli.labels import read_labels
from keras_mnasnet.cli.output import print_json
from keras_mnasnet.cli.train import changed_recipe, drive, log_numbers, named_weights

__all__ = ["train"]

RESUMED = (
    "model", "weights", "recipe", "epochs", "batch_size", "learning_rate", "set", "classes", "validation", "validation_images",
    "width", "depth", "se", "resolution", "max_bad", "mixed_precision", "jit_compile", "checkpoint_steps", "output",
)  # fmt: skip


def train(arguments: argparse.Namespace) -> int:
    """Start a detector's run, or go on with one."""
    given = (arguments.annotations is not None, arguments.images is not None)
    if given != ((arguments.resume is None,) * 2):
        raise ValueError(
            "A run needs ANNOTATIONS, IMAGES and --output, or --resume RUN. "
            f"Received: annotations={arguments.annotations!r}, images={arguments.images!r}, resume={arguments.resume!r}"
        )

    def start(folder: Path, cluster: Any) -> list[dict[str, Any]]:
        from keras_mnasnet.detection.training import train_detector

        return train_detector(folder, _job(arguments), cluster=cluster)

    def go_on(folder: Path, cluster: Any) -> list[dict[str, Any]]:
        from keras_mnasnet.detection.training import resume_detector

        return resume_detector(folder, cluster=cluster)

    return drive(arguments, RESUMED, start, go_on, _report, "mnasnet detect train")


def _job(arguments: argparse.Namespace) -> Any:
    from keras_mnasnet.detection.recipe import DetectionRecipe
    from keras_mnasnet.detection.training import DetectionJob
    from keras_mnasnet.training import parse_recipe

    recipe = parse_recipe(arguments.recipe or "finetune-detector", DetectionRecipe)
    classes = read_labels(arguments.classes)
    own = {key: getattr(arguments, key) for key in ("max_bad", "checkpoint_steps") if getattr(arguments, key) is not None}
    return DetectionJob(
        annotations=arguments.annotations,
        images=arguments.images,
        recipe=changed_recipe(recipe, arguments),
        model=arguments.model,
        weights=named_weights(arguments),
        classes=None if classes is None else tuple(classes),
        width=arguments.width,
        depth=arguments.depth,
        se=arguments.se,
        validation=arguments.validation,
        validation_images=arguments.validation_images,
        measure_ap=arguments.ap,
        check=arguments.check,
        mixed_precision=arguments.mixed_precision,
        jit_compile=arguments.jit_compile,
        tensorboard=arguments.tensorboard,
        **own,
    )


def _report(folder: Path, rows: list[dict[str, Any]], as_json: bool) -> None:
    model = folder / "model.safetensors"
    epochs = [log_numbers(row) for row in rows]
    best = max((row["val_ap"] for row in epochs if "val_ap" in row), default=None)
    if as_json:
        return print_json({"run": str(folder), "model": str(model), "best_ap": best, "epochs": epochs})
    last = epochs[-1] if epochs else {}
    shown = {"val_ap": "AP", "val_ap50": "AP50", "val_loss": "validation loss", "loss": "loss"}
    numbers = ", ".join(f"{text} {last[key]:.4f}" for key, text in shown.items() if key in last)
    print(f"{numbers} after epoch {last['epoch']:g}" if last else "nothing was left to train")
    return print(f"wrote {model}; use it with: mnasnet detect predict PHOTO --weights {model}")
