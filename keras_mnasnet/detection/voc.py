"""Pascal VOC annotations: a folder of .xml files, one for each photo."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from keras_mnasnet.detection.evaluation import Truth

__all__ = ["read_voc"]


def read_voc(folder: Path) -> Truth:
    """A folder of VOC .xml files as COCO annotations; ValueError names a file that is none.

    Categories are the names found, numbered from 1 in alphabetical order. VOC counts pixels from 1 and includes the last, so
    that a box's width is xmax - xmin + 1. Objects marked `difficult` become crowd regions: nothing is asked of them.
    """
    files = sorted(folder.glob("*.xml"))
    if not files:
        raise ValueError(f"A folder of VOC annotations holds .xml files. Received: {folder}, without one")
    images, found = {}, []
    for number, path in enumerate(files, 1):
        try:
            root = ElementTree.parse(path).getroot()
            images[number] = {
                "id": number,
                "file_name": _text(root, "filename"),
                "width": int(_text(root, "size/width")),
                "height": int(_text(root, "size/height")),
            }
            for item in root.iter("object"):
                x1, y1, x2, y2 = (float(_text(item, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
                box = [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]
                found.append((number, _text(item, "name"), box, int(item.findtext("difficult") or 0)))
        except (ElementTree.ParseError, ValueError) as error:
            raise ValueError(f"{path} must be a VOC annotation. Received: {error}") from error
    names = sorted({name for _, name, _, _ in found})
    ids = {name: number for number, name in enumerate(names, 1)}
    annotations = [
        {
            "id": number, "image_id": image, "category_id": ids[name], "bbox": box, "area": box[2] * box[3],
            "iscrowd": difficult,
        }
        for number, (image, name, box, difficult) in enumerate(found, 1)
    ]  # fmt: skip
    return Truth(str(folder), images, {number: name for name, number in ids.items()}, annotations)


def _text(element: ElementTree.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None or not text.strip():
        raise ValueError(f"no <{path.replace('/', '><')}>")
    return text.strip()
