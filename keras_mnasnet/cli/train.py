"""`mnasnet train` and `mnasnet recipes`: train, fine-tune, resume; and what the recipes say."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_mnasnet import training
from keras_mnasnet.cli.options import given, network_options, option, options, output, own
from keras_mnasnet.cli.output import print_json, print_table
from keras_mnasnet.cli.parsing import Parser, UsageError

if TYPE_CHECKING:
    from keras_mnasnet.training import Training

AS_OPTION = {"from_model": "--from", "check": "--no-check", "ap": "--no-ap"}
OF_A_JOB = (
    "from_model", "network", "width", "depth", "se", "recipe", "size", "epochs", "batch_size", "learning_rate", "max_bad",
    "check", "checkpoint_steps", "mixed_precision", "jit_compile", "tensorboard",
)  # fmt: skip
OF_THE_PROCESS = ("run", "parser", "json", "resume", "coordinator", "processes", "process_index")


def add_commands(top: Parser) -> None:
    """`train` and `recipes`."""
    command = top.add(
        "train",
        "Train a classifier on your photos, from a trained model or from scratch. Killed or stopped, --resume goes on with it.",
        train,
        usage=("DATA --from MODEL -o RUN [options]", "DATA --network NETWORK [--width X ...] -o RUN [options]", "--resume RUN"),
        example="mnasnet train flowers --from imagenet -o runs/flowers --epochs 10",
        needs=("DATA and -o RUN, or --resume RUN",),
    )
    option(command, "DATA", nargs="?")
    start = command.add_argument_group("the start")
    option(start, "--from", dest="from_model")
    own(start, "--teacher", "MODEL", "Learn also from this trained model or .tflite file, with --recipe distill.")
    own(start, "--head", "new|keep", "Give the model a new classifier (default), or keep the one of --from.")
    network_options(command, "training from scratch, or which network --from imagenet is", "The default is that of --from.")
    measured = training_options(command, "They are finetune (default), distill, cifar10, paper-imagenet, proxy-5-epochs.")
    option(measured, "--upright", "The model remembers it (default: no, as timm and torchvision).", default=None)
    own(
        measured, "--class-weights", "none|balanced",
        "Weigh the loss of every class by its share of the photos, or do not (default).",
    )  # fmt: skip
    own(measured, "--sampling", "uniform|balanced", "Draw every photo (default) or every class equally often.")
    option(measured, "--validation", "The default is DATA's own validation or test split, else a tenth of it.")
    listed = top.add(
        "recipes", "The training recipes: every value, and what it rests on.", recipes,
        usage="[RECIPE] [--detection]", example="mnasnet recipes paper-imagenet",
    )  # fmt: skip
    listed.add_argument("name", nargs="?", metavar="RECIPE", help="Print this recipe (default: all, side by side).")
    listed.add_argument("--detection", action="store_true", help="Print the recipes of detectors instead of classifiers'.")


def training_options(command: Parser, names: str, **size: Any) -> Any:
    """What every training can be told; the group of options about data."""
    result = command.add_argument_group("the result")
    output(result, "RUN", "a new folder for checkpoint, log and model.", required=False)
    option(result, "--resume")
    data = command.add_argument_group("data")
    option(data, "--max-bad")
    data.add_argument("--no-check", dest="check", action="store_false", help="Do not decode every photo once before the start.")
    how = command.add_argument_group("recipe")
    option(how, "--recipe", names)
    option(how, "--set")
    option(how, "--epochs", "The default is the recipe's.")
    option(how, "--batch-size", "That is a step, over all devices; the default is the recipe's.")
    option(how, "--learning-rate", "It is for the recipe's base batch and scales with the batch; the default is the recipe's.")
    option(how, "--size", "The default is the recipe's, else the model's.", **size)
    speed = command.add_argument_group("computing")
    options(speed, "--checkpoint-steps", "--mixed-precision")
    speed.add_argument(
        "--jit-compile",
        action=argparse.BooleanOptionalAction,
        help="Compile with XLA, or do not (default: on accelerators only).",
    )
    options(speed, "--tensorboard", "--coordinator", "--processes", "--process-index")
    return data


def train(arguments: argparse.Namespace) -> int:
    """Start a run, or go on with one."""
    if (arguments.resume is None) == (arguments.data is None):
        raise UsageError("give DATA and -o RUN, or --resume RUN; received both, or neither")
    return drive(
        arguments, "training", (arguments.data,), _report, "head", "validation", "stem_stride", "upright", "class_weights",
        "sampling", "teacher",
    )  # fmt: skip


def drive(
    arguments: argparse.Namespace, room: str, inputs: tuple[str, ...], report: Callable[[Training, bool], None], *own: str,
    **renamed: str,
) -> int:  # fmt: skip
    """Start or go on with a run by the doors of a room, which get `given`; report it, and return the exit status."""
    if arguments.resume is None and arguments.output is None:
        raise UsageError("give a folder to write to, -o RUN")
    if arguments.processes > 1 or arguments.coordinator:
        os.environ.setdefault("KERAS_BACKEND", "jax")
    from keras_mnasnet.training.distribution import Cluster, LostProcess

    doors: Any = importlib.import_module(f"keras_mnasnet.{room}")
    cluster = Cluster(arguments.coordinator, arguments.processes, arguments.process_index)
    how = {"cluster": cluster, "progress": not arguments.json}
    try:
        if arguments.resume:
            _check_resumed(arguments)
            found = doors.resume(arguments.resume, **how)
        else:
            found = doors.train(*inputs, arguments.output, **given(arguments, *OF_A_JOB, *own, changes="set", **renamed) | how)
    except LostProcess as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(1)  # JAX would wait a minute for the lost process, and then abort with a stack trace
    except (ValueError, OSError, ImportError) as error:
        if cluster.processes == 1:
            raise
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(1)  # the other processes would wait for this one for minutes
    except KeyboardInterrupt:
        folder = shlex.quote(str(arguments.resume or arguments.output))
        raise KeyboardInterrupt(f"stopped; go on with: {arguments.parser.prog} --resume {folder}") from None
    except SystemExit as stop:  # SIGTERM
        if cluster.processes > 1:
            os._exit(int(stop.code or 0))  # JAX would wait for the other processes, and they for this one
        raise
    except training.Diverged as error:
        raise ValueError(str(error)) from error
    if cluster.index == 0:
        report(found, arguments.json)
    return 0


def _check_resumed(arguments: argparse.Namespace) -> None:
    default = arguments.parser.get_default
    changed = [key for key, value in vars(arguments).items() if key not in OF_THE_PROCESS and value != default(key)]
    if changed:
        options = ", ".join(AS_OPTION.get(key, "--" + key.replace("_", "-")) for key in changed)
        raise ValueError(
            f"A resumed run keeps the settings of its start, in {Path(arguments.resume) / 'run.json'}. Received: {options}. "
            f"Leave them out, or train into a new folder."
        )


def _report(run: Training, as_json: bool) -> None:
    if as_json:
        facts = {
            "run": str(run.folder),
            "model": str(run.model),
            "best_accuracy": run.best_accuracy,
            "epochs": run.rows,
            "data": run.data,
        }
        return print_json({**facts, "data": run.data})
    measured = [row for row in run.rows if "val_accuracy" in row]
    if measured:
        print(f"validation accuracy {run.accuracy:.4f} after epoch {measured[-1]['epoch']:g}, best {run.best_accuracy:.4f}")
    return None


def recipes(arguments: argparse.Namespace) -> None:
    """Print one recipe, or all of them: of classifiers, or of detectors."""
    from keras_mnasnet.training.recipe import SOURCES, Recipe, parse_recipe, recipe_to_json

    kind: type[Recipe] = Recipe
    sources: dict[str, dict[str, str]] = SOURCES
    if arguments.detection:
        from keras_mnasnet.detection.recipe import DETECTION_SOURCES, DetectionRecipe

        kind, sources = DetectionRecipe, DETECTION_SOURCES
    chosen: list[Any] = [parse_recipe(arguments.name, kind)] if arguments.name else list(kind.named().values())
    if arguments.json:
        values = [recipe_to_json(recipe) for recipe in chosen]
        return print_json(values[0] if arguments.name else values)
    fields = [field.name for field in dataclasses.fields(chosen[0]) if field.name not in ("name", "augment")]
    rows = [[field, *("-" if field in recipe.idle else str(getattr(recipe, field)) for recipe in chosen)] for field in fields]
    rows = [row for row in rows if set(row[1:]) != {"-"}]
    for field in dataclasses.fields(chosen[0].augment):
        rows.append([f"augment.{field.name}", *(str(getattr(recipe.augment, field.name)) for recipe in chosen)])
    print_table(("", *(recipe.name for recipe in chosen)), rows)
    for recipe in chosen:
        if recipe.name in sources:
            print(f"\n{recipe.name}:")
            for what, source in sources[recipe.name].items():
                print(f"  {what}: {source}")
    command, more = ("detect train", " --detection") if arguments.detection else ("train", "")
    return print(
        f"\n`mnasnet {command} --set key=value` changes a value; `mnasnet recipes NAME{more} --json` prints a .json recipe."
    )
