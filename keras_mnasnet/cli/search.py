"""`mnasnet search`: run a search, and what is done with the study that it leaves."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_mnasnet.cli.options import option, options, output
from keras_mnasnet.cli.output import print_json, print_table
from keras_mnasnet.cli.parsing import Parser, one_of

if TYPE_CHECKING:
    from keras_mnasnet.search import Trial

__all__ = ["add_commands"]

AS_THEY_ARE = (
    "data", "study", "space", "device", "target_ms", "reward", "algorithm", "max_params", "max_madds", "max_latency_ms", "size",
    "seed", "trials", "workers", "executor", "ray_address", "cpus", "gpus", "order", "timeout", "minutes",
)  # fmt: skip
STUDY = "--study mine.study"


def add_commands(top: Parser) -> None:
    """`search run`, `status`, `report`, `rescore`, `retrain`, `table` and `export-optuna`."""
    search = top.add(
        "search", "Find networks for your photos and your device.", example=f"mnasnet search status {STUDY}",
    )  # fmt: skip

    def step(name: str, text: str, handler: Any, usage: str, example: str, *needs: str) -> Parser:
        command = search.add(
            name, text, handler, usage=f"--study FILE {usage}", example=f"mnasnet search {name} {STUDY}{example}",
            needs=("--study FILE", *needs),
        )  # fmt: skip
        option(command, "--study")
        return command

    _run_options(
        step(
            "run", "Start a search, or go on with it: the same command again, or --study FILE alone.", run,
            "[--data DATA --target-ms MS] [options]", " --data flowers --size 96 --target-ms 2 --trials 100",
        )
    )  # fmt: skip
    step("status", "How far a study is, also while it runs.", status, "", "")
    command = step(
        "report", "Write one page, with pictures, of what a study found.", report, "[-o FOLDER] [options]", " -o page"
    )
    output(command, "FOLDER", "a folder for report.html, report.json and PNGs (default: FILE-report).", required=False)
    option(command, "--top", "They get stage tables.")
    command.add_argument(
        "--landmarks", type=one_of("latency", "train", "none"), default="latency", metavar="latency|train|none",
        help="Measure the latency of A1, B1 and MobileNetV2 as the study does (default), also train them, or show none.",
    )  # fmt: skip
    command.add_argument("--no-pictures", dest="pictures", action="store_false", help="Write no PNGs, which need matplotlib.")
    command = step(
        "rescore", "The best networks for another target or reward, without training.", rescore, "[options]", " --target-ms 3"
    )
    option(command, "--target-ms", "The default is the study's.")
    option(command, "--reward", "The default is the study's.")
    option(command, "--top", "They are printed.", default=10)
    command = step(
        "retrain", "Train the best networks fully, and score them on photos that nothing was chosen by.", retrain,
        "-o FOLDER [options]", " --top 3 -o best", "-o FOLDER",
    )  # fmt: skip
    output(command, "FOLDER", "a folder with one run for each training; the same command goes on.")
    option(command, "--target-ms", "The default is the study's.")
    option(command, "--reward", "The default is the study's.")
    option(command, "--top", "They are trained; the default is the paper's.", default=15)
    command.add_argument("--seeds", type=int, default=1, metavar="N", help="Train each network N times (default: %(default)s).")
    option(command, "--recipe", "The default is %(default)s.", default="cifar10")
    option(command, "--set")
    option(command, "--data", "The default is the study's.")
    option(command, "--size", "The default is the study's.")
    command = search.add(
        "table", "Measure a latency table of a space on a device, for --device table:FILE.", table,
        usage="-o FILE.json [options]", example="mnasnet search table --space mbconv --device host -o host.json",
        needs=("-o FILE.json",),
    )  # fmt: skip
    output(command, "FILE.json", "the table; the same command goes on with it.")
    option(command, "--space", default="mbconv")
    option(command, "--space-set")
    option(command, "--device", "The default is %(default)s.", default="host")
    option(command, "--size", "The default is %(default)s.", default=224)
    option(command, "--classes")
    command.add_argument(
        "--check-networks", type=int, default=16, metavar="N",
        help="Scale and check the table with N whole networks (default: %(default)s).",
    )  # fmt: skip
    options(command, "--runs", "--core", "--mask", "--benchmark-model")
    command = step(
        "export-optuna", "Write the study for Optuna and its dashboard.", export_optuna, "-o FILE.db [options]", " -o mine.db",
        "-o FILE.db",
    )  # fmt: skip
    output(command, "FILE.db", "a new SQLite file, sqlite:///FILE.db for Optuna.")
    command.add_argument(
        "--objectives", type=one_of("reward", "pareto"), default="reward", metavar="reward|pareto",
        help="Write one objective, the reward (default), or two, accuracy and latency.",
    )  # fmt: skip


def _run_options(command: Parser) -> None:
    space = command.add_argument_group("what is searched")
    options(space, "--space", "--space-set")
    for name, what in (("params", "parameters"), ("madds", "multiply-adds")):
        space.add_argument(f"--max-{name}", type=int, metavar="N", help=f"Try no network with more {what}.")
    space.add_argument("--max-latency-ms", type=float, metavar="MS", help="Try no slower network; not with host and adb.")
    goal = command.add_argument_group("the goal")
    option(goal, "--target-ms")
    option(goal, "--reward", "The default is soft.")
    option(goal, "--device", "table:FILE, pixel1, madds and chains of them estimate it (default: host).")
    options(goal, "--core", "--mask", "--benchmark-model")
    data = command.add_argument_group("trainings")
    option(data, "--data")
    data.add_argument(
        "--training-photos", type=int, metavar="N", help="Train on N photos, evenly over the classes (default: all)."
    )
    data.add_argument(
        "--validation-photos", type=int, metavar="N", help="Hold N photos out of training, to choose by (default: a tenth)."
    )
    option(data, "--recipe", "The default is proxy-5-epochs.")
    option(data, "--set")
    option(data, "--size", "The default is the recipe's, else 224.")
    how = command.add_argument_group("the search")
    how.add_argument("--algorithm", metavar="NAME", help="Search by thompson (default), ppo, evolution or random.")
    how.add_argument(
        "--algorithm-set", action="append", default=[], metavar="KEY=VALUE",
        help="Change a value of the algorithm, as preset=tuned of ppo; may be repeated.",
    )  # fmt: skip
    option(how, "--seed")
    how.add_argument("--trials", type=int, metavar="N", help="Train N networks, those of earlier runs included (default: 200).")
    how.add_argument(
        "--minutes", type=float, metavar="N", help="Start no trial after so many minutes; the same command goes on."
    )
    how.add_argument("--timeout", type=float, metavar="SECONDS", help="Give up a trial that takes longer (default: no limit).")
    how.add_argument(
        "--order", type=one_of("batch", "window", "completion"), metavar="batch|window|completion",
        help="Let results count all of a batch at once (default of ppo), one by one by number (default: window), or as they "
        "finish, which is faster where trials differ in length, and not repeatable.",
    )  # fmt: skip
    how.add_argument("--batch-trials", type=int, metavar="N", help="Have N trials out at a time (default: --workers; ppo 20).")
    how.add_argument("--estimate-only", action="store_true", help="Print what the search would take, and stop.")
    how.add_argument("--no-estimate", dest="estimate", action="store_false", help="Start without measuring what it would take.")
    where = command.add_argument_group("workers")
    where.add_argument("--workers", type=int, metavar="N", help="Train N trials at a time (default: 1).")
    where.add_argument(
        "--executor", type=one_of("pool", "local", "ray"), metavar="pool|local|ray",
        help="Train in processes on this machine (default: pool), in this process, or in a Ray cluster.",
    )  # fmt: skip
    where.add_argument(
        "--ray-address", metavar="ADDRESS", help="Find Ray at auto, HOST:PORT or ray://HOST:PORT (default: Ray starts here)."
    )
    where.add_argument(
        "--cpus", type=float, default=1.0, metavar="N", help="Give a worker of Ray N CPUs (default: %(default)s)."
    )
    where.add_argument(
        "--gpus", type=float, default=0.0, metavar="N", help="Give a worker of Ray N GPUs (default: %(default)s)."
    )


def run(arguments: argparse.Namespace) -> int:
    """Start a search, or go on with one."""
    from keras_mnasnet import search

    go_on = f"mnasnet search run --study {shlex.quote(str(arguments.study))}"
    last = None
    try:
        for progress in search.run(
            **{name: getattr(arguments, name) for name in AS_THEY_ARE}, space_options=_values(arguments.space_set),
            images=arguments.training_photos, validation_images=arguments.validation_photos, batch=arguments.batch_trials,
            algorithm_options=_values(arguments.algorithm_set), device_options=_device(arguments), recipe=_recipe(arguments),
            estimate="only" if arguments.estimate_only else arguments.estimate,
            progress=not arguments.json,
        ):  # fmt: skip
            last = progress
    except KeyboardInterrupt:
        print(f"\nstopped; everything finished is kept. Go on with: {go_on}", file=sys.stderr)
        return 130
    if last is not None and arguments.estimate_only:
        print_json({"estimate": last.estimate}) if arguments.json else print(f"estimate: {last.estimate}")
        return 0
    progress = search.status(arguments.study).progress
    if arguments.json:
        print_json({"study": str(arguments.study), "finished": progress.finished, **progress.to_json()})
        return 0
    _print_best(search.rescore(arguments.study).ranked[:5] if progress.done else [])
    if not progress.finished:
        print(f"the {arguments.minutes:g} minutes are over; go on with: {go_on}")
    else:
        print(f"report: mnasnet search report --study {shlex.quote(str(arguments.study))}")
    return 0


def status(arguments: argparse.Namespace) -> None:
    """How far a study is."""
    from keras_mnasnet import search

    found = search.status(arguments.study)
    if arguments.json:
        return print_json(found.to_json())
    meta, progress = found.meta, found.progress
    reward = search.Reward.from_json(meta.reward)
    print(f"{meta.algorithm} in {meta.space} {meta.space_options or ''}, {reward}, on {meta.device}")
    if found.owner:
        print(f"written by process {found.owner['pid']} on {found.owner['host']} since {found.owner['since']}")
    print(progress.line())
    if progress.phases:
        print("\nseconds of a trial, on average")
        print_table(("phase", "s"), [(name, round(seconds, 3)) for name, seconds in progress.phases.items()])
        print(f"fixed, beyond its training steps: {progress.fixed_seconds or 0:.2f} s")
    for each in found.failures[-10:]:
        print(f"trial {each.trial}, attempt {each.attempt} on {each.worker} failed: {each.failure}")
    return None


def rescore(arguments: argparse.Namespace) -> None:
    """The best networks under another reward."""
    from keras_mnasnet import search

    found = search.rescore(arguments.study, target_ms=arguments.target_ms, reward=arguments.reward)
    if arguments.json:
        return print_json(found.to_json(arguments.top))
    print(f"{len(found.ranked):,} networks by {found.reward}; the study's own reward is {found.own}")
    return _print_best(found.ranked[: arguments.top])


def retrain(arguments: argparse.Namespace) -> int:
    """Train the best networks fully, and score them."""
    from keras_mnasnet import search

    try:
        found = search.retrain(
            arguments.study, arguments.output, target_ms=arguments.target_ms, reward=arguments.reward, top=arguments.top,
            recipe=_recipe(arguments) or "cifar10", seeds=arguments.seeds, data=arguments.data, size=arguments.size,
            progress=not arguments.json,
        )  # fmt: skip
    except KeyboardInterrupt:
        print(f"\nstopped; go on with the same command: {shlex.join(sys.argv)}", file=sys.stderr)
        return 130
    best = sorted(found, key=lambda each: -each.reward)
    results = Path(arguments.output).expanduser().absolute() / "results.json"
    if arguments.json:
        print_json({"results": str(results), "networks": [each.to_json() for each in best]})
        return 0
    print_table(
        ("trial", "test %", "proxy %", "ms", "reward", "run"),
        [
            (
                each.trial.number, _percent(each.test_accuracy), _percent(each.trial.accuracy), _ms(each.trial.latency_ms),
                round(each.reward, 4), each.folders[0],
            )
            for each in best
        ],
    )  # fmt: skip
    print(f"wrote {results}; export one with: mnasnet export RUN -o FILE.tflite")
    return 0


def report(arguments: argparse.Namespace) -> None:
    """Write the page, and print the best networks."""
    from keras_mnasnet import search

    found = search.report(
        arguments.study, arguments.output, top=arguments.top, landmarks=arguments.landmarks, pictures=arguments.pictures,
        progress=not arguments.json,
    )  # fmt: skip
    if arguments.json:
        return print_json(found.to_json() | {"files": {name: str(file) for name, file in found.files.items()}})
    print(f"{found.name}: {len(found.done):,} networks, {len(found.front)} on the front; reward {found.reward}\n")
    _print_best([(best.trial.reward or 0.0, best.trial) for best in found.best], lines=False)
    if found.best[0].call:
        print(f"\n{found.best[0].call}")
    if found.landmark_note:
        print(f"\n{found.landmark_note}")
    for file in found.files.values():
        print(f"wrote {file}")
    return None


def table(arguments: argparse.Namespace) -> int:
    """Measure, write, and print the error of the sum of rows against whole networks."""
    from keras_mnasnet import search

    try:
        value = search.build_table(
            arguments.output, space=arguments.space, space_options=_values(arguments.space_set), device=arguments.device,
            device_options=_device(arguments), size=arguments.size, classes=arguments.classes,
            networks=arguments.check_networks, runs=arguments.runs, progress=not arguments.json,
        )  # fmt: skip
    except KeyboardInterrupt:
        print(f"\ninterrupted; what is measured is kept. Go on with: mnasnet {shlex.join(sys.argv[1:])}", file=sys.stderr)
        return 130
    if arguments.json:
        print_json(value)
        return 0
    check = value["check"]
    print_table(
        ("whole network", "for", "measured ms", "scaled sum ms", "off %"),
        [
            (
                row["network"].partition("[")[0], row["use"], _ms(row["measured_ms"]), _ms(value["scale"] * row["sum_ms"]),
                round(100 * (value["scale"] * row["sum_ms"] / row["measured_ms"] - 1), 2),
            )
            for row in check["networks"]
        ],
    )  # fmt: skip
    print(
        f"\nthe sum of rows is {check['percent_off_unscaled']:.2f} % off; times {value['scale']:.3f}, set on the networks for "
        f"`scale`, it is {check['percent_off']:.2f} % off those for `check`, at most {check['percent_off_max']:.2f} %"
    )
    print(f"wrote {arguments.output}: {len(value['ms']):,} rows. Use it with --device table:{arguments.output}")
    return 0


def export_optuna(arguments: argparse.Namespace) -> None:
    """Write the study for Optuna."""
    from keras_mnasnet import search

    count = search.export_optuna(arguments.study, arguments.output, objectives=arguments.objectives)
    if arguments.json:
        return print_json({"output": arguments.output, "trials": count})
    return print(f"wrote {count} trials to {arguments.output}; see them with: optuna-dashboard sqlite:///{arguments.output}")


def _print_best(found: Sequence[tuple[float, Trial]], *, lines: bool = True) -> None:
    """A table of networks, and the line that builds each."""
    rows = []
    for reward, trial in found:
        sizes = [None if count is None else round(count / 1e6, 3) for count in (trial.params, trial.madds)]
        rows.append((trial.number, _percent(trial.accuracy), _ms(trial.latency_ms), round(reward, 4), *sizes))
    print_table(("trial", "accuracy %", "ms", "reward", "params (M)", "MAdds (M)"), rows)
    for _, trial in found if lines else ():
        if trial.architecture:
            print(f'trial {trial.number}: MnasNet("{trial.architecture}")')


def _percent(accuracy: float | None) -> float:
    return round(100 * (accuracy or 0), 2)


def _ms(latency_ms: float | None) -> float | None:
    return None if latency_ms is None else float(f"{latency_ms:.4g}")


def _values(stated: list[str]) -> dict[str, Any] | None:
    from keras_mnasnet.training.recipe import parse_values

    return parse_values(stated) if stated else None


def _recipe(arguments: argparse.Namespace) -> Any:
    """The recipe with its changes; None where neither is stated."""
    from keras_mnasnet.training.recipe import parse_recipe

    if not arguments.recipe and not arguments.set:
        return None
    return parse_recipe(arguments.recipe or "proxy-5-epochs").changed(**(_values(arguments.set) or {}))


def _device(arguments: argparse.Namespace) -> dict[str, Any] | None:
    given = {name: getattr(arguments, name) for name in ("core", "mask", "benchmark_model")}
    return {name: value for name, value in given.items() if value is not None} or None
