"""Annotations and results as files: which reader takes what, and COCO's result files. COCO and VOC load no TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_mnasnet.detection.coco import MAKER, ROBOFLOW, read_coco, rows_of
from keras_mnasnet.detection.truth import Id, Truth, as_objects, box_of, check_crowds, finite, identity, known_as
from keras_mnasnet.detection.voc import files_below, lists_of_voc, read_voc, read_voc_list
from keras_mnasnet.detection.yolo import YAML, is_yolo, read_yolo, split_named, splits_of_yolo
from keras_mnasnet.utils.reading import LONGEST_ANNOTATIONS, open_regular, read_json, shown

KINDS = "a COCO .json file, or a folder of VOC's .xml files, or YOLO's data.yaml or folder of labels"
HEAD = 4096
Result = dict[str, Any]  # image_id, category_id, bbox [x, y, width, height] in pixels, score


def read_truth(
    annotations: str | os.PathLike[str], photos: str | os.PathLike[str] | None = None, *, split: str | None = None,
    crowd_as_objects: bool = False,
) -> Truth:  # fmt: skip
    """The annotations of a COCO file, a folder of VOC's .xml files or YOLO's labels; OSError where there are none.

    `photos` are for YOLO's labels, whose boxes are shares of them. `split` is one of `splits_of`, which a source with several
    needs. With `crowd_as_objects` crowd regions, and VOC's difficult objects, are objects like the others.
    """
    source = Path(annotations).expanduser()
    if not source.exists():
        raise OSError(f"Annotations must exist: {KINDS}. Received: {source}")
    known = splits_of(source)
    if split is None and len(known) == 1:
        split = known[0]
    if (split is not None or known) and split not in known:
        raise ValueError(
            f"`split` must be one of {', '.join(known) or 'none'} for {source}, by what is there. Received: split={split!r}"
        )
    truth = _read(source, None if photos is None else Path(photos).expanduser(), split)
    return as_objects(truth) if crowd_as_objects else check_crowds(truth)


def splits_of(annotations: str | os.PathLike[str]) -> tuple[str, ...]:
    """Those of train, validation and test that a source has by itself: YOLO's data, Roboflow's folders, VOC's own lists."""
    source = Path(annotations).expanduser()
    if not source.exists() or (source.is_file() and source.suffix.lower() not in YAML):
        return ()
    divided = _divided(source) if source.is_dir() else {}
    if divided:
        return tuple(split for split in ("train", "validation", "test") if split in divided)
    return splits_of_yolo(source) if not _is_voc(source) and is_yolo(source) else ()


def judged_split(annotations: str | os.PathLike[str]) -> str | None:
    """The split that judges a detector where none is named: validation, else test, else train; None for undivided data."""
    known = splits_of(annotations)
    return next((split for split in ("validation", "test", "train") if split in known), None)


def _divided(folder: Path) -> dict[str, Path]:
    """Of each split a sub-folder with annotations beside the photos, as Roboflow exports COCO and VOC; or VOC's own list."""
    parts = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and ((entry / ROBOFLOW).is_file() or _is_voc(entry))]
    return {split: entry for entry in parts if (split := split_named(entry.name))} or lists_of_voc(folder)


def _is_voc(folder: Path) -> bool:
    places = filter(Path.is_dir, (folder, folder / "Annotations"))
    entries = (entry for place in places for entry in os.scandir(place))
    return any(entry.name.lower().endswith(".xml") and not entry.name.startswith(".") for entry in entries)


def _read(source: Path, photos: Path | None, split: str | None) -> Truth:
    if source.is_dir():
        place = _divided(source).get(split or "", source)
        return _read_folder(place, photos, split) if place.is_dir() else read_voc_list(source, place)
    if source.suffix.lower() in YAML:
        return read_yolo(source, photos, split)
    with open_regular(source, "An annotation file") as file:
        head = file.read(HEAD)
    if (kind := _other_file(source, head)) is not None:
        raise ValueError(f"Annotations must be {KINDS}. Received: {source}, {kind}")
    return read_coco(source)


def _read_folder(folder: Path, photos: Path | None, split: str | None) -> Truth:
    if (folder / ROBOFLOW).is_file():
        return read_coco(folder / ROBOFLOW)
    if not _is_voc(folder) and is_yolo(folder):
        return read_yolo(folder, photos, split)
    if files_below(folder, ".xml"):
        return read_voc(folder)
    others = files_below(folder, ".json")
    near = f" Files in it such as {others[0]} are named themselves." if others else ""
    raise ValueError(
        f"A folder of annotations holds .xml files of VOC, .txt files of YOLO with a data.yaml or classes.txt, or Roboflow's "
        f"{ROBOFLOW}. Received: {folder}, without one.{near}"
    )


def _other_file(source: Path, head: bytes) -> str | None:
    """What a file is that is no COCO file, and the way on."""
    if head.startswith((b"PK\x03\x04", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!")):
        return "an archive. Unpack it, and name what is in it."
    if head.startswith((b"\xff\xd8\xff", b"\x89PNG", b"GIF8")):
        return "a photo. The annotations come first, then the folder of their photos."
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, without the file. Fetch it with `git lfs pull`."
    text = head.replace(b"\0", b"").lstrip(b"\xff\xfe\xef\xbb\xbf \t\r\n").decode("utf-8", "replace")  # of any width
    if text[:9].lower() == "<!doctype" or text[:5].lower() == "<html":
        return "a web page. Fetch the file itself."
    if text.startswith("<"):
        if "<annotations" in text and "<annotation>" not in text:
            return "CVAT's own XML, of many photos. Export as COCO, as Pascal VOC or as YOLO there."
        return "one XML file. VOC's annotations are named by their folder."
    lines = text.splitlines()
    if text[:1] in ("{", "[") or not lines:
        return None
    first = lines[0]
    if source.suffix.lower() in (".csv", ".tsv") or (first.count(",") >= 3 and len(set(map(_commas, lines[:-1][:5]))) <= 1):
        return f"a table (CSV). {MAKER}"
    if source.suffix.lower() == ".txt" and first.split() and all(map(_is_number, first.split())):
        return "the labels of one photo, as YOLO has them. Name the folder of labels, or the data.yaml."
    return None


def _commas(line: str) -> int:
    return line.count(",")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def check_ids(rows: Sequence[Mapping[str, Any]], truth: Truth, subject: str) -> list[Result]:
    """The rows with the ids as `truth` writes them, without those of categories that only hold others together.

    ValueError for ids that it does not have.
    """
    images, categories = truth.images, {**truth.categories, **truth.roots}
    found: list[Result] = []
    lost: dict[str, set[Id]] = {"image_id": set(), "category_id": set()}
    for row in rows:
        image, category = known_as(row["image_id"], images), known_as(row["category_id"], categories)
        if image is None:
            lost["image_id"].add(row["image_id"])
        elif category is None:
            lost["category_id"].add(row["category_id"])
        elif category in truth.categories:
            found.append({**row, "image_id": image, "category_id": category})
    for key, known in (("image_id", images), ("category_id", categories)):
        if unknown := sorted(lost[key], key=lambda each: (isinstance(each, str), each)):
            first = ", ".join(shown(each) if isinstance(each, str) else str(each) for each in unknown[:5])
            raise ValueError(
                f"{subject} must have each `{key}` from the annotation file's own list of {len(known):,}. "
                f"Received: {len(unknown):,} unknown, {first}{', ...' if len(unknown) > 5 else ''}"
            )
    return found


def read_results(path: str | os.PathLike[str]) -> list[Result]:
    """Read COCO results: a JSON list of {image_id, category_id, bbox [x, y, width, height], score}."""
    path = Path(path).expanduser()
    if not path.exists():
        raise ValueError(f"A result file must exist. Received: {path}, which does not")
    value = read_json(path, "A result file", limit=LONGEST_ANNOTATIONS)
    if not isinstance(value, list):
        raise ValueError(
            f"A result file must hold a JSON list of detections. Received: {path}, a {type(value).__name__}. `mnasnet detect "
            f"eval --write-results FOLDER` writes one"
        )
    wanted = "A result file holds detections with `image_id`, `category_id`, `bbox` [x, y, width, height] and `score`"
    with rows_of(path, wanted) as rows:
        return [
            {
                "image_id": identity(row["image_id"]),
                "category_id": identity(row["category_id"]),
                "bbox": box_of(row["bbox"]),
                "score": finite(row["score"]),
            }
            for row in rows("detections", value)
        ]
