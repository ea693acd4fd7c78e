"""`mnasnet weights list|fetch|verify|convert`."""

from __future__ import annotations

import argparse
import dataclasses
import sys

from keras_mnasnet.cli.info import network
from keras_mnasnet.cli.output import print_json, print_table
from keras_mnasnet.family import as_architecture
from keras_mnasnet.weights import convert_file, get, load_record, records, verify_record
from keras_mnasnet.weights.load import converted_path

__all__ = ["convert", "fetch", "list_records", "verify"]


def list_records(arguments: argparse.Namespace) -> None:
    """Print the records."""
    wanted = as_architecture(arguments.model).name if arguments.model else None
    found = [record for record in records() if wanted in (None, record.network)]
    if arguments.json:
        return print_json(
            [
                {
                    **dataclasses.asdict(record),
                    "architecture": str(record.architecture),
                    "cached": converted_path(record).is_file(),
                }
                for record in found
            ]
        )
    if not found:
        print(f"no public checkpoint of {wanted} exists")
        return None
    print_table(
        ("id", "model", "width", "input", "params", "top-1", "top-5", "preprocessing", "licence", "cached"),
        (
            (
                record.id,
                record.network,
                record.width,
                record.resolution,
                record.params,
                record.top1,
                record.top5,
                str(record.preprocessing),
                record.licence,
                "yes" if converted_path(record).is_file() else "no",
            )
            for record in found
        ),
    )
    return print("\ntop-1 and top-5 are as published by each source; those of cifar10/ were measured, on its test images.")


def fetch(arguments: argparse.Namespace) -> int:
    """Fetch and convert records; one that fails is reported, the others go on."""
    ids = [record.id for record in records()] if arguments.ids == ["all"] else arguments.ids
    report = []
    for record_id in ids:
        try:
            record = get(record_id)
            load_record(record)
            report.append({"id": record_id, "ok": True, "path": str(converted_path(record))})
        except (ValueError, OSError) as error:
            report.append({"id": record_id, "ok": False, "problem": str(error)})
    return _report(report, arguments.json)


def verify(arguments: argparse.Namespace) -> int:
    """Check cached files; named records must be cached, without names only what is cached is checked."""
    report = [verify_record(get(i)) for i in arguments.ids] or [verify_record(record) for record in records()]
    if not arguments.ids:
        report = [row for row in report if row["ok"] is not None]
    for row in report:
        if row["ok"] is None:
            row |= {"ok": False, "problem": f"not cached: `mnasnet weights fetch {row['id']}`"}
    return _report(report, arguments.json)


def convert(arguments: argparse.Namespace) -> int:
    """Convert one file."""
    if arguments.model is None and (arguments.width, arguments.depth, arguments.se) != (None, None, None):
        raise ValueError("`--width`, `--depth` and `--se` need a network. Received: no --model")
    architecture = network(arguments) if arguments.model else None
    checkpoint = convert_file(arguments.source, arguments.target, architecture)
    row = {
        "target": arguments.target,
        "source": checkpoint.source,
        "architecture": str(checkpoint.architecture),
        "classes": checkpoint.classes,
        "numerics": dataclasses.asdict(checkpoint.numerics),
    }
    if arguments.json:
        print_json(row)
    else:
        print(f"{checkpoint.source} checkpoint of MnasNet {checkpoint.architecture.name}, {checkpoint.classes} classes")
        print(f"wrote {arguments.target}")
    return 0


def _report(report: list[dict], as_json: bool) -> int:
    if as_json:
        print_json(report)
    for row in report if not as_json else ():
        if row["ok"]:
            print(f"{row['id']}: ok, {row.get('path') or ', '.join(file['path'] for file in row['files'])}")
        else:
            print(f"error: {row['id']}: {row['problem']}", file=sys.stderr)
    if not report and not as_json:
        print("nothing is cached")
    return 0 if all(row["ok"] for row in report) else 1
