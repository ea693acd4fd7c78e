"""A study as one page that needs nothing else: styles, charts and the few lines of script are inside."""

from __future__ import annotations

import html
import statistics
from typing import Any

from keras_mnasnet.search.charts import WIDE, Chart, Mark
from keras_mnasnet.search.report import Best, SearchReport
from keras_mnasnet.search.trials import Trial

__all__ = ["page"]

STYLE = """
:root{color-scheme:light dark;--page:#f7f7f4;--card:#fff;--ink:#1c1c1a;--soft:#5d5c57;--faint:#8b8a83;--rule:#e2e1da;
--dot:#b4b3ab;--blue:#2368c4;--orange:#c9531d;--green:#14835b;--violet:#6b4fc0;--code:#f1f0ea}
@media(prefers-color-scheme:dark){:root{--page:#161615;--card:#20201e;--ink:#f2f1ec;--soft:#b9b8b0;--faint:#8e8d86;
--rule:#34332f;--dot:#65645e;--blue:#5b9bea;--orange:#f0864f;--green:#3cc190;--violet:#a58df0;--code:#2a2926}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1080px;margin:0 auto;padding:36px 20px 60px}
h1{font-size:27px;margin:0 0 4px;letter-spacing:-.01em}h2{font-size:18px;margin:40px 0 12px}
h3{font-size:15px;margin:0 0 6px}p{margin:0 0 10px}.soft{color:var(--soft)}
.card{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:16px 18px;margin-bottom:16px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:22px 0 0}
.tiles .card{margin:0}.tiles b{display:block;font-size:22px;font-weight:600;white-space:nowrap;
font-variant-numeric:tabular-nums}.tiles span{color:var(--soft);font-size:13px}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(430px,1fr));gap:16px}
@media(max-width:520px){.pair{grid-template-columns:1fr}}
svg{display:block;width:100%;height:auto;font-size:12px}.wide{overflow-x:auto}
.grid{stroke:var(--rule);stroke-width:1}.axis{stroke:var(--faint);fill:none}.tick{fill:var(--soft)}.name{fill:var(--soft)}
circle.other{fill:var(--dot);opacity:.75}circle.front,circle.value{fill:var(--blue)}
path.front,path.value{stroke:var(--blue);fill:none;stroke-width:2}
circle.best{fill:var(--orange);stroke:var(--card);stroke-width:2}path.best{stroke:var(--orange);fill:none;stroke-width:2}
path.target{stroke:var(--green);stroke-dasharray:6 4;stroke-width:1.5;fill:none}text.target{fill:var(--green)}
path.known{fill:var(--violet)}path.known.upright{stroke:var(--violet);stroke-dasharray:2 3;stroke-width:1.5}
text.known{fill:var(--violet)}
text.label{font-weight:600;paint-order:stroke;stroke:var(--card);stroke-width:4px;stroke-linejoin:round}
table+p{margin-top:10px}
.key{display:flex;flex-wrap:wrap;gap:6px 18px;color:var(--soft);font-size:13px;margin:2px 0 8px}
.key i{display:inline-block;width:10px;height:10px;border-radius:50%;margin-right:6px}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th{color:var(--soft);font-weight:500;text-align:left;padding:4px 10px 4px 0;border-bottom:1px solid var(--rule)}
td{padding:4px 10px 4px 0;border-bottom:1px solid var(--rule)}tr:last-child td{border-bottom:0}.n{text-align:right}
code,pre{font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
pre{background:var(--code);border-radius:8px;padding:10px 12px;margin:10px 0 0;white-space:pre-wrap;overflow-wrap:anywhere}
button{font:inherit;font-size:12.5px;color:var(--soft);background:none;border:1px solid var(--rule);border-radius:6px;
padding:2px 9px;cursor:pointer;position:absolute;top:8px;right:8px;background:var(--card)}
.code{position:relative}button:hover{color:var(--ink);border-color:var(--faint)}
"""
SCRIPT = """
document.querySelectorAll("button[data-copies]").forEach(function (button) {
  button.addEventListener("click", function () {
    var code = document.getElementById(button.dataset.copies);
    var done = function () { button.textContent = "Copied"; };
    var select = function () { window.getSelection().selectAllChildren(code); button.textContent = "Selected"; };
    if (navigator.clipboard) { navigator.clipboard.writeText(code.textContent).then(done, select); } else { select(); }
  });
});
document.documentElement.dataset.ready = "yes";
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
FRONT_ROWS = 25
ROOM_FOR_LABELS = 0.16  # of the range of accuracies, above the best
FACTS = 3


def page(report: SearchReport) -> str:
    """The HTML of a report."""
    meta = report.meta
    title = f"{meta.algorithm} on {meta.space}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{_text(title)}: {_text(report.name)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><style>{STYLE}</style></head><body><main>'
        f"<h1>{_text(title)}</h1>{_about(report)}{_tiles(report)}"
        f"<h2>Accuracy and latency</h2>{_pareto(report)}{_front_table(report)}"
        f'<h2>Over time</h2><div class="pair">{_history(report)}</div>'
        f"<h2>The best networks</h2>{''.join(_network(best, place) for place, best in enumerate(report.best, start=1))}"
        f"<h2>The study</h2>{_settings(report)}{_failures(report)}"
        f"</main><script>{SCRIPT}</script></body></html>\n"
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
    data = f", trained on {_text(meta.data)}" if meta.data else ""
    device = f", latency from {_text(meta.device)}" if meta.device else ""
    return f'<p class="soft">{_text(report.name)}; reward {_text(report.reward)}{data}{device}; {_text(report.date)}</p>'


def _tiles(report: SearchReport) -> str:
    best = report.best[0].trial
    tiles = [
        (f"{len(report.done):,}", "networks trained" if report.meta.data else "networks evaluated"),
        (_percent(best.accuracy), "accuracy of the best by reward"),
        (_ms(best.latency_ms), "its latency"),
        (f"{len(report.front)}", "networks on the front"),
        (f"{report.hours:.1f} h" if report.hours >= 1 else f"{60 * report.hours:.0f} min", "from first start to last finish"),
        (f"{len(report.failed):,}", "failed trials"),
    ]
    cards = "".join(f"<div class=card><b>{value}</b><span>{name}</span></div>" for value, name in tiles)
    return f'<div class="tiles">{cards}</div>'


def _pareto(report: SearchReport) -> str:
    done = [(trial.latency_ms or 0.0, 100 * (trial.accuracy or 0.0), trial) for trial in report.done]
    xs, ys = [x for x, _, _ in done], [y for _, y, _ in done]
    slowest, target = 1.5 * max(xs), report.reward.target_ms
    trained = [each for each in report.landmarks if each.accuracy is not None]
    extra = [each.latency_ms for each in report.landmarks if each in trained or each.latency_ms <= slowest]
    extra += [target] if report.reward.uses_latency and target <= slowest else []
    extra_ys = [100 * each.accuracy for each in trained if each.accuracy is not None]
    highest, lowest = max(ys + extra_ys), min(ys + extra_ys)
    extra_ys.append(highest + ROOM_FOR_LABELS * (highest - lowest))
    chart = Chart("latency, ms", "accuracy, %", xs + extra, ys + extra_ys, "Accuracy against latency of every network", WIDE)
    front = set(report.front)
    chart.dots([(x, y, _told(trial)) for index, (x, y, trial) in enumerate(done) if index not in front], "other")
    chart.line([done[index][:2] for index in report.front], "front", steps=True)
    chart.dots([(*done[index][:2], _told(done[index][2])) for index in report.front], "front", 4.5)
    best = report.best[0].trial
    chart.dots([(best.latency_ms or 0.0, 100 * (best.accuracy or 0.0), f"best reward, {_told(best)}")], "best", 7)
    if report.reward.uses_latency:
        chart.mark(Mark(target, None, f"target {target:g} ms", "target"))
    for each in report.landmarks:
        accuracy = None if each.accuracy is None else 100 * each.accuracy
        chart.mark(Mark(each.latency_ms, accuracy, f"{each.name} {_ms(each.latency_ms)}", "known"))
    key = _key(("dot", "a network"), ("blue", "on the front"), ("orange", "best reward"), ("violet", "known networks"))
    return f'<div class="card">{key}{chart.svg()}{_landmark_table(report)}</div>'


def _key(*entries: tuple[str, str]) -> str:
    spans = "".join(f"<span><i style=background:var(--{colour})></i>{text}</span>" for colour, text in entries)
    return f'<div class="key">{spans}</div>'


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


def _history(report: SearchReport) -> str:
    xs = list(range(1, len(report.done) + 1))
    accuracies = [100 * (trial.accuracy or 0.0) for trial in report.done]
    latencies = [trial.latency_ms or 0.0 for trial in report.done]
    charts = []
    chart = Chart("finished trials", "accuracy, %", xs, accuracies, "Accuracy over time")
    chart.dots([(x, y, _told(trial)) for x, y, trial in zip(xs, accuracies, report.done, strict=True)], "other", 3.5)
    chart.line(list(zip(xs, _medians(accuracies), strict=True)), "value")
    charts.append(("Accuracy", "dots: trials; line: median of the last 15", chart))
    target = [report.reward.target_ms] if report.reward.uses_latency else []
    chart = Chart("finished trials", "latency, ms", xs, latencies + target, "Latency over time")
    chart.dots([(x, y, _told(trial)) for x, y, trial in zip(xs, latencies, report.done, strict=True)], "other", 3.5)
    chart.line(list(zip(xs, _medians(latencies), strict=True)), "value")
    for each in target:
        chart.level(each, f"target {each:g} ms", "target")
    charts.append(("Latency", "dots: trials; line: median of the last 15", chart))
    best = report.running_best()
    chart = Chart("finished trials", "best reward so far", xs, best, "Best reward over time")
    chart.line(list(zip(xs, best, strict=True)), "best", steps=True)
    charts.append(("Best reward", str(report.reward), chart))
    for name, series in list(report.facts.items())[:FACTS]:
        chart = Chart("finished trials", name, [x for x, _ in series], [y for _, y in series], f"{name} over time")
        chart.line(list(series), "value")
        label = "Controller entropy" if name == "entropy" else name.replace("_", " ").capitalize()
        charts.append((label, f"as {report.meta.algorithm} reported it", chart))
    cards = "".join(
        f'<div class="card"><h3>{_text(name)}</h3><p class="soft">{_text(note)}</p>{chart.svg()}</div>'
        for name, note, chart in charts
    )
    if "entropy" not in report.facts:
        cards += (
            f'<div class="card"><h3>Controller entropy</h3><p class="soft">{_text(report.meta.algorithm)} has no controller: '
            f"it reports no entropy.</p></div>"
        )
    return cards


def _medians(values: list[float], window: int = 15) -> list[float]:
    return [statistics.median(values[max(0, place - window + 1) : place + 1]) for place in range(len(values))]


def _network(best: Best, place: int) -> str:
    trial = best.trial
    head = f"<h3>{place}. trial {trial.number}: {_percent(trial.accuracy)} at {_ms(trial.latency_ms)}</h3>"
    totals = [f"reward {trial.reward:.4f}"] if trial.reward is not None else []
    totals += [f"{_millions(trial.params)} parameters"] if trial.params else []
    totals += [f"{_millions(trial.madds)} multiply-adds"] if trial.madds else []
    head += f'<p class="soft">{_text("; ".join(totals))}</p>'
    if best.call is None:
        return f'<div class="card wide">{head}{_table(("decision", "choice"), list(trial.values.items()))}</div>'
    rows = [(row.name, row.text, f"{row.size} x {row.size}", row.filters, f"{row.madds / 1e6:.2f} M") for row in best.stages]
    table = _table(("stage", "block", "map", "channels", "multiply-adds"), rows, numbers=(2, 3, 4))
    code = f"from keras_mnasnet import MnasNet\n\nmodel = {best.call}"
    button = f'<button type="button" data-copies="call{place}">Copy</button>'
    return (
        f'<div class="card wide">{head}{table}<div class="code">{button}<pre id="call{place}">{_text(code)}</pre></div></div>'
    )


def _settings(report: SearchReport) -> str:
    meta = report.meta
    rows: list[tuple[str, Any]] = [
        ("space", f"{meta.space} {meta.space_options or ''}"), ("reward", report.reward),
        ("algorithm", f"{meta.algorithm} {meta.algorithm_options or ''}"), ("seed", meta.seed),
        ("device", meta.device or "none"), ("data", meta.data or "none"),
    ]  # fmt: skip
    rows += [(f"evaluation: {name}", value) for name, value in meta.evaluation.items()]
    rows += [(f"recipe: {name}", value) for name, value in (meta.recipe or {}).items()]
    rows += [(name, value) for name, value in meta.environment.items()]
    rows += [
        ("begun", meta.created or "not stated"),
        ("trials", f"{len(report.done)} finished, {len(report.failed)} failed, {report.waiting} open"),
        ("time of all trials together", f"{report.training_hours:.2f} h"),
    ]  # fmt: skip
    return f'<div class="card wide">{_table(("setting", "value"), rows)}</div>'


def _failures(report: SearchReport) -> str:
    if not report.failed:
        return ""
    rows = [(trial.number, trial.reason or "no reason given") for trial in report.failed]
    return f'<div class="card wide"><h3>Failed trials</h3>{_table(("trial", "reason"), rows)}</div>'
