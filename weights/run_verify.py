"""Fetch every recorded checkpoint, or those named, and check hash, tensors and parameters. Needs a network."""

from __future__ import annotations

import argparse
import json

from keras_mnasnet.loading import load, verify_record
from keras_mnasnet.weights.registry import find, names


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ids", nargs="*", help="record ids (default: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON list with the received hashes")
    arguments = parser.parse_args()
    report = []
    for record in map(find, arguments.ids or names()):
        try:
            checkpoint = load(record.id)
            params = checkpoint.architecture.params(classes=checkpoint.classes)
            row = verify_record(record)
            if params != record.params:
                row |= {"ok": False, "problem": f"must have {record.params:,} parameters. Received: {params:,}"}
        except (ValueError, OSError) as error:
            row = {"id": record.id, "ok": False, "files": [], "problem": str(error)}
        report.append(row)
        if not arguments.json:
            print(f"{row['id']}: {'ok' if row['ok'] else row['problem']}", flush=True)
    if arguments.json:
        print(json.dumps(report, indent=2))
    return 0 if all(row["ok"] for row in report) else 1


if __name__ == "__main__":
    raise SystemExit(main())
