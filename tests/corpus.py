"""The corpus of hostile inputs: for every reader of the package a seed, mutated in a fixed order, and read in this process.

    python tests/corpus.py GROUP FOLDER --rounds N [--seed S]

Each input ends in a result or in one error (ValueError, OSError). Anything else is a finding: another exception, ten seconds
of work or a minute in all, a growth beyond half a gigabyte (the system gives no more than a whole one), a started process, a
connection, an import of a package that reading the seed did not need, a write outside of FOLDER. Printed is one JSON line for
each reader, with its counts and findings; the number of the input in work stands in FOLDER/at. `benchmarks/run_fuzz.py` starts
it and watches over it.
"""

import argparse
import contextlib
import copy
import dataclasses
import functools
import gzip
import importlib.util
import io
import json
import os
import random
import resource
import signal
import struct
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SECONDS = 10  # of CPU time
WAIT_SECONDS = 60
GROWTH = 512 * 2**20
LONGEST_MESSAGE = 4_000
ACCEPTED = (ValueError, OSError)
TINY = "tiny: stem8 r1_k3_s11_e1_i8_o8_noskip r1_k3_s22_e3_i8_o8_se0.25 head16"
VALUES = (
    None, True, -1, 0, 2**31, 2**63, 10**400, 1.5, 1e308, float("nan"), float("inf"), "", "x", "a\nb", "../../etc/passwd",
    "/etc/passwd", "9" * 5000, "\ud800", [], [None], {}, {"x": 1}, ["a", 1], [[[[]]]],
)  # fmt: skip
STARTS = (
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "os.spawn", "pty.spawn",
    "socket.connect", "ctypes.dlopen", "pickle.find_class", "os.kill",
)  # fmt: skip
CHANGES = (
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "shutil.rmtree",
)


@dataclasses.dataclass(frozen=True)
class Reader:
    """`seed` writes a file (or folder) and gives its path; `read` reads it; `inside` takes JSON out of it and puts it back."""

    name: str
    group: str
    seed: Callable[[Path], Path]
    read: Callable[[Path], Any]
    inside: tuple[Callable[[Path], Any], Callable[[Path, Any], None]] | None = None
    special: Callable[[Path], Iterator[None]] | None = None
    cost: int = 1  # an input of it for so many of others
    binary: bool = True


# Mutations


def of_bytes(content: bytes, rng: random.Random) -> bytes:
    """One mutation of a file's bytes."""
    kind = rng.randrange(8)
    at = rng.randrange(len(content)) if content else 0
    long = min(len(content), 2 ** rng.randrange(1, 12))
    if kind == 0:
        return content[:at]
    if kind in (1, 2):
        changed = bytearray(content)
        for _ in range(rng.choice((1, 1, 4, 64))):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    if kind == 3:
        return content[:at] + rng.randbytes(long) + content[at + long :]
    if kind == 4:
        return content[:at] + content[at + long :]
    if kind == 5:
        return content[:at] + content[at : at + long] * rng.choice((2, 50)) + content[at:]
    number = rng.choice((0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF))
    if kind == 6:
        return content[:at] + struct.pack(rng.choice("<>") + "I", number) + content[at + 4 :]
    return content[:at] + struct.pack(rng.choice("<>") + "Q", number << rng.choice((0, 32))) + content[at + 8 :]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in a JSON value; of long lists the first and the last."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for index in sorted({0, len(value) - 1} & set(range(len(value)))):
            yield from places(value[index], (*path, index))


def of_json(value: Any) -> Iterator[Any]:
    """Every field with every other type, without it, and with a field more; deep and long ones."""
    for path in places(value):
        for other in (*VALUES, *(("deep", "long") if len(path) == 1 else ()), "removed"):
            changed = copy.deepcopy(value)
            if not path:
                yield copy.deepcopy(other)
                continue
            inner = changed
            for key in path[:-1]:
                inner = inner[key]
            if other == "removed":
                del inner[path[-1]]
            elif other == "deep":
                inner[path[-1]] = deep(500)
            else:
                inner[path[-1]] = "x" * 1_000_000 if other == "long" else copy.deepcopy(other)
            yield changed
        found = copy.deepcopy(value)
        inner = found
        for key in path:
            inner = inner[key]
        if isinstance(inner, dict):
            inner["spoons"] = 3
            yield found


def deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


def dumps(value: Any) -> str:
    """JSON with what Python's own reader takes besides: NaN, lone surrogates, numbers of any length."""
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(value)
    finally:
        sys.set_int_max_str_digits(4300)


def texts_of(path: Path) -> Iterator[None]:
    """What no text file may do to its reader: depth, length, encodings, another kind of file."""
    for content in (
        b"",
        b"\0" * 4096,
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b"\xff\xfe" * 100,
        b" " * (65 * 2**20),
        b"\xef\xbb\xbf{}",
    ):
        path.write_bytes(content)
        yield
    path.unlink()
    yield
    os.mkfifo(path)
    yield
    path.unlink()
    path.mkdir()
    yield
    path.rmdir()


# Seeds


def checkpoint() -> Any:
    from keras_mnasnet.architecture import Architecture
    from keras_mnasnet.preprocessing import Preprocessing
    from keras_mnasnet.weights.checkpoint import Checkpoint, Numerics, Origin, expected_shapes

    network, rng = Architecture.parse(TINY), np.random.default_rng(0)
    tensors = {name: rng.random(shape, np.float32) for name, shape in expected_shapes(network, 2).items()}
    photos = Preprocessing(32, "bicubic", resize=36)
    return Checkpoint(
        network, Numerics(1e-3, "same"), 2, tensors, 32, ("cat", "dog"), photos, Origin("keras_mnasnet", "tiny", license="MIT")
    )  # fmt: skip


def seed_safetensors(folder: Path) -> Path:
    from keras_mnasnet.weights.formats.safetensors import write_native

    write_native(checkpoint(), folder / "x.safetensors")
    return folder / "x.safetensors"


def safetensors_header(path: Path) -> Any:
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["keras_mnasnet"])


def set_safetensors_header(path: Path, value: Any) -> None:
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    outer = json.loads(content[8 : 8 + length])
    outer["__metadata__"]["keras_mnasnet"] = dumps(value)
    text = json.dumps(outer).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def torch_state() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {"layers.0.weight": rng.random((8, 3, 3, 3), np.float32), "layers.1.num_batches_tracked": np.array(7)}


def seed_pth(folder: Path) -> Path:
    from writers import write_pth

    return write_pth(folder / "x.pth", torch_state())


def seed_pth_legacy(folder: Path) -> Path:
    from writers import write_pth

    return write_pth(folder / "x.pth", torch_state(), legacy=True)


def hostile_pth(path: Path) -> Iterator[None]:
    """Pickles that grow when they are printed, hashed, copied or walked."""
    head, start = b"\x80\x02", b"ccollections\nOrderedDict\n)R"
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuM\x00\x10tQ"

    def tensor(shape: bytes, strides: bytes) -> bytes:
        return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + shape + strides + b"\x89NtR"

    bomb = b")" + b"2\x86" * 60
    many = b"".join(
        b"X\x08\x00\x00\x00" + b"%08d" % number + tensor(b"M\x00\x10\x85", b"K\x01\x85") + b"s" for number in range(20_000)
    )
    payloads = [
        start + b"X\x01\x00\x00\x00a" + tensor(b"(" + b"K\x01" * 100_000 + b"t", b"(" + b"K\x01" * 100_000 + b"t") + b"s.",
        start + many + b".",
        bomb + b".",
        start + b"X\x01\x00\x00\x00a" + bomb + b"s.",
        start + bomb + b"K\x01s.",
        b"ctorch\nFloatStorage\n" + bomb + b"\x93.",
        bomb + bomb + b"\x93.",
        b")" + b"\x85" * 100_000 + b".",
        b"]" * 1_000_000 + b".",
        b"N" * 3_000_000 + b".",
        b"cos\nsystem\nX\x04\x00\x00\x00true\x85R.",
        b"(" * 100_000 + b"t.",
    ]
    for payload in payloads:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", head + payload)
            archive.writestr("x/data/0", bytes(4 * 4096))
        yield
        path.write_bytes(head + payload)
        yield
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(20_000):
            archive.writestr(f"x/{number}", b"")
    yield
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(200 * 2**20))
    yield


def seed_h5(folder: Path) -> Path:
    import h5py

    from keras_mnasnet.weights.formats.safetensors import to_header

    made = checkpoint()
    counts: dict[str, int] = {}
    with h5py.File(folder / "x.weights.h5", "w") as file:
        file["keras_mnasnet"] = to_header(made)
        layers: dict[str, list[np.ndarray]] = {}
        for name, value in made.tensors.items():
            layers.setdefault(name.rpartition("/")[0], []).append(value)
        endings = {"bn": "batch_normalization", "depthwise_conv": "depthwise_conv2d", "predictions": "dense", "": "conv2d"}
        for layer, values in layers.items():
            kind = next(kind for ending, kind in endings.items() if layer.endswith(ending))
            number = counts.get(kind, 0)
            counts[kind] = number + 1
            for index, value in enumerate(values):
                file[f"layers/{kind}{f'_{number}' if number else ''}/vars/{index}"] = value
    return folder / "x.weights.h5"


def h5_header(path: Path) -> Any:
    import h5py

    with h5py.File(path) as file:
        return json.loads(file["keras_mnasnet"][()])


def set_h5_header(path: Path, value: Any) -> None:
    import h5py

    with h5py.File(path, "a") as file:
        del file["keras_mnasnet"]
        file["keras_mnasnet"] = dumps(value)


def hostile_h5(path: Path) -> Iterator[None]:
    """Numbers that are none, tensors in other files, tensors of which nothing is stored."""
    import h5py

    name = "layers/conv2d/vars/0"
    content = path.read_bytes()
    shape = (3, 3, 3, 8)
    ways: list[Callable[[Any], Any]] = [
        lambda file: file.create_dataset(name, data=np.full(shape, np.nan, np.float32)),
        lambda file: file.create_dataset(name, data=np.full(shape, 1j)),
        lambda file: file.create_dataset(name, data=np.full(shape, "x", object)),
        lambda file: file.create_dataset(name, shape, np.float32, external=[("/etc/passwd", 0, 864)]),
        lambda file: file.create_dataset(name, (2**20, 2**20, 2**10), np.float32, chunks=(1, 1, 1)),
        lambda file: file.create_dataset(name, (2**28,), np.float32, chunks=(2**20,), compression="gzip"),
        lambda file: file.__setitem__(name, h5py.ExternalLink("/etc/passwd", "/x")),
        lambda file: file.__setitem__(name, h5py.SoftLink("/layers")),
        lambda file: file.create_group("/".join("abcdefgh" * 30)),
        lambda file: file.create_group(name),
    ]
    for way in ways:
        path.write_bytes(content)
        with h5py.File(path, "a") as file:
            del file[name]
            way(file)
        yield


def seed_keras(folder: Path) -> Path:
    from keras_mnasnet.loading import save

    save(checkpoint(), folder / "x.keras")
    return folder / "x.keras"


def zip_member(name: str) -> tuple[Callable[[Path], Any], Callable[[Path, Any], None]]:
    def get(path: Path) -> Any:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read(name))

    def put(path: Path, value: Any) -> None:
        with zipfile.ZipFile(path) as archive:
            members = {each: archive.read(each) for each in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for each, content in {**members, name: dumps(value).encode()}.items():
                archive.writestr(each, content)

    return get, put


def hostile_keras(path: Path) -> Iterator[None]:
    """Classes of other modules, classes that run code, archives that unpack a thousandfold."""
    config, put = zip_member("config.json")
    content, whole = path.read_bytes(), config(path)
    for module, name in (
        ("os", "system"),
        ("antigravity", "x"),
        ("keras.layers", "Lambda"),
        ("builtins", "exec"),
        (None, "Lambda"),
    ):
        path.write_bytes(content)
        changed = copy.deepcopy(whole)
        changed["config"]["layers"][1] |= {"module": module, "class_name": name}
        put(path, changed)
        yield
    for levels in (65, 900, 100_000):
        path.write_bytes(content)
        with zipfile.ZipFile(path) as archive:
            members = {each: archive.read(each) for each in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for each, inner in {**members, "config.json": b"[" * levels + b"]" * levels}.items():
                archive.writestr(each, inner)
        yield
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b" " * 2**28)
    yield


def seed_tgz(folder: Path) -> Path:
    from writers import write_tf1, write_tgz

    rng = np.random.default_rng(0)
    write_tf1(folder / "net" / "model.ckpt", {"net/mnas_stem/conv2d/kernel": rng.random((3, 3, 3, 8), np.float32)})
    return write_tgz(folder / "x.tgz", folder / "net")


def hostile_tgz(path: Path) -> Iterator[None]:
    """Flipped bits below the compression, members of other kinds, growth, depth."""
    plain, rng = gzip.decompress(path.read_bytes()), random.Random(7)
    for _ in range(60):
        path.write_bytes(gzip.compress(of_bytes(plain, rng), 1))
        yield
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE):
        with tarfile.open(path, "w:gz") as tar:
            info = tarfile.TarInfo("x.index")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        yield
    for name in ("../x.index", "/x.index", "a/../../x.index", "/".join("d" * 1500), "x\\..\\y", ""):
        with tarfile.open(path, "w:gz") as tar:
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
        yield
    for headers in (
        {"mtime": "inf"},
        {"mtime": "-1e30"},
        {"size": "9" * 30},
        {"path": "x" * 100_000},
        {"GNU.sparse.size": "1e9"},
    ):
        with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as tar:
            info = tarfile.TarInfo("x.index")
            info.pax_headers = headers
            tar.addfile(info)
        yield
    with gzip.open(path, "wb", 1) as file:
        info = tarfile.TarInfo("x.index")
        info.size = 2**30
        file.write(info.tobuf())
        for _ in range(1024):
            file.write(bytes(2**20))
    yield
    with tarfile.open(path, "w:gz") as tar:
        for number in range(11_000):
            tar.addfile(tarfile.TarInfo(f"{number}.index"))
    yield


def seed_run(folder: Path) -> Path:
    from keras_mnasnet.training.job import Facts, Job, write_run
    from keras_mnasnet.training.recipe import RECIPES

    facts = Facts(
        architecture=TINY, size=32, bn_epsilon=1e-3, padding="same", labels=("a", "b"), train_images=8, validation_images=2,
        steps_per_part=2, parts_per_epoch=1,
    )  # fmt: skip
    write_run(folder, Job(data="shapes", recipe=RECIPES["cifar10"]), facts)
    return folder / "run.json"


def read_run(path: Path) -> Any:
    from keras_mnasnet.training.job import read_run as read

    return read(path.parent)


def plain_json(path: Path) -> Any:
    return json.loads(path.read_text())


def set_plain_json(path: Path, value: Any) -> None:
    path.write_text(dumps(value))


PLAIN = plain_json, set_plain_json


def seed_recipe(folder: Path) -> Path:
    from keras_mnasnet.training.recipe import RECIPES, recipe_to_json

    (folder / "x.json").write_text(json.dumps(recipe_to_json(RECIPES["cifar10"])))
    return folder / "x.json"


def read_recipe(path: Path) -> Any:
    from keras_mnasnet.training.recipe import parse_recipe

    return parse_recipe(str(path))


def seed_log(folder: Path) -> Path:
    from keras_mnasnet.training.job import COLUMNS, write_log

    write_log(folder / "log.csv", [dict.fromkeys(COLUMNS, "1"), dict.fromkeys(COLUMNS, "2")])
    return folder / "log.csv"


def read_log(path: Path) -> Any:
    from keras_mnasnet.training.job import numbers
    from keras_mnasnet.training.job import read_log as read

    return [numbers(row) for row in read(path)]


def seed_tflite(folder: Path) -> Path:
    from tiny import metadata, write_tiny

    path = write_tiny(folder / "x.tflite", normalization=metadata([1.0], [2.0]))
    photos = {"size": 8, "interpolation": "bicubic", "resize": 9, "crop_fraction": None, "mean": [0.5] * 3, "std": [0.5] * 3}
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.txt", "red\ngreen\nblue\n")
        archive.writestr("export.json", json.dumps({"schema": 1, "preprocessing": photos}))
    return path


def set_tflite_report(path: Path, value: Any) -> None:
    seed_tflite(path.parent)
    with zipfile.ZipFile(path) as archive:
        start = min(info.header_offset for info in archive.infolist())
    with path.open("r+b") as file:
        file.truncate(start)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.txt", "red\ngreen\nblue\n")
        archive.writestr("export.json", dumps(value))


def read_tflite(path: Path) -> Any:
    from keras_mnasnet.export.file import TfliteFile

    file = TfliteFile(path)
    return file.facts, file.labels, file.report, file.preprocessing, file.normalization


def seed_uint8(folder: Path) -> Path:
    from graphs import AUTOML, LINEAR, drawn, write_uint8

    return write_uint8(folder / "x.tflite", drawn(LINEAR, size=32, normalization=AUTOML))


def seed_tfjs(folder: Path) -> Path:
    from graphs import GATED, drawn, write_tfjs

    return write_tfjs(folder / "model.json", drawn(GATED, size=32), quantized="uint8")


def hostile_tfjs(path: Path) -> Iterator[None]:
    """Shards that lead elsewhere, are pipes, are missing, cut short or too long; then what no text file may do."""
    value, shard = json.loads(path.read_text()), path.with_name("group1-shard1of2.bin")
    content = shard.read_bytes()
    paths = value["weightsManifest"][0]["paths"]
    for many in (paths * 500, [paths[0]] * 2):  # one shard many times
        path.write_text(json.dumps({**value, "weightsManifest": [{**value["weightsManifest"][0], "paths": many}]}))
        yield
    path.write_text(json.dumps({**value, "weightsManifest": value["weightsManifest"] * 2_000}))
    yield
    for name in ("/etc/passwd", "../../etc/passwd", "a/../../x", "", ".", "\\x", "x" * 5000, "\0"):
        value["weightsManifest"][0]["paths"][0] = name
        path.write_text(json.dumps(value))
        yield
    value["weightsManifest"][0]["paths"][0] = shard.name
    path.write_text(json.dumps(value))
    for changed in (b"", content[:-1], content * 2):
        shard.write_bytes(changed)
        yield
    shard.unlink()
    yield
    os.mkfifo(shard)
    yield
    shard.unlink()
    shard.write_bytes(content)
    yield from texts_of(path)


def seed_pb(folder: Path) -> Path:
    from graphs import GATED, drawn, write_pb

    return write_pb(folder / "x.pb", drawn(GATED, size=32), normalized=True)


def hostile_pb(path: Path) -> Iterator[None]:
    """Constants that are said to be larger than they are, nodes in a circle, one node many times, depths."""
    content = path.read_bytes()
    name, kind = b"\x0a\x01c", b"\x12\x05Const"
    for shape in (b"\x12\x02\x08\x05", b"\x12\x0a\x08" + b"\xff" * 8 + b"\x7f", b"\x12\x06\x08\xff\xff\xff\xff\x07" * 9):
        tensor = b"\x08\x01\x12" + bytes([len(shape)]) + shape + b"\x2a\x04\0\0\x80?"
        attribute = b"\x0a\x05value\x12" + bytes([len(tensor) + 2]) + b"\x42" + bytes([len(tensor)]) + tensor
        node = name + kind + b"\x2a" + bytes([len(attribute)]) + attribute
        path.write_bytes(content + b"\x0a" + bytes([len(node)]) + node)
        yield
    circle = b"".join(b"\x0a\x0d\x0a\x01%c\x12\x03Add\x1a\x01%c\x1a\0" % pair for pair in ((97, 98), (98, 97)))
    for changed in (content + circle, content * 2, content * 200, b"\x0a\0" * 500_000, b"\x0a\x02\x2a\0" * 100_000):
        path.write_bytes(changed)
        yield
    yield from texts_of(path)


def seed_spec(folder: Path) -> Path:
    from keras_mnasnet.detection.spec import DetectorSpec

    network = (
        "stem8 r1_k3_s11_e1_i8_o8_noskip r1_k3_s22_e3_i8_o8 r1_k3_s22_e3_i8_o8 r1_k3_s22_e3_i8_o8 r1_k3_s22_e3_i8_o8 head16"
    )
    (folder / "x.json").write_text(
        DetectorSpec(backbone=network, input_size=96, labels=("ship", "boat"), category_ids=(1, 2)).to_json()
    )
    return folder / "x.json"


def read_spec(path: Path) -> Any:
    from keras_mnasnet.detection.spec import DetectorSpec
    from keras_mnasnet.utils.reading import read_bytes

    return DetectorSpec.from_json(read_bytes(path, "A detector's description").decode("utf-8", "replace")).layers()


def seed_table(folder: Path) -> Path:
    from keras_mnasnet.search.latency import TABLE_KIND, TABLE_SCHEMA

    value = {
        "schema": TABLE_SCHEMA, "kind": TABLE_KIND, "resolution": 32, "classes": 10, "scale": 1.1, "ms": {"a": 0.5, "b": 1},
        "check": {"percent_off": 3.5},
    }  # fmt: skip
    (folder / "x.json").write_text(json.dumps(value))
    return folder / "x.json"


def read_table(path: Path) -> Any:
    from keras_mnasnet.search.latency import TableLatency

    return TableLatency.open(path)


def seed_coco(folder: Path) -> Path:
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 8, 8], "area": 64, "iscrowd": 0}
    photo = {"id": 1, "file_name": "1.png", "width": 32, "height": 32}
    value = {"images": [photo], "annotations": [box, {**box, "id": 2}], "categories": [{"id": 1, "name": "box"}]}
    (folder / "x.json").write_text(json.dumps(value))
    (folder / "photos").mkdir(exist_ok=True)
    (folder / "photos" / "1.png").write_bytes(b"x")
    return folder / "x.json"


def read_coco(path: Path) -> Any:
    from keras_mnasnet.detection.annotations import read_truth

    return read_truth(path)


def read_dataset(path: Path) -> Any:
    from keras_mnasnet.detection.data import open_dataset

    dataset = open_dataset(path, path.parent / "photos")
    if not np.isfinite(dataset.boxes).all() or any("photos" not in dataset.where(at) for at in range(dataset.count)):
        raise AssertionError("boxes that are none, or photos outside of their folder")
    return dataset


def hostile_coco(path: Path) -> Iterator[None]:
    """As many categories and annotations as make slow what counts them by pairs."""
    value = json.loads(path.read_text())
    yield from texts_of(path)
    path.write_text(json.dumps({**value, "categories": [{"id": n, "name": f"c{n}"} for n in range(50_000)]}))
    yield
    path.write_text(json.dumps({**value, "categories": [{"id": n, "name": f"c{n}"} for n in range(150_000)]}))
    yield


def seed_results(folder: Path) -> Path:
    row = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}
    (folder / "x.json").write_text(json.dumps([row, row]))
    return folder / "x.json"


def read_results(path: Path) -> Any:
    from keras_mnasnet.detection.annotations import read_results as read

    return read(path)


VOC = (
    "<annotation><filename>1.png</filename><size><width>32</width><height>32</height></size><object><name>box</name>"
    "<bndbox><xmin>4</xmin><ymin>4</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
)


def seed_voc(folder: Path) -> Path:
    (folder / "xml").mkdir(exist_ok=True)
    (folder / "xml" / "1.xml").write_text(VOC)
    return folder / "xml" / "1.xml"


def read_voc(path: Path) -> Any:
    from keras_mnasnet.detection.annotations import read_truth

    truth = read_truth(path.parent)
    if not all(np.isfinite(row["bbox"]).all() for row in truth.annotations):
        raise AssertionError("boxes that are none")
    return truth


def hostile_voc(path: Path) -> Iterator[None]:
    """Every element with other texts, entities, encodings, depth."""
    yield from texts_of(path)
    for element in ("1.png", "32", "box", "4", "9"):
        for text in ("nan", "inf", "-1", "1e400", "9" * 5000, "", " ", "a&#10;b", "../../etc/passwd", "/etc/passwd", "<b/>"):
            path.write_text(VOC.replace(f">{element}<", f">{text}<"))
            yield
    lol = "".join(f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 10))
    heads = (
        *(f"<?xml version='1.0' encoding='{encoding}'?>" for encoding in ("utf-99", "utf-16", "idna", "zlib")),
        f"<!DOCTYPE x [<!ENTITY a0 'lol'>{lol}]>", "<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]>",
        "<!DOCTYPE x SYSTEM 'file:///etc/passwd'>",
    )  # fmt: skip
    for head in heads:
        for body in (VOC, VOC.replace(">box<", ">&a9;<"), VOC.replace(">box<", ">&a;<")):
            path.write_text(head + body)
            yield
    path.write_text("<a>" * 200_000)
    yield
    path.write_text("<annotation>" + "<object/>" * 300_000 + "</annotation>")
    yield


TOOL = (
    "INFO: Inference timings in us: Init: 1000, First inference: 900, Warmup (avg): 800, Inference (avg): 750.5\n"
    "count=10 first=800 curr=790 min=700 max=900 avg=800 std=5\n"
    "count=50 first=800 curr=790 min=700 max=900 avg=750.5 std=5 p5=701 median=745 p95=880\n"
    "zone cpu-0 45000\nclock 0 1000 2000 schedutil\nclock 1 1000 3000 schedutil\n  temperature: 300\n"
    "List of devices attached\nemulator-5554 device product:x\n[ro.product.cpu.abi]: [arm64-v8a]\n"
)


def seed_tool(folder: Path) -> Path:
    (folder / "x.txt").write_text(TOOL)
    return folder / "x.txt"


def read_tool(path: Path) -> Any:
    from keras_mnasnet.benchmarks import phone

    text = path.read_text("utf-8", "replace")

    class Stub(phone.AdbDevice):
        def shell(self, command: str, *, timeout: float = 1.0) -> tuple[int, str]:
            return 0, text

    state = Stub("x").state()
    mask = phone.mask_of({each["core"]: each["max_clock_khz"] for each in state["cores"] if each["max_clock_khz"]}, 4)
    if mask and len(mask) > 256:
        raise AssertionError("a mask of more cores than there are")
    with contextlib.suppress(OSError):
        phone.choose_device(text, None)
    return phone.parse_output(text), phone.pooled([phone.parse_output(text)])


def hostile_tool(path: Path) -> Iterator[None]:
    for old in ("count=50", "count=10", "750.5", "clock 0", "clock 1", "2000", "45000", "300", "700"):
        for new in (
            "count=0",
            "count=-1",
            "0",
            "-5",
            "nan",
            "1e999",
            "9" * 30,
            "9" * 5000,
            "clock 99999999999999999",
            "\u00b2",
        ):
            path.write_text(TOOL.replace(old, new))
            yield


def seed_network(folder: Path) -> Path:
    (folder / "x.txt").write_text(TINY)
    return folder / "x.txt"


def read_network(path: Path) -> Any:
    from keras_mnasnet.architecture import Architecture

    return Architecture.parse(path.read_text("utf-8", "replace")).params()


def hostile_network(path: Path) -> Iterator[None]:
    for old in ("r1", "k3", "s22", "e3", "i8", "o8", "se0.25", "stem8", "head16"):
        for digits in ("100000", "0", "9" * 30, "9" * 5000, "\u00b2", "1.5"):
            path.write_text(TINY.replace(old, old.rstrip("0123456789.") + digits))
            yield
    path.write_text("stem8 " + "r1000_k3_s11_e1_i8_o8 " * 4000 + "head16")
    yield


def seed_state(folder: Path) -> Path:
    from keras_mnasnet.training.engine import Position, write_state

    write_state(folder / "checkpoint.safetensors", {"model:0000:x": np.ones(3, np.float32)}, Position())
    return folder / "checkpoint.safetensors"


def state_header() -> tuple[Callable[[Path], Any], Callable[[Path, Any], None]]:
    def outer(path: Path) -> tuple[dict[str, Any], bytes, str]:
        content = path.read_bytes()
        length = struct.unpack("<Q", content[:8])[0]
        value = json.loads(content[8 : 8 + length])
        return value, content[8 + length :], next(iter(value["__metadata__"]))

    def get(path: Path) -> Any:
        value, _, key = outer(path)
        return json.loads(value["__metadata__"][key])

    def put(path: Path, header: Any) -> None:
        value, rest, key = outer(path)
        value["__metadata__"][key] = dumps(header)
        text = json.dumps(value).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + rest)

    return get, put


def read_state(path: Path) -> Any:
    from keras_mnasnet.training.engine import read_state as read

    return read(path)


def seed_config(folder: Path) -> Path:
    from keras_mnasnet import hub
    from keras_mnasnet.spec import describe

    (folder / "config.json").write_text(json.dumps(hub._config(describe(checkpoint().model()), "tiny", True)))
    return folder / "config.json"


def read_config(path: Path) -> Any:
    from keras_mnasnet import hub
    from keras_mnasnet.utils.reading import read_json

    value = read_json(path, "config.json")
    if not isinstance(value, dict):
        raise ValueError("no object")
    return hub._parse(value, "here")


def seed_images(folder: Path) -> Path:
    with tarfile.open(folder / "x.tar", "w") as tar:
        for name in ("a/1.png", "b/2.png"):
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"png"))
    return folder / "x.tar"


def read_images(path: Path) -> Any:
    from keras_mnasnet.data import open_images

    images = open_images(path)
    return [images.where(at) for at in range(images.count)]


def load(path: Path) -> Any:
    from keras_mnasnet.loading import load as read

    return read(path)


def read_pth(path: Path) -> Any:
    from keras_mnasnet.weights.formats.pth import open_pth

    with open_pth(path) as file:
        return {name: file.read(name) for name in file.shapes}


def seed_training(folder: Path) -> Path:
    """What a training run writes: wrapped weights, averaged ones, an optimizer's state, settings."""
    from writers import Foreign, draw_timm, write_torch

    state = draw_timm()
    moments = {number: {"exp_avg": value * 2} for number, value in enumerate(state.values())}
    value = {
        "state_dict": draw_timm(1, prefix="module."), "state_dict_ema": state, "optimizer": {"state": moments}, "epoch": 3,
        "args": Foreign("argparse", "Namespace", state={"lr": 0.1}),
    }  # fmt: skip
    return write_torch(folder / "x.ckpt", value)


def read_training(path: Path) -> Any:
    from writers import TINY as NETWORK

    from keras_mnasnet.loading import load as read

    return read(path, network=NETWORK)


def run_tflite(path: Path) -> Any:
    """LiteRT itself runs what our reader lets through."""
    import absl.logging  # noqa: F401  (which a warning needs)

    from keras_mnasnet.export.classifier import FileClassifier

    classifier = FileClassifier(path, threads=1)
    return classifier.run(np.zeros((1, classifier.size, classifier.size, 3), np.float32))


def seed_onnx(folder: Path) -> Path:
    from onnx import helper, numpy_helper

    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["a"]), helper.make_node("Flatten", ["a"], ["b"]),
        helper.make_node("Gemm", ["b", "weights"], ["scores"]),
    ]  # fmt: skip
    ports = [helper.make_tensor_value_info("image", 1, ["N", 3, 8, 8]), helper.make_tensor_value_info("scores", 1, ["N", 3])]
    weights = numpy_helper.from_array(np.eye(3, dtype=np.float32), "weights")
    graph = helper.make_graph(nodes, "tiny", ports[:1], ports[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    photos = {"size": 8, "interpolation": "bicubic", "resize": 9, "crop_fraction": None, "mean": [0.5] * 3, "std": [0.5] * 3}
    report = json.dumps({"schema": 1, "preprocessing": photos})
    texts = {"labels.txt": "red\ngreen\nblue\n", "export.json": report, "normalization": '{"mean": [1.0], "std": [2.0]}'}
    helper.set_model_props(model, texts)
    (folder / "x.onnx").write_bytes(model.SerializeToString())
    return folder / "x.onnx"


def seed_onnx_network(folder: Path) -> Path:
    from graphs import GATED, drawn

    from keras_mnasnet.export.graph import folded_weights
    from keras_mnasnet.export.onnx_graph import write_onnx

    held = drawn(GATED)
    weights = folded_weights(held.architecture, held.tensors, classes=3, bn_epsilon=held.numerics.bn_epsilon)
    (folder / "x.onnx").write_bytes(write_onnx(held.architecture, weights, height=32, width=32, classes=3))
    return folder / "x.onnx"


def hostile_onnx(path: Path) -> Iterator[None]:
    """Tensors in other files, of more values than there are, of negative or no sides; graphs in graphs; one many times."""
    import onnx
    from onnx import TensorProto, helper

    content = path.read_bytes()

    def changed(change: Callable[[Any], Any]) -> None:
        model = onnx.ModelProto.FromString(content)
        change(model)
        path.write_bytes(model.SerializeToString())

    def outside(model: Any, place: str) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", place), ("offset", "0"), ("length", "36")):
            tensor.external_data.add(key=key, value=value)

    def nested(model: Any) -> None:
        inner = helper.make_graph([helper.make_node("Identity", ["image"], ["y"])], "g", [], [model.graph.output[0]])
        for _ in range(25):
            node = helper.make_node("If", ["image"], ["scores"], then_branch=inner)
            inner = helper.make_graph([node], "g", [], [model.graph.output[0]])
        model.graph.node.append(node)

    def sides(model: Any, values: tuple[int, ...]) -> None:
        model.graph.initializer[0].dims[:] = values

    def many(model: Any, what: str) -> None:
        rows = getattr(model.graph, what)
        rows.extend([rows[0]] * 10_000)

    def function(model: Any) -> None:
        model.opset_import.append(helper.make_opsetid("mine", 1))
        model.functions.append(
            helper.make_function("mine", "F", ["x"], ["y"], [helper.make_node("F", ["x"], ["y"], domain="mine")], [])
        )
        model.graph.node[0].domain, model.graph.node[0].op_type = "mine", "F"

    ways: list[Callable[[Any], Any]] = [
        *(functools.partial(outside, place=place) for place in ("/etc/passwd", "../../etc/passwd", "x.onnx", "", "\0")),
        *(functools.partial(sides, values=values) for values in ((-3, -3), (2**62, 2), (0,), (1,) * 64, (2**31, 2**31))),
        *(functools.partial(many, what=what) for what in ("initializer", "node", "input")),
        nested, function, lambda model: model.graph.node[0].input.append(model.graph.node[0].output[0]),
        lambda model: model.graph.node[0].ClearField("output"), lambda model: model.graph.initializer[0].ClearField("raw_data"),
        lambda model: setattr(model.graph.initializer[0], "data_type", TensorProto.STRING),
        lambda model: setattr(model.graph.initializer[0], "data_type", 99), lambda model: setattr(model, "ir_version", 2**62),
        lambda model: helper.set_model_props(model, {"labels.txt": "\x1b[2J\na\nb", "export.json": "[" * 100_000}),
        lambda model: setattr(model.graph.node[0], "op_type", "x" * 1_000_000),
        lambda model: setattr(model.graph.node[0], "domain", "com.microsoft"),
    ]  # fmt: skip
    for way in ways:
        changed(way)
        yield


def onnx_report(path: Path) -> Any:
    import onnx

    return json.loads(next(each.value for each in onnx.load(path).metadata_props if each.key == "export.json"))


def set_onnx_report(path: Path, value: Any) -> None:
    import onnx

    model = onnx.load(seed_onnx(path.parent))
    next(each for each in model.metadata_props if each.key == "export.json").value = dumps(value)
    path.write_bytes(model.SerializeToString())


def run_onnx(path: Path) -> Any:
    """ONNX Runtime itself runs what our reader lets through."""
    import absl.logging  # noqa: F401  (which a warning needs)

    from keras_mnasnet.export.classifier import FileClassifier

    classifier = FileClassifier(path, threads=1)
    file = classifier.file
    said = file.facts, file.report, file.preprocessing, file.normalization
    return said, classifier.run(np.zeros((1, classifier.size, classifier.size, 3), np.float32))


def fields(*pairs: tuple[int, bytes | int]) -> bytes:
    """A message of protocol buffers: numbers, and bytes of any length."""
    return b"".join(
        varint(number << 3 | 2) + varint(len(value)) + value
        if isinstance(value, bytes)
        else varint(number << 3) + varint(value)
        for number, value in pairs
    )


def varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def mindspore(name: str, shape: bytes, content: bytes, kind: bytes = b"Float32") -> bytes:
    return fields((1, fields((1, name.encode()), (2, fields((1, shape), (2, kind), (3, content))))))


def seed_mindspore(folder: Path) -> Path:
    (folder / "x.ckpt").write_bytes(mindspore("a.weight", b"\2\3", bytes(24)) + mindspore("b.weight", b"\4", bytes(16)))
    return folder / "x.ckpt"


def read_mindspore(path: Path) -> Any:
    from keras_mnasnet.weights.formats.mindspore import open_mindspore

    file = open_mindspore(path)
    return {name: file.read(name) for name in file.shapes}


def hostile_mindspore(path: Path) -> Iterator[None]:
    """Shapes of millions of sides, sizes that are none, tensors without bytes, fields without end, messages in messages."""
    inner = b""
    for _ in range(2_000):
        inner = fields((1, inner))
    for content in (
        *(mindspore("a", shape, b"") for shape in (b"\xff" * 9 + b"\1", b"\xff" * 12, varint(2**63) * 2)),
        mindspore("a", b"\0" + varint(2**62), b""), mindspore("a", b"\1" * 5_000_000, b""),
        mindspore("a" * 1_000_000, b"\1", bytes(4)), mindspore("a", b"\1", bytes(4), b"\xff\xfe"), b"\x0a\0" * 600_000,
        fields((1, fields((1, b"a"), *[(2, b"")] * 500_000))), b"\x0a" + varint(2**63), inner,
        mindspore("a", b"\1", bytes(4)) * 11_000, fields((1, fields((1, b"a"), (2, 7)))),
    ):  # fmt: skip
        path.write_bytes(content)
        yield
    yield from texts_of(path)


def seed_zip(folder: Path) -> Path:
    content = seed_safetensors(folder).read_bytes()
    with zipfile.ZipFile(folder / "x.zip", "w") as archive:
        archive.writestr("inner/x.safetensors", content)
        archive.writestr("inner/README.md", "x")
    return folder / "x.zip"


def hostile_zip(path: Path) -> Iterator[None]:
    """Archives in archives, bombs, wrong checksums and sizes, members that overlap, names that lead elsewhere."""
    with zipfile.ZipFile(path) as archive:
        weights = archive.read("inner/x.safetensors")
    whole = path.read_bytes()
    names = (
        "../x.safetensors", "/etc/x.safetensors", "a/../../x.safetensors", "x\\y.safetensors", f"{'x' * 5000}.safetensors",
        "/".join("d" * 1500) + "/x.safetensors", ".safetensors", "a\nb.safetensors", "\x1b[2J.safetensors", "x.safetensors/",
        "..pth", "a.pth\0b",
    )  # fmt: skip
    for name in names:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, weights)
        yield
    for name, content in (("x.zip", whole), ("x.tgz", gzip.compress(whole)), ("x.pth", bytes(50 * 2**20)), ("x.keras", whole)):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, content)
        yield
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("x.safetensors", weights + bytes(30 * 2**20))
        yield
    with zipfile.ZipFile(path, "w") as archive:  # a link
        info = zipfile.ZipInfo("x.safetensors")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    yield
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(50):
            archive.writestr(f"{number}.safetensors", weights)
    yield
    for old, new in (
        (weights[100:110], b"0123456789"),
        (b"PK\x01\x02", b"PK\x01\x03"),
        (struct.pack("<I", len(weights)), b"\xff\xff\xff\x7f"),
    ):
        path.write_bytes(whole.replace(old, new))
        yield
    yield from texts_of(path)


def seed_fit(folder: Path) -> Path:
    from keras_mnasnet.benchmarks.emulator import FitRow, fitted

    rows = [FitRow("a1", 78.0, 300_000_000), FitRow("a1-0.5", 32.0, 110_000_000), FitRow("small", 23.0, 70_000_000)]
    (folder / "x.json").write_text(json.dumps(fitted(rows, phone="mine", core="cortex-a72", litert="2").to_json()))
    return folder / "x.json"


def read_fit(path: Path) -> Any:
    from keras_mnasnet.benchmarks.emulator import parse_emulated

    _, fit = parse_emulated(str(path))
    return json.dumps(fit.to_json()), float(fit.ms(10**9))


DATA_YAML = "path: .\ntrain: photos\nval: photos\nnc: 2\nnames:\n  0: cat\n  1: dog\nkpt_shape: [2, 3]\n"


def seed_yolo(folder: Path) -> Path:
    (folder / "photos").mkdir()
    for number in range(20):
        (folder / "photos" / f"{number}.jpg").write_bytes(b"x")
        (folder / "photos" / f"{number}.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (folder / "data.yaml").write_text(DATA_YAML)
    return folder / "data.yaml"


def read_yolo(path: Path) -> Any:
    from keras_mnasnet.detection.yolo import layout_of
    from keras_mnasnet.detection.yolo import read_yolo as read

    layout_of(path)
    return read(path, None, "train")


def hostile_yolo(path: Path) -> Iterator[None]:
    """Aliases, tags, one folder named thousands of times, numbers without end; then what no text file may do."""
    for content in (
        "a: &a [x, x]\nb: &b [*a, *a]\nnames: *b\n", "names: !!python/object/apply:os.system [true]\n", "? [names]\n: [a]\n",
        DATA_YAML.replace("train: photos", f"train: [{'photos,' * 10_000}]"), DATA_YAML.replace("[2, 3]", f"[{'9' * 4000}, 3]"),
        DATA_YAML.replace("0: cat", f"{'9' * 5000}: cat"), DATA_YAML.replace("0: cat", "99999999: cat"), "[" * 5000,
        DATA_YAML.replace("cat", '"\\e[2J"'), DATA_YAML.replace("path: .", "path: /proc/self/fd"), "names: {a: {b: c}}\n" * 3,
        DATA_YAML.replace("train: photos", f"train: {'../' * 3000}etc"), DATA_YAML.replace("train: photos", "train: /dev/zero"),
        "names: " + "- " * 10_000, "names: [" + "a, b, " * 15_000 + "]",
        "%YAML 9.9\n---\n" + DATA_YAML, DATA_YAML.replace("cat", "2001-01-01"),
    ):  # fmt: skip
        path.write_text(content)
        yield
    yield from texts_of(path)


def seed_labels(folder: Path) -> Path:
    (folder / "labels.txt").write_text("cat\ndog\n")
    return folder / "labels.txt"


def read_labels(path: Path) -> Any:
    from keras_mnasnet.utils.reading import read_names

    return read_names(path, "The labels")


def hostile_labels(path: Path) -> Iterator[None]:
    """A gigabyte that takes no space, more classes than there are, names that a terminal would obey."""
    with path.open("wb") as file:
        file.truncate(2**30)
    yield
    for content in (
        "x\n" * 200_000,
        "x" * 10_000,
        "\x1b]0;mine\x07\n",
        "\x9b2J\n",
        "a\x08b\n",
        "\n" * 1_000_000,
        "cat\u2028dog\n",
    ):
        path.write_text(content)
        yield
    yield from texts_of(path)


def read_tgz(path: Path) -> Any:
    from keras_mnasnet.loading import open_tensors

    with open_tensors(path) as file:
        return {name: file.read(name) for name in file.shapes}


HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))  # the extra [onnx]
SAFE = safetensors_header, set_safetensors_header
READERS = (
    Reader("safetensors", "light", seed_safetensors, load, SAFE),
    Reader("pth", "light", seed_pth, read_pth, None, hostile_pth),
    Reader("pth_legacy", "light", seed_pth_legacy, read_pth, None, hostile_pth),
    Reader("training_run", "light", seed_training, read_training),
    Reader("weights.h5", "light", seed_h5, load, (h5_header, set_h5_header), hostile_h5),
    Reader("run.json", "light", seed_run, read_run, PLAIN, texts_of),
    Reader("recipe", "light", seed_recipe, read_recipe, PLAIN, texts_of),
    Reader("log.csv", "light", seed_log, read_log, None, texts_of),
    Reader("tflite", "light", seed_tflite, read_tflite, (zip_member("export.json")[0], set_tflite_report), texts_of),
    Reader("litert", "light", seed_tflite, run_tflite),
    Reader("tflite_network", "light", seed_uint8, load, None, texts_of),
    *((
        Reader("onnx", "light", seed_onnx, run_onnx, (onnx_report, set_onnx_report), hostile_onnx),
        Reader("onnx_network", "light", seed_onnx_network, load, None, hostile_onnx),
    ) if HAS_ONNX else ()),
    Reader("mindspore", "light", seed_mindspore, read_mindspore, None, hostile_mindspore),
    Reader("zip", "light", seed_zip, load, None, hostile_zip),
    Reader("phone_fit", "light", seed_fit, read_fit, PLAIN, texts_of),
    Reader("yolo", "light", seed_yolo, read_yolo, None, hostile_yolo),
    Reader("labels", "light", seed_labels, read_labels, None, hostile_labels),
    Reader("detector", "light", seed_spec, read_spec, PLAIN, texts_of),
    Reader("latency_table", "light", seed_table, read_table, PLAIN, texts_of),
    Reader("coco", "light", seed_coco, read_coco, PLAIN, hostile_coco),
    Reader("coco_results", "light", seed_results, read_results, PLAIN, texts_of),
    Reader("voc", "light", seed_voc, read_voc, None, hostile_voc),
    Reader("phone", "light", seed_tool, read_tool, None, hostile_tool),
    Reader("architecture", "light", seed_network, read_network, None, hostile_network),
    Reader("keras", "tensorflow", seed_keras, load, zip_member("config.json"), hostile_keras, cost=40),
    Reader("keras_header", "tensorflow", seed_keras, load, zip_member("keras_mnasnet.json"), cost=40, binary=False),
    Reader("tgz", "tensorflow", seed_tgz, read_tgz, None, hostile_tgz, cost=2),
    Reader("training_state", "tensorflow", seed_state, read_state, state_header()),
    Reader("hub_config", "tensorflow", seed_config, read_config, PLAIN, texts_of),
    Reader("boxes", "tensorflow", seed_coco, read_dataset, PLAIN, hostile_coco),
    Reader("images.tar", "tensorflow", seed_images, read_images),
    Reader("tfjs", "tensorflow", seed_tfjs, load, PLAIN, hostile_tfjs),
    Reader("pb", "tensorflow", seed_pb, load, None, hostile_pb),
)  # fmt: skip


# Watching


class Hung(BaseException):
    """An input that took too long."""


class Watch:
    """Notes of what reading did besides reading."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder.resolve())
        self.notes: list[str] = []
        self.roots: set[str] | None = None  # packages that may still be imported; None: all
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.roots is None:
            return
        if event in STARTS and not (event == "ctypes.dlopen" and arguments[0] is None):
            self.notes.append(f"{event} {str(arguments)[:100]}")
        elif event == "import":
            if arguments[0].split(".")[0] not in self.roots:
                self.notes.append(f"import {arguments[0]}")
        elif event == "open":
            path, mode, flags = arguments
            if isinstance(path, str | bytes):
                place = os.path.abspath(os.fsdecode(path))
                writes = bool(isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
                if (writes and not self._inside(place)) or place == "/etc/passwd":
                    self.notes.append(f"open {place} {mode}")
        elif event in CHANGES and isinstance(arguments[0], str | bytes | os.PathLike):
            place = os.path.abspath(os.fsdecode(arguments[0]))
            if not self._inside(place) and arguments[-1] == -1:
                self.notes.append(f"{event} {place}")

    def _inside(self, place: str) -> bool:
        real = os.path.realpath(place)  # the folder itself: of a temporary file without a name
        return place == "/dev/null" or real == self.folder or os.path.realpath(os.path.dirname(place)).startswith(self.folder)


def limited(more: int) -> None:
    """The system gives this process no more than so many further bytes of memory."""
    lines = Path("/proc/self/status").read_text().splitlines() if Path("/proc/self/status").exists() else []
    for held in (1024 * int(line.split()[1]) for line in lines if line.startswith("VmData:")):
        resource.setrlimit(resource.RLIMIT_DATA, (held + more, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def inputs(reader: Reader, path: Path, rounds: int, seed: int) -> Iterator[str]:
    """Writes one input after the other to `path`, and says what it is."""
    content = path.read_bytes()

    def fresh() -> None:
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_bytes(content)

    if reader.special:
        for number, _ in enumerate(reader.special(path)):
            yield f"special {number}"
        fresh()
    rng = random.Random(f"{reader.name} {seed}")
    if reader.inside:
        get, put = reader.inside
        changes = list(of_json(get(path)))
        if reader.cost > 1 or rounds < 10:
            changes = rng.sample(changes, min(len(changes), max(10, 100 * rounds // reader.cost)))
        for number, value in enumerate(changes):
            fresh()
            put(path, value)
            yield f"field {number}: {str(value)[:60]}"
    for number in range(100 * rounds // reader.cost if reader.binary else 0):
        fresh()
        path.write_bytes(of_bytes(content, rng))
        yield f"bytes {number}"
    fresh()


def watched(reader: Reader, folder: Path, watch: Watch, rounds: int, seed: int) -> dict[str, Any]:
    """Reads the seed, which must give a result, then every input; the counts and findings."""
    place = folder / reader.name
    place.mkdir()
    path = reader.seed(place)
    reader.read(path)
    limited(2 * GROWTH)
    near_names = {"difflib", "heapq", "_heapq"}  # a message that suggests one needs these
    watch.roots = {name.split(".")[0] for name in sys.modules} | {"encodings", "stringprep", "unicodedata"} | near_names
    found: dict[str, Any] = {"reader": reader.name, "inputs": 0, "results": 0, "errors": 0, "findings": []}
    started = time.perf_counter()
    for what in inputs(reader, path, rounds, seed):
        (folder / "at").write_text(f"{reader.name} {what}", "utf-8", "backslashreplace")
        before = peak()
        watch.notes.clear()
        problem = None
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.alarm(WAIT_SECONDS)
        try:
            reader.read(path)
            found["results"] += 1
        except ACCEPTED as error:
            found["errors"] += 1
            if len(str(error)) > LONGEST_MESSAGE or not str(error).strip():
                problem = f"a message of {len(str(error)):,} characters: {type(error).__name__}"
        except (Exception, Hung) as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            problem = f"{type(error).__name__}: {str(error)[:200]} at {Path(last.filename).name}:{last.lineno}"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
        found["inputs"] += 1
        if watch.notes:
            problem = f"{problem or ''} {watch.notes[:3]}".strip()
        if peak() - before > GROWTH:
            problem = f"{problem or ''} grew by {(peak() - before) >> 20} MiB".strip()
        if problem:
            found["findings"].append(f"{what}: {problem}"[:500])
    watch.roots = None
    return {**found, "seconds": round(time.perf_counter() - started, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("group", help="light, tensorflow, or the name of a reader")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    os.environ["KERAS_MNASNET_HOME"] = str(folder / "home")
    tempfile.tempdir = str(folder)

    def late(*_: object) -> None:
        raise Hung(f"more than {SECONDS} s of work, or {WAIT_SECONDS} s in all")

    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, late)
    watch = Watch(folder)
    for reader in READERS:
        if arguments.group in (reader.group, reader.name):
            print(json.dumps(watched(reader, folder, watch, arguments.rounds, arguments.seed)), flush=True)


if __name__ == "__main__":
    main()
