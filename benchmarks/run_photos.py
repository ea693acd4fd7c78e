"""Training on small sets of real photos: starts, recipes, distillation, and what int8 keeps. One core, from cold.

    python benchmarks/run_photos.py --data ROOT --runs RUNS [--only finetune table teacher] [--list]
        [--output benchmarks/results/NAME/photos.json]

ROOT holds the folders trashnet (train, val, test), flowers128 (classes only) and cifar10 (train.tfrecord, test.tfrecord,
labels.txt). RUNS keeps a run for each job, the sets that were divided here (links, and CIFAR-10's own JPEG bytes), and the rows
of finished jobs: a call goes on where an earlier one stopped. `--list` shows the jobs and trains nothing.

`finetune` compares ways to fine-tune A1 on the same photos for as many epochs: the classifier alone for the first epoch, then
all layers; all layers from the start; the classifier alone for all epochs, or for half of them; and lower rates for lower
layers; some of them at three times the rate, too. `table` trains A1, B1 and small from fresh weights and in two ways from the
CIFAR-10 weights. `teacher` trains a smaller network with a teacher and without.

The validation split chooses the epoch. Each job is measured once on the test photos, those of `table` and `teacher` also as an
int8 file that is calibrated on training photos, and those of `table` after quantization-aware training (QAT).

flowers128 states no split: the names of each class are sorted, every fifth is a test photo, and every tenth of the others
validates. Six of its photos occur twice, four of them under two classes; they are left as they are. The small sets of CIFAR-10
hold the first photos of each class. The weights `cifar10` have seen all of CIFAR-10, so training on these sets starts from a
network that saw nothing but trashnet.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

SCHEMA = 1
WIDTHS = {"a1": 0.5, "b1": 0.5, "small": 1.0}
SIZES = {"trashnet": 48, "flowers128": 48}
SUBSETS = (10, 50, 200)
EPOCHS = {"trashnet": 6, "flowers128": 3, "cifar10-10": 20, "cifar10-50": 10, "cifar10-200": 6}
STUDENT, STUDENT_EPOCHS, TEACHER = ("small", 0.35), 20, "trashnet-a1-cifar10-head-first"
RATES = {"": 0.001, "-rate3": 0.003}
TABLE = (("fresh", "full-rate3"), ("cifar10", "full-rate3"), ("cifar10", "head-first"))
CIFAR_START = "trashnet-a1-fresh-full-rate3"
QAT_EPOCHS = 1
SECTIONS = ("finetune", "table", "teacher")


@dataclasses.dataclass(frozen=True)
class Job:
    """One training: `start` is "fresh", a source that `load` takes, or "run:" and the name of an earlier job."""

    sections: tuple[str, ...]
    name: str
    data: str
    network: str
    width: float
    start: str
    recipe: str
    teacher: str | None


def variants(epochs: int) -> dict[str, str]:
    """The ways to fine-tune for so many epochs, as changes of the recipe `finetune`, each with all that decides."""
    found = {}
    for name, frozen, decay, rates in (
        ("head-first", 1, 1, ("", "-rate3")),
        ("full", 0, 1, ("", "-rate3")),
        ("frozen", epochs, 1, ("",)),
        ("gradual", (epochs + 1) // 2, 1, ("",)),
        ("decay0.8", 1, 0.8, ("", "-rate3")),
    ):
        for rate in rates:
            found[name + rate] = f"frozen_epochs={frozen} layer_decay={decay} learning_rate={RATES[rate]:g}"
    return found


def jobs(seed: int, sections: list[str]) -> list[Job]:
    """The jobs of some sections in order, with those that they start from or learn from before them."""
    mark = f"-seed{seed}" if seed else ""
    found: dict[str, Job] = {}

    def add(
        section: str, data: str, network: str, start: str, variant: str, changes: str, *, recipe: str = "finetune",
        epochs: int | None = None, width: float | None = None, teacher: str | None = None,
    ) -> None:  # fmt: skip
        name = "-".join((data, network, start.removeprefix("run:").partition("-")[0], variant)) + mark
        text = f"{recipe} epochs={epochs or EPOCHS[data]} {changes} size={SIZES.get(data, 32)}{f' seed={seed}' if seed else ''}"
        job = Job((section,), name, data, network, width or WIDTHS[network], start, text, teacher)
        found[name] = dataclasses.replace(job, sections=(*found[name].sections, section)) if name in found else job

    def finetune(data: str, start: str) -> None:
        for variant, changes in variants(EPOCHS[data]).items():
            add("finetune", data, "a1", start, variant, changes)

    for data in SIZES:
        finetune(data, "cifar10")
    for data in SIZES:
        for network in WIDTHS:
            for start, variant in TABLE:
                add("table", data, network, start, variant, variants(EPOCHS[data])[variant])
    student, width = STUDENT
    for variant, teacher, changes in (("distill", TEACHER + mark, "teacher_weight=0.7"), ("alone", None, "teacher_weight=0")):
        add(
            "teacher", "trashnet", student, "fresh", variant, changes, recipe="distill", epochs=STUDENT_EPOCHS, width=width,
            teacher=teacher,
        )  # fmt: skip
    for count in SUBSETS:
        finetune(f"cifar10-{count}", f"run:{CIFAR_START}{mark}")

    chosen = [job for job in found.values() if set(job.sections) & set(sections)]
    needed = {name.removeprefix("run:") for job in chosen for name in (job.start, job.teacher) if name}
    return [job for job in found.values() if job in chosen or job.name in needed]


def make_data(name: str, root: Path, runs: Path) -> Path:
    """The folder of a divided set: trashnet as it is; others are divided once, under `runs`."""
    if name == "trashnet":
        return root / name
    folder, beside = runs / "data" / name, runs / "data" / f"{name}.part"
    if not folder.is_dir():
        for target, content in _flowers(root) if name == "flowers128" else _cifar(root, int(name.rpartition("-")[2])):
            path = beside / target
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            path.write_bytes(content) if isinstance(content, bytes) else path.symlink_to(content)
        beside.rename(folder)
    return folder


def _flowers(root: Path) -> Iterator[tuple[str, Path]]:
    for folder in sorted(path for path in (root / "flowers128").resolve().iterdir() if path.is_dir()):
        files = sorted(folder.iterdir())
        rest = [file for number, file in enumerate(files) if number % 5 != 4]
        parts = {"test": files[4::5], "val": rest[9::10], "train": [file for n, file in enumerate(rest) if n % 10 != 9]}
        for part, members in parts.items():
            yield from ((f"{part}/{folder.name}/{file.name}", file) for file in members)


def _cifar(root: Path, count: int) -> Iterator[tuple[str, bytes]]:
    """`count` photos of each class to train, the 50 after the first 200 to validate, 100 to test."""
    import tensorflow as tf

    labels = (root / "cifar10" / "labels.txt").read_text("utf-8").splitlines()
    keys = {"image/encoded": tf.io.FixedLenFeature([], tf.string), "image/class/label": tf.io.FixedLenFeature([], tf.int64)}
    most = max(SUBSETS)
    for split, parts in (("train", {"train": (0, count), "val": (most, most + 50)}), ("test", {"test": (0, 100)})):
        seen = dict.fromkeys(labels, 0)
        for example in tf.data.TFRecordDataset(str(root / "cifar10" / f"{split}.tfrecord")):
            values = tf.io.parse_single_example(example, keys)
            label = labels[int(values["image/class/label"])]
            number, seen[label] = seen[label], seen[label] + 1
            for part, (first, last) in parts.items():
                if first <= number < last:
                    yield f"{part}/{label}/{number:04}.jpg", bytes(values["image/encoded"].numpy())
            if min(seen.values()) >= max(last for _, last in parts.values()):
                break


def run(job: Job, root: Path, runs: Path) -> dict[str, Any]:
    """The row of a job: trained, or resumed, and measured."""
    import keras

    from keras_mnasnet.benchmarks import evaluate
    from keras_mnasnet.export import export
    from keras_mnasnet.training import read_run, resume, train

    data, folder = make_data(job.data, root, runs), runs / job.name
    start = str(runs / job.start.removeprefix("run:")) if job.start.startswith("run:") else job.start
    teacher = str(runs / job.teacher) if job.teacher else None
    options: dict[str, Any] = {"recipe": job.recipe, "network": job.network}
    if start == "fresh":
        options |= {"width": job.width, "stem_stride": 1}
    elif start == job.start:
        options["from_model"] = start
    else:
        options = {"recipe": job.recipe, "from_model": start}
    if teacher:
        options["teacher"] = teacher
    began = time.process_time()
    resumed = (folder / "run.json").is_file()
    done = resume(folder) if resumed else train(data, folder, **options)
    cpu_s = time.process_time() - began
    facts = read_run(folder)[1]
    best = max(range(len(done.rows)), key=lambda number: done.rows[number]["val_accuracy"])
    row: dict[str, Any] = {
        "sections": job.sections, "job": job.name, "data": job.data, "network": job.network, "width": job.width,
        "start": job.start, "recipe": job.recipe, "teacher": job.teacher,
        "command": command(data, folder, options).replace(str(runs), "RUNS").replace(str(root), "ROOT"),
        "size": facts.size, "train_images": facts.train_images,
        "validation_images": facts.validation_images, "epochs": len(done.rows), "best_epoch": best + 1,
        "val_accuracy": done.best_accuracy, "curve": [each["val_accuracy"] for each in done.rows],
        "seconds": done.rows[-1]["seconds"], "cpu_s": None if resumed else round(cpu_s, 1),
        "images_per_second": done.rows[-1]["images_per_second"],
    }  # fmt: skip
    files = {"float32": folder}
    if {"table", "teacher"} & set(job.sections):
        files["int8"] = runs / f"{job.name}-int8.tflite"
        export(folder, files["int8"], quantize="int8", representative_data=str(data), calibration_count=300)
    for key, result in zip(files, evaluate(list(map(str, files.values())), data, split="test", threads=1), strict=True):
        row |= {f"test_{key}": result.top1, "test_images": result.images}
    keras.backend.clear_session()
    return row


def quantized(job: Job, root: Path, runs: Path) -> dict[str, Any]:
    """What quantization-aware training of a finished job makes, on the test photos."""
    from keras_mnasnet.benchmarks import evaluate
    from keras_mnasnet.export import quantize_aware

    data, file = make_data(job.data, root, runs), runs / f"{job.name}-qat.tflite"
    quantize_aware(runs / job.name, data, file, epochs=QAT_EPOCHS, batch_size=32)
    (result,) = evaluate([str(file)], data, split="test", threads=1)
    return {"qat_epochs": QAT_EPOCHS, "test_int8_qat": result.top1}


def command(data: Path, folder: Path, options: dict[str, Any]) -> str:
    """The command line that trains the same."""
    words = ["mnasnet", "train", str(data)]
    for name, value in options.items():
        words += [{"from_model": "--from"}.get(name, f"--{name.replace('_', '-')}"), str(value)]
    return shlex.join([*words, "-o", str(folder)])


def tables(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, in %: ways to fine-tune, starts of three networks, and the teacher."""

    def percent(row: dict[str, Any] | None, *keys: str) -> str:
        return " / ".join(f"{100 * row[key]:.1f}" if key in row else "-" for key in keys) if row else "-"

    def table(first: str, heads: Sequence[str], lines: dict[str, list[str]]) -> list[str]:
        head = [f"| {' | '.join([first, *heads])} |", f"| --- |{' --- |' * len(heads)}"]
        return [*head, *(f"| {' | '.join([name, *cells])} |" for name, cells in lines.items()), ""]

    found = {row["job"]: row for row in rows}
    starts = {**dict.fromkeys(SIZES, "cifar10"), **{f"cifar10-{count}": "trashnet" for count in SUBSETS}}
    ways = {
        way: [percent(found.get(f"{data}-a1-{start}-{way}"), "val_accuracy", "test_float32") for data, start in starts.items()]
        for way in variants(1)
    }
    networks = {
        f"{network}, {start}, {way}": [
            percent(found.get(f"{data}-{network}-{start}-{way}"), "val_accuracy", "test_float32", "test_int8", "test_int8_qat")
            for data in SIZES
        ]
        for network in WIDTHS
        for start, way in TABLE
    }
    taught = {
        name: [percent(found.get(f"trashnet-small-fresh-{name}"), "val_accuracy", "test_float32", "test_int8")]
        for name in ("distill", "alone")
    }
    return "\n".join(
        table("A1, validation / test", list(starts), ways)
        + table("validation / test float32 / int8 / QAT", list(SIZES), networks)
        + table("validation / test float32 / int8", ["trashnet"], taught)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="ROOT", help="the photos; not needed for --list")
    parser.add_argument("--runs", type=Path, help="what is kept of every job; not needed for --list")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of every training; default %(default)s")
    parser.add_argument("--output", type=Path, help="JSON file to write after every job, with the tables beside it as .md")
    parser.add_argument("--list", action="store_true", help="show the jobs and stop")
    arguments = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = str(arguments.threads)  # before TensorFlow is loaded

    found = jobs(arguments.seed, arguments.only)
    if arguments.list:
        for job in found:
            print(f"{', '.join(job.sections):16} {job.name:40} {job.recipe}")
        return
    if arguments.data is None or arguments.runs is None:
        parser.error("--data ROOT and --runs RUNS must say what to train on and where runs are kept. --list needs neither")
    root, runs = arguments.data.absolute(), arguments.runs.absolute()
    todo = [job for job in found if not (runs / "rows" / f"{job.name}.json").is_file()]
    if lost := sorted({name for job in todo if not (root / (name := job.data.partition("-")[0])).is_dir()}):
        parser.error(f"--data must be a folder with {', '.join(lost)} in it. Received: {root}, without")

    from keras_mnasnet.benchmarks.results import write_json
    from keras_mnasnet.utils.files import write_file
    from keras_mnasnet.utils.system import environment

    rows: dict[str, dict[str, Any]] = {}
    steps = [(job, run, "epochs") for job in found] + [
        (job, quantized, "qat_epochs") for job in found if "table" in job.sections
    ]
    for job, step, made in steps:
        kept = runs / "rows" / f"{job.name}.json"
        row = json.loads(kept.read_text("utf-8")) if kept.is_file() else {}
        if made not in row:
            row |= {**step(job, root, runs), "environment": environment(), "threads": arguments.threads}
            write_json(kept, row)
        rows[job.name] = row
        print(text(row), flush=True)
        if arguments.output:
            value = {
                "schema": SCHEMA, "benchmark": "photos", "date": datetime.date.today().isoformat(), "seed": arguments.seed,
                "threads": arguments.threads, "rows": list(rows.values()),
            }  # fmt: skip
            write_json(arguments.output, value)
            write_file(arguments.output.with_suffix(".md"), tables(value["rows"]))


def text(row: dict[str, Any]) -> str:
    """A row for people, percent."""
    tests = {key.removeprefix("test_"): value for key, value in row.items() if key.startswith("test_") and key != "test_images"}
    shown = ", ".join(f"{key} {100 * value:.1f} %" for key, value in tests.items())
    return f"{row['job']:40} {row['epochs']:>3} epochs  validation {100 * row['val_accuracy']:.1f} %  test: {shown}"


if __name__ == "__main__":
    main()
