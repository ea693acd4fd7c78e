"""The door of a search: from what is asked for to a study, what runs it, and its progress trial by trial."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib
import json
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mnasnet.loading import load
from keras_mnasnet.search.algorithms import make_algorithm
from keras_mnasnet.search.algorithms.base import Algorithm
from keras_mnasnet.search.engine import Meter, drive
from keras_mnasnet.search.evaluator import NetworkEvaluator, located, open_search_images, steps_of
from keras_mnasnet.search.executors import GROWING, Evaluator, Executor, InProcess, check_gpus
from keras_mnasnet.search.imagenet_table import Pixel1ByStage, TableEvaluator, is_table, located_table, table_facts
from keras_mnasnet.search.latency import CannotKnow, DeviceGone, LatencyModel, parse_device
from keras_mnasnet.search.networks import constrained, with_cost
from keras_mnasnet.search.networks import space as preset
from keras_mnasnet.search.progress import PROBE_STEPS, Figures, Progress, estimate_from, measures, order_of, rungs_of, timed
from keras_mnasnet.search.rewards import Reward, parse_reward
from keras_mnasnet.search.rungs import Rungs, parse_rungs
from keras_mnasnet.search.screens import MEASURE, RELU_UNITS, Measured, Screen, parse_screen
from keras_mnasnet.search.space import Candidate, SearchSpace, descended
from keras_mnasnet.search.study import Study, as_json
from keras_mnasnet.search.trials import Order, StudyMeta, Trial
from keras_mnasnet.training.job import anchored_path
from keras_mnasnet.training.recipe import Recipe, parse_recipe, recipe_from_json, recipe_to_json
from keras_mnasnet.utils.reading import fields_of
from keras_mnasnet.utils.system import Interrupts, held_stderr, machine, visible_gpus
from keras_mnasnet.utils.text import Life, header, say

PLAN = {"trials": 200, "workers": 1, "executor": "pool", "ray_address": None}
EXECUTORS = ("local", "pool", "ray")
SCREENED = ("thompson", "evolution")  # whose start a screen may choose
BEST = "best"  # for the source of weights: the best trial so far
STARTS = 4  # of the search for the fastest network
QUICK = 100  # of trials that take milliseconds, one in so many is printed
LIMITS = ("max_params", "max_madds", "max_latency_ms")
FACTS = ("classes", "train_images", "photos", "read")  # of the data, in a study's `evaluation`


def run(
    data: str | os.PathLike[str] | None = None, *, study: str | os.PathLike[str], space: str | SearchSpace | None = None,
    space_options: Mapping[str, Any] | None = None, device: str | None = None, device_options: Mapping[str, Any] | None = None,
    target_ms: float | None = None, reward: str | Reward | None = None, algorithm: str | None = None,
    algorithm_options: Mapping[str, Any] | None = None, recipe: str | Recipe | None = None, size: int | None = None,
    images: int | None = None, validation_images: int | None = None, max_params: int | None = None,
    max_madds: int | None = None, max_latency_ms: float | None = None, seed: int | None = None, trials: int | None = None,
    workers: int | None = None, executor: str | None = None, ray_address: str | None = None, cpus: float = 1.0,
    gpus: float | None = None, order: str | None = None, batch: int | None = None, timeout: float | None = None,
    minutes: float | None = None, rungs: str | Sequence[float] | None = None, keep: str | float | None = None,
    inherit: str | os.PathLike[str] | None = None, screens: Sequence[str | Screen] | None = None,
    evaluator: Evaluator | None = None, estimate: bool | str = True, progress: bool = True, table_noise: float | None = None,
) -> Iterator[Progress]:  # fmt: skip
    """Search for networks: start a study or go on with it, and give its progress after every finished trial.

    What is None is as in the study, or as usual: space `mbconv`, device `host`, reward `soft` (which needs `target_ms`),
    algorithm `thompson`, recipe `proxy-5-epochs`, its own input size or 224, 200 trials by one worker. A study goes on with
    the settings of its start; other ones are refused. The same call goes on where the last one was stopped, wherever that was.

    `data`: labeled photos; `size`: pixels; `images`, `validation_images`: how many to train on and to choose by. Or data is
    `accel-nasbench:FILE`, whose ImageNet trainings predict the accuracies of space `accel-nasbench`: nothing is trained, device
    is `pixel1` as usual, and `table_noise` (usually 0.15) the deviation in points that is added, as one training's.
    `device`, `device_options`: as `parse_device` takes them. `space`: a preset, `module:function`, or a SearchSpace.
    `executor`: `pool` (processes), `local` (this process) or `ray` (`ray_address`; `cpus` of each worker).
    `gpus`: of each worker, 0 to 1; by default one of its own where there are any.
    `order` (`batch`, `window` or `completion`) and `batch`: see `Order`. `timeout`: seconds a trial. `minutes`: start no trial
    after so long. `evaluator`: in the place of training on `data`. `estimate`: time a few steps first and say what the search
    will take; False does not, "only" stops there. `progress`: say what is searched, and show life.

    `rungs` (`1,2,5` epochs of the recipe's 5, or shares of its steps) and `keep` (1/3): every network trains to the first rung,
    the best of them go on where they stopped, each for itself as soon as it is among the best `keep` of its rung; `trials`
    counts networks. `inherit`: networks begin with the weights of a source that `load` takes, or of the `best` one so far.

    `screens`: `measure:16` measures the latency of 16 proposals of `thompson` and trains the one that is best with it;
    `relu-units:quarter` starts `thompson` and `evolution` among the quarter of random networks with the most ReLUs, a Screen or
    `module:function:quarter` of your own among those that it ranks highest. One whose Kendall tau with the rewards is below 0.2
    after six results chooses no more.

    A study is read as data: a `space` of your own (`module:function`), a phone's program (`benchmark_model`) and a
    `ray_address` are taken from this call alone.

    Raises ValueError or OSError for what cannot be searched (before a file is begun), StudyStopped for a device or data that
    went away. Paper, sections 3 and 4.

    Example:
        >>> from keras_mnasnet import search
        >>> small = {"space_options": {"width": 0.1, "stem_stride": 1}, "size": 32, "device": "madds", "target_ms": 2}
        >>> recipe = "proxy-5-epochs epochs=1 batch_size=32"
        >>> for progress in search.run(
        ...     "shapes:100@32", study="mine.study", **small, recipe=recipe, trials=1, executor="local", progress=False
        ... ):
        ...     print(progress.done, 0 < progress.best.reward < 1)
        1 True
    """
    path = Path(study).expanduser()
    known, plan, counted = None, dict[str, Any](PLAN), 0
    if path.exists():
        with Study.open(path, read_only=True) as opened:
            known, plan, counted = opened.meta, {**PLAN, **opened.plan()}, opened.count("done", "failed")
    asked = {
        "data": data, "space": space, "space_options": space_options, "device": device, "device_options": device_options,
        "target_ms": target_ms, "reward": reward, "algorithm": algorithm, "algorithm_options": algorithm_options,
        "recipe": recipe, "size": size, "images": images, "validation_images": validation_images, "seed": seed,
        "max_params": max_params, "max_madds": max_madds, "max_latency_ms": max_latency_ms, "rungs": rungs, "keep": keep,
        "inherit": inherit, "screens": screens, "table_noise": table_noise,
    }  # fmt: skip
    given = space if isinstance(space, SearchSpace) else None
    if known is not None:
        _check_named(known, plan | ({"executor": executor} if executor else {}), asked, ray_address)
    meta = _meta({name: value for name, value in asked.items() if value is not None}, known, evaluator is not None)
    if known is not None:
        with Study.open(path, read_only=True) as opened:
            opened.require(meta)
    chosen = {"trials": trials, "workers": workers, "executor": executor, "ray_address": ray_address}
    if known is None and is_table(meta.data) and workers in (None, 1):
        plan["executor"] = "local"  # a trial costs less than another process
    plan |= {name: value for name, value in chosen.items() if value is not None}
    _check_plan(plan, gpus)
    ordered = _order(order, batch, workers, meta, plan)
    meta, plan["order"] = dataclasses.replace(meta, order=dataclasses.asdict(ordered)), dataclasses.asdict(ordered)
    made = space_of(meta, given)
    header(_header(path, meta, made, plan, ordered, counted if known is not None else None), shown=progress)
    if known is None:
        check_target(made, Reward.from_json(meta.reward), model_of(meta), **_shape(meta))
    asked_screens = screens_of(screens, meta.evaluation.get("screens") or ())
    return _Search(path, meta, made, plan, ordered, evaluator, timeout, minutes, cpus, gpus, progress, asked_screens).go(
        estimate
    )


@dataclasses.dataclass(frozen=True)
class _Search:
    """All that is decided, before anything is begun."""

    path: Path
    meta: StudyMeta
    space: SearchSpace
    plan: dict[str, Any]
    order: Order
    evaluator: Evaluator | None
    timeout: float | None
    minutes: float | None
    cpus: float
    gpus: float | None
    shown: bool
    screens: Sequence[Screen | Measured]

    @property
    def rungs(self) -> Rungs | None:
        return rungs_of(self.meta)

    def go(self, estimate: bool | str) -> Iterator[Progress]:
        if estimate == "only":
            figures = Figures()
            if self.path.exists():
                with Study.open(self.path, read_only=True) as study:
                    figures = Figures.of(study)
            found = self.progress(figures)
            yield dataclasses.replace(found, estimate=self.estimated(found))
            return
        begun = not self.path.exists()
        with Study.at(self.path, self.meta) as study, _kept_unless_empty(study, begun):
            with study.transaction() as writer:
                writer.plan(self.plan)
            figures = Figures.of(study)
            text = self.estimated(self.progress(figures)) if estimate and self.shown else None
            if text:
                say(f"estimate: {text}")
            yield from self.trained(study, figures, text)

    def trained(self, study: Study, figures: Figures, estimate: str | None) -> Iterator[Progress]:
        """The trials."""
        meter: Meter | None = None
        with contextlib.ExitStack() as stack:
            screened_by_meter = any(isinstance(each, Measured) for each in self.screens)
            if (self.plan["executor"] == "ray" or screened_by_meter) and self.meta.device:
                meter, close = meter_of(self.meta)
                stack.callback(close)
            executor = self.executor(self.evaluator or evaluator_of(self.meta, device=meter is None))
            stack.callback(executor.close)
            interrupts = stack.enter_context(Interrupts())
            ended = figures.done + figures.failed
            planned = self.plan["trials"] if self.rungs is None else self.rungs.planned(self.plan["trials"])
            life = stack.enter_context(Life("search", total=planned, unit="trial", shown=self.shown, done=ended))
            for trial in drive(
                study, self.space, screened(algorithm_of(self.meta, self.space), self.space, self.screens, meter), executor,
                trials=self.plan["trials"],
                reward=Reward.from_json(self.meta.reward), order=self.order, meter=meter,
                seconds=None if self.minutes is None else 60 * self.minutes, rungs=self.rungs,
                inherit_best=self.meta.evaluation.get("inherit") == BEST,
            ):  # fmt: skip
                interrupts.check()
                figures.add(trial)
                figures.waiting = study.asked() - figures.done - figures.failed
                found = self.progress(figures, trial, estimate)
                life.step(note=found.line())
                if self.shown and not life.terminal and (not is_table(self.meta.data) or trial.number % QUICK == QUICK - 1):
                    text = f"failed ({trial.reason})" if trial.status == "failed" else measures(trial)
                    say(f"trial {trial.number}: {text} | {found.line()}")
                yield found
            interrupts.check()

    def progress(self, figures: Figures, last: Trial | None = None, estimate: str | None = None) -> Progress:
        return figures.progress(
            planned=self.plan["trials"], workers=self.plan["workers"], order=self.order, trial=last, estimate=estimate,
            rungs=self.rungs,
        )  # fmt: skip

    def executor(self, evaluator: Evaluator) -> Executor:
        workers = self.plan["workers"]
        if self.plan["executor"] == "local":
            return InProcess(evaluator, timeout=self.timeout)
        if self.plan["executor"] == "pool":
            from keras_mnasnet.search.executors.pool import ProcessPool

            return ProcessPool(evaluator, workers, timeout=self.timeout, gpus=self.gpus)
        from keras_mnasnet.search.executors.ray import RayActors

        return RayActors(
            evaluator, workers, address=self.plan["ray_address"], timeout=self.timeout, cpus=self.cpus, gpus=self.gpus
        )

    def estimated(self, found: Progress) -> str | None:
        """What the search will take: by the trials there are, else by a few steps of a network; None for another evaluator."""
        trials, workers = self.plan["trials"], self.plan["workers"]
        known = estimate_from(found, trials=trials, workers=workers)
        if is_table(self.meta.data) and self.evaluator is None:
            return known or "no trainings: accuracies are predicted, in milliseconds"
        if known or self.evaluator is not None:
            return known
        from keras_mnasnet.search.executors.pool import ProcessPool

        trained = evaluator_of(self.meta)
        assert isinstance(trained, NetworkEvaluator)
        evaluator = dataclasses.replace(trained, steps=PROBE_STEPS)
        probe = ProcessPool(evaluator, 1, timeout=self.timeout, gpus=self.gpus)
        own = self.meta.evaluation
        try:
            with Life("estimate, by some steps of a middle network", unit="network", shown=self.shown):
                measured = timed(
                    self.space, evaluator, probe, trials=trials, workers=workers, order=self.order,
                    train_images=own["train_images"], classes=own["classes"],
                    share=1.0 if self.rungs is None else self.rungs.share,
                )  # fmt: skip
        finally:
            probe.close()
        return str(measured)


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


# What is asked for, beside what the study was begun with


def _check_named(known: StudyMeta, plan: Mapping[str, Any], asked: Mapping[str, Any], ray_address: str | None) -> None:
    """ValueError where a study's file alone names what would run, or something else is named than it was begun with."""
    space, options = asked["space"], asked["space_options"]
    if ":" in known.space and space is None:
        raise ValueError(
            f"A space of your own runs only when it is named, because a study is read as data. Received: a study of space "
            f"{known.space!r}, and no space. If it is yours, add --space {shlex.quote(known.space)} (in Python: space=)."
        )
    if isinstance(space, str) and space != known.space:
        raise ValueError(
            f"A study goes on in the space it was begun in. Received: space {space!r} for a study of {known.space!r}. Leave "
            f"--space out, or name another --study file."
        )
    if ":" in known.space and isinstance(space, str) and json.loads(as_json(dict(options or {}))) != known.space_options:
        raise ValueError(
            f"A space of your own is called with the options that are named, which must be the study's. Received: "
            f"{dict(options or {})}, the study has {known.space_options}. Add --space-set NAME=VALUE for each."
        )
    program = known.evaluation.get("device_options", {}).get("benchmark_model")
    if program is not None and (asked["device_options"] or {}).get("benchmark_model") is None:
        raise ValueError(
            f"A program runs on a phone only when it is named, because a study is read as data. Received: a study with "
            f"{program!r}, and none named. If it is yours, add --benchmark-model {shlex.quote(str(program))}."
        )
    if plan["executor"] == "ray" and plan["ray_address"] not in (None, "auto") and ray_address is None:
        raise ValueError(
            f"A Ray cluster at an address is used only when it is named, because a study is read as data. Received: a study "
            f"that ran at {plan['ray_address']!r}, and no address. If the cluster is yours, add --ray-address ADDRESS."
        )


def _meta(asked: Mapping[str, Any], known: StudyMeta | None, own_evaluator: bool) -> StudyMeta:
    """What the search is about: what is asked for, the rest as in the study, or as usual."""
    if known is not None and not asked:
        return known
    if is_table(asked.get("data")) or (known is not None and is_table(known.data)):
        return _table_meta(asked, known)
    if "table_noise" in asked:
        raise ValueError(
            f"`table_noise` belongs to predicted accuracies. Received: table_noise={asked['table_noise']!r} with "
            f"data={asked.get('data')!r}. Leave it out, or name data accel-nasbench:FILE."
        )
    space, space_options = _with_options("space", "mbconv", asked, known)
    algorithm, algorithm_options = _with_options("algorithm", "thompson", asked, known)
    recipe = asked.get("recipe")
    if isinstance(recipe, str):
        recipe = parse_recipe(recipe)
    elif recipe is None and known is not None and known.recipe is not None:
        recipe = recipe_from_json(known.recipe)
    elif recipe is None and not own_evaluator:
        recipe = parse_recipe("proxy-5-epochs")
    data = asked.get("data") or (known.data if known else None)
    if data is None and not own_evaluator:
        raise ValueError("A search needs images to train on. Received: data=None (a folder of <class>/*.jpg, cifar10, shapes)")
    where = None if data is None else located(os.fspath(data))
    own = known.evaluation if known else {}
    evaluation: dict[str, Any] = {
        "resolution": asked.get("size") or own.get("resolution") or (recipe and recipe.size) or 224,
        "images": asked.get("images", own.get("images")),
        "validation_images": asked.get("validation_images", own.get("validation_images")),
        "device_options": {**own.get("device_options", {}), **(asked.get("device_options") or {})},
        "limits": {name: asked[name] for name in LIMITS if name in asked} or own.get("limits", {}),
    }
    evaluation["screens"] = [str(each) for each in screens_of(asked.get("screens"), own.get("screens", ()))] or None
    evaluation |= _rungs(asked, own, recipe) | _inherits(asked, own, own_evaluator)
    evaluation = {name: value for name, value in evaluation.items() if value not in (None, {}) or name in own}
    if known is not None and where == known.data and own.keys() >= {*FACTS}:
        evaluation |= {name: own[name] for name in FACTS}
    elif where is not None:
        evaluation |= _data_facts(where, evaluation)
    if recipe is not None and "train_images" in evaluation and evaluation.get("rungs"):
        total = evaluation["train_images"] // recipe.batch_size * recipe.epochs
        steps = [steps_of(share, total) for share in evaluation["rungs"]]
        if len({*steps}) < len(steps):
            raise ValueError(
                f"Each rung must have more steps than the one below. Received: rungs of {', '.join(map(str, steps))} steps. "
                f"Take fewer rungs, more photos or a smaller batch."
            )
    return _made(
        asked, known, space=(space, space_options), algorithm=(algorithm, algorithm_options),
        device=None if own_evaluator else "host", data=where, recipe=None if recipe is None else recipe_to_json(recipe),
        evaluation=evaluation,
    )  # fmt: skip


def _table_meta(asked: Mapping[str, Any], known: StudyMeta | None) -> StudyMeta:
    """The same of a search whose accuracies are predicted from ImageNet trainings."""
    for name in ("recipe", "images", "validation_images", "size", "rungs", "keep", "inherit", "screens"):
        if name in asked and (name, asked[name]) != ("size", 224):
            raise ValueError(
                f"Nothing is trained where accuracies are predicted from ImageNet trainings, at 224 pixels. "
                f"Received: {name}={asked[name]}. Leave it out."
            )
    if asked.get("data") and known is not None and not is_table(known.data):
        raise ValueError(f"A study goes on with the data of its start. Received: {asked['data']}, it was {known.data}")
    where = located_table(os.fspath(asked.get("data") or (known and known.data) or ""))
    own = known.evaluation if known else {}
    space, space_options = _with_options("space", "accel-nasbench", asked, known)
    given = asked.get("space")
    decisions = (given if isinstance(given, SearchSpace) else make_space(space, space_options)).decisions
    if decisions != preset("accel-nasbench").decisions:
        raise ValueError(
            f"The ImageNet trainings predict networks of the space accel-nasbench. Received: space {space!r}. Leave it out."
        )
    if known is not None and where == known.data and own.get("table"):
        facts = {name: own[name] for name in ("classes", "photos", "table")}
        if "table_noise" in asked:
            facts["table"] = {**own["table"], "noise_points": asked["table_noise"]}
    else:
        facts = table_facts(where, asked.get("table_noise"))
    evaluation = {
        "resolution": 224, **facts,
        "device_options": {**own.get("device_options", {}), **(asked.get("device_options") or {})},
        "limits": {name: asked[name] for name in LIMITS if name in asked} or own.get("limits", {}),
    }  # fmt: skip
    evaluation = {name: value for name, value in evaluation.items() if value != {} or name in own}
    return _made(
        asked, known, space=(space, space_options), algorithm=_with_options("algorithm", "thompson", asked, known),
        device="pixel1", data=where, recipe=None, evaluation=evaluation,
    )  # fmt: skip


def _made(
    asked: Mapping[str, Any], known: StudyMeta | None, *, space: tuple[str, dict[str, Any]],
    algorithm: tuple[str, dict[str, Any]], device: str | None, data: str | None, recipe: dict[str, Any] | None,
    evaluation: dict[str, Any],
) -> StudyMeta:  # fmt: skip
    """What the search is about, with its space and its algorithm checked; `device` where none is asked for or known."""
    meta = StudyMeta(
        space=space[0], fingerprint="", space_options=space[1], algorithm=algorithm[0], algorithm_options=algorithm[1],
        reward=_reward(asked, known).to_json(), seed=asked.get("seed", known.seed if known else 0),
        device=asked.get("device") or (known.device if known else device), data=data, recipe=recipe, evaluation=evaluation,
        order=known.order if known else {}, created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        environment=machine(),
    )  # fmt: skip
    given = asked.get("space")
    made = space_of(meta, given if isinstance(given, SearchSpace) else None)
    searcher = algorithm_of(meta, made)  # its options are checked here
    _check_screens(meta, made, searcher, asked.get("screens"))
    return dataclasses.replace(
        meta, fingerprint=made.fingerprint(), decisions=tuple((each.name, each.choices) for each in made.decisions)
    )


def _rungs(asked: Mapping[str, Any], own: Mapping[str, Any], recipe: Recipe | None) -> dict[str, Any]:
    """`rungs` and `keep` of an evaluation, as asked for, else the study's."""
    text, keep = asked.get("rungs", own.get("rungs")), asked.get("keep", own.get("keep"))
    if text is None:
        if keep is not None:
            raise ValueError(f"`keep` is a share of a rung's networks. Received: keep={keep!r}, and no rungs. Add --rungs.")
        return {}
    found = parse_rungs(text, keep, recipe.epochs if recipe else None)
    return {"rungs": list(found.shares), "keep": found.keep}


def screens_of(given: Sequence[str | Screen] | None, stored: Sequence[str]) -> list[Screen | Measured]:
    """The screens that are asked for, else those of the study; ValueError where a study alone names a function."""
    if given is None:
        foreign = [text for text in stored if text.partition(":")[0] not in (MEASURE, RELU_UNITS)]
        if foreign:
            raise ValueError(
                f"A screen of your own runs only when it is named, because a study is read as data. Received: a study with "
                f"{foreign[0]!r}, and no screens. If it is yours, name every screen again (--screen, in Python: screens=)."
            )
    found = [each if isinstance(each, Screen) else parse_screen(each) for each in (stored if given is None else given)]
    if len({each.name if isinstance(each, Screen) else MEASURE for each in found}) < len(found):
        raise ValueError(f"A search has each screen once. Received: {[str(each) for each in found]}")
    return found


def _check_screens(meta: StudyMeta, space: SearchSpace, searcher: Algorithm, given: Sequence[str | Screen] | None) -> None:
    """ValueError for screens that the algorithm, space or device has no use for."""
    for each in screens_of(given, meta.evaluation.get("screens") or ()):
        if isinstance(each, Screen):
            if meta.algorithm not in SCREENED:
                raise ValueError(
                    f"A screen chooses the start of {' and '.join(SCREENED)}. Received: {each} for {meta.algorithm}"
                )
            each.scores(space, [space.sample(np.random.default_rng(0))])
        else:
            model = model_of(meta)
            uses = Reward.from_json(meta.reward).uses_latency
            if meta.algorithm != "thompson" or not uses or space.build is None or model is None or not model.measures:
                raise ValueError(
                    f"The screen {each} is for thompson, a reward with latency and networks on a device that measures: host, "
                    f"adb or emulated. Received: {meta.algorithm}, {Reward.from_json(meta.reward)}, on {meta.device}"
                )


def _inherits(asked: Mapping[str, Any], own: Mapping[str, Any], own_evaluator: bool) -> dict[str, Any]:
    """`inherit` of an evaluation; CheckpointError for what is no trained classifier."""
    given = asked.get("inherit")
    if given is None:
        return {"inherit": own.get("inherit")}
    source = anchored_path(os.fspath(given))
    if source != BEST and own_evaluator:
        raise ValueError(
            f"An evaluator of your own says itself what its networks begin with, but for `{BEST}`. Received: inherit={source!r}"
        )
    if source != BEST and source != own.get("inherit") and load(source).detector is not None:
        raise ValueError(f"Networks inherit from a classifier. Received: the detector {source}")
    return {"inherit": source}


def _with_options(
    what: str, usual: str, asked: Mapping[str, Any], known: StudyMeta | None
) -> tuple[str, dict[str, Any]]:  # fmt: skip
    """The name of a space or an algorithm, and its options: a study's own as long as the name is the study's."""
    value = asked.get(what)
    if isinstance(value, SearchSpace):
        return value.name, dict(value.options)
    name = value or (getattr(known, what) if known else usual)
    options = asked.get(f"{what}_options")
    if options is None and known is not None and name == getattr(known, what):
        options = getattr(known, f"{what}_options")
    return name, dict(options or {})


def _reward(asked: Mapping[str, Any], known: StudyMeta | None) -> Reward:
    given, target = asked.get("reward"), asked.get("target_ms")
    if isinstance(given, Reward) or (given is None and known is not None):
        found = given if isinstance(given, Reward) else Reward.from_json(known.reward)  # type: ignore[union-attr]
        return found if target is None else dataclasses.replace(found, target_ms=target)
    if target is None and known is not None:
        target = Reward.from_json(known.reward).target_ms
    return parse_reward(given or "soft", target)


def _data_facts(where: str, evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Classes, training images and what is used for what; ValueError for data that cannot be searched with."""
    for name, value in {"TF_CPP_MIN_LOG_LEVEL": "3", **GROWING}.items():  # this process leaves the GPUs to the workers
        os.environ.setdefault(name, value)
    with held_stderr():
        found = open_search_images(
            where, images=evaluation.get("images"), validation_images=evaluation.get("validation_images")
        )
    return {
        "classes": found.classes, "train_images": found.train.count, "photos": str(found), "read": found.summary().as_json()
    }  # fmt: skip


def _check_plan(plan: Mapping[str, Any], gpus: float | None) -> None:
    trials, workers, executor = plan["trials"], plan["workers"], plan["executor"]
    if any(isinstance(each, bool) or not isinstance(each, int) or each < 1 for each in (trials, workers)):
        raise ValueError(f"`trials` and `workers` must be 1 or more. Received: trials={trials!r}, workers={workers!r}")
    if executor not in EXECUTORS:
        raise ValueError(f"`executor` must be one of {', '.join(EXECUTORS)}. Received: executor={executor!r}")
    if executor == "local" and workers != 1:
        raise ValueError(
            f"The executor local has one worker, this process. Received: workers={workers}. `pool` has as many as you want."
        )
    if executor == "pool":
        check_gpus(workers, gpus, len(visible_gpus()), "this machine")


def _order(kind: str | None, batch: int | None, workers: int | None, meta: StudyMeta, plan: Mapping[str, Any]) -> Order:
    """The order that is asked for; else as before, with a window or a number out at a time that suits the workers."""
    before, usual = order_of(meta, plan), Order.usual(meta.algorithm, plan["workers"])
    kept = before if kind in (None, before.kind) and (workers is None or before.kind == "batch") else None
    kind = kind or before.kind
    size = kept.size if kept else usual.size if kind == usual.kind else plan["workers"]
    return Order(kind, batch or size)


def _header(
    path: Path, meta: StudyMeta, space: SearchSpace, plan: Mapping[str, Any], order: Order, counted: int | None
) -> dict[str, object]:  # fmt: skip
    def named(name: str | None, options: Mapping[str, Any]) -> str:
        return " ".join([str(name), *(f"{key}={value}" for key, value in options.items())])

    own = meta.evaluation
    limits = "".join(f", {name} {value:,}" for name, value in own.get("limits", {}).items())
    recipe = None if meta.recipe is None else recipe_from_json(meta.recipe)
    rungs, inherits = rungs_of(meta), own.get("inherit")
    return {
        "space": f"{named(meta.space, meta.space_options)}: {space.size:.3g} networks{limits}",
        "reward": Reward.from_json(meta.reward),
        "device": meta.device and named(meta.device, own.get("device_options", {})),
        "data": meta.data and f"{meta.data}: {own.get('photos') or '{} classes'.format(own.get('classes'))}",
        "recipe": recipe and f"{recipe} at {_shape(meta)['resolution']} pixels",
        "rungs": rungs and f"{', '.join(f'{each:.3g}' for each in rungs.shares)} of the steps, {rungs.keep:.3g} of each go on",
        "screens": ", ".join(own.get("screens") or ()) or None,
        "start": inherits and f"the weights of {'the best trial so far' if inherits == BEST else inherits}",
        "algorithm": f"{named(meta.algorithm, meta.algorithm_options)}, seed {meta.seed}",
        "trials": f"{plan['trials']:,}{'' if counted is None else f', {counted:,} of them finished'}; order {order.kind} "
        f"of {order.size}",
        "workers": f"{plan['workers']}, {plan['executor']}{' at ' + plan['ray_address'] if plan['ray_address'] else ''}",
        "study": f"{path}, {'which is begun' if counted is None else 'which goes on'}",
    }


# From what a study is about to what runs it


def make_space(name: str, options: Mapping[str, Any] | None = None) -> SearchSpace:
    """A preset, or `module:function` of the user's own, called with the options; ValueError for an unknown one."""
    module, colon, function = name.partition(":")
    if not colon:
        return preset(name, **(options or {}))
    try:
        maker = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"A space is a preset, or module:function that returns a SearchSpace and can be imported. Received: {name!r} "
            f"({error})"
        ) from error
    try:
        made = maker(**(options or {}))
    except TypeError as error:
        raise ValueError(
            f"A space's function must take its options. Received: {dict(options or {})} for {name}: {error}"
        ) from error
    if not isinstance(made, SearchSpace):
        raise ValueError(f"A space's function must return a SearchSpace. Received: {type(made).__name__} from {name}")
    return made


def model_of(meta: StudyMeta) -> LatencyModel | None:
    """The study's latency model; None where it names no device."""
    return parse_device(meta.device, **meta.evaluation.get("device_options", {})) if meta.device else None


def space_of(meta: StudyMeta, given: SearchSpace | None = None) -> SearchSpace:
    """The study's space (`given` where it is a script's own), with a cost where its device is arithmetic, in its limits."""
    made, own = given or make_space(meta.space, meta.space_options), meta.evaluation
    if made.build is None:
        return made
    shape = {"resolution": own.get("resolution", 224), "classes": own.get("classes", 1000)}
    model = model_of(meta)
    if model is not None and not model.measures:
        made = with_cost(made, model, **shape)
        if is_table(meta.data) and model.name == "pixel1":
            made = dataclasses.replace(made, cost=Pixel1ByStage())
    return constrained(made, **own.get("limits", {}), **shape)


def algorithm_of(meta: StudyMeta, space: SearchSpace) -> Any:
    """The study's algorithm at its start."""
    return make_algorithm(meta.algorithm, space, Reward.from_json(meta.reward), seed=meta.seed, **meta.algorithm_options)


def screened(algorithm: Any, space: SearchSpace, screens: Sequence[Screen | Measured], meter: Meter | None) -> Algorithm:
    """The algorithm with its screens, of which some ask the `meter`."""
    algorithm.screens = tuple(each for each in screens if isinstance(each, Screen))
    algorithm.measured = next((each for each in screens if isinstance(each, Measured)), None)
    if meter is not None and space.build is not None:
        build = space.build
        algorithm.meter = lambda candidate: meter(Trial(-1, candidate, architecture=str(build(candidate))))
    return algorithm


def evaluator_of(meta: StudyMeta, *, device: bool = True) -> NetworkEvaluator | TableEvaluator:
    """The study's evaluator; `device=False` leaves the latency to the driver."""
    if meta.data is not None and is_table(meta.data):
        kept = fields_of(meta.evaluation.get("table"), "A study's table", sha256=str, noise_points=float)
        return TableEvaluator(
            data=meta.data, sha256=kept["sha256"], resolution=_shape(meta)["resolution"], noise=kept["noise_points"],
            seed=meta.seed, device=meta.device if device else None,
            device_options=tuple(sorted(meta.evaluation.get("device_options", {}).items())),
        )  # fmt: skip
    if meta.data is None or meta.recipe is None:
        raise ValueError(f"A study of networks names data and a recipe. Received: data={meta.data!r}, recipe={meta.recipe!r}")
    own = meta.evaluation
    return NetworkEvaluator(
        data=meta.data, recipe=recipe_from_json(meta.recipe), resolution=_shape(meta)["resolution"],
        device=meta.device if device else None, images=own.get("images"), validation_images=own.get("validation_images"),
        device_options=tuple(sorted(own.get("device_options", {}).items())),
        inherit=None if own.get("inherit") == BEST else own.get("inherit"),
    )  # fmt: skip


def meter_of(meta: StudyMeta) -> tuple[Meter, Callable[[], None]]:
    """Latency measured by the driver, whose machine the device is attached to; and how to close it."""
    from keras_mnasnet.architecture import Architecture

    model = model_of(meta)
    if model is None:
        raise ValueError("Latency is measured on a device. Received: device=None")

    def measure(trial: Trial) -> tuple[float, str]:
        found = model.latency_ms(Architecture.parse(trial.architecture or ""), **_shape(meta))
        return found.latency_ms, found.source

    return measure, model.close


def _shape(meta: StudyMeta) -> dict[str, int]:
    return {"resolution": meta.evaluation.get("resolution", 224), "classes": meta.evaluation.get("classes", 1000)}


def smallest(space: SearchSpace, cost: Callable[[Candidate], float]) -> Candidate:
    """The allowed candidate with the lowest cost that one-decision steps lead to, from several draws."""
    rng = np.random.default_rng(0)
    return min(descended(space, cost, space.sample(rng)) for _ in range(STARTS))[1]


def check_target(space: SearchSpace, reward: Reward, model: LatencyModel | None, resolution: int, classes: int) -> float | None:
    """ValueError where no network of the space is as fast as the target; else the latency of the fastest.

    The fastest is found by latency where that is arithmetic, and by multiply-adds where it has to be measured.
    """
    if not reward.uses_latency or (model is None and space.cost is None):
        return None
    shown = ""
    if model is None or space.build is None:
        if space.cost is None:
            return None
        found = smallest(space, space.cost)
        latency, how = float(space.cost(found)), "has the lowest cost"
    else:
        build = space.build

        def known(candidate: Candidate) -> float:
            if model.measures:
                return float(build(candidate).madds(resolution, resolution, classes=classes))
            return model.latency_ms(build(candidate), resolution, classes).latency_ms

        try:
            found = smallest(space, known)
            latency = model.latency_ms(build(found), resolution, classes).latency_ms
        except CannotKnow as error:
            raise ValueError(f"A device must know the networks of the space. Received: {model.name}: {error}") from error
        except DeviceGone as error:
            raise OSError(str(error)) from error
        finally:
            model.close()
        how = f"has the {'fewest multiply-adds' if model.measures else 'lowest latency'}, on {model.name}"
        shown = f': MnasNet("{build(found)}")'
    if reward.target_ms < latency:
        raise ValueError(
            f"`target_ms` must be at least the latency of the fastest network of space {space.name!r}, {latency:.4g} ms. "
            f"Received: target_ms={reward.target_ms:g}. That network {how}{shown}. Raise the target, or take a smaller space."
        )
    return latency
