"""The process that trains a detector with quantization in the loop, as `export.qat_worker` does it with classifiers.

`detection.qat` starts it with a job file and reads its events. Nothing else imports it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from keras_mnasnet.detection.anchors import anchors_of, targets_of
from keras_mnasnet.detection.data import CocoDataset, evaluation_batches
from keras_mnasnet.detection.losses import loss_of
from keras_mnasnet.detection.model import build_detector, spec_of
from keras_mnasnet.detection.recipe import DetectionRecipe
from keras_mnasnet.detection.training import DetectionJob, DetectorRun
from keras_mnasnet.export.qat_worker import (
    CALIBRATION_BATCHES,
    PixelNormalization,
    Send,
    converted,
    fit,
    optimizer,
    quantized,
    serve,
    set_ranges,
)
from keras_mnasnet.export.verify import LEAST_IMAGES, drawn_images
from keras_mnasnet.loading import load
from keras_mnasnet.training.recipe import recipe_from_json
from keras_mnasnet.utils.reading import record
from keras_mnasnet.weights.checkpoint import Checkpoint, assign

VERIFICATION_IMAGES = 32


class Trainee(tf_keras.Model):
    """A twin with its loss, as `detection.training.Trainee` has it."""

    @classmethod
    def of(cls, twin: Any, spec: Any, recipe: DetectionRecipe) -> Trainee:
        """The trainee of a twin, quantized or not; the layers are the twin's own."""
        model = cls(twin.inputs, twin.output)
        model.anchors, model.variance, model.recipe = anchors_of(spec), spec.anchors.variance, recipe
        model.total = tf_keras.metrics.Mean(name="loss")
        return model

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None) -> Any:
        """Score loss + box loss of a batch."""
        targets = targets_of(y["boxes"], y["labels"], self.anchors, self.variance, threshold=self.recipe.match_iou)
        loss = sum(loss_of(self.recipe)(targets, y_pred["boxes"], y_pred["scores"], self.anchors, self.variance))
        self.total.update_state(loss, sample_weight=tf.shape(y["labels"])[0])
        return loss

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any) -> dict[str, Any]:
        """The mean loss: what comes out, and what it is compared with, have other names."""
        return self.get_metrics_result()


def twin(checkpoint: Checkpoint) -> Any:
    """The detector on tf_keras, with the checkpoint's weights."""
    spec: Any = checkpoint.detector
    normalize = PixelNormalization(spec.normalization.mean, spec.normalization.std, name="pixel_normalization")
    model = build_detector(spec, framework=tf_keras, normalize=normalize)
    assign(model, checkpoint.tensors, list(checkpoint.tensors))
    return model


def _quantize(job: dict[str, Any], send: Send) -> None:
    recipe = recipe_from_json(job["job"]["recipe"], DetectionRecipe)
    known = SimpleNamespace(excluded=tuple(job["excluded"]))
    run = DetectorRun(None, record({**job["job"], "recipe": recipe}, DetectionJob, "The job"), known)
    run.open_data()
    plain = twin(load(job["checkpoint"]))
    run.detector, spec = plain, spec_of(plain)
    judges = run.validation or run.data

    def passed(data: CocoDataset, count: int | None = None) -> Any:
        """One pass over the photos, or over so many of them, evenly spread."""
        if count is not None and count < data.count:
            data = data.subset([number * data.count // count for number in range(count)])
        batch = min(recipe.batch_size, data.count)
        return evaluation_batches(data, size=spec.input_size, batch_size=batch, max_boxes=recipe.max_boxes)

    def loss(model: Trainee) -> float | None:
        return None if run.validation is None else model.evaluate(passed(run.validation), verbose=0, return_dict=True)["loss"]

    steps = job["steps"]
    before = Trainee.of(plain, spec, recipe)
    before.compile()
    send("start", steps=steps, loss=loss(before))
    made = quantized(plain, {layer.name for layer in spec.layers() if layer.name.startswith("level") and layer.bn is None})
    photos = passed(run.data, CALIBRATION_BATCHES * recipe.batch_size)
    set_ranges(made, plain, [pixels for pixels, _ in photos.as_numpy_iterator()])
    trained = Trainee.of(made, spec, recipe)
    trained.compile(optimizer(job, recipe.epochs * steps))
    send("ready", loss=loss(trained))
    fit(trained, job, send, run.batches(0), steps, None if run.validation is None else passed(run.validation))
    images = np.concatenate([pixels for pixels, _ in passed(judges, VERIFICATION_IMAGES).as_numpy_iterator()])
    on = f"{len(images)} {'training' if run.validation is None else 'validation'} photos"
    missing = LEAST_IMAGES - len(images)
    if missing > 0:
        images, on = np.concatenate([images, drawn_images(missing, *images.shape[1:])]), f"{on} and {missing} drawn ones"
    send("verified", on=on)
    found = made.predict(images, verbose=0, batch_size=recipe.batch_size)
    np.savez(job["expected"], images=images, codes=found["boxes"], logits=found["scores"])
    Path(job["output"]).write_bytes(converted(made, [tf.lite.Optimize.DEFAULT], job["input_dtype"]))


if __name__ == "__main__":
    sys.exit(serve(_quantize))
