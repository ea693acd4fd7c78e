"""`mnasnet recipes`: what the training recipes say, and where each value comes from."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from keras_mnasnet.cli.output import print_json, print_table
from keras_mnasnet.training.recipe import SOURCES, Recipe, parse_recipe, recipe_to_json

__all__ = ["recipes"]


def recipes(arguments: argparse.Namespace) -> None:
    """Print one recipe, or all of them: of classifiers, or of detectors."""
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
    command, option = ("detect train", " --detection") if arguments.detection else ("train", "")
    return print(
        f"\n`mnasnet {command} --set key=value` changes a value; `mnasnet recipes NAME{option} --json` prints a .json recipe."
    )
