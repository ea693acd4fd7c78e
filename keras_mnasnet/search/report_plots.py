"""The report's charts as PNG files, drawn with matplotlib (extra `report`)."""

from __future__ import annotations

import io
from typing import Any

from keras_mnasnet.search.report import SearchReport

__all__ = ["plots"]

DOT, FRONT, BEST, TARGET, KNOWN = "#b4b3ab", "#2368c4", "#c9531d", "#14835b", "#6b4fc0"
SIZE, DPI = (8.0, 4.6), 150


def plots(report: SearchReport) -> dict[str, bytes]:
    """{name: PNG}: `pareto`, `history`, and `algorithm` where the algorithm reported facts. ImportError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'Pictures need matplotlib: pip install "keras_mnasnet[report]". The page alone does without (--no-pictures).'
        ) from error

    def drawn(draw: Any, rows: int = 1) -> bytes:
        figure = Figure(figsize=(SIZE[0], SIZE[1] * (1.1 if rows == 1 else 0.62 * rows)), dpi=DPI, layout="constrained")
        axes = figure.subplots(rows, sharex=rows > 1, squeeze=False)[:, 0]
        for each in axes:
            each.grid(color="#e8e7e1", linewidth=0.8)
            each.set_axisbelow(True)
            each.spines[["top", "right"]].set_visible(False)
        draw(axes)
        if rows == 1 and axes[0].get_legend_handles_labels()[0]:
            figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
        buffer = io.BytesIO()
        FigureCanvasAgg(figure).print_png(buffer)
        return buffer.getvalue()

    found = {"pareto": drawn(lambda axes: _pareto(report, axes[0])), "history": drawn(lambda axes: _history(report, axes), 3)}
    if report.facts:
        found["algorithm"] = drawn(lambda axes: _facts(report, axes), len(report.facts))
    return found


def _pareto(report: SearchReport, axes: Any) -> None:
    points = [(trial.latency_ms or 0.0, 100 * (trial.accuracy or 0.0)) for trial in report.done]
    axes.scatter(*zip(*points, strict=True), s=16, color=DOT, label="a network")
    front = [points[index] for index in report.front]
    axes.step(*zip(*front, strict=True), where="post", color=FRONT)
    axes.scatter(*zip(*front, strict=True), s=26, color=FRONT, zorder=3, label="on the front")
    best = report.best[0].trial
    axes.scatter(
        [best.latency_ms or 0.0], [100 * (best.accuracy or 0.0)], s=90, color=BEST, edgecolor="white", zorder=4,
        label=f"best reward (trial {best.number})",
    )  # fmt: skip
    slowest = max(x for x, _ in points)
    if report.reward.uses_latency and report.reward.target_ms <= 1.5 * slowest:
        axes.axvline(report.reward.target_ms, color=TARGET, linestyle="--", label=f"target {report.reward.target_ms:g} ms")
    for each, line in zip(report.landmarks, (":", "-.", (0, (1, 3))), strict=False):
        text = f"{each.name}: {each.latency_ms:.3g} ms ({each.how})"
        if each.accuracy is not None:
            axes.scatter([each.latency_ms], [100 * each.accuracy], s=60, marker="D", color=KNOWN, zorder=4, label=text)
        elif each.latency_ms > 1.5 * slowest:
            axes.plot([], [], " ", label=f"{text}, beyond the right edge")
        else:
            axes.axvline(each.latency_ms, color=KNOWN, linestyle=line, label=text)
    axes.set(xlabel="latency, ms", ylabel="accuracy, %", title=f"{report.meta.algorithm} on {report.meta.space}")


def _history(report: SearchReport, axes: Any) -> None:
    xs = range(1, len(report.done) + 1)
    axes[0].scatter(xs, [100 * (trial.accuracy or 0.0) for trial in report.done], s=12, color=DOT)
    axes[0].set(ylabel="accuracy, %", title=f"{report.meta.algorithm} on {report.meta.space}")
    axes[1].scatter(xs, [trial.latency_ms or 0.0 for trial in report.done], s=12, color=DOT)
    axes[1].set(ylabel="latency, ms")
    if report.reward.uses_latency:
        axes[1].axhline(report.reward.target_ms, color=TARGET, linestyle="--", label=f"target {report.reward.target_ms:g} ms")
        axes[1].legend(fontsize=8)
    axes[2].step(xs, report.running_best(), where="post", color=BEST)
    axes[2].set(ylabel="best reward so far", xlabel="finished trials")


def _facts(report: SearchReport, axes: Any) -> None:
    for each, (name, series) in zip(axes, report.facts.items(), strict=True):
        each.plot(*zip(*series, strict=True), color=FRONT)
        each.set(ylabel="controller entropy" if name == "entropy" else name.replace("_", " "))
    axes[-1].set(xlabel="finished trials")
