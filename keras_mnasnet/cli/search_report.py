"""`mnasnet search report`: what a study found, as a page."""

from __future__ import annotations

import argparse
from pathlib import Path

from keras_mnasnet.cli.output import print_json, print_table
from keras_mnasnet.search.report import gather, write_report
from keras_mnasnet.search.study import Study
from keras_mnasnet.utils.system import held_stderr

__all__ = ["report"]


def report(arguments: argparse.Namespace) -> None:
    """Write the page, and print the best networks."""
    path = Path(arguments.study).expanduser()
    with Study.open(path, read_only=True) as study, held_stderr():
        found = gather(study, top=arguments.top, landmarks=arguments.landmarks)
    folder = Path(arguments.output).expanduser() if arguments.output else path.with_name(f"{path.stem}-report")
    written = write_report(found, folder, pictures=arguments.pictures)
    if arguments.json:
        return print_json(found.to_json() | {"files": {name: str(file) for name, file in written.items()}})
    print(f"{found.name}: {len(found.done):,} networks, {len(found.front)} on the front; reward {found.reward}\n")
    print_table(
        ("trial", "accuracy %", "latency ms", "reward", "parameters", "MAdds (M)"),
        (
            (
                best.trial.number,
                round(100 * (best.trial.accuracy or 0.0), 2),
                None if best.trial.latency_ms is None else float(f"{best.trial.latency_ms:.4g}"),
                None if best.trial.reward is None else round(best.trial.reward, 4),
                best.trial.params,
                None if best.trial.madds is None else round(best.trial.madds / 1e6, 2),
            )
            for best in found.best
        ),
    )
    if found.best[0].call:
        print(f"\n{found.best[0].call}")
    if found.landmark_note:
        print(f"\n{found.landmark_note}")
    for file in written.values():
        print(f"wrote {file}")
    return None
