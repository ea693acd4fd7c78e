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
    names = [parse_recipe(arguments.name).name] if arguments.name else list(RECIPES)
    if arguments.json:
        return print_json([{**recipe_to_json(RECIPES[name]), "sources": SOURCES[name]} for name in names])
    fields = [field.name for field in dataclasses.fields(RECIPES[names[0]]) if field.name not in ("name", "augment")]
    rows = [[field, *(str(getattr(RECIPES[name], field)) for name in names)] for field in fields]
    for field in dataclasses.fields(RECIPES[names[0]].augment):
        rows.append([f"augment.{field.name}", *(str(getattr(RECIPES[name].augment, field.name)) for name in names)])
    print_table(("", *names), rows)
    for name in names:
        print(f"\n{name}:")
        for what, source in SOURCES[name].items():
            print(f"  {what}: {source}")
    return print("\n`mnasnet train --set key=value` changes a value; --json prints what a .json recipe holds.")
