"""`mnasnet weights` and `mnasnet push`: list, fetch, verify and convert checkpoints; upload one."""

from __future__ import annotations

import argparse
import dataclasses
import sys

from keras_mnasnet.cli.options import given, network, network_options, option, output, own
from keras_mnasnet.cli.output import print_columns, print_json
from keras_mnasnet.cli.parsing import Parser
from keras_mnasnet.weights.datasets import NAMES


def add_commands(top: Parser) -> None:
    """`weights list`, `fetch`, `verify`, `convert`, and `push`."""
    weights = top.add("weights", "List, fetch, verify and convert checkpoints.", example="mnasnet weights list --network small")
    listed = weights.add(
        "list",
        "The ImageNet checkpoints of Google, timm, torchvision and others, and those of this package.",
        list_records,
        example="mnasnet weights list",
    )
    option(listed, "--network", "Only its checkpoints are listed.")
    fetched = weights.add(
        "fetch", "Fetch checkpoints from their publishers, verify them and convert them into the cache.", fetch,
        usage="RECORD...", example="mnasnet weights fetch google/a1-1.0-224", needs=("RECORD",),
    )  # fmt: skip
    fetched.add_argument("ids", nargs="+", metavar="RECORD", help="Fetch these record ids, or `all`.")
    verified = weights.add(
        "verify", "Check cached checkpoints against their hashes and networks.", verify, usage="[RECORD...]",
        example="mnasnet weights verify",
    )  # fmt: skip
    verified.add_argument(
        "ids", nargs="*", metavar="RECORD", help="Check these record ids, which must be cached (default: all that is cached)."
    )
    converted = weights.add(
        "convert", "Write a model of any source as this package's .safetensors file.", convert,
        usage="MODEL -o FILE.safetensors",
        example="mnasnet weights convert mnasnet0.5_top1_67.823-3ffadce67e.pth -o b1_0.5.safetensors",
        needs=("MODEL", "-o FILE.safetensors"),
    )  # fmt: skip
    option(converted, "MODEL")
    output(converted, "FILE.safetensors", "a file that says network, numerics, labels and preprocessing.")
    network_options(converted, f"which network (of {NAMES}, and files that do not say it)")

    pushed = top.add(
        "push", "Upload a model with its labels and a model card to the Hugging Face Hub.", push,
        usage="MODEL OWNER/NAME [options]", example="mnasnet push runs/flowers me/mnasnet-flowers --private",
        needs=("MODEL", "OWNER/NAME"),
    )  # fmt: skip
    option(pushed, "MODEL")
    pushed.add_argument("repo", metavar="OWNER/NAME", help="The repository, which is made if it does not exist.")
    option(pushed, "--labels", "The default is the model's own.")
    own(
        pushed, "--metric", "NAME=PERCENT", "State a figure that you measured, as top1=94.2; may be repeated.", action="append",
        default=[],
    )  # fmt: skip
    own(pushed, "--measured-on", "TEXT", "Say what the figures were measured on.")
    own(pushed, "--license", "NAME", "State this license (default: the model's own, or apache-2.0).")
    pushed.add_argument("--private", action="store_true", help="Make a new repository private.")
    own(pushed, "--revision", "BRANCH", "Upload to this existing branch (default: main).")
    pushed.add_argument("--pull-request", action="store_true", help="Open a pull request instead of writing to the branch.")


def list_records(arguments: argparse.Namespace) -> None:
    """Print the records."""
    from keras_mnasnet.family import as_architecture
    from keras_mnasnet.loading import converted_path
    from keras_mnasnet.weights.registry import records

    wanted = as_architecture(arguments.network).name if arguments.network else None
    found = [record for record in records() if wanted in (None, record.network)]
    if arguments.json:
        ours = {each.id: {"architecture": str(each.architecture), "cached": converted_path(each).is_file()} for each in found}
        return print_json([dataclasses.asdict(each) | ours[each.id] for each in found])
    if not found:
        print(f"no public checkpoint of {wanted} exists")
        return None
    print_columns(
        found,
        {
            "id": "id", "network": "network", "width": "width", "input": "size", "params": "params", "top-1": "top1",
            "top-5": "top5", "preprocessing": lambda each: str(each.preprocessing), "license": "license",
            "cached": lambda each: "yes" if converted_path(each).is_file() else "no",
        },
    )  # fmt: skip
    tested = {record.dataset: record.origin.measured_on for record in found if record.bundled}
    measured = "".join(f" Those of {name}/ were measured on {where}." for name, where in tested.items())
    return print(f"\ntop-1 and top-5 are as published by each source.{measured}")


def fetch(arguments: argparse.Namespace) -> int:
    """Fetch and convert records; one that fails is reported, the others go on."""
    from keras_mnasnet.loading import converted_path, load
    from keras_mnasnet.weights.registry import find, records

    ids = [record.id for record in records()] if arguments.ids == ["all"] else arguments.ids
    report = []
    for record_id in ids:
        try:
            record = find(record_id)
            load(record.id)
            report.append({"id": record_id, "ok": True, "path": str(converted_path(record))})
        except (ValueError, OSError) as error:
            report.append({"id": record_id, "ok": False, "problem": str(error)})
    return _report(report, arguments.json)


def verify(arguments: argparse.Namespace) -> int:
    """Check cached files; named records must be cached, without names only what is cached is checked."""
    from keras_mnasnet.loading import verify_record
    from keras_mnasnet.weights.registry import find, records

    report = [verify_record(find(i)) for i in arguments.ids] or [verify_record(record) for record in records()]
    if not arguments.ids:
        report = [row for row in report if row["ok"] is not None]
    for row in report:
        if row["ok"] is None:
            row |= {"ok": False, "problem": f"not cached: `mnasnet weights fetch {row['id']}`"}
    return _report(report, arguments.json)


def convert(arguments: argparse.Namespace) -> None:
    """Convert one file."""
    from keras_mnasnet.loading import load, save

    checkpoint = load(arguments.model, network=network(arguments), size=None)
    save(checkpoint, arguments.output)
    row = {
        "output": arguments.output,
        "source": checkpoint.origin.source,
        "architecture": str(checkpoint.architecture),
        "classes": checkpoint.classes,
        "numerics": dataclasses.asdict(checkpoint.numerics),
        "notes": list(checkpoint.origin.notes),
    }
    if arguments.json:
        return print_json(row)
    print(f"{checkpoint.origin.source} checkpoint of MnasNet {checkpoint.architecture.name}, {checkpoint.classes} classes")
    return print(f"wrote {arguments.output}; use it with: mnasnet predict {arguments.output} PHOTO")


def push(arguments: argparse.Namespace) -> None:
    """Upload, and say where it is."""
    from keras_mnasnet.hub import push_to_hub

    metrics = {}
    for stated in arguments.metric:
        name, _, value = stated.partition("=")
        try:
            metrics[name] = float(value) / 100
        except ValueError:
            raise ValueError(f"`--metric` must be NAME=PERCENT, as top1=94.2. Received: {stated}") from None
    said = given(arguments, "labels", "license", "revision", dataset="measured_on", create_pr="pull_request")
    del said["progress"]
    address = push_to_hub(
        arguments.model, arguments.repo, metrics=metrics or None, private=arguments.private or None, **said
    )  # fmt: skip
    if arguments.json:
        return print_json({"address": address})
    return print(f"uploaded {address}; use it with: mnasnet predict hf://{arguments.repo} PHOTO")


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
