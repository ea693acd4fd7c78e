"""`mnasnet models` and `mnasnet info`: what the networks are; computed from the architectures, without TensorFlow."""

from __future__ import annotations

import argparse
import dataclasses
import re
from typing import Any

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.cli.output import print_json, print_table
from keras_mnasnet.family import FAMILY, PUBLISHED, as_architecture, default_size
from keras_mnasnet.weights import registry

__all__ = ["info", "models", "network"]


def network(arguments: argparse.Namespace) -> Architecture:
    """The network that `--model`/MODEL, `--width`, `--depth`, `--se` and `--stem-stride` ask for."""
    scaled = as_architecture(arguments.model).scaled(arguments.width, arguments.depth)
    return scaled.with_se(arguments.se).with_stem_stride(arguments.stem_stride)


def models(arguments: argparse.Namespace) -> None:
    """Print the family table."""
    rows: list[dict[str, Any]] = []
    for name, architecture in FAMILY.items():
        size = default_size(architecture)
        rows.append(
            {
                "name": name,
                "provenance": architecture.provenance,
                "resolution": size,
                "params": architecture.params(),
                "madds": architecture.madds(size, size),
                "published": dataclasses.asdict(PUBLISHED[name]),
                "checkpoints": list(registry.names(name)),
                "architecture": str(architecture),
            }
        )
    if arguments.json:
        return print_json(rows)
    print_table(
        ("model", "layout", "input", "params", "MAdds M", "top-1", "top-5", "Pixel 1 ms", "checkpoints"),
        (
            (
                row["name"],
                row["provenance"],
                row["resolution"],
                row["params"],
                round(row["madds"] / 1e6, 2),
                *(row["published"][key] for key in ("top1", "top5", "latency_ms")),
                len(row["checkpoints"]) or None,
            )
            for row in rows
        ),
    )
    print("\nparams and MAdds are counted; top-1, top-5 and ms are as published (arXiv 1807.11626v3, tables 1, 2 and 4).")
    print("a2 and a3 are reconstructions: the paper prints their totals, not their layouts.")
    return print("`mnasnet info MODEL` shows a network, `mnasnet weights list` the checkpoints.")


def info(arguments: argparse.Namespace) -> None:
    """Print one network's stage or layer table."""
    architecture = network(arguments)
    base = as_architecture(arguments.model)
    size = default_size(base) if arguments.resolution is None else arguments.resolution
    if size < 32 or arguments.classes < 1:
        raise ValueError(f"`--resolution` must be >= 32 and `--classes` >= 1. Received: {size} and {arguments.classes}")
    rows = architecture.layers(size, size, classes=arguments.classes)
    fitting = [r for r in registry.records() if r.numerics.apply(architecture).same_network(r.architecture)]
    params, madds = sum(row.params for row in rows), sum(row.madds for row in rows)
    if arguments.json:
        return print_json(
            {
                "name": architecture.name,
                "provenance": architecture.provenance,
                "architecture": str(architecture),
                "resolution": size,
                "params": params,
                "moving_statistics": architecture.moving_statistics(),
                "madds": madds,
                "layers": [row._asdict() for row in rows],
                "checkpoints": [record.id for record in fitting],
            }
        )
    print(f"MnasNet {architecture.name} ({architecture.provenance} layout)")
    print(f"{params:,} parameters, {madds / 1e6:.2f} M multiply-adds at {size} x {size} x 3, RGB pixels 0..255\n")
    if arguments.layers:
        print_table(
            ("layer", "kernel", "stride", "in", "out", "size", "params", "MAdds"),
            (
                (r.name, r.kernel, r.stride, r.input_filters, r.filters, f"{r.height}x{r.width}", r.params, r.madds)
                for r in rows
            ),
        )
    else:
        _stage_table(architecture, rows)
    print(f"\n{architecture}")
    for record in fitting:
        print(f"checkpoint {record.describe()}: {record.preprocessing}")
    if not fitting:
        print("no public checkpoint of this network")
    return None


def _stage_table(architecture: Architecture, rows: tuple) -> None:
    def totals(prefix: str) -> tuple[str, int, int]:
        group = [row for row in rows if re.match(prefix + "(?![0-9])", row.name)]
        return f"{group[-1].height}x{group[-1].width}", sum(r.params for r in group), sum(r.madds for r in group)

    def line(name: str, text: str, kernel: int | None, expand: int | None, filters: int, se: str | None) -> tuple:
        size, params, madds = totals(name if name in ("stem", "head", "predictions") else f"block{name}")
        return name, size, text, kernel, expand, filters, se, params, madds

    table = [line("stem", "conv", 3, None, architecture.stem, None)]
    for stage, block in enumerate(architecture.blocks, start=1):
        kind = block.op if block.op != "mbconv" else "mbconv" if block.expand > 1 else "sepconv"
        text = f"{kind} x{block.repeats}{' pool' if block.pool else ''}"
        table.append(line(str(stage), text, block.kernel, block.expand, block.filters, f"{block.se:g}" if block.se else None))
    table.append(line("head", "conv", 1, None, architecture.head, None))
    table.append(line("predictions", "dense", None, None, rows[-1].filters, None))
    print_table(("stage", "out", "block", "k", "e", "channels", "SE", "params", "MAdds"), table)
