"""The direct writer against Keras, for every member of the family."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from models import shaken

from keras_mnasnet import checkpoint_of
from keras_mnasnet.export import TfliteFile, export
from keras_mnasnet.export.converter import convert_model
from keras_mnasnet.export.graph import PRECISIONS, Folded, folded_weights, random_weights, write_graph
from keras_mnasnet.export.rewrite import rewritten
from keras_mnasnet.family import FAMILY
from keras_mnasnet.model import build

TOLERANCE = 1e-5
CASES = [
    (name, {"width": 0.35, "shape": (96, 96, 3)}) for name in FAMILY
] + [
    ("a1", {"width": 1.4, "shape": (64, 64, 3)}),
    *((name, {"width": width, "shape": (64, 64, 3)}) for name, width in (
        ("a1", 0.75), ("a1", 1.0), ("a2", 0.5), ("a3", 0.75), ("b1", 0.5), ("b1", 1.4), ("small", 1.4), ("d1", 0.5),
    )),
    ("a1", {"width": 0.5, "depth": 1.2, "shape": (97, 65, 3), "padding": "symmetric"}),
    ("b1", {"width": 0.75, "shape": (33, 47, 3), "padding": "symmetric", "stem_stride": 1, "bn_epsilon": 1e-5}),
    ("small", {"shape": (65, 65, 3), "se": False, "preprocessing": False}),
]  # fmt: skip


def network(name, case):
    architecture = FAMILY[name].scaled(case.get("width"), case.get("depth")).with_se(case.get("se"))
    return architecture.with_stem_stride(case.get("stem_stride"))


def run(content, image):
    interpreter = Interpreter(model_content=content, num_threads=1)
    runner = interpreter.get_signature_runner()
    return runner(image=image)["scores"]


@pytest.mark.parametrize(("name", "case"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_equals_keras(name, case):
    keras.utils.set_random_seed(0)
    options = {"padding": case.get("padding", "same"), "bn_epsilon": case.get("bn_epsilon", 1e-3)}
    model = shaken(
        build(
            network(name, case), input_shape=case["shape"], classes=10, classifier_activation=None,
            include_preprocessing=case.get("preprocessing", True), **options,
        )
    )  # fmt: skip
    checkpoint = checkpoint_of(model)
    weights = folded_weights(checkpoint.architecture, checkpoint.tensors, classes=10, bn_epsilon=options["bn_epsilon"])
    image = np.random.default_rng(1).uniform(0, 255, (1, *case["shape"])).astype("float32")
    if not case.get("preprocessing", True):
        image = image / 127.5 - 1
    expected = keras.ops.convert_to_numpy(model(image, training=False))

    def scores(precision, weights):
        content = write_graph(
            checkpoint.architecture, weights, height=case["shape"][0], width=case["shape"][1], classes=10, precision=precision,
            padding=options["padding"], preprocessing=case.get("preprocessing", True), softmax=False,
        )  # fmt: skip
        return run(content, image)

    def difference(found, wanted):
        return np.abs(found - wanted).max() / np.abs(wanted).max()

    assert difference(scores("float32", weights), expected) <= TOLERANCE
    halves = {
        name: Folded(*(value.astype(np.float16).astype(np.float32) for value in folded)) for name, folded in weights.items()
    }
    assert difference(scores("float16", weights), scores("float32", halves)) <= TOLERANCE
    bytes_ = {name: Folded(in_int8(folded.kernel), folded.bias) for name, folded in weights.items()}
    assert difference(scores("weight-int8", weights), scores("float32", bytes_)) <= TOLERANCE


def in_int8(kernel):
    """Rounded to 127 steps of the largest value of each output channel."""
    axes = (0, 1, 2) if kernel.shape[0] == 1 and kernel.ndim == 4 else tuple(range(1, kernel.ndim))
    scale = np.abs(kernel).max(axis=axes, keepdims=True) / 127
    return (np.round(kernel / scale) * scale).astype(np.float32)


@pytest.mark.parametrize("name", ["a1", "b1"])
def test_its_operators_are_the_converters(name, tmp_path):
    model = shaken(build(FAMILY[name].scaled(0.35), input_shape=(64, 64, 3), classes=10))
    content = convert_model(model, (1, 64, 64, 3), quantize=None)
    content, _ = rewritten(content, input_names=["image"], output_names=["scores"], description="", metadata={})
    report = export(model, tmp_path / "direct.tflite")
    assert report.route == "direct"
    assert report.facts.operators == TfliteFile(content).facts.operators


def test_files():
    """Signature, one XNNPACK partition, sizes, and 16-byte alignment of every constant."""
    weights = random_weights(FAMILY["a1"], classes=1000)
    ranges, sizes = dict.fromkeys(("image", *(row.output for row in FAMILY["a1"].operations())), (-3.0, 6.0)), {}
    for precision in PRECISIONS:
        content = write_graph(
            FAMILY["a1"], weights, height=224, width=224, classes=1000, precision=precision, softmax=False, ranges=ranges
        )
        sizes[precision] = len(content)
        interpreter = Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
        assert interpreter.get_signature_list() == {"serving_default": {"inputs": ["image"], "outputs": ["scores"]}}
        delegated = [op for op in interpreter._get_ops_details() if op["op_name"] == "DELEGATE"]
        assert len(delegated) == 1
        plain = Interpreter(
            model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        )
        plain.allocate_tensors()
        counts = [op["op_name"] for op in plain._get_ops_details()]
        assert (counts.count("CONV_2D"), counts.count("DEPTHWISE_CONV_2D"), counts.count("LOGISTIC")) == (49, 16, 8)
    assert sizes["float16"] < 0.51 * sizes["float32"]
    assert sizes["weight-int8"] < 0.28 * sizes["float32"]
    assert sizes["int8"] == pytest.approx(sizes["int8-random"], rel=0.01)


def test_needs_no_tensorflow():
    code = (
        "import sys\nfrom keras_mnasnet.export.graph import write_graph\n"
        "from keras_mnasnet.export.graph import random_weights\n"
        "from keras_mnasnet.family import FAMILY\n"
        "write_graph(FAMILY['small'], random_weights(FAMILY['small'], classes=10), height=32, width=32, classes=10)\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_refusals():
    weights = random_weights(FAMILY["small"], classes=10)
    with pytest.raises(ValueError, match="`precision` must be one of .*Received: precision='int4'"):
        write_graph(FAMILY["small"], weights, height=32, width=32, classes=10, precision="int4")
    with pytest.raises(ValueError, match="`until` must be stem, a stage, .*Received: until='top'"):
        write_graph(FAMILY["small"], weights, height=32, width=32, classes=10, until="top")
    with pytest.raises(ValueError, match="`until` must come after `since`. Received: since='block3', until='block1a'"):
        write_graph(FAMILY["small"], weights, height=32, width=32, classes=10, since="block3", until="block1a")
    with pytest.raises(ValueError, match="`padding` must be"):
        write_graph(FAMILY["small"], weights, height=32, width=32, classes=10, padding="valid")
