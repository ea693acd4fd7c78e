"""`mnasnet search run` and `status`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_mnasnet.cli.interrupts import Interrupts
from keras_mnasnet.cli.output import print_json, print_table
from keras_mnasnet.search.engine import Order
from keras_mnasnet.search.engine import run as run_study
from keras_mnasnet.search.progress import Progress, estimate, estimate_from, progress_of, shown_time
from keras_mnasnet.search.rewards import Reward, parse_reward
from keras_mnasnet.search.setup import (
    algorithm_of,
    check_target,
    default_order,
    evaluator_of,
    make_meta,
    meter_of,
    model_of,
    space_of,
)  # fmt: skip
from keras_mnasnet.search.study import Study
from keras_mnasnet.search.trials import StudyMeta, Trial
from keras_mnasnet.utils.system import held_stderr

__all__ = ["print_best", "run", "status"]

PLAN = {"trials": 200, "workers": 1, "executor": "local", "ray_address": None}
IDENTITY = (
    "space", "space_set", "data", "target_ms", "device", "reward", "algorithm", "algorithm_set", "recipe", "set", "resolution",
    "images", "validation_images", "max_params", "max_madds", "max_latency_ms", "seed", "core", "mask", "benchmark_model",
)  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Start a search, or go on with one."""
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
    if arguments.estimate:
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
            print(f"report: mnasnet search report --study {arguments.study} --output DIR")
    return 0


def status(arguments: argparse.Namespace) -> None:
    """How far a study is."""
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
        "resolution": arguments.resolution or own.get("resolution") or recipe.size or 224,
        "images": arguments.images or own.get("images"),
        "validation_images": arguments.validation_images or own.get("validation_images"),
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
    usual = Order(**meta.order) if goes_on else default_order(meta.algorithm, workers)
    if arguments.order is None and arguments.batch is None:
        if goes_on and arguments.workers is not None and usual.kind != "batch":
            return Order(usual.kind, workers)
        return usual
    kind = arguments.order or usual.kind
    return Order(kind, arguments.batch or (usual.size if kind == "batch" and usual.kind == "batch" else workers))


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
    space = space_of(meta)
    progress = progress_of(study.trials(), planned=plan["trials"], workers=plan["workers"])
    if shown:
        told = estimate_from(progress, trials=plan["trials"], workers=plan["workers"]) or _estimated(meta, plan, arguments)
        print(f"{space.size:.3g} networks in {meta.space}; {Reward.from_json(meta.reward)} on {meta.device}")
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
    from keras_mnasnet.search.progress import PROBE_STEPS

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
