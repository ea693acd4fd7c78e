"""`quantize_aware`: a detector that is trained with quantization in the loop, in a child process, and its verified file."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from keras_mnasnet.detection.inference import detector_checkpoint
from keras_mnasnet.detection.postprocess import PostProcess
from keras_mnasnet.detection.recipe import DETECTION_RECIPES, OF_LOSS
from keras_mnasnet.detection.spec import DetectorSpec, pixels_text
from keras_mnasnet.detection.tflite import EXPORT_SETTINGS, DetectorReport, check_postprocess, measured_drop, published
from keras_mnasnet.detection.training import DETECTION, DetectionJob, DetectorRun
from keras_mnasnet.export.qat import QAT, check_training, work
from keras_mnasnet.export.tflite import check_options
from keras_mnasnet.export.verify import accepting
from keras_mnasnet.loading import save
from keras_mnasnet.training.job import read_run, run_of, validation_of
from keras_mnasnet.training.recipe import recipe_to_json
from keras_mnasnet.utils.files import scratch
from keras_mnasnet.utils.text import header

WORKER = "keras_mnasnet.detection.qat_worker"
TAUGHT = ("augment", "match_iou", "max_boxes", *OF_LOSS["focal"], *OF_LOSS["mined"])  # by the recipe of the detector's run
FILES = {"checkpoint": "start.safetensors", "expected": "expected.npz", "output": "out.tflite"}


@dataclasses.dataclass(frozen=True, slots=True)
class DetectorTrainingReport:
    """A file that was trained for: its export report, and the losses on the validation photos on the way (None without).

    `float_loss` is the detector's, `start_loss` that of the quantized twin before its first step.
    """

    export: DetectorReport
    float_loss: float | None
    start_loss: float | None
    epochs: tuple[dict[str, float], ...]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """One JSON value: the export report's, with `training` beside it."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "export"}
        return {**self.export.as_json(), "training": own}


def quantize_aware(
    model: Any, annotations: str | os.PathLike[str], path: str | os.PathLike[str], *,
    photos: str | os.PathLike[str] | None = None, validation: str | os.PathLike[str] | float | None = None,
    validation_photos: str | os.PathLike[str] | None = None, epochs: int = 3, batch_size: int = 16,
    learning_rate: float = 1e-4, steps_per_epoch: int | None = None, measure_ap: bool = True, crowd_as_objects: bool = False,
    input_dtype: str = "float32", postprocess: str = "operator", score: float = EXPORT_SETTINGS.score_threshold,
    iou: float = EXPORT_SETTINGS.iou_threshold, max_detections: int = EXPORT_SETTINGS.total,
    accept_changed: float | None = None, max_bad: int = 0, seed: int = 0, progress: bool = True,
) -> DetectorTrainingReport:  # fmt: skip
    """Fine-tune a detector with fake quantization and write the int8 `.tflite` that `export` writes with `quantize="int8"`.

    Args:
        model: a detector: anything that `load` takes, or a Keras model of SSDLite. The file takes pixels 0..255.
        annotations: boxes of the detector's classes; these, `photos`, `validation`, `validation_photos` and
            `crowd_as_objects` as in `train` (without a validation split a tenth of the photos is held out). Of a training
            run, its recipe says how photos are augmented and boxes matched; of any other model, finetune-detector.
        path: the .tflite file to write; its report is written beside it, as `path`.json.
        learning_rate: a cosine starts there.
        steps_per_epoch: at most so many; `max_bad` damaged photos are left out.
        measure_ap: measure COCO's AP of the detector and of the file on the validation photos, which needs pycocotools.
        input_dtype, postprocess, score, iou, max_detections, accept_changed: as in `export`.

    The file is verified against the fake-quantized network, on validation photos (with `validation=0` on those for training).
    Raises ValueError for bad arguments, ImportError without the extra `[qat]`, ChildProcessError where the training dies,
    ExportError where the file is not the network.

    Example:
        from keras_mnasnet.detection import quantize_aware
        report = quantize_aware("runs/mine", "boxes.json", "mine_qat.tflite", photos="photos", input_dtype="uint8")
    """
    check_options("int8", input_dtype, 1, ())
    check_postprocess(postprocess)
    settings = PostProcess(score, iou, max_detections, max_detections)
    limits = accepting(QAT, accept_changed)
    check_training(
        path, learning_rate, epochs=epochs, batch_size=batch_size, seed=seed, max_bad=max_bad, steps_per_epoch=steps_per_epoch
    )
    path = Path(path).expanduser()
    checkpoint = detector_checkpoint(model)
    spec: DetectorSpec = dataclasses.replace(checkpoint.detector, include_preprocessing=True)  # type: ignore
    checkpoint = dataclasses.replace(checkpoint, detector=spec)
    folder, taught = run_of(checkpoint.origin.name), dataclasses.replace(DETECTION_RECIPES["finetune-detector"], loss=spec.loss)
    if folder is not None:
        own = read_run(folder, DETECTION)[0].recipe
        taught = dataclasses.replace(taught, **{key: getattr(own, key) for key in TAUGHT})
    recipe = dataclasses.replace(taught, epochs=epochs, batch_size=batch_size, seed=seed)
    job = DetectionJob(
        data=os.fspath(annotations), photos=_text(photos), validation=validation_of(validation),
        validation_photos=_text(validation_photos), recipe=recipe, classes=spec.labels, measure_ap=measure_ap,
        crowd_as_objects=crowd_as_objects, max_bad=max_bad,
    )  # fmt: skip
    started = time.perf_counter()
    run = DetectorRun(None, job, None, progress=progress)
    run.open_data()
    run.detector = built = checkpoint.model()
    steps = run.data.images.steps_per_epoch(batch_size)
    header(
        {
            "model": f"{checkpoint.origin}, {pixels_text(spec.input_size)}, {spec.classes} classes",
            "training": f"int8, quantization-aware training; {epochs} epochs, batches of {batch_size}, learning rate "
            f"{learning_rate:g}",
            "recipe": f"{taught}; augmentation, matching and loss are those of "
            f"{f'the run {folder}' if folder else 'this recipe'}",
            **run.summary.rows(),
            **({} if run.validation else {"validation": "none"}),
            "post-processing": f"{postprocess}: {settings}",
            "output": path,
        },
        shown=progress,
    )
    with scratch() as temporary:
        files = {name: str(temporary / file) for name, file in FILES.items()}
        save(checkpoint, files["checkpoint"])
        values = {
            **files, "job": dataclasses.asdict(job) | {"recipe": recipe_to_json(recipe)},
            "excluded": run.data.bad + (run.validation.bad if run.validation else ()), "epochs": epochs, "seed": seed,
            "steps": min(steps, steps_per_epoch or steps), "learning_rate": learning_rate, "input_dtype": input_dtype,
        }  # fmt: skip
        described = temporary / "job.json"
        described.write_text(json.dumps(values), "utf-8")
        events = work(WORKER, described, epochs, batch_size, progress)
        with np.load(files["expected"]) as expected:
            images, codes, logits = (expected[name] for name in ("images", "codes", "logits"))
        content = Path(files["output"]).read_bytes()
    seconds = time.perf_counter() - started
    position = {image.tobytes(): row for row, image in enumerate(images)}

    def outputs(chunk: np.ndarray) -> dict[str, np.ndarray]:
        rows = [position[image.tobytes()] for image in chunk]
        return {"codes": codes[rows], "logits": logits[rows]}

    report = published(
        content, path, spec, outputs, images, name=built.name, quantize="int8", precision=QAT, limits=limits,
        postprocess=postprocess, settings=settings, started=started, origin=checkpoint.origin,
        against="the fake-quantized twin", on=events["verified"]["on"],
        calibration=None, data=run.summary.as_json(), progress=progress,
        measure=lambda written: measured_drop(built, written, settings, run.validation if measure_ap else None, progress),
    )  # fmt: skip
    return DetectorTrainingReport(
        export=report, float_loss=events["start"]["loss"], start_loss=events["ready"]["loss"],
        epochs=tuple(events["epochs"]), seconds=round(seconds, 1),
    )  # fmt: skip


def _text(path: str | os.PathLike[str] | None) -> str | None:
    return None if path is None else os.fspath(path)
