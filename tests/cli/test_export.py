"""`mnasnet export` and `mnasnet qat`: arguments, messages, and files that the other commands take."""

import json
import re
import zipfile

import pytest

from keras_mnasnet.cli.main import main


def run(*arguments):
    return main(list(map(str, arguments)))


def test_export_then_bench(capfd, data, tmp_path):
    """The file carries its preprocessing and labels: it scores as the checkpoint does, without an option."""
    path = tmp_path / "a1.tflite"
    assert run("export", "cifar10", "--quantize", "float16", "-o", path) == 0
    printed = capfd.readouterr().out
    assert "one partition, the whole graph" in printed
    assert "verified against the network in NumPy on 4 drawn images" in printed
    assert run("bench", "accuracy", "cifar10", path, "--data", data / "cifar10", "--limit", 300, "--json") == 0
    keras, lite = json.loads(capfd.readouterr().out)["results"]
    assert abs(keras["correct1"] - lite["correct1"]) <= 1
    assert lite["preprocessing"] == keras["preprocessing"]


def test_latency_is_in_the_report(capfd, tmp_path, monkeypatch):
    """Measured on this machine; the devices that cannot be are refused before any work."""
    path = tmp_path / "a1.tflite"
    assert run("export", "cifar10", "-o", path, "--latency", "host", "--json") == 0
    report = json.loads(capfd.readouterr().out)
    (row,) = report["latency"]["results"]
    assert (row["model"], row["size_bytes"], row["cpu"]["median_ms"] > 0) == (str(path), report["facts"]["bytes"], True)
    assert json.loads((tmp_path / "a1.tflite.json").read_text("utf-8")) == report
    monkeypatch.setenv("KERAS_MNASNET_EMULATOR", str(tmp_path / "none"))
    for device, output, message in (
        ("adb", "b.tflite", "`--latency` must be host, emulated, .*--device adb` measures on a phone"),
        ("emulated", "b.tflite", "The emulator must be set up"),
        ("emulated", "b.onnx", "An emulated core runs .tflite files"),
        ("emulated:x1", "b.tflite", "`emulated:` must be followed by a core"),
    ):
        assert run("export", "cifar10", "-o", tmp_path / output, "--latency", device) == 1
        assert re.search(message, capfd.readouterr().err)
        assert not (tmp_path / output).exists()


def test_int8_is_calibrated_on_photos(capfd, data, tmp_path):
    path = tmp_path / "a1.tflite"
    arguments = ("--quantize", "int8", "--calibrate", data / "cifar10", "--calibration-photos", 120, "--input-dtype", "uint8")
    assert run("export", "cifar10", *arguments, "-o", path, "--json") == 0
    report = json.loads(capfd.readouterr().out)
    assert report["calibration"] == {"images": 120, "seed": 0}
    assert report["facts"]["inputs"][0]["dtype"] == "uint8"
    assert report["origin"]["record"] == "cifar10/a1-0.5-32"
    assert json.loads((tmp_path / "a1.tflite.json").read_text("utf-8"))["sha256"] == report["sha256"]


def test_a_flat_folder_calibrates(capfd, tmp_path):
    import keras

    from keras_mnasnet.export.verify import drawn_images

    (tmp_path / "photos").mkdir()
    for number, pixels in enumerate(drawn_images(12, 40, 48, 3)):
        keras.utils.save_img(tmp_path / "photos" / f"{number}.png", pixels, scale=False)
    arguments = ("--quantize", "int8", "--calibrate", tmp_path / "photos", "-o", tmp_path / "a.tflite", "--json")
    assert run("export", "cifar10", *arguments) == 0
    assert json.loads(capfd.readouterr().out)["calibration"]["images"] == 12
    (tmp_path / "photos" / "bad.png").write_bytes(b"nothing")
    assert run("export", "cifar10", *arguments) == 1
    assert "may be damaged" in capfd.readouterr().err


def test_a_keras_file(capfd, bundled_keras, tmp_path):
    assert run("export", bundled_keras, "-o", tmp_path / "a.tflite", "--json") == 0
    report = json.loads(capfd.readouterr().out)
    assert report["route"] == "direct"
    assert report["verified_against"].startswith("Keras ")


@pytest.fixture
def bundled_keras(tmp_path):
    from keras_mnasnet import MnasNet

    MnasNet("a1", weights="cifar10").save(tmp_path / "model.keras")
    return tmp_path / "model.keras"


def photos(folder):
    import keras

    from keras_mnasnet.export.verify import drawn_images

    folder.mkdir()
    for number, pixels in enumerate(drawn_images(4, 40, 48, 3)):
        keras.utils.save_img(folder / f"{number}.png", pixels, scale=False)
    return folder


def test_a_keras_file_that_takes_no_pixels(capfd, tmp_path):
    """Photos are given to it only as --input says; the file then carries it."""
    import keras

    from keras_mnasnet.export import TfliteFile
    from keras_mnasnet.preprocessing import SIGNED

    image = keras.Input((32, 32, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(image))
    keras.Model(image, keras.layers.Dense(3)(pooled)).save(tmp_path / "plain.keras")
    given = ("export", tmp_path / "plain.keras", "-o", tmp_path / "a.tflite", "--json")
    assert run(*given, "--photos", photos(tmp_path / "photos")) == 1
    said = "`normalization` (--input) must say how the model takes photos, one of pixels, unit, signed, imagenet"
    assert said in capfd.readouterr().err
    assert run(*given) == 0
    assert run(*given, "--photos", tmp_path / "photos", "--input", "signed") == 0
    assert TfliteFile(tmp_path / "a.tflite").normalization == SIGNED
    capfd.readouterr()
    assert run(*given, "--quantize", "int8", "--calibrate", tmp_path / "photos", "--input", "unit") == 0
    report = json.loads(capfd.readouterr().out)
    assert report["calibration"]["images"] == 4


def test_input_must_fit_the_model(capfd, bundled_keras, tmp_path):
    assert run("export", bundled_keras, "-o", tmp_path / "a.tflite", "--input", "signed") == 1
    assert "`normalization` (--input) must be pixels for a model that normalizes them itself" in capfd.readouterr().err
    assert run("export", bundled_keras, "-o", tmp_path / "a.tflite", "--input", "pixels", "--json") == 0
    assert run("export", "cifar10", "-o", tmp_path / "b.tflite", "--input", "unit") == 1
    assert "`normalization` (--input) is for Keras models" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cifar10", "-o", "{tmp}/a.bin"), "`path` (-o) must end in .tflite or .onnx. Received: "),
        (("cifar10", "--quantize", "int8", "-o", "{tmp}/a.tflite"), "needs `representative_data` (--calibrate)"),
        (("cifar10", "-o", "{tmp}/file/a.tflite"), "folder that allows it"),
        (("cifar1", "-o", "{tmp}/a.tflite"), "cifar1"),
        (("x.keras", "-o", "{tmp}/a.tflite"), "x.keras, which does not"),
        (("{tmp}/bad.keras", "-o", "{tmp}/a.tflite"), "bad.keras, a text file that begins with 'text'"),
        (("{tmp}/zip.keras", "-o", "{tmp}/a.tflite"), "a zip archive without a checkpoint"),
        (
            ("cifar10", "--calibration-photos", "0", "-o", "{tmp}/a.tflite"),
            "`calibration_count` (--calibration-photos) must be an integer >= 1",
        ),
        (
            ("cifar10", "--verification-photos", "0", "-o", "{tmp}/a.tflite"),
            "`verification_count` (--verification-photos) must be an integer >= 1",
        ),
        (("cifar10", "--accept-changed", "2", "-o", "{tmp}/a.tflite"), "`accept_changed` (--accept-changed) must be a share"),
        (("cifar10", "--labels", "{tmp}/file", "-o", "{tmp}/a.tflite"), "1 names for 10 classes"),
        (("cifar10", "--labels", "{tmp}/none", "-o", "{tmp}/a.tflite"), "{tmp}/none, which names none"),
        (("cifar10", "--size", "0", "-o", "{tmp}/a.tflite"), "Received: size=0"),
        (("cifar10", "--size", "8", "-o", "{tmp}/a.tflite"), "must be integers >= 32"),
        (("cifar10", "--batch-size", "0", "-o", "{tmp}/a.tflite"), "`batch` must be an integer >= 1"),
    ],
)
def test_failures_are_one_line_and_leave_nothing(capfd, tmp_path, arguments, message):
    (tmp_path / "file").write_text("one\n")
    (tmp_path / "bad.keras").write_text("text\n")
    with zipfile.ZipFile(tmp_path / "zip.keras", "w") as archive:
        archive.writestr("notes.txt", "none")
    (tmp_path / "none").write_text("\n \n")
    assert run("export", *(argument.format(tmp=tmp_path) for argument in arguments)) == 1
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message.format(tmp=tmp_path) in error
    assert not list(tmp_path.glob("*.tflite*"))


def test_qat_arguments(capfd, tmp_path):
    assert run("qat", "cifar10", "--data", "shapes", "-o", tmp_path / "a.bin") == 1
    assert "must end in .tflite" in capfd.readouterr().err
    common = ("qat", "cifar10", "--data", "shapes", "-o", tmp_path / "a.tflite")
    assert run(*common, "--prune", "0.5", "--input-dtype", "int8") == 1
    assert "`--prune` writes a float32 file" in capfd.readouterr().err
    (tmp_path / "two.txt").write_text("one\ntwo\n")
    assert run(*common, "--labels", tmp_path / "two.txt") == 1
    assert "Received: 2 names for 10 classes" in capfd.readouterr().err
    assert run(*common, "--prune", "2") == 1
    assert "`sparsity` must be between 0 and 1" in capfd.readouterr().err
