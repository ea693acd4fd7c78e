"""`mnasnet search`: run a search, and what is done with the study that it leaves."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_mnasnet.cli.options import given, option, options, output, own
from keras_mnasnet.cli.output import percent, print_columns, print_json, print_table, significant
from keras_mnasnet.cli.parsing import Parser

if TYPE_CHECKING:
    from keras_mnasnet.search import Reward, Trial

AS_THEY_ARE = (
    "data", "study", "space", "device", "target_ms", "reward", "algorithm", "max_params", "max_madds", "max_latency_ms", "size",
    "seed", "trials", "workers", "executor", "ray_address", "cpus", "gpus", "order", "timeout", "minutes",
    "table_noise", "rungs", "keep", "inherit",
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
    own(
        command, "--landmarks", "latency|train|none",
        "Measure the latency of A1, B1 and MobileNetV2 as the study does (default), also train them, or show none.",
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
    own(command, "--seeds", "N", "Train each network N times (default: 1).")
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
    own(command, "--check-networks", "N", "Scale and check the table with N whole networks (default: 16).")
    options(command, "--runs", "--core", "--mask", "--benchmark-model")
    command = step(
        "export-optuna", "Write the study for Optuna and its dashboard.", export_optuna, "-o FILE.db [options]", " -o mine.db",
        "-o FILE.db",
    )  # fmt: skip
    output(command, "FILE.db", "a new SQLite file, sqlite:///FILE.db for Optuna.")
    own(
        command, "--objectives", "reward|pareto", "Write one objective, the reward (default), or two, accuracy and latency.",
        default="reward",
    )  # fmt: skip


def _run_options(command: Parser) -> None:
    space = command.add_argument_group("what is searched")
    options(space, "--space", "--space-set")
    own(space, "--max-params", "N", "Try no network with more parameters.")
    own(space, "--max-madds", "N", "Try no network with more multiply-adds.")
    own(space, "--max-latency-ms", "MS", "Try no slower network; not with host and adb.", type=float)
    goal = command.add_argument_group("the goal")
    option(goal, "--target-ms")
    option(goal, "--reward", "The default is soft.")
    option(goal, "--device", "table:FILE, pixel1, madds and chains of them estimate it (default: host).")
    options(goal, "--core", "--mask", "--benchmark-model")
    data = command.add_argument_group("trainings")
    option(data, "--data")
    own(data, "--training-photos", "N", "Train on N photos, evenly over the classes (default: all).")
    own(data, "--validation-photos", "N", "Hold N photos out of training, to choose by (default: a tenth).")
    own(
        data, "--table-noise", "POINTS",
        "With --data accel-nasbench:FILE, whose ImageNet trainings predict accuracies: add noise as of one training (default: "
        "0.15).",
        type=float,
    )  # fmt: skip
    option(data, "--recipe", "The default is proxy-5-epochs.")
    option(data, "--set")
    option(data, "--size", "The default is the recipe's, else 224.")
    own(
        data, "--rungs", "EPOCHS",
        "Measure networks after so many epochs, as 1,2,5 of a recipe of 5 (or shares, as 0.2,1); the best go on to the next.",
    )  # fmt: skip
    own(data, "--keep", "SHARE", "Let this share of the networks of a rung go on (default: 1/3).")
    own(
        data, "--inherit", "MODEL|best",
        "Begin with what fits of the weights of a trained model, or of the best network so far.", type=str,
    )  # fmt: skip
    how = command.add_argument_group("the search")
    own(how, "--algorithm", "NAME", "Search by thompson (default), ppo, evolution, local-search or random.")
    own(
        how, "--algorithm-set", "KEY=VALUE", "Change a value of the algorithm, as preset=tuned of ppo; may be repeated.",
        action="append", default=[],
    )  # fmt: skip
    own(
        how, "--screen", "SCREEN",
        "Choose before training: measure:16 by the measured latency of 16 proposals, relu-units:quarter the start among those "
        "with many ReLUs, module:function:quarter by a function of your own (repeatable).", action="append", default=None,
    )  # fmt: skip
    option(how, "--seed")
    own(how, "--trials", "N", "Train N networks, those of earlier runs included (default: 200).")
    own(how, "--minutes", "N", "Start no trial after so many minutes; the same command goes on.", type=float)
    own(how, "--timeout", "SECONDS", "Give up a trial that takes longer (default: no limit).", type=float)
    own(
        how, "--order", "batch|window|completion",
        "Let results count all of a batch at once (default of ppo), one by one by number (default: window), or as they finish, "
        "which is faster where trials differ in length, and not repeatable.",
    )  # fmt: skip
    own(how, "--batch-trials", "N", "Have N trials out at a time (default: two or three for each worker; ppo 20).")
    how.add_argument("--estimate-only", action="store_true", help="Print what the search would take, and stop.")
    how.add_argument("--no-estimate", dest="estimate", action="store_false", help="Start without measuring what it would take.")
    where = command.add_argument_group("workers")
    own(where, "--workers", "N", "Train N trials at a time (default: 1).")
    own(
        where, "--executor", "pool|local|ray",
        "Train in processes on this machine (default: pool), in this process, or in a Ray cluster.",
    )  # fmt: skip
    own(where, "--ray-address", "ADDRESS", "Find Ray at auto, HOST:PORT or ray://HOST:PORT (default: Ray starts here).")
    own(where, "--cpus", "N", "Give a worker of Ray N CPUs (default: %(default)s).", type=float, default=1.0)
    own(
        where, "--gpus", "N",
        "Give each worker N of a GPU, 0 to 1 (default: 1 where there are any); with 0.5 two share one, 0 trains on CPUs.",
        type=float,
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Start a search, or go on with one."""
    from keras_mnasnet import search

    go_on = f"mnasnet search run --study {shlex.quote(str(arguments.study))}{_named(arguments)}"
    last = None
    try:
        for progress in search.run(
            device_options=_device(arguments), recipe=_recipe(arguments),
            **given(
                arguments, *AS_THEY_ARE, space_options="space_set", algorithm_options="algorithm_set", images="training_photos",
                validation_images="validation_photos", batch="batch_trials", screens="screen",
            )
            | {"estimate": "only" if arguments.estimate_only else arguments.estimate},
        ):  # fmt: skip
            last = progress
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; everything finished is kept. Go on with: {go_on}") from None
    if last is not None and arguments.estimate_only:
        return print_json({"estimate": last.estimate}) if arguments.json else print(f"estimate: {last.estimate}")
    progress = search.status(arguments.study).progress
    if arguments.json:
        facts = search.status(arguments.study).meta.evaluation
        read = facts.get("read") or facts.get("table")
        return print_json({"study": str(arguments.study), "finished": progress.finished, "data": read, **progress.to_json()})
    _print_best(search.rescore(arguments.study).ranked[:5] if progress.done else [])
    _say_predicted(arguments.study)
    if not progress.finished:
        print(f"the {arguments.minutes:g} minutes are over; go on with: {go_on}")
    else:
        print(f"report: mnasnet search report --study {shlex.quote(str(arguments.study))}")
    return None


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
    _print_best(found.ranked[: arguments.top])
    _print_within(found.reward, found.at_target)
    if found.warning:
        print(f"warning: {found.warning}")
    _say_predicted(arguments.study)
    return None


def retrain(arguments: argparse.Namespace) -> None:
    """Train the best networks fully, and score them."""
    from keras_mnasnet import search

    try:
        found = search.retrain(
            arguments.study, arguments.output, recipe=_recipe(arguments) or "cifar10",
            **given(arguments, "target_ms", "reward", "top", "seeds", "data", "size"),
        )  # fmt: skip
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; go on with the same command: mnasnet {shlex.join(sys.argv[1:])}") from None
    best = sorted(found, key=lambda each: -each.reward)
    results = Path(arguments.output).expanduser().absolute() / "results.json"
    if arguments.json:
        return print_json({"results": str(results), "networks": [each.to_json() for each in best]})
    print_columns(
        best,
        {
            "trial": lambda each: each.trial.number, "test %": lambda each: percent(each.test_accuracy or 0),
            "proxy %": lambda each: percent(each.trial.accuracy or 0), "ms": lambda each: significant(each.trial.latency_ms),
            "reward": lambda each: round(each.reward, 4), "run": lambda each: each.folders[0],
        },
    )  # fmt: skip
    if len(best) > 1:
        print("best first by these photos: the first is better on them than it will be on others, because they chose it")
    return print(f"wrote {results}; export one with: mnasnet export RUN -o FILE.tflite")


def report(arguments: argparse.Namespace) -> None:
    """Write the page, and print the best networks."""
    from keras_mnasnet import search

    found = search.report(arguments.study, arguments.output, **given(arguments, "top", "landmarks", "pictures"))
    if arguments.json:
        return print_json(found.to_json() | {"files": {name: str(file) for name, file in found.files.items()}})
    print(f"{found.name}: {len(found.done):,} networks, {len(found.front)} on the front; reward {found.reward}\n")
    _print_best([(best.trial.reward or 0.0, best.trial) for best in found.best], lines=False)
    photos = " --data PHOTOS" if _say_predicted(arguments.study) else ""
    if found.best[0].call:
        print(f"\n{found.best[0].call}")
    for name, tau in found.screens.items():
        print(
            f"screen {name}: {'too few results to judge it by' if tau is None else f'Kendall tau {tau:.2f} with the rewards'}"
        )
    _print_within(found.reward, None if found.at_target is None else found.at_target.trial)
    if found.landmark_note:
        print(f"\n{found.landmark_note}")
    for file in found.files.values():
        print(f"wrote {file}")
    return print(f"train the best fully: mnasnet search retrain --study {shlex.quote(str(arguments.study))}{photos} -o FOLDER")


def table(arguments: argparse.Namespace) -> None:
    """Measure, write, and print the error of the sum of rows against whole networks."""
    from keras_mnasnet import search

    try:
        value = search.build_table(
            arguments.output, device_options=_device(arguments),
            **given(
                arguments, "space", "device", "size", "classes", "runs", space_options="space_set", networks="check_networks"
            ),
        )  # fmt: skip
    except KeyboardInterrupt:
        said = f"stopped; what is measured is kept. Go on with: mnasnet {shlex.join(sys.argv[1:])}"
        raise KeyboardInterrupt(said) from None
    if arguments.json:
        return print_json(value)
    check = value["check"]
    print_columns(
        check["networks"],
        {
            "whole network": lambda row: row["network"].partition("[")[0], "for": lambda row: row["use"],
            "measured ms": lambda row: significant(row["measured_ms"]),
            "scaled sum ms": lambda row: significant(value["scale"] * row["sum_ms"]),
            "off %": lambda row: round(100 * (value["scale"] * row["sum_ms"] / row["measured_ms"] - 1), 2),
        },
    )  # fmt: skip
    print(
        f"\nthe sum of rows is {check['percent_off_unscaled']:.2f} % off; times {value['scale']:.3f}, set on the networks for "
        f"`scale`, it is {check['percent_off']:.2f} % off those for `check`, at most {check['percent_off_max']:.2f} %"
    )
    return print(f"wrote {arguments.output}: {len(value['ms']):,} rows. Use it with --device table:{arguments.output}")


def export_optuna(arguments: argparse.Namespace) -> None:
    """Write the study for Optuna."""
    from keras_mnasnet import search

    count = search.export_optuna(arguments.study, arguments.output, objectives=arguments.objectives)
    if arguments.json:
        return print_json({"output": arguments.output, "trials": count})
    return print(f"wrote {count} trials to {arguments.output}; see them with: optuna-dashboard sqlite:///{arguments.output}")


def _print_best(found: Sequence[tuple[float, Trial]], *, lines: bool = True) -> None:
    """A table of networks, and the line that builds each."""
    print_columns(
        found,
        {
            "trial": lambda row: row[1].number, "accuracy %": lambda row: percent(row[1].accuracy or 0),
            "ms": lambda row: significant(row[1].latency_ms), "reward": lambda row: round(row[0], 4),
            "params (M)": lambda row: _millions(row[1].params), "MAdds (M)": lambda row: _millions(row[1].madds),
        },
    )  # fmt: skip
    for _, trial in found if lines else ():
        if trial.architecture:
            print(f'trial {trial.number}: MnasNet("{trial.architecture}")')


def _print_within(reward: Reward, found: Trial | None) -> None:
    """The most accurate network within the target, where the reward has one."""
    if reward.uses_latency:
        said = "none" if found is None else f"trial {found.number}, {percent(found.accuracy or 0)} %, {found.latency_ms:.4g} ms"
        print(f"\nmost accurate within {reward.target_ms:g} ms: {said}")


def _say_predicted(study: str) -> bool:
    """A line where no network of a study was trained; whether that is so."""
    from keras_mnasnet.search import Study

    with Study.open(study, read_only=True) as opened:
        evaluation = opened.meta.evaluation
    if evaluation.get("table"):
        print(f"none of these networks was trained: {evaluation.get('photos')}")
    return bool(evaluation.get("table"))


def _millions(count: int | None) -> float | None:
    return None if count is None else round(count / 1e6, 3)


def _named(arguments: argparse.Namespace) -> str:
    """The options that are never taken from a study, as they were given."""
    found = ["--space", arguments.space] if arguments.space and ":" in arguments.space else []
    found += [f"--space-set={pair}" for pair in arguments.space_set] if found else []
    own = [text for text in arguments.screen or () if text.partition(":")[0] not in ("measure", "relu-units")]
    found += [f"--screen={text}" for text in arguments.screen or ()] if own else []
    for name, value in (("--benchmark-model", arguments.benchmark_model), ("--ray-address", arguments.ray_address)):
        found += [name, str(value)] if value else []
    return "".join(f" {shlex.quote(each)}" for each in found)


def _recipe(arguments: argparse.Namespace) -> Any:
    """The recipe with its changes; None where neither is stated."""
    from keras_mnasnet.training.recipe import parse_values, recipe_of

    if not arguments.recipe and not arguments.set:
        return None
    return recipe_of(arguments.recipe or "proxy-5-epochs", parse_values(arguments.set))


def _device(arguments: argparse.Namespace) -> dict[str, Any] | None:
    given = {name: getattr(arguments, name) for name in ("core", "mask", "benchmark_model")}
    return {name: value for name, value in given.items() if value is not None} or None
