"""`mnasnet detect export`: a detector -> a verified `.tflite`."""

from __future__ import annotations

import argparse

from keras_mnasnet.cli.detect_eval import rounded
from keras_mnasnet.cli.export import print_comparisons, print_outline
from keras_mnasnet.cli.output import print_json, print_table
from keras_mnasnet.detection.evaluation import METRICS
from keras_mnasnet.detection.inference import OPERATOR
from keras_mnasnet.detection.tflite import DetectorReport
from keras_mnasnet.detection.tflite import export as export_detector

__all__ = ["export"]


def export(arguments: argparse.Namespace) -> None:
    """Write the file and its report, and print what was measured."""
    if not arguments.output.endswith(".tflite"):
        raise ValueError(f"`--output` must end in .tflite. Received: {arguments.output}")
    quantize = None if arguments.quantize == "float32" else arguments.quantize
    if quantize == "int8" and arguments.calibrate is None:
        raise ValueError(
            "--quantize int8 needs --calibrate DATA, a folder of photos like those the model will see. Received: none"
        )
    report = export_detector(
        arguments.weights,
        arguments.output,
        quantize=quantize,
        representative_data=arguments.calibrate,
        photos=arguments.images,
        annotations=arguments.annotations,
        postprocess="none" if arguments.no_postprocess else "builtin" if arguments.builtin_nms else "operator",
        score=arguments.score_threshold,
        iou=arguments.iou_threshold,
        max_detections=arguments.max_detections,
        input_dtype=arguments.input_dtype,
        calibration_count=arguments.calibration_images,
        verification_count=arguments.verification_images,
        max_bad=arguments.max_bad,
        seed=arguments.seed,
        progress=not arguments.json,
    )
    if arguments.json:
        return print_json(report.as_json())
    return _print_report(report)


def _print_report(report: DetectorReport) -> None:
    print_outline(report, f"post-processing: {report.postprocess}")
    network, whole = report.network_partitions, report.partitions
    outside = ", ".join(f"{kind} {count}" for kind, count in whole.outside.items())
    print(
        f"XNNPACK  {network.delegates} partition{'s' * (network.delegates != 1)} up to the selection of boxes"
        f"{f'; outside: {outside}' if outside else ', the whole graph'}"
    )
    print_comparisons(report)
    agreed = report.agreement
    print(
        f"detections of {agreed.threshold:g} or more: {agreed.expected} of the model, {agreed.matched} of them in the file; "
        f"{agreed.found} of the file, {agreed.confirmed} of them in the model"
    )
    if agreed.max_box_difference is not None and agreed.max_score_difference is not None:
        print(
            f"  largest difference {agreed.max_box_difference:.2e} of a box (shares of the photo), "
            f"{agreed.max_score_difference:.2e} of a score; {agreed.close} boxes within 1e-3"
        )
    if report.evaluation is not None:
        measured = report.evaluation
        print(f"on {measured.images:,} photos of {measured.annotations}:")
        rows = (("Keras", measured.keras), ("file", measured.file))
        print_table(("", *METRICS), [[name, *map(rounded, values.values())] for name, values in rows])
        if measured.ap_drop is not None:
            print(f"AP drops by {measured.ap_drop:.6f}")
    if report.postprocess == "operator" and report.detector.classes > 2:
        print(f"run it in one thread: in T threads {OPERATOR} loses the class of index T (tensorflow/tensorflow#56058)")
    print(f"report: {report.path}.json")
