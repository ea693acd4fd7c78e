"""What is answered to checkpoints that do not fit, are damaged or hostile, and to models that cannot be kept."""

import io
import json
import os
import tarfile

import keras
import numpy as np
import pytest
from fixtures import FIXTURES
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from writers import write_tf1

from keras_mnasnet import CheckpointError, MnasNet, MnasNetA1, MnasNetB1, MnasNetSmall, load, load_weights, save
from keras_mnasnet.loading import HUB_ADDRESS

BY_NAME = {fixture.name: fixture for fixture in FIXTURES}
A1_035 = "google-a1-d0.35-96"


def outputs(model: keras.Model) -> np.ndarray:
    return np.asarray(model(np.random.default_rng(0).integers(0, 256, (1, *model.input_shape[1:])).astype(np.float32)))


@pytest.mark.parametrize("member", ["../outside.txt", "/tmp/keras_mnasnet_outside.txt", "a/../../outside.txt"])
def test_path_traversal_in_a_tgz(member, tmp_path):
    archive = tmp_path / "evil.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        info = tarfile.TarInfo(member)
        info.size = 4
        tar.addfile(info, io.BytesIO(b"evil"))
    refused = "must hold a TF1 checkpoint" if member.startswith("/") else "stay inside the folder"
    with pytest.raises(CheckpointError, match=refused):  # an absolute name is unpacked as a relative one
        load(archive)
    assert not (tmp_path / "outside.txt").exists()
    assert not os.path.exists("/tmp/keras_mnasnet_outside.txt")


def test_symlinks_out_of_a_tgz(tmp_path):
    archive = tmp_path / "evil.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(info)
    with pytest.raises(CheckpointError, match="stay inside the folder"):
        load(archive)


def test_load_weights_refuses_other_numerics(tmp_path):
    timm = BY_NAME["timm-semnasnet_050-96"].write(tmp_path)
    with pytest.raises(
        CheckpointError,
        match="needs a model with bn_epsilon=1e-05, padding='symmetric'. Received: a model with bn_epsilon=0.001",
    ):
        load_weights(MnasNetA1(weights=None, width_multiplier=0.5), timm)
    model = MnasNetA1(weights=None, width_multiplier=0.5, bn_epsilon=1e-5, padding="symmetric")
    load_weights(model, timm)
    np.testing.assert_allclose(outputs(model), outputs(MnasNetA1(weights=timm, width_multiplier=0.5)))


@pytest.mark.parametrize("network", ["b1", "small"])
def test_a_checkpoint_of_another_network_says_which_one_fits(network, tmp_path):
    path = BY_NAME["timm-semnasnet_050-96"].write(tmp_path)
    with pytest.raises(CheckpointError, match=rf"must hold MnasNet '{network}'. Received: 'a1-0.5\["):
        MnasNet(network, weights=path)


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
    with pytest.raises(CheckpointError, match="notes.txt, a text file that begins with 'hello'"):
        MnasNetA1(weights=tmp_path / "notes.txt")
    (tmp_path / "notes").write_bytes(bytes(range(128, 256)) * 9)
    with pytest.raises(CheckpointError, match=r"a file of .safetensors, .*notes \(1,152 bytes\), whose content is none"):
        MnasNetA1(weights=tmp_path / "notes")
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(CheckpointError, match=r"is a training run's, with model.safetensors. Received: .*run, without one"):
        MnasNetA1(weights=run)
    (run / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"run/model.safetensors, an empty file"):
        MnasNetA1(weights=run)


def test_a_truncated_tf1_checkpoint(google, tmp_path):
    prefix, _ = google
    for part in prefix.parent.glob(f"{prefix.name}.*"):
        data = part.read_bytes()
        (tmp_path / part.name).write_bytes(data if part.suffix == ".index" else data[: len(data) // 3])
    with pytest.raises(CheckpointError, match="cannot be read|whole TF1 checkpoint"):
        load(tmp_path / prefix.name)


def test_unknown_tensors_are_shown(tmp_path):
    save_file({"encoder.weight": np.zeros(3, np.float32)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"with 1 tensors named encoder.weight.*state_dict\(\)"):
        load(tmp_path / "x.safetensors")
    timm = load_file(BY_NAME["timm-semnasnet_050-96"].write(tmp_path))
    save_file(timm | {"blocks.0.0.attn.weight": np.zeros(3, np.float32)}, tmp_path / "y.safetensors")
    with pytest.raises(CheckpointError, match="no tensor of this name. Received: 'blocks.0.0.attn.weight'"):
        load(tmp_path / "y.safetensors")
    del timm["blocks.3.1.bn2.running_var"]
    save_file(timm, tmp_path / "z.safetensors")
    timm["conv_stem.weight"] = timm["conv_stem.weight"][0]
    save_file(timm, tmp_path / "rank.safetensors")
    with pytest.raises(CheckpointError, match="must have 4 axes"):
        load(tmp_path / "rank.safetensors")
    with pytest.raises(CheckpointError, match="block4b_depthwise_bn/moving_variance missing where"):
        MnasNetA1(weights=tmp_path / "z.safetensors", width_multiplier=0.5)


def test_values_that_are_not_finite_are_refused(tmp_path):
    tensors = BY_NAME["timm-semnasnet_050-96"].tensors()
    tensors["conv_stem.weight"][0, 0, 0, 0] = np.nan
    save_file(tensors, tmp_path / "nan.safetensors")
    with pytest.raises(CheckpointError, match="'stem_conv/kernel' must be finite"):
        load(tmp_path / "nan.safetensors")


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
    with pytest.raises(CheckpointError, match="Did you mean 'google/a1"):
        MnasNetA1(weights="google/a1-1.0")
    with pytest.raises(CheckpointError, match="Received: 'imagenett'.* Did you mean 'imagenet'"):
        MnasNetA1(weights="imagenett")


def test_checkpoints_need_three_channels(google):
    prefix, _ = google
    with pytest.raises(ValueError, match="3 channels"):
        MnasNetA1(weights=prefix, width_multiplier=0.35, input_shape=(64, 64, 4), include_preprocessing=False)


def test_hub_addresses():
    assert HUB_ADDRESS.match("hf://me/net@abc/sub/w.safetensors").groups() == ("me/net", "abc", "sub/w.safetensors")
    assert HUB_ADDRESS.match("hf://me/net-1.0/w.pth").groups() == ("me/net-1.0", None, "w.pth")
    assert HUB_ADDRESS.match("hf://me/net@refs/pr/1/w.pth").groups() == ("me/net", "refs/pr/1", "w.pth")
    assert HUB_ADDRESS.match("hf://me/net@abc").groups() == ("me/net", "abc", None)
    for bad in ("hf://me", "hf://me/net/../../x", "hf://../x/y"):
        with pytest.raises(CheckpointError, match="hf://owner/name"):
            load(bad)


def test_newer_schema_is_refused(assets, tmp_path):
    data = (assets / "native_schema2.safetensors").read_bytes()
    (tmp_path / "new.safetensors").write_bytes(data.replace(rb"\"schema\": 2", rb"\"schema\": 9"))
    with pytest.raises(CheckpointError, match="schema 2. Received: schema=9. Update keras_mnasnet"):
        load(tmp_path / "new.safetensors")


def test_save_needs_an_ending_that_it_knows(tmp_path):
    with pytest.raises(ValueError, match="must end in .safetensors"):
        save(MnasNetSmall(weights=None), tmp_path / "x.h5")


def test_models_that_are_more_than_a_mnasnet_are_not_saved_as_one(tmp_path):
    base = MnasNetSmall(weights=None, include_top=False, pooling="avg", input_shape=(64, 64, 3))
    extended = keras.Model(base.input, keras.layers.Dense(5, name="out")(base.output))
    with pytest.raises(ValueError, match=r"no others. Received: other or missing layers \['out'\]"):
        save(extended, tmp_path / "x.safetensors")

    def relu6(layer):
        return keras.layers.ReLU(6.0, name=layer.name) if isinstance(layer, keras.layers.ReLU) else layer

    with pytest.raises(ValueError, match="no others. Received: other or missing layers"):
        save(keras.models.clone_model(base, clone_function=relu6), tmp_path / "x.safetensors")
    four = MnasNetSmall(weights=None, input_shape=(64, 64, 4), include_preprocessing=False)
    with pytest.raises(ValueError, match="3 channels"):
        save(four, tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def test_headless_checkpoints_and_models(tmp_path):
    model = MnasNetSmall(weights=None, include_top=False, input_shape=(64, 64, 3))
    save(model, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="must have a classifier"):
        MnasNetSmall(weights=tmp_path / "w.safetensors")
    again = MnasNetSmall(weights=tmp_path / "w.safetensors", include_top=False, input_shape=(64, 64, 3))
    np.testing.assert_array_equal(outputs(again), outputs(model))


def test_two_networks_in_one_checkpoint(google, tmp_path):
    _, tensors = google
    other = {name.replace("mnasnet-a1/", "other/", 1): value for name, value in tensors.items() if "/" in name}
    with pytest.raises(CheckpointError, match="one network. Received: mnasnet-a1, other"):
        load(write_tf1(tmp_path / "m", tensors | other))


def test_own_files_are_not_trusted_blindly(assets, tmp_path):
    tensors = load_file(assets / "native_schema2.safetensors")
    with safe_open(assets / "native_schema2.safetensors", framework="numpy") as file:
        header = json.loads(file.metadata()["keras_mnasnet"])

    def write(tensors, **changes):
        save_file(tensors, tmp_path / "x.safetensors", metadata={"keras_mnasnet": json.dumps(header | changes)})

    write(tensors)
    assert load(tmp_path / "x.safetensors").classes == 2
    write(tensors | {"stem_conv/kernel": np.full_like(tensors["stem_conv/kernel"], np.nan)})
    with pytest.raises(CheckpointError, match="must be finite float32"):
        load(tmp_path / "x.safetensors")
    for changes in (
        {"numerics": {"bn_epsilon": "q", "padding": "same"}},
        {"numerics": {"bn_epsilon": 0.001, "padding": "x"}},
        {"architecture": "stem8 head16"},
        {"classes": 3},
        {"numerics": 3},
    ):
        write(tensors, **changes)
        with pytest.raises(CheckpointError):
            load(tmp_path / "x.safetensors")
