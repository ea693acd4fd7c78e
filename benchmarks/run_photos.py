"""Training on small sets of real photos: starts, recipes, distillation, and what int8 keeps. One core, from cold.

    python benchmarks/run_photos.py --data ROOT --runs RUNS [--only finetune table teacher] [--list]
        [--output benchmarks/results/NAME/photos.json]

ROOT holds the folders trashnet (train, val, test), flowers128 (classes only) and cifar10 (train.tfrecord, test.tfrecord,
labels.txt). RUNS keeps a run for each job, the sets that were divided here (links, and CIFAR-10's own JPEG bytes), and the rows
of finished jobs: a call goes on where an earlier one stopped. `--list` shows the jobs and trains nothing.

`finetune` compares ways to fine-tune A1 on the same photos for as many epochs: the recipe as it is (its classifier alone for
the first epoch), all layers from the start, the same at three times the rate, the classifier alone, the classifier alone for
half of the epochs, and lower rates for lower layers. `table` trains A1, B1 and small from fresh weights, from the CIFAR-10
weights by the same recipe, and from these by `finetune`. `teacher` trains a smaller network with a teacher and without.

The validation split chooses the epoch. Each job is measured once on the test photos, as a float32 model and as an int8 file
that is calibrated on training photos; the jobs of `table` also after quantization-aware training (QAT).

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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SCHEMA = 1
WIDTHS = {"a1": 0.5, "b1": 0.5, "small": 1.0}
SIZES = {"trashnet": 48, "flowers128": 48}
SUBSETS = (10, 50, 200)
EPOCHS = {"trashnet": 6, "flowers128": 3, "cifar10-10": 20, "cifar10-50": 10, "cifar10-200": 6}
STUDENT, STUDENT_EPOCHS, TEACHER = ("small", 0.35), 20, "trashnet-a1-cifar10-finetune"
FULL_RATE = " frozen_epochs=0 learning_rate=0.003"
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


def jobs(seed: int, sections: list[str]) -> list[Job]:
    """The jobs of some sections in order, with those that they start from or learn from before them."""
    mark = f"-seed{seed}" if seed else ""
    found: dict[str, Job] = {}

    def add(
        section: str, data: str, network: str, start: str, variant: str, recipe: str, *, width: float | None = None,
        teacher: str | None = None,
    ) -> None:  # fmt: skip
        name = "-".join((data, network, start.removeprefix("run:").partition("-")[0], variant)) + mark
        text = f"{recipe} size={SIZES.get(data, 32)}{f' seed={seed}' if seed else ''}"
        job = Job((section,), name, data, network, width or WIDTHS[network], start, text, teacher)
        found[name] = dataclasses.replace(job, sections=(*found[name].sections, section)) if name in found else job

    def finetune(data: str, start: str) -> None:
        for variant, changes in (
            ("finetune", ""),
            ("full", " frozen_epochs=0"),
            ("full-rate3", FULL_RATE),
            ("frozen", f" frozen_epochs={EPOCHS[data]}"),
            ("gradual", f" frozen_epochs={(EPOCHS[data] + 1) // 2}"),
            *((f"decay{decay:g}", f" layer_decay={decay:g}") for decay in (0.9, 0.8)),
        ):
            add("finetune", data, "a1", start, variant, f"finetune epochs={EPOCHS[data]}{changes}")

    for data in SIZES:
        finetune(data, "cifar10")
    for data in SIZES:
        for network in WIDTHS:
            for start, variant, changes in (
                ("fresh", "full-rate3", FULL_RATE), ("cifar10", "full-rate3", FULL_RATE), ("cifar10", "finetune", ""),
            ):  # fmt: skip
                add("table", data, network, start, variant, f"finetune epochs={EPOCHS[data]}{changes}")
    student, width = STUDENT
    for variant, teacher, changes in (("distill", TEACHER + mark, ""), ("alone", None, " teacher_weight=0")):
        recipe = f"distill epochs={STUDENT_EPOCHS}{changes}"
        add("teacher", "trashnet", student, "fresh", variant, recipe, width=width, teacher=teacher)
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
    from keras_mnasnet.export import export_tflite, quantize_aware
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
    files = {"float32": folder, "int8": runs / f"{job.name}-int8.tflite"}
    export_tflite(folder, files["int8"], quantize="int8", representative_data=str(data), calibration_count=300)
    if "table" in job.sections:
        files["int8_qat"] = runs / f"{job.name}-qat.tflite"
        quantize_aware(folder, data, files["int8_qat"], epochs=QAT_EPOCHS, batch_size=32)
        row["qat_epochs"] = QAT_EPOCHS
    for key, result in zip(files, evaluate(list(map(str, files.values())), data, split="test", threads=1), strict=True):
        row |= {f"test_{key}": result.top1, "test_images": result.images}
    keras.backend.clear_session()
    return row


def command(data: Path, folder: Path, options: dict[str, Any]) -> str:
    """The command line that trains the same."""
    words = ["mnasnet", "train", str(data)]
    for name, value in options.items():
        words += [{"from_model": "--from"}.get(name, f"--{name.replace('_', '-')}"), str(value)]
    return shlex.join([*words, "-o", str(folder)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="ROOT")
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of every training; default %(default)s")
    parser.add_argument("--output", type=Path, help="JSON file to write after every job")
    parser.add_argument("--list", action="store_true", help="show the jobs and stop")
    arguments = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = str(arguments.threads)  # before TensorFlow is loaded

    from keras_mnasnet.benchmarks.results import write_json
    from keras_mnasnet.utils.system import environment

    root, runs = arguments.data.absolute(), arguments.runs.absolute()
    rows: list[dict[str, Any]] = []
    for job in jobs(arguments.seed, arguments.only):
        if arguments.list:
            print(f"{', '.join(job.sections):16} {job.name:40} {job.recipe}")
            continue
        kept = runs / "rows" / f"{job.name}.json"
        if not kept.is_file():
            write_json(kept, {**run(job, root, runs), "environment": environment(), "threads": arguments.threads})
        rows.append(json.loads(kept.read_text("utf-8")))
        print(text(rows[-1]), flush=True)
        if arguments.output:
            value = {
                "schema": SCHEMA, "benchmark": "photos", "date": datetime.date.today().isoformat(), "seed": arguments.seed,
                "threads": arguments.threads, "rows": rows,
            }  # fmt: skip
            write_json(arguments.output, value)


def text(row: dict[str, Any]) -> str:
    """A row for people, percent."""
    tests = {key.removeprefix("test_"): value for key, value in row.items() if key.startswith("test_") and key != "test_images"}
    shown = ", ".join(f"{key} {100 * value:.1f} %" for key, value in tests.items())
    return f"{row['job']:40} {row['epochs']:>3} epochs  validation {100 * row['val_accuracy']:.1f} %  test: {shown}"


if __name__ == "__main__":
    main()
