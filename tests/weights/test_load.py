"""`weights=` in every form, the cache, and what is answered to checkpoints that do not fit."""

import io
import json
import os
import subprocess
import sys
import tarfile

import keras
import numpy as np
import pytest
from fixtures import FIXTURES
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from writers import write_pth, write_tf1, write_tgz

from keras_mnasnet import MnasNet, MnasNetA1, MnasNetB1, MnasNetSmall, load_weights, save_weights
from keras_mnasnet.spec import describe
from keras_mnasnet.weights import CheckpointError, DownloadError, convert_file, get, load_record, read_file, verify_record
from keras_mnasnet.weights.fetch import placed_path
from keras_mnasnet.weights.load import converted_path, parse_hub
from keras_mnasnet.weights.registry import records

BY_NAME = {fixture.name: fixture for fixture in FIXTURES}
A1_035 = "google-a1-d0.35-96"


@pytest.fixture(scope="module")
def google(tmp_path_factory):
    """(prefix, tensors) of a Google A1 0.35 checkpoint."""
    fixture = BY_NAME[A1_035]
    return fixture.write(tmp_path_factory.mktemp("google")), fixture.tensors()


def outputs(model: keras.Model) -> np.ndarray:
    return np.asarray(model(np.random.default_rng(0).integers(0, 256, (1, *model.input_shape[1:])).astype(np.float32)))


def place(record_id: str, google) -> None:
    """Put a record's file where a user puts it by hand, as Google packs it."""
    record = get(record_id)
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
    placed_path(get("google/a1-0.35-96")).unlink()
    again = MnasNetA1(weights="imagenet", input_shape=(96, 96, 3), width_multiplier=0.35, classifier_activation=None)
    np.testing.assert_array_equal(outputs(again), outputs(model))
    assert verify_record(get("google/a1-0.35-96"))["ok"]
    metadata = read_file(converted_path(get("google/a1-0.35-96")))
    assert metadata.numerics == get("google/a1-0.35-96").numerics


def test_a_damaged_cache_is_made_anew(google):
    record = get("google/a1-0.35-96")
    place(record.id, google)
    load_record(record)
    path = converted_path(record)
    whole = read_file(path).tensors
    path.write_bytes(path.read_bytes()[:1_000_000])
    assert verify_record(record)["ok"] is False
    load_record(record)
    again = read_file(path).tensors
    assert all(np.array_equal(again[name], whole[name]) for name in whole)
    assert [p.name for p in path.parent.iterdir() if p.suffix == ".tmp"] == []


def test_two_processes_convert_once(google, home):
    place("google/a1-0.35-96", google)
    code = (
        "from keras_mnasnet.weights import get, load_record; from keras_mnasnet.weights.load import converted_path; "
        "r = get('google/a1-0.35-96'); load_record(r); print(converted_path(r).stat().st_ino)"
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
    checkpoint = read_file(write_tgz(tmp_path / "c.tgz", tmp_path / "deep"))
    assert (checkpoint.source, checkpoint.architecture.name, checkpoint.classes) == ("google", "a1-0.35", 1000)


@pytest.mark.parametrize("member", ["../outside.txt", "/tmp/keras_mnasnet_outside.txt", "a/../../outside.txt"])
def test_path_traversal_in_a_tgz(member, tmp_path):
    archive = tmp_path / "evil.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        info = tarfile.TarInfo(member)
        info.size = 4
        tar.addfile(info, io.BytesIO(b"evil"))
    refused = "must hold a TF1 checkpoint" if member.startswith("/") else "stay inside the folder"
    with pytest.raises(CheckpointError, match=refused):  # an absolute name is unpacked as a relative one
        read_file(archive)
    assert not (tmp_path / "outside.txt").exists()
    assert not os.path.exists("/tmp/keras_mnasnet_outside.txt")


def test_symlinks_out_of_a_tgz(tmp_path):
    archive = tmp_path / "evil.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(info)
    with pytest.raises(CheckpointError, match="stay inside the folder"):
        read_file(archive)


def test_raw_variables_only_without_averages(google, tmp_path):
    _, tensors = google
    raw = {name: value for name, value in tensors.items() if not name.endswith("ExponentialMovingAverage")}
    averaged = read_file(write_tf1(tmp_path / "a" / "model.ckpt", tensors)).tensors["stem_conv/kernel"]
    plain = read_file(write_tf1(tmp_path / "b" / "model.ckpt", raw)).tensors["stem_conv/kernel"]
    assert np.abs(averaged - plain).max() > 0.1
    stem = next(name for name in tensors if name.endswith("mnas_stem/conv2d_47/kernel"))
    np.testing.assert_array_equal(plain, tensors[stem])
    tensors = {name: value for name, value in tensors.items() if name != stem + "/ExponentialMovingAverage"}
    with pytest.raises(CheckpointError, match="one of every variable.*mnas_stem"):
        read_file(write_tf1(tmp_path / "c" / "model.ckpt", tensors))


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
    expected = read_file(write_tf1(tmp_path / "a" / "m", tensors)).tensors
    received = read_file(write_tf1(tmp_path / "b" / "m", shifted)).tensors
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
    assert read_file(path).source == "timm"
    assert read_file(path).architecture.name == "a1-0.5"


def test_top_is_dropped_or_refused_never_random(google):
    prefix, _ = google
    options = {"width_multiplier": 0.35, "input_shape": (64, 64, 3)}
    headless = MnasNetA1(weights=prefix, include_top=False, **options)
    full = MnasNetA1(weights=prefix, **options)
    head = full.get_layer("head_bn").get_weights()
    for ours, theirs in zip(headless.get_layer("head_bn").get_weights(), head, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ValueError, match=r"`classes` must be.*classes=10.*1000 classes.*include_top=False"):
        MnasNetA1(weights=prefix, classes=10, **options)
    ten = MnasNetA1(weights=None, classes=10, **options)
    before = ten.get_layer("predictions").get_weights()
    load_weights(ten, prefix, include_top=False)
    np.testing.assert_array_equal(ten.get_layer("head_bn").get_weights()[0], head[0])
    np.testing.assert_array_equal(ten.get_layer("predictions").get_weights()[0], before[0])
    with pytest.raises(CheckpointError, match="1000 classes. Received: a model with 10"):
        load_weights(ten, prefix)


def test_load_weights_refuses_other_numerics(tmp_path):
    timm = BY_NAME["timm-semnasnet_050-96"].write(tmp_path)
    with pytest.raises(CheckpointError, match="trained with bn_epsilon=1e-05, padding='symmetric'"):
        load_weights(MnasNetA1(weights=None, width_multiplier=0.5), timm)
    model = MnasNetA1(weights=None, width_multiplier=0.5, bn_epsilon=1e-5, padding="symmetric")
    load_weights(model, timm)
    np.testing.assert_allclose(outputs(model), outputs(MnasNetA1(weights=timm, width_multiplier=0.5)))


@pytest.mark.parametrize("network", ["a1", "b1", "small"])
def test_a_checkpoint_of_another_network_says_which_one_fits(network, tmp_path):
    path = BY_NAME["timm-semnasnet_050-96"].write(tmp_path)
    with pytest.raises(CheckpointError, match=rf"must hold MnasNet '{network}'. Received: .*fits MnasNet 'a1-0.5'"):
        MnasNet(network, weights=path)


def test_converted_file_rebuilds_the_same_function(google, tmp_path):
    prefix, _ = google
    convert_file(prefix, tmp_path / "a1.safetensors")
    options = {"width_multiplier": 0.35, "input_shape": (96, 96, 3)}
    np.testing.assert_array_equal(
        outputs(MnasNetA1(weights=tmp_path / "a1.safetensors", **options)), outputs(MnasNetA1(weights=prefix, **options))
    )
    with pytest.raises(CheckpointError, match=r"must end in .safetensors. Received: .*x\.h5"):
        convert_file(prefix, tmp_path / "x.h5")
    with pytest.raises(CheckpointError, match="must hold MnasNet 'a1'. Received: a1-0.35"):
        MnasNetA1(weights=tmp_path / "a1.safetensors")


def test_keras_weight_files(tmp_path):
    options = {"input_shape": (64, 64, 3), "classes": 4, "width_multiplier": 0.35}
    model = MnasNetSmall(weights=None, **options)
    model.save_weights(tmp_path / "m.weights.h5")
    np.testing.assert_array_equal(outputs(MnasNetSmall(weights=tmp_path / "m.weights.h5", **options)), outputs(model))
    with pytest.raises(CheckpointError, match=r"must hold the weights of 'mnasnet_small'"):
        MnasNetSmall(weights=tmp_path / "m.weights.h5", classes=4)
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(tmp_path / "other.keras")
    with pytest.raises(CheckpointError, match="must be a MnasNet saved by"):
        MnasNetSmall(weights=tmp_path / "other.keras")
    (tmp_path / "bad.keras").write_bytes(b"PK nothing")
    with pytest.raises(CheckpointError, match="must be a MnasNet saved by"):
        MnasNetSmall(weights=tmp_path / "bad.keras")


@pytest.mark.parametrize("name", ["bad.safetensors", "bad.pth", "bad.tgz", "bad.weights.h5"])
def test_garbage_files(name, tmp_path):
    for content in (b"", b"\x00" * 100, b"{'a': 1}", os.urandom(5000)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError):
            MnasNetSmall(weights=tmp_path / name)


def test_paths_that_are_not_files(google, tmp_path):
    prefix, _ = google
    with pytest.raises(CheckpointError, match=r"Received: the folder.*Name one of the checkpoints in it: .*model.ckpt-7"):
        MnasNetA1(weights=prefix.parent)
    with pytest.raises(CheckpointError, match=r"named by its prefix, here .*model.ckpt-7\. Received: .*\.index"):
        MnasNetA1(weights=f"{prefix}.index")
    with pytest.raises(CheckpointError, match=r"must exist. Received: .*nothing\.pth"):
        MnasNetA1(weights=tmp_path / "nothing.pth")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError, match="must end in .safetensors"):
        MnasNetA1(weights=tmp_path / "notes.txt")


def test_a_truncated_tf1_checkpoint(google, tmp_path):
    prefix, _ = google
    for part in prefix.parent.glob(f"{prefix.name}.*"):
        data = part.read_bytes()
        (tmp_path / part.name).write_bytes(data if part.suffix == ".index" else data[: len(data) // 3])
    with pytest.raises(CheckpointError, match="cannot be read|whole TF1 checkpoint"):
        read_file(tmp_path / prefix.name)


def test_unknown_tensors_are_shown(tmp_path):
    save_file({"encoder.weight": np.zeros(3, np.float32)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="Received: 1 tensors named encoder.weight"):
        read_file(tmp_path / "x.safetensors")
    timm = load_file(BY_NAME["timm-semnasnet_050-96"].write(tmp_path))
    save_file(timm | {"blocks.0.0.attn.weight": np.zeros(3, np.float32)}, tmp_path / "y.safetensors")
    with pytest.raises(CheckpointError, match="no tensor of this name. Received: 'blocks.0.0.attn.weight'"):
        read_file(tmp_path / "y.safetensors")
    del timm["blocks.3.1.bn2.running_var"]
    save_file(timm, tmp_path / "z.safetensors")
    with pytest.raises(CheckpointError, match="another network"):
        read_file(tmp_path / "z.safetensors")
    timm["conv_stem.weight"] = timm["conv_stem.weight"][0]
    save_file(timm, tmp_path / "rank.safetensors")
    with pytest.raises(CheckpointError, match="must have 4 axes"):
        read_file(tmp_path / "rank.safetensors")
    with pytest.raises(CheckpointError, match="block4b_depthwise_bn/moving_variance missing"):
        MnasNetA1(weights=tmp_path / "z.safetensors", width_multiplier=0.5)


def test_values_that_are_not_finite_are_refused(tmp_path):
    tensors = BY_NAME["timm-semnasnet_050-96"].tensors()
    tensors["conv_stem.weight"][0, 0, 0, 0] = np.nan
    save_file(tensors, tmp_path / "nan.safetensors")
    with pytest.raises(CheckpointError, match="'stem_conv/kernel' must be finite"):
        read_file(tmp_path / "nan.safetensors")


def test_builders_without_checkpoints():
    for name in ("a2", "a3", "d1", "d1-320"):
        with pytest.raises(CheckpointError, match="were ever published"):
            MnasNet(name, weights="imagenet")
    for options in ({"se": False}, {"depth_multiplier": 2}):
        with pytest.raises(CheckpointError, match="Leave out multipliers"):
            MnasNetA1(weights="imagenet", **options)
    with pytest.raises(CheckpointError, match="Leave out multipliers"):
        MnasNetB1(weights="google/a1-1.0-224")
    with pytest.raises(CheckpointError, match="exist for members of the family"):
        MnasNet("x: stem8 r1_k3_s11_e1_i8_o8 head64", weights="imagenet")
    with pytest.raises(CheckpointError, match="Nearest records: google/a1"):
        MnasNetA1(weights="google/a1-1.0")
    with pytest.raises(CheckpointError, match="must be None, 'imagenet'"):
        MnasNetA1(weights="imagenett")


def test_checkpoints_need_three_channels(google):
    prefix, _ = google
    with pytest.raises(ValueError, match="3 channels"):
        MnasNetA1(weights=prefix, width_multiplier=0.35, input_shape=(64, 64, 4), include_preprocessing=False)


def test_hub_addresses():
    assert parse_hub("hf://me/net@abc/sub/w.safetensors") == ("me/net", "abc", "sub/w.safetensors")
    assert parse_hub("hf://me/net-1.0/w.pth") == ("me/net-1.0", None, "w.pth")
    assert parse_hub("hf://me/net@refs/pr/1/w.pth") == ("me/net", "refs/pr/1", "w.pth")
    for bad in ("hf://me", "hf://me/net", "hf://me/net/../../x", "hf://../x/y"):
        with pytest.raises(CheckpointError, match="hf://owner/repo"):
            parse_hub(bad)


def test_an_unwritable_cache_leaves_nothing(google, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("KERAS_MNASNET_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(DownloadError, match="cache must be writable.*KERAS_MNASNET_HOME"):
        load_record(get("google/a1-0.35-96"))


def test_a_full_disk_while_converting_leaves_nothing(google, home):
    """A real limit on file size (RLIMIT_FSIZE) in a child process: the write fails half-way."""
    place("google/a1-0.35-96", google)
    code = (
        "import resource, signal, tensorflow; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from keras_mnasnet.weights import get, load_record\n"
        "import tempfile, keras_mnasnet.weights.load as load\n"
        "write = load.write_native\n"
        "def limited(*args, **origin):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "    write(*args, **origin)\n"
        "load.write_native = limited\n"
        "load_record(get('google/a1-0.35-96'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 1
    assert "DownloadError: The cache must be writable to keep google/a1-0.35-96" in done.stderr.splitlines()[-1]
    assert "Nothing half-written was kept" in done.stderr
    left = [path.name for path in converted_path(get("google/a1-0.35-96")).parent.iterdir() if not path.name.endswith(".lock")]
    assert left == []


def test_old_weight_files_stay_readable(assets):
    """Files of every released schema are kept and must load."""
    checkpoint = read_file(assets / "native_schema1.safetensors")
    assert checkpoint.architecture.name == "tiny"
    assert checkpoint.classes == 2
    assert checkpoint.numerics.padding == "symmetric"
    assert outputs(
        MnasNet(str(checkpoint.architecture), weights=assets / "native_schema1.safetensors", input_shape=(32, 32, 3), classes=2)
    ).shape == (1, 2)


def test_newer_schema_is_refused(assets, tmp_path):
    data = (assets / "native_schema1.safetensors").read_bytes()
    (tmp_path / "new.safetensors").write_bytes(data.replace(rb"\"schema\": 1", rb"\"schema\": 9"))
    with pytest.raises(CheckpointError, match="schema 1. Received: schema=9. Update keras_mnasnet"):
        read_file(tmp_path / "new.safetensors")


def test_save_weights_needs_safetensors(tmp_path):
    with pytest.raises(ValueError, match="must end in .safetensors"):
        save_weights(MnasNetSmall(weights=None), tmp_path / "x.h5")


def test_every_record_can_be_placed_by_hand():
    paths = [placed_path(record) for record in records()]
    assert len(set(paths)) == len(paths)


def test_a_read_only_cache_is_enough(google, monkeypatch, home):
    record = get("google/a1-0.35-96")
    place(record.id, google)
    load_record(record)
    monkeypatch.setattr("keras_mnasnet.weights.load.locked", lambda path: pytest.fail("a cached file needs no lock"))
    assert load_record(record).resolution == 96


def test_verify_tells_a_damaged_archive(google):
    record = get("google/a1-0.35-96")
    place(record.id, google)
    whole = placed_path(record).read_bytes()
    assert verify_record(record)["ok"]
    placed_path(record).write_bytes(whole[: len(whole) // 2])
    assert verify_record(record)["ok"] is False
    placed_path(record).write_bytes(whole)
    load_record(record)
    placed_path(record).write_bytes(whole[: len(whole) // 2])
    report = verify_record(record)
    assert report["ok"] is False
    assert "sha256" in report["problem"]


def test_unscaled_stem_survives_saving(tmp_path):
    path = BY_NAME["torchvision-mnasnet0_5-v1stem-96"].write(tmp_path)
    options = {"width_multiplier": 0.5, "input_shape": (64, 64, 3)}
    model = MnasNetB1(weights=path, **options)
    assert describe(model).architecture.stem == 32
    save_weights(model, tmp_path / "v1.safetensors")
    model.save(tmp_path / "v1.keras")
    for name in ("v1.safetensors", "v1.keras"):
        np.testing.assert_array_equal(outputs(MnasNetB1(weights=tmp_path / name, **options)), outputs(model))
    with pytest.raises(CheckpointError, match="must hold MnasNet 'b1-0.5'"):
        MnasNetB1(weights=tmp_path / "v1.safetensors", scale_stem=True, **options)


def test_models_that_are_more_than_a_mnasnet_are_not_saved_as_one(tmp_path):
    base = MnasNetSmall(weights=None, include_top=False, pooling="avg", input_shape=(64, 64, 3))
    extended = keras.Model(base.input, keras.layers.Dense(5, name="out")(base.output))
    with pytest.raises(ValueError, match=r"no others. Received: other or missing layers \['out'\]"):
        save_weights(extended, tmp_path / "x.safetensors")

    def relu6(layer):
        return keras.layers.ReLU(6.0, name=layer.name) if isinstance(layer, keras.layers.ReLU) else layer

    with pytest.raises(ValueError, match="no others. Received: other or missing layers"):
        save_weights(keras.models.clone_model(base, clone_function=relu6), tmp_path / "x.safetensors")
    four = MnasNetSmall(weights=None, input_shape=(64, 64, 4), include_preprocessing=False)
    with pytest.raises(ValueError, match="3 channels"):
        save_weights(four, tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


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
    with pytest.raises(CheckpointError, match="loaded whole"):
        load_weights(MnasNetA1(**options), tmp_path / "m.weights.h5", include_top=False)
    with pytest.raises(CheckpointError, match="3 channels"):
        load_weights(MnasNetA1(**{**options, "input_shape": (96, 96, 1), "include_preprocessing": False}), google[0])
    with pytest.raises(CheckpointError, match="network and numerics must exist"):
        load_weights(MnasNetA1(weights=None, width_multiplier=0.6), "imagenet")


def test_a_networks_own_value_takes_its_records(google):
    place("google/a1-0.35-96", google)
    value = describe(MnasNetA1(weights=None, width_multiplier=0.35)).architecture
    assert describe(MnasNet(value, weights="google/a1-0.35-96")).architecture == value


def test_headless_checkpoints_and_models(tmp_path):
    model = MnasNetSmall(weights=None, include_top=False, input_shape=(64, 64, 3))
    save_weights(model, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="must have a classifier"):
        MnasNetSmall(weights=tmp_path / "w.safetensors")
    again = MnasNetSmall(weights=tmp_path / "w.safetensors", include_top=False, input_shape=(64, 64, 3))
    np.testing.assert_array_equal(outputs(again), outputs(model))


def test_two_networks_in_one_checkpoint(google, tmp_path):
    _, tensors = google
    other = {name.replace("mnasnet-a1/", "other/", 1): value for name, value in tensors.items() if "/" in name}
    with pytest.raises(CheckpointError, match="one network. Received: mnasnet-a1, other"):
        read_file(write_tf1(tmp_path / "m", tensors | other))


def test_own_files_are_not_trusted_blindly(assets, tmp_path):
    tensors = load_file(assets / "native_schema1.safetensors")
    with safe_open(assets / "native_schema1.safetensors", framework="numpy") as file:
        header = json.loads(file.metadata()["keras_mnasnet"])

    def write(tensors, **changes):
        save_file(tensors, tmp_path / "x.safetensors", metadata={"keras_mnasnet": json.dumps(header | changes)})

    write(tensors)
    assert read_file(tmp_path / "x.safetensors").classes == 2
    write(tensors | {"stem_conv/kernel": np.full_like(tensors["stem_conv/kernel"], np.nan)})
    with pytest.raises(CheckpointError, match="must be finite float32"):
        read_file(tmp_path / "x.safetensors")
    for changes in (
        {"numerics": {"bn_epsilon": "q", "padding": "same"}},
        {"numerics": {"bn_epsilon": 0.001, "padding": "x"}},
        {"architecture": "stem8 head16"},
        {"classes": 3},
        {"numerics": 3},
    ):
        write(tensors, **changes)
        with pytest.raises(CheckpointError):
            read_file(tmp_path / "x.safetensors")
