"""Layers that calibration never heard: their ranges, what stands between them and their readers, and shared biases."""

import json

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from keras_mnasnet.export import export
from keras_mnasnet.export.rewrite import _widen_dead_ranges

layers = keras.layers
PICTURES = np.random.default_rng(0).uniform(0, 1, (8, 8, 8, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "between",
    [
        [],
        [layers.MaxPooling2D, layers.ZeroPadding2D],
        [lambda: layers.AveragePooling2D(2), lambda: layers.Permute((2, 1, 3))],
        [lambda: layers.Reshape((6, 3, 8)), lambda: layers.Cropping2D(1)],
    ],
)
def test_silent_layer(tmp_path, caplog, between):
    """Its range of 2e-6 would keep XNNPACK from creating the layer; the layer behind it still gets its bias."""
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, bias_initializer=keras.initializers.Constant(-100), activation="relu", name="mute")(image)
    for make in between:
        x = make()(x)
    mixed = layers.Conv2D(5, 1, bias_initializer=keras.initializers.RandomNormal(seed=1))(x)
    model = keras.Model(image, layers.GlobalAveragePooling2D()(mixed))
    report = export(model, tmp_path / "x.tflite", quantize="int8", representative_data=PICTURES)
    assert report.comparisons[0].max_relative < 0.01
    (name,) = report.silent_layers
    assert "mute" in name
    assert f"constant in the file whatever it is shown: {name}" in caplog.text
    assert json.loads((tmp_path / "x.tflite.json").read_text("utf-8"))["silent_layers"] == [name]


def test_nothing_is_silent(tmp_path, caplog):
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(image)))
    assert export(model, tmp_path / "x.tflite", quantize="int8", representative_data=PICTURES).silent_layers == ()
    assert "Silent" not in caplog.text


def tensor(name, scale, buffer=0):
    made = schema.TensorT()
    made.name, made.buffer, made.quantization = name, buffer, schema.QuantizationParametersT()
    made.quantization.scale = list(scale)
    return made


def operator(opcode, inputs, outputs):
    made = schema.OperatorT()
    made.opcodeIndex, made.inputs, made.outputs = opcode, inputs, outputs
    return made


def test_a_shared_bias_is_rescaled_once():
    """Input scale 0.5, weights 0.25: the silent output's 1e-4 becomes 0.125, 1250 times as much; so the biases' units.

    Two layers read the silent tensor and one reads another, all with one bias [2500, -5000]: two get [2, -4], one keeps it.
    """
    codes = []
    for kind in ("CONV_2D", "MAX_POOL_2D"):
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
        codes.append(code)
    names = {"image": 0.5, "weights": 0.25, "silent": 1e-4, "pooled": 1e-4, "bias": 1e-4, "a": 1.0, "b": 1.0, "c": 1.0}
    graph = schema.SubGraphT()
    graph.tensors = [tensor(name, [scale], int(name == "bias")) for name, scale in names.items()]
    index = {name: number for number, name in enumerate(names)}
    graph.operators = [
        operator(code, [index[name] for name in inputs], [index[output]])
        for code, inputs, output in (
            (0, ("image", "weights"), "silent"),
            (1, ("silent",), "pooled"),
            (0, ("silent", "weights", "bias"), "a"),
            (0, ("pooled", "weights", "bias"), "b"),
            (0, ("image", "weights", "bias"), "c"),
        )
    ]
    model = schema.ModelT()
    empty, full = schema.BufferT(), schema.BufferT()
    full.data = np.frombuffer(np.array([2500, -5000], np.int32).tobytes(), np.uint8)
    model.operatorCodes, model.subgraphs, model.buffers = codes, [graph], [empty, full]
    assert _widen_dead_ranges(model) == ("silent",)
    assert graph.tensors[index["pooled"]].quantization.scale == [0.125]
    found = []
    for reader in graph.operators[2:]:
        bias = graph.tensors[reader.inputs[2]]
        values = np.frombuffer(np.asarray(model.buffers[bias.buffer].data).tobytes(), np.int32)
        found.append((values.tolist(), pytest.approx(bias.quantization.scale[0])))
    assert found == [([2, -4], 0.125), ([2, -4], 0.125), ([2500, -5000], 1e-4)]
