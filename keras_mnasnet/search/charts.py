"""Charts as values: dots, lines, levels and marks; each is drawn as inline SVG for a page and with matplotlib as PNG."""

from __future__ import annotations

import dataclasses
import html
import io
import math
from collections.abc import Sequence
from typing import Any

WIDE, SMALL = (760.0, 400.0), (480.0, 280.0)  # width and height, in the units of the text's 12
LEFT, RIGHT, TOP, BOTTOM = 64.0, 22.0, 26.0, 50.0
LABEL_STEP = 14.0
COLORS = {  # style: (light, dark)
    "other": ("#b4b3ab", "#65645e"), "value": ("#2368c4", "#5b9bea"), "best": ("#c9531d", "#f0864f"),
    "target": ("#14835b", "#3cc190"), "known": ("#6b4fc0", "#a58df0"),
}  # fmt: skip
PNG_SIZE, PNG_DPI = (8.0, 4.6), 150
DASHES = (":", "-.", (0, (1, 3)), (0, (5, 1, 1, 1)))  # of upright marks in a PNG, which its legend tells apart

Points = Sequence[tuple[float, float]]


@dataclasses.dataclass(frozen=True, slots=True)
class Dots:
    """Dots in the color of `style`; `texts` tell of each, `label` of all."""

    points: Points
    style: str
    label: str = ""
    texts: Sequence[str] = ()
    radius: float = 4.0


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """A line, or stairs that rise where the next point begins."""

    points: Points
    style: str
    steps: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Level:
    """A labeled line over the whole width, where it is inside."""

    y: float
    label: str
    style: str


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """A labeled place: a point, or with `y` None a line over the whole height; one beyond the right edge is named there."""

    x: float
    y: float | None
    label: str
    style: str


Layer = Dots | Line | Level | Mark


@dataclasses.dataclass(frozen=True, slots=True)
class Chart:
    """One chart. `x` and `y` name the axes, whose ranges hold all of `xs` and `ys`; `note` says what is drawn how."""

    title: str
    x: str
    y: str
    xs: Sequence[float]
    ys: Sequence[float]
    layers: Sequence[Layer]
    note: str = ""
    size: tuple[float, float] = SMALL

    @property
    def x_range(self) -> tuple[float, float]:
        """From left to right."""
        return _padded(self.xs)

    @property
    def y_range(self) -> tuple[float, float]:
        """From bottom to top."""
        return _padded(self.ys)


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """About `count` round numbers (1, 2, 2.5 or 5 times a power of ten apart) from `low` to `high`."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def svg(chart: Chart) -> str:
    """The chart as an `<svg>` element; colors are CSS classes of the page."""
    return _Drawing(chart).svg()


class _Drawing:
    def __init__(self, chart: Chart) -> None:
        self.chart = chart
        self.width, self.height = chart.size
        self.x_range, self.y_range = chart.x_range, chart.y_range
        self.parts: list[str] = []
        self.taken: list[float] = []

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a value is drawn."""
        (left, right), (low, high) = self.x_range, self.y_range
        across = LEFT + (x - left) / (right - left) * (self.width - LEFT - RIGHT)
        return across, self.height - BOTTOM - (y - low) / (high - low) * (self.height - TOP - BOTTOM)

    def svg(self) -> str:
        self.axes()
        for layer in self.chart.layers:
            if isinstance(layer, Dots):
                self.dots(layer)
            elif isinstance(layer, Line):
                self.line(layer)
            elif isinstance(layer, Level):
                self.level(layer)
            else:
                self.mark(layer)
        return (
            f'<svg viewBox="0 0 {self.width:g} {self.height:g}" role="img" aria-label="{html.escape(self.chart.title)}">'
            f"{''.join(self.parts)}</svg>"
        )

    def axes(self) -> None:
        bottom, right, middle = self.height - BOTTOM, self.width - RIGHT, (TOP + self.height - BOTTOM) / 2
        for value in ticks(*self.x_range, count=8):
            across = self.at(value, self.y_range[0])[0]
            self.path("grid", f"M{across:.1f} {TOP}V{bottom}")
            self.text(across, bottom + 17, f"{value:g}", "middle", "tick")
        for value in ticks(*self.y_range):
            down = self.at(self.x_range[0], value)[1]
            self.path("grid", f"M{LEFT} {down:.1f}H{right}")
            self.text(LEFT - 8, down + 4, f"{value:g}", "end", "tick")
        self.path("axis", f"M{LEFT} {TOP}V{bottom}H{right}")
        self.text((LEFT + right) / 2, self.height - 10, self.chart.x, "middle", "name")
        self.text(15, middle, self.chart.y, "middle", "name", f' transform="rotate(-90 15 {middle:g})"')

    def dots(self, layer: Dots) -> None:
        for index, point in enumerate(layer.points):
            across, down = self.at(*point)
            told = f"<title>{html.escape(layer.texts[index])}</title>" if layer.texts else ""
            self.parts.append(
                f'<circle class="{layer.style}" cx="{across:.1f}" cy="{down:.1f}" r="{layer.radius:g}">{told}</circle>'
            )

    def line(self, layer: Line) -> None:
        drawn: list[str] = []
        for index, point in enumerate(layer.points):
            across, down = self.at(*point)
            if index and layer.steps:
                drawn.append(f"H{across:.1f}")
            drawn.append(f"{'L' if index else 'M'}{across:.1f} {down:.1f}")
        if drawn:
            self.path(layer.style, "".join(drawn))

    def level(self, layer: Level) -> None:
        if self.y_range[0] <= layer.y <= self.y_range[1]:
            down = self.at(self.x_range[0], layer.y)[1]
            self.path(f"{layer.style} across", f"M{LEFT} {down:.1f}H{self.width - RIGHT}")
            self.text(self.width - RIGHT - 4, down - 5, layer.label, "end", f"{layer.style} label")

    def mark(self, layer: Mark) -> None:
        inside = self.x_range[0] <= layer.x <= self.x_range[1]
        across = self.at(layer.x, self.y_range[0])[0] if inside else self.width - RIGHT
        label = layer.label if inside else f"{layer.label} \N{RIGHTWARDS ARROW}"
        if layer.y is not None and inside:
            down = self.at(layer.x, layer.y)[1]
            self.path(f"{layer.style} point", f"M{across - 6:.1f} {down:.1f}l6 -6l6 6l-6 6z", label)
            anchor, shift = ("end", -10) if across > self.width * 0.8 else ("start", 10)
            self.text(across + shift, down + 4, label, anchor, f"{layer.style} label")
            return
        if inside:
            self.path(f"{layer.style} across", f"M{across:.1f} {TOP}V{self.height - BOTTOM}")
        anchor, shift = ("end", -5) if across > self.width * 0.55 else ("start", 5)
        down = TOP + 12 + LABEL_STEP * sum(abs(other - across) < 160 for other in self.taken)  # below those that stand near
        self.taken.append(across)
        self.text(across + shift, down, label, anchor, f"{layer.style} label")

    def path(self, style: str, drawn: str, told: str = "") -> None:
        title = f"<title>{html.escape(told)}</title>" if told else ""
        self.parts.append(f'<path class="{style}" d="{drawn}">{title}</path>')

    def text(self, x: float, y: float, text: str, anchor: str, style: str, more: str = "") -> None:
        self.parts.append(
            f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{html.escape(text)}</text>'
        )


def _padded(values: Sequence[float]) -> tuple[float, float]:
    """The values' range with a little room; of one value, a range around it."""
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return low - room if low < 0 or low > room else 0.0, high + room


def png(charts: Sequence[Chart], title: str) -> bytes:
    """The charts below each other as one PNG file; ImportError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'Pictures need matplotlib: pip install "keras_mnasnet[report]". The page alone does without (--no-pictures).'
        ) from error
    rows = len(charts)
    height = PNG_SIZE[1] * (1.1 if rows == 1 else 0.62 * rows)
    figure = Figure(figsize=(PNG_SIZE[0], height), dpi=PNG_DPI, layout="constrained")
    figure.suptitle(title)
    for axes, chart in zip(figure.subplots(rows, squeeze=False)[:, 0], charts, strict=True):
        _plot(axes, chart)
        if rows == 1 and axes.get_legend_handles_labels()[0]:
            figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
        elif axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _plot(axes: Any, chart: Chart) -> None:
    axes.grid(color="#e8e7e1", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    dashes = 0
    for depth, layer in enumerate(chart.layers, start=2):
        color = COLORS[layer.style][0]
        if isinstance(layer, Dots):
            axes.scatter(
                *zip(*layer.points, strict=True), s=layer.radius**2, color=color, zorder=depth, label=layer.label or None,
                edgecolor="white" if layer.style == "best" else None,
            )  # fmt: skip
        elif isinstance(layer, Line):
            draw = axes.step if layer.steps else axes.plot
            draw(*zip(*layer.points, strict=True), color=color, zorder=depth, **({"where": "post"} if layer.steps else {}))
        elif isinstance(layer, Level):
            axes.axhline(layer.y, color=color, linestyle="--", label=layer.label)
        elif layer.x > chart.x_range[1]:
            axes.plot([], [], " ", label=f"{layer.label}, beyond the right edge")
        elif layer.y is not None:
            axes.scatter([layer.x], [layer.y], s=60, marker="D", color=color, zorder=depth, label=layer.label)
        else:
            dash: Any = "--" if layer.style == "target" else DASHES[dashes % len(DASHES)]
            dashes += layer.style != "target"
            axes.axvline(layer.x, color=color, linestyle=dash, label=layer.label)
    axes.set(xlabel=chart.x, ylabel=chart.y, xlim=chart.x_range, ylim=chart.y_range)
