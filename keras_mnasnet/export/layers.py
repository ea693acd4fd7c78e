"""What a Keras model of anyone's takes, read from its layers; and the same model in float32, of one float image."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_mnasnet.utils.text import listed

PIXELS, NORMALIZED, UNCLEAR = "pixels", "normalized", "unclear"
LARGEST_SCALE = 1 / 32  # pixels are divided by 127.5, 255 or a deviation of that kind
LEAST_MEAN = 4.0  # no normalized input has a mean as large
SMALLER = ("float16", "bfloat16", "float64", "mixed_float16", "mixed_bfloat16")
FLOATS, WHOLE = ("float32", "float16", "bfloat16", "float64"), ("uint8", "uint16", "uint32", "int16", "int32", "int64")
SIDE = 32  # of the pictures that show what becomes of pixels, where a model leaves its sides open
SHADES = (0.0, 51.0, 255.0)


def as_functional(model: Any) -> Any:
    """A Sequential model as the functional model of the same layers; any other as it is. ValueError for one not built."""
    if not any(kind.__name__ == "Sequential" for kind in type(model).__mro__):
        return model
    import keras

    if not model.built or not model.layers:
        raise ValueError(
            f"A Sequential model must be built. Received: {model.name!r}, which is not. Begin it with keras.Input([H, W, C]), "
            f"or call model.build([None, H, W, C])"
        )
    (image,), outputs = model.inputs, model.outputs
    return keras.Model(image, outputs[0] if len(outputs) == 1 else outputs, name=model.name)


def in_float32(model: Any) -> tuple[Any, tuple[str, ...]]:
    """The functional model with the same weights in float32, of float images in batches of any size; and what it had instead.

    The model itself, and nothing, where it is so. ValueError names a policy of quantized layers, and one that cannot be
    replaced: where the model cannot be described or built again.
    """
    import keras

    try:
        config = copy.deepcopy(model.get_config())
    except (NotImplementedError, TypeError, ValueError) as error:
        policies = sorted({layer.dtype_policy.name for layer in _layers(model)} - {"float32"})
        if not policies:
            return model, ()
        raise _cannot_be_rebuilt(model, policies, error) from error
    policies = sorted({name for name in _policies(config) if name != "float32"})
    quantized = [name for name in policies if name not in SMALLER]
    if quantized:
        raise ValueError(
            f"A model that is exported must have the dtype policy float32, float16, bfloat16, mixed or float64. Received: "
            f"{model.name!r} with {listed(quantized)}, the policy of layers that Keras has quantized. Export the model as it "
            f"was before model.quantize(), with quantize='weight-int8' or 'int8' (--quantize)"
        )
    replaced = (*(f"the dtype policy {name}" for name in policies), *_inputs_in_float32(config))
    _types_in_float32(config)
    if not replaced:
        return model, ()
    own = {kind.__name__: kind for layer in _layers(model) for kind in [type(layer)]}
    try:
        twin = keras.Model.from_config(config, custom_objects=own)
        twin.set_weights([np.asarray(value, np.float32) for value in model.get_weights()])
    except (TypeError, ValueError, NotImplementedError, AttributeError, LookupError) as error:
        raise _cannot_be_rebuilt(model, replaced, error) from error
    return twin, replaced


def _cannot_be_rebuilt(model: Any, had: Any, error: Exception) -> ValueError:
    said = next(iter(str(error).strip().splitlines()), "")[:200]
    return ValueError(
        f"A model that is exported must be one of float32 and of a float Input of any batch size. Received: {model.name!r} "
        f"with {listed(had)}, which cannot be built again in float32 ({type(error).__name__}: {said}). Build it with "
        f"keras.config.set_dtype_policy('float32'), give it the weights (set_weights), and export that one"
    )


def _policies(value: Any) -> Iterator[str]:
    """The names of the dtype policies in a description."""
    if isinstance(value, dict):
        kind, config = value.get("class_name"), value.get("config")
        if isinstance(kind, str) and kind.endswith("DTypePolicy") and isinstance(config, dict):
            yield str(config.get("name") or f"{config.get('mode')}_from_{config.get('source_name')}")
        for key, each in value.items():
            if key != "inbound_nodes":
                yield from _policies(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _policies(each)


def _inputs_in_float32(config: dict[str, Any]) -> Iterator[str]:
    """What the Inputs of a description are that LiteRT's float image is not; they are made so."""
    for layer in config.get("layers", ()):
        said = layer["config"]
        if layer["class_name"] == "InputLayer":
            if said.get("dtype", "float32") not in FLOATS + WHOLE:
                raise ValueError(
                    f"A model that is exported must have an Input of floats, or of whole numbers that hold 0..255. Received: "
                    f"an Input of {said['dtype']}. Build the model with keras.Input(..., dtype='float32')"
                )
            if said.get("dtype", "float32") != "float32":
                yield f"an Input of {said['dtype']}"
                said["dtype"] = "float32"
            shape = said.get("batch_shape")
            if shape and shape[0] is not None:
                yield f"an Input of {shape[0]} images"
                said["batch_shape"] = [None, *shape[1:]]
        elif isinstance(said, dict) and "layers" in said:
            list(_inputs_in_float32(said))


def _types_in_float32(value: Any) -> None:
    """Every dtype and dtype policy of other floats in a description becomes float32."""
    if isinstance(value, dict):
        if str(value.get("class_name")).endswith("DTypePolicy"):
            value["config"]["name"] = "float32"
        for key, each in value.items():
            if key == "dtype" and each in SMALLER:
                value[key] = "float32"
            else:
                _types_in_float32(each)
    elif isinstance(value, list | tuple):
        for each in value:
            _types_in_float32(each)


def check_layout(model: Any) -> None:
    """ValueError for layers that take channels first, which LiteRT's operators do not."""
    first = [layer.name for layer in _layers(model) if getattr(layer, "data_format", None) == "channels_first"]
    if first:
        raise ValueError(
            f"A model that is exported must take channels last, [B, H, W, C]. Received: {model.name!r}, in which "
            f"{listed(first)} take channels first. Build it with data_format='channels_last', and give it the weights "
            f"(set_weights): those of convolutions are the same in both"
        )


def input_kind(model: Any) -> str | None:
    """What a functional model takes: PIXELS where it normalizes 0..255 before its first layer with weights, by layers, by
    operators or in a nested model; NORMALIZED for a MnasNet without; None: the image as it is; UNCLEAR: what it computes of
    0..255 is no normalization of these."""
    shape = [side or SIDE for side in model.inputs[0].shape[1:]]
    pictures = np.stack([np.full(shape, shade, np.float32) for shade in SHADES])
    try:
        layer, reached = _first_reached(model, pictures)
        values = [np.ravel(np.asarray(value, np.float64)) for value in reached]
    except Exception:  # of anyone's layers, which may raise anything
        return UNCLEAR
    black, dark, white = values
    slope = (white - black) / SHADES[2]
    kept = np.abs(slope) > np.abs(slope).max() / 10  # others are borders
    if not kept.any() or not np.allclose(dark, black + SHADES[1] * slope, rtol=1e-3, atol=1e-3 * np.abs(slope).max()):
        return UNCLEAR
    mean = -black[kept] / slope[kept]
    if np.abs(slope).max() <= LARGEST_SCALE or np.abs(mean).max() > LEAST_MEAN:
        return PIXELS
    if not (np.allclose(slope[kept], 1, rtol=1e-3) and np.allclose(mean, 0, atol=1e-3)):
        return UNCLEAR
    return NORMALIZED if layer is not None and layer.name == "stem_conv" else None


def _first_reached(model: Any, images: Any) -> tuple[Any, Any]:
    """The first layer with weights, Normalization apart, and what reaches it when the model is given `images`.

    None for a model without such a layer, and its first output. The model's description says how its layers are called.
    """
    model = as_functional(model)
    config = model.get_config()
    operations = {each.name: each for each in model.operations}
    values: dict[tuple[Any, ...], Any] = {tuple(_one(config["input_layers"])): images}
    found = images
    for entry in config["layers"]:
        layer = operations[entry["name"]]
        for number, call in enumerate(entry["inbound_nodes"]):
            args, kwargs = (_given(call[key], values) for key in ("args", "kwargs"))
            if any(kind.__name__ in ("Functional", "Sequential") for kind in type(layer).__mro__):
                inside, found = _first_reached(layer, args[0])
                if inside is not None:
                    return inside, found
            elif getattr(layer, "weights", None) and type(layer).__name__ != "Normalization":
                return layer, args[0]
            else:
                if "training" in inspect.signature(layer.call).parameters:
                    kwargs["training"] = False
                found = layer(*args, **kwargs)
            for place, value in enumerate(found if isinstance(found, list | tuple) else [found]):
                values[entry["name"], number, place] = value
    return None, found


def _one(places: Any) -> Any:
    """The place of a model's one input, which stands alone or in a list."""
    return places if isinstance(places[0], str) else places[0]


def _given(value: Any, values: dict[tuple[Any, ...], Any]) -> Any:
    """An argument of a described call, with what was computed for the tensors in it."""
    import keras

    if isinstance(value, list | tuple):
        return [_given(each, values) for each in value]
    if not isinstance(value, dict):
        return value
    if value.get("class_name") == "__keras_tensor__":
        return values[tuple(value["config"]["keras_history"])]
    if "class_name" in value:
        return keras.saving.deserialize_keras_object(value)
    return {key: _given(each, values) for key, each in value.items()}


def _layers(model: Any) -> Iterator[Any]:
    """Every layer; those of a nested model in its place."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _layers(layer)
        else:
            yield layer
