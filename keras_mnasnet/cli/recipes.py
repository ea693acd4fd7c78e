"""`mnasnet recipes`: what the training recipes say, and where each value comes from."""

from __future__ import annotations

import argparse
import dataclasses

from keras_mnasnet.cli.output import print_json, print_table
from keras_mnasnet.training.recipe import parse_recipe, recipe_to_json
from keras_mnasnet.training.recipes import RECIPES, SOURCES

__all__ = ["recipes"]


def recipes(arguments: argparse.Namespace) -> None:
    """Print one recipe, or all of them."""
    chosen = [parse_recipe(arguments.name)] if arguments.name else list(RECIPES.values())
    if arguments.json:
        values = [recipe_to_json(recipe) for recipe in chosen]
        return print_json(values[0] if arguments.name else values)
    fields = [field.name for field in dataclasses.fields(chosen[0]) if field.name not in ("name", "augment")]
    rows = [[field, *("-" if field in recipe.idle else str(getattr(recipe, field)) for recipe in chosen)] for field in fields]
    for field in dataclasses.fields(chosen[0].augment):
        rows.append([f"augment.{field.name}", *(str(getattr(recipe.augment, field.name)) for recipe in chosen)])
    print_table(("", *(recipe.name for recipe in chosen)), rows)
    for recipe in chosen:
        if recipe.name in SOURCES:
            print(f"\n{recipe.name}:")
            for what, source in SOURCES[recipe.name].items():
                print(f"  {what}: {source}")
    return print("\n`mnasnet train --set key=value` changes a value; `mnasnet recipes NAME --json` prints a .json recipe.")
