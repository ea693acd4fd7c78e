"""`mnasnet search`: run a search, and what is done with the study that it leaves."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from keras_mnasnet.cli.interrupts import Interrupts
from keras_mnasnet.cli.options import option, options, output
from keras_mnasnet.cli.output import print_json, print_table
from keras_mnasnet.cli.parsing import Parser, one_of
from keras_mnasnet.utils.system import held_stderr

if TYPE_CHECKING:
    from keras_mnasnet.search.engine import Order
    from keras_mnasnet.search.latency import Meter
    from keras_mnasnet.search.progress import Progress
    from keras_mnasnet.search.rewards import Reward
    from keras_mnasnet.search.study import Study
    from keras_mnasnet.search.trials import StudyMeta, Trial

__all__ = ["add_commands"]

PLAN = {"trials": 200, "workers": 1, "executor": "local", "ray_address": None}
IDENTITY = (
    "space", "space_set", "data", "target_ms", "device", "reward", "algorithm", "algorithm_set", "recipe", "set", "size",
    "training_photos", "validation_photos", "max_params", "max_madds", "max_latency_ms", "seed", "core", "mask",
    "benchmark_model",
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
        "--executor", type=one_of("local", "inline", "ray"), metavar="local|inline|ray",
        help="Train in processes on this machine (default: local), in this process, or in a Ray cluster.",
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
    from keras_mnasnet.search.progress import progress_of
    from keras_mnasnet.search.rewards import Reward
    from keras_mnasnet.search.setup import check_target, model_of, space_of
    from keras_mnasnet.search.study import Study

    path = Path(arguments.study).expanduser()
    if path.exists():
        with Study.open(path, read_only=True) as study:
            meta, plan = _wanted(arguments, study.meta), {**PLAN, **study.plan()}
            study.require(meta)
    else:
        meta, plan = _wanted(arguments, None), dict(PLAN)
    plan |= {key: value for key in PLAN if (value := getattr(arguments, key)) is not None}
    if plan["trials"] < 1 or plan["workers"] < 1:
        raise ValueError(
            f"`trials` and `workers` must be 1 or more. Received: trials={plan['trials']}, workers={plan['workers']}"
        )
    order = _order(arguments, meta, plan["workers"], path.exists())
    meta = dataclasses.replace(meta, order=dataclasses.asdict(order))
    shown = not arguments.json
    space = space_of(meta)
    if not path.exists():
        check_target(space, Reward.from_json(meta.reward), model_of(meta), **_shape(meta))
    if arguments.estimate_only:
        return _only_estimate(path, meta, plan, arguments)
    begun = not path.exists()
    with Study.at(path, meta) as study, _kept_unless_empty(study, begun):
        with study.transaction() as writer:
            writer.plan(plan)
        go_on = f"mnasnet search run --study {shlex.quote(str(arguments.study))}"
        try:
            whole = _run(study, meta, plan, order, arguments, shown)
        except KeyboardInterrupt:
            print(f"\nstopped; everything finished is kept. Go on with: {go_on}", file=sys.stderr)
            return 130
        progress = progress_of(study.trials(), planned=plan["trials"], workers=plan["workers"])
        if arguments.json:
            print_json({"study": str(path), "finished": whole, **progress.to_json()})
            return 0
        _print_best(study.trials())
        if not whole:
            print(f"the {arguments.minutes:g} minutes are over; go on with: {go_on}")
        else:
            print(f"report: mnasnet search report --study {shlex.quote(str(arguments.study))}")
    return 0


def status(arguments: argparse.Namespace) -> None:
    """How far a study is."""
    from keras_mnasnet.search.progress import progress_of
    from keras_mnasnet.search.rewards import Reward
    from keras_mnasnet.search.study import Study

    with Study.open(arguments.study, read_only=True) as study:
        meta, plan, trials, owner = study.meta, study.plan(), study.trials(), study.owner()
        failures = [m for m in study.measurements() if m.result.failure]
    plan = {**PLAN, "trials": len(trials), **plan}
    progress = progress_of(trials, planned=plan["trials"], workers=plan["workers"])
    failed = [{"trial": m.trial, "attempt": m.attempt, "worker": m.worker, "reason": _reason(m)} for m in failures]
    if arguments.json:
        facts = {
            "space": meta.space,
            "algorithm": meta.algorithm,
            "reward": meta.reward,
            "device": meta.device,
            "seed": meta.seed,
        }
        return print_json(
            {"study": arguments.study, **facts, "plan": plan, "owner": owner, **progress.to_json(), "failures": failed}
        )
    print(f"{meta.algorithm} in {meta.space} {meta.space_options or ''}, {Reward.from_json(meta.reward)}, on {meta.device}")
    if owner:
        print(f"written by process {owner['pid']} on {owner['host']} since {owner['since']}")
    print(_line(progress, plan["trials"]))
    if progress.phases:
        print("\nseconds of a trial, on average")
        print_table(("phase", "s"), [(name, round(seconds, 3)) for name, seconds in progress.phases.items()])
        print(f"fixed, beyond its training steps: {progress.fixed_seconds or 0:.2f} s")
    for failure in failed[-10:]:
        print(f"trial {failure['trial']}, attempt {failure['attempt']} on {failure['worker']} failed: {failure['reason']}")
    return None


@contextlib.contextmanager
def _kept_unless_empty(study: Study, begun: bool) -> Iterator[None]:
    """A study begun here that fails before its first trial, as without its cluster, leaves no file."""
    try:
        yield
    except Exception:
        if begun and not study.count():
            study.close()
            study.path.unlink()
        raise


def _wanted(arguments: argparse.Namespace, known: StudyMeta | None) -> StudyMeta:
    """What the arguments ask for, the rest as in the study, or as usual."""
    from keras_mnasnet.search.setup import default_order, make_meta

    if known is not None and all(getattr(arguments, key) in (None, []) for key in IDENTITY):
        return known
    with held_stderr():
        from keras_mnasnet.training.recipe import parse_recipe, parse_values, recipe_from_json, recipe_to_json
    own = known.evaluation if known else {}
    space = arguments.space or (known.space if known else "mbconv")
    same_space = known is not None and space == known.space
    space_options = parse_values(arguments.space_set) if arguments.space_set or not same_space else known.space_options  # type: ignore[union-attr]
    algorithm = arguments.algorithm or (known.algorithm if known else "thompson")
    same_algorithm = known is not None and algorithm == known.algorithm
    algorithm_options = (
        parse_values(arguments.algorithm_set) if arguments.algorithm_set or not same_algorithm else known.algorithm_options  # type: ignore[union-attr]
    )
    if arguments.recipe or arguments.set or known is None or known.recipe is None:
        recipe = parse_recipe(arguments.recipe or "proxy-5-epochs").changed(**parse_values(arguments.set))
    else:
        recipe = recipe_from_json(known.recipe)
    data = arguments.data or (known.data if known else None)
    if data is None:
        raise ValueError("A search needs images to train on. Received: no --data (a folder of <class>/*.jpg, cifar10, shapes)")
    from keras_mnasnet.search.evaluator import located

    evaluation: dict[str, Any] = {
        "resolution": arguments.size or own.get("resolution") or recipe.size or 224,
        "images": arguments.training_photos or own.get("images"),
        "validation_images": arguments.validation_photos or own.get("validation_images"),
    }
    given = {"core": arguments.core, "mask": arguments.mask, "benchmark_model": arguments.benchmark_model}
    evaluation["device_options"] = {k: v for k, v in given.items() if v is not None} or own.get("device_options", {})
    limits = {key: getattr(arguments, key) for key in ("max_params", "max_madds", "max_latency_ms")}
    evaluation["limits"] = {k: v for k, v in limits.items() if v is not None} or own.get("limits", {})
    where = located(data)
    if known is not None and where == known.data:
        evaluation |= {key: own[key] for key in ("classes", "train_images")}
    else:
        evaluation |= _data_facts(where, evaluation)
    return make_meta(
        space, space_options=space_options, algorithm=algorithm, algorithm_options=algorithm_options,
        reward=_reward(arguments, known), seed=_first(arguments.seed, known and known.seed, 0),
        order=default_order(algorithm, 1), device=arguments.device or (known.device if known else "host"), data=where,
        recipe=recipe_to_json(recipe), evaluation=evaluation,
    )  # fmt: skip


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _reward(arguments: argparse.Namespace, known: StudyMeta | None) -> Reward:
    from keras_mnasnet.search.rewards import Reward, parse_reward

    if known is not None and arguments.reward is None:
        stored = Reward.from_json(known.reward)
        return stored if arguments.target_ms is None else dataclasses.replace(stored, target_ms=arguments.target_ms)
    target = _first(arguments.target_ms, known and Reward.from_json(known.reward).target_ms)
    return parse_reward(arguments.reward or "soft", target)


def _data_facts(where: str, evaluation: dict[str, Any]) -> dict[str, int]:
    """Classes and training images; ValueError for data that cannot be searched with."""
    with held_stderr():
        import tensorflow  # noqa: F401

    from keras_mnasnet.search.evaluator import open_search_images

    images = open_search_images(where, images=evaluation["images"], validation_images=evaluation["validation_images"])
    return {"classes": images.classes, "train_images": images.train.count}


def _order(arguments: argparse.Namespace, meta: StudyMeta, workers: int, goes_on: bool) -> Order:
    from keras_mnasnet.search.engine import Order
    from keras_mnasnet.search.setup import default_order

    usual = Order(**meta.order) if goes_on else default_order(meta.algorithm, workers)
    if arguments.order is None and arguments.batch_trials is None:
        if goes_on and arguments.workers is not None and usual.kind != "batch":
            return Order(usual.kind, workers)
        return usual
    kind = arguments.order or usual.kind
    return Order(kind, arguments.batch_trials or (usual.size if kind == "batch" and usual.kind == "batch" else workers))


def _shape(meta: StudyMeta) -> dict[str, int]:
    return {"resolution": meta.evaluation["resolution"], "classes": meta.evaluation["classes"]}


def _executor(evaluator: Any, plan: dict[str, Any], arguments: argparse.Namespace) -> Any:
    if plan["executor"] == "ray":
        from keras_mnasnet.search.executors.ray import RayActors

        return RayActors(
            evaluator, plan["workers"], address=plan["ray_address"], timeout=arguments.timeout, cpus=arguments.cpus,
            gpus=arguments.gpus,
        )  # fmt: skip
    if plan["executor"] == "inline":
        from keras_mnasnet.search.executors import InProcess

        if plan["workers"] != 1:
            raise ValueError(f"--executor inline has one worker, this process. Received: --workers {plan['workers']}")
        return InProcess(evaluator, timeout=arguments.timeout)
    from keras_mnasnet.search.executors.pool import ProcessPool

    return ProcessPool(evaluator, plan["workers"], timeout=arguments.timeout)


def _run(study: Study, meta: StudyMeta, plan: dict[str, Any], order: Order, arguments: argparse.Namespace, shown: bool) -> bool:
    from keras_mnasnet.search.engine import run as run_study
    from keras_mnasnet.search.progress import estimate_from, progress_of
    from keras_mnasnet.search.rewards import Reward
    from keras_mnasnet.search.setup import algorithm_of, evaluator_of, meter_of, space_of

    space = space_of(meta)
    progress = progress_of(study.trials(), planned=plan["trials"], workers=plan["workers"])
    if shown:
        print(f"{space.size:.3g} networks in {meta.space}; {Reward.from_json(meta.reward)} on {meta.device}")
        told = estimate_from(progress, trials=plan["trials"], workers=plan["workers"])
        if told is None and arguments.estimate:
            told = _estimated(meta, plan, arguments)
        if told:
            print(f"estimate: {told}", flush=True)
    meter, close = None, None
    if plan["executor"] == "ray":
        meter, close = meter_of(meta)
    executor = None
    try:
        executor = _executor(evaluator_of(meta, device=meter is None), plan, arguments)
        with Interrupts() as interrupts:
            whole = run_study(
                study, space, algorithm_of(meta, space), executor, trials=plan["trials"],
                reward=Reward.from_json(meta.reward), order=order, meter=meter,
                watch=_Watch(study, plan, interrupts, shown=shown),
                seconds=None if arguments.minutes is None else 60 * arguments.minutes,
            )  # fmt: skip
            interrupts.check()
            return whole
    finally:
        if executor is not None:
            executor.close()
        if close is not None:
            close()


def _estimated(meta: StudyMeta, plan: dict[str, Any], arguments: argparse.Namespace) -> str:
    from keras_mnasnet.search.executors.pool import ProcessPool
    from keras_mnasnet.search.progress import PROBE_STEPS, estimate
    from keras_mnasnet.search.setup import evaluator_of, space_of

    evaluator = dataclasses.replace(evaluator_of(meta), steps=PROBE_STEPS)
    probe = ProcessPool(evaluator, 1, timeout=arguments.timeout)
    try:
        found = estimate(
            space_of(meta), evaluator, probe, trials=plan["trials"], train_images=meta.evaluation["train_images"],
            classes=meta.evaluation["classes"],
        )  # fmt: skip
    finally:
        probe.close()
    return str(dataclasses.replace(found, workers=plan["workers"]))


def _only_estimate(path: Path, meta: StudyMeta, plan: dict[str, Any], arguments: argparse.Namespace) -> int:
    from keras_mnasnet.search.progress import estimate_from, progress_of
    from keras_mnasnet.search.study import Study

    text = None
    if path.exists():
        with Study.open(path, read_only=True) as study:
            progress = progress_of(study.trials(), planned=plan["trials"], workers=plan["workers"])
        text = estimate_from(progress, trials=plan["trials"], workers=plan["workers"])
    text = text or _estimated(meta, plan, arguments)
    print_json({"estimate": text}) if arguments.json else print(f"estimate: {text}")
    return 0


class _Watch:
    """One line for each finished trial, if it is shown; on a terminal it stays in place."""

    def __init__(self, study: Study, plan: dict[str, Any], interrupts: Interrupts, *, shown: bool) -> None:
        self.study, self.plan, self.interrupts, self.shown = study, plan, interrupts, shown
        self.last = 0.0

    def __call__(self, trial: Trial) -> None:
        from keras_mnasnet.search.progress import progress_of

        self.interrupts.check()
        terminal = sys.stderr.isatty()
        if not self.shown or (terminal and time.monotonic() - self.last < 0.2):
            return
        self.last = time.monotonic()
        progress = progress_of(self.study.trials(), planned=self.plan["trials"], workers=self.plan["workers"])
        if trial.status == "failed":
            text = f"trial {trial.number} failed ({trial.reason})"
        else:
            text = f"trial {trial.number}: {_measures(trial)}"
        line = f"{text} | {_line(progress, self.plan['trials'])}"
        print(f"\r\x1b[K{line}" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)


def _line(progress: Progress, planned: int) -> str:
    from keras_mnasnet.search.progress import shown_time

    parts = [f"{progress.done} of {planned} done"]
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    if progress.best is not None:
        parts.append(f"best {_measures(progress.best)} (trial {progress.best.number})")
    parts.append(f"front {progress.front}")
    if progress.trials_per_hour is not None:
        parts.append(f"{progress.trials_per_hour:.0f} trials/h")
    if progress.hours_left is not None:
        parts.append(f"{shown_time(progress.hours_left)} left")
    if progress.fixed_seconds is not None:
        parts.append(f"{progress.trial_seconds or 0:.1f} s a trial, {progress.fixed_seconds:.1f} s of it fixed")
    return ", ".join(parts)


def _measures(trial: Trial) -> str:
    latency = "" if trial.latency_ms is None else f", {trial.latency_ms:.4g} ms"
    return f"{100 * (trial.accuracy or 0):.2f} %{latency}, reward {trial.reward or 0:.4f}"


def _reason(measurement: Any) -> str:
    failure = measurement.result.failure
    return f"{failure.kind}: {failure.reason}"


def _print_best(trials: list[Trial], top: int = 5) -> None:
    best = sorted((t for t in trials if t.reward is not None), key=lambda trial: -(trial.reward or 0))[:top]
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print_best(best)


def print_best(trials: list[Trial], rewards: list[float] | None = None) -> None:
    """A table of networks, and the line that builds each."""
    rows = []
    for position, trial in enumerate(trials):
        reward = trial.reward if rewards is None else rewards[position]
        latency = None if trial.latency_ms is None else float(f"{trial.latency_ms:.4g}")
        sizes = [None if count is None else round(count / 1e6, 3) for count in (trial.params, trial.madds)]
        rows.append((trial.number, round(100 * (trial.accuracy or 0), 2), latency, round(reward or 0, 4), *sizes))
    print_table(("trial", "accuracy %", "ms", "reward", "params (M)", "MAdds (M)"), rows)
    for trial in trials:
        if trial.architecture:
            print(f'trial {trial.number}: MnasNet("{trial.architecture}")')


def rescore(arguments: argparse.Namespace) -> None:
    """The best networks under another reward."""
    from keras_mnasnet.search.results import ranked
    from keras_mnasnet.search.rewards import Reward, pareto_front

    meta, trials = _read(arguments.study)
    reward = _reward_of(arguments, meta)
    found = ranked(trials, reward)
    if not found:
        raise ValueError(f"A study is rescored when it has trained networks. Received: {arguments.study}, which has none")
    latencies = [trial.latency_ms for _, trial in found if trial.latency_ms is not None]
    if reward.uses_latency and reward.target_ms < min(latencies):
        raise ValueError(
            f"`target_ms` must be at least the latency of the study's fastest network, {min(latencies):.4g} ms. "
            f"Received: target_ms={reward.target_ms:g}"
        )
    best = found[: arguments.top]
    if arguments.json:
        front = pareto_front([(trial.accuracy or 0.0, trial.latency_ms or 0.0) for _, trial in found])
        rows = [{**_row(trial), "reward": value, "reward_in_study": trial.reward} for value, trial in best]
        return print_json({"reward": reward.to_json(), "best": rows, "front": [_row(found[i][1]) for i in front]})
    print(f"{len(found):,} networks by {reward}; the study's own reward is {Reward.from_json(meta.reward)}")
    return print_best([trial for _, trial in best], [value for value, _ in best])


def retrain(arguments: argparse.Namespace) -> int:
    """Train the best networks fully, and score them."""
    from keras_mnasnet.search.evaluator import located
    from keras_mnasnet.search.results import RESULTS
    from keras_mnasnet.search.results import retrain as retrain_best

    meta, trials = _read(arguments.study)
    with held_stderr():
        from keras_mnasnet.training.recipe import parse_recipe, parse_values
    recipe = parse_recipe(arguments.recipe).changed(**parse_values(arguments.set))
    folder = Path(arguments.output).expanduser().absolute()
    data = located(arguments.data) if arguments.data else None

    def told(trial: Trial, seed: int, score: float) -> None:
        if not arguments.json:
            print(f"trial {trial.number}, seed {seed}: {100 * score:.2f} % of the test images", flush=True)

    try:
        found = retrain_best(
            meta, trials, folder, reward=_reward_of(arguments, meta), recipe=recipe, top=arguments.top, seeds=arguments.seeds,
            data=data, resolution=arguments.size, progress=not arguments.json, watch=told,
        )  # fmt: skip
    except KeyboardInterrupt:
        print(f"\nstopped; go on with the same command: {shlex.join(sys.argv)}", file=sys.stderr)
        return 130
    best = sorted(found, key=lambda each: -each.reward)
    if arguments.json:
        rows = [{**_row(each.trial), **dataclasses.asdict(each), "trial": each.trial.number} for each in best]
        print_json({"results": str(folder / RESULTS), "networks": rows})
        return 0
    rows_shown = [
        (
            each.trial.number, round(100 * each.test_accuracy, 2), round(100 * (each.trial.accuracy or 0), 2),
            each.trial.latency_ms and float(f"{each.trial.latency_ms:.4g}"), round(each.reward, 4), each.folders[0],
        )
        for each in best
    ]  # fmt: skip
    print_table(("trial", "test %", "proxy %", "ms", "reward", "run"), rows_shown)
    print(f"wrote {folder / RESULTS}; export one with: mnasnet export RUN -o FILE.tflite")
    return 0


def export_optuna(arguments: argparse.Namespace) -> None:
    """Write the study for Optuna."""
    from keras_mnasnet.search.results import export_optuna as write_optuna
    from keras_mnasnet.search.setup import space_of
    from keras_mnasnet.search.study import Study

    with Study.open(arguments.study, read_only=True) as study:
        count = write_optuna(study, space_of(study.meta), arguments.output, objectives=arguments.objectives)
    if arguments.json:
        return print_json({"output": arguments.output, "trials": count})
    return print(f"wrote {count} trials to {arguments.output}; see them with: optuna-dashboard sqlite:///{arguments.output}")


def _reward_of(arguments: argparse.Namespace, meta: StudyMeta) -> Reward:
    """The reward that is asked for, else the study's; a new target keeps its exponents."""
    from keras_mnasnet.search.rewards import Reward, parse_reward

    stored = Reward.from_json(meta.reward)
    target = stored.target_ms if arguments.target_ms is None else arguments.target_ms
    if arguments.reward is None:
        return dataclasses.replace(stored, target_ms=target)
    return parse_reward(arguments.reward, target)


def _read(path: str) -> tuple[StudyMeta, list[Trial]]:
    from keras_mnasnet.search.study import Study

    with Study.open(path, read_only=True) as study:
        return study.meta, study.trials()


def _row(trial: Trial) -> dict[str, Any]:
    return {
        key: getattr(trial, key)
        for key in ("number", "accuracy", "latency_ms", "reward", "params", "madds", "architecture", "values")
    }


def report(arguments: argparse.Namespace) -> None:
    """Write the page, and print the best networks."""
    from keras_mnasnet.search.report import gather, write_report
    from keras_mnasnet.search.study import Study

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


def table(arguments: argparse.Namespace) -> int:
    """Measure, write, and print the error of the sum of rows against whole networks."""
    from keras_mnasnet.search.latency import parse_device
    from keras_mnasnet.search.setup import make_space
    from keras_mnasnet.search.tables import build_table, parts_of_space
    from keras_mnasnet.utils.files import check_writable

    check_writable(arguments.output)
    space = make_space(arguments.space, _space_options(arguments.space_set))
    model = parse_device(
        arguments.device, core=arguments.core, mask=arguments.mask, benchmark_model=arguments.benchmark_model,
        runs=arguments.runs,
    )  # fmt: skip
    if not model.measures or not hasattr(model, "files_ms"):
        raise ValueError(f"A table is measured on a device: host, adb or adb:SERIAL. Received: --device {arguments.device}")
    rows = parts_of_space(space, arguments.size)
    if not arguments.json:
        print(f"{len(rows):,} rows and {arguments.check_networks + 3} whole networks on {model.name}", flush=True)
    try:
        value = build_table(
            arguments.output, space, cast("Meter", model), resolution=arguments.size, classes=arguments.classes,
            networks=arguments.check_networks, progress=not arguments.json and sys.stderr.isatty(), rows=rows,
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


def _space_options(stated: list[str]) -> dict[str, Any]:
    if not stated:
        return {}
    from keras_mnasnet.training.recipe import parse_values  # loads Keras

    return parse_values(stated)
