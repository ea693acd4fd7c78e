"""A detector's runs: real learning, exact resume, validation, fine-tuning of a detector, refusals, the command."""

import csv
import dataclasses
import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from models import distinct

from keras_mnasnet import load
from keras_mnasnet.cli.main import main
from keras_mnasnet.detection import SSDLite, describe, spec_of
from keras_mnasnet.detection import resume as resume_detector
from keras_mnasnet.detection.data import evaluation_batches
from keras_mnasnet.detection.evaluation import coco_score, results_on
from keras_mnasnet.detection.inference import KerasDetector
from keras_mnasnet.detection.losses import FocalLoss, MinedLoss, loss_of
from keras_mnasnet.detection.recipe import DETECTION_RECIPES, BoxAugment, DetectionRecipe
from keras_mnasnet.detection.training import DetectionJob, DetectorRun, Trainee
from keras_mnasnet.detection.training import train as train_detector
from keras_mnasnet.training import engine, learning_rate, parse_recipe, recipe_from_json, recipe_to_json, resume, train
from keras_mnasnet.training.engine import write_state

FAST = DETECTION_RECIPES["finetune-detector"].changed(
    epochs=3, batch_size=2, base_batch=2, size=96, ema=0.9, warmup_epochs=1, extras=(32,)
)  # three levels: a graph of six takes twice as long to trace
BACKBONE = (
    "tiny: stem8 r1_k3_s11_e1_i8_o8_noskip r1_k3_s22_e3_i8_o16 r1_k3_s22_e3_i16_o16 r1_k3_s22_e3_i16_o24 r1_k3_s22_e3_i24_o32 "
    "head64"
)
NETWORK = {"network": BACKBONE}
COLORS = {"red": (255, 40, 40), "green": (40, 255, 40)}
TIMES = ("images_per_second", "seconds")


def draw(folder, count=6, seed=0, size=128):
    """Photos of one red and one green rectangle on noise, with COCO annotations whose category ids are 4 and 9."""
    rng = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    images, rows = [], []
    for number in range(count):
        pixels = rng.integers(0, 90, (size, size, 3)).astype(np.uint8)
        for category, (slot, color) in zip((4, 9), enumerate(COLORS.values()), strict=True):
            height, width = rng.integers(size // 5, size // 2 - 4, 2)
            top, left = rng.integers(0, size - height), slot * size // 2 + rng.integers(0, size // 2 - width)
            pixels[top : top + height, left : left + width] = color
            rows.append({"id": len(rows) + 1, "image_id": number, "category_id": category, "iscrowd": 0,
                         "area": int(height * width), "bbox": [int(left), int(top), int(width), int(height)]})  # fmt: skip
        (folder / f"{number}.png").write_bytes(tf.io.encode_png(pixels).numpy())
        images.append({"id": number, "file_name": f"{number}.png", "height": size, "width": size})
    categories = [{"id": number, "name": name} for number, name in zip((4, 9), COLORS, strict=True)]
    path = folder / "boxes.json"
    path.write_text(json.dumps({"images": images, "annotations": rows, "categories": categories}), "utf-8")
    return path


def fit(folder, annotations, recipe=FAST, **options):
    options = {**NETWORK, "validation": 0, **options}
    return train_detector(annotations, annotations.parent, folder, recipe=recipe, progress=False, **options).rows


def curve(folder):
    with (folder / "log.csv").open(encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("drawn") / "photos")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, drawn):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    fit(folder, drawn)
    return folder


@pytest.mark.nightly
def test_learning_real_photos(data, tmp_path):
    """Four photos of COCO, A1 at width 0.35 from scratch, 128 px: found again at AP50 0.8 or more after 120 steps."""
    coco = data / "coco_tiny"
    value = json.loads((coco / "annotations" / "instances_train2017.json").read_text("utf-8"))
    chosen = (12448, 173350, 191381, 269105)
    rows = [row for row in value["annotations"] if row["image_id"] in chosen]
    used = {row["category_id"] for row in rows}
    subset = {
        "images": [image for image in value["images"] if image["id"] in chosen],
        "annotations": rows,
        "categories": [category for category in value["categories"] if category["id"] in used],
    }
    (tmp_path / "four.json").write_text(json.dumps(subset), "utf-8")
    recipe = DETECTION_RECIPES["finetune-detector"].changed(
        epochs=1, passes=120, batch_size=4, base_batch=4, size=128, learning_rate=3e-3, warmup_epochs=0.1, bn_momentum=0.8,
        ema=0.9, **{"augment.crop": False, "augment.flip": False},
    )  # fmt: skip
    four = tmp_path / "four.json"
    run = train_detector(
        four, coco / "train2017", tmp_path / "run", recipe=recipe, network="a1", width=0.35, validation=four, progress=False
    )  # fmt: skip
    rows = run.rows
    assert 0 < run.accuracy == run.best_accuracy == rows[-1]["val_ap"]
    assert float(rows[-1]["val_ap50"]) >= 0.8
    assert float(rows[-1]["loss"]) < 2
    origin = load(tmp_path / "run").origin
    assert (origin.measured["AP"], origin.measured_on) == (round(100 * run.accuracy, 2), f"{four}, for validation")


def test_a_run_folder(finished, drawn):
    assert sorted(path.name for path in finished.iterdir()) == [
        "checkpoint.safetensors", "labels.txt", "log.csv", "model.safetensors", "run.json",
    ]  # fmt: skip
    rows = curve(finished)
    assert [row["step"] for row in rows] == ["3", "6", "9"]
    for row in rows:
        assert float(row["loss"]) == pytest.approx(float(row["score_loss"]) + float(row["box_loss"]), rel=1e-5)
        assert row["val_loss"] == row["val_ap"] == ""
    run = json.loads((finished / "run.json").read_text("utf-8"))
    assert (run["schema"], run["kind"]) == (1, "detection")
    assert (run["facts"]["train_images"], run["facts"]["train_boxes"]) == (6, 12)
    assert (finished / "labels.txt").read_text("utf-8").split() == ["red", "green"]
    spec = spec_of(load(finished).model())
    assert (spec.labels, spec.category_ids, spec.input_size) == (("red", "green"), (4, 9), (96, 96))


def test_a_resumed_run_ends_like_a_whole_one(tmp_path, drawn, finished, monkeypatch):
    written = []

    def write(path, arrays, position):
        write_state(path, arrays, position)
        written.append(position)
        if len(written) == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine, "write_state", write)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "cut", drawn)
    resume_detector(tmp_path / "cut", progress=False)
    assert curve(tmp_path / "cut") == curve(finished)
    ours, theirs = (load(folder).model().get_weights() for folder in (tmp_path / "cut", finished))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.nightly
def test_an_epoch_whose_validation_fails_is_not_lost(tmp_path, drawn, monkeypatch):
    options = {"validation": str(drawn), "measure_ap": False}
    recipe = FAST.changed(epochs=2)
    fit(tmp_path / "whole", drawn, recipe, **options)
    own, own_fit, measured, fitted = DetectorRun.measure, engine.Run._fit, [], []

    def measure(run, model):
        measured.append(model)
        if len(measured) == 2:
            raise MemoryError("validation")
        return own(run, model)

    def counted(*arguments):
        fitted.append(arguments)
        return own_fit(*arguments)

    monkeypatch.setattr(DetectorRun, "measure", measure)
    monkeypatch.setattr(engine.Run, "_fit", counted)
    with pytest.raises(MemoryError):
        fit(tmp_path / "cut", drawn, recipe, **options)
    resume_detector(tmp_path / "cut", progress=False)
    assert (len(measured), len(fitted)) == (3, 2)
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")


def test_a_tenth_of_the_photos_is_held_out(tmp_path, drawn, capfd, monkeypatch):
    """By default, at random but the same in every run; what is kept says which, and a resumed run has the same."""
    monkeypatch.setattr(DetectorRun, "_train", lambda run, model: [])
    recipe, folder = FAST.changed(epochs=1), tmp_path / "run"
    options = {"recipe": recipe, "measure_ap": False, **NETWORK}
    train_detector(drawn, drawn.parent, folder, **options)
    shown = capfd.readouterr().err
    assert "train 5, validation 1" in shown
    assert f"1 photos: 10% of {drawn}, photos in {drawn.parent}" in shown
    facts = json.loads((folder / "run.json").read_text("utf-8"))["facts"]
    assert (facts["train_images"], facts["validation_images"], facts["data"]["boxes"]) == (5, 1, 12)
    assert describe(drawn, drawn.parent, recipe=recipe).as_json() == facts["data"], "held out there, too"
    resume_detector(folder, progress=False)
    one = {"classes": "red", "devices": "CPU:0"}  # a text is one name
    run = train_detector(drawn, drawn.parent, tmp_path / "half", **options, **one, validation=0.5, progress=False)
    facts = json.loads((tmp_path / "half" / "run.json").read_text("utf-8"))["facts"]
    assert (facts["train_images"], facts["validation_images"], run.labels) == (3, 3, ("red",))


def test_one_pass_of_a_validation_is_what_two_give(drawn):
    """The loss of Keras's own evaluation and the AP of `results_on`, with a last batch that is not full."""
    job = DetectionJob(
        data=str(drawn), photos=str(drawn.parent), validation=str(drawn), recipe=FAST.changed(batch_size=4), **NETWORK
    )
    run = DetectorRun(None, job, None)
    run.open_data()
    model = run.make_model()
    distinct(run.detector, np.concatenate([pixels for pixels, _ in evaluation_batches(run.data, size=(96, 96), batch_size=6)]))
    model.compile(keras.optimizers.SGD(0.0))
    found = run.measure(model)
    lost = model.evaluate(evaluation_batches(run.data, size=(96, 96), batch_size=4), verbose=0, return_dict=True)
    for key, value in lost.items():
        assert found[f"val_{key}"] == pytest.approx(value, rel=1e-5)
    rows, _ = results_on(
        KerasDetector(run.detector, batch_size=4), run.data, run.data.truth, run.data.category_ids, size=(96, 96), batch_size=4
    )
    metrics = coco_score(run.data.truth, rows).metrics
    assert (found["val_ap"], found["val_ap50"]) == (metrics["AP"], metrics["AP50"])
    assert metrics["AP50"] > 0


def test_frozen_weights_stay_to_the_bit(tmp_path, drawn, finished, monkeypatch):
    """Two parts train all but the backbone, two more the backbone without its batch norms; resumed in the middle of both."""
    recipe = FAST.changed(epochs=2, frozen_epochs=1, frozen_learning_rate=1e-2, frozen_bn=True, warmup_epochs=0)
    whole, states = tmp_path / "whole", []

    def write(path, arrays, position):
        write_state(path, arrays, position)
        states.append((position.part, arrays))
        if path.parent == whole and position.part in (1, 3):
            shutil.copytree(whole, tmp_path / f"cut{position.part}")
        if path.parent == tmp_path / "cut1":
            raise KeyboardInterrupt

    monkeypatch.setattr(engine, "write_state", write)
    fit(whole, drawn, recipe, network=None, from_model=str(finished), checkpoint_steps=2)
    with pytest.raises(KeyboardInterrupt):
        resume_detector(tmp_path / "cut1", progress=False)
    resume_detector(tmp_path / "cut3", progress=False)
    assert [part for part, _ in states] == [1, 2, 3, 4, 2, 4]
    assert curve(tmp_path / "cut3") == curve(whole)
    for ours, theirs in ((4, 1), (5, 3)):
        for name, value in states[theirs][1].items():
            np.testing.assert_array_equal(states[ours][1][name], value, name)
    given = load(finished).tensors
    for part, arrays in states[:4]:
        moved = set()
        for kind in ("model", "average"):
            for name, value in arrays.items():
                path = name.split(":")[-1]
                if name.startswith(kind) and path in given and not np.array_equal(value, given[path]):
                    moved.add(path)
        backbone = {path for path in moved if not path.startswith(("level", "extra"))}
        assert {"level1_scores/kernel", "extra1_project_bn/moving_mean", "extra1_project_bn/gamma"} <= moved
        assert not any("_bn/" in path for path in backbone)
        assert bool(backbone) == (part > 2)


def test_other_classes_on_resume(tmp_path, drawn, finished):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    run = json.loads((folder / "run.json").read_text("utf-8"))
    changed = json.loads(drawn.read_text("utf-8"))
    changed["categories"].append({"id": 11, "name": "blue"})
    (tmp_path / "more.json").write_text(json.dumps(changed), "utf-8")
    run["job"]["data"] = str(tmp_path / "more.json")
    (folder / "run.json").write_text(json.dumps(run), "utf-8")
    with pytest.raises(ValueError, match="resumed with the data and network.*Received: labels=.*blue"):
        resume_detector(folder, progress=False)


def moved_box(truth):
    truth["annotations"][3]["bbox"][0] += 1


def other_class(truth):
    truth["annotations"][0]["category_id"] = 9


def other_order(truth):
    truth["images"].reverse()


def other_photo(truth):
    truth["images"][2]["file_name"] = "sub/2.png"


@pytest.mark.parametrize("change", [None, moved_box, other_class, other_order, other_photo])
def test_other_photos_on_resume(change, tmp_path, drawn, finished):
    """As many photos and boxes as before, but others; the folder may have moved."""
    photos = shutil.copytree(drawn.parent, tmp_path / "moved")
    (photos / "sub").mkdir()
    shutil.copy(photos / "2.png", photos / "sub")
    truth = json.loads(drawn.read_text("utf-8"))
    if change:
        change(truth)
    (photos / "boxes.json").write_text(json.dumps(truth), "utf-8")
    folder = shutil.copytree(finished, tmp_path / "run")
    run = json.loads((folder / "run.json").read_text("utf-8"))
    run["job"] |= {"data": str(photos / "boxes.json"), "photos": str(photos)}
    (folder / "run.json").write_text(json.dumps(run), "utf-8")
    if change is None:
        resume_detector(folder, progress=False)
        return
    with pytest.raises(ValueError, match="started with. Received: as many photos as .*, but other ones, .*Restore the data"):
        resume_detector(folder, progress=False)


def with_blue(drawn, path, *, boxes):
    """The annotations with another category, and with a box of it or none."""
    truth = json.loads(drawn.read_text("utf-8"))
    truth["categories"].append({"id": 11, "name": "blue"})
    if boxes:
        truth["annotations"][0]["category_id"] = 11
    path.write_text(json.dumps(truth), "utf-8")
    return path


def test_a_class_that_only_the_validation_has(tmp_path, drawn, caplog):
    """Is an error that names it, unless the classes to learn are named; one that nothing is annotated with does no harm."""
    more, idle = (with_blue(drawn, tmp_path / f"{boxes}.json", boxes=boxes) for boxes in (True, False))
    with pytest.raises(ValueError, match=r"must have the same classes. Received: only in validation: blue, of .*--labels"):
        describe(drawn, drawn.parent, validation=more)
    with pytest.raises(ValueError, match=r"must have the same classes. Received: only in training: blue, of .*boxes.json"):
        describe(more, drawn.parent, validation=drawn)
    assert describe(drawn, drawn.parent, validation=more, classes=("red", "green")).classes == ("red", "green")
    assert describe(drawn, drawn.parent, validation=idle).classes == ("red", "green")
    assert not caplog.messages
    assert describe(idle, drawn.parent, validation=more).classes == ("red", "green", "blue")
    assert caplog.messages == ["only validation photos have boxes of blue: without boxes to train on a class is not learned"]


def test_runs_of_the_other_kind(tmp_path, finished):
    with pytest.raises(ValueError, match="`mnasnet train` goes on with runs of classification, received one of detection"):
        resume(finished, progress=False)
    tiny = parse_recipe("proxy-5-epochs epochs=1 batch_size=16")
    train("shapes:32@32", tmp_path / "c", recipe=tiny, network=BACKBONE, progress=False)
    with pytest.raises(ValueError, match="`mnasnet detect train` goes on with runs of detection"):
        resume_detector(tmp_path / "c", progress=False)


def test_validation_with_the_mined_loss(tmp_path, drawn):
    recipe = FAST.changed(epochs=1, loss="mined", score_bias=0.0)
    (row,) = fit(tmp_path / "run", drawn, recipe, validation=str(drawn), measure_ap=False)
    assert "val_ap" not in row
    found = {key: float(row[key]) for key in ("val_loss", "val_score_loss", "val_box_loss")}
    assert found["val_loss"] == pytest.approx(found["val_score_loss"] + found["val_box_loss"], rel=1e-5)
    assert found["val_score_loss"] > 4 * np.log(2)  # a positive and at least three negatives for each, of three slots


@pytest.mark.nightly
def test_early_stopping_keeps_the_best_epoch(tmp_path, drawn, monkeypatch):
    """Losses of 3, 2, 2.5, 2.6: the second epoch is the best, and with a patience of two the fourth is the last."""
    measured, saved = iter((3.0, 2.0, 2.5, 2.6, 2.7)), []
    monkeypatch.setattr(DetectorRun, "measure", lambda self, model: {"val_loss": next(measured)})
    monkeypatch.setattr(DetectorRun, "save", lambda self, model, path: saved.append(int(model.optimizer.iterations)))
    recipe = FAST.changed(epochs=5, patience=2, ema=0.0)
    rows = fit(tmp_path / "run", drawn, recipe, validation=str(drawn), measure_ap=False)
    assert [float(row["val_loss"]) for row in rows] == [3.0, 2.0, 2.5, 2.6]
    assert saved == [3, 6]


def test_fine_tuning_a_detector(tmp_path, drawn, finished):
    """Other classes: all but the score predictors is kept. The same classes: everything is."""
    model = str(finished / "model.safetensors")
    still = FAST.changed(epochs=1, learning_rate=0.0, ema=0.0)
    options = {"network": None, "from_model": model}
    fit(tmp_path / "one", drawn, still, **options, classes=("green",))
    before, after = load(finished).model(), load(tmp_path / "one").model()
    assert spec_of(after).labels == ("green",)
    for name, kept in (("stem_conv", True), ("extra1_project_conv", True), ("level1_boxes", True), ("level1_scores", False)):
        ours, theirs = after.get_layer(name).get_weights()[0], before.get_layer(name).get_weights()[0]
        assert (ours.shape == theirs.shape and np.array_equal(ours, theirs)) == kept
    fit(tmp_path / "turned", drawn, still, **options, classes=spec_of(before).labels[::-1])
    turned = load(tmp_path / "turned").model().get_layer("level1_scores").get_weights()[0]
    assert not np.array_equal(turned, before.get_layer("level1_scores").get_weights()[0]), "the same classes in another order"
    fit(tmp_path / "two", drawn, still, **options)
    for a, b in zip(load(tmp_path / "two").model().trainable_variables, before.trainable_variables, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    with pytest.raises(ValueError, match="must hold MnasNet 'a1'.*says its network itself"):
        fit(tmp_path / "three", drawn, still, **{**options, "network": "a1"})


def test_the_trainees_loss_is_the_recipes():
    """A batch without boxes, first scores at -4.6: the focal loss of 204 anchors and 3 slots, all background, over 1."""
    detector = SSDLite("small", 2, width_multiplier=0.35, input_size=96)
    for level in range(6):
        for kind in ("boxes", "scores"):
            layer = detector.get_layer(f"level{level}_{kind}")
            layer.set_weights([np.zeros_like(layer.get_weights()[0]), layer.get_weights()[1]])
    model = Trainee.of(detector, FAST)
    model.compile(keras.optimizers.SGD(0.0))
    truth = {"boxes": np.full((2, 3, 4), -1, np.float32), "labels": np.full((2, 3), -1, np.int32)}
    found = model.evaluate(np.zeros((2, 96, 96, 3), np.float32), truth, verbose=0, return_dict=True)
    p = 1 / (1 + np.exp(4.6))
    expected = 2 * 204 * 3 * 0.25 * p**2 * -np.log(1 - p)
    assert found["loss"] == pytest.approx(expected, rel=1e-4)
    assert found["score_loss"] == pytest.approx(expected, rel=1e-4)
    assert found["box_loss"] == 0


@pytest.mark.nightly
def test_two_replicas_of_one_machine(tmp_path):
    """MirroredStrategy over two logical CPUs, stopped and resumed, ends as one device does where both halves are alike."""
    pytest.importorskip("pycocotools")
    folder = tmp_path / "photos"
    path = draw(folder, count=4, size=96)
    value = json.loads(path.read_text("utf-8"))
    first = {row["category_id"]: row["bbox"] for row in value["annotations"] if row["image_id"] == 0}
    for number in range(1, 4):
        shutil.copy(folder / "0.png", folder / f"{number}.png")
    for row in value["annotations"]:
        row["bbox"] = first[row["category_id"]]
    path.write_text(json.dumps(value), "utf-8")
    code = (
        "import json, sys, tensorflow as tf\n"
        "cpu = tf.config.list_physical_devices('CPU')[0]\n"
        "tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)\n"
        "from keras_mnasnet.detection import resume, train\n"
        "from keras_mnasnet.training import engine\n"
        "out, photos, recipe, network = sys.argv[1:]\n"
        "def go(name, devices):\n"
        "    options = {'recipe': recipe, 'network': network, 'devices': devices, 'validation': 0.5, 'progress': False}\n"
        "    return train(f'{photos}/boxes.json', photos, f'{out}/{name}', **options)\n"
        "rows = [go('one', 'CPU:0').rows]\n"
        "own = engine.write_state\n"
        "def stop(*arguments):\n"
        "    own(*arguments)\n"
        "    raise KeyboardInterrupt\n"
        "engine.write_state = stop\n"
        "try:\n"
        "    go('two', ['CPU:0', 'CPU:1'])\n"
        "except KeyboardInterrupt:\n"
        "    engine.write_state = own\n"
        "rows.append(resume(f'{out}/two', devices=['CPU:0', 'CPU:1'], progress=False).rows)\n"
        "print(json.dumps(rows))\n"
    )
    recipe = FAST.changed(epochs=2, **{"augment.crop": False, "augment.flip": False})
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(folder), str(recipe), BACKBONE],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = json.loads(done.stdout.splitlines()[-1])
    assert len(one) == 2
    for ours, theirs in zip(two, one, strict=True):
        assert "val_ap" in ours
        own, other = ({key: value for key, value in row.items() if key not in TIMES} for row in (ours, theirs))
        assert own == pytest.approx(other, rel=1e-3)


def test_recipes_are_what_the_configs_say():
    """400,000 steps of 512 and 2,000 of warm-up from 0.13333 to 0.4; 200,000 of 24."""
    v3, mobiledet, v2 = (DETECTION_RECIPES[f"ssdlite-{name}"] for name in ("mobilenet-v3", "mobiledet", "mobilenet-v2"))
    steps = 118_287 // 512
    assert v3.epochs * 118_287 / 512 == pytest.approx(400_000, rel=1e-3)
    assert v2.epochs * 118_287 / 24 == pytest.approx(200_000, rel=2e-2)
    assert float(learning_rate(v3, 0, steps)) == pytest.approx(0.13333)
    assert float(learning_rate(v3, 2000, steps)) == pytest.approx(0.4, rel=1e-3)
    assert (mobiledet.peak_learning_rate, v3.nesterov, v3.weight_decay, v3.bn_momentum) == (0.8, False, 4e-5, 0.97)
    assert isinstance(loss_of(v3), FocalLoss)
    assert loss_of(v2) == MinedLoss(3.0, 3, 0.99)
    assert (v2.optimizer, v2.epsilon, v2.size, v3.size) == ("rmsprop-tf1", 1.0, 300, 320)
    assert (v2.ema, v3.ema, mobiledet.ema) == (0.9999, 0, 0)


@pytest.mark.parametrize("name", DETECTION_RECIPES)
def test_recipes_have_text_and_json(name):
    recipe = DETECTION_RECIPES[name].changed(epochs=7, **{"augment.flip": False})
    assert parse_recipe(str(recipe), DetectionRecipe) == recipe
    assert recipe_from_json(json.loads(json.dumps(recipe_to_json(recipe))), DetectionRecipe) == recipe
    assert recipe.augment == dataclasses.replace(BoxAugment(), flip=False)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"loss": "l1"}, "`loss` must be one of"),
        ({"min_negatives": 5}, "must have an effect. Received: min_negatives"),
        ({"dropout": 0.3}, "must have an effect. Received: dropout"),
        ({"frozen_epochs": 1, "frozen_learning_rate": 0.1}, "freezes weights needs trained ones.*Received: .*frozen_epochs=1"),
        ({"frozen_bn": True}, "freezes weights needs trained ones.*Received: .*frozen_bn=True and from_model=None"),
        ({"augment.crop": 2}, "must be true or false"),
        ({"augment.aspect": (True, True)}, "must be two numbers"),
        ({"augment.area": [0.5, 0.1]}, "must be two numbers"),
        ({"augment.pad": 2}, "unknown key 'augment.pad'"),
        ({"nms_iou": 0.2, "loss": "mined"}, "`nms_iou` must be between 0.5 and 1"),
        ({"size": 64}, "from 96 to 4096"),
    ],
)
def test_bad_recipes(changed, message, drawn, tmp_path):
    with pytest.raises(ValueError, match=message):
        fit(tmp_path / "run", drawn, FAST.changed(**changed))


def test_bad_jobs(drawn, tmp_path):
    with pytest.raises(ValueError, match="Early stopping needs photos to validate on"):
        fit(tmp_path / "run", drawn, FAST.changed(patience=2))
    with pytest.raises(ValueError, match="An epoch needs at least one batch. Received: 6 photos"):
        fit(tmp_path / "run", drawn, FAST.changed(batch_size=64))
    with pytest.raises(ValueError, match="must be a share above 0 and below 1, or fewer images than the 6 .* validation=6"):
        fit(tmp_path / "run", drawn, validation=6, measure_ap=False)
    with pytest.raises(ValueError, match="must be data, a share below 1, a number of .*Received: validation=True"):
        fit(tmp_path / "run", drawn, validation=True)
    with pytest.raises(ValueError, match="needs photos with objects to validate on. Received: 1 photos .*validation=0"):
        fit(tmp_path / "run", draw(tmp_path / "one", count=1), validation=None, measure_ap=False)
    assert not (tmp_path / "run").exists()


def command(capfd, *arguments):
    return main(["detect", "train", *map(str, arguments)]), *capfd.readouterr()


def test_the_command(capfd, tmp_path, drawn):
    (tmp_path / "classes.txt").write_text("green\n", "utf-8")
    settings = ("--network", BACKBONE, "--size", 96, "--epochs", 1, "--batch-size", 2, "--validation", 0)
    changes = ("--set", "augment.crop=false", "--set", "extras=[32]")
    options = ("-o", tmp_path / "run", "--labels", tmp_path / "classes.txt", *changes, "--json")
    status, out, err = command(capfd, drawn, drawn.parent, *settings, *options)
    assert status == 0, err
    report = json.loads(out)
    assert report["epochs"][0]["step"] == 3
    assert spec_of(load(report["model"]).model()).labels == ("green",)
    run = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    assert run["job"]["recipe"]["augment"]["crop"] is False
    status, out, err = command(capfd, "--resume", tmp_path / "run")
    assert (status, "loss" in out) == (0, True), err
    status, _, err = command(capfd, "--resume", tmp_path / "run", "--network", "a1", "--no-ap")
    assert status == 1
    assert "keeps the settings of its start" in err
    assert "--network, --no-ap" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "needs ANNOTATIONS, PHOTOS and -o RUN, or --resume RUN"),
        (("a.json", "photos", "-o", "RUN"), "--from imagenet, or another trained model, fine-tunes it; --network a1 begins"),
        (("a.json", "photos", "--network", "a1"), "ive a folder to write to, -o RUN"),
        (("none.json", ".", "--network", "a1", "-o", "RUN"), "error: Annotations must exist"),
        (("none.json", ".", "--network", "a1", "-o", "RUN", "--recipe", "finetune"), "A recipe is one of finetune-detector"),
    ],
)
def test_wrong_commands(capfd, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = command(capfd, *arguments)
    assert (status, out) == (1 if "RUN" in arguments else 2, "")
    assert message in err
    assert "Traceback" not in err
