"""The torch-free reader on files that torch wrote, and on hostile and broken ones."""

import io
import pickle
import zipfile

import numpy as np
import pytest
from fixtures import RECIPE
from writers import write_pth

from keras_mnasnet.weights import CheckpointError
from keras_mnasnet.weights.pth import read_pth

PTH = RECIPE / "pth"


@pytest.mark.parametrize(("name", "version"), [("zip_small", 2), ("legacy_small", 1)])
def test_reads_what_torch_wrote(name, version):
    arrays, received = read_pth(PTH / f"{name}.pth")
    expected = np.load(PTH / "expected.npz")
    assert received == version
    assert sorted(arrays) == sorted(expected.files)
    for key in expected.files:
        assert arrays[key].shape == expected[key].shape
        np.testing.assert_array_equal(arrays[key], expected[key], err_msg=key)


@pytest.mark.parametrize("name", ["malicious_zip", "malicious_legacy"])
def test_nothing_executes(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="posix.system, which was not run"):
        read_pth(PTH / f"{name}.pth")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["truncated", "truncated_legacy"])
def test_truncated(name):
    with pytest.raises(CheckpointError, match="truncated, damaged or other file.*Fetch it again"):
        read_pth(PTH / f"{name}.pth")


@pytest.mark.parametrize("legacy", [False, True])
def test_every_truncation_is_refused(legacy, tmp_path):
    whole = write_pth(tmp_path / "w.pth", {"a": np.arange(64, dtype=np.float32)}, legacy=legacy).read_bytes()
    for length in range(0, len(whole) - 1, 7):
        (tmp_path / "cut.pth").write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_pth(tmp_path / "cut.pth")


@pytest.mark.parametrize(
    "gadget", [("builtins", "eval"), ("os", "system"), ("torch", "load"), ("numpy", "load"), ("torch._utils", "__import__")]
)
def test_only_listed_globals_are_known(gadget, tmp_path):
    payload = b"\x80\x02c" + "\n".join(gadget).encode() + b"\n(X\x01\x00\x00\x001tR."
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("x/data.pkl", payload)
    with pytest.raises(CheckpointError, match=f"{gadget[0]}.{gadget[1]}, which was not run"):
        read_pth(tmp_path / "x.pth")


def test_other_contents_are_refused(tmp_path):
    for value, message in (([1, 2], "dict of tensors. Received: list"), ({"a": 1}, "'a' -> int")):
        buffer = io.BytesIO()
        pickle.dump(value, buffer, protocol=2)
        with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
            archive.writestr("x/data.pkl", buffer.getvalue())
        with pytest.raises(CheckpointError, match=message):
            read_pth(tmp_path / "x.pth")
    (tmp_path / "text.pth").write_text("<html>not found</html>")
    with pytest.raises(CheckpointError, match="truncated, damaged or other file"):
        read_pth(tmp_path / "text.pth")


def test_a_view_outside_its_storage_is_refused(tmp_path):
    path = write_pth(tmp_path / "x.pth", {"a": np.zeros((4, 4), np.float32)})
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files["x/data.pkl"] = files["x/data.pkl"].replace(b"K\x04K\x01\x86", b"K\x40K\x01\x86")  # strides (4, 1) -> (64, 1)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    with pytest.raises(CheckpointError, match="inside its storage of 16 values"):
        read_pth(path)


def test_a_wrapped_state_dict_is_unwrapped(tmp_path):
    arrays, version = read_pth(write_pth(tmp_path / "a.pth", {"x": np.ones(3, np.float32)}, version=None))
    assert version is None
    np.testing.assert_array_equal(arrays["x"], np.ones(3))
