"""The torch-free reader on files that torch wrote, and on hostile and broken ones."""

import io
import pickle
import zipfile

import numpy as np
import pytest
from fixtures import RECIPE
from writers import write_pth

from keras_mnasnet import CheckpointError, load
from keras_mnasnet.weights.formats.pth import open_pth

PTH = RECIPE / "pth"


def read_pth(path):
    """All arrays of a file, by name."""
    with open_pth(path) as file:
        return {name: file.read(name) for name in file.shapes}


@pytest.mark.parametrize("name", ["zip_small", "legacy_small"])
def test_reads_what_torch_wrote(name):
    arrays = read_pth(PTH / f"{name}.pth")
    expected = np.load(PTH / "expected.npz")
    assert sorted(arrays) == sorted(expected.files)
    for key in expected.files:
        assert arrays[key].shape == expected[key].shape
        np.testing.assert_array_equal(arrays[key], expected[key], err_msg=key)


@pytest.mark.parametrize("name", ["malicious_zip", "malicious_legacy"])
def test_nothing_executes(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_pth(PTH / f"{name}.pth") as file:
        assert "posix.system, which was not run" in file.others.values()
    with pytest.raises(CheckpointError, match="must be Google's"):
        load(PTH / f"{name}.pth")
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
def test_other_globals_are_placeholders(gadget, tmp_path):
    payload = b"\x80\x02c" + "\n".join(gadget).encode() + b"\n(X\x01\x00\x00\x001tR."
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("x/data.pkl", payload)
    with pytest.raises(CheckpointError, match=f"a dict of tensors. Received: {gadget[0]}.{gadget[1]}, which was not run"):
        read_pth(tmp_path / "x.pth")


def test_other_contents_are_refused(tmp_path):
    for value, message in (([1, 2], "dict of tensors. Received: list"), ({"a": 1}, "0 tensors named none, beside a")):
        buffer = io.BytesIO()
        pickle.dump(value, buffer, protocol=2)
        with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
            archive.writestr("x/data.pkl", buffer.getvalue())
        with pytest.raises(CheckpointError, match=message):
            load(tmp_path / "x.pth")
    (tmp_path / "text.pth").write_text("<html>not found</html>")
    with pytest.raises(CheckpointError, match="truncated, damaged or other file"):
        read_pth(tmp_path / "text.pth")


def edited(path, old: bytes, new: bytes) -> None:
    """Replace bytes of the pickle in a zip .pth file."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in files if name.endswith("data.pkl"))
    assert old in files[name]
    files[name] = files[name].replace(old, new)
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in files.items():
            archive.writestr(member, content)


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (b"K\x40K\x01\x86", r"inside its storage of 16 values. Received: shape \(4, 4\), strides \(64, 1\)"),
        (b"J\xff\xff\xff\xffK\x01\x86", "integer >= 0. Received: -1"),
        (b"NK\x01\x86", "integer >= 0. Received: None"),
    ],
)
def test_views_that_leave_their_storage_are_refused(new, message, tmp_path):
    path = write_pth(tmp_path / "x.pth", {"a": np.zeros((4, 4), np.float32)})
    edited(path, b"K\x04K\x01\x86", new)  # the strides (4, 1)
    with pytest.raises(CheckpointError, match=message):
        read_pth(path)


def test_views_larger_than_their_storage_are_refused(tmp_path):
    path = write_pth(tmp_path / "x.pth", {"a": np.zeros((1, 4), np.float32)})
    edited(path, b"K\x01K\x04\x86", b"J\x00\x00\x00\x40K\x04\x86")  # shape (2**30, 4) of 4 values
    edited(path, b"K\x04K\x01\x86", b"K\x00K\x00\x86")  # strides (0, 0)
    with pytest.raises(CheckpointError, match="inside its storage of 4 values"):
        read_pth(path)


STATE = b"}X\x01\x00\x00\x00aK\x01s"  # {"a": 1}


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (
            b"ctorch._utils\n_rebuild_tensor_v2\nN" + STATE + b"\x86b.",
            "Received: torch._utils._rebuild_tensor_v2, which was not run",
        ),  # set state on a function
        (b"ctorch\nFloatStorage\n" + STATE + b"b.", "Received: torch.FloatStorage, which was not run"),
        (b"K\x01)R.", "a int for a _Inert"),
        (b"cos\nsystem\nK\x01R.", "a int for a tuple"),
        (b"(ios\nsystem\n.", "Received: os.system, which was not run"),
        (b"(cos\nsystem\nX\x02\x00\x00\x00lso.", "Received: os.system, which was not run"),
        (b"\x82\x01.", "opcode EXT1"),
        (b"Px\n.", "opcode PERSID"),
        (b"ctorch._tensor\n_rebuild_from_type_v2\n)R.", "IndexError"),
        (b"X\x01\x00\x00\x00a" + b"\x85" * 5000 + b".", "Received: tuple"),
        (b"]" + b")" + b"\x85" * 5000 + b"K\x01s.", "a list for a dict"),
        (b"r\xff\xff\xff\x7f.", "IndexError"),
        (b"}r\xff\xff\xff\x7f00.", "IndexError"),
        (b"h\x07.", "KeyError"),
        (b"t.", "IndexError"),
        (b"Q.", "IndexError"),
        (b"K\x01Q.", "a int for a tuple"),
        (b"\x8a\xff", "ValueError"),
        (b"X\xff\xff\xff\x7fa.", "ValueError"),
    ],
)
def test_hostile_pickles(payload, message, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + payload)
    with pytest.raises(CheckpointError, match=message):
        read_pth(tmp_path / "x.pth")


def test_compressed_archives_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}." + b"\0" * 100_000)
    with pytest.raises(CheckpointError, match="not compressed"):
        read_pth(tmp_path / "x.pth")


BOMB = b")" + b"2\x86" * 60  # a tuple of 2 ** 60 empty ones


def test_a_key_is_never_hashed_unless_it_is_plain(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}" + BOMB + b"K\x01s.")
    with open_pth(tmp_path / "x.pth") as file:
        assert list(file.others.values()) == ["int"]


def test_dicts_of_every_kind_and_dicts_in_themselves(tmp_path):
    inner = b"X\x01\x00\x00\x00aK\x01"
    pairs = b"]](" + inner + b"ea\x85R"  # as Python 2 writes an OrderedDict: its pairs
    factory = b"ccollections\ndefaultdict\nc__builtin__\ndict\n\x85R"
    for made in (b"ccollections\nOrderedDict\n" + pairs, factory + inner + b"s"):
        with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
            archive.writestr("x/data.pkl", b"\x80\x02" + made + b".")
        with open_pth(tmp_path / "x.pth") as file:
            assert file.others == {"a": "int"}
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s" + inner.replace(b"a", b"b") + b"s.")
    with open_pth(tmp_path / "x.pth") as file:
        assert file.others == {"b": "int"}
