"""What a study found: points, Pareto front, landmarks and the best networks, as one page, pictures and JSON."""

from __future__ import annotations

import dataclasses
import datetime
import math
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.benchmarks.speed import stages
from keras_mnasnet.family import A1, B1
from keras_mnasnet.search.landmarks import MOBILENET_V2
from keras_mnasnet.search.latency import LatencyModel, parse_device, pixel1_ms
from keras_mnasnet.search.rewards import Reward, pareto_front
from keras_mnasnet.search.study import Study
from keras_mnasnet.search.trials import StudyMeta, Trial
from keras_mnasnet.utils.files import replaced
from keras_mnasnet.utils.system import machine

__all__ = ["Best", "gather", "SearchReport", "write_report"]

SCHEMA = 1
LANDMARKS = {"A1": A1, "B1": B1, "MobileNetV2": MOBILENET_V2}
TOP = 5


@dataclasses.dataclass(frozen=True, slots=True)
class Landmark:
    """A known network at the study's input size and classes. `how` says where its latency is from.

    `accuracy` only where it was trained as the study's trials are.
    """

    name: str
    latency_ms: float
    how: str
    accuracy: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Stage:
    """One row of a stage table: the part's text, the map it gives, its multiply-adds."""

    name: str
    text: str
    size: int
    filters: int
    madds: int


@dataclasses.dataclass(frozen=True, slots=True)
class Best:
    """One of the best networks; `call` is the line that builds it (None in a space not of networks)."""

    trial: Trial
    call: str | None
    stages: tuple[Stage, ...]


@dataclasses.dataclass(frozen=True)
class SearchReport:
    """A study as it is shown. `done` are the finished trials in the order in which the algorithm learned of them."""

    name: str
    date: str
    meta: StudyMeta
    reward: Reward
    done: tuple[Trial, ...]
    failed: tuple[Trial, ...]
    waiting: int
    front: tuple[int, ...]
    best: tuple[Best, ...]
    landmarks: tuple[Landmark, ...]
    landmark_note: str
    facts: dict[str, tuple[tuple[int, float], ...]]

    @property
    def hours(self) -> float:
        """From the first start to the last finish, pauses included."""
        started = [trial.started for trial in self.done if trial.started is not None]
        finished = [trial.finished for trial in self.done if trial.finished is not None]
        return (max(finished) - min(started)) / 3600 if started and finished else 0.0

    @property
    def training_hours(self) -> float:
        """Of all finished trials together."""
        return sum(sum(trial.seconds.values()) for trial in self.done) / 3600

    def running_best(self) -> list[float]:
        """The best reward so far, after each finished trial."""
        found: list[float] = []
        for trial in self.done:
            found.append(max(found[-1] if found else -math.inf, trial.reward if trial.reward is not None else -math.inf))
        return found

    def to_json(self) -> dict[str, Any]:
        """One JSON value with a schema version."""
        return {
            "schema": SCHEMA,
            "study": self.name,
            "date": self.date,
            "meta": dataclasses.asdict(self.meta),
            "trials": {"done": len(self.done), "failed": len(self.failed), "waiting": self.waiting},
            "hours": round(self.hours, 4),
            "training_hours": round(self.training_hours, 4),
            "front": [_row(self.done[index]) for index in self.front],
            "best": [
                {
                    **_row(best.trial), "call": best.call, "architecture": best.trial.architecture,
                    "stages": [dataclasses.asdict(stage) for stage in best.stages],
                }
                for best in self.best
            ],
            "landmarks": [dataclasses.asdict(each) for each in self.landmarks],
            "landmark_note": self.landmark_note,
        }  # fmt: skip


def _row(trial: Trial) -> dict[str, Any]:
    return {key: getattr(trial, key) for key in ("number", "accuracy", "latency_ms", "reward", "params", "madds", "values")}


def gather(study: Study, *, top: int = TOP, landmarks: str = "latency") -> SearchReport:
    """Read a study; ValueError where no trial is finished yet.

    `landmarks`: `latency` measures A1, B1 and MobileNetV2 as the study measured its networks, `train` also trains them as its
    trials were trained, `none` leaves them out.
    """
    if landmarks not in ("latency", "train", "none"):
        raise ValueError(f"`landmarks` must be latency, train or none. Received: landmarks={landmarks!r}")
    if isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise ValueError(f"`top` must be an integer of 1 or more. Received: top={top!r}")
    trials = study.trials()
    done = sorted(
        (trial for trial in trials if trial.status == "done" and trial.accuracy is not None),
        key=lambda trial: (trial.told is None, trial.told, trial.number),
    )
    if not done:
        failed = sum(trial.status == "failed" for trial in trials)
        raise ValueError(
            f"A report needs a finished trial. Received: {study.path} with {len(trials)} trials, {failed} failed, none finished"
        )
    meta = study.meta
    reward = Reward.from_json(meta.reward)
    by_reward = sorted(done, key=lambda trial: (-math.inf if trial.reward is None else trial.reward, -trial.number))[::-1]
    found, note = ((), "") if landmarks == "none" else _landmarks(meta, done, train=landmarks == "train")
    return SearchReport(
        name=study.path.name,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        meta=meta,
        reward=reward,
        done=tuple(done),
        failed=tuple(trial for trial in trials if trial.status == "failed"),
        waiting=sum(trial.status in ("pending", "running") for trial in trials),
        front=tuple(pareto_front([(trial.accuracy or 0.0, _latency(trial)) for trial in done])),
        best=tuple(_best(trial, meta) for trial in by_reward[:top]),
        landmarks=found,
        landmark_note=note,
        facts=_facts(done),
    )


def _latency(trial: Trial) -> float:
    return 0.0 if trial.latency_ms is None else trial.latency_ms


def _shape(meta: StudyMeta) -> tuple[int, int]:
    """Input size and classes of the study."""
    return int(meta.evaluation.get("resolution") or 224), int(meta.evaluation.get("classes") or 1000)


def _best(trial: Trial, meta: StudyMeta) -> Best:
    if trial.architecture is None:
        return Best(trial, None, ())
    resolution, classes = _shape(meta)
    network = Architecture.parse(trial.architecture)
    call = f'MnasNet("{network}", input_shape=({resolution}, {resolution}, 3), classes={classes})'
    madds = stages(network, resolution, classes)
    size = -(-resolution // network.stem_stride)
    rows = [Stage("stem", f"3x3, stride {network.stem_stride}", size, network.stem, madds["stem"])]
    for number, block in enumerate(network.blocks, start=1):
        size = -(-size // block.stride)
        rows.append(Stage(str(number), str(block), size, block.filters, madds[f"block{number}"]))
    rows.append(Stage("head", "1x1", size, network.head, madds["head"]))
    rows.append(Stage("classifier", "mean, dense", 1, classes, madds["classifier"]))
    return Best(trial, call, tuple(rows))


def _facts(done: Sequence[Trial]) -> dict[str, tuple[tuple[int, float], ...]]:
    """{fact: ((finished trials, value), ...)}, the controller's entropy first."""
    found: dict[str, list[tuple[int, float]]] = {}
    for place, trial in enumerate(done, start=1):
        for name, value in (trial.facts or {}).items():
            if isinstance(value, int | float) and math.isfinite(value):
                found.setdefault(name, []).append((place, float(value)))
    return {name: tuple(found[name]) for name in sorted(found, key=lambda name: (name != "entropy", name))}


def _landmarks(meta: StudyMeta, done: Sequence[Trial], *, train: bool) -> tuple[tuple[Landmark, ...], str]:
    """A1, B1 and MobileNetV2 on the study's device where it can be asked, else by the Pixel-1 model; and a note on which.

    They have the space's width multiplier and the stem stride of the study's networks.
    """
    texts = [trial.architecture for trial in done if trial.architecture is not None]
    if not texts:
        return (), "The space is not of networks: no landmarks."
    resolution, classes = _shape(meta)
    stride = Architecture.parse(texts[0]).stem_stride
    width = meta.space_options.get("width")
    networks = {
        name if width is None else f"{name} x {width:g}": network.scaled(width).with_stem_stride(stride)
        for name, network in LANDMARKS.items()
    }
    trained = {name: _found(network, done) for name, network in networks.items()}
    if train:
        trained |= _trained({name: network for name, network in networks.items() if trained[name] is None}, meta)
    found, note = _asked(meta, networks, resolution, classes)
    if not found:
        found, note = _scaled(done, networks, resolution, classes, note)
    return tuple(
        Landmark(name, latency, how, accuracy) if (accuracy := trained[name]) is not None else Landmark(name, latency, how)
        for name, (latency, how) in found.items()
    ), note


def _trained(networks: dict[str, Architecture], meta: StudyMeta) -> dict[str, float]:
    """Their accuracies after the study's own proxy training; ValueError says why one has none."""
    from keras_mnasnet.search.setup import evaluator_of
    from keras_mnasnet.search.trials import TrialRequest

    evaluate = evaluator_of(meta, device=False)
    found = {}
    for name, network in networks.items():
        result = evaluate(TrialRequest(0, 1, (), {}, str(network)))
        if result.accuracy is None:
            raise ValueError(f"A landmark must train as the study's trials do. Received: {name}: {result.failure}")
        found[name] = result.accuracy
    return found


def _found(network: Architecture, done: Sequence[Trial]) -> float | None:
    """The accuracy of the study's trial that is this network."""
    for trial in done:
        if trial.architecture is not None and Architecture.parse(trial.architecture).same_network(network):
            return trial.accuracy
    return None


def _asked(
    meta: StudyMeta, networks: dict[str, Architecture], resolution: int, classes: int
) -> tuple[dict[str, tuple[float, str]], str]:
    """Latencies from the study's own device; nothing, and why, where this is another machine or the device is away."""
    if not meta.device:
        return {}, "The study states no device."
    began_on = meta.environment.get("processor")
    if meta.device.split(",")[0] == "host" and began_on and began_on != machine()["processor"]:
        return {}, f"The study was measured on another machine ({began_on})."
    model: LatencyModel | None = None
    try:
        model = parse_device(meta.device, **meta.evaluation.get("device_options", {}))
        answers = {name: model.latency_ms(network, resolution, classes) for name, network in networks.items()}
    except (ValueError, OSError, TypeError) as error:
        return {}, f"The study's device did not answer: {error}"
    finally:
        if model is not None:
            model.close()
    return {
        name: (answer.latency_ms, f"{answer.source}{', extrapolated' if answer.extrapolated else ''}")
        for name, answer in answers.items()
    }, f"Latency of the landmarks: {meta.device}, the study's own device."


def _scaled(
    done: Sequence[Trial], networks: dict[str, Architecture], resolution: int, classes: int, why: str
) -> tuple[dict[str, tuple[float, str]], str]:
    """The Pixel-1 model times what the study's networks took for each of its milliseconds."""
    ratios = [
        trial.latency_ms / pixel1_ms(Architecture.parse(trial.architecture), resolution, classes=classes)
        for trial in done
        if trial.architecture is not None and trial.latency_ms
    ]
    if not ratios:
        return {}, f"{why} The study has no latencies: no landmarks."
    scale = statistics.median(ratios)
    how = f"Pixel-1 model x {scale:.3g}"
    return {
        name: (scale * pixel1_ms(network, resolution, classes=classes), how) for name, network in networks.items()
    }, f"{why} Landmarks by the Pixel-1 model times {scale:.3g}, the median over this study's networks: an estimate."


def write_report(report: SearchReport, folder: str | os.PathLike[str], *, pictures: bool = True) -> dict[str, Path]:
    """Write `report.html`, `report.json` and, with `pictures`, PNGs into a folder; {name: path}.

    ImportError with the way out where pictures are asked for and matplotlib is missing; nothing is written then.
    """
    from keras_mnasnet.benchmarks.results import write_json
    from keras_mnasnet.search.report_html import page

    place = Path(folder).expanduser()
    drawn = {}
    if pictures:
        from keras_mnasnet.search.report_plots import plots

        drawn = plots(report)
    text = page(report)
    place.mkdir(parents=True, exist_ok=True)
    written = {"html": place / "report.html", "json": place / "report.json"}
    with replaced(written["html"]) as temporary:
        temporary.write_text(text, "utf-8")
    write_json(written["json"], report.to_json())
    for name, content in drawn.items():
        written[name] = place / f"{name}.png"
        with replaced(written[name]) as temporary:
            temporary.write_bytes(content)
    return written
