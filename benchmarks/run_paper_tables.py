"""The paper's latency tables beside this machine: A1 at every published width and size, B1 and small, and three networks of
keras.applications, in float32 and int8, one thread, in turns; and the accuracy-latency plot.

    python benchmarks/run_paper_tables.py --output benchmarks/results/NAME [--runs 60]     # pip install "keras_mnasnet[report]"

Writes paper_tables.json, paper_tables.md and paper_tables.png. Parameters, multiply-adds, accuracy and Pixel 1 latency in the
columns named published are what their sources print; everything else is counted or measured here. Networks of the family
come from the direct writer with random weights, in int8 with invented activation ranges; those of keras.applications from
TensorFlow's converter, calibrated on drawn images. All are at their published input size, with normalisation inside.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
SCHEMA = 1
KERAS_DOCS = "keras.io/api/applications"
V3_SOURCE = "docstring of keras.applications.MobileNetV3Large, which prints MobileNetV3's paper"
TORCHVISION = ((0.5, 2.218512, 104, 67.734), (0.75, 3.170208, 215, 71.18), (1.3, 6.282256, 526, 76.506))  # B1


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A network of the tables: its name for `mnasnet bench latency` or in keras.applications, and what is printed of it."""

    label: str
    measured_as: str
    source: str
    resolution: int = 224
    params_m: float | None = None
    madds_m: float | None = None
    top1: float | None = None
    pixel1_ms: float | None = None
    application: str | None = None


def entries() -> list[Entry]:
    """A1's 25 rows, B1 and small from the paper, B1's widths of torchvision, and the peers."""
    from keras_mnasnet.family import A1_ROWS, A1_SOURCE, PUBLISHED

    found = [
        Entry(
            f"A1 {row.width} @ {row.resolution}", f"a1-{row.width}@{row.resolution}", A1_SOURCE, row.resolution,
            row.params_m, row.madds_m, row.top1, row.latency_ms,
        )
        for row in A1_ROWS
    ]  # fmt: skip
    for name in ("b1", "small"):
        row = PUBLISHED[name]
        label = {"b1": "B1", "small": "small"}[name]
        found.append(Entry(label, name, row.source, 224, row.params_m, row.madds_m, row.top1, row.latency_ms))
    for width, params_m, madds_m, top1 in TORCHVISION:
        found.append(Entry(f"B1 {width:g}", f"b1-{width:g}", "torchvision 0.28.0", 224, params_m, madds_m, top1))
    return [
        *found,
        Entry("MobileNetV2", "", KERAS_DOCS, params_m=3.5, top1=71.3, application="MobileNetV2"),
        Entry("MobileNetV3Large", "", V3_SOURCE, 224, 5.4, 217, 75.6, 51.2, application="MobileNetV3Large"),
        Entry("EfficientNetB0", "", KERAS_DOCS, params_m=5.3, top1=77.1, application="EfficientNetB0"),
    ]


def application_files(names: list[str], folder: Path) -> dict[tuple[str, str], str]:
    """Files of keras.applications' networks by (name, precision), random weights."""
    from keras_mnasnet.utils.system import held_output

    with held_output() as shown:
        import keras

        from keras_mnasnet.export.converter import convert_model
        from keras_mnasnet.export.rewrite import rewritten
        from keras_mnasnet.export.verify import drawn_images

        images = drawn_images(8, 224, 224, 3)
        files = {}
        for name in names:
            model = getattr(keras.applications, name)(weights=None, input_shape=(224, 224, 3))
            given = images / 127.5 - 1 if name == "MobileNetV2" else images
            for precision in ("float32", "int8"):
                print(f"exporting {name} {precision}", file=shown, flush=True)
                quantize = None if precision == "float32" else precision
                content = convert_model(model, (1, 224, 224, 3), quantize=quantize, images=given if quantize else None)
                path = folder / f"{name}-{precision}.tflite"
                content, _ = rewritten(content, input_names=["image"], output_names=["scores"], description=name, metadata={})
                path.write_bytes(content)
                files[name, precision] = str(path)
    return files


def counted(entry: Entry) -> dict[str, float | None]:
    """Parameters and multiply-adds in millions as this package counts them; none for other networks."""
    if entry.application:
        return {"params_m": None, "madds_m": None}
    from keras_mnasnet.benchmarks.speed import parse_target

    network = parse_target(entry.measured_as).architecture
    size = entry.resolution
    assert network is not None
    return {"params_m": network.params() / 1e6, "madds_m": network.madds(size, size) / 1e6}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""

    def shown(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    lines = [
        "| network | parameters M: published | counted | multiply-adds M: published | counted | published top-1 % | "
        "published Pixel 1 ms | measured float32 ms | measured int8 ms | int8 / float32 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        published, count, ms = row["published"], row["counted"], row["cpu_ms"]
        lines.append(
            f"| {row['network']} | {shown(published['params_m'], 1)} | {shown(count['params_m'], 2)} | "
            f"{shown(published['madds_m'], 1)} | {shown(count['madds_m'], 1)} | {shown(published['top1'], 1)} | "
            f"{shown(published['pixel1_ms'], 1)} | {ms['float32']:.2f} | {ms['int8']:.2f} | {ms['int8'] / ms['float32']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]], processor: str, path: Path) -> None:
    """Published top-1 over latency: as published for the Pixel 1, and as measured here in float32 and int8."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib import ticker

    figure, axes = plt.subplots(1, 3, figsize=(16, 5), sharey=True, layout="constrained")
    panels = (
        ("Pixel 1, as published", lambda row: row["published"]["pixel1_ms"]),
        (f"{processor}, one thread, float32, measured", lambda row: row["cpu_ms"]["float32"]),
        (f"{processor}, one thread, int8, measured", lambda row: row["cpu_ms"]["int8"]),
    )
    a1 = [row for row in rows if row["network"].startswith("A1 ")]
    widths = sorted({row["network"].split()[1] for row in a1}, key=float)
    for axis, (title, latency) in zip(axes, panels, strict=True):
        for width in widths:
            line = sorted((row for row in a1 if row["network"].split()[1] == width), key=lambda row: row["resolution"])
            axis.plot(
                [latency(row) for row in line], [row["published"]["top1"] for row in line], "o-", ms=4, label=f"A1 {width}"
            )
        for row, marker in zip((row for row in rows if row not in a1), "svD^<>P*X", strict=False):
            if latency(row) is not None:
                axis.plot(latency(row), row["published"]["top1"], marker, ms=8, color="black", mfc="none", label=row["network"])
        axis.set(title=title, xlabel="latency_ms", xscale="log")
        axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
        axis.grid(alpha=0.3, which="both")
    axes[0].set_ylabel("published ImageNet top-1 %")
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside right center", title="A1: width,\nsizes 96 to 224")
    figure.savefig(path, dpi=110, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--runs", type=int, default=60)
    arguments = parser.parse_args()

    from keras_mnasnet.benchmarks import latency
    from keras_mnasnet.benchmarks.results import write_json
    from keras_mnasnet.utils.files import replaced

    listed = entries()
    with tempfile.TemporaryDirectory() as folder:
        files = application_files([entry.application for entry in listed if entry.application], Path(folder))
        models = [
            files[entry.application, precision] if entry.application else f"{entry.measured_as}:{precision}"
            for entry in listed
            for precision in ("float32", "int8")
        ]
        report = latency(models, runs=arguments.runs, memory=False)
    value = report.to_json()
    results = iter(zip(report.results, value.pop("results"), strict=True))
    rows = []
    for entry in listed:
        (full, full_json), (small, small_json) = next(results), next(results)
        assert full.cpu is not None
        assert small.cpu is not None
        rows.append(
            {"network": entry.label, "resolution": entry.resolution, "source": entry.source,
             "published": {key: getattr(entry, key) for key in ("params_m", "madds_m", "top1", "pixel1_ms")},
             "counted": counted(entry), "cpu_ms": {"float32": full.cpu.median_ms, "int8": small.cpu.median_ms},
             "float32": full_json | {"model": entry.label}, "int8": small_json | {"model": entry.label}}
        )  # fmt: skip
    stem = arguments.output / "paper_tables"
    write_json(stem.with_suffix(".json"), value | {"schema": SCHEMA, "benchmark": "paper-tables", "rows": rows})
    with replaced(stem.with_suffix(".md")) as temporary:
        temporary.write_text(table(rows), "utf-8")
    with replaced(stem.with_suffix(".png")) as temporary:
        plot(rows, report.device["name"], temporary)
    print(table(rows), end="")


if __name__ == "__main__":
    main()
