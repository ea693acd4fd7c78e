"""`.onnx` files: the same function as the `.tflite`, in integers where int8 is asked, refused where they are wrong."""

import collections
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from models import SMALLEST

from keras_mnasnet import benchmarks, load, predict
from keras_mnasnet.architecture import Architecture
from keras_mnasnet.cli.main import main
from keras_mnasnet.export import ExportError, FileClassifier, OnnxFile, TfliteFile, export
from keras_mnasnet.export.calibration import calibrated
from keras_mnasnet.export.graph import Folded, random_weights, write_graph
from keras_mnasnet.export.onnx_graph import _Net, write_onnx
from keras_mnasnet.export.verify import drawn_images
from keras_mnasnet.family import FAMILY
from keras_mnasnet.preprocessing import IMAGENET, PIXELS

onnx = pytest.importorskip("onnx", reason="the extra [onnx] is not installed")
runtime = pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")

ROOT = Path(__file__).parents[2]
EVERY_OPERATOR = (
    "stem8 r1_k3_s11_e1_i8_o8_conv r2_k5_s22_e3_i8_o16_se0.25_pool r1_k3_s22_e1_i16_o16_linear r2_k3_s11_e2_i16_o16 head32"
)
CASES = {
    "SAME": (SMALLEST, {"height": 32, "width": 32}),
    "odd sides": (EVERY_OPERATOR, {"height": 33, "width": 47, "batch": 2}),
    "symmetric": (EVERY_OPERATOR, {"height": 46, "width": 33, "padding": "symmetric"}),
    "logits of a normalized image": (SMALLEST, {"height": 32, "width": 40, "softmax": False, "preprocessing": False}),
    "a1": (str(FAMILY["a1"].scaled(0.35)), {"height": 64, "width": 64}),
}


def weights_of(architecture, classes=10):
    rng = np.random.default_rng(0)
    drawn = random_weights(architecture, classes=classes)
    return {name: Folded(each.kernel, rng.normal(0, 0.2, each.bias.shape).astype(np.float32)) for name, each in drawn.items()}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_it_is_the_function_of_the_tflite(case, precision):
    text, options = CASES[case]
    architecture = Architecture.parse(text)
    options = {"classes": 10, "precision": precision, **options}
    weights = weights_of(architecture)
    images = drawn_images(3, options["height"], options["width"], 3)
    if not options.get("preprocessing", True):
        images = images / 127.5 - 1
    content = write_onnx(architecture, weights, **options)
    onnx.checker.check_model(content, full_check=True)
    file = OnnxFile(content, threads=1)
    found = file.values(images)["scores"]
    expected = TfliteFile(write_graph(architecture, weights, **options), threads=1).values(images)["scores"]
    assert np.ptp(expected, axis=0).max() > 1e-3
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert file.facts.inputs[0].shape == (options.get("batch", 1), 3, options["height"], options["width"])
    assert file.facts.outputs[0].shape == (options.get("batch", 1), 10)
    stored = sum(value.kernel.nbytes + value.bias.nbytes for value in weights.values())
    assert file.facts.constant_bytes[precision] == pytest.approx(stored if precision == "float32" else stored / 2, abs=24)


def integers(content, tmp_path):
    """{operator: count} of what ONNX Runtime makes of a file."""
    options = runtime.SessionOptions()
    options.log_severity_level, options.optimized_model_filepath = 4, str(tmp_path / "optimized.onnx")
    runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return collections.Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)


@pytest.mark.parametrize("quantize", [None, "float16", "int8"])
def test_report_and_what_the_file_says(pictures, tmp_path, quantize):
    """int8 is computed in integers from the normalization to the softmax, residuals and squeeze-and-excite too."""
    path = tmp_path / "a1.onnx"
    report = export("cifar10", path, quantize=quantize, representative_data=pictures[:40], photos=pictures[:8], progress=False)
    assert (report.route, report.partitions, report.outside_reason) == ("direct", None, None)
    assert report.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert report.facts.bytes == path.stat().st_size
    assert report.comparisons[0].error < {None: 1e-4, "float16": 0.01, "int8": 0.2}[quantize]
    assert (report.calibration is not None) == (quantize == "int8")
    written = json.loads((tmp_path / "a1.onnx.json").read_text("utf-8"))
    file = OnnxFile(path, threads=1)
    assert file.report["comparisons"] == written["comparisons"]
    assert (file.labels, file.normalization) == (load("cifar10").labels, PIXELS)
    assert file.preprocessing == load("cifar10").preprocessing
    assert file.texts["model_license"] == load("cifar10").origin.license
    scores, _ = FileClassifier(path, threads=1).run(pictures[:4])
    np.testing.assert_allclose(scores, file.values(pictures[:4])["scores"], atol=1e-6)
    if quantize == "int8":
        assert report.facts.floating == ()
        found = integers(path.read_bytes(), tmp_path)
        rows = collections.Counter(row.op for row in load("cifar10").architecture.operations(32, 32, classes=10))
        assert found["QLinearConv"] == rows["conv"] + rows["depthwise"]
        assert (found["QLinearAdd"], found["QLinearMul"], found["QGemm"]) == (rows["add"], rows["multiply"], 1)
        assert found["QLinearGlobalAveragePool"] == rows["squeeze"] + 1
        assert not {"Conv", "Add", "Gemm", "GlobalAveragePool", "Relu", "DequantizeLinear"} & set(found)


def test_float_operators_in_an_int8_graph_are_seen():
    architecture = Architecture.parse(SMALLEST)
    options = {"height": 32, "width": 32, "classes": 4}
    graph = options | {"padding": "same", "preprocessing": IMAGENET}
    ranges = calibrated(architecture, weights_of(architecture, 4), drawn_images(4, 32, 32, 3), graph).ranges
    content = write_onnx(architecture, weights_of(architecture, 4), precision="int8", ranges=ranges, **options)
    assert OnnxFile(content).facts.floating == ()
    model = onnx.load_from_string(content)
    (first,) = (node for node in model.graph.node if node.op_type == "Conv" and node.name.startswith("stem"))
    first.input[0] = "image_normalized"
    assert OnnxFile(model.SerializeToString()).facts.floating == ("Conv",)


def test_a_silent_layer(pictures, tmp_path, caplog):
    """Its bias is far below zero: it is named, and the file still is the model."""
    checkpoint = load("cifar10")
    name = "block5a_se_reduce"
    checkpoint.tensors[f"{name}/bias"][:] = -1e3
    report = export(checkpoint, tmp_path / "a.onnx", quantize="int8", representative_data=pictures[:20], progress=False)
    assert report.silent_layers == (name,)
    assert f"constant in the file whatever it is shown: {name}." in caplog.text


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The bundled A1 as `.tflite` and `.onnx`."""
    folder = tmp_path_factory.mktemp("files")
    for name in ("a.tflite", "a.onnx"):
        export("cifar10", folder / name, progress=False)
    return folder


def test_prediction_accuracy_and_latency_take_both(files, data, monkeypatch):
    ship = "weights/demo/ship.png"
    monkeypatch.chdir(ROOT)
    one, other = (predict(files / name, ship, top=10)[0].classes for name in ("a.tflite", "a.onnx"))
    assert [label for label, _ in one] == [label for label, _ in other]
    np.testing.assert_allclose([score for _, score in one], [score for _, score in other], atol=1e-5)
    first, second = benchmarks.evaluate(
        [files / "a.tflite", files / "a.onnx"], data / "cifar10", split="test", limit=100, progress=False
    )
    assert (first.kind, second.kind) == ("tflite", "onnx")
    assert first.correct1 == second.correct1
    report = benchmarks.latency([files / "a.tflite", files / "a.onnx"], runs=3, progress=False)
    lite, ours = report.results
    assert lite.delegates == 1
    assert (ours.delegates, ours.outside, ours.runs) == (None, None, 3)
    assert ours.wall.median_ms > 0
    assert ours.memory_mb > 1
    assert report.device["runtime"].startswith("onnxruntime ")
    assert report.settings["delegate"] == "XNNPACK"
    alone = benchmarks.latency(files / "a.onnx", runs=1, memory=False, progress=False)
    assert (alone.settings["delegate"], "litert" in alone.device["runtime"]) == (None, False)


def test_a_wrong_file_is_refused(tmp_path, monkeypatch):
    """Without its normalization: nothing is written."""
    monkeypatch.setattr(
        "keras_mnasnet.export.onnx_graph._Net.begin",
        lambda net, normalization, sides, begin=_Net.begin: begin(net, None, sides),
    )
    with pytest.raises(ExportError, match="The float32 file must differ from the model by at most"):
        export("cifar10", tmp_path / "a.onnx", progress=False)
    assert not list(tmp_path.glob("a.onnx*"))


def test_it_loads_neither_tensorflow_nor_keras(tmp_path):
    code = (
        "import sys\nfrom keras_mnasnet.export import export\n"
        f"export('cifar10', {str(tmp_path / 'a.onnx')!r}, progress=False)\n"
        "assert not {'tensorflow', 'keras', 'jax', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"quantize": "weight-int8"},
            "has the precision float32, float16, int8 and a float32 input. Received: quantize='weight",
        ),
        ({"quantize": "dynamic"}, "Received: quantize='dynamic', input_dtype='float32'. A .tflite file has others"),
        ({"quantize": "int8", "representative_data": 5, "input_dtype": "uint8"}, "Received: .*input_dtype='uint8'"),
    ],
)
def test_what_a_onnx_has_not(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export("cifar10", tmp_path / "a.onnx", **options)


def test_other_models_and_commands_name_the_way(tmp_path, bundled, capfd):
    other = keras.Model(bundled.input, keras.layers.Dense(3)(bundled.get_layer("avg_pool").output), name="other")
    with pytest.raises(ValueError, match=r"Received: 'other', which is none. Name a file that ends in .tflite \(-o\)"):
        export(other, tmp_path / "a.onnx")
    for command in ("detect export x", "qat cifar10 --data shapes"):
        assert main([*command.split(), "-o", str(tmp_path / "a.onnx")]) == 1
        assert "must end in .tflite. Received: path=" in (error := capfd.readouterr().err)
        assert "`mnasnet export` writes classifiers as .onnx" in error
    (tmp_path / "x.onnx").touch()
    with pytest.raises(ValueError, match="A phone and an emulated core run .tflite files. Received: .*x.onnx"):
        benchmarks.latency(tmp_path / "x.onnx", device="adb")


@pytest.mark.parametrize("name", ["onnx", "onnxruntime"])
def test_the_missing_extra_is_named(name, files, tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, name, None)
    ship, file = str(ROOT / "weights/demo/ship.png"), str(files / "a.onnx")
    for command in (["export", "cifar10", "-o", f"{tmp_path}/b.onnx"], ["predict", file, ship], ["bench", "latency", file]):
        assert main(command) == 1
        last = capfd.readouterr().err.strip().splitlines()[-1]
        assert last == f"error: A .onnx file needs {name}, which is not installed. Run: pip install 'keras_mnasnet[onnx]'"
    assert not list(tmp_path.glob("*.onnx"))


def foreign(shape, outside=False, output=1):
    """A classifier of another maker: the mean of each color is the score of its class."""
    helper = onnx.helper
    ports = {"pixels": (1, shape), "probs": (output, [shape[0], 3])}
    described = [helper.make_tensor_value_info(name, *port) for name, port in ports.items()]
    weights = onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32), "w")
    if outside:
        onnx.external_data_helper.set_external_data(weights, "../secret")
        weights.ClearField("raw_data")
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixels"], ["a"]), helper.make_node("Flatten", ["a"], ["b"]),
        helper.make_node("Gemm", ["b", "w"], ["probs"]),
    ]  # fmt: skip
    graph = helper.make_graph(nodes, "g", described[:1], described[1:], [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def test_a_file_of_another_maker(tmp_path):
    """An open batch and open sides; `how` says how it takes pixels."""
    (tmp_path / "f.onnx").write_bytes(foreign(["N", 3, "H", "W"]))
    with pytest.raises(ValueError, match="A .onnx file must be one that ONNX Runtime can run. Received: .*Pass size= "):
        FileClassifier(tmp_path / "f.onnx")
    classifier = FileClassifier(tmp_path / "f.onnx", size=8, how="unit")
    pixels = np.zeros((2, 8, 8, 3), np.float32)
    pixels[0, ..., 1] = 255
    scores, _ = classifier.run(pixels)
    np.testing.assert_allclose(scores, [[0, 1, 0], [0, 0, 0]])
    assert (classifier.classes, classifier.labels) == (3, None)
    assert "assumed" in FileClassifier(tmp_path / "f.onnx", size=8).input.text


def test_damaged_and_hostile_files(tmp_path, capfd):
    for name, content, message in (
        ("outside", foreign([1, 3, 8, 8], outside=True), "must hold its weights itself. Received: .*whose tensor 'w' lies"),
        ("cut", foreign([1, 3, 8, 8])[:-40], "A .onnx file must be whole. Received: .*cut.onnx"),
        ("empty", b"", "A .onnx file must be whole. Received: .*empty.onnx"),
        ("huge", foreign([1, 3, 10**6, 10**6]), "an input of the shape"),
        ("texts", foreign([1, 3, 8, 8], output=8), "A .onnx file must be whole. Received: .*a tensor of texts"),
        ("operator", foreign([1, 3, 8, 8]).replace(b"Flatten", b"Flattex"), "ONNX Runtime can run. Received: .*Flattex"),
    ):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            FileClassifier(path)
        assert main(["bench", "latency", str(path), "--runs", "1", "--json"]) == 1
        assert capfd.readouterr().err.strip().splitlines()[-1].startswith("error: A .onnx file must")
    with pytest.raises(ValueError, match="A .onnx file must exist. Received: none.onnx, which does not"):
        benchmarks.latency("none.onnx")
