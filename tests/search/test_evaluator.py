"""The evaluator of networks, on generated drawings: what it returns, what it holds out, and that it does not grow."""

import dataclasses
import math
import pickle

import numpy as np
import pytest

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.data import open_images
from keras_mnasnet.data.shapes import write_folder
from keras_mnasnet.loading import save
from keras_mnasnet.model import build
from keras_mnasnet.search.evaluator import NetworkEvaluator, fixed_cost, open_search_images
from keras_mnasnet.search.executors import evaluated
from keras_mnasnet.search.latency import DeviceGone
from keras_mnasnet.search.trials import Request, Trial
from keras_mnasnet.training import Diverged, parse_recipe, train_short

NETWORK = "tiny: stem8 r1_k3_s11_e1_i8_o8_noskip r2_k3_s22_e2_i8_o16_se0.25 head32"
RECIPE = parse_recipe("proxy-5-epochs epochs=2 batch_size=32 base_batch=32 learning_rate=0.01")
DATA = "shapes:400@32"


def evaluator(**changes):
    values = {"data": DATA, "recipe": RECIPE, "resolution": 32, "device": "madds", "validation_images": 100}
    return NetworkEvaluator(**{**values, **changes})


def request(number=0, **changes):
    return Trial(number, (0,), attempts=1, **{"architecture": NETWORK, **changes})


def test_a_trial_is_measured_trained_and_repeatable():
    made = pickle.loads(pickle.dumps(evaluator()))
    found = made(request())
    network = Architecture.parse(NETWORK)
    assert found.failure is None
    assert 0 <= found.accuracy <= 1
    assert math.isclose(found.accuracy * 100, round(found.accuracy * 100), abs_tol=1e-4), "of 100 validation images"
    assert (found.params, found.madds) == (network.params(classes=10), network.madds(32, 32, classes=10))
    assert (found.latency_ms, found.latency_source) == (network.madds(32, 32, classes=10) / 1e6, "madds")
    assert found.details["steps"] == 2 * (300 // 32)
    phases = {"open_data", "open_source", "latency", "build", "trace", "training_steps", "validate", "clear"}
    assert set(found.seconds) == phases
    assert fixed_cost(found.seconds) == pytest.approx(
        sum(found.seconds[phase] for phase in phases - {"open_data", "open_source", "training_steps"})
    )
    again = made(request(1))
    assert (again.accuracy, again.details["loss"]) == (found.accuracy, found.details["loss"])
    assert again.seconds["open_data"] < 0.1, "the data was opened once"


def test_the_latency_of_the_driver_is_kept():
    found = evaluator(steps=2)(request(latency_ms=3.5, latency_source="phone"))
    assert (found.latency_ms, found.latency_source) == (3.5, "phone")
    assert "latency" not in found.seconds


def asked(number=0, **changes):
    return Request(number, (0,), attempts=1, architecture=NETWORK, **changes)


def test_a_training_in_rungs_is_the_training_without():
    made = evaluator()
    whole = made(request())
    first = made(asked(share=0.4, keeps="all"))
    second = made(asked(1, share=1.0, begun=0.4, state=first.kept, keeps="weights", extra={"rung": 1, "of": 0}))
    steps = whole.details["steps"]
    assert (first.details["steps"], first.details["begun"]) == (round(0.4 * steps), 0)
    assert (second.details["steps"], second.details["begun"]) == (steps, round(0.4 * steps))
    assert second.accuracy == whole.accuracy
    assert len(second.kept) < len(first.kept) / 2, "the optimizer's state is left out"
    damaged = evaluated(made, asked(1, share=1.0, begun=0.4, state=first.kept[:-8]))
    assert damaged.failure.kind == "error"
    other = asked(1, share=1.0, begun=0.4, state=first.kept)
    other = dataclasses.replace(other, architecture=NETWORK.replace("o16", "o24"))
    assert "must hold the variables of this run's network" in evaluated(made, other).failure.reason

    wider = dataclasses.replace(
        asked(2, share=0.2, weights=(NETWORK, second.kept), extra={"start": 1}), architecture=NETWORK.replace("o16", "o24")
    )
    found = made(wider)
    assert found.details["inherited"]["trial"] == 1
    assert 0.3 < found.details["inherited"]["share"] < 1
    assert found.accuracy > first.accuracy, "four steps from there are more than seven from nothing"


def test_networks_inherit_from_a_source(monkeypatch, tmp_path):
    model = build(Architecture.parse(NETWORK), classes=10, input_shape=(32, 32, 3))
    save(model, tmp_path / "source.safetensors")
    found = evaluator(inherit=str(tmp_path / "source.safetensors"), steps=1)(request())
    source = str(tmp_path / "source.safetensors")
    head = 32 * 10 + 10
    share = 1 - head / Architecture.parse(NETWORK).params(classes=10)
    assert found.details["inherited"] == {"source": source, "trial": None, "share": pytest.approx(share)}
    lost = evaluator(inherit=str(tmp_path / "none.safetensors"), steps=1)(request())
    assert (lost.failure.kind, "none.safetensors" in lost.failure.reason) == ("data", True)


def test_failures_are_typed(monkeypatch):
    found = evaluator(recipe=RECIPE.changed(learning_rate=1e3, clip_norm=0.0, optimizer="sgd", momentum=0.0))(request())
    assert found.failure.kind == "nan"
    assert "NaN or infinite" in found.failure.reason
    found = evaluator(data="/nowhere")(request())
    assert (found.failure.kind, "/nowhere" in found.failure.reason) == ("data", True)

    def gone(self, *_):
        raise DeviceGone("no phone answers")

    monkeypatch.setattr(NetworkEvaluator, "measured", gone)
    assert evaluator(steps=1)(request()).failure.kind == "device"
    with pytest.raises(ValueError, match="This evaluator trains networks. Received: trial 0"):
        evaluator()(request(architecture=None))


def test_a_short_training_refuses_what_it_cannot_do():
    images = open_images(DATA, split="train")
    with pytest.raises(ValueError, match="Received: recipe='finetune' with frozen_epochs=1"):
        train_short(Architecture.parse(NETWORK), images, images, parse_recipe("finetune"), size=32)
    assert issubclass(Diverged, ArithmeticError)


def test_averages_are_what_is_validated():
    images = open_images("shapes:64@32", split="train")
    with_average = RECIPE.changed(ema=0.999)
    one = train_short(Architecture.parse(NETWORK), images, images, RECIPE, size=32, steps=12)
    other = train_short(Architecture.parse(NETWORK), images, images, with_average, size=32, steps=12)
    np.testing.assert_array_equal(one.model.get_weights()[0], other.model.get_weights()[0])
    assert one.loss == other.loss


def test_short_trainings_are_not_compiled_by_xla(monkeypatch):
    monkeypatch.setattr("keras_mnasnet.training.engine.accelerators", lambda: ["gpu:0"])
    images = open_images("shapes:64@32", split="train")
    assert train_short(Architecture.parse(NETWORK), images, images, RECIPE, size=32, steps=1).model.jit_compile is False


def where(images):
    return {images.where(index) for index in range(images.count)}


def test_parts_of_the_data_do_not_overlap(tmp_path):
    write_folder(tmp_path / "photos", 200, size=32)
    found = open_search_images(str(tmp_path / "photos"))
    parts = [where(found.train), where(found.validation), where(found.test)]
    assert [len(part) for part in parts] == [161, 17, 22], "a tenth of every class, rounded, twice"
    assert len(set().union(*parts)) == 200
    assert found.holdout == 0.1
    again = open_search_images(str(tmp_path / "photos"), images=50, validation_images=30)
    assert where(again.test) == parts[2], "the test images are the same whatever else is asked for"
    assert abs(again.train.count - 50) <= 5
    assert abs(again.validation.count - 30) <= 5
    assert not where(again.train) & where(again.validation)
    divided = open_search_images(DATA)
    assert (divided.test_is, divided.holdout) == ("the data's test split", 0.0)
    with pytest.raises(ValueError, match="`images` must be at most the 161 to train on. Received: images=500"):
        open_search_images(str(tmp_path / "photos"), images=500)
    with pytest.raises(ValueError, match="or fewer images than the 178 of"):
        open_search_images(str(tmp_path / "photos"), validation_images=178)


def test_data_with_one_class_is_refused(tmp_path):
    write_folder(tmp_path / "photos", 20, size=32)
    classes = sorted((tmp_path / "photos").iterdir())
    (tmp_path / "one").mkdir()
    classes[0].rename(tmp_path / "one" / classes[0].name)
    with pytest.raises(ValueError, match="class"):
        open_search_images(str(tmp_path / "one"))


def test_fields_are_frozen():
    assert dataclasses.is_dataclass(evaluator())
    assert hash(evaluator()) == hash(evaluator())
