"""Keras model -> `.tflite` by TensorFlow's converter, in every precision; weight-only int8 by ai-edge-quantizer."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_mnasnet.export.verify import ExportError
from keras_mnasnet.utils.files import scratch
from keras_mnasnet.utils.system import held_output
from keras_mnasnet.utils.text import Life, listed


def output_names(model: Any) -> list[str]:
    """The names of a functional model's outputs in the order of the exported graph; `scores` for a single one."""
    structure = model.output
    if isinstance(structure, dict):
        return sorted(structure)
    if not isinstance(structure, list | tuple):
        return ["scores"]
    names = list(model.output_names)
    return [name if names.count(name) == 1 else f"{name}_{number}" for number, name in enumerate(names)]


def convert_model(
    model: Any, shape: tuple[int, int, int, int], *, quantize: str | None, images: np.ndarray | None = None,
    input_dtype: str = "float32", output_dtype: str | None = None, progress: bool = False,
) -> bytes:  # fmt: skip
    """Convert for inputs of exactly `shape` `[batch, H, W, C]`; `images` `[n, H, W, C]` calibrate int8.

    `output_dtype` is that of int8 files, by default `input_dtype`.
    """
    import keras

    if keras.config.backend() != "tensorflow":
        raise ExportError(
            f"TensorFlow's converter needs Keras on TensorFlow. Received: the {keras.config.backend()} backend. Save the model "
            f"with model.save('m.keras') and run KERAS_BACKEND=tensorflow mnasnet export m.keras; float32, "
            f"float16 and weight-int8 files of the package's own networks need no converter."
        )
    import tensorflow as tf

    def forward(image: Any) -> list[Any]:
        found = model(image, training=False)
        if isinstance(found, dict):
            return [found[name] for name in sorted(found)]
        return list(found) if isinstance(found, list | tuple) else [found]

    function = tf.function(forward, autograph=False, input_signature=[tf.TensorSpec(shape, tf.float32, name="image")])
    return convert_function(
        function, quantize=quantize, images=images, batch=shape[0], input_dtype=input_dtype,
        output_dtype=output_dtype or input_dtype, progress=progress,
    )  # fmt: skip


def convert_function(
    function: Any, *, quantize: str | None = None, images: np.ndarray | None = None, batch: int = 1,
    input_dtype: str = "float32", output_dtype: str = "float32", progress: bool = False,
) -> bytes:  # fmt: skip
    """Convert a tf.function with an input signature; `images` calibrate its one input, `batch` at a time.

    Builtin operators only. The concrete function goes to the converter without the Keras model: with a Keras 3 model as the
    trackable object its weights are lost silently, and through a SavedModel it takes four times as long.
    """
    import tensorflow as tf

    what = "convert" if images is None else "calibrate and convert"
    if not logging.root.handlers:
        logging.basicConfig()  # or the converter's first warning binds the root's handler to the stream that is held below
    with (
        held_output() as shown,
        contextlib.redirect_stderr(shown),
        warnings.catch_warnings(),
        Life(what, total=None if images is None else len(images), unit="image", shown=progress) as life,
    ):
        warnings.simplefilter("ignore")
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if quantize is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if images is not None:
            converter.representative_dataset = lambda: _calibrating(images, batch, life)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = tf.as_dtype(input_dtype)
            converter.inference_output_type = tf.as_dtype(output_dtype)
        try:
            return converter.convert()
        except Exception as error:  # told below, in one line, without what the converter wrote meanwhile
            failure = error
    raise ExportError(
        f"Every layer of the model must have a builtin LiteRT operator. Received: {_essence(failure)}. Replace the layer, or "
        f"take it out of the model and compute it beside the file"
    ) from failure


def _calibrating(images: np.ndarray, batch: int, life: Life) -> Iterator[list[np.ndarray]]:
    for start in range(0, len(images), batch):
        chunk = images[start : start + batch]
        yield [np.concatenate([chunk, np.repeat(chunk[-1:], batch - len(chunk), axis=0)])]
        life.step(len(chunk))


def _essence(error: Exception) -> str:
    """The operators that have none, where the converter names them; else its first line."""
    missing = sorted(set(re.findall(r"'(tf[\w.]*\.\w+)' op is neither a custom op nor a flex op", str(error))))
    if missing:
        return f"{listed(missing)}, of TensorFlow only"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = next((line.partition("error: ")[2] for line in lines if "error: " in line), next(iter(lines), ""))
    return f"a failure of TensorFlow's converter ({type(error).__name__}: {telling[:300]})"


def weight_only(content: bytes) -> bytes:
    """The graph with int8 weights, dequantized when it is loaded; activations stay float32."""
    try:
        from ai_edge_quantizer import quantizer, recipe
    except ImportError as error:
        raise ImportError(
            "quantize='weight-int8' of a model that is not a plain MnasNet needs ai-edge-quantizer, which is not installed. "
            "Run: pip install 'keras_mnasnet[quantizer]'"
        ) from error
    with scratch() as folder, held_output():
        source, target = folder / "float.tflite", folder / "int8.tflite"
        source.write_bytes(content)
        maker = quantizer.Quantizer(str(source), recipe.weight_only_wi8_afp32())
        maker.quantize().export_model(str(target))
        return target.read_bytes()
