"""What is done with the trials of a study: other rewards, its best networks trained fully, a copy for Optuna's dashboard."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib
import os
import sqlite3
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_mnasnet.benchmarks.results import write_json
from keras_mnasnet.search.evaluator import located, open_search_images
from keras_mnasnet.search.imagenet_table import is_table
from keras_mnasnet.search.progress import row_of
from keras_mnasnet.search.rewards import Reward, pareto_front, parse_reward
from keras_mnasnet.search.study import Study, check_networks
from keras_mnasnet.search.trials import StudyMeta, Trial, highest
from keras_mnasnet.training.job import RUN_FILE, Job, read_run
from keras_mnasnet.training.recipe import Recipe, parse_recipe, recipe_to_json
from keras_mnasnet.utils.files import replaced
from keras_mnasnet.utils.text import header, say

__all__: list[str] = []

SCHEMA = 1
NEAR, LEAST_NEAR, LEAST_SHARE = 1.2, 5, 0.05  # times the target, and how many networks so near to it are enough
RESULTS = "results.json"
FIRST_SEED = 1  # the proxies' recipe has seed 0
OBJECTIVES = {"reward": (("maximize", "reward"),), "pareto": (("maximize", "accuracy"), ("minimize", "latency_ms"))}
ATTRIBUTES = ("accuracy", "latency_ms", "latency_source", "reward", "params", "madds", "architecture", "worker", "reason")


def ranked(trials: Sequence[Trial], reward: Reward) -> list[tuple[float, Trial]]:
    """The trained networks, each at its highest rung, by a reward of what is stored, best first."""
    found = [
        (reward(trial.accuracy, 1.0 if trial.latency_ms is None else trial.latency_ms), trial)
        for trial in highest(trials)
        if trial.accuracy is not None and (trial.latency_ms or not reward.uses_latency)
    ]
    return sorted(found, key=lambda pair: (-pair[0], pair[1].number))


def most_accurate(trials: Sequence[Trial], reward: Reward) -> Trial | None:
    """The most accurate trained network within the reward's target, the faster of equal ones; None where there is none."""
    within = [
        trial
        for trial in trials
        if trial.accuracy is not None and trial.latency_ms is not None and trial.latency_ms <= reward.target_ms
    ]
    if not reward.uses_latency or not within:
        return None
    return max(within, key=lambda trial: (trial.accuracy, -(trial.latency_ms or 0.0), -trial.number))


@dataclasses.dataclass(frozen=True)
class Rescored:
    """The trained networks of a study under a reward, best first; `own` is the study's. `front`: the Pareto front of them;
    `at_target`: the most accurate within the target; `warning`: that few lie near the target (empty where enough do)."""

    reward: Reward
    own: Reward
    ranked: tuple[tuple[float, Trial], ...]
    front: tuple[Trial, ...]
    at_target: Trial | None
    warning: str

    def to_json(self, top: int | None = None) -> dict[str, Any]:
        """One JSON object with the `top` best (default: all)."""
        best = [{**row_of(trial), "reward": value, "reward_in_study": trial.reward} for value, trial in self.ranked[:top]]
        return {
            "reward": self.reward.to_json(), "best": best, "front": [row_of(trial) for trial in self.front],
            "at_target": self.at_target and row_of(self.at_target), "warning": self.warning,
        }  # fmt: skip


def rescore(
    study: str | os.PathLike[str], *, target_ms: float | None = None, reward: str | Reward | None = None
) -> Rescored:  # fmt: skip
    """The networks of a study by another target or reward (default: the study's own); nothing is trained.

    ValueError for a study without trained networks and for a target below its fastest network.

    Example:
        from keras_mnasnet import search

        value, trial = search.rescore("mine.study", target_ms=2.5).ranked[0]
    """
    with Study.open(study, read_only=True) as opened:
        meta, trials = opened.meta, opened.trials()
    own, chosen = Reward.from_json(meta.reward), _reward(meta, target_ms, reward)
    found = ranked(trials, chosen)
    if not found:
        raise ValueError(f"A study is rescored when it has trained networks. Received: {os.fspath(study)}, which has none")
    latencies = [trial.latency_ms for _, trial in found if trial.latency_ms is not None]
    if chosen.uses_latency and chosen.target_ms < min(latencies):
        raise ValueError(
            f"`target_ms` must be at least the latency of the study's fastest network, {min(latencies):.4g} ms. "
            f"Received: target_ms={chosen.target_ms:g}"
        )
    front = pareto_front([(trial.accuracy or 0.0, trial.latency_ms or 0.0) for _, trial in found])
    near = sum(1 / NEAR <= latency / chosen.target_ms <= NEAR for latency in latencies)
    warning = ""
    if chosen.uses_latency and near < max(LEAST_NEAR, LEAST_SHARE * len(found)):
        warning = (
            f"{near} of the {len(found):,} networks are within a fifth of {chosen.target_ms:g} ms: a search for that target "
            f"would try more there"
        )
    best = most_accurate([trial for _, trial in found], chosen)
    return Rescored(chosen, own, tuple(found), tuple(found[index][1] for index in front), best, warning)


def _reward(meta: StudyMeta, target_ms: float | None, reward: str | Reward | None) -> Reward:
    """The reward that is asked for, else the study's; a new target keeps its exponents."""
    if isinstance(reward, Reward):
        return reward if target_ms is None else dataclasses.replace(reward, target_ms=target_ms)
    stored = Reward.from_json(meta.reward)
    target = stored.target_ms if target_ms is None else target_ms
    return dataclasses.replace(stored, target_ms=target) if reward is None else parse_reward(reward, target)


@dataclasses.dataclass(frozen=True, slots=True)
class Retrained:
    """One network: its trial, the folders of its runs, and the accuracy of each on the test images."""

    trial: Trial
    folders: tuple[str, ...]
    test_accuracies: tuple[float, ...]
    reward: float

    @property
    def test_accuracy(self) -> float:
        """The mean over the seeds."""
        return statistics.mean(self.test_accuracies)

    def to_json(self) -> dict[str, Any]:
        """One JSON object, as in `results.json`."""
        trial = self.trial
        return {
            "trial": trial.number, "architecture": trial.architecture, "proxy_accuracy": trial.accuracy,
            "latency_ms": trial.latency_ms, "params": trial.params, "madds": trial.madds,
            "test_accuracies": self.test_accuracies, "test_accuracy": self.test_accuracy, "reward": self.reward,
            "runs": self.folders,
        }  # fmt: skip


def retrain(
    study: str | os.PathLike[str], output: str | os.PathLike[str], *, target_ms: float | None = None,
    reward: str | Reward | None = None, recipe: str | Recipe = "cifar10", top: int = 15, seeds: int = 1,
    data: str | os.PathLike[str] | None = None, size: int | None = None, progress: bool = True,
) -> list[Retrained]:  # fmt: skip
    """Train the `top` networks with seeds 1 .. `seeds`, each run in a folder of its own that goes on where it was stopped.

    Data with splits is trained on its whole training split and scored on its test split (else its validation split); of
    undivided data the tenth that the search set aside stays out of training and is scored. The last epoch is what counts.
    `results.json` in `output` holds what came of it; the best of several is better there than it will be on other photos,
    because the same score chose it. ValueError for a recipe with `patience`, and for a folder of other runs. Paper, section 5.

    Example:
        from keras_mnasnet import search

        best = search.retrain("mine.study", "retrained", recipe="cifar10 epochs=1 batch_size=32", top=1)
        print(best[0].test_accuracy, best[0].folders)
    """
    for name, value in (("top", top), ("seeds", seeds)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be an integer >= 1. Received: {name}={value!r}")
    with Study.open(study, read_only=True) as opened:
        meta, trials = opened.meta, opened.trials()
    chosen, recipe = _reward(meta, target_ms, reward), parse_recipe(recipe) if isinstance(recipe, str) else recipe
    where = located(os.fspath(data)) if data else meta.data
    if where is None:
        raise ValueError("Training needs data. Received: data=None, and a study that names none")
    if is_table(where):
        raise ValueError(f"Training needs photos. Received: {where}, whose accuracies are predicted. Name photos with --data.")
    if recipe.patience:
        raise ValueError(
            f"Networks are compared after trainings that run to their end, because what chooses an epoch does not measure it. "
            f"Received: recipe={recipe.name!r} with patience={recipe.patience}. Leave it out, or set it to 0."
        )
    recipe = recipe.changed(keep="last")
    best = [trial for _, trial in ranked(trials, chosen) if trial.architecture][:top]
    if not best:
        raise ValueError("Training needs a network that the study has trained. Received: a study without one")
    check_networks(Path(study), best)
    folder = Path(output).expanduser().absolute()
    images = open_search_images(where)
    size = size or recipe.size or meta.evaluation.get("resolution", 224)
    header({
        "networks": f"the {len(best)} best of {len(trials):,} trials of {os.fspath(study)} by {chosen}, {seeds} trainings each",
        "data": f"{where}: {images.classes} classes; scored on {images.test.count:,} photos ({images.test_is})",
        "recipe": f"{recipe} at {size} pixels", "output": folder,
    }, shown=progress)  # fmt: skip
    found = []
    for trial in best:
        folders, scores = [], []
        for seed in range(FIRST_SEED, FIRST_SEED + seeds):
            own = folder / f"trial{trial.number}-seed{seed}"
            job = Job(
                data=where, network=trial.architecture, recipe=recipe.changed(seed=seed, size=size), holdout=images.holdout
            )
            _trained(own, job, progress)
            scores.append(_scored(own, images.test))
            folders.append(str(own))
            if progress:
                say(f"trial {trial.number}, seed {seed}: {100 * scores[-1]:.2f} % of the test images")
        latency = 1.0 if trial.latency_ms is None else trial.latency_ms
        found.append(Retrained(trial, tuple(folders), tuple(scores), chosen(statistics.mean(scores), latency)))
    write_json(folder / RESULTS, {
        "schema": SCHEMA, "data": where, "tested_on": images.test_is, "test_images": images.test.count,
        "recipe": str(recipe), "reward": chosen.to_json(), "networks": [each.to_json() for each in found],
    })  # fmt: skip
    return found


def _trained(folder: Path, job: Job, progress: bool) -> None:
    """The run in `folder`, begun or gone on with; one that is whole costs a moment. ValueError for a run of another job."""
    from keras_mnasnet.training import resume
    from keras_mnasnet.training.run import run_job

    if not (folder / RUN_FILE).is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        run_job(job, folder, progress=progress)
        return
    stored, asked = (_fields(each) for each in (read_run(folder)[0], job.anchored()))
    differs = [name for name, value in asked.items() if stored[name] != value]
    if differs:
        name = differs[0]
        raise ValueError(
            f"`output` (-o) must hold runs of what is retrained now, or none. Received: {folder} with {name}={stored[name]!r}, "
            f"not {name}={asked[name]!r}{f' (and {len(differs) - 1} other differences)' if differs[1:] else ''}. Repeat the "
            f"first command to go on with it, or name another folder."
        )
    resume(folder, progress=progress)


def _fields(job: Job) -> dict[str, Any]:
    """The fields of a job and those of its recipe."""
    found = {field.name: getattr(job, field.name) for field in dataclasses.fields(job)}
    return found | recipe_to_json(found.pop("recipe"))


def _scored(folder: Path, images: Any) -> float:
    """Top-1 of a finished run on the test images, 0..1."""
    from keras_mnasnet.benchmarks.accuracy import evaluate

    (found,) = evaluate(folder, images, progress=False)
    return found.top1


def export_optuna(
    study: str | os.PathLike[str], path: str | os.PathLike[str], *, objectives: str = "reward", name: str | None = None
) -> int:  # fmt: skip
    """Write the finished trials with their distributions, values and times into a new SQLite file; how many they are.

    Optuna is not what searches: this is for its dashboard and plots. Decisions become categorical distributions, failed
    trials Optuna's failed ones with their reason. The study is read as data: its space is not needed. ImportError without
    Optuna, OSError where the disk is full.

    Example:
        from keras_mnasnet import search

        search.export_optuna("mine.study", "optuna.db", objectives="pareto")
    """
    if objectives not in OBJECTIVES:
        raise ValueError(f"`objectives` must be one of {tuple(OBJECTIVES)}. Received: objectives={objectives!r}")
    place = Path(path).expanduser().absolute()
    if place.exists():
        raise ValueError(f"An export needs a new file. Received: {place}, which exists")
    if not place.parent.is_dir():
        raise ValueError(f"An export is written into an existing folder. Received: {place}, but {place.parent} is none")
    with Study.open(study, read_only=True) as opened:
        meta, trials = opened.meta, opened.trials()
    ended = highest(trials) + [trial for trial in trials if trial.status == "failed" and trial.of is None]
    ended.sort(key=lambda trial: trial.number)
    names = [name for name, _ in meta.decisions]
    for trial in ended:
        if sorted(trial.values) != sorted(names):
            raise ValueError(
                f"A trial must have a value for each decision of its study, {names}. Received: {list(trial.values)} of trial "
                f"{trial.number} of {os.fspath(study)}"
            )
    try:
        optuna = importlib.import_module("optuna")
    except ImportError as error:
        raise ImportError('An export for Optuna needs it: pip install "keras_mnasnet[optuna]"') from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {key: optuna.distributions.CategoricalDistribution(choices) for key, choices in meta.decisions}
    trials = [_trial(optuna, trial, distributions, objectives) for trial in ended]
    try:
        with replaced(place) as beside, contextlib.ExitStack() as stack:
            stack.callback(beside.with_name(f"{beside.name}-journal").unlink, missing_ok=True)
            storage = optuna.storages.RDBStorage(f"sqlite:///{beside}")
            stack.callback(storage.engine.dispose)
            stack.callback(storage.remove_session)
            written = optuna.create_study(
                storage=storage, study_name=name or Path(study).stem, directions=[way for way, _ in OBJECTIVES[objectives]]
            )
            for key in ("space", "algorithm", "seed", "device", "reward"):
                written.set_user_attr(key, getattr(meta, key))
            written.add_trials(trials)
    except Exception as error:
        found = [getattr(each, "orig", None) for each in (error, error.__cause__)]
        reason = next((each for each in found if isinstance(each, sqlite3.Error)), None)
        if reason is None:
            raise
        raise OSError(f"An export must be written to disk. Received: {reason}, for {place}. Make room, and repeat.") from error
    return len(ended)


def _trial(optuna: Any, trial: Trial, distributions: dict[str, Any], objectives: str) -> Any:
    values = [getattr(trial, field) for _, field in OBJECTIVES[objectives]]
    whole = trial.status == "done" and None not in values
    made = optuna.trial.create_trial(
        state=optuna.trial.TrialState.COMPLETE if whole else optuna.trial.TrialState.FAIL,
        values=values if whole else None, params=trial.values, distributions=distributions,
        user_attrs={key: getattr(trial, key) for key in ATTRIBUTES if getattr(trial, key) is not None} | {
            "number": trial.number
        },
    )  # fmt: skip
    for field, seconds in (("datetime_start", trial.started), ("datetime_complete", trial.finished)):
        if seconds is not None:
            setattr(made, field, datetime.datetime.fromtimestamp(seconds))
    return made
