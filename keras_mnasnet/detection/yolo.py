"""YOLO's labels: a data.yaml, or a folder of .txt files with the names of the classes beside or above.

A label file has a row for each object: the class, counted from 0, and the box (center x, center y, width, height) or the
corners of a polygon, as shares of the photo. The photo of `.../images/a/1.jpg` has its labels in `.../labels/a/1.txt`, or
beside it.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_mnasnet.detection.photos import read_headers, upright_size
from keras_mnasnet.detection.truth import Id, Truth
from keras_mnasnet.detection.voc import files_below
from keras_mnasnet.utils.reading import check_limit, check_names, read_text, read_yaml, record, shown

NAME_FILES = ("classes.txt", "obj.names", "labels.txt", "_darknet.labels")
NO_LABELS = re.compile(r"(classes|labels|readme.*|train|valid?|test|requirements|notes)\.txt", re.IGNORECASE)
DARKNET = re.compile(r"obj_(\w+)_data", re.IGNORECASE)  # CVAT's folders of photos with their labels
LEAST, MOST = -0.01, 1.01  # shares with what rounding does to them
ROW = "A row of YOLO's labels is `class x y width height`, or `class x y x y x y ...`, as shares 0 to 1 of the photo"
YAML = (".yaml", ".yml")


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """Names of classes, and of each split the folders or lists of its photos; `""` is the split of undivided data.

    `labels` is a folder of labels that was named itself. `points` are the numbers of a row's keypoints.
    """

    source: Path
    names: tuple[str, ...]
    splits: Mapping[str, Sequence[Path]]
    lost: Mapping[str, str]
    labels: Path | None = None
    points: int = 0


def yaml_of(path: Path) -> Path | None:
    """The data.yaml that a path is or holds."""
    if path.is_file():
        return path if path.suffix.lower() in YAML else None
    found = _yamls(path)
    chosen = [entry for entry in found if entry.stem.lower() in ("data", "dataset")] or found
    return chosen[0] if len(chosen) == 1 else None


def _yamls(folder: Path) -> list[Path]:
    return [entry for entry in sorted(folder.iterdir()) if entry.suffix.lower() in YAML and not entry.name.startswith(".")]


def is_yolo(path: Path) -> bool:
    """Whether a file or folder looks like YOLO's."""
    if yaml_of(path) is not None:
        return True
    if not path.is_dir():
        return False
    if (path / "labels").is_dir() or any(DARKNET.fullmatch(entry.name) for entry in path.iterdir()):
        return _names_file(path) is not None or (path / "images").is_dir()
    return any(not NO_LABELS.fullmatch(file.name) for file in files_below(path, ".txt"))


def layout_of(source: Path) -> Layout:
    """What there is; ValueError says what is missing."""
    config = yaml_of(source)
    return _of_folder(source) if config is None else _of_yaml(config)


def _of_yaml(path: Path) -> Layout:
    value = read_yaml(path, "YOLO's data.yaml")
    if not isinstance(value, dict) or "names" not in value:
        raise ValueError(
            f"YOLO's data.yaml has `names`, the classes, and `train` and `val`, the folders of photos. Received: {path}"
            f"{'' if isinstance(value, dict) else ', which has none of them'}"
            f"{' without names' if isinstance(value, dict) else ''}"
        )
    names = _names(value["names"], path)
    if (count := value.get("nc")) is not None and count != str(len(names)):
        raise ValueError(
            f"`nc` of YOLO's data.yaml must be the number of `names`. Received: {path} with nc {shown(count)} and {len(names)} "
            f"names. Correct the one that is wrong, or remove `nc`."
        )
    points = 0
    if (shape := value.get("kpt_shape")) is not None:
        numbers = [int(each) if isinstance(each, str) and each.isdecimal() else each for each in _listed(shape)]
        points = math.prod(record(numbers, tuple[int, int], f"`kpt_shape` of {path}"))
    bases = [path.parent]
    if value.get("path") is not None:
        bases = [*_places(record(value["path"], str, f"`path` of {path}"), bases), path.parent]
    splits: dict[str, list[Path]] = {}
    lost: dict[str, str] = {}
    for key in value:
        if not isinstance(key, str) or not (split := split_named(key)) or not value[key]:
            continue
        written = dict.fromkeys(record(text, str, f"`{key}` of {path}") for text in _listed(value[key]))
        found = [(text, _places(text, bases)) for text in written]
        if missing := [text for text, places in found if not places]:
            lost.setdefault(split, f"`{key}: {missing[0][:200]}`")
        else:
            splits.setdefault(split, []).extend(places[0] for _, places in found)
    return Layout(path, names, splits, lost, points=points)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def split_named(name: str) -> str | None:
    """The split that a folder or a key is called by: train, validation or test."""
    from keras_mnasnet.data.tfrecord import SPLITS

    return SPLITS.get(name.lower())


def _names(value: Any, path: Path) -> tuple[str, ...]:
    if isinstance(value, dict):
        numbers = {int(key): name for key, name in value.items() if str(key).isdecimal()}
        if len(numbers) < len(value) or sorted(numbers) != list(range(len(value))):
            raise ValueError(f"`names` must number the classes from 0. Received: {path} with {shown(list(value)[:5])}")
        value = [numbers[number] for number in range(len(numbers))]
    if not isinstance(value, list) or not value:
        raise ValueError(f"`names` must be a list of classes, or say them by number. Received: {path} with {shown(value)}")
    names = check_names(value, f"The classes of {path}")
    if twice := sorted(name for name, count in collections.Counter(names).items() if count > 1):
        raise ValueError(f"The classes of YOLO's data must have different names. Received: {path} with {shown(twice[0])} twice")
    return names


def _places(text: str, bases: Sequence[Path]) -> list[Path]:
    """Where a path of a data.yaml leads: as it is written, else by its last parts, since people's tools write those of the
    machine that they ran on (Roboflow: `../train/images` for what lies at `train/images`)."""
    check_limit("path", len(text), "A path in YOLO's data.yaml")
    plain = text.replace("\\", "/").rstrip("/") or "."
    parts = [part for part in plain.split("/") if part not in ("", ".", "..")]
    tails = ["/".join(parts[first:]) for first in range(len(parts)) if first < len(parts) - 1 or parts[-1] != "images"]
    written = [base / os.path.expanduser(plain) for base in bases]
    return [place for place in [*written, *(base / tail for tail in tails for base in bases)] if _exists(place)]


def _exists(place: Path) -> bool:
    return os.path.exists(place)


def _names_file(folder: Path) -> Path | None:
    """The file with the names of the classes, beside the labels or above them."""
    for place in (folder, folder / "labels", *folder.absolute().parents[:2]):
        if found := next((place / name for name in NAME_FILES if (place / name).is_file()), None):
            return found
        if place.is_dir() and (found := yaml_of(place)):
            return found
    return None


def _of_folder(folder: Path) -> Layout:
    file = _names_file(folder)
    if file is None:
        raise ValueError(
            f"YOLO's labels need the names of their classes: a data.yaml, or a classes.txt with a name a line, beside them or "
            f"above. Received: {folder} without one{', or with several .yaml: name the one' if _yamls(folder)[1:] else ''}"
        )
    if file.suffix.lower() in YAML:
        names = _of_yaml(file).names
    else:
        lines = [line.strip() for line in read_text(file, "A list of classes").rstrip().splitlines()]
        if "" in lines:
            raise ValueError(
                f"A list of classes has a name in each line, the number of the class. Received: {file}, whose line "
                f"{lines.index('') + 1} is empty. Remove it, or write the class's name there."
            )
        names = _names(lines, file)
    splits: dict[str, list[Path]] = {}
    for entry in sorted(folder.iterdir()):
        match = DARKNET.fullmatch(entry.name)
        if match and (split := split_named(match[1])):
            splits.setdefault(split, []).append(entry)
    for entry in sorted((folder / "images").iterdir()) if not splits and (folder / "images").is_dir() else ():
        if entry.is_dir() and (split := split_named(entry.name)):
            splits.setdefault(split, []).append(entry)
    for entry in sorted(folder.iterdir()) if not splits else ():
        if (entry / "images").is_dir() and (split := split_named(entry.name)):
            splits.setdefault(split, []).append(entry / "images")
    if splits:
        return Layout(folder, names, splits, {})
    if (folder / "images").is_dir():
        return Layout(folder, names, {"": [folder / "images"]}, {})
    beside = Path(_exchanged(str(folder / "x"), "labels", "images")).parent
    return Layout(folder, names, {"": [beside if beside.is_dir() else folder]}, {}, labels=folder)


def _exchanged(path: str, old: str, new: str) -> str:
    """A path with the last folder called `old` called `new`."""
    head, found, tail = path.rpartition(f"{os.sep}{old}{os.sep}")
    return f"{head}{os.sep}{new}{os.sep}{tail}" if found else path


def splits_of_yolo(source: Path) -> tuple[str, ...]:
    """The splits that are there: of train, validation and test."""
    return tuple(split for split in ("train", "validation", "test") if split in layout_of(source).splits)


def read_yolo(source: Path, photos: Path | None, split: str | None) -> Truth:
    """The labels of a split as COCO annotations; ValueError names a file and line that is none.

    Categories are numbered from 1, photos have the name without ending as their id (a number where it is one), as in
    Ultralytics' results. Boxes are of the upright photo. Photos without labels have no boxes.
    """
    layout = layout_of(source)
    wanted = split or ("" if "" in layout.splits else next(iter(layout.splits), ""))
    if wanted not in layout.splits and photos is None:
        lost = layout.lost.get(wanted)
        raise ValueError(
            f"The photos of YOLO's {wanted or 'data'} must be where {layout.source} says. Received: "
            f"{f'{lost}, which is not there' if lost else f'{sorted(layout.splits)} alone'}"
        )
    places = layout.splits.get(wanted, ()) if photos is None else [photos]
    files = list(dict.fromkeys(file for place in dict.fromkeys(places) for file in _photos(place, layout.source.parent)))
    if not files:
        raise ValueError(f"YOLO's data must have photos. Received: {', '.join(map(str, places))}, without any")
    labels = [_label_file(file, layout, photos) for file in files]
    if not any(labels):
        raise ValueError(
            f"YOLO's labels lie beside their photos, or in a folder `labels` in place of `images`. Received: {places[0]}, "
            f"where none of {len(files):,} photos has any; the first is {files[0]}"
        )
    headers = read_headers(files, [False] * len(files))
    images: dict[Id, dict[str, Any]] = {}
    annotations: list[dict[str, Any]] = []
    root = os.path.commonpath([os.path.dirname(file) for file in files])
    for identity, file, label, header in zip(_ids(files, root), files, labels, headers, strict=True):
        size = None if header.size is None else upright_size(header.size, header.orientation)
        height, width = size or (None, None)
        images[identity] = {
            "id": identity, "file_name": os.path.relpath(file, root), "path": file, "height": height, "width": width,
            "orientation": header.orientation,
        }  # fmt: skip
        for number, (x1, y1, x2, y2) in _rows(label, layout) if label else ():
            if size is None:
                continue
            box = [x1 * size[1], y1 * size[0], (x2 - x1) * size[1], (y2 - y1) * size[0]]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": identity, "category_id": number + 1, "bbox": box, "iscrowd": 0,
                 "area": box[2] * box[3]}
            )  # fmt: skip
    orphans = _orphans([label for label in labels if label]) if all(map(Path.is_dir, places)) else []
    said = [f"{source}: {len(orphans):,} label files have no photo; the first is {orphans[0]}"] if orphans else []
    said += [f"{source}: the {name} photos are not where it says, {text}" for name, text in layout.lost.items()]
    return Truth(
        str(source), images, dict(enumerate(layout.names, 1)), annotations, folder=Path(root), said=tuple(said),
        notes={"photos_without_label_file": labels.count(None), "label_files_without_photo": len(orphans)},
    )  # fmt: skip


def _photos(place: Path, root: Path) -> Iterator[str]:
    """The photos of a folder and of those in it, or of a list."""
    from keras_mnasnet.data.folders import is_image

    if place.is_dir():
        for folder, folders, names in os.walk(place):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield from (os.path.join(folder, name) for name in sorted(filter(is_image, names)))
        return
    for line in read_text(place, "A list of photos").splitlines():
        if is_image(os.path.basename(text := line.strip())):
            found = _places(text, [root, place.parent])
            yield str(found[0] if found else place.parent / text)


def _label_file(photo: str, layout: Layout, photos: Path | None) -> str | None:
    stem = os.path.splitext(photo)[0] + ".txt"
    candidates = [_exchanged(stem, "images", "labels"), stem]
    if layout.labels is not None:
        base = photos or next(iter(layout.splits[""]))
        candidates = [os.path.join(layout.labels, os.path.relpath(stem, base)), *candidates]
        candidates.append(os.path.join(layout.labels, os.path.basename(stem)))
    return next(filter(os.path.isfile, candidates), None)


def _ids(files: Sequence[str], root: str) -> list[Id]:
    stems = [os.path.splitext(os.path.basename(file))[0] for file in files]
    ids: list[Id] = [int(stem) if stem.isascii() and stem.isdecimal() and len(stem) < 16 else stem for stem in stems]
    return ids if len(set(ids)) == len(ids) else [os.path.relpath(file, root) for file in files]


def _rows(path: str, layout: Layout) -> Iterator[tuple[int, tuple[float, float, float, float]]]:
    """Class and (x1, y1, x2, y2) of each row."""
    for number, line in enumerate(read_text(path, "YOLO's labels").splitlines(), 1):
        if not (parts := line.split()):
            continue
        try:
            yield _row(parts, layout)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{ROW}. Received: {path}, line {number}: {error}") from error


def _row(parts: Sequence[str], layout: Layout) -> tuple[int, tuple[float, float, float, float]]:
    values = [float(part) for part in parts]
    if len(values) == 6 and not layout.points:
        raise ValueError("6 numbers, which are a prediction with its confidence")
    box = len(values) == 5 or (layout.points and len(values) == 5 + layout.points)
    if not box and (layout.points or len(values) < 7 or len(values) % 2 == 0):
        raise ValueError(f"{len(values)} numbers")
    category, shares = values[0], values[1:5] if box else values[1:]
    if not category.is_integer() or not 0 <= category < len(layout.names):
        raise ValueError(f"the class {parts[0][:40]}, which is none of 0 to {len(layout.names) - 1}")
    if not all(LEAST <= share <= MOST for share in shares):  # NaN is not, either
        bad = next(part for part, share in zip(parts[1:], shares, strict=False) if not LEAST <= share <= MOST)
        raise ValueError(f"{bad[:40]}, which is no share of the photo")
    if box:
        x, y, width, height = shares
        return int(category), (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    xs, ys = shares[0::2], shares[1::2]
    return int(category), (min(xs), min(ys), max(xs), max(ys))


def _orphans(labels: Sequence[str]) -> list[str]:
    """Label files without a photo, in the folders where labels are."""
    used = set(labels)
    there = (
        os.path.join(folder, name)
        for folder in sorted({os.path.dirname(label) for label in labels})
        for name in sorted(os.listdir(folder))
        if name.lower().endswith(".txt") and not name.startswith(".") and not NO_LABELS.fullmatch(name)
    )
    return [file for file in there if file not in used]
