"""What a study found: points, Pareto front, landmarks and the best networks, as one page, pictures and JSON."""

from __future__ import annotations

import dataclasses
import datetime
import html
import math
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.benchmarks.results import write_json
from keras_mnasnet.benchmarks.speed import stages
from keras_mnasnet.family import A1, B1, MOBILENET_V2
from keras_mnasnet.search.charts import COLORS, WIDE, Chart, Dots, Layer, Level, Line, Mark, png, svg
from keras_mnasnet.search.imagenet_table import is_table
from keras_mnasnet.search.latency import LatencyModel, parse_device, pixel1_ms
from keras_mnasnet.search.progress import rungs_of
from keras_mnasnet.search.results import most_accurate
from keras_mnasnet.search.rewards import Reward, pareto_front
from keras_mnasnet.search.screens import JUDGED_AFTER, LEAST_TAU, MEASURE, MOST_JUDGED, kendall_tau, scores_of
from keras_mnasnet.search.setup import evaluator_of
from keras_mnasnet.search.study import Study, check_networks
from keras_mnasnet.search.trials import StudyMeta, Trial, highest
from keras_mnasnet.utils.files import write_file
from keras_mnasnet.utils.system import machine
from keras_mnasnet.utils.text import Life

SCHEMA = 1
LANDMARKS = {"A1": A1, "B1": B1, "MobileNetV2": MOBILENET_V2}
TOP = 5
WIDEST = 10  # of the spaces' width multipliers
STYLE, SCRIPT = (Path(__file__).with_name(name) for name in ("report.css", "report.js"))
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
FRONT_ROWS = 25
ROOM_FOR_LABELS = 0.16  # of the range of accuracies, above the best
MEDIAN_OF, FACTS = 15, 3


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

    def to_json(self) -> dict[str, Any]:
        """One JSON object."""
        return {
            **_row(self.trial), "call": self.call, "architecture": self.trial.architecture,
            "stages": [dataclasses.asdict(stage) for stage in self.stages],
        }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SearchReport:
    """A study as it is shown. `done` are the finished trials in the order in which the algorithm learned of them; `at_target`
    is the most accurate of those within the target, None without one or where the reward has no target. `facts` are series of
    what the algorithm said of itself, `switches` how often it said 1 of what is 0 or 1.

    `files` is {name: path} of what was written.
    """

    name: str
    date: str
    meta: StudyMeta
    reward: Reward
    done: tuple[Trial, ...]
    failed: tuple[Trial, ...]
    waiting: int
    front: tuple[int, ...]
    best: tuple[Best, ...]
    at_target: Best | None
    landmarks: tuple[Landmark, ...]
    landmark_note: str
    facts: dict[str, tuple[tuple[int, float], ...]]
    switches: dict[str, tuple[int, int]]
    rungs: tuple[int, ...] = ()  # networks measured at each
    screens: dict[str, float | None] = dataclasses.field(default_factory=dict)  # Kendall's tau of each with the rewards
    inherited: float | None = None  # the mean share of parameters that began as another network's
    files: dict[str, Path] = dataclasses.field(default_factory=dict)

    @property
    def title(self) -> str:
        """`thompson on mbconv`."""
        return f"{self.meta.algorithm} on {self.meta.space}"

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
            "rungs": self.rungs,
            "inherited": self.inherited,
            "screens": self.screens,
            "hours": round(self.hours, 4),
            "training_hours": round(self.training_hours, 4),
            "front": [_row(self.done[index]) for index in self.front],
            "best": [best.to_json() for best in self.best],
            "at_target": self.at_target and self.at_target.to_json(),
            "landmarks": [dataclasses.asdict(each) for each in self.landmarks],
            "landmark_note": self.landmark_note,
        }  # fmt: skip


def _row(trial: Trial) -> dict[str, Any]:
    return {
        key: getattr(trial, key) for key in ("number", "rung", "accuracy", "latency_ms", "reward", "params", "madds", "values")
    }


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
        (trial for trial in highest(trials) if trial.accuracy is not None),
        key=lambda trial: (trial.told is None, trial.told, trial.number),
    )
    if not done:
        failed = sum(trial.status == "failed" for trial in trials)
        raise ValueError(
            f"A report needs a finished trial. Received: {study.path} with {len(trials)} trials, {failed} failed, none finished"
        )
    check_networks(study.path, done)
    meta = study.meta
    reward, rungs = Reward.from_json(meta.reward), rungs_of(meta)
    by_reward = sorted(done, key=lambda trial: (-math.inf if trial.reward is None else trial.reward, -trial.number))[::-1]
    within = most_accurate(done, reward)
    facts = _facts(done)
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
        at_target=None if within is None else _best(within, meta),
        landmarks=found,
        landmark_note=note,
        screens=_screens(meta, trials),
        rungs=tuple(
            sum(t.status == "done" and t.rung == rung for t in trials) for rung in range(len(rungs.shares) if rungs else 0)
        ),
        inherited=statistics.fmean(shares) if (shares := list(_inherited(study))) else None,
        facts={name: series for name, series in facts.items() if not _is_switch(series)},
        switches={
            name: (sum(value == 1 for _, value in series), len(series)) for name, series in facts.items() if _is_switch(series)
        },
    )


def _screens(meta: StudyMeta, trials: Sequence[Trial]) -> dict[str, float | None]:
    """{screen: Kendall's tau of its scores with the rewards of the first rung}; None with too few to judge it by."""
    found: dict[str, float | None] = {}
    for text in meta.evaluation.get("screens") or ():
        name = MEASURE if text.partition(":")[0] == MEASURE else text.rpartition(":")[0]
        known = [(scores_of(trial.extra), trial) for trial in trials if trial.status == "done" and not trial.rung]
        pairs = [(scores[name], trial.reward or 0.0) for scores, trial in known if name in scores]
        found[text] = kendall_tau(pairs[:MOST_JUDGED]) if len(pairs) >= JUDGED_AFTER else None
    return found


def _inherited(study: Study) -> Iterator[float]:
    """The share of parameters that each network began with another's."""
    for each in study.measurements():
        found = each.details.get("inherited")
        share = found.get("share") if isinstance(found, dict) else None
        if isinstance(share, int | float) and not each.failure:
            yield float(share)


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


def _is_switch(series: Sequence[tuple[int, float]]) -> bool:
    return all(value in (0, 1) for _, value in series)


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
    if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width <= WIDEST:
        width = None  # a space of someone's own may mean something else by it
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
    evaluate = evaluator_of(meta, device=False)
    found = {}
    for name, network in networks.items():
        result = evaluate(Trial(0, architecture=str(network)))
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
    if meta.evaluation.get("device_options", {}).get("benchmark_model") is not None:
        return {}, "The study's phone measured with a program of its own, which a report does not run."
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


def report(
    study: str | os.PathLike[str], output: str | os.PathLike[str] | None = None, *, top: int = TOP, landmarks: str = "latency",
    pictures: bool = True, progress: bool = True,
) -> SearchReport:  # fmt: skip
    """Write what a study found as a page: `report.html`, which needs nothing else, `report.json` and, with `pictures`, PNGs.

    `output`: a folder (default: NAME-report beside the study). `top`: networks with a table of their stages. `landmarks`:
    `latency` measures A1, B1 and MobileNetV2 as the study measured its networks, `train` also trains them as its trials were
    trained, `none` leaves them out. ImportError where pictures are asked for without matplotlib; nothing is written then.

    Example:
        from keras_mnasnet import search

        found = search.report("mine.study", pictures=False)
        print(found.best[0].call, found.files["html"])
    """
    path = Path(study).expanduser()
    place = Path(output).expanduser() if output is not None else path.with_name(f"{path.stem}-report")
    with (
        Study.open(path, read_only=True) as opened,
        Life("report: the landmarks", unit="network", shown=progress and landmarks != "none"),
    ):
        found = gather(opened, top=top, landmarks=landmarks)
    return write(found, place, pictures=pictures)


def write(report: SearchReport, folder: Path, *, pictures: bool) -> SearchReport:
    """Write the page, its JSON and its pictures into a folder; the report with its `files`."""
    groups = charts(report)
    drawn = {name: png(group, report.title) for name, group in groups.items()} if pictures else {}
    text = page(report, groups)
    folder.mkdir(parents=True, exist_ok=True)
    written = {"html": folder / "report.html", "json": folder / "report.json"}
    write_file(written["html"], text)
    write_json(written["json"], report.to_json())
    for name, content in drawn.items():
        written[name] = folder / f"{name}.png"
        write_file(written[name], content)
    return dataclasses.replace(report, files=written)


# The charts: each is described once, and drawn on the page and as a picture


def charts(report: SearchReport) -> dict[str, list[Chart]]:
    """{picture: its charts}: `pareto`, `history`, and `algorithm` where the algorithm reported facts."""
    found = {"pareto": [_pareto(report)], "history": _history(report)}
    facts = [
        Chart(
            "Controller entropy" if name == "entropy" else name.replace("_", " ").capitalize(), "finished trials",
            name.replace("_", " "), [x for x, _ in series], [y for _, y in series], [Line(series, "value")],
            f"as {report.meta.algorithm} reported it",
        )
        for name, series in report.facts.items()
    ]  # fmt: skip
    return found | ({"algorithm": facts} if facts else {})


def _pareto(report: SearchReport) -> Chart:
    points = [(_latency(trial), 100 * (trial.accuracy or 0.0)) for trial in report.done]
    texts = [_told(trial) for trial in report.done]
    slowest, front = 1.5 * max(x for x, _ in points), set(report.front)
    others = [index for index in range(len(points)) if index not in front]
    best = report.best[0].trial
    layers: list[Layer] = []
    if others:
        layers.append(Dots([points[i] for i in others], "other", "a network", [texts[i] for i in others]))
    on_front = [points[index] for index in report.front]
    layers += [
        Line(on_front, "value", steps=True),
        Dots(on_front, "value", "on the front", [texts[index] for index in report.front], 4.5),
        Dots(
            [(_latency(best), 100 * (best.accuracy or 0.0))], "best", f"best reward (trial {best.number})",
            [f"best reward, {_told(best)}"], 7,
        ),
    ]  # fmt: skip
    if report.at_target is not None and report.at_target.trial.number != best.number:
        within = report.at_target.trial
        place = [(_latency(within), 100 * (within.accuracy or 0.0))]
        label = f"most accurate within the target (trial {within.number})"
        layers.append(Dots(place, "target", label, [f"within the target, {_told(within)}"], 7))
    if report.reward.uses_latency:
        layers.append(Mark(report.reward.target_ms, None, f"target {report.reward.target_ms:g} ms", "target"))
    for each in report.landmarks:
        accuracy = None if each.accuracy is None else 100 * each.accuracy
        layers.append(Mark(each.latency_ms, accuracy, f"{each.name} {_ms(each.latency_ms)}", "known"))
    marks = [each for each in layers if isinstance(each, Mark)]
    xs = [x for x, _ in points] + [each.x for each in marks if each.y is not None or each.x <= slowest]
    ys = [y for _, y in points] + [each.y for each in marks if each.y is not None]
    ys.append(max(ys) + ROOM_FOR_LABELS * (max(ys) - min(ys)))
    return Chart("Accuracy against latency of every network", "latency, ms", "accuracy, %", xs, ys, layers, size=WIDE)


def _history(report: SearchReport) -> list[Chart]:
    xs, texts = list(range(1, len(report.done) + 1)), [_told(trial) for trial in report.done]

    def over_time(title: str, y: str, values: list[float], levels: list[Level]) -> Chart:
        points = list(zip(xs, values, strict=True))
        medians = Line(list(zip(xs, _medians(values), strict=True)), "value")
        layers: list[Layer] = [Dots(points, "other", "", texts, 3.5), medians, *levels]
        note = f"dots: trials; line: median of the last {MEDIAN_OF}"
        return Chart(title, "finished trials", y, xs, values + [each.y for each in levels], layers, note)

    target = report.reward.target_ms
    levels = [Level(target, f"target {target:g} ms", "target")] if report.reward.uses_latency else []
    best = report.running_best()
    return [
        over_time("Accuracy", "accuracy, %", [100 * (trial.accuracy or 0.0) for trial in report.done], []),
        over_time("Latency", "latency, ms", [_latency(trial) for trial in report.done], levels),
        Chart(
            "Best reward", "finished trials", "best reward so far", xs, best,
            [Line(list(zip(xs, best, strict=True)), "best", steps=True)], str(report.reward),
        ),
    ]  # fmt: skip


def _medians(values: list[float]) -> list[float]:
    return [statistics.median(values[max(0, place - MEDIAN_OF + 1) : place + 1]) for place in range(len(values))]


# The page


def page(report: SearchReport, groups: Mapping[str, Sequence[Chart]]) -> str:
    """The HTML of a report with its charts: one page that needs nothing else, styles and the few lines of script inside."""
    title = report.title
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{_text(title)}: {_text(report.name)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><style>{_style()}</style></head><body><main>'
        f"<h1>{_text(title)}</h1>{_about(report)}{_tiles(report)}"
        f"<h2>Accuracy and latency</h2>{_front(report, groups['pareto'][0])}{_front_table(report)}"
        f'<h2>Over time</h2><div class="pair">{_over_time(report, groups)}</div>'
        f"<h2>The best networks</h2>{''.join(_network(best, f'{place}.') for place, best in enumerate(report.best, start=1))}"
        f"{_at_target(report)}"
        f"<h2>The study</h2>{_settings(report)}{_failures(report)}"
        f"</main><script>{SCRIPT.read_text('utf-8')}</script></body></html>\n"
    )


def _text(value: Any) -> str:
    return html.escape(str(value))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g} ms" if value < 100 else f"{value:.1f} ms"


def _told(trial: Trial) -> str:
    reward = "" if trial.reward is None else f", reward {trial.reward:.4f}"
    return f"trial {trial.number}: {_percent(trial.accuracy)}, {_ms(trial.latency_ms)}{reward}"


def _about(report: SearchReport) -> str:
    meta = report.meta
    data = f", {'accuracies predicted from' if is_table(meta.data) else 'trained on'} {_text(meta.data)}" if meta.data else ""
    device = f", latency from {_text(meta.device)}" if meta.device else ""
    return f'<p class="soft">{_text(report.name)}; reward {_text(report.reward)}{data}{device}; {_text(report.date)}</p>'


def _tiles(report: SearchReport) -> str:
    best = report.best[0].trial
    within = []
    if report.reward.uses_latency:
        found = report.at_target and report.at_target.trial
        target = f"{report.reward.target_ms:g} ms"
        within = [(_percent(found.accuracy), f"of the most accurate within {target} (trial {found.number})")] if found else []
        within = within or [("none", f"of the networks is within {target}")]
    tiles = [
        (f"{len(report.done):,}", _counted_as(report.meta.data)),
        (_percent(best.accuracy), "accuracy of the best by reward"),
        (_ms(best.latency_ms), "its latency"),
        *within,
        (f"{len(report.front)}", "networks on the front"),
        (f"{report.hours:.1f} h" if report.hours >= 1 else f"{60 * report.hours:.0f} min", "from first start to last finish"),
        (f"{len(report.failed):,}", "failed trials"),
    ]
    cards = "".join(f"<div class=card><b>{value}</b><span>{name}</span></div>" for value, name in tiles)
    return f'<div class="tiles">{cards}</div>'


def _counted_as(data: str | None) -> str:
    if is_table(data):
        return "networks, their accuracies predicted; none was trained"
    return "networks trained" if data else "networks evaluated"


def _style() -> str:
    """The style sheet; LIGHT, DARK and CLASSES in it stand for the colors of the charts."""
    light, dark = ("".join(f"--{style}:{pair[index]};" for style, pair in COLORS.items()) for index in (0, 1))
    classes = "".join(
        f"path.{style}{{stroke:var(--{style})}}circle.{style},path.{style}.point,text.{style}{{fill:var(--{style})}}"
        for style in COLORS
    )
    return STYLE.read_text("utf-8").replace("LIGHT", light).replace("DARK", dark).replace("CLASSES", classes)


def _front(report: SearchReport, chart: Chart) -> str:
    named = {layer.style: layer.label for layer in chart.layers if isinstance(layer, Dots)}
    named |= {"known": "known networks"} if report.landmarks else {}
    spans = "".join(f"<span><i style=background:var(--{style})></i>{_text(label)}</span>" for style, label in named.items())
    return f'<div class="card"><div class="key">{spans}</div>{svg(chart)}{_landmark_table(report)}</div>'


def _over_time(report: SearchReport, groups: Mapping[str, Sequence[Chart]]) -> str:
    cards = "".join(
        f'<div class="card"><h3>{_text(chart.title)}</h3><p class="soft">{_text(chart.note)}</p>{svg(chart)}</div>'
        for chart in [*groups["history"], *groups.get("algorithm", ())[:FACTS]]
    )
    return cards


def _landmark_table(report: SearchReport) -> str:
    note = f'<p class="soft">{_text(report.landmark_note)}</p>' if report.landmark_note else ""
    rows = [
        (each.name, _ms(each.latency_ms), each.how, _percent(each.accuracy) if each.accuracy else "not trained in this study")
        for each in report.landmarks
    ]
    return (_table(("known network", "latency", "from", "accuracy"), rows) if rows else "") + note


def _front_table(report: SearchReport) -> str:
    shown = report.front[-FRONT_ROWS:]
    rows = [
        (
            trial.number,
            _percent(trial.accuracy),
            _ms(trial.latency_ms),
            "-" if trial.reward is None else f"{trial.reward:.4f}",
            _millions(trial.params),
            _millions(trial.madds),
        )
        for trial in (report.done[index] for index in shown)
    ]
    left_out = len(report.front) - len(shown)
    note = f'<p class="soft">The {left_out} fastest are left out here; report.json has them.</p>' if left_out else ""
    table = _table(("trial", "accuracy", "latency", "reward", "parameters", "multiply-adds"), rows, numbers=range(6))
    return f'<div class="card wide"><h3>The Pareto front, fastest first</h3>{note}{table}</div>'


def _millions(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.{1 if count >= 1e8 else 2}f} M"


def _table(header: tuple[str, ...], rows: list[tuple], numbers: Any = ()) -> str:
    def cells(tag: str, values: tuple) -> str:
        return "".join(
            f"<{tag}{' class=n' if place in numbers else ''}>{_text(value)}</{tag}>" for place, value in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><thead><tr>{cells('th', header)}</tr></thead><tbody>{body}</tbody></table>"


def _at_target(report: SearchReport) -> str:
    """The most accurate network within the target, where it is not shown among the best."""
    found = report.at_target
    if found is None or found.trial.number in [best.trial.number for best in report.best]:
        return ""
    return _network(found, "The most accurate within the target:")


def _network(best: Best, place: str) -> str:
    trial = best.trial
    head = f"<h3>{place} trial {trial.number}: {_percent(trial.accuracy)} at {_ms(trial.latency_ms)}</h3>"
    totals = [f"reward {trial.reward:.4f}"] if trial.reward is not None else []
    totals += [f"rung {trial.rung + 1}"] if trial.rung else []
    totals += [f"{_millions(trial.params)} parameters"] if trial.params else []
    totals += [f"{_millions(trial.madds)} multiply-adds"] if trial.madds else []
    head += f'<p class="soft">{_text("; ".join(totals))}</p>'
    if best.call is None:
        return f'<div class="card wide">{head}{_table(("decision", "choice"), list(trial.values.items()))}</div>'
    rows = [(row.name, row.text, f"{row.size} x {row.size}", row.filters, f"{row.madds / 1e6:.2f} M") for row in best.stages]
    table = _table(("stage", "block", "map", "channels", "multiply-adds"), rows, numbers=(2, 3, 4))
    code = f"from keras_mnasnet import MnasNet\n\nmodel = {best.call}"
    button = f'<button type="button" data-copies="call{trial.number}">Copy</button>'
    code = f'<div class="code">{button}<pre id="call{trial.number}">{_text(code)}</pre></div>'
    return f'<div class="card wide">{head}{table}{code}</div>'


def _settings(report: SearchReport) -> str:
    meta = report.meta
    rows: list[tuple[str, Any]] = [
        ("space", f"{meta.space} {meta.space_options or ''}"), ("reward", report.reward),
        ("algorithm", f"{meta.algorithm} {meta.algorithm_options or ''}"), ("seed", meta.seed),
        ("device", meta.device or "none"), ("data", meta.data or "none"),
    ]  # fmt: skip
    rows += [(f"evaluation: {name}", value) for name, value in meta.evaluation.items() if name != "read"]
    rows += [(f"recipe: {name}", value) for name, value in (meta.recipe or {}).items()]
    rows += [(name, value) for name, value in meta.environment.items()]
    rows += [(name.replace("_", " "), f"after {count} of {total} results") for name, (count, total) in report.switches.items()]
    rows += [
        ("begun", meta.created or "not stated"),
        ("trials", f"{len(report.done)} finished, {len(report.failed)} failed, {report.waiting} open"),
        *((f"screen {name}", _judged(name, tau)) for name, tau in report.screens.items()),
        *([("networks at each rung", ", ".join(map(str, report.rungs)))] if report.rungs else []),
        *([("parameters inherited, on average", _percent(report.inherited))] if report.inherited is not None else []),
        ("time of all trials together", f"{report.training_hours:.2f} h"),
    ]  # fmt: skip
    return f'<div class="card wide">{_table(("setting", "value"), rows)}</div>'


def _judged(name: str, tau: float | None) -> str:
    if tau is None:
        return f"fewer than {JUDGED_AFTER} results to judge it by"
    drops = tau < LEAST_TAU and not name.startswith(MEASURE)
    return f"Kendall tau {tau:.2f} with the rewards{': dropped' if drops else ''}"


def _failures(report: SearchReport) -> str:
    if not report.failed:
        return ""
    rows = [(trial.number, trial.reason or "no reason given") for trial in report.failed]
    return f'<div class="card wide"><h3>Failed trials</h3>{_table(("trial", "reason"), rows)}</div>'
