"""Keras model -> `.tflite` by TensorFlow's converter: every precision, for any functional model with one image input."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, TextIO

import numpy as np
import tqdm

from keras_mnasnet.export.verify import ExportError
from keras_mnasnet.utils.system import held_output

__all__ = ["DTYPES", "convert", "converted", "output_names"]

DTYPES = ("float32", "uint8", "int8")


def output_names(model: Any) -> list[str]:
    """The names of a functional model's outputs in the order of the exported graph; `scores` for a single one."""
    structure = model.output
    if isinstance(structure, dict):
        return sorted(structure)
    if not isinstance(structure, list | tuple):
        return ["scores"]
    names = list(model.output_names)
    return [name if names.count(name) == 1 else f"{name}_{number}" for number, name in enumerate(names)]


def convert(
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
            f"with model.save('m.keras') and run KERAS_BACKEND=tensorflow mnasnet export --weights m.keras; float32, "
            f"float16 and weight-int8 files of the package's own networks need no converter."
        )
    import tensorflow as tf

    def forward(image: Any) -> list[Any]:
        found = model(image, training=False)
        if isinstance(found, dict):
            return [found[name] for name in sorted(found)]
        return list(found) if isinstance(found, list | tuple) else [found]

    function = tf.function(forward, autograph=False, input_signature=[tf.TensorSpec(shape, tf.float32, name="image")])
    return converted(
        function, quantize=quantize, images=images, batch=shape[0], input_dtype=input_dtype,
        output_dtype=output_dtype or input_dtype, progress=progress,
    )  # fmt: skip


def converted(
    function: Any, *, quantize: str | None = None, images: np.ndarray | None = None, batch: int = 1,
    input_dtype: str = "float32", output_dtype: str = "float32", progress: bool = False,
) -> bytes:  # fmt: skip
    """Convert a tf.function with an input signature; `images` calibrate its one input, `batch` at a time.

    Builtin operators only. The concrete function goes to the converter without the Keras model: with a Keras 3 model as the
    trackable object its weights are lost silently, and through a SavedModel it takes four times as long.
    """
    import tensorflow as tf

    with held_output() as shown, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if quantize is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if images is not None:
            converter.representative_dataset = lambda: _calibrating(images, batch, shown if progress else None)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = tf.as_dtype(input_dtype)
            converter.inference_output_type = tf.as_dtype(output_dtype)
        try:
            return converter.convert()
        except Exception as error:
            raise ExportError(
                f"Every layer of the model must have a builtin LiteRT operator. Received: TensorFlow's converter failed with "
                f"{type(error).__name__}: {_essence(error)}"
            ) from error


def _calibrating(images: np.ndarray, batch: int, shown: TextIO | None) -> Iterator[list[np.ndarray]]:
    for start in tqdm.trange(0, len(images), batch, desc="calibrating", file=shown, disable=shown is None, leave=False):
        chunk = images[start : start + batch]
        yield [np.concatenate([chunk, np.repeat(chunk[-1:], batch - len(chunk), axis=0)])]


def _essence(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "error:" in line or "is neither a custom op" in line or "Flex" in line]
    return " ".join((telling or lines)[:3])[:600]
