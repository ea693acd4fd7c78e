"""Quantization-aware training of a detector: the file, its report, and what is refused before any work."""

import dataclasses
import importlib.util
import json

import keras
import pytest
from models import distinct

from keras_mnasnet import MnasNet, save
from keras_mnasnet.detection import AnchorSettings, SSDLite, qat, quantize_aware
from keras_mnasnet.detection.inference import OPERATOR, spec_in
from keras_mnasnet.detection.recipe import DETECTION_RECIPES, DetectionRecipe
from keras_mnasnet.detection.training import DETECTION, DetectionFacts, DetectionJob
from keras_mnasnet.export import TfliteFile
from keras_mnasnet.export import quantize_aware as quantize_classifier
from keras_mnasnet.export.verify import drawn_images
from keras_mnasnet.training import recipe_from_json
from keras_mnasnet.training.job import write_run
from keras_mnasnet.weights.checkpoint import CheckpointError

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_model_optimization") is None, reason="the extra [qat] is not installed"
)
BACKBONE = "tiny: stem8 r1_k3_s22_e1_i8_o8 r1_k3_s22_e1_i8_o8 r1_k3_s22_e1_i8_o8 r1_k3_s22_e3_i8_o8 head16"
SMALL = {"extras": (), "anchors": AnchorSettings(aspect_ratios=(1.0,))}  # every layer takes tensorflow-model-optimization long
LABELS = ("person", "chair", "car")


@pytest.fixture
def photos(data):
    return data / "coco_tiny" / "val2017"


@pytest.fixture
def truth(data, tmp_path):
    """Eight photos of COCO and their boxes."""
    found = json.loads((data / "coco_tiny" / "annotations" / "instances_val2017.json").read_text("utf-8"))
    found["images"] = found["images"][:8]
    kept = {image["id"] for image in found["images"]}
    found["annotations"] = [row for row in found["annotations"] if row["image_id"] in kept]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(found))
    return path


def made(labels=LABELS, **options):
    keras.utils.set_random_seed(0)
    return SSDLite(BACKBONE, labels, input_size=96, **SMALL, **options)


def test_a_trained_detector(truth, photos, tmp_path):
    """It has the inputs, outputs and integer operators of post-training quantization, and takes pixels."""
    path = tmp_path / "qat.tflite"
    detector = distinct(made(include_preprocessing=False), drawn_images(16, 96, 96, 3) / 127.5 - 1)
    report = quantize_aware(
        detector, truth, path, photos=photos, validation=0.5, measure_ap=False, epochs=1, batch_size=4, steps_per_epoch=1,
        learning_rate=1e-6, input_dtype="uint8", progress=False,
    )  # fmt: skip
    export = report.export
    assert [(port.name, port.dtype, port.shape) for port in export.facts.inputs] == [("image", "uint8", (1, 96, 96, 3))]
    assert [port.name for port in export.facts.outputs] == ["boxes", "classes", "scores", "count"]
    assert (export.facts.operators["QUANTIZE"], export.facts.operators["DEQUANTIZE"]) == (1, 2), "none between two layers"
    assert (export.network_partitions.delegates, export.network_partitions.outside) == (1, {"QUANTIZE": 1})
    assert export.partitions.outside == {"QUANTIZE": 1, OPERATOR: 1}
    assert export.verified_against == "the fake-quantized twin"
    assert export.verified_on == "4 validation photos"
    assert export.agreement.matched >= 0.8 * export.agreement.expected > 8
    assert report.start_loss == pytest.approx(report.float_loss, rel=0.1), "the twin is the detector"
    (row,) = report.epochs
    assert row["epoch"] == 1
    assert row["val_loss"] == pytest.approx(report.start_loss, rel=0.1), "one small step"
    file = TfliteFile(path)
    assert file.labels == export.detector.labels
    assert spec_in(file) == export.detector
    assert export.detector.include_preprocessing
    written = json.loads((tmp_path / "qat.tflite.json").read_text("utf-8"))
    assert (written["quantize"], written["postprocess"]) == ("int8", "operator")
    assert written["description"].endswith(f", QAT int8, made by keras_mnasnet {written['keras_mnasnet']}")
    assert report.as_json()["training"]["epochs"][0]["loss"] == report.epochs[0]["loss"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "`epochs` must be an integer >= 1. Received: epochs=0"),
        ({"steps_per_epoch": 0}, "`steps_per_epoch` must be an integer >= 1, or None"),
        ({"postprocess": "fast"}, "`postprocess` must be one of"),
        ({"input_dtype": "half"}, "`input_dtype` must be one of"),
    ],
)
def test_refused_arguments(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        quantize_aware("nowhere", "none.json", tmp_path / "x.tflite", **options)
    assert not list(tmp_path.iterdir())


def test_refused_data_and_models(truth, photos, tmp_path):
    """Before any training; of a model of the other kind the command that takes it is named."""
    path = tmp_path / "x.tflite"
    with pytest.raises(OSError, match="Annotations must exist"):
        quantize_aware(made(), tmp_path / "none.json", path, photos=photos, progress=False)
    with pytest.raises(ValueError, match="`batch_size` must be between 1 and"):
        quantize_aware(made(), truth, path, photos=photos, batch_size=9, progress=False)
    with pytest.raises(ValueError, match="must be a category of .* Received: 'ship'"):
        quantize_aware(made(["ship"]), truth, path, photos=photos, progress=False)
    with pytest.raises(ValueError, match="must be a classifier. Received: .*, a detector: .*`mnasnet detect qat`"):
        quantize_classifier(made(), "shapes:40@32", path)
    classifier = MnasNet("small", weights=None, classes=2, input_shape=(32, 32, 3))
    with pytest.raises(CheckpointError, match="A detector is needed here. Received: .*, which classifies. `mnasnet predict`"):
        quantize_aware(classifier, truth, path, photos=photos)
    assert not list(tmp_path.glob("*.tflite*"))


class Stopped(Exception):
    """Instead of a training."""


@pytest.mark.parametrize("named", ["the run", "its model file", "another file"])
def test_a_run_is_gone_on_with_by_its_own_recipe(named, truth, photos, tmp_path, capfd, monkeypatch):
    """Matching, crops and loss; not its length, nor what it froze. A model of no run takes those of finetune-detector."""
    recipe = DETECTION_RECIPES["ssdlite-mobilenet-v3"].changed(
        epochs=9, match_iou=0.4, focal_alpha=0.6, frozen_epochs=9, frozen_learning_rate=0.1, patience=2, passes=3,
        **{"augment.area": (0.5, 1.0)},
    )  # fmt: skip
    folder = tmp_path / "run"
    folder.mkdir()
    save(made(), folder / "model.safetensors")
    facts = DetectionFacts(
        architecture=BACKBONE, size=(96, 96), bn_epsilon=1e-3, padding="same", labels=LABELS, train_images=8,
        validation_images=0, steps_per_part=1, parts_per_epoch=1, detector="", train_boxes=1,
    )  # fmt: skip
    write_run(folder, DetectionJob(data="boxes.json", recipe=recipe), facts, DETECTION)
    model = folder if named == "the run" else folder / "model.safetensors"
    if named == "another file":
        model = model.rename(tmp_path / "model.safetensors")
    jobs = []

    def work(worker, job, *rest):
        jobs.append(json.loads(job.read_text("utf-8"))["job"]["recipe"])
        raise Stopped

    monkeypatch.setattr(qat, "work", work)
    with pytest.raises(Stopped):
        quantize_aware(model, truth, tmp_path / "x.tflite", photos=photos, validation=0, epochs=2, batch_size=4, seed=5)
    usual, err = DETECTION_RECIPES["finetune-detector"], capfd.readouterr().err
    wanted = usual.changed(epochs=2, batch_size=4, seed=5)
    said = "finetune-detector; augmentation, matching and loss are those of this recipe"
    if named != "another file":
        wanted = dataclasses.replace(wanted, augment=recipe.augment, match_iou=0.4, max_boxes=100, focal_alpha=0.6)
        said = "finetune-detector augment.area=[0.5,1.0] focal_alpha=0.6 max_boxes=100 match_iou=0.4; augmentation, matching "
        said += f"and loss are those of the run {folder}"
        assert "those of train that one overlaps by an IoU of 0.4 or more" in err
    assert recipe_from_json(jobs[0], DetectionRecipe) == wanted
    assert said in err
