"""Every kind of source through every command and Python door: the record's own result, or one line that says what takes it.

The commands come from the parser and the doors from the public names, so a new one fails here until it is in the table.
"""

import contextlib
import inspect
import io
import json
import re
import shutil
import sqlite3
from pathlib import Path

import keras
import numpy as np
import pytest
from corpus import HAS_ONNX
from fixtures import FIXTURES
from graphs import logits, write_pb, write_tfjs
from writers import write_boxes, write_torch

import keras_mnasnet
from keras_mnasnet import benchmarks, detection, export, load, save, search, training
from keras_mnasnet.cli import main as command_line
from keras_mnasnet.detection import SSDLite
from keras_mnasnet.export import TfliteFile
from keras_mnasnet.export.verify import drawn_images

RECORD = "cifar10/a1-0.5-32"
DEMO = Path(keras_mnasnet.__file__).parents[1] / "weights" / "demo"
TAKES = ("model", "models", "from_model", "source", "weights")  # how commands and doors call an existing model


class Seen(Exception):
    """Ends a long command where it has its model."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The sources, photos with and without boxes, and what the record itself gives."""
    folder = tmp_path_factory.mktemp("table")
    for name in ("ship", "airplane"):
        (folder / "photos" / name).mkdir(parents=True)
        shutil.copy(DEMO / f"{name}.png", folder / "photos" / name / "0.png")
    write_boxes(folder)
    with contextlib.closing(sqlite3.connect(folder / "x.study")) as connection:
        connection.execute("CREATE TABLE trials (number)")
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("hello")
    (folder / "lfs.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 8400000\n")
    (folder / "page.safetensors").write_text("<!DOCTYPE html><html></html>")
    (folder / "empty.keras").touch()
    save(RECORD, folder / "m.safetensors")
    save(RECORD, folder / "m.keras")
    save(RECORD, folder / "m.weights.h5")
    (folder / "run").mkdir()
    shutil.copy(folder / "m.safetensors", folder / "run" / "model.safetensors")
    detector = SSDLite("a1", ["box"], "cifar10", input_size=96)
    save(detector, folder / "d.safetensors")
    save(detector, folder / "d.keras")
    (folder / "detector_run").mkdir()
    shutil.copy(folder / "d.safetensors", folder / "detector_run" / "model.safetensors")
    export.export(RECORD, folder / "m.tflite", progress=False)
    (folder / "graphs").mkdir()
    write_pb(folder / "graphs" / "m.pb", load(RECORD), normalized=True)
    write_tfjs(folder / "graphs" / "model.json", load(RECORD), normalized=True)
    (folder / "graphs" / "labels.txt").write_text("\n".join(load(RECORD).labels))
    if HAS_ONNX:
        export.export(RECORD, folder / "m.onnx", progress=False)
    named = {fixture.name: fixture for fixture in FIXTURES}
    for name in ("timm-semnasnet_050-96", "google-a1-d0.35-96"):
        (folder / name).mkdir()
        named[name].write(folder / name)
    averaged = {f"module.{name}": value for name, value in named["torchvision-mnasnet0_5-v1stem-96"].tensors().items()}
    run = {"model": {}, "model_ema": averaged, "optimizer": {"state": {0: {"exp_avg": np.ones(3)}}}, "epoch": 3}
    write_torch(folder / "best.pth.tar", run)
    return folder


SAME = {  # kind of source -> the text of it, in the folder of `place`; each of them is the record
    "a record's id": RECORD,
    "a dataset's name": "cifar10",
    "a run's folder": "{}/run",
    "a run's model": "{}/run/model.safetensors",
    "a .safetensors file": "{}/m.safetensors",
    "a .keras file": "{}/m.keras",
    "a .weights.h5 file": "{}/m.weights.h5",
}
DETECTORS = {
    "a detector's run": "{}/detector_run",
    "a detector's .safetensors file": "{}/d.safetensors",
    "a detector's .keras file": "{}/d.keras",
}
FOREIGN = {
    "a file of timm": "{}/timm-semnasnet_050-96/model.safetensors",
    "a training run of torchvision": "{}/best.pth.tar",
    "a checkpoint of Google": "{}/google-a1-d0.35-96/model.ckpt-7",
}
GRAPHS = {
    "a .tflite file": "{}/m.tflite",
    **({"a .onnx file": "{}/m.onnx"} if HAS_ONNX else {}),
    "a model.json of TensorFlow.js": "{}/graphs/model.json",
    "a frozen .pb file": "{}/graphs/m.pb",
}
OTHERS = {
    "a network's name": "a1",
    "a mistyped name": "cifar1",
    "a missing file": "{}/nothing.safetensors",
    "a folder without a model": "{}/empty",
    "a study": "{}/x.study",
    "a photo": f"{DEMO}/ship.png",
    "a text file": "{}/notes.txt",
    "a Git LFS pointer": "{}/lfs.pth",
    "an HTML page": "{}/page.safetensors",
    "an empty file": "{}/empty.keras",
}


def leaves(parser, path=()):
    """(words of the command, its parser) of every command that runs."""
    for name, command in parser.commands.items():
        yield from leaves(command, (*path, name)) if command.commands else [((*path, name), command)]


COMMANDS = {
    " ".join(path): command
    for path, command in leaves(command_line.parser())
    if any(action.dest in TAKES for action in command._actions)
}


DETECTOR = ("--epochs", "1", "--batch-size", "1", "--size", "96")


def rest(command: str, folder: Path, out: Path) -> list[str]:
    """What a command needs besides its model."""
    photos, data, boxes = str(DEMO / "ship.png"), str(folder / "photos"), [str(folder / "boxes.json"), str(folder / "boxes")]
    found: list[str] = {
        "info": ["--json"],
        "predict": [photos, "--top", "10", "--json"],
        "train": [data, "-o", f"{out}/run", "--epochs", "1", "--batch-size", "1", "--validation", data],
        "export": ["-o", f"{out}/x.tflite", "--json"],
        "qat": ["--data", data, "-o", f"{out}/x.tflite", "--epochs", "1"],
        "bench accuracy": ["--data", data, "--json"],
        "bench latency": ["--runs", "2", "--json"],
        "detect train": [*boxes, "-o", f"{out}/detector", "--validation", "0", *DETECTOR],
        "detect eval": ["--annotations", boxes[0], "--photos", boxes[1], "--json"],
        "detect predict": [f"{boxes[1]}/1.png", "--json"],
        "detect export": ["-o", f"{out}/x.tflite", "--json"],
        "detect qat": ["--annotations", boxes[0], "--photos", boxes[1], "-o", f"{out}/x.tflite", "--batch-size", "1"],
        "weights convert": ["-o", f"{out}/x.safetensors", "--json"],
        "push": ["me/tiny", "--json"],
    }[command]
    return found


def run(command: str, source: str, folder: Path, out: Path) -> tuple[int, str, str]:
    """(status, standard output, standard error) of a command with one model."""
    option = next(action for action in COMMANDS[command]._actions if action.dest in TAKES).option_strings[:1]
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        status = command_line.main([*command.split(), *option, source, *rest(command, folder, out)])
    return status, stdout.getvalue(), stderr.getvalue()


@pytest.fixture
def stopped(monkeypatch):
    """Training, QAT and pushing end where they have their model; what they were given is kept."""
    seen: dict[str, object] = {}

    def at(target, take):
        def stop(*args, **options):
            seen["given"] = take(*args, **options)
            raise Seen

        monkeypatch.setattr(target, stop)

    at("keras_mnasnet.training.engine.Run._train", lambda self, model: model)
    for room in ("export", "detection"):
        at(f"keras_mnasnet.{room}.qat.work", lambda worker, job, *rest: load(json.loads(job.read_text())["checkpoint"]))
    at("keras_mnasnet.hub._upload", lambda folder, *args: load(folder))
    return seen


def same_function(received, expected) -> None:
    """Same labels, same preprocessing, same logits to 1e-5."""
    assert received.labels == expected.labels
    assert received.preprocessing == expected.preprocessing
    assert received.architecture.same_network(expected.architecture)
    assert received.numerics == expected.numerics
    for name, value in expected.tensors.items():
        np.testing.assert_allclose(received.tensors[name], value, atol=1e-6)


def check(command: str, source: str, status: int, stdout: str, out: Path, given, reference) -> None:
    """That the result of a command is the record's."""
    expected = load(RECORD)
    if command in ("train", "detect train"):
        body = [name for name in expected.tensors if not name.startswith("predictions")]
        found = {layer.name: iter(layer.get_weights()) for layer in given.layers}
        for name in body:
            np.testing.assert_array_equal(next(found[name.partition("/")[0]]), expected.tensors[name])
    elif command in ("qat", "push"):
        same_function(given, expected)
    elif command == "weights convert":
        assert status == 0
        same_function(load(out / "x.safetensors"), expected)
    elif command == "export":
        assert status == 0
        received, file = TfliteFile(out / "x.tflite"), TfliteFile(reference / "m.tflite")
        assert received.labels == expected.labels
        assert received.preprocessing == expected.preprocessing
        assert received.facts.constant_bytes == file.facts.constant_bytes
    else:
        assert status == 0
        ours, theirs = (strip(json.loads(text)) for text in (stdout, (reference / f"{command}.json").read_text()))
        assert ours.keys() == theirs.keys() if isinstance(ours, dict) else len(ours) == len(theirs)
        compare(ours, theirs)


VARYING = re.compile(
    r"(seconds|images_per_second|.*_ms|date|model|origin|file|path|device|environment|settings|runs|cpu|wall|memory_mb|ratio|"
    r"load_average|name|source|record|address|size_bytes|kind|published.*|measured.*|top.*_published|bundled|license|figures)"
)


def strip(value):
    """A result without what differs from run to run, or says which source it is."""
    if isinstance(value, dict):
        return {key: strip(item) for key, item in value.items() if not VARYING.fullmatch(key) or key == "predictions"}
    return [strip(item) for item in value] if isinstance(value, list) else value


def compare(ours, theirs) -> None:
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            compare(ours[key], theirs[key])
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            compare(one, other)
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, abs=1e-5)
    else:
        assert ours == theirs


@pytest.fixture(scope="module")
def reference(place):
    """The JSON that the record itself gives, command by command."""
    for command in ("info", "predict", "bench accuracy", "bench latency"):
        status, stdout, stderr = run(command, RECORD, place, place)
        assert status == 0, stderr
        (place / f"{command}.json").write_text(stdout)
    return place


CLASSIFY = [command for command in COMMANDS if command not in ("detect eval", "detect predict", "detect export", "detect qat")]


@pytest.mark.parametrize("kind", SAME)
@pytest.mark.parametrize("command", CLASSIFY)
def test_a_source_gives_what_the_record_gives(command, kind, place, reference, stopped, tmp_path):
    source = SAME[kind].format(place)
    status, stdout = 1, ""
    try:
        status, stdout, stderr = run(command, source, place, tmp_path)
        assert status == 0, stderr
    except Seen:
        assert command in ("train", "detect train", "qat", "push")
    check(command, source, status, stdout, tmp_path, stopped.get("given"), reference)


DETECT = ["info", "detect eval", "detect predict", "detect export", "detect qat", "weights convert", "detect train"]


HEAVY = ("detect export", "detect qat", "detect eval", "detect train")
OF_DETECTOR = [
    (command, kind) for kind in DETECTORS for command in COMMANDS if kind == "a detector's run" or command not in HEAVY
]


@pytest.mark.parametrize(("command", "kind"), OF_DETECTOR)
def test_a_detector_is_taken_or_told_where_to_go(command, kind, place, stopped, tmp_path):
    source = DETECTORS[kind].format(place)
    try:
        status, stdout, stderr = run(command, source, place, tmp_path)
    except Seen:
        assert command in DETECT
        return
    if command in DETECT:
        assert status == 0, stderr
        assert stdout
    else:
        refused(status, stderr, command)


def refused(status: int, stderr: str, command: str) -> None:
    """One line that begins with `error:` and names a command or an argument; nothing of Python's."""
    assert status in (1, 2), f"{command} took it"
    lines = [line for line in stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, stderr
    assert re.search(r"`?mnasnet \w+|--\w+|hf://|git lfs|cifar10", lines[0]), lines[0]
    assert "Traceback" not in stderr


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("command", ["info", "predict", "export", "weights convert", "train"])
def test_a_file_of_another_framework_is_taken(command, kind, place, stopped, tmp_path):
    try:
        status, stdout, stderr = run(command, FOREIGN[kind].format(place), place, tmp_path)
    except Seen:
        return
    assert status == 0, stderr
    assert stdout


@pytest.mark.parametrize("kind", GRAPHS)
@pytest.mark.parametrize("command", CLASSIFY)
def test_a_file_of_a_graph_gives_what_the_record_gives(command, kind, place, reference, stopped, tmp_path):
    """Its weights are folded, so that its numbers are compared by what the network computes."""
    expected = load(RECORD)
    try:
        status, stdout, stderr = run(command, GRAPHS[kind].format(place), place, tmp_path)
        assert status == 0, stderr
    except Seen:
        assert command in ("train", "detect train", "qat", "push")
        if command in ("qat", "push"):
            assert stopped["given"].labels == expected.labels
        return
    if command == "weights convert":
        found, pixels = load(tmp_path / "x.safetensors"), drawn_images(4, 32, 32, 3)
        assert (found.labels, found.size) == (expected.labels, expected.size)
        assert found.architecture.same_network(expected.architecture)
        wanted = logits(expected, pixels)
        np.testing.assert_allclose(logits(found, pixels), wanted, atol=1e-5 * np.abs(wanted).max())
    elif command == "export":
        assert TfliteFile(tmp_path / "x.tflite").labels == expected.labels
    elif command == "info":
        assert json.loads(stdout)["model"]["labels"] == list(expected.labels)
    elif command == "predict":
        ours, theirs = (json.loads(text) for text in (stdout, (reference / "predict.json").read_text()))
        assert json.dumps(ours).count("ship") == json.dumps(theirs).count("ship")


@pytest.mark.parametrize("kind", GRAPHS)
@pytest.mark.parametrize("command", ["detect eval", "detect predict", "detect export", "detect qat"])
def test_a_file_of_a_graph_is_no_detector(command, kind, place, stopped, tmp_path):
    status, _, stderr = run(command, GRAPHS[kind].format(place), place, tmp_path)
    refused(status, stderr, command)


ACCEPTED = {  # what is no checkpoint, but all that a command needs
    "a network's name": {"info", "bench latency"},
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_no_model_is_taken_or_refused_in_one_line(command, kind, place, stopped, tmp_path):
    status, stdout, stderr = run(command, OTHERS[kind].format(place), place, tmp_path)
    if command in ACCEPTED.get(kind, ()):
        assert status == 0, stderr
        assert stdout
    else:
        refused(status, stderr, command)
        assert not list(tmp_path.rglob("*.tflite"))


NO_DOORS = {  # the `model` of one is a model of latencies, the other changes a Keras model
    "search.with_cost", "training.unfold",
}  # fmt: skip


def doors():
    """{name: function} of every public function of the package that takes a model."""
    rooms = {"": keras_mnasnet, "training.": training, "benchmarks.": benchmarks, "export.": export}
    rooms |= {"detection.": detection, "search.": search}
    for prefix, room in rooms.items():
        for name in room.__all__:
            value = getattr(room, name)
            takes = inspect.isfunction(value) and set(TAKES) & set(inspect.signature(value).parameters)
            if takes and prefix + name not in NO_DOORS:
                yield prefix + name, value


def call(name: str, door, source, folder: Path, out: Path):
    """A door with one model, and as little else as it needs."""
    data, boxes, ship = str(folder / "photos"), (str(folder / "boxes.json"), str(folder / "boxes")), str(DEMO / "ship.png")
    calls = {
        "load": lambda: door(source),
        "save": lambda: door(source, out / "x.safetensors"),
        "checkpoint_of": lambda: door(source),
        "load_weights": lambda: door(load(RECORD).model(), source),
        "predict": lambda: door(source, ship),
        "push_to_hub": lambda: door(source, "me/tiny"),
        "training.train": lambda: door(
            data, out / "run", from_model=source, recipe="finetune batch_size=1", validation=data, progress=False
        ),
        "benchmarks.evaluate": lambda: door(source, data, progress=False),
        "benchmarks.latency": lambda: door(source, runs=2, progress=False),
        "export.export": lambda: door(source, out / "x.tflite", progress=False),
        "export.quantize_aware": lambda: door(source, data, out / "x.tflite", epochs=1, progress=False),
        "export.prune": lambda: door(source, data, out / "x.tflite", epochs=1, sparsity=0.5, progress=False),
        "detection.train": lambda: door(
            *boxes, out / "detector", from_model=source, size=96, batch_size=1, epochs=1, validation=0, progress=False
        ),
        "detection.SSDLite": lambda: door("a1", ["box"], source, input_size=96),
        "detection.predict": lambda: door(source, f"{boxes[1]}/1.png"),
        "detection.evaluate": lambda: door(source, *boxes, progress=False),
        "detection.export": lambda: door(source, out / "x.tflite", progress=False),
        "detection.quantize_aware": lambda: door(source, boxes[0], out / "x.tflite", photos=boxes[1], progress=False),
    }
    builders = {name for name in keras_mnasnet.__all__ if name.startswith("MnasNet")}
    if name in builders:
        first = ("a1",) if name in ("MnasNet", "MnasNetBackbone") else ()
        return door(*first, weights=source)
    return calls[name]()


DOORS = dict(doors())
OF_DETECTORS = {"detection.predict", "detection.evaluate", "detection.export", "detection.quantize_aware", "detection.spec_of"}
OTHER_NETWORKS = {"MnasNetA2", "MnasNetA3", "MnasNetB1", "MnasNetSmall", "MnasNetD1", "MnasNetD1_320"}


TAKING = sorted(set(DOORS) - OF_DETECTORS - OTHER_NETWORKS)
OF_DOOR = [(name, kind) for name in TAKING for kind in ("a Checkpoint", "a Keras model")]
OF_DOOR += [(name, "a path of a run") for name in ("load", "save", "predict", "MnasNetA1")]


@pytest.mark.parametrize(("name", "kind"), OF_DOOR)
def test_a_door_takes_what_load_takes(name, kind, place, stopped, tmp_path):
    source = {
        "a Checkpoint": lambda: load(RECORD),
        "a Keras model": lambda: load(RECORD).model(),
        "a path of a run": lambda: place / "run",
    }[kind]()
    if name == "checkpoint_of":
        source = load(source).model()
    expected = load(RECORD)
    try:
        result = call(name, DOORS[name], source, place, tmp_path)
    except Seen:
        return
    if name in ("load", "checkpoint_of"):
        same_function(result, expected)
    elif name == "predict":
        assert result[0].classes[0][0] == "ship"
    elif isinstance(result, keras.Model) and name.startswith("MnasNet") and name != "MnasNetBackbone":
        same_function(keras_mnasnet.checkpoint_of(result), expected)


@pytest.mark.parametrize("name", sorted(set(DOORS) - {"checkpoint_of", "detection.spec_of"}))
def test_a_door_refuses_what_is_no_model_in_one_line(name, place, tmp_path):
    with pytest.raises((ValueError, OSError)) as caught:
        call(name, DOORS[name], "cifar1", place, tmp_path)
    assert "cifar10" in str(caught.value), "the near name is told"
    assert len(str(caught.value).splitlines()) == 1


def test_the_first_example(place):
    """A saved model remembers how its photos are resized, and the names of its classes."""
    model = keras_mnasnet.MnasNetA1(weights="cifar10")
    save(model, place / "first.safetensors")
    found = load(place / "first.safetensors")
    assert (found.labels, found.preprocessing) == (load("cifar10").labels, load("cifar10").preprocessing)


def test_the_first_example_on_the_test_images(place, data):
    save(keras_mnasnet.MnasNetA1(weights="cifar10"), place / "first.safetensors")
    first, second = benchmarks.evaluate(
        [RECORD, place / "first.safetensors"], data / "cifar10", split="test", limit=2000, progress=False
    )
    assert first.correct1 == second.correct1
    assert first.top1 == pytest.approx(0.8536, abs=0.03)
