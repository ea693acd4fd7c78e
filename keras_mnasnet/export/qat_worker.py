"""The process that trains with quantization, or pruning, in the loop: TensorFlow, tf_keras, tensorflow-model-optimization.

`export.qat` starts it with a job file and reads its events, one line of JSON each. Nothing else imports it: this is the one
place where Keras 2 is used, on a twin that the package's own builder makes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

from keras_mnasnet.data import (
    ImageSet,
    check_classes,
    evaluation_batches,
    numbering,
    open_splits,
    training_batches,
)
from keras_mnasnet.loading import load
from keras_mnasnet.model import PIXEL_LAYER
from keras_mnasnet.preprocessing import IMAGENET, Augment
from keras_mnasnet.utils.reading import read_json
from keras_mnasnet.weights.checkpoint import Checkpoint

CALIBRATION_BATCHES = 8
VERIFICATION_IMAGES = 128
LABEL_SMOOTHING = 0.1
RANGES = {end: {f"{start}_{end}" for start in ("output", "pre_activation", "post_activation")} for end in ("min", "max")}
Send = Callable[..., None]
quantizers = tfmot.quantization.keras.quantizers


class PixelNormalization(tf_keras.layers.Layer):
    """(pixel - mean) / std, every step rounded to its exact range in 8 bits, as an int8 graph computes it."""

    def __init__(self, mean: Sequence[float] = IMAGENET.mean, std: Sequence[float] = IMAGENET.std, **options: Any) -> None:
        super().__init__(**options)
        self.values = {"mean": list(mean), "std": list(std)}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.values}

    def call(self, image: Any) -> Any:
        mean, std = (np.array(values, np.float32) for values in self.values.values())
        pixels = _rounded(image, np.zeros(1), np.full(1, 255.0))
        centred = _rounded(pixels - mean, -mean, 255 - mean)
        return _rounded(centred * (1 / std), -mean / std, (255 - mean) / std)


def _rounded(value: Any, low: np.ndarray, high: np.ndarray) -> Any:
    return tf.quantization.fake_quant_with_min_max_args(value, float(low.min()), float(high.max()))


class _OutputConfig(tfmot.quantization.keras.QuantizeConfig):
    """No weights, a quantized output."""

    def quantizer(self) -> Any:
        return quantizers.MovingAverageQuantizer(num_bits=8, per_axis=False, symmetric=False, narrow_range=False)

    def get_weights_and_quantizers(self, layer: Any) -> list[Any]:
        return []

    def get_activations_and_quantizers(self, layer: Any) -> list[Any]:
        return []

    def set_quantize_weights(self, layer: Any, quantize_weights: Any) -> None:
        return None

    def set_quantize_activations(self, layer: Any, quantize_activations: Any) -> None:
        return None

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        return [self.quantizer()]

    def get_config(self) -> dict[str, Any]:
        return {}


class _GateConfig(_OutputConfig):
    """LiteRT's LOGISTIC has a fixed scale of 1/256; another one would cost a QUANTIZE each."""

    def quantizer(self) -> Any:
        return quantizers.FixedQuantizer(num_bits=8, init_min=0.0, init_max=255 / 256, narrow_range=False)


class _PartConfig(_OutputConfig):
    """A convolution whose output is a part of a concatenation: all parts must have the scale of the whole, which the
    concatenation sets, or each would cost a QUANTIZE."""

    def get_weights_and_quantizers(self, layer: Any) -> list[Any]:
        registry = tfmot.quantization.keras.default_8bit.Default8BitQuantizeRegistry()
        return registry.get_quantize_config(layer).get_weights_and_quantizers(layer)

    def set_quantize_weights(self, layer: Any, quantize_weights: Any) -> None:
        (layer.kernel,) = quantize_weights

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        return []


CONFIGS = {config.__name__: config for config in (_OutputConfig, _GateConfig, _PartConfig)}


def twin(checkpoint: Checkpoint, size: int, *, padding: str, activation: str | None) -> Any:
    """The network on tf_keras, with the checkpoint's weights: `[B, size, size, 3]` pixels 0..255 -> `[B, classes]`."""
    image = tf_keras.Input((size, size, 3), name="image")
    given = dataclasses.replace(checkpoint, numerics=dataclasses.replace(checkpoint.numerics, padding=padding))
    how = checkpoint.numerics.normalization
    return given.model(
        input_tensor=PixelNormalization(how.mean, how.std, name=PIXEL_LAYER)(image), include_preprocessing=False,
        classifier_activation=activation, dropout_rate=0.0, framework=tf_keras,
    )  # fmt: skip


def quantized(model: Any, parts: Collection[str] = ()) -> Any:
    """The model with fake quantization: per-channel weights, 8-bit activations, gates included; batch norms frozen.

    `parts` are the names of the convolutions whose outputs are concatenated and do nothing else.
    """
    annotate = tfmot.quantization.keras.quantize_annotate_layer

    def annotated(layer: Any) -> Any:
        if isinstance(layer, PixelNormalization):
            return layer
        if isinstance(layer, tf_keras.layers.Multiply):
            return annotate(layer, _OutputConfig())
        if isinstance(layer, tf_keras.layers.Activation):
            return annotate(layer, _GateConfig())
        if layer.name in parts:
            return annotate(layer, _PartConfig())
        return annotate(layer)

    with tf_keras.utils.custom_object_scope({**CONFIGS, "PixelNormalization": PixelNormalization}):
        made = tfmot.quantization.keras.quantize_apply(tf_keras.models.clone_model(model, clone_function=annotated))
    for layer in made.layers:
        inner = getattr(layer, "layer", layer)
        if isinstance(inner, tf_keras.layers.BatchNormalization):
            inner.trainable = False
    return made


def set_ranges(made: Any, float_model: Any, batches: list[np.ndarray]) -> None:
    """Start every activation's range at what the float model shows; tfmot's own start, -6..6, moves by 0.1 % a step."""
    layers = [layer for layer in float_model.layers if not isinstance(layer, tf_keras.layers.InputLayer)]
    outputs = {layer.name: layer.output for layer in layers}
    watched = tf_keras.Model(float_model.input, outputs)
    low: dict[str, list[float]] = {}
    high: dict[str, list[float]] = {}
    for pixels in batches:
        for name, value in watched(pixels, training=False).items():
            low.setdefault(name, []).append(float(tf.reduce_min(value)))
            high.setdefault(name, []).append(float(tf.reduce_max(value)))
    for layer in made.layers:
        name = layer.name.removeprefix("quant_")
        if name not in low or isinstance(getattr(layer, "quantize_config", None), _GateConfig):
            continue
        for variable in layer.weights:
            leaf = variable.name.rpartition("/")[2].partition(":")[0]
            if leaf in RANGES["min"]:
                variable.assign(min(float(np.mean(low[name])), 0.0))
            elif leaf in RANGES["max"]:
                variable.assign(max(float(np.mean(high[name])), 1e-6))
    made(batches[0][:1], training=True)  # the ranges of the kernels are set by a training step's forward pass


def serve(work: Callable[[dict[str, Any], Send], None]) -> int:
    """Do the job of the file that is named; what it sends goes to the process that waits for it, line by line."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not come between the events
    threading.Thread(target=_follow_the_parent, daemon=True).start()

    def send(event: str, **values: Any) -> None:
        events.write(json.dumps({"event": event, **values}) + "\n")
        events.flush()

    job = read_json(sys.argv[1], "The job")
    try:
        tf_keras.utils.set_random_seed(job["seed"])
        work(job, send)
    except (ValueError, OSError, tf.errors.OpError) as error:
        send("refused", message=str(error).splitlines()[0] if isinstance(error, tf.errors.OpError) else str(error))
        return 1
    send("done")
    return 0


def _follow_the_parent() -> None:
    """End this process when standard input ends, which is with the one that holds its other end."""
    os.read(0, 1)
    os._exit(1)


def _classifier(job: dict[str, Any], send: Send) -> None:
    checkpoint = load(job["checkpoint"])
    data = _Data(job, checkpoint)
    send("data", rows=data.rows, read=data.read)
    (_prune if job["prune"] else _quantize)(job, checkpoint, data, send)


class _Data:
    """Images of the job: batches for training, validation, and a few for ranges."""

    def __init__(self, job: dict[str, Any], checkpoint: Checkpoint) -> None:
        splits = open_splits(
            job["data"], validation=job["validation"], seed=job["seed"], classes=numbering([checkpoint.classes]),
            check=lambda images: images.checked(job["max_bad"]),
        )  # fmt: skip
        images, validation = splits.train, splits.validation
        if len(images.labels) != checkpoint.classes:
            raise ValueError(
                f"The data must have the checkpoint's {checkpoint.classes} classes. Received: {len(images.labels)} in "
                f"{images.name}"
            )
        check_classes(checkpoint.labels, images.labels, "Quantization-aware training", "Fine-tune on this data first.")
        self.classes, self.size, self.batch, self.seed = checkpoint.classes, job["size"], job["batch_size"], job["seed"]
        self.images, self.validation = images, validation
        summary = splits.summary()
        self.read = summary.as_json()
        self.rows = {name: text and str(text) for name, text in summary.rows().items()}
        self.preprocessing = checkpoint.preprocessing.at(self.size)
        self.augment = Augment(**job["augment"] | {"upright": self.preprocessing.upright})
        self.steps = images.steps_per_epoch(self.batch)
        if job["steps_per_epoch"] is not None:
            self.steps = min(self.steps, job["steps_per_epoch"])

    def training(self) -> Any:
        """Endless (pixels, one-hot labels)."""
        return training_batches(self.images, size=self.size, batch_size=self.batch, augment=self.augment, seed=self.seed)

    def evaluation(self, images: ImageSet | None = None) -> Any:
        """One pass of (pixels, one-hot labels)."""
        images = images or self.validation
        batches = evaluation_batches(images, self.preprocessing, batch_size=min(self.batch, images.count), leave_out=False)
        return batches.map(lambda pixels, labels, _: (pixels, tf.one_hot(labels, self.classes)))

    def calibration(self) -> list[np.ndarray]:
        """A few batches of training images as they are evaluated."""
        count = min(self.images.count, CALIBRATION_BATCHES * self.batch)
        chosen = np.sort(np.random.default_rng(self.seed).choice(self.images.count, count, replace=False))
        return [pixels for pixels, _ in self.evaluation(self.images.subset(chosen)).as_numpy_iterator()]


def optimizer(job: dict[str, Any], steps: int) -> Any:
    """Adam, whose rate falls from the job's along a cosine."""
    return tf_keras.optimizers.Adam(tf_keras.optimizers.schedules.CosineDecay(job["learning_rate"], max(steps, 1)))


def _compile(model: Any, job: dict[str, Any], steps: int) -> None:
    loss = tf_keras.losses.CategoricalCrossentropy(label_smoothing=LABEL_SMOOTHING)
    model.compile(optimizer(job, steps), loss, metrics=["accuracy"])


def fit(model: Any, job: dict[str, Any], send: Send, training: Any, steps: int, validation: Any, *further: Any) -> None:
    """Train for the job's epochs of so many steps, and send every step and epoch; `further` are callbacks."""

    def ended(epoch: int, logs: dict[str, float]) -> None:
        send("epoch", epoch=epoch + 1, **{key: float(value) for key, value in logs.items()})

    callbacks = [
        tf_keras.callbacks.TerminateOnNaN(),
        tf_keras.callbacks.LambdaCallback(
            on_batch_end=lambda batch, logs: send("step", loss=float(logs["loss"])), on_epoch_end=ended
        ),
        *further,
    ]  # fmt: skip
    fitted = model.fit(
        training, epochs=job["epochs"], steps_per_epoch=steps, validation_data=validation, verbose=0, callbacks=callbacks
    )
    if not np.isfinite(fitted.history["loss"]).all():
        raise ValueError(f"The loss must stay finite. Received: {fitted.history['loss'][-1]}. Use a lower learning rate")


def _save_expected(model: Any, job: dict[str, Any], data: _Data) -> None:
    """Some validation images and the model's outputs, for the verification of the file."""
    count = min(VERIFICATION_IMAGES, data.validation.count)
    chosen = data.validation.subset(np.arange(count) * data.validation.count // count)
    images = np.concatenate([pixels for pixels, _ in data.evaluation(chosen).as_numpy_iterator()])
    np.save(job["images"], images)
    np.save(job["expected"], model.predict(images, verbose=0, batch_size=min(job["batch_size"], count)))


def _accuracy(model: Any, data: _Data) -> float:
    return float(model.evaluate(data.evaluation(), verbose=0)[1])


def _quantize(job: dict[str, Any], checkpoint: Checkpoint, data: _Data, send: Send) -> None:
    padding = checkpoint.numerics.padding
    plain = twin(checkpoint, job["size"], padding=padding, activation="softmax")
    _compile(plain, job, 1)
    send("start", steps=data.steps, float_accuracy=_accuracy(plain, data))
    made = quantized(plain)
    set_ranges(made, twin(checkpoint, job["size"], padding=padding, activation=None), data.calibration())
    _compile(made, job, job["epochs"] * data.steps)
    send("ready", accuracy=_accuracy(made, data))
    fit(made, job, send, data.training(), data.steps, data.evaluation())
    _save_expected(made, job, data)
    Path(job["output"]).write_bytes(converted(made, [tf.lite.Optimize.DEFAULT], job["input_dtype"], job["input_dtype"]))


def _prune(job: dict[str, Any], checkpoint: Checkpoint, data: _Data, send: Send) -> None:
    """1x1 convolutions of the stages to a sparsity, with symmetric padding, which XNNPACK's sparse kernels ask for."""
    plain = twin(checkpoint, job["size"], padding=checkpoint.numerics.padding, activation="softmax")
    _compile(plain, job, 1)
    send("start", steps=data.steps, float_accuracy=_accuracy(plain, data))
    model = twin(checkpoint, job["size"], padding="symmetric", activation="softmax")
    total = job["epochs"] * data.steps
    schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, job["prune"], 0, max(2 * total // 3, 1), frequency=max(total // 50, 1))

    def wrapped(layer: Any) -> Any:
        if _is_pruned(layer):
            return tfmot.sparsity.keras.prune_low_magnitude(layer, pruning_schedule=schedule)
        return layer

    pruned = tf_keras.models.clone_model(model, clone_function=wrapped)
    _compile(pruned, job, total)
    send("ready", accuracy=_accuracy(pruned, data))
    fit(pruned, job, send, data.training(), data.steps, data.evaluation(), tfmot.sparsity.keras.UpdatePruningStep())
    stripped = tfmot.sparsity.keras.strip_pruning(pruned)
    kernels = [layer.get_weights()[0] for layer in stripped.layers if _is_pruned(layer)]
    zeros = sum(int((kernel == 0).sum()) for kernel in kernels)
    _save_expected(stripped, job, data)
    Path(job["dense"]).write_bytes(converted(stripped, []))
    Path(job["output"]).write_bytes(converted(stripped, [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]))
    send("pruned", sparsity=zeros / sum(kernel.size for kernel in kernels))


def _is_pruned(layer: Any) -> bool:
    return type(layer) is tf_keras.layers.Conv2D and layer.kernel_size == (1, 1) and layer.name.endswith("_conv")


def converted(model: Any, optimizations: list[Any], input_dtype: str = "float32", output_dtype: str = "float32") -> bytes:
    """The model as a `.tflite` for one image; outputs with names stand in their alphabetical order."""
    specification = tf.TensorSpec((1, *model.input.shape[1:]), tf.float32, name="image")
    function = tf.function(lambda image: model(image, training=False), input_signature=[specification])
    holder = tf.Module()  # the converter saves it; to save the model itself would trace every layer once more
    holder.weights = model.weights
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], holder)
    converter.optimizations = optimizations
    if input_dtype != "float32":
        converter.inference_input_type, converter.inference_output_type = tf.as_dtype(input_dtype), tf.as_dtype(output_dtype)
    return converter.convert()


if __name__ == "__main__":
    sys.exit(serve(_classifier))
