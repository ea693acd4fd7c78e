"""Export of detectors: every precision and tail, verified; files that must not pass; what phones' libraries read."""

import dataclasses
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from models import distinct, shaken

from keras_mnasnet.detection import SSDLite, spec_of
from keras_mnasnet.detection.inference import KerasDetector, TfliteDetector, sample_inputs, spec_in
from keras_mnasnet.detection.postprocess import Detections, PostProcess
from keras_mnasnet.detection.tflite import (
    EXPORT_SETTINGS,
    agreement,
    builtin_tail,
    export,
    judge_detections,
    operator_tail,
    verify_detector,
)
from keras_mnasnet.export import ExportError, FileClassifier, TfliteFile
from keras_mnasnet.export.flatbuffer import joined, pack
from keras_mnasnet.export.rewrite import rewritten
from keras_mnasnet.export.verify import LIMITS, accepting, compare, drawn_images
from keras_mnasnet.preprocessing import PIXELS, Normalization

LABELS = ("cat", "dog", "n/a", "bird")
OPERATOR = "TFLite_Detection_PostProcess"


def made(**options):
    keras.utils.set_random_seed(0)
    return SSDLite("b1", LABELS, category_ids=(17, 18, 19, 16), width_multiplier=0.35, input_size=96, **options)


@pytest.fixture(scope="module")
def pictures():
    return drawn_images(100, 96, 96, 3, seed=3)


@pytest.fixture(scope="module")
def detector(pictures):
    """A detector with weights that are not trained; what it finds depends on the image."""
    model = distinct(made(), pictures)
    find = KerasDetector(model, EXPORT_SETTINGS).of_input
    compared = agreement(find(pictures[:4]), find(pictures[:4, :, :, ::-1]))
    assert compared.close < 0.7 * compared.expected, "other colors give other detections"
    return model


@pytest.fixture(scope="module")
def exported(detector, pictures, tmp_path_factory):
    """(bytes, report) of the float32 file with the operator."""
    path = tmp_path_factory.mktemp("float32") / "a.tflite"
    report = export(detector, path, photos=pictures[:4])
    return path.read_bytes(), report


@pytest.mark.parametrize(
    ("quantize", "postprocess", "dtype"),
    [
        (None, "builtin", "float32"),
        (None, "none", "float32"),
        ("float16", "operator", "float32"),
        ("int8", "operator", "uint8"),
        ("int8", "builtin", "int8"),
        ("int8", "none", "float32"),
    ],
)
def test_precisions_and_tails(detector, pictures, tmp_path, quantize, postprocess, dtype):
    path = tmp_path / "a.tflite"
    given = {"representative_data": pictures, "input_dtype": dtype} if quantize == "int8" else {}
    report = export(detector, path, quantize=quantize, postprocess=postprocess, photos=pictures[:4], **given)
    check_file(path.read_bytes(), report, postprocess, dtype)
    assert report.facts.half == (quantize == "float16"), report.half
    assert set(report.accelerators) == {"Edge TPU", "GPU delegate"}
    (image,) = report.facts.inputs
    if dtype == "uint8":
        assert (image.scale, image.zero_point) == (1.0, 0)
    if quantize == "int8":
        assert report.calibration.images == 100
        assert report.facts.output_types["int8"] > 100
        assert report.agreement.max_score_difference < 0.05
        assert all(each.error <= report.limits.spread for each in report.comparisons)
    elif quantize is None:
        assert report.agreement.close == report.agreement.expected


def test_builtin_boxes_are_not_computed_in_half(detector, tmp_path):
    with pytest.raises(ValueError, match="compute='half' is not for postprocess='builtin'"):
        export(detector, tmp_path / "a.tflite", quantize="float16", compute="half", postprocess="builtin")


def check_file(content, report, postprocess, dtype):
    """What holds for every file."""
    count = 100 if postprocess != "none" else None
    shapes = {"boxes": (1, count, 4), "classes": (1, count), "scores": (1, count), "count": (1,)}
    if count is None:
        anchors = report.facts.outputs[0].shape[1]
        shapes = {"boxes": (1, anchors, 4), "scores": (1, anchors, 5)}
    assert {port.name: port.shape for port in report.facts.outputs} == shapes
    assert [port.name for port in report.facts.outputs] == list(shapes)
    assert report.facts.signatures == {"serving_default": {"inputs": ["image"], "outputs": list(shapes)}}
    assert {port.dtype for port in report.facts.outputs} == {"float32"}
    assert [(port.name, port.dtype, port.shape) for port in report.facts.inputs] == [("image", dtype, (1, 96, 96, 3))]
    assert report.facts.custom == ((f"CUSTOM:{OPERATOR}",) if postprocess == "operator" else ())
    assert report.network_partitions.delegates == 1
    assert report.network_partitions.outside == ({"QUANTIZE": 1} if dtype == "uint8" else {})
    assert 4 * 20 < report.agreement.expected < 4 * 90, "enough to tell, and fewer than the file may give"
    assert report.agreement.threshold == 0.3
    file = TfliteFile(content)
    assert spec_in(file) == report.detector
    assert file.labels == LABELS
    written = file.report
    assert (written["schema"], written["postprocess"]) == (1, postprocess)
    assert (b"M001" in content) == (postprocess != "none")
    assert (file.normalization == PIXELS) == (postprocess != "none")


def test_the_file_equals_the_model(detector, exported, pictures, data):
    """On photos: the same detections of 0.3 or more, boxes within 1e-3, outputs read by position."""
    content, report = exported
    check_file(content, report, "operator", "float32")
    assert report.partitions.outside == {OPERATOR: 1}
    photos = sample_inputs(data / "coco_tiny" / "val2017", spec_of(detector), 8)
    found = TfliteDetector(content)(photos)
    compared = agreement(KerasDetector(detector, EXPORT_SETTINGS).of_input(photos), found)
    assert compared.threshold == 0.3
    assert compared.expected == compared.found == compared.matched == compared.confirmed == compared.close > 8 * 20
    assert compared.max_box_difference <= 1e-3
    assert compared.max_score_difference <= 1e-4
    with pytest.raises(ValueError, match=r"A classifier must take one image .* and give \[1, classes\]. Received: the file"):
        FileClassifier(content)


def test_what_ap_loses_is_measured(detector, data, tmp_path):
    folder = data / "coco_tiny"
    annotations = json.loads((folder / "annotations" / "instances_val2017.json").read_text("utf-8"))
    annotations["images"] = annotations["images"][:4]
    kept = {image["id"] for image in annotations["images"]}
    annotations["annotations"] = [row for row in annotations["annotations"] if row["image_id"] in kept]
    (tmp_path / "some.json").write_text(json.dumps(annotations))
    report = export(
        detector, tmp_path / "a.tflite", postprocess="builtin", annotations=tmp_path / "some.json", photos=folder / "val2017",
        verification_count=4,
    )  # fmt: skip
    measured = report.evaluation
    assert (measured.images, measured.ap_drop) == (4, pytest.approx(0, abs=1e-6))
    assert measured.keras == pytest.approx(measured.file, abs=1e-6, nan_ok=True)
    assert json.loads((tmp_path / "a.tflite.json").read_text("utf-8"))["evaluation"]["images"] == 4


def test_without_normalization_inside(pictures, tmp_path):
    model = distinct(made(include_preprocessing=False), pictures / 127.5 - 1)
    report = export(model, tmp_path / "a.tflite", photos=pictures[:2] / 127.5 - 1)
    assert report.agreement.close == report.agreement.expected > 2 * 20
    assert TfliteFile(tmp_path / "a.tflite").normalization == Normalization((127.5,) * 3, (127.5,) * 3)
    with pytest.raises(ValueError, match="takes pixels: build the detector with include_preprocessing=True"):
        export(model, tmp_path / "b.tflite", quantize="int8", input_dtype="uint8", representative_data=pictures / 127.5 - 1)


def test_a_graph_without_its_weights_is_caught(detector, pictures):
    """Keras 3 variables that the converter does not track: it converts without a word."""
    import tensorflow as tf

    def forward(image):
        found = detector(image, training=False)
        return [found["boxes"], found["scores"]]

    function = tf.function(forward, input_signature=[tf.TensorSpec((1, 96, 96, 3), tf.float32, name="image")])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], detector)
    content = converter.convert()
    names = {4: "codes", 5: "logits"}
    order = [names[port.shape[-1]] for port in TfliteFile(content).facts.outputs]
    body, _ = rewritten(content, input_names=["image"], output_names=order, description="", metadata={})
    content = joined(body, operator_tail(spec_of(detector), EXPORT_SETTINGS), description="", metadata={})
    with pytest.raises(ExportError, match="must hold its weights. Received: one that reads variables"):
        verify_detector(content, detector, pictures[:1])


def reordered(content, order, names=None):
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    graph.outputs = [int(graph.outputs[index]) for index in order]
    for index, name in zip(graph.outputs, names or (), strict=bool(names)):
        graph.tensors[index].name = name
    if names:
        for entry, index in zip(model.signatureDefs[0].outputs, graph.outputs, strict=True):
            entry.tensorIndex = index
    return pack(model)


def test_outputs_in_another_order_are_caught(detector, exported, pictures):
    """By their names; and where these are swapped too, by what the outputs hold."""
    content, _ = exported
    verify_detector(reordered(content, (0, 1, 2, 3)), detector, pictures[:1])
    with pytest.raises(ExportError, match="must be boxes, classes, scores, count, in this order.*Received: boxes, scores, cl"):
        verify_detector(reordered(content, (0, 2, 1, 3)), detector, pictures[:1])
    names = ("boxes", "classes", "scores", "count")
    with pytest.raises(
        ExportError, match="outputs must be boxes .* whole classes from 0, scores 0..1. Received: the file with"
    ):
        verify_detector(reordered(content, (0, 2, 1, 3), names), detector, pictures[:1])
    with pytest.raises(ExportError, match=r"must be boxes .* Received: the file with \[\[1\], \[1, 100, 4\]"):
        verify_detector(reordered(content, (3, 0, 1, 2), names), detector, pictures[:1])


def test_other_weights_and_other_anchors_are_caught(detector, exported, pictures):
    content, _ = exported
    other = shaken(made(), seed=1)
    with pytest.raises(ExportError, match=r"must find what the model finds: .* Received: \d+ detections of the model"):
        verify_detector(content, other, pictures[:1])
    spec = spec_of(detector)
    moved = dataclasses.replace(spec, anchors=dataclasses.replace(spec.anchors, min_scale=0.25))
    tail = operator_tail(moved, EXPORT_SETTINGS)
    body = without_tail(content)
    with pytest.raises(ExportError, match="must find what the model finds"):
        verify_detector(joined(body, tail, description="", metadata={}), detector, pictures[:1])


def without_tail(content):
    """The network of a file: what the sigmoid and the operator after it read."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    *graph.operators, sigmoid, operator = graph.operators
    named = {"codes": int(operator.inputs[0]), "logits": int(sigmoid.inputs[0])}
    graph.outputs = list(named.values())
    maps = model.signatureDefs[0].outputs[:2]
    for entry, (name, index) in zip(maps, named.items(), strict=True):
        entry.name, entry.tensorIndex = name, index
    model.signatureDefs[0].outputs = maps
    return pack(model)


def test_a_graph_that_litert_refuses_is_an_export_error(exported):
    content, _ = exported
    with pytest.raises(ExportError, match="must be one that LiteRT can run. Received: "):
        compare(
            TfliteFile(content.replace(OPERATOR.encode(), b"X" * len(OPERATOR))),
            lambda images: {},
            np.zeros((1, 8, 8, 3)),
            precision="float32",
        )


def detections(*rows):
    boxes, classes, scores = zip(*rows, strict=True)
    return Detections(np.array(boxes, np.float32), np.array(classes), np.array(scores, np.float32))


def test_agreement_by_hand():
    box, near, far = (0.1, 0.1, 0.5, 0.5), (0.1, 0.1, 0.5, 0.52), (0.6, 0.6, 0.9, 0.9)
    model = detections((box, 0, 0.9), (far, 1, 0.5), (far, 2, 0.31))
    file = detections((near, 0, 0.88), (far, 0, 0.6), (far, 2, 0.29))
    compared = agreement([model], [file])
    assert (compared.expected, compared.matched, compared.close) == (3, 2, 1), "a partner may score just below 0.3"
    assert (compared.found, compared.confirmed) == (2, 1)
    assert compared.max_box_difference == pytest.approx(0.02)
    assert compared.max_score_difference == pytest.approx(0.02)
    with pytest.raises(
        ExportError, match="3 detections of the model, 2 of them in the file, 1 with such boxes; 2 of the file, 1"
    ):
        judge_detections(compared, LIMITS["float32"])
    with pytest.raises(ExportError, match="--accept-changed.* as 0.5"):
        judge_detections(compared, LIMITS["int8"])
    judge_detections(compared, accepting("int8", 0.5))
    judge_detections(agreement([model], [model]), LIMITS["float32"])


def test_agreement_where_nothing_reaches_the_threshold():
    rows = [((0.1 * n, 0.1, 0.1 * n + 0.05, 0.5), 0, 0.2 - 0.01 * n) for n in range(12)]
    compared = agreement([detections(*rows)], [detections(*rows)])
    assert compared.threshold == pytest.approx(0.11)
    assert compared.expected == compared.close == 10
    nothing = Detections(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))
    compared = agreement([nothing], [nothing])
    assert (compared.threshold, compared.expected, compared.max_box_difference) == (0.3, 0, None)
    with pytest.raises(ExportError, match="0 detections of the model, .* 3 of the file, 0 of them in the model"):
        judge_detections(agreement([nothing], [detections(*[(box, 0, 0.9) for box, _, _ in rows[:3]])]), LIMITS["float32"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": "dynamic"}, "`quantize` must be one of .* Received: quantize='dynamic'"),
        ({"quantize": "int8"}, "needs `representative_data`"),
        ({"postprocess": "fast"}, "`postprocess` must be one of .* Received: postprocess='fast'"),
        (
            {"photos": np.zeros((1, 64, 64, 3))},
            r"or images \[N, 96, 96, 3\]. Received: \[1, 64, 64, 3\]",
        ),
        ({"annotations": "a.json"}, r"`annotations` need `photos` \(--photos\).*Received: photos=None"),
        ({"input_dtype": "uint8"}, "needs quantize='int8'"),
    ],
)
def test_refusals(detector, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        export(detector, tmp_path / "a.tflite", **options)
    assert not list(tmp_path.iterdir())


def test_builtin_nms_has_one_limit(detector):
    with pytest.raises(ValueError, match="`per_class` must be `total` or more. Received: per_class=10, total=100"):
        builtin_tail(spec_of(detector), PostProcess(per_class=10))


def test_other_models_are_refused(bundled_classifier, tmp_path, exported):
    with pytest.raises(ValueError, match="which classifies|must be a detector"):
        export(bundled_classifier, tmp_path / "a.tflite")
    content, _ = exported
    with pytest.raises(ValueError, match="LiteRT|whole|TFL3"):
        TfliteDetector(content[: len(content) // 2], name="half.tflite")
    with pytest.raises(ValueError, match="Raw boxes and scores need the detector's anchors and classes"):
        TfliteDetector(without_tail(content))


@pytest.fixture
def bundled_classifier():
    from keras_mnasnet import MnasNet

    return MnasNet("small", weights=None, classes=2, input_shape=(32, 32, 3))


MEDIAPIPE = """
import json, sys
import numpy as np
from mediapipe import Image, ImageFormat
from mediapipe.tasks import python as tasks
rows = []
for path in sys.argv[2:]:
    options = tasks.vision.ObjectDetectorOptions(base_options=tasks.BaseOptions(model_asset_path=path), max_results=5)
    with tasks.vision.ObjectDetector.create_from_options(options) as detector:
        found = detector.detect(Image(image_format=ImageFormat.SRGB, data=np.load(sys.argv[1]))).detections
        rows.append([[each.categories[0].category_name, each.categories[0].score] for each in found])
print(json.dumps(rows))
"""


def test_mediapipe_accepts_the_files(detector, exported, pictures, tmp_path):
    """In a process of its own: MediaPipe brings its own LiteRT."""
    pytest.importorskip(
        "mediapipe", reason="mediapipe is not installed: it needs absl-py 2, and tensorflow-model-optimization absl-py 1"
    )
    paths = [tmp_path / name for name in ("float32.tflite", "builtin.tflite", "uint8.tflite")]
    paths[0].write_bytes(exported[0])
    export(detector, paths[1], postprocess="builtin")
    export(detector, paths[2], quantize="int8", input_dtype="uint8", representative_data=pictures)
    np.save(tmp_path / "image.npy", pictures[0].astype(np.uint8))
    command = [sys.executable, "-c", MEDIAPIPE, str(tmp_path / "image.npy"), *map(str, paths)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    (expected,) = KerasDetector(detector, EXPORT_SETTINGS)(pictures[:1])
    for rows in json.loads(run.stdout.splitlines()[-1]):
        assert len(rows) == 5
        np.testing.assert_allclose([score for _, score in rows], expected.scores[:5], atol=0.05)
        assert {name for name, _ in rows} <= set(LABELS)


def test_the_operator_runs_in_one_thread(exported):
    """In two it loses the class of index 2."""
    content, _ = exported
    with pytest.raises(ValueError, match="must run in one thread.*#56058.*threads=2 for a.tflite.*postprocess='builtin'"):
        TfliteDetector(content, name="a.tflite", threads=2)


@pytest.mark.parametrize(("tail", "threads"), [(operator_tail, 1), (builtin_tail, 1), (builtin_tail, 4)])
def test_every_class_passes_the_post_processing(tail, threads):
    """One sure box in each of 12 classes."""
    from ai_edge_litert.interpreter import Interpreter

    spec = spec_of(SSDLite("b1", 12, width_multiplier=0.35, input_size=96))
    codes, logits = np.zeros((1, 204, 4), np.float32), np.full((1, 204, 13), -9.0, np.float32)
    logits[0, 17 * np.arange(12), 1 + np.arange(12)] = 5 - 0.1 * np.arange(12)
    interpreter = Interpreter(model_content=tail(spec, EXPORT_SETTINGS), num_threads=threads)
    run = interpreter.get_signature_runner()
    found = run(codes=codes, logits=logits)
    assert found["count"] == [12]
    assert found["classes"][0, :12].tolist() == list(range(12))
