"""What a file is, by its content: every kind that is no checkpoint is named, with the way on."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
from writers import TINY, Foreign, draw_timm, write_torch

from keras_mnasnet import CheckpointError, load
from keras_mnasnet.weights.formats.content import kind_of

HTML = b"<!DOCTYPE html>\n<html><head><title>Sign in - Hub</title></head><body>x</body></html>"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 8400000\n"
INDEX = b'{"metadata": {}, "weight_map": {"conv_stem.weight": "model-00001-of-00002.safetensors"}}'
S3 = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def arrays() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(3))
    return buffer.getvalue()


def array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    return buffer.getvalue()


KINDS = {  # what it is: its content, what is said
    "an LFS pointer": (LFS, "a Git LFS pointer to a file of 8,400,000 bytes, not the file itself. .*`git lfs pull`"),
    "an LFS pointer of Windows": (LFS.replace(b"\n", b"\r\n"), "a Git LFS pointer to a file of 8,400,000 bytes"),
    "an LFS pointer as PowerShell writes it": (LFS.decode().encode("utf-16"), "a Git LFS pointer to a file of 8,400,000 bytes"),
    "an LFS pointer in another order": (b"size 7\n" + LFS.replace(b"git-lfs", b"hawser"), "a Git LFS pointer to a file of 7 b"),
    "an annex pointer": (b"/annex/objects/SHA256E-s8--aa.pth\n", "git annex get"),
    "an HTML page": (HTML, r"an HTML page \('Sign in - Hub'\), not the file itself"),
    "a long HTML page": (b"\xef\xbb\xbf \n" + HTML.lower() + "é\n".encode() * 9000, r"an HTML page \('sign in - hub'\)"),
    "an XHTML page": (b'<?xml version="1.0"?>\n<!-- a --><!-- b -->' + HTML, "an HTML page"),
    "an HTML page in Latin-1": (HTML + b"\xe9\xff", "an HTML page"),
    "an index of shards": (INDEX, r"the index of a checkpoint in several files. Make one.*save_file\("),
    "an XML answer": (S3, "an XML text that begins with .*AccessDenied"),
    "a JSON answer": (b'{"error":"Entry not found"}', "a JSON text that begins with .*Entry not found"),
    "a text": (b"\xef\xbb\xbfNot found\r\n", "a text file that begins with 'Not found'"),
    "TensorFlow's list": (b'model_checkpoint_path: "model.ckpt-7"\n', "name the prefix in it, 'model.ckpt-7'"),
    "nothing": (b"", "an empty file. Fetch or copy it again"),
    "zeros": (bytes(9000), "9,000 bytes that begin with zeros"),
    "a JPEG": (b"\xff\xd8\xff\xe0" + bytes(40), "a photo: name the model first"),
    "a GIF": (b"GIF89a" + bytes(40), "a photo: name the model first"),
    "a study": (b"SQLite format 3\0" + bytes(90), "a study of a search"),
    "an .npy file": (array(), "a NumPy array"),
    "an .npz file": (arrays(), r"an .npz file of NumPy arrays \(1 files, 'a.npy'\)"),
    "a zip of checkpoints": (zipped({"a/model.pth": b"x", "b.pth": b"x"}), "unpack it and name 'a/model.pth', 'b.pth'"),
    "a zip of a text": (zipped({"a/model.pth": b"x", "b.txt": b"x"}), r"\(model.pth\), a text file that begins with 'x'"),
    "a zip of something": (zipped({"a.txt": b"x"}), r"a zip archive without a checkpoint \(1 files, 'a.txt'\)"),
    "an empty zip": (zipped({}), "a zip archive that is damaged or cut short"),
    "half a zip": (zipped({"a/b.txt": bytes(9000)})[:5000], "a zip archive that is damaged or cut short"),
    "gz": (gzip.compress(bytes(range(256)) * 40), "unpack it with gunzip"),
    "bz2": (bz2.compress(b"x" * 100), "unpack it with bunzip2"),
    "xz": (lzma.compress(b"x" * 100), "unpack it with unxz"),
    "another pickle": (pickle.dumps({"a": [1]}), "a pickle that torch.save did not write, of which nothing was run"),
    "a SavedModel": (b"\x08\x01\x12\x90\x02" + bytes(range(1, 200)), "a SavedModel of TensorFlow"),
    "torch.export": (
        zipped({"m/data/sample_inputs/model.pt": b"x", "m/models/model.json": b"{}", "m/archive_format": b"pt2"}),
        "a program of torch.export, of which nothing was run.*state_dict",
    ),
    "a tar of a checkpoint": (tarred({"a/best.pth": b"x"}), "Unpack it and name a/best.pth"),
    "a tar of PyTorch 0.1": (
        tarred({"sys_info": b"x", "pickle": b"x", "tensors": b"x", "storages": b"x"}), "PyTorch's format of 2016",
    ),
    "a tar of a SavedModel": (tarred({"m/saved_model.pb": b"x"}), "This is a SavedModel"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_checkpoint_is_named(kind, tmp_path):
    content, said = KINDS[kind]
    for name in ("model.safetensors", "weights"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=said) as caught:
            load(tmp_path / name)
        assert len(str(caught.value).splitlines()) == 1
        assert len(str(caught.value)) < 700
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("ending", [".pth", ".keras", ".weights.h5", ".bin", ".tgz"])
@pytest.mark.parametrize("kind", ["an LFS pointer", "an HTML page", "nothing", "zeros"])
def test_whatever_the_ending(kind, ending, tmp_path):
    content, said = KINDS[kind]
    (tmp_path / f"m{ending}").write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        load(tmp_path / f"m{ending}")


def test_one_of_several_files(tmp_path):
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    for path in (tmp_path, tmp_path / "model-00001-of-00002.safetensors"):
        with pytest.raises(CheckpointError, match="a part of a checkpoint in several files. Make one file of them"):
            load(path)
    (tmp_path / "model.ckpt-7.meta").write_bytes(b"\n\x01x")
    with pytest.raises(CheckpointError, match="the graph of a TF1 checkpoint, without its weights"):
        load(tmp_path / "model.ckpt-7.meta")


def test_whole_models_and_programs_of_pytorch(tmp_path):
    model = Foreign("timm.models.efficientnet", "EfficientNet", state={"_parameters": {}, "_modules": {}, "training": False})
    for value in (model, {"model": model, "epoch": 3}):
        for legacy in (False, True):
            with pytest.raises(
                CheckpointError,
                match=r"a whole model, timm.models.efficientnet.EfficientNet, as a pickle.*state_dict\(\)",
            ):
                load(write_torch(tmp_path / "m.pt", value, legacy=legacy))
    state = draw_timm()
    assert load(write_torch(tmp_path / "m.pt", {"model": model, "state_dict": state}), network=TINY).classes == 3
    write_torch(tmp_path / "s.pt", state)
    with zipfile.ZipFile(tmp_path / "s.pt", "a") as archive:
        archive.writestr("s/constants.pkl", b"x")
        archive.writestr("s/code/__torch__.py", b"x", zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="a TorchScript program, of which nothing was run.*torch.jit.load"):
        load(tmp_path / "s.pt")


def test_files_of_keras_2(tmp_path):
    import h5py

    with h5py.File(tmp_path / "w.weights.h5", "w") as file:
        file.attrs["layer_names"] = [b"conv"]
        file["conv/conv/kernel:0"] = np.ones(3)
    with pytest.raises(CheckpointError, match="w.weights.h5, weights of Keras 2"):
        load(tmp_path / "w.weights.h5")
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["model_config"] = "{}"
    with pytest.raises(CheckpointError, match=r"a whole model in Keras's legacy format.*save\('model.keras'\)"):
        load(tmp_path / "m.h5")


def test_folders_of_other_programs(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="This is a SavedModel"):
        load(tmp_path)
    (tmp_path / "saved_model.pb").unlink()
    (tmp_path / "__0_0.distcp").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="dcp_to_torch"):
        load(tmp_path)


def test_layers_that_would_be_far_larger_than_their_file(tmp_path):
    """They are refused before Keras makes them; a limit of the process would be reached otherwise."""
    import keras

    inputs = keras.Input((8, 8, 3))
    hidden = keras.layers.Conv2D(4, 3, name="wide")(inputs)
    hidden = keras.layers.Dense(5, name="middle")(keras.layers.GlobalAveragePooling2D()(hidden))
    keras.Model(inputs, keras.layers.Dense(2, name="last")(hidden)).save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for layers in (
        {"last": {"units": 10**9}},
        {"wide": {"filters": 10**12}},
        {"wide": {"filters": 10**5}, "middle": {"units": 10**5}},
        {"wide": {"kernel_size": [10**5, 10**5]}},
    ):
        config = json.loads(members["config.json"])
        for layer in config["config"]["layers"]:
            layer["config"] |= layers.get(layer["config"]["name"], {})
        (tmp_path / "big.keras").write_bytes(zipped({**members, "config.json": json.dumps(config).encode()}))
        with pytest.raises(CheckpointError, match="big.keras .*A model.* must have at most"):
            load(tmp_path / "big.keras")
    with pytest.raises(CheckpointError, match="another Keras model .*`mnasnet export .*m.keras -o FILE.tflite` takes it"):
        load(tmp_path / "m.keras")


@pytest.mark.parametrize(
    "content",
    [b"\x08\x07\x12\x07pytorch\x1a\x052.1.0:\x80\x01" + b"\n\x04node" * 30, b"\x08\x09:\x80\x01" + b"\n\x04node" * 30],
)
def test_onnx_is_known_by_its_content(content, tmp_path):
    (tmp_path / "x.bin").write_bytes(content)
    assert kind_of(tmp_path / "x.bin") == "onnx"
