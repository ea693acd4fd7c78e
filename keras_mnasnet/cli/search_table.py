"""`mnasnet search table`: a latency table of a space on a device."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import Any, cast

from keras_mnasnet.cli.output import print_json, print_table
from keras_mnasnet.search.latency import Meter, parse_device
from keras_mnasnet.search.setup import make_space
from keras_mnasnet.search.tables import build_table, parts_of_space
from keras_mnasnet.utils.files import check_writable

__all__ = ["table"]


def table(arguments: argparse.Namespace) -> int:
    """Measure, write, and print the error of the sum of rows against whole networks."""
    check_writable(arguments.output)
    space = make_space(arguments.space, _options(arguments.space_set))
    model = parse_device(
        arguments.device, core=arguments.core, mask=arguments.mask, benchmark_model=arguments.benchmark_model,
        runs=arguments.runs,
    )  # fmt: skip
    if not model.measures or not hasattr(model, "files_ms"):
        raise ValueError(f"A table is measured on a device: host, adb or adb:SERIAL. Received: --device {arguments.device}")
    rows = parts_of_space(space, arguments.resolution)
    if not arguments.json:
        print(f"{len(rows):,} rows and {arguments.networks + 3} whole networks on {model.name}", flush=True)
    try:
        value = build_table(
            arguments.output, space, cast("Meter", model), resolution=arguments.resolution, classes=arguments.classes,
            networks=arguments.networks, progress=not arguments.json and sys.stderr.isatty(), rows=rows,
        )  # fmt: skip
    except KeyboardInterrupt:
        print(f"\ninterrupted; what is measured is kept. Go on with: mnasnet {shlex.join(sys.argv[1:])}", file=sys.stderr)
        return 130
    finally:
        model.close()
    if arguments.json:
        print_json(value)
        return 0
    check = value["check"]
    print_table(
        ("whole network", "for", "measured ms", "scaled sum ms", "off %"),
        (
            (
                row["network"].partition("[")[0],
                row["use"],
                float(f"{row['measured_ms']:.4g}"),
                float(f"{value['scale'] * row['sum_ms']:.4g}"),
                round(100 * (value["scale"] * row["sum_ms"] / row["measured_ms"] - 1), 2),
            )
            for row in check["networks"]
        ),
    )
    print(
        f"\nthe sum of rows is {check['percent_off_unscaled']:.2f} % off; times {value['scale']:.3f}, set on the networks for "
        f"`scale`, it is {check['percent_off']:.2f} % off those for `check`, at most {check['percent_off_max']:.2f} %"
    )
    print(f"wrote {arguments.output}: {len(value['ms']):,} rows. Use it with --device table:{arguments.output}")
    return 0


def _options(stated: list[str]) -> dict[str, Any]:
    if not stated:
        return {}
    from keras_mnasnet.training.recipe import parse_values  # loads Keras

    return parse_values(stated)
