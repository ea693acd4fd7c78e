"""Folders of Pascal VOC's .xml files. Loads no TensorFlow."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_mnasnet.detection.truth import Truth, check_pixels, finite, name_of
from keras_mnasnet.utils.reading import check_limit, read_text, read_xml, shown

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

SIDES = ("xmin", "ymin", "xmax", "ymax")
NAMED = ("filename", "path")  # elements that say which photo it is
TRUE = ("1", "true", "yes")
LISTS = {"train": "train.txt", "validation": "val.txt", "test": "test.txt"}  # in ImageSets/Main, beside Annotations
BOTH = "trainval.txt"  # the photos of train.txt and of val.txt


def files_below(folder: Path, ending: str) -> list[Path]:
    """The files of a folder with an ending of any case that are not hidden; those of its sub-folders, where it has none."""
    own = sorted(entry for entry in folder.iterdir() if _ends(entry.name, ending) and entry.is_file())
    return own or [
        Path(place, name) for place, names in _visible(folder) for name in sorted(names) if _ends(name, ending)
    ]  # fmt: skip


def _visible(folder: Path) -> Iterator[tuple[str, list[str]]]:
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield place, names


def _ends(name: str, ending: str) -> bool:
    return name.lower().endswith(ending) and not name.startswith(".")


def lists_of_voc(folder: Path) -> dict[str, Path]:
    """The lists of photos, by split, in VOC's own layout: Annotations, JPEGImages, ImageSets/Main; empty ones are left out.

    Without a train.txt, trainval.txt is that of training.
    """
    names = {**LISTS, "both": BOTH}
    lists = {split: folder / "ImageSets" / "Main" / name for split, name in names.items()}
    found = {split: path for split, path in lists.items() if path.is_file() and path.stat().st_size}
    both = found.pop("both", None)
    return found if both is None else {"train": both, **found}


def read_voc_list(folder: Path, photos: Path) -> Truth:
    """The annotations of the photos in one list of VOC's own layout, of trainval.txt without those that val.txt has, too;
    ValueError for a photo without."""
    names, less, said = _listed(photos), "", list[str]()
    if photos.name == BOTH:
        judges = photos.with_name(LISTS["validation"])
        if judges.is_file() and (left_out := _listed(judges)):
            names, less = {name: None for name in names if name not in left_out}, f", those of {judges.name} left out"
        said = [f"{folder}: there is no {LISTS['train']}; the photos of {BOTH} are trained on{less}"]
    if not names:
        raise ValueError(
            f"A list of VOC must name photos, one a line, without their ending. Received: {photos}, which names none{less}"
        )
    inside = folder / "Annotations"
    files = {path.relative_to(inside).with_suffix("").as_posix(): path for path in files_below(inside, ".xml")}
    if lost := [name for name in names if name not in files]:
        raise ValueError(
            f"Photos in a list of VOC must have an .xml file in Annotations. Received: {photos}, where {len(lost):,} of "
            f"{len(names):,} have none, the first is {shown(lost[0])}. A list has names without "
            f"their ending, one a line; correct it, or name {inside} itself, which takes "
            f"all of its files."
        )
    truth = read_voc(inside, [files[name] for name in names])
    return dataclasses.replace(truth, name=str(folder), folder=folder / "JPEGImages", said=tuple(said))


def _listed(path: Path) -> dict[str, None]:
    """The names in a list of photos, each once, in order."""
    return dict.fromkeys(filter(None, map(str.strip, read_text(path, "A list of photos").splitlines())))


def read_voc(folder: Path, files: Sequence[Path] | None = None) -> Truth:
    """A folder of VOC .xml files, or `files` of it, as COCO annotations; ValueError names a file that is none.

    Categories are the names found, numbered from 1 in alphabetical order. VOC counts pixels from 1 and includes the last, so
    that a box's width is xmax - xmin + 1. Objects marked `difficult` become crowd regions: nothing is asked of them.
    """
    files = files_below(folder, ".xml") if files is None else files
    if not files:
        raise ValueError(f"A folder of VOC annotations holds .xml files. Received: {folder}, without one")
    images: dict[int | str, dict[str, Any]] = {}
    found: list[tuple[int, str, list[float], int]] = []
    for number, path in enumerate(files, 1):
        root = read_xml(path, "A VOC annotation")
        try:
            if root.tag != "annotation":
                raise ValueError(_other_root(root))
            images[number] = {
                "id": number,
                "file_name": next(filter(None, map(str.strip, map(root.findtext, NAMED, ("", "")))), path.stem),
                "stem": path.stem,
                "below": "" if path.parent == folder else path.parent.relative_to(folder).as_posix(),
                "width": root.findtext("size/width"),
                "height": root.findtext("size/height"),
            }
            for count, item in enumerate(root.iter("object"), 1):
                found += [(number, *each) for each in _objects(item, count)]
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{path} must be a VOC annotation. Received: {error}") from error
    if not found:
        raise ValueError(
            f"VOC's annotations must have an <object> for each box. Received: {folder}, {len(files):,} .xml without one"
        )
    check_limit("classes", len({name for _, name, _, _ in found}), f"The categories of {folder}")
    names = sorted({name for _, name, _, _ in found})
    ids = {name: number for number, name in enumerate(names, 1)}
    annotations = [
        {
            "id": number, "image_id": image, "category_id": ids[name], "bbox": box, "area": box[2] * box[3],
            "iscrowd": difficult,
        }
        for number, (image, name, box, difficult) in enumerate(found, 1)
    ]  # fmt: skip
    check_pixels([[x + 1, y + 1, width - 1, height - 1] for _, _, (x, y, width, height), _ in found], str(folder))
    return Truth(str(folder), images, {number: name for name, number in ids.items()}, annotations, folder=folder)


def _objects(item: Element, count: int) -> list[tuple[str, list[float], int]]:
    """Name, box and whether it is `difficult` of the object with this number in its file, for each of its boxes."""
    at = f"object {count}"
    try:
        name = name_of(_text(item, "name"))
        at = f"object {count} ({shown(name)})"
        corners = [[finite(_text(box, side)) for side in SIDES] for box in item.findall("bndbox")]
        if not corners:
            raise ValueError("no <bndbox>")
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{error} of {at}") from error
    difficult = (item.findtext("difficult") or "").strip().lower() in TRUE
    return [(name, [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1], int(difficult)) for x1, y1, x2, y2 in corners]


def _text(element: Element, path: str) -> str:
    text = element.findtext(path)
    if text is None or not text.strip():
        raise ValueError(f"no <{path}>")
    return text.strip()


def _other_root(root: Element) -> str:
    if root.tag == "annotations" and root.find("image") is not None:
        return "CVAT's own XML, of many photos. Export as COCO, as Pascal VOC or as YOLO there"
    return f"the root <{shown(root.tag)[1:-1]}>"
