"""The measures of an export on real photos."""

import pytest
from models import shaken

from keras_mnasnet import MnasNet
from keras_mnasnet.benchmarks import evaluate
from keras_mnasnet.data import sample_photos
from keras_mnasnet.export import export
from keras_mnasnet.weights.registry import records, source_preprocessing


@pytest.mark.parametrize("network", ["a1", "b1"])
def test_float_files_equal_keras_on_photos(data, tmp_path, network):
    """At 224 px on photos of ImageNet's classes: 1e-5 of the largest logit in float32, 3e-3 in float16."""
    model = shaken(MnasNet(network, weights=None, classifier_activation=None))
    photos = sample_photos(data / "imagenet_250", source_preprocessing("timm", 224), 8)
    for quantize, limit in ((None, 1e-5), ("float16", 3e-3)):
        report = export(model, tmp_path / "x.tflite", quantize=quantize, photos=photos)
        (compared,) = report.comparisons
        assert compared.images == 8
        assert compared.max_relative <= limit


@pytest.mark.parametrize("record", [each for each in records() if each.bundled], ids=lambda record: record.id)
def test_int8_loses_at_most_a_point(data, tmp_path, record):
    """Top-1 on the test photos, from the file, calibrated on 300 training photos; of a few hundred, four photos."""
    photos = sample_photos(data / record.dataset, record.preprocessing, 300)
    model = MnasNet(record.network, weights=record.id)
    report = export(
        model, tmp_path / "x.tflite", quantize="int8", input_dtype="uint8", representative_data=photos,
        preprocessing=record.preprocessing,
    )  # fmt: skip
    assert report.comparisons[0].judged == "decisions"
    assert report.comparisons[0].error < 0.15
    (result,) = evaluate([str(tmp_path / "x.tflite")], str(data / record.dataset), split="test")
    assert f"the {result.images:,} test" in record.origin.measured_on
    assert result.images * (record.top1 / 100 - result.top1) <= max(0.01 * result.images, 4)
