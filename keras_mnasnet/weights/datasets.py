"""The data sets that weights exist for: each name is a source for `load` and a value of `weights`. Loads nothing."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class DataSet:
    """`title` is its usual name. Of a set that networks in this package were trained on, `tested_on` says what they were
    measured on, and `photos` whose photos these are, under which terms."""

    title: str
    tested_on: str = ""
    photos: str = ""


DATASETS = {
    "imagenet": DataSet("ImageNet"),
    "cifar10": DataSet(
        "CIFAR-10", "the 10,000 test images of CIFAR-10", "Krizhevsky 2009, www.cs.toronto.edu/~kriz/cifar.html, for research"
    ),
    "trashnet": DataSet(
        "TrashNet", "the 431 test photos of TrashNet", "Gary Thung and Mindy Yang, github.com/garythung/trashnet, MIT license"
    ),
}
NAMES = ", ".join(DATASETS)
