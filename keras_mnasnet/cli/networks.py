"""`mnasnet networks` and `mnasnet info`: what networks and models are; computed without TensorFlow."""

from __future__ import annotations

import argparse
import dataclasses
import re
from typing import TYPE_CHECKING, Any

from keras_mnasnet.cli.options import network, network_options, option
from keras_mnasnet.cli.output import print_columns, print_json, print_table
from keras_mnasnet.cli.parsing import Parser, UsageError
from keras_mnasnet.utils.text import listed

if TYPE_CHECKING:
    from keras_mnasnet.architecture import Architecture


def add_commands(top: Parser) -> None:
    """`networks` and `info`."""
    top.add(
        "networks", "The family: parameters, multiply-adds, published accuracy and latency, checkpoints.", networks,
        example="mnasnet networks",
    )  # fmt: skip
    shown = top.add(
        "info", "What a network or a trained model is: its stages, their parameters and multiply-adds, and the input it "
        "expects. Of a model also where it comes from and what its file says.", info,
        usage=("MODEL|NETWORK [options]", "--network NETWORK [--width X ...] [options]"),
        example="mnasnet info a1 --size 192 --layers", needs=("MODEL|NETWORK",),
    )  # fmt: skip
    option(
        shown, "MODEL", "Or the name of a network, or an architecture's text form.", dest="model", nargs="?",
        metavar="MODEL|NETWORK",
    )  # fmt: skip
    network_options(shown, "a network without weights")
    table = shown.add_argument_group("the table")
    option(table, "--size", "The default is the model's; of a network it is 224, of d1-320 320.")
    option(table, "--classes", default=None, help="Count a classifier of N outputs (default: the model's, 1000 of a network).")
    table.add_argument("--layers", action="store_true", help="Print one row per layer instead of one per stage.")


def networks(arguments: argparse.Namespace) -> None:
    """Print the family table."""
    from keras_mnasnet.family import FAMILY, PUBLISHED, default_size
    from keras_mnasnet.weights import registry

    rows: list[dict[str, Any]] = []
    for name, architecture in FAMILY.items():
        size = default_size(architecture)
        rows.append(
            {
                "name": name, "provenance": architecture.provenance, "size": size, "params": architecture.params(),
                "madds": architecture.madds(size, size), "published": dataclasses.asdict(PUBLISHED[name]),
                "checkpoints": list(registry.names(name)), "architecture": str(architecture),
            }
        )  # fmt: skip
    if arguments.json:
        return print_json(rows)
    print_table(
        ("network", "layout", "input", "params", "MAdds M", "top-1", "top-5", "Pixel 1 ms", "checkpoints"),
        (
            (
                row["name"], row["provenance"], row["size"], row["params"], round(row["madds"] / 1e6, 2),
                *(row["published"][key] for key in ("top1", "top5", "latency_ms")), len(row["checkpoints"]) or None,
            )
            for row in rows
        ),
    )  # fmt: skip
    print("\nparams and MAdds are counted; top-1, top-5 and ms are as published (arXiv 1807.11626v3, tables 1, 2 and 4).")
    print("a2 and a3 are reconstructions: the paper prints their totals, not their layouts.")
    return print("`mnasnet info a1` shows a network, `mnasnet weights list` the checkpoints.")


def info(arguments: argparse.Namespace) -> None:
    """Print the stage or layer table of a network, and what a model's file says beside it."""
    from keras_mnasnet.family import default_size

    if (arguments.model is None) == (arguments.network is None):
        raise UsageError("give a MODEL or NETWORK, or --network NETWORK; received both, or neither")
    architecture, checkpoint = _named(arguments)
    detector = checkpoint.detector if checkpoint else None
    if detector and (arguments.size, arguments.classes) != (None, None):
        raise ValueError(
            f"A detector's input and classes are its own. Received: --size {arguments.size} and --classes {arguments.classes} "
            f"for {arguments.model}. Leave them out."
        )
    size = arguments.size
    if size is None:
        size = checkpoint.size if checkpoint else default_size(architecture)
    classes = arguments.classes
    if classes is None:
        classes = checkpoint.classes if checkpoint else 1000
    if size < 32 or classes < (0 if checkpoint else 1):
        raise ValueError(f"`--size` must be >= 32 and `--classes` >= 1. Received: --size {size} and --classes {classes}")
    rows = detector.layers() if detector else architecture.layers(size, size, classes=classes)
    height, width = detector.input_size if detector else (size, size)
    params, madds = sum(row.params for row in rows), sum(row.madds for row in rows)
    if arguments.json:
        return print_json(
            {
                "name": architecture.name, "provenance": architecture.provenance, "architecture": str(architecture),
                "size": [height, width] if detector else size, "params": params,
                "moving_statistics": sum(2 * row.filters for row in rows if row.bn), "madds": madds,
                "layers": [row._asdict() for row in rows], "checkpoints": [each.id for each in _records(architecture)],
                "model": _facts(checkpoint, arguments.model) if checkpoint else None,
            }
        )  # fmt: skip
    print(f"{'SSDLite on ' if detector else ''}MnasNet {architecture.name} ({architecture.provenance} layout)")
    print(f"{params:,} parameters, {madds / 1e6:.2f} M multiply-adds at {height} x {width} x 3, RGB pixels 0..255\n")
    if arguments.layers:
        print_columns(
            rows,
            {
                "layer": "name", "kernel": "kernel", "stride": "stride", "in": "input_filters", "out": "filters",
                "size": lambda row: f"{row.height}x{row.width}", "params": "params", "MAdds": "madds",
            },
        )  # fmt: skip
    else:
        _stage_table(architecture, rows)
    print(f"\n{architecture}")
    if checkpoint:
        for name, value in _facts(checkpoint, arguments.model).items():
            if value not in (None, {}, []):
                print(f"{name.replace('_', ' ')}: {_shown(value, ' %' if name in ('published', 'measured') else '')}")
        return None
    for record in (fitting := _records(architecture)):
        print(f"checkpoint {record.origin}: {record.preprocessing}")
    if not fitting:
        print("no public checkpoint of this network")
    return None


def _named(arguments: argparse.Namespace) -> tuple[Architecture, Any]:
    """The network, by its name; else the model's, and the model."""
    from keras_mnasnet.family import as_architecture

    text = arguments.network or arguments.model
    try:
        as_architecture(text)
    except ValueError:
        if arguments.network or " r" in text:
            raise
    else:
        found = network(arguments, text)
        assert found is not None
        return found, None
    from keras_mnasnet.loading import load

    if network(arguments, "a1") != as_architecture("a1"):
        raise ValueError(f"--width, --depth, --se and --stem-stride change a network. Received: the model {text}")
    checkpoint = load(text)
    return checkpoint.architecture, checkpoint


def _records(architecture: Architecture) -> list[Any]:
    from keras_mnasnet.weights import registry

    return [r for r in registry.records() if r.numerics.apply(architecture).same_network(r.architecture)]


def _facts(checkpoint: Any, source: str) -> dict[str, Any]:
    """What a model is beside its network: plain values."""
    origin, half = checkpoint.origin, False
    if origin.source == "tflite":
        from keras_mnasnet.export.file import TfliteFile

        half = TfliteFile(source).facts.half
    return {
        "task": checkpoint.task, "origin": origin.name, "source": origin.source, "address": origin.url,
        "license": origin.license, "published": origin.published, "published_at": origin.published_at,
        "measured": origin.measured,
        "numerics": {**dataclasses.asdict(checkpoint.numerics), "normalization": str(checkpoint.numerics.normalization)},
        "trained_at": "x".join(map(str, checkpoint.detector.input_size)) if checkpoint.detector else checkpoint.size,
        "anchors": str(checkpoint.detector.anchors) if checkpoint.detector else None, "classes": checkpoint.classes,
        "computes": "half precision where the CPU can (marked)" if half else None,
        "labels": None if checkpoint.labels is None else list(checkpoint.labels),
        "preprocessing": str(checkpoint.preprocessing), "assumed": list(checkpoint.assumed), "notes": list(origin.notes),
    }  # fmt: skip


def _shown(value: Any, unit: str) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}{unit}" for key, item in value.items() if item is not None)
    return listed(list(map(str, value))) if isinstance(value, list) else str(value)


def _stage_table(architecture: Architecture, rows: tuple) -> None:
    def totals(prefix: str) -> tuple[str, int, int]:
        group = [row for row in rows if re.match(prefix + "(?![0-9])", row.name)]
        return f"{group[-1].height}x{group[-1].width}", sum(r.params for r in group), sum(r.madds for r in group)

    def line(name: str, text: str, kernel: int | None, expand: int | None, filters: int | None, se: str | None) -> tuple:
        size, params, madds = totals(f"block{name}" if name.isdecimal() else name)
        return name, size, text, kernel, expand, filters, se, params, madds

    table = [line("stem", "conv", 3, None, architecture.stem, None)]
    for stage, block in enumerate(architecture.blocks, start=1):
        kind = block.op if block.op != "mbconv" else "mbconv" if block.expand > 1 else "sepconv"
        text = f"{kind} x{block.repeats}{' pool' if block.pool else ''}"
        table.append(line(str(stage), text, block.kernel, block.expand, block.filters, f"{block.se:g}" if block.se else None))
    table.append(line("head", "conv", 1, None, architecture.head, None))
    if rows[-1].op == "dense":
        table.append(line("predictions", "dense", None, None, rows[-1].filters, None))
    for row in rows:  # of a detector
        if row.name.endswith("_project_conv") and row.name.startswith("extra"):
            table.append(line(row.name.partition("_")[0], "separable", 3, None, row.filters, None))
        elif row.name.endswith("_boxes"):
            table.append(line(row.name.partition("_")[0], "boxes, scores", 3, None, None, None))
    print_table(("stage", "out", "block", "k", "e", "channels", "SE", "params", "MAdds"), table)
