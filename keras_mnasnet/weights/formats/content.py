"""What a file is by its first bytes, whatever its ending: which reader takes it, or what it is instead and the way on."""

from __future__ import annotations

import os
import re
import struct
import tarfile
import zlib
from pathlib import Path

from keras_mnasnet.utils.reading import TAR_DAMAGE, TFLITE_MARK, open_regular, open_zip, shown
from keras_mnasnet.utils.text import listed
from keras_mnasnet.weights.checkpoint import CheckpointError
from keras_mnasnet.weights.formats import (
    H5_SUFFIX,
    KERAS_SUFFIX,
    ONNX_SUFFIX,
    PB_SUFFIX,
    PTH_SUFFIXES,
    SUFFIXES,
    TAR_SUFFIXES,
    TFLITE_SUFFIX,
)
from keras_mnasnet.weights.formats.mindspore import is_mindspore

PRODUCERS = (b"onnx", b"torch", b"keras_mnasnet")  # of ONNX
HEAD = 4096  # bytes that are looked at
LEGACY_PTH = re.compile(rb"\x80[\x02-\x05]\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19\.")  # torch.save's magic number before its zip files
ENDINGS = (
    (".safetensors", "safetensors"), *((suffix, "pth") for suffix in PTH_SUFFIXES),
    *((suffix, "tar") for suffix in TAR_SUFFIXES), (KERAS_SUFFIX, "keras"), (H5_SUFFIX, "h5"), (TFLITE_SUFFIX, "tflite"),
    (ONNX_SUFFIX, "onnx"), (PB_SUFFIX, "pb"),
)  # fmt: skip
PHOTO = "a photo: name the model first, then the photos (`mnasnet predict MODEL PHOTO`)"
UNPACK = "a compressed file: unpack it with {}, and name what was in it"
OTHERS = (  # how a file begins: what it is, and the way on
    (b"SQLite format 3", "a study of a search: `mnasnet search retrain --study` trains its best networks"),
    (b"\xff\xd8\xff", PHOTO),
    (b"\x89PNG", PHOTO),
    (b"GIF8", PHOTO),
    (b"BZh", UNPACK.format("bunzip2")),
    (b"\xfd7zXZ\0", UNPACK.format("unxz")),
    (b"(\xb5/\xfd", UNPACK.format("unzstd")),
    (b"7z\xbc\xaf'\x1c", UNPACK.format("7z x")),
    (b"Rar!", UNPACK.format("unrar x")),
    (b"\x93NUMPY", "a NumPy array without the name of a layer: checkpoints of these kinds are read: " + ", ".join(SUFFIXES)),
)
GRAPH = "{}: a graph whose weights are not read; name the checkpoint that it was made from (PyTorch, TensorFlow 1 or Keras)"
TFJS = re.compile(rb'\s*\{.*"(format"\s*:\s*"(graph|layers)-model|modelTopology|weightsManifest)"', re.DOTALL)
AGAIN = "Fetch or copy it again"
SHARDED = (
    "a part of a checkpoint in several files. Make one file of them in Python, with safetensors.numpy: save_file({k: v for "
    "file in FILES for k, v in load_file(file).items()}, 'whole.safetensors')"
)
SHARD = re.compile(r"-\d{5}-of-\d{5}\.safetensors$")


def check_tflite(name: str, head: bytes, size: int) -> None:
    """CheckpointError for a file whose first bytes are not a .tflite file's, which says what it is instead."""
    if head[4:8] != TFLITE_MARK:
        said = _other(Path(f"{name}.part"), head, size)
        if head.startswith(b"PK"):
            said = "a zip archive, as PyTorch's and Keras's files are: give it the ending that is its own"
        raise CheckpointError(
            f"A .tflite file begins with the mark TFL3 after four bytes. Received: {name} ({size:,} bytes), "
            f"{said or f'which begins with {head[:8]!r}. {AGAIN}'}"
        )


def kind_of(path: Path) -> str:
    """Which reader takes a file: `tf1` (a prefix), `safetensors`, `pth`, `tar`, `keras`, `h5`, `tflite`, `onnx`, `tfjs`,
    `pb`, `mindspore` or `zip`, an archive of one file of weights.

    Raises CheckpointError that names what the file is instead, with the way on.
    """
    if Path(f"{path}.index").is_file():
        return "tf1"
    prefix = re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", str(path))
    if prefix != str(path) and (Path(f"{prefix}.index").is_file() or not path.name.endswith(".meta")):
        raise CheckpointError(f"A TF1 checkpoint is named by its prefix, here {prefix}. Received: {path}")
    if not path.exists():
        raise CheckpointError(f"A checkpoint file must exist. Received: {path}, which does not")
    try:
        with open_regular(path, "A checkpoint") as file:
            head, size = file.read(HEAD), os.fstat(file.fileno()).st_size
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    found = None if SHARD.search(path.name) else _readable(path, head, size)
    if found is None and (what := _other(path, head, size)):
        raise CheckpointError(f"A checkpoint must hold the weights of a MnasNet. Received: {path}, {what}.")
    found = found or next((kind for ending, kind in ENDINGS if path.name.endswith(ending)), None)
    if found is None:
        raise CheckpointError(
            f"A checkpoint must be a file of {', '.join(SUFFIXES)}, or a TF1 prefix. Received: {path} ({size:,} bytes), whose "
            f"content is none of them. Name such a file, or a record of `mnasnet weights list`."
        )
    return found


def _readable(path: Path, head: bytes, size: int) -> str | None:
    """The reader for what is recognized; None for everything else."""
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "h5"
    if LEGACY_PTH.match(head):
        return "pth"
    if head[4:8] == TFLITE_MARK:
        return "tflite"
    if is_mindspore(head):
        return "mindspore"
    if TFJS.match(head):
        return "tfjs"
    if re.match(rb"\x08[\x03-\x20][\x12\x1a\x22\x3a]", head) and (
        path.suffix == ONNX_SUFFIX or head[2] == 0x3A or any(each in head for each in PRODUCERS)
    ):
        return "onnx"
    if head[8:9] == b"{" and 2 <= struct.unpack("<Q", head[:8])[0] <= size - 8:
        return "safetensors"
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_zip(path, head)
    if head.startswith(b"\x1f\x8b"):
        if _is_tar(_inflated(head)) or path.name.endswith(TAR_SUFFIXES):
            return "tar"
        return None
    return "tar" if _is_tar(head) else None


def _inflated(head: bytes) -> bytes:
    try:
        return zlib.decompressobj(31).decompress(head, 512)
    except zlib.error:
        return b""


def _is_tar(head: bytes) -> bool:
    """Whether a file begins with a member's header whose checksum is right."""
    try:
        return len(head) >= 512 and bool(tarfile.TarInfo.frombuf(head[:512], "utf-8", "surrogateescape"))
    except (*TAR_DAMAGE, ValueError):
        return False


def _kind_of_zip(path: Path, head: bytes) -> str | None:
    """`pth` or `keras`, also of one that is cut short, whose reader says so; CheckpointError for an archive of other files."""
    if b"data.pkl" in head[30:][: int.from_bytes(head[26:28], "little")]:  # the first member's name
        return "pth"
    if head[30:39] == b"metadata." or head[30:41] == b"config.json":
        return "keras"
    try:
        with open_zip(path, "An archive") as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
    except ValueError:
        return None
    if any(name.rpartition("/")[2] == "data.pkl" for name in names):
        return "pth"
    if "config.json" in names:
        return "keras"
    if any(name.endswith("/archive_format") for name in names):
        raise CheckpointError(
            f"A checkpoint must hold the weights of a MnasNet. Received: {path}, a program of torch.export, of which nothing "
            f"was run. Save its weights alone in PyTorch: torch.save(torch.export.load(FILE).state_dict, NEW)."
        )
    inside = f"{len(names)} files, {listed(map(shown, names), 3)}"
    if names and all(name.endswith(".npy") for name in names):
        what = f"an .npz file of NumPy arrays ({inside}): checkpoints of these kinds are read: {', '.join(SUFFIXES)}"
    elif weights := [name for name in names if name.endswith((*SUFFIXES, ".h5", ".index"))]:
        if len(weights) == 1 and not weights[0].endswith(".index"):
            return "zip"
        what = f"a zip archive: unpack it and name {listed(map(shown, weights), 3)}"
    else:
        what = f"a zip archive without a checkpoint ({inside}). {AGAIN}, or name a record of `mnasnet weights list`"
    raise CheckpointError(f"A checkpoint must hold the weights of a MnasNet. Received: {path}, {what}.")


def _other(path: Path, head: bytes, size: int) -> str | None:
    """What a file is that is no checkpoint, and the way on; None for one that nothing is known of."""
    again = f"{AGAIN}, or name a record of `mnasnet weights list`"
    if not size:
        return f"an empty file. {again}"
    if SHARD.search(path.name):
        return SHARDED
    if not head.strip(b"\0"):
        return f"{size:,} bytes that begin with zeros, as a download or copy leaves that was broken off. {again}"
    for start, what in OTHERS:
        if head.startswith(start):
            return what
    if said := _text(head, size, again):
        return said
    if path.suffix == ".meta":
        return "the graph of a TF1 checkpoint, without its weights: they are in the files .index and .data-... beside it"
    if head[:2] == b"BM" or head[8:12] == b"WEBP":
        return PHOTO
    if head.startswith(b"\x1f\x8b"):
        return UNPACK.format("gunzip")
    if head.startswith(b"PK") and not path.name.endswith((KERAS_SUFFIX, *PTH_SUFFIXES)):
        return f"a zip archive that is damaged or cut short. {again}"
    if re.match(rb"\x80[\x02-\x05]", head) and not path.name.endswith(PTH_SUFFIXES):
        return (
            "a pickle that torch.save did not write, of which nothing was run. Save its weights with safetensors or "
            "torch.save(model.state_dict(), FILE)"
        )
    if head.startswith(b"\x08\x01\x12"):
        return GRAPH.format("a SavedModel of TensorFlow")
    return None


def _text(head: bytes, size: int, again: str) -> str | None:
    """What a text file is; None for other bytes."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = head.decode("utf-16", "replace")
    else:
        whole = head[: head.rfind(b"\n") + 1 or len(head)] if size > len(head) else head
        try:
            text = whole.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = whole.decode("latin-1")
            if not text.lstrip().startswith("<"):
                return None
    if any(ord(each) < 32 and each not in "\t\n\r\f" for each in text):
        return None
    begins = text.strip().lower()
    first = shown(next(iter(text.strip().splitlines()), ""))
    if re.search(r"^version https://(git-lfs|hawser)\b", begins, re.MULTILINE):
        length = re.search(r"^size (\d{1,15})\s*$", text, re.MULTILINE)
        real = f" of {int(length[1]):,} bytes" if length else ""
        return f"a Git LFS pointer to a file{real}, not the file itself. Fetch it with `git lfs pull` in its repository"
    if "/annex/objects/" in begins[:300]:
        return "a git-annex pointer, not the file itself. Fetch it with `git annex get` in its repository"
    if re.match(r"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype html|html|head|body)\b", begins, re.DOTALL):
        title = re.search(r"<title[^>]*>([^<]*)", text, re.IGNORECASE)
        named = f" ({shown(title[1].strip())})" if title else ""
        return (
            f"an HTML page{named}, not the file itself. Fetch it from its address for downloads (of the Hub: /resolve/ in "
            f"place of /blob/, or hf://owner/name)"
        )
    if begins.startswith("<"):
        return f"an XML text that begins with {first}, as a server answers in place of a file. {again}"
    if '"weight_map"' in begins:
        return f"the index of {SHARDED.replace('a part of ', '')}"
    if begins[:1] in ("{", "["):
        return f"a JSON text that begins with {first}. {again}"
    if state := re.match(r'model_checkpoint_path: "([^"]+)"', text):
        return f"the list of a folder's TF1 checkpoints: name the prefix in it, {shown(state[1])}"
    return f"a text file that begins with {first}. {again}"
