"""int8 written directly: the function stays what it is, the steps do what they say, and layers stay float where asked."""

import subprocess
import sys

import numpy as np
import pytest

from keras_mnasnet import load
from keras_mnasnet.architecture import Architecture
from keras_mnasnet.cli.main import main
from keras_mnasnet.export import OnnxFile, Recipe, TfliteFile, export
from keras_mnasnet.export.calibration import calibrated, map_statistics
from keras_mnasnet.export.equalize import Statistics, _corrected, _least_error, equalized
from keras_mnasnet.export.graph import Folded, random_weights, scaled, write_graph
from keras_mnasnet.export.onnx_graph import write_onnx
from keras_mnasnet.export.verify import divergence, drawn_images
from keras_mnasnet.family import FAMILY
from keras_mnasnet.preprocessing import IMAGENET, SIGNED

EVERY = (
    "stem8_s11 r1_k3_s11_e1_i8_o8_conv r2_k5_s22_e3_i8_o16_se0.25_pool r1_k3_s22_e1_i16_o16_linear r2_k3_s11_e2_i16_o16 head32"
)
CASES = {
    "every operator": (Architecture.parse(EVERY), "symmetric", IMAGENET),
    "squeeze-and-excite": (FAMILY["a1"].scaled(0.35), "same", IMAGENET),
    "linear stem": (FAMILY["b1"].scaled(0.35).with_stem_activation("linear"), "same", SIGNED),
    "residual over the first layer": (FAMILY["small"].with_first_residual(True), "same", False),
}


def options(padding="same", normalization=IMAGENET, classes=10):
    return {"height": 32, "width": 32, "classes": classes, "padding": padding, "preprocessing": normalization}


def uneven(architecture, seed=0):
    """Random weights whose channels have ranges that differ by a factor of ten and more."""
    rng, found = np.random.default_rng(seed), {}
    drawn = random_weights(architecture, classes=10, seed=seed)
    for row in architecture.layers(32, 32, classes=10):
        kernel, bias = drawn[row.name]
        by = np.exp(rng.normal(0, 1, bias.shape)).astype(np.float32)
        shape = (1, 1, 1, -1) if row.op == "depthwise" else (-1, *[1] * (kernel.ndim - 1))
        found[row.name] = Folded(kernel * by.reshape(shape), rng.normal(0, 0.2, bias.shape).astype(np.float32))
    return found


@pytest.mark.parametrize("case", CASES)
def test_the_function_stays_and_ranges_agree(case):
    architecture, padding, normalization = CASES[case]
    graph, weights = options(padding, normalization), uneven(architecture)
    images = drawn_images(6, 32, 32, 3)
    if not normalization:
        images = images / 127.5 - 1
    every = TfliteFile(write_graph(architecture, weights, every_map=True, **graph), threads=1)
    statistics = map_statistics(every, images, normalization or None)
    rows = architecture.operations(32, 32, classes=10)
    found, scales = equalized(rows, weights, statistics, strength=0.7)

    def scores(those):
        return TfliteFile(write_graph(architecture, those, softmax=False, **graph), threads=1).values(images)["scores"]

    wanted = scores(weights)
    assert np.abs(scores(found) - wanted).max() <= 1e-5 * np.abs(wanted).max()
    assert not {"image", "predictions"} & scales.keys()
    assert not [row.output for row in rows if row.op == "sigmoid" and {row.output, *row.inputs} & scales.keys()]
    assert {row.output for row in rows if row.op == "depthwise"} <= scales.keys()
    for row in (row for row in rows if row.op == "add"):
        assert scales[row.inputs[0]] is scales[row.inputs[1]] is scales[row.output]
    (taken,) = {row.inputs[0] for row in rows if row.op == "depthwise" and row.part == "block4a"} or {"stem_relu"}
    before = statistics[taken].highest
    after = before / scales[taken]
    live = before > before.max() / 32
    assert np.ptp(np.log(after[live])) < 0.5 * np.ptp(np.log(before[live]))


def test_statistics_are_those_of_all_images():
    architecture, images = FAMILY["small"], drawn_images(5, 32, 32, 3)
    file = TfliteFile(write_graph(architecture, uneven(architecture), every_map=True, batch=2, **options()), threads=1)
    found, values = map_statistics(file, images, IMAGENET), file.values(images)
    for name in ("stem_relu", "head_relu", "avg_pool"):
        flat = values[name].reshape(-1, values[name].shape[-1])
        np.testing.assert_array_equal(found[name].lowest, flat.min(axis=0))
        np.testing.assert_array_equal(found[name].highest, flat.max(axis=0))
        np.testing.assert_allclose(found[name].mean, flat.mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        found["image"].highest, [(255 - m) / s for m, s in zip(IMAGENET.mean, IMAGENET.std, strict=True)]
    )


def test_a_bias_takes_back_what_rounding_adds():
    """1.0 and 0.501 of 127 steps: the second is 64 steps, 0.50394; a map of 10 and 100 everywhere."""
    row = next(row for row in FAMILY["small"].layers() if row.op == "conv" and row.kernel == 1)
    kernel = np.array([1.0, 0.501], np.float32).reshape(1, 1, 1, 2)
    found = _corrected(row, Folded(kernel, np.zeros(1, np.float32)), np.array([10.0, 100.0]))
    assert found.bias[0] == pytest.approx(-(64 / 127 - 0.501) * 100, rel=1e-4)
    np.testing.assert_array_equal(found.kernel, kernel)


def test_ranges():
    rng = np.random.default_rng(0)
    uniform = rng.uniform(0, 1, (10_000, 1))
    assert _least_error(uniform, 0.0, 1.0) == (0.0, 1.0)
    tailed = np.concatenate([rng.normal(0, 1, (100_000, 1)), [[40.0]]])
    low, high = _least_error(tailed, -5.0, 40.0)
    assert 30 < high < 38  # the one value above is not worth a coarser step for all
    assert -5 <= low < -3
    assert scaled(0.0, 0.0) == (pytest.approx(1e-12 / 127), -128)
    assert scaled(0.0, 51.0) == (pytest.approx(0.2), -128)
    assert scaled(-51.0, 0.0) == (pytest.approx(0.2), 127)
    assert scaled(1.0, 51.0) == (pytest.approx(0.2), -128)


def test_divergence():
    """0.5 log(0.5 / 0.25) + 0.5 log(0.5 / 0.75), of probabilities and of their logarithms; 8 bits round to zero."""
    p, q = np.array([[0.5, 0.5]]), np.array([[0.25, 0.75]])
    wanted = 0.5 * np.log(2) + 0.5 * np.log(2 / 3)
    assert divergence(q, p, probabilities=True) == pytest.approx(wanted)
    assert divergence(np.log(q) + 3, np.log(p), probabilities=False) == pytest.approx(wanted)
    assert 0 < divergence(np.array([[0.0, 1.0]]), np.array([[1e-4, 1 - 1e-4]]), probabilities=True) < 0.01


@pytest.fixture(scope="module")
def written(tmp_path_factory, pictures):
    """The bundled small as int8, its stem and classifier kept in float, as `.tflite` and `.onnx`: (file, report)."""
    folder, found = tmp_path_factory.mktemp("kept"), {}
    for kind in ("tflite", "onnx"):
        for kept in ([], ["stem", "block3a_expand_relu", "predictions"]):
            path = folder / f"{len(kept)}.{kind}"
            report = export(
                load("cifar10", network="small"), path, quantize="int8", representative_data=pictures[:40], photos=pictures,
                keep_float=kept, progress=False,
            )  # fmt: skip
            found[kind, len(kept)] = path, report
    return found


@pytest.mark.parametrize("kind", ["tflite", "onnx"])
def test_layers_that_stay_float(written, kind):
    (_, plain), (path, kept) = written[kind, 0], written[kind, 3]
    assert plain.facts.floating == ()
    assert kept.quantization.keep_float == ("block3a_expand_relu", "predictions", "stem_relu")
    wanted = {"tflite": ("CONV_2D", "FULLY_CONNECTED", "MUL", "SOFTMAX", "SUB"), "onnx": ("Conv", "Gemm")}
    assert kept.facts.floating == wanted[kind]
    if kind == "tflite":
        assert kept.partitions.whole
        details = {each["name"]: np.dtype(each["dtype"]) for each in TfliteFile(path).interpreter.get_tensor_details()}
        assert details["stem_relu"] == details["block3a_expand_relu"] == np.float32
        assert details["block2a_expand_relu"] == details["block3b_expand_relu"] == np.int8
    assert kept.comparisons[0].divergence < plain.comparisons[0].divergence
    exact = {each.layer: each.signal_to_noise for each in kept.quantization.layers}
    assert exact["stem_relu"] > 80


def test_one_calibration_serves_both(written):
    lite, onnx = (TfliteFile(written["tflite", 0][0]), OnnxFile(written["onnx", 0][0]))
    images = drawn_images(32, 32, 32, 3, seed=3)
    one, other = (file.values(images)["scores"] for file in (lite, onnx))
    assert (one.argmax(axis=1) == other.argmax(axis=1)).mean() >= 0.9
    assert written["tflite", 0][1].quantization == written["onnx", 0][1].quantization
    (_, report) = written["tflite", 0]
    assert [each.layer for each in report.quantization.layers][:2] == ["stem_relu", "block1a_depthwise_relu"]
    assert report.quantization.worst[0].added == max(each.added for each in report.quantization.layers)
    assert report.as_json()["quantization"]["recipe"]["ranges"] == "mse"


def test_array_in_int8_out_without_tensorflow(tmp_path):
    code = (
        "import sys\nfrom keras_mnasnet.export import export\n"
        "from keras_mnasnet.export.verify import drawn_images\n"
        f"export('cifar10', {str(tmp_path / 'a.tflite')!r}, quantize='int8', representative_data=drawn_images(30, 32, 32, 3),\n"
        "       verification_count=8, progress=False)\n"
        "assert not {'tensorflow', 'keras', 'jax', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_normalized_images_a_batch_and_logits(tmp_path):
    from keras_mnasnet import MnasNet

    images = (drawn_images(24, 32, 32, 3) / 127.5 - 1).astype(np.float32)
    model = MnasNet(
        "small", weights="cifar10", include_preprocessing=False, classifier_activation=None, input_shape=(32, 32, 3)
    )
    report = export(
        model, tmp_path / "a.tflite", quantize="int8", representative_data=images, batch=2, input_dtype="int8", progress=False
    )
    assert (report.route, report.partitions.whole) == ("direct", True)
    (image,), (scores,) = report.facts.inputs, report.facts.outputs
    assert (image.shape, image.dtype, scores.shape, scores.dtype) == ((2, 32, 32, 3), "int8", (2, 10), "int8")
    assert image.scale == pytest.approx((images.max() - images.min()) / 255, rel=1e-3)


def test_a_silent_layer(pictures, tmp_path, caplog):
    """Its bias is far below zero: it is named, XNNPACK takes it, and the file still is the model."""
    checkpoint = load("cifar10")
    checkpoint.tensors["block5a_se_reduce/bias"][:] = -1e3
    report = export(checkpoint, tmp_path / "a.tflite", quantize="int8", representative_data=pictures[:20], progress=False)
    assert report.silent_layers == ("block5a_se_reduce",)
    assert "constant in the file whatever it is shown: block5a_se_reduce." in caplog.text
    assert report.partitions.outside == {"SOFTMAX": 1}


def test_accuracy_where_photos_have_labels(data, tmp_path, capfd):
    arguments = ("export", "cifar10", "-o", tmp_path / "a.tflite", "--quantize", "int8", "--calibrate", data / "cifar10")
    counts = ("--photos", data / "cifar10", "--calibration-photos", 40, "--verification-photos", 40)
    assert main([*map(str, (*arguments, *counts)), "--keep-float", "stem, head"]) == 0
    said = capfd.readouterr().out
    assert "top-1 on the photos' labels: " in said
    assert "layers that lose most (signal to noise): block" in said
    report = TfliteFile(tmp_path / "a.tflite").report
    assert report["comparisons"][0]["model_top1"] >= 0.7
    assert report["comparisons"][0]["top1"] == pytest.approx(report["comparisons"][0]["model_top1"], abs=0.1)
    assert report["quantization"]["keep_float"] == ["head_relu", "stem_relu"]


def test_refusals(tmp_path, pictures):
    network = FAMILY["small"]
    weights, graph = random_weights(network, classes=10), options()
    for write in (write_graph, write_onnx):
        with pytest.raises(ValueError, match="`ranges` must say the range of every map .* Received: none of image, stem_relu"):
            write(network, weights, precision="int8", **graph)
    with pytest.raises(ValueError, match="`ranges` must be one of extremes, percentile, mse. Received: ranges='best'"):
        Recipe(ranges="best")
    with pytest.raises(ValueError, match="`strength` must be 0 to 1. Received: strength=2"):
        Recipe(strength=2)
    int8 = {"quantize": "int8", "representative_data": pictures[:8]}
    with pytest.raises(ValueError, match=r"`keep_float` \(--keep-float\) must name layers .*'stm'. Did you mean 'stem'"):
        export("cifar10", tmp_path / "a.tflite", keep_float=["stm"], **int8)
    with pytest.raises(ValueError, match="`keep_float` must be a list of layers. Received: keep_float='stem'"):
        export("cifar10", tmp_path / "a.tflite", keep_float="stem", **int8)
    with pytest.raises(ValueError, match="is for int8 files of MnasNets .*Received: .*quantize='float16'"):
        export("cifar10", tmp_path / "a.tflite", quantize="float16", keep_float=["stem"])
    assert not list(tmp_path.iterdir())


def test_every_recipe_gives_a_file_that_runs(pictures):
    network = FAMILY["small"]
    weights, graph = uneven(network), options()
    for recipe in (Recipe(ranges="percentile"), Recipe(equalize=False, correct_bias=False, ranges="extremes")):
        found = calibrated(network, weights, pictures[:8], graph, recipe=recipe)
        assert isinstance(found.ranges["stem_relu"], tuple)
        content = write_graph(network, found.rounding, precision="int8", ranges=found.ranges, **graph)
        assert TfliteFile(content, threads=1).partitions().outside == {"SOFTMAX": 1}
    assert found.exact is not found.rounding or not recipe.correct_bias
    shown = Statistics(*(np.zeros(4, np.float32) for _ in range(3)), np.zeros((5, 4), np.float32))
    assert _least_error(shown.values, 0.0, 0.0) == (0.0, 0.0)
