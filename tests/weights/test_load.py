"""`weights=` in every form, and the cache."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from fixtures import FIXTURES
from writers import write_pth, write_tf1, write_tgz

from keras_mnasnet import (
    CheckpointError,
    DownloadError,
    MnasNet,
    MnasNetA1,
    MnasNetB1,
    MnasNetSmall,
    checkpoint_of,
    load,
    load_weights,
    save,
)  # fmt: skip
from keras_mnasnet.loading import converted_path, verify_record
from keras_mnasnet.spec import describe
from keras_mnasnet.weights.fetch import placed_path
from keras_mnasnet.weights.registry import find, records

BY_NAME = {fixture.name: fixture for fixture in FIXTURES}
A1_035 = "google-a1-d0.35-96"


def outputs(model: keras.Model) -> np.ndarray:
    return np.asarray(model(np.random.default_rng(0).integers(0, 256, (1, *model.input_shape[1:])).astype(np.float32)))


def place(record_id: str, google) -> None:
    """Put a record's file where a user puts it by hand, as Google packs it."""
    record = find(record_id)
    prefix, _ = google
    folder = prefix.parent
    target = placed_path(record)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_tgz(target, folder)


def test_a_record_by_id_and_by_imagenet(google, monkeypatch, home):
    place("google/a1-0.35-96", google)
    model = MnasNetA1(weights="google/a1-0.35-96", classifier_activation=None)
    assert model.input_shape == (None, 96, 96, 3)
    assert describe(model).architecture.name == "a1-0.35"
    fixture = BY_NAME[A1_035]
    expected = fixture.reference()["logits"]
    assert np.abs(np.asarray(model(fixture.images())) - expected).max() <= 1e-4 * np.abs(expected).max()
    placed_path(find("google/a1-0.35-96")).unlink()
    again = MnasNetA1(weights="imagenet", input_shape=(96, 96, 3), width_multiplier=0.35, classifier_activation=None)
    np.testing.assert_array_equal(outputs(again), outputs(model))
    assert verify_record(find("google/a1-0.35-96"))["ok"]
    metadata = load(converted_path(find("google/a1-0.35-96")))
    assert metadata.numerics == find("google/a1-0.35-96").numerics


def test_a_damaged_cache_is_made_anew(google):
    record = find("google/a1-0.35-96")
    place(record.id, google)
    load(record.id)
    path = converted_path(record)
    whole = load(path).tensors
    path.write_bytes(path.read_bytes()[:1_000_000])
    assert verify_record(record)["ok"] is False
    load(record.id)
    again = load(path).tensors
    assert all(np.array_equal(again[name], whole[name]) for name in whole)
    assert [p.name for p in path.parent.iterdir() if p.suffix == ".tmp"] == []


def test_two_processes_convert_once(google, home):
    place("google/a1-0.35-96", google)
    code = (
        "from keras_mnasnet.loading import converted_path, load; from keras_mnasnet.weights.registry import find; "
        "r = find('google/a1-0.35-96'); load(r.id); print(converted_path(r).stat().st_ino)"
    )
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=os.environ) for _ in range(2)]
    inodes = {process.communicate(timeout=120)[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(inodes) == 1


def test_tgz_is_read_wherever_the_checkpoint_lies(google, tmp_path):
    prefix, _ = google
    folder = tmp_path / "deep" / "inner"
    folder.mkdir(parents=True)
    for part in prefix.parent.iterdir():
        (folder / part.name).write_bytes(part.read_bytes())
    (folder / "checkpoint").unlink()
    checkpoint = load(write_tgz(tmp_path / "c.tgz", tmp_path / "deep"))
    assert (checkpoint.origin.source, checkpoint.architecture.name, checkpoint.classes) == ("google", "a1-0.35", 1000)


def test_raw_variables_only_without_averages(google, tmp_path):
    _, tensors = google
    raw = {name: value for name, value in tensors.items() if not name.endswith("ExponentialMovingAverage")}
    averaged = load(write_tf1(tmp_path / "a" / "model.ckpt", tensors)).tensors["stem_conv/kernel"]
    plain = load(write_tf1(tmp_path / "b" / "model.ckpt", raw)).tensors["stem_conv/kernel"]
    assert np.abs(averaged - plain).max() > 0.1
    stem = next(name for name in tensors if name.endswith("mnas_stem/conv2d_47/kernel"))
    np.testing.assert_array_equal(plain, tensors[stem])
    tensors = {name: value for name, value in tensors.items() if name != stem + "/ExponentialMovingAverage"}
    with pytest.raises(CheckpointError, match="one of every variable.*mnas_stem"):
        load(write_tf1(tmp_path / "c" / "model.ckpt", tensors))


def test_convolutions_are_told_by_rank_not_by_number(google, tmp_path):
    _, tensors = google
    shifted = {
        "/".join(
            f"{part.rsplit('_', 1)[0]}_{int(part.rsplit('_', 1)[1]) + 90}" if part.startswith("conv2d_") else part
            for part in name.split("/")
        ): value
        for name, value in tensors.items()
    }
    assert shifted.keys() != tensors.keys()
    expected = load(write_tf1(tmp_path / "a" / "m", tensors)).tensors
    received = load(write_tf1(tmp_path / "b" / "m", shifted)).tensors
    for name in expected:
        np.testing.assert_array_equal(received[name], expected[name])


def test_numerics_follow_a_local_file(tmp_path):
    timm = BY_NAME["timm-mnasnet_small-225x193"].write(tmp_path)
    spec = describe(MnasNetSmall(weights=timm))
    assert (spec.bn_epsilon, spec.padding, spec.architecture.units()[0].residual) == (
        pytest.approx(1e-5), "symmetric", True,
    )  # fmt: skip
    spec = describe(MnasNetSmall(weights=timm, bn_epsilon=1e-3, padding="same", first_residual=False))
    assert (spec.bn_epsilon, spec.padding, spec.architecture.units()[0].residual) == (pytest.approx(1e-3), "same", False)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("suffix", [".pth", ".bin"])
def test_timm_names_in_a_torch_file(legacy, suffix, tmp_path):
    tensors = BY_NAME["timm-semnasnet_050-96"].tensors()
    path = write_pth(tmp_path / f"model{suffix}", tensors, legacy=legacy)
    assert load(path).origin.source == "timm"
    assert load(path).architecture.name == "a1-0.5"


def test_top_is_dropped_or_refused_never_random(google):
    prefix, _ = google
    options = {"width_multiplier": 0.35, "input_shape": (64, 64, 3)}
    headless = MnasNetA1(weights=prefix, include_top=False, **options)
    full = MnasNetA1(weights=prefix, **options)
    head = full.get_layer("head_bn").get_weights()
    for ours, theirs in zip(headless.get_layer("head_bn").get_weights(), head, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ValueError, match=r"`classes` must be.*classes=10.*1000 classes.*model\(classes=10\)"):
        MnasNetA1(weights=prefix, classes=10, **options)
    ten = MnasNetA1(weights=None, classes=10, **options)
    before = ten.get_layer("predictions").get_weights()
    load_weights(ten, prefix, include_top=False)
    np.testing.assert_array_equal(ten.get_layer("head_bn").get_weights()[0], head[0])
    np.testing.assert_array_equal(ten.get_layer("predictions").get_weights()[0], before[0])
    with pytest.raises(CheckpointError, match="1000 classes. Received: a model with 10"):
        load_weights(ten, prefix)


def test_converted_file_rebuilds_the_same_function(google, tmp_path):
    prefix, _ = google
    save(load(prefix), tmp_path / "a1.safetensors")
    options = {"width_multiplier": 0.35, "input_shape": (96, 96, 3)}
    np.testing.assert_array_equal(
        outputs(MnasNetA1(weights=tmp_path / "a1.safetensors", **options)), outputs(MnasNetA1(weights=prefix, **options))
    )
    with pytest.raises(ValueError, match=r"must end in .safetensors, .keras or .weights.h5. Received: .*x\.h5"):
        save(load(prefix), tmp_path / "x.h5")
    assert describe(MnasNetA1(weights=tmp_path / "a1.safetensors")).architecture.name == "a1-0.35"
    with pytest.raises(CheckpointError, match=r"must hold MnasNet 'b1'. Received: 'a1-0.35.*load\(.*\.model\(\)"):
        MnasNetB1(weights=tmp_path / "a1.safetensors")


def test_keras_weight_files(tmp_path):
    options = {"input_shape": (64, 64, 3), "classes": 4, "width_multiplier": 0.35}
    model = MnasNetSmall(weights=None, **options)
    model.save_weights(tmp_path / "m.weights.h5")
    np.testing.assert_array_equal(outputs(MnasNetSmall(weights=tmp_path / "m.weights.h5", **options)), outputs(model))
    assert describe(MnasNetSmall(weights=tmp_path / "m.weights.h5")).architecture.name == "small-0.35"
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(tmp_path / "other.keras")
    with pytest.raises(CheckpointError, match="must be a MnasNet: a checkpoint, a run or a .keras file"):
        MnasNetSmall(weights=tmp_path / "other.keras")
    (tmp_path / "bad.keras").write_bytes(b"PK nothing")
    with pytest.raises(CheckpointError, match="a text file that begins with .PK nothing"):
        MnasNetSmall(weights=tmp_path / "bad.keras")


def test_an_unwritable_cache_leaves_nothing(google, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("KERAS_MNASNET_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(DownloadError, match="cache must be writable.*KERAS_MNASNET_HOME"):
        load("google/a1-0.35-96")


def test_a_full_disk_while_converting_leaves_nothing(google, home):
    """A real limit on file size (RLIMIT_FSIZE) in a child process: the write fails half-way."""
    place("google/a1-0.35-96", google)
    code = (
        "import resource, signal, tensorflow; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "import keras_mnasnet.loading as load\n"
        "write = load.write_native\n"
        "def limited(*args, **origin):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "    write(*args, **origin)\n"
        "load.write_native = limited\n"
        "load.load('google/a1-0.35-96')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 1
    assert "DownloadError: The cache must be writable to keep google/a1-0.35-96" in done.stderr.splitlines()[-1]
    assert "Nothing half-written was kept" in done.stderr
    left = [path.name for path in converted_path(find("google/a1-0.35-96")).parent.iterdir() if not path.name.endswith(".lock")]
    assert left == []


def test_every_record_can_be_placed_by_hand():
    paths = [placed_path(record) for record in records()]
    assert len(set(paths)) == len(paths)


def test_a_read_only_cache_is_enough(google, monkeypatch, home):
    record = find("google/a1-0.35-96")
    place(record.id, google)
    load(record.id)
    monkeypatch.setattr("keras_mnasnet.loading.locked", lambda path: pytest.fail("a cached file needs no lock"))
    assert load(record.id).size == 96


def test_verify_tells_a_damaged_archive(google):
    record = find("google/a1-0.35-96")
    place(record.id, google)
    whole = placed_path(record).read_bytes()
    assert verify_record(record)["ok"]
    placed_path(record).write_bytes(whole[: len(whole) // 2])
    assert verify_record(record)["ok"] is False
    placed_path(record).write_bytes(whole)
    load(record.id)
    placed_path(record).write_bytes(whole[: len(whole) // 2])
    report = verify_record(record)
    assert report["ok"] is False
    assert "sha256" in report["problem"]


def test_unscaled_stem_survives_saving(tmp_path):
    path = BY_NAME["torchvision-mnasnet0_5-v1stem-96"].write(tmp_path)
    options = {"width_multiplier": 0.5, "input_shape": (64, 64, 3)}
    model = MnasNetB1(weights=path, **options)
    assert describe(model).architecture.stem == 32
    save(model, tmp_path / "v1.safetensors")
    model.save(tmp_path / "v1.keras")
    for name in ("v1.safetensors", "v1.keras"):
        np.testing.assert_array_equal(outputs(MnasNetB1(weights=tmp_path / name, **options)), outputs(model))


def test_load_weights_takes_what_the_builders_take(google, tmp_path):
    place("google/a1-0.35-96", google)
    options = {"weights": None, "width_multiplier": 0.35, "input_shape": (96, 96, 3)}
    expected = outputs(MnasNetA1(**{**options, "weights": "google/a1-0.35-96"}))
    source = MnasNetA1(**{**options, "weights": "google/a1-0.35-96"})
    source.save(tmp_path / "m.keras")
    source.save_weights(tmp_path / "m.weights.h5")
    for weights in ("imagenet", "google/a1-0.35-96", google[0], tmp_path / "m.keras", tmp_path / "m.weights.h5"):
        model = MnasNetA1(**options)
        load_weights(model, weights)
        np.testing.assert_array_equal(outputs(model), expected)
    with pytest.raises(CheckpointError, match="3 channels"):
        load_weights(MnasNetA1(**{**options, "input_shape": (96, 96, 1), "include_preprocessing": False}), google[0])
    with pytest.raises(CheckpointError, match="width_multiplier=0.6"):
        load_weights(MnasNetA1(weights=None, width_multiplier=0.6), "imagenet")


def test_a_networks_own_value_takes_its_records(google):
    place("google/a1-0.35-96", google)
    value = describe(MnasNetA1(weights=None, width_multiplier=0.35)).architecture
    assert describe(MnasNet(value, weights="google/a1-0.35-96")).architecture == value


def test_a_classifier_of_no_classes_is_refused_and_a_new_one_is_new(tmp_path):
    checkpoint = load("cifar10")
    with pytest.raises(ValueError, match="`classes` must be an integer >= 1. Received: classes=0"):
        checkpoint.model(classes=0)
    other = checkpoint.model(classes=3)
    assert other.output_shape == (None, 3)
    assert checkpoint_of(other).labels is None
    assert checkpoint_of(other).preprocessing == checkpoint.preprocessing
    assert checkpoint_of(other).origin.measured == {}


def test_a_body_does_not_bring_the_names_of_the_classes():
    """Ten classes of one's own are not CIFAR-10's, though there are as many."""
    options = {"width_multiplier": 0.5, "stem_stride": 1, "input_shape": (32, 32, 3), "classes": 10}
    model = MnasNetA1(weights=None, **options)
    load_weights(model, "cifar10", include_top=False)
    assert checkpoint_of(model).labels is None
    load_weights(model, "cifar10")
    assert checkpoint_of(model).labels == load("cifar10").labels


def test_a_network_named_beside_a_file_must_be_its_own(tmp_path):
    save("cifar10", tmp_path / "m.safetensors")
    for source in ("cifar10/a1-0.5-32", tmp_path / "m.safetensors", BY_NAME["timm-semnasnet_050-96"].write(tmp_path)):
        assert load(source, network="a1").architecture.name.startswith("a1-0.5")
        with pytest.raises(CheckpointError, match=r"must hold MnasNet 'b1'. Received: 'a1-0.5"):
            load(source, network="b1")


def test_a_description_that_makes_no_sense_in_a_weights_h5_file(tmp_path):
    import h5py

    save("cifar10", tmp_path / "m.weights.h5")
    for text in ("{", "[]", '{"classes": 3}', '{"schema": 2}', '{"schema": 2, "architecture": 3, "classes": "x"}'):
        with h5py.File(tmp_path / "m.weights.h5", "a") as file:
            del file["keras_mnasnet"]
            file["keras_mnasnet"] = text
        with pytest.raises(CheckpointError, match="must describe its network"):
            load(tmp_path / "m.weights.h5")


def test_what_a_plain_keras_file_does_not_say_is_assumed_aloud(tmp_path, caplog):
    MnasNetSmall(weights=None, width_multiplier=0.35, input_shape=(64, 64, 3)).save(tmp_path / "m.keras")
    found = load(tmp_path / "m.keras")
    assert found.assumed == ("labels", "preprocessing")
    assert "does not say its labels, preprocessing: assumed" in caplog.text
