"""A study as an Optuna study, for its dashboard and plots; Optuna is not what searches."""

from __future__ import annotations

import datetime
import importlib
import os
from pathlib import Path
from typing import Any

from keras_mnasnet.search.records import Trial
from keras_mnasnet.search.space import SearchSpace
from keras_mnasnet.search.study import Study

__all__ = ["export_optuna"]

OBJECTIVES = {"reward": (("maximize", "reward"),), "pareto": (("maximize", "accuracy"), ("minimize", "latency_ms"))}
ATTRIBUTES = ("accuracy", "latency_ms", "latency_source", "reward", "params", "madds", "architecture", "worker", "reason")


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
