"""What is done with the trials of a study: its best networks trained fully, and a copy for Optuna's dashboard."""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_mnasnet.benchmarks.results import write_json
from keras_mnasnet.search.evaluator import open_search_images
from keras_mnasnet.search.rewards import Reward
from keras_mnasnet.search.space import SearchSpace
from keras_mnasnet.search.study import Study
from keras_mnasnet.search.trials import StudyMeta, Trial

if TYPE_CHECKING:
    from keras_mnasnet.training.recipe import Recipe

__all__ = ["export_optuna", "ranked", "RESULTS", "retrain"]

OBJECTIVES = {"reward": (("maximize", "reward"),), "pareto": (("maximize", "accuracy"), ("minimize", "latency_ms"))}
ATTRIBUTES = ("accuracy", "latency_ms", "latency_source", "reward", "params", "madds", "architecture", "worker", "reason")

SCHEMA = 1
RESULTS = "results.json"
FIRST_SEED = 1  # the proxies' recipe has seed 0


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


def ranked(trials: Sequence[Trial], reward: Reward) -> list[tuple[float, Trial]]:
    """The trained networks by a reward of what is stored, best first."""
    found = [
        (reward(trial.accuracy, 1.0 if trial.latency_ms is None else trial.latency_ms), trial)
        for trial in trials
        if trial.status == "done" and trial.accuracy is not None and (trial.latency_ms or not reward.uses_latency)
    ]
    return sorted(found, key=lambda pair: (-pair[0], pair[1].number))


def retrain(
    meta: StudyMeta, trials: Sequence[Trial], folder: Path, *, reward: Reward, recipe: Recipe, top: int = 15, seeds: int = 1,
    data: str | None = None, resolution: int | None = None, progress: bool = True,
    watch: Callable[[Trial, int, float], Any] | None = None,
) -> list[Retrained]:  # fmt: skip
    """Train the `top` networks with seeds 1 .. `seeds`, each run in a folder of its own that goes on where it was stopped.

    Data with splits is trained on its whole training split and scored on its test split (else its validation split); of
    undivided data the tenth that the search set aside stays out of training and is scored. `results.json` holds the outcome.
    """
    for name, value in (("top", top), ("seeds", seeds)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be an integer >= 1. Received: {name}={value!r}")
    where = data or meta.data
    if where is None:
        raise ValueError("Training needs data. Received: data=None, and a study that names none")
    best = [trial for _, trial in ranked(trials, reward) if trial.architecture][:top]
    if not best:
        raise ValueError("Training needs a network that the study has trained. Received: a study without one")
    images = open_search_images(where)
    size = resolution or recipe.size or meta.evaluation.get("resolution", 224)
    found = []
    for trial in best:
        folders, scores = [], []
        for seed in range(FIRST_SEED, FIRST_SEED + seeds):
            own = folder / f"trial{trial.number}-seed{seed}"
            _trained(own, trial, images.holdout, where, recipe.changed(seed=seed, size=size), progress)
            score = _scored(own, images.test)
            folders.append(str(own))
            scores.append(score)
            if watch is not None:
                watch(trial, seed, score)
        accuracy = statistics.mean(scores)
        latency = 1.0 if trial.latency_ms is None else trial.latency_ms
        found.append(Retrained(trial, tuple(folders), tuple(scores), reward(accuracy, latency)))
    write_json(folder / RESULTS, {
        "schema": SCHEMA, "data": where, "tested_on": images.test_is, "test_images": images.test.count,
        "recipe": str(recipe), "reward": reward.to_json(), "networks": [
            {
                "trial": each.trial.number, "architecture": each.trial.architecture, "proxy_accuracy": each.trial.accuracy,
                "latency_ms": each.trial.latency_ms, "params": each.trial.params, "madds": each.trial.madds,
                "test_accuracies": each.test_accuracies, "test_accuracy": each.test_accuracy, "reward": each.reward,
                "runs": each.folders,
            }
            for each in found
        ],
    })  # fmt: skip
    return found


def _trained(folder: Path, trial: Trial, holdout: float, data: str, recipe: Recipe, progress: bool) -> None:
    """The run in `folder`, begun or gone on with; one that is whole costs a moment."""
    from keras_mnasnet.training import Job, resume, train
    from keras_mnasnet.training.job import RUN_FILE

    if (folder / RUN_FILE).is_file():
        resume(folder, progress=progress)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    job = Job(data=data, recipe=recipe, model=trial.architecture, holdout=holdout)
    train(folder, job, progress=progress)


def _scored(folder: Path, images: Any) -> float:
    """Top-1 of a finished run on the test images, 0..1."""
    from keras_mnasnet.benchmarks.accuracy import evaluate

    (found,) = evaluate(folder, images, progress=False)
    return found.top1


def export_optuna(
    study: Study, space: SearchSpace, path: str | os.PathLike[str], *, objectives: str = "reward", name: str | None = None
) -> int:
    """Write the finished trials with their distributions, values and times into a new SQLite file; how many they are.

    Decisions become categorical distributions, failed trials Optuna's failed ones with their reason. ImportError without
    Optuna.
    """
    if objectives not in OBJECTIVES:
        raise ValueError(f"`objectives` must be one of {tuple(OBJECTIVES)}. Received: objectives={objectives!r}")
    place = Path(path).expanduser().absolute()
    if place.exists():
        raise ValueError(f"An export needs a new file. Received: {place}, which exists")
    if not place.parent.is_dir():
        raise ValueError(f"An export is written into an existing folder. Received: {place}, but {place.parent} is none")
    try:
        optuna = importlib.import_module("optuna")
    except ImportError as error:
        raise ImportError('An export for Optuna needs it: pip install "keras_mnasnet[optuna]"') from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {
        decision.name: optuna.distributions.CategoricalDistribution(decision.choices) for decision in space.decisions
    }
    ended = [trial for trial in study.trials() if trial.status in ("done", "failed")]
    beside = place.with_name(f".{place.name}.new")
    beside.unlink(missing_ok=True)
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{beside}")
        written = optuna.create_study(
            storage=storage, study_name=name or study.path.stem, directions=[way for way, _ in OBJECTIVES[objectives]]
        )
        for key in ("space", "algorithm", "seed", "device", "reward"):
            written.set_user_attr(key, getattr(study.meta, key))
        written.add_trials([_trial(optuna, trial, distributions, objectives) for trial in ended])
        storage.remove_session()
        storage.engine.dispose()
        os.replace(beside, place)
    finally:
        beside.unlink(missing_ok=True)
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
