"""Quantization-aware training and pruning: the file, the report, and what goes wrong around the child process."""

import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import PIL.Image
import pytest
from models import SMALLEST
from mutants import CHANGES, mutant

from keras_mnasnet import MnasNet, load, save
from keras_mnasnet.export import ExportError, TfliteFile, export, prune, quantize_aware
from keras_mnasnet.export import qat as room
from keras_mnasnet.export.verify import LIMITS, comparisons, judge
from keras_mnasnet.preprocessing import Augment
from keras_mnasnet.training.job import Facts, Job, write_run
from keras_mnasnet.training.recipe import recipe_of

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_model_optimization") is None, reason="the extra [qat] is not installed"
)

SHAPES = "shapes:160@32"


@pytest.fixture(scope="module")
def checkpoint():
    """The bundled A1 without the names of its classes: it trains on drawn shapes here."""
    return dataclasses.replace(load("cifar10"), labels=None)


def test_other_classes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="checkpoint's classes, in its order. Received: class 0 is .* and 'airplane' in"):
        quantize_aware("cifar10", SHAPES, tmp_path / "x.tflite", epochs=1, batch_size=16)
    assert not list(tmp_path.glob("*.tflite*"))


def test_a_few_folders_named_by_wnids_are_these_classes(checkpoint, tmp_path):
    """As in fine-tuning: not ImageNet's thousand."""
    for label, wnid in enumerate(("n01440764", "n02102040")):
        (tmp_path / "data" / wnid).mkdir(parents=True)
        for number in range(3):
            PIL.Image.new("RGB", (32, 32), (90 * label, 40 * number, 0)).save(tmp_path / "data" / wnid / f"{number}.png")
    with pytest.raises(ValueError, match="the checkpoint's 10 classes. Received: 2 in"):
        quantize_aware(checkpoint, tmp_path / "data", tmp_path / "x.tflite", epochs=1, batch_size=1)


@pytest.mark.nightly
def test_a_trained_file(checkpoint, bundled, pictures, tmp_path, monkeypatch):
    """It has the operators of post-training quantization; before the first step it is as good as the float network.

    What its constants are changed to is refused by the limits of its kind.
    """
    given, publish = {}, room.publish
    monkeypatch.setattr(
        room, "publish", lambda content, *more, **options: (given.update(options), publish(content, *more, **options))[1]
    )
    path, names = tmp_path / "qat.tflite", [f"shape {number}" for number in range(10)]
    report = quantize_aware(
        checkpoint, SHAPES, path, epochs=1, batch_size=16, steps_per_epoch=3, input_dtype="uint8", labels=names
    )
    after = export(bundled, tmp_path / "ptq.tflite", quantize="int8", input_dtype="uint8", representative_data=pictures)
    assert report.export.facts.operators == after.facts.operators
    assert report.export.facts.floating == ()
    assert set(report.export.facts.output_types) == {"int8", "uint8"}
    assert report.export.partitions.outside == after.partitions.outside
    (image,) = report.export.facts.inputs
    assert (image.name, image.dtype, image.scale, image.zero_point) == ("image", "uint8", 1.0, 0)
    assert report.export.comparisons[0].error < 0.1
    assert report.export.verified_on == "128 validation images"
    assert [row["epoch"] for row in report.epochs] == [1]
    written = json.loads((tmp_path / "qat.tflite.json").read_text("utf-8"))
    assert written["route"] == "quantization-aware training"
    assert abs(report.start_accuracy - report.float_accuracy) < 0.05
    assert report.as_json()["training"]["start_accuracy"] == report.start_accuracy
    assert list(TfliteFile(path).labels) == names
    read = load(path)
    assert (read.labels, read.classes, read.size) == (tuple(names), 10, 32)
    assert read.architecture.same_network(checkpoint.architecture)
    expected, content = given["oracle"](given["images"]), path.read_bytes()
    files = {"true": content, **{name: mutant(content, name) for name in CHANGES}}
    judged = {}
    for name, file in files.items():
        compared = comparisons(TfliteFile(file, threads=1).values(given["images"]), expected, given["precision"])
        try:
            judge(compared, given["precision"], LIMITS[given["precision"]])
        except ExportError:
            judged[name] = "refused"
    assert sorted(judged) == sorted(CHANGES)


def test_this_process_never_loads_keras_2():
    code = (
        "import sys\nfrom keras_mnasnet.cli import export\nfrom keras_mnasnet.export import quantize_aware\n"
        "try:\n    quantize_aware('cifar10', 'nowhere', 'x.tflite')\n"
        "except ValueError as error:\n    assert 'does not exist' in str(error)\n"
        "assert not {'tf_keras', 'tensorflow_model_optimization', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def run_folder(folder):
    """The folder of a training run, with an augmentation of single images and one of batches."""
    network = MnasNet(SMALLEST, weights=None, classes=10, input_shape=(32, 32, 3))
    save(network, folder / "model.safetensors")
    changes = {"augment.crop": "inception", "augment.randaugment_ops": 1, "augment.mixup": 0.2}
    told = {"size": 32, "bn_epsilon": 1e-3, "padding": "same", "labels": ("a",) * 10, "train_images": 1}
    counts = {"validation_images": 1, "steps_per_part": 1, "parts_per_epoch": 1}
    job = Job(data=SHAPES, recipe=recipe_of("cifar10", changes))
    write_run(folder, job, Facts(architecture=SMALLEST, **told, **counts))
    return job.recipe.augment


def test_the_augmentation_is_the_runs(tmp_path, monkeypatch, capfd):
    """Of a run's folder and of its model file; of another model a small one; what is asked for goes before both."""
    augment, seen = run_folder(tmp_path), []
    given = {"epochs": 1, "batch_size": 16}

    def work(worker, job, *more):
        seen.append(json.loads(job.read_text("utf-8"))["augment"])
        raise ChildProcessError("enough")

    monkeypatch.setattr(room, "work", work)
    (tmp_path / "alone").mkdir()
    shutil.copy(tmp_path / "model.safetensors", tmp_path / "alone")
    models = [tmp_path, tmp_path / "model.safetensors", tmp_path / "alone" / "model.safetensors"]
    for model, options in (*((model, {}) for model in models), (tmp_path, {"augment": Augment(crop="none")})):
        with pytest.raises(ChildProcessError, match="enough"):
            quantize_aware(model, SHAPES, tmp_path / "x.tflite", **given, **options)
    assert [Augment(**each) for each in seen] == [augment, augment, room.AUGMENT, Augment(crop="none")]
    assert f"augmentation  that of the run {tmp_path}" in capfd.readouterr().err


def test_pruning(tmp_path):
    path = tmp_path / "sparse.tflite"
    run_folder(tmp_path)
    report = prune(tmp_path, SHAPES, path, sparsity=0.5, epochs=1, batch_size=16, steps_per_epoch=6)
    assert report.sparsity == pytest.approx(0.5, abs=0.01)
    assert "DENSIFY" in report.export.facts.operators
    assert report.export.facts.bytes < report.dense_bytes
    assert report.dense_compressed_bytes < 0.8 * report.dense_bytes
    assert report.dense_path == str(tmp_path / "sparse.dense.tflite")
    assert os.path.getsize(report.dense_path) == report.dense_bytes
    assert report.export.comparisons[0].max_relative < 1e-4


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": 0}, ValueError, "`epochs` must be an integer >= 1. Received: epochs=0"),
        ({"steps_per_epoch": 0}, ValueError, "`steps_per_epoch` must be an integer >= 1, or None.*steps_per_epoch=0"),
        ({"steps_per_epoch": -1}, ValueError, "`steps_per_epoch` must be an integer >= 1, or None.*steps_per_epoch=-1"),
        ({"labels": ["one", "two"]}, ValueError, "Received: 2 names for 10 classes"),
        ({"batch_size": True}, ValueError, "`batch_size` must be an integer >= 1"),
        ({"learning_rate": 0.0}, ValueError, "`learning_rate` must be between 0 and 1"),
        ({"learning_rate": float("nan")}, ValueError, "`learning_rate` must be between 0 and 1"),
        ({"input_dtype": "half"}, ValueError, "`input_dtype` must be one of"),
        ({"path": "{tmp}/file/x.tflite"}, OSError, "folder that allows it"),
        ({"data": "nowhere"}, ValueError, "which does not exist"),
        ({"data": "shapes:40@32", "batch_size": 64}, ValueError, "`batch_size` must be between 1 and"),
    ],
)
def test_refusals(checkpoint, tmp_path, options, error, message):
    (tmp_path / "file").write_text("x")
    given = {"data": SHAPES, "path": str(tmp_path / "x.tflite"), "epochs": 1, **options}
    given["path"] = given["path"].format(tmp=tmp_path)
    with pytest.raises(error, match=message):
        quantize_aware(checkpoint, given.pop("data"), given.pop("path"), **given)
    assert not list(tmp_path.glob("*.tflite*"))


def test_other_refusals(checkpoint, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="`sparsity` must be between 0 and 1"):
        prune(checkpoint, SHAPES, tmp_path / "x.tflite", sparsity=1.0)
    with pytest.raises(ValueError, match="must have a classifier"):
        quantize_aware(dataclasses.replace(checkpoint, classes=0, labels=None), SHAPES, tmp_path / "x.tflite")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r"need tf_keras and tensorflow_model_optimization.*pip install 'keras_mnasnet\[qat\]'"
    ):
        quantize_aware(checkpoint, SHAPES, tmp_path / "x.tflite")


def test_a_killed_child_is_told_and_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    real = subprocess.Popen

    class Killed(real):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            threading.Timer(1.0, self.kill).start()

    monkeypatch.setattr(room.subprocess, "Popen", Killed)
    began = time.monotonic()
    with pytest.raises(ChildProcessError, match="must reach its end. Received: SIGKILL"):
        quantize_aware(checkpoint, SHAPES, tmp_path / "x.tflite", epochs=1)
    assert time.monotonic() - began < 60
    assert not list(tmp_path.glob("*.tflite*"))


def test_the_normalization_is_exact_where_8_bits_are(checkpoint):
    """0 and 255 go to (0 - mean) / std and (255 - mean) / std within half a step of their range."""
    code = (
        "import numpy as np\nfrom keras_mnasnet.export.qat_worker import PixelNormalization\n"
        "from keras_mnasnet.preprocessing import IMAGENET_MEAN, IMAGENET_STD\n"
        "pixels = np.stack([np.full((1, 4, 4, 3), value, 'float32') for value in (0, 100, 255)])[:, 0]\n"
        "found = PixelNormalization()(pixels).numpy()\n"
        "exact = (pixels / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)\n"
        "assert np.abs(found - exact).max() < 0.02, np.abs(found - exact).max()\n"
    )
    environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-500:]
