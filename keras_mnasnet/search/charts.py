"""Charts as inline SVG: axes with round ticks, dots, lines, marks. Colours are CSS classes of the page."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Sequence

__all__ = ["Chart", "Mark", "ticks", "WIDE"]

WIDE, SMALL = (760.0, 400.0), (480.0, 280.0)  # width and height, in the units of the text's 12
LEFT, RIGHT, TOP, BOTTOM = 64.0, 22.0, 26.0, 50.0
LABEL_STEP = 14.0


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


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """A labelled place: a point, or with `y` None a line over the whole height."""

    x: float
    y: float | None
    label: str
    style: str


class Chart:
    """One chart; `svg` gives it once everything is added. Values are in the axes' own units."""

    def __init__(
        self, x: str, y: str, xs: Sequence[float], ys: Sequence[float], title: str, size: tuple[float, float] = SMALL
    ) -> None:
        self.labels = (x, y)
        self.width, self.height = size
        self.title = title
        self.x_range, self.y_range = _padded(xs), _padded(ys)
        self._parts: list[str] = []
        self._taken: list[tuple[float, float]] = []

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a value is drawn."""
        (left, right), (low, high) = self.x_range, self.y_range
        across = LEFT + (x - left) / (right - left) * (self.width - LEFT - RIGHT)
        return across, self.height - BOTTOM - (y - low) / (high - low) * (self.height - TOP - BOTTOM)

    def dots(self, points: Sequence[tuple[float, float, str]], style: str, radius: float = 4.0) -> None:
        """Dots with what a pointer over them tells."""
        for x, y, text in points:
            across, down = self.at(x, y)
            self._parts.append(
                f'<circle class="{style}" cx="{across:.1f}" cy="{down:.1f}" r="{radius:g}"><title>{html.escape(text)}</title>'
                f"</circle>"
            )

    def line(self, points: Sequence[tuple[float, float]], style: str, steps: bool = False) -> None:
        """A line, or stairs that rise where the next point begins."""
        drawn: list[str] = []
        for index, (x, y) in enumerate(points):
            across, down = self.at(x, y)
            if index and steps:
                drawn.append(f"H{across:.1f}")
            drawn.append(f"{'L' if index else 'M'}{across:.1f} {down:.1f}")
        if drawn:
            self._parts.append(f'<path class="{style}" d="{"".join(drawn)}"/>')

    def level(self, y: float, label: str, style: str) -> None:
        """A labelled line over the whole width, where it is inside."""
        if not self.y_range[0] <= y <= self.y_range[1]:
            return
        _, down = self.at(self.x_range[0], y)
        self._parts.append(f'<path class="{style}" d="M{LEFT} {down:.1f}H{self.width - RIGHT}"/>')
        self._text(self.width - RIGHT - 4, down - 5, label, "end", f"{style} label")

    def mark(self, mark: Mark) -> None:
        """A point or an upright line with its label; one beyond the right edge is named there with an arrow."""
        inside = self.x_range[0] <= mark.x <= self.x_range[1]
        across = self.at(mark.x, self.y_range[0])[0] if inside else self.width - RIGHT
        text = mark.label if inside else f"{mark.label} \N{RIGHTWARDS ARROW}"
        if mark.y is not None and inside:
            down = self.at(mark.x, mark.y)[1]
            shape = f"M{across - 6:.1f} {down:.1f}l6 -6l6 6l-6 6z"
            self._parts.append(f'<path class="{mark.style}" d="{shape}"><title>{html.escape(text)}</title></path>')
            anchor, shift = ("end", -10) if across > self.width * 0.8 else ("start", 10)
            self._text(across + shift, down + 4, text, anchor, f"{mark.style} label")
            return
        if inside:
            self._parts.append(f'<path class="{mark.style} upright" d="M{across:.1f} {TOP}V{self.height - BOTTOM}"/>')
        anchor, shift = ("end", -5) if across > self.width * 0.55 else ("start", 5)
        self._text(across + shift, self._free(across), text, anchor, f"{mark.style} label")

    def _free(self, across: float) -> float:
        """The height for an upright line's label: below those that stand near it."""
        near = sum(abs(other - across) < 160 for other, _ in self._taken)
        down = TOP + 12 + LABEL_STEP * near
        self._taken.append((across, down))
        return down

    def _text(self, x: float, y: float, text: str, anchor: str, style: str) -> None:
        self._parts.append(f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>')

    def svg(self) -> str:
        """The chart."""
        axes: list[str] = []
        bottom = self.height - BOTTOM
        for value in ticks(*self.x_range, count=8):
            across = self.at(value, self.y_range[0])[0]
            axes.append(f'<path class="grid" d="M{across:.1f} {TOP}V{bottom}"/>')
            axes.append(f'<text class="tick" x="{across:.1f}" y="{bottom + 17}" text-anchor="middle">{value:g}</text>')
        for value in ticks(*self.y_range):
            down = self.at(self.x_range[0], value)[1]
            axes.append(f'<path class="grid" d="M{LEFT} {down:.1f}H{self.width - RIGHT}"/>')
            axes.append(f'<text class="tick" x="{LEFT - 8}" y="{down + 4:.1f}" text-anchor="end">{value:g}</text>')
        axes.append(f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{self.width - RIGHT}"/>')
        x, y = map(html.escape, self.labels)
        middle = (TOP + bottom) / 2
        axes.append(
            f'<text class="name" x="{(LEFT + self.width - RIGHT) / 2}" y="{self.height - 10}" text-anchor="middle">{x}</text>'
        )
        axes.append(
            f'<text class="name" x="15" y="{middle}" text-anchor="middle" transform="rotate(-90 15 {middle})">{y}</text>'
        )
        return (
            f'<svg viewBox="0 0 {self.width:g} {self.height:g}" role="img" aria-label="{html.escape(self.title)}">'
            f"{''.join(axes)}{''.join(self._parts)}</svg>"
        )


def _padded(values: Sequence[float]) -> tuple[float, float]:
    """The values' range with a little room; of one value, a range around it."""
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return low - room if low < 0 or low > room else 0.0, high + room
