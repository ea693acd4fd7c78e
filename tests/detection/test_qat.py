"""Quantization-aware training of a detector: the file, its report, and what is refused before any work."""

import importlib.util
import json

import keras
import pytest
from models import distinct

from keras_mnasnet import MnasNet
from keras_mnasnet.detection import AnchorSettings, SSDLite, quantize_aware
from keras_mnasnet.detection.inference import OPERATOR, spec_in
from keras_mnasnet.export import TfliteFile
from keras_mnasnet.export import quantize_aware as quantize_classifier
from keras_mnasnet.export.verify import drawn_images
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
