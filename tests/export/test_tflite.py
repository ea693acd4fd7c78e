"""`export`: every precision of the network that ships, other models, the report, the metadata, and what is refused."""

import dataclasses
import hashlib
import json
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_mnasnet import checkpoint_of, load, save
from keras_mnasnet.export import ExportError, FileClassifier, TfliteFile, export
from keras_mnasnet.export.verify import LIMITS
from keras_mnasnet.preprocessing import PIXELS, SIGNED

BLOCKS = {"CONV_2D": 49, "DEPTHWISE_CONV_2D": 16, "ADD": 9, "MEAN": 9, "LOGISTIC": 8, "MUL": 9, "SUB": 1, "SOFTMAX": 1}
BLOCKS |= {"FULLY_CONNECTED": 1}
LABELS = [f"class {number}" for number in range(10)]


@pytest.mark.parametrize(
    ("quantize", "route", "relative", "extra"),
    [
        (None, "direct", 1e-5, {}),
        ("float16", "direct", 1e-2, {"DEQUANTIZE": 132}),
        ("weight-int8", "direct", 0.2, {"DEQUANTIZE": 66}),
        ("dynamic", "converter", 0.2, {}),
        ("int8", "direct", 0.5, {"QUANTIZE": 1, "DEQUANTIZE": 1}),
    ],
)
def test_precisions(bundled, pictures, tmp_path, quantize, route, relative, extra):
    path = tmp_path / "a1.tflite"
    given = {"representative_data": pictures} if quantize == "int8" else {}
    report = export(bundled, path, quantize=quantize, photos=pictures[:20], labels=LABELS, **given)
    assert report.route == route
    assert report.facts.operators == dict(sorted({**BLOCKS, **extra}.items()))
    (compared,) = report.comparisons
    assert compared.images == 20
    assert compared.output == "scores"
    assert compared.max_relative <= relative
    assert compared.error <= LIMITS[quantize or "float32"].spread
    assert (report.limits, compared.judged) == (LIMITS[quantize or "float32"], "decisions")
    assert compared.changed <= 1 < compared.decided
    content = path.read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (report.facts.bytes, report.sha256)
    assert report.facts.signatures == {"serving_default": {"inputs": ["image"], "outputs": ["scores"]}}
    assert [port.shape for port in report.facts.inputs + report.facts.outputs] == [(1, 32, 32, 3), (1, 10)]
    if quantize in (None, "float16", "weight-int8"):
        assert report.partitions.whole
        assert report.outside_reason is None
    if quantize == "int8":
        assert report.facts.floating == ()
        assert report.partitions.outside == {"SOFTMAX": 1}
        assert report.calibration.images == 120
        assert report.calibration.seed == 0
        assert set(report.facts.output_types) == {"int8", "float32"}
        assert report.facts.output_types["float32"] == 1
    written = json.loads((tmp_path / "a1.tflite.json").read_text("utf-8"))
    assert written["schema"] == 1
    assert written["limits"]["changed"] == report.limits.changed
    assert written["comparisons"][0]["images"] == 20
    file = TfliteFile(path)
    assert file.labels == tuple(LABELS)
    assert file.report["comparisons"] == written["comparisons"]
    assert file.normalization == PIXELS
    expected = keras.ops.convert_to_numpy(bundled(pictures[:3]))
    scores, _ = FileClassifier(path, threads=1).run(pictures[:3])
    assert np.abs(scores - expected).max() <= relative


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_integer_input_takes_pixels(bundled, pictures, tmp_path, dtype):
    report = export(bundled, tmp_path / "a1.tflite", quantize="int8", input_dtype=dtype, representative_data=pictures)
    (image,), (scores,) = report.facts.inputs, report.facts.outputs
    assert (image.dtype, image.scale, image.zero_point) == (dtype, 1.0, 0 if dtype == "uint8" else -128)
    assert scores.dtype == dtype
    assert report.facts.floating == ()
    assert "float32" not in report.facts.output_types
    assert report.verified_on == "the first 64 calibration images"


def test_other_models_go_through_the_converter(bundled, pictures, tmp_path):
    """Two named outputs, in the order of their names; every precision."""
    other = keras.layers.Dense(3, name="other")(bundled.get_layer("avg_pool").output)
    model = keras.Model(bundled.input, {"zeta": bundled.output, "alpha": other}, name="two")
    for quantize in (None, "int8"):
        report = export(model, tmp_path / "two.tflite", quantize=quantize, representative_data=pictures)
        assert report.route == "converter"
        assert [port.name for port in report.facts.outputs] == ["alpha", "zeta"]
        assert [each.output for each in report.comparisons] == ["alpha", "zeta"]
        assert all(each.error < 0.5 for each in report.comparisons)
        assert report.comparisons[0].max_relative <= (1e-5 if quantize is None else 0.3)
    assert TfliteFile(tmp_path / "two.tflite").normalization is None


def test_weight_int8_of_another_model(bundled, pictures, tmp_path):
    pytest.importorskip("ai_edge_quantizer")
    model = keras.Model(bundled.input, keras.layers.Dense(3, name="other")(bundled.get_layer("avg_pool").output), name="three")
    report = export(model, tmp_path / "three.tflite", quantize="weight-int8", photos=pictures[:8])
    assert report.route == "converter + ai-edge-quantizer"
    assert report.partitions.whole
    assert report.facts.constant_bytes["int8"] > 10 * report.facts.constant_bytes.get("float32", 0)
    assert report.comparisons[0].error < 0.1


def test_batch_free_size_and_logits(tmp_path, pictures):
    from keras_mnasnet import MnasNet

    model = MnasNet("small", weights=None, input_shape=(None, None, 3), classes=4, classifier_activation=None)
    with pytest.raises(ValueError, match=r"fixed size. Received: .*None.*Pass size="):
        export(model, tmp_path / "x.tflite")
    report = export(model, tmp_path / "x.tflite", size=(32, 32), batch=3, photos=pictures[:7])
    assert report.route == "direct"
    assert report.facts.inputs[0].shape == (3, 32, 32, 3)
    assert report.comparisons[0].images == 7
    assert report.comparisons[0].max_relative < 1e-5
    assert "SOFTMAX" not in report.facts.operators


def test_a_source_needs_no_tensorflow(tmp_path):
    """And no Keras: the door on a bundled checkpoint, in a process of its own; it says what it does."""
    code = (
        "import sys\nfrom keras_mnasnet.export import export\n"
        f"report = export('cifar10', {str(tmp_path / 'a.tflite')!r})\n"
        "assert not {'tensorflow', 'keras', 'jax', 'torch'} & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "cifar10/a1-0.5-32" in run.stderr
    assert "classes    10: airplane, automobile" in run.stderr
    assert f"Next: mnasnet bench latency {tmp_path / 'a.tflite'}" in run.stderr
    file = TfliteFile(tmp_path / "a.tflite")
    assert (file.labels, file.preprocessing) == (load("cifar10").labels, load("cifar10").preprocessing)
    report = file.report
    assert report["route"] == "direct"
    assert report["verified_against"] == "the network in NumPy"
    assert report["comparisons"][0]["max_relative"] < 1e-5
    assert (report["origin"]["record"], report["origin"]["license"]) == ("cifar10/a1-0.5-32", "Apache-2.0")


def test_every_kind_of_model_gives_the_same_file(bundled, pictures, tmp_path):
    """A record's id, its Checkpoint, the Keras model, and its files: the same scores, labels and preprocessing."""
    checkpoint = load("cifar10")
    for ending in (".safetensors", ".keras"):
        save(bundled, tmp_path / f"a1{ending}")
    found = []
    for number, model in enumerate(
        ("cifar10/a1-0.5-32", checkpoint, bundled, tmp_path / "a1.safetensors", str(tmp_path / "a1.keras"))
    ):
        path = tmp_path / f"{number}.tflite"
        report = export(model, path, photos="shapes:20@40" if number == 1 else None, progress=False)
        assert report.route == "direct"
        assert report.verified_on == {0: "4 drawn images", 1: "20 given images", 3: "4 drawn images"}.get(
            number, "32 drawn images"
        )
        assert report.origin.record == "cifar10/a1-0.5-32"
        file = FileClassifier(path)
        assert (file.labels, file.file.preprocessing) == (checkpoint.labels, checkpoint.preprocessing)
        found.append(file.run(pictures[:2])[0])
    for scores in found[1:]:
        np.testing.assert_array_equal(scores, found[0])


def test_logits_in_a_keras_file_stay_logits(tmp_path):
    from keras_mnasnet import MnasNet

    save(MnasNet("a1", weights="cifar10", classifier_activation=None), tmp_path / "a1.keras")
    report = export(tmp_path / "a1.keras", tmp_path / "a1.tflite", progress=False)
    assert "SOFTMAX" not in report.facts.operators
    assert TfliteFile(tmp_path / "a1.tflite").labels == load("cifar10").labels


def test_photos_calibrate_and_verify(tmp_path):
    given = {"representative_data": "shapes:130@40", "calibration_count": 110, "verification_count": 4, "progress": False}
    report = export("cifar10", tmp_path / "a.tflite", quantize="int8", input_dtype="uint8", **given)
    assert (report.calibration.images, report.calibration.seed) == (110, 0)
    assert report.verified_on == "the first 4 calibration images"
    assert report.verified_against.startswith("Keras ")
    assert report.preprocessing == load("cifar10").preprocessing


def test_foreign_models_are_told_how_photos_become_their_input(tmp_path):
    image = keras.Input((24, 24, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(image))
    keras.Model(image, keras.layers.Dense(3)(pooled), name="plain").save(tmp_path / "plain.keras")
    with pytest.raises(
        ValueError, match=r"`normalization` \(--input\) must say how the model takes photos, one of pixels, unit"
    ):
        export(tmp_path / "plain.keras", tmp_path / "a.tflite", photos="shapes:8@32")
    report = export(tmp_path / "plain.keras", tmp_path / "a.tflite", photos="shapes:8@32", normalization="signed")
    assert (report.origin.source, report.origin.name, report.preprocessing) == ("keras", "plain.keras", None)
    assert TfliteFile(tmp_path / "a.tflite").normalization == SIGNED


def test_what_is_no_classifier(tmp_path):
    checkpoint = load("cifar10")
    body = dataclasses.replace(checkpoint, classes=0, labels=None)
    for model, message in (
        (body, "`model` must have a classifier. Received: cifar10/a1-0.5-32, which has none"),
        (tmp_path / "none.keras", "none.keras, which does not"),
        ("a1", "a network without weights"),
    ):
        with pytest.raises(ValueError, match=message):
            export(model, tmp_path / "a.tflite")
    with pytest.raises(ValueError, match=r"`path` \(-o\) must end in .tflite or .onnx. Received: path='a.bin'"):
        export("cifar10", "a.bin")
    with pytest.raises(ValueError, match="is for Keras models that do not normalize pixels themselves"):
        export("cifar10", tmp_path / "a.tflite", normalization="signed")
    assert not list(tmp_path.glob("*.tflite*"))


@pytest.mark.parametrize("quantize", [None, "float16"])
def test_numpy_reference_equals_keras(bundled, pictures, tmp_path, quantize):
    checkpoint = load("cifar10")
    report = export(checkpoint, tmp_path / "a.tflite", quantize=quantize, photos=pictures[:4])
    assert report.comparisons[0].max_relative < (1e-5 if quantize is None else 2e-2)
    from keras_mnasnet.export.reference import Reference

    numerics = checkpoint.numerics
    reference = Reference(checkpoint.architecture, checkpoint.tensors, bn_epsilon=numerics.bn_epsilon, padding=numerics.padding)
    expected = keras.ops.convert_to_numpy(bundled(pictures[:4]))
    np.testing.assert_allclose(reference(pictures[:4]), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "padding"),
    [
        ("b1", "symmetric"),
        (
            "stem24 r1_k3_s11_e1_i24_o16_noskip_conv r2_k1_s22_e3_i16_o24_pool r2_k7_s11_e3_i24_o24_se0.25 "
            "r1_k1_s22_e1_i24_o32_conv r1_k5_s22_e1_i32_o40_linear head64",
            "same",
        ),
    ],
)
def test_reference_of_other_networks(network, padding):
    from models import shaken

    from keras_mnasnet import MnasNet
    from keras_mnasnet.export.reference import Reference
    from keras_mnasnet.export.verify import drawn_images

    options = {"padding": padding, "bn_epsilon": 1e-5, "classifier_activation": None}
    model = shaken(MnasNet(network, width_multiplier=0.35, weights=None, input_shape=(65, 47, 3), classes=6, **options))
    checkpoint = checkpoint_of(model)
    reference = Reference(checkpoint.architecture, checkpoint.tensors, bn_epsilon=1e-5, padding=padding, softmax=False)
    images = drawn_images(2, 65, 47, 3)
    expected = keras.ops.convert_to_numpy(model(images))
    assert np.abs(reference(images) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": "int4"}, "`quantize` must be one of .*Received: quantize='int4'"),
        ({"quantize": "int8"}, "needs `representative_data`.*Received: none"),
        ({"input_dtype": "uint8"}, "needs quantize='int8'. Received: quantize=None"),
        ({"quantize": "int8", "representative_data": 5, "input_dtype": "half"}, "`input_dtype` must be one of"),
        ({"batch": 0}, "`batch` must be an integer >= 1. Received: batch=0"),
        ({"size": 64}, "`size` must be the model's, .*Received: size=64"),
        ({"labels": ["one", "two"]}, "Received: 2 names for 10 classes"),
        ({"photos": np.zeros((2, 16, 16, 3))}, r"`photos` must be \[N, 32, 32, 3\]. Received: \[2, 16, 16, 3\]"),
        ({"quantize": "int8", "representative_data": 5}, "`representative_data` must be .*Received: int '5'"),
        ({"quantize": "int8", "representative_data": "nowhere"}, "Received: data='nowhere', which does not exist"),
        ({"normalization": "signed"}, "`normalization` .* must be pixels for a model that normalizes them itself"),
        ({"normalization": "raw"}, "`normalization` must be one of pixels, unit, signed, imagenet or a Normalization"),
        ({"quantize": "int8", "representative_data": []}, "nothing to calibrate on"),
        ({"quantize": "int8", "representative_data": np.zeros((9, 8, 8, 3))}, r"must hold images \[32, 32, 3\].*\[8, 8, 3\]"),
        ({"quantize": "int8", "representative_data": np.zeros((9, 32, 32, 3))}, "whose pixels are all 0"),
        ({"quantize": "int8", "representative_data": np.eye(32)[None, :, :, None].repeat(3, -1)}, "look divided by 255"),
        (
            {"quantize": "int8", "representative_data": 300 * np.eye(32)[None, :, :, None].repeat(3, -1)},
            "Received: values 0..300",
        ),
        ({"quantize": "int8", "representative_data": np.full((1, 32, 32, 3), np.nan)}, "must hold finite numbers"),
        (
            {"quantize": "int8", "representative_data": np.ones((2, 32, 32, 3)), "calibration_count": 0},
            "`calibration_count` .* must be an integer >= 1",
        ),
    ],
)
def test_refusals(bundled, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        export(bundled, tmp_path / "a.tflite", **options)
    assert not (tmp_path / "a.tflite").exists()


def test_few_images_are_told(bundled, pictures, tmp_path, caplog):
    export(bundled, tmp_path / "a.tflite", quantize="int8", representative_data=iter(pictures[:12]))
    assert "Only 12 images to calibrate on" in caplog.text


def test_unwritable(bundled, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="folder that allows it. Received: .*file"):
        export(bundled, tmp_path / "file" / "a.tflite")
    (tmp_path / "folder.tflite").mkdir()
    with pytest.raises(OSError, match="A file must be written, not a folder"):
        export(bundled, tmp_path / "folder.tflite")


@keras.saving.register_keras_serializable("tests")
class Bessel(keras.layers.Layer):
    """An operation that LiteRT lacks."""

    def call(self, x):
        import tensorflow as tf

        return tf.math.bessel_i0(x)


@keras.saving.register_keras_serializable("tests")
class Gelu(keras.layers.Layer):
    """An operation with no int8 kernel."""

    def call(self, x):
        import tensorflow as tf

        return tf.math.cos(x)


def test_operators_that_cannot_be(bundled, pictures, tmp_path):
    unknown = keras.Model(bundled.input, Bessel()(bundled.output), name="unknown")
    with pytest.raises(ExportError, match="must have a builtin LiteRT operator. Received: .*BesselI0"):
        export(unknown, tmp_path / "a.tflite")
    floating = keras.Model(bundled.input, Gelu()(bundled.output), name="floating")
    with pytest.raises(ExportError, match="(must compute in integers throughout. Received: .*COS)|(converter failed)"):
        export(floating, tmp_path / "a.tflite", quantize="int8", representative_data=pictures)
    second = keras.Input((32, 32, 3))
    two_inputs = keras.Model([bundled.input, second], [bundled.output, second])
    with pytest.raises(ValueError, match="one input"):
        export(two_inputs, tmp_path / "a.tflite")
    assert not any(path.suffix == ".tflite" for path in tmp_path.iterdir())


def test_a_file_that_is_not_the_model_is_no_file(bundled, tmp_path, monkeypatch):
    """A writer that confuses two layers is caught by the comparison."""
    from keras_mnasnet.export import tflite

    real = tflite.folded_weights

    def confused(*args, **kwargs):
        weights = dict(real(*args, **kwargs))
        weights["block3b_expand_conv"], weights["block3c_expand_conv"] = (
            weights["block3c_expand_conv"], weights["block3b_expand_conv"],
        )  # fmt: skip
        return weights

    monkeypatch.setattr(tflite, "folded_weights", confused)
    with pytest.raises(
        ExportError, match="float32 file must differ from the model by at most 0.002 of the spread of its outputs"
    ):
        export(bundled, tmp_path / "a.tflite")
    assert not (tmp_path / "a.tflite").exists()


def test_garbage_is_refused(bundled, tmp_path):
    export(bundled, tmp_path / "a.tflite", quantize="float16")
    content = (tmp_path / "a.tflite").read_bytes()
    for wrong in (b"", b"TFL3", b"x" * 5000):
        with pytest.raises(ValueError, match="begins with the mark TFL3"):
            _ = TfliteFile(wrong).facts
    for length in (50, 100, 1000, 100_000):
        with pytest.raises(ValueError, match=r"must be whole. Received: cut.tflite"):
            _ = TfliteFile(content[:length], name="cut.tflite").facts


def test_a_file_gives_real_values(bundled, pictures, tmp_path):
    export(bundled, tmp_path / "a.tflite", quantize="int8", input_dtype="uint8", representative_data=pictures)
    found = TfliteFile(tmp_path / "a.tflite").values(pictures[:5])["scores"]
    assert found.dtype == np.float32
    assert np.allclose(found.sum(axis=1), 1, atol=0.05)


MEDIAPIPE = """
import sys
import numpy as np
from mediapipe import Image, ImageFormat
from mediapipe.tasks import python as tasks
for path in sys.argv[2:]:
    options = tasks.vision.ImageClassifierOptions(base_options=tasks.BaseOptions(model_asset_path=path), max_results=1)
    with tasks.vision.ImageClassifier.create_from_options(options) as classifier:
        pixels = np.load(sys.argv[1])
        found = classifier.classify(Image(image_format=ImageFormat.SRGB, data=pixels)).classifications[0].categories[0]
        print(found.category_name, found.index, round(found.score, 4))
"""


def test_mediapipe_accepts_the_files(bundled, pictures, tmp_path):
    """In a process of its own: MediaPipe brings its own LiteRT."""
    pytest.importorskip(
        "mediapipe", reason="mediapipe is not installed: it needs absl-py 2, and tensorflow-model-optimization absl-py 1"
    )
    paths = [tmp_path / f"{name}.tflite" for name in ("float32", "float", "uint8")]
    for path, quantize in zip(paths, (None, "float16", "int8"), strict=True):
        given = {"representative_data": pictures, "input_dtype": "uint8"} if quantize == "int8" else {}
        export(bundled, path, quantize=quantize, labels=LABELS, **given)
    np.save(tmp_path / "image.npy", pictures[0].astype(np.uint8))
    command = [sys.executable, "-c", MEDIAPIPE, str(tmp_path / "image.npy"), *map(str, paths)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    expected = keras.ops.convert_to_numpy(bundled(pictures[:1]))[0]
    for line in run.stdout.splitlines():
        *words, index, score = line.split()
        assert " ".join(words) == LABELS[int(index)] == LABELS[expected.argmax()]
        assert abs(float(score) - expected.max()) < 0.1
    assert len(run.stdout.splitlines()) == 3
