"""What is done to photos, as values: normalization, evaluation preprocessing and training augmentation. Loads nothing."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CROPS = ("inception", "pad", "none")
INTERPOLATIONS = ("bilinear", "bicubic")
MOST_PIXELS = 100_000  # along a side


@dataclasses.dataclass(frozen=True, slots=True)
class Normalization:
    """What is done to pixels 0..255: (pixel - mean) / std, with one value or one per channel."""

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
        whole = all(math.isfinite(value) for value in (*self.mean, *self.std)) and all(value > 0 for value in self.std)
        if len(self.mean) not in (1, 3) or len(self.mean) != len(self.std) or not whole:
            raise ValueError(
                f"A normalization has 1 or 3 means and as many positive standard deviations. "
                f"Received: mean={self.mean}, std={self.std}"
            )

    def __str__(self) -> str:
        known = next((name for name, each in NORMALIZATIONS.items() if each.per_channel == self.per_channel), None)
        mean, std = (
            ", ".join(f"{value:g}" for value in (side if len(set(side)) > 1 else side[:1])) for side in (self.mean, self.std)
        )
        return known or f"(pixels - {mean}) / {std}"

    @property
    def per_channel(self) -> Normalization:
        """The same with a mean and a deviation for each of three channels."""
        return self if len(self.mean) == 3 else Normalization(self.mean * 3, self.std * 3)


PIXELS, UNIT, SIGNED = Normalization(), Normalization((0.0,), (255.0,)), Normalization((127.5,), (127.5,))
IMAGENET = Normalization(tuple(255 * value for value in IMAGENET_MEAN), tuple(255 * value for value in IMAGENET_STD))
NORMALIZATIONS = {"pixels": PIXELS, "unit": UNIT, "signed": SIGNED, "imagenet": IMAGENET}


def as_normalization(value: Normalization | str, name: str = "normalization") -> Normalization:
    """A Normalization, or the one of that name; ValueError for an unknown name."""
    if isinstance(value, Normalization):
        return value
    if not isinstance(value, str) or value not in NORMALIZATIONS:
        raise ValueError(f"`{name}` must be one of {', '.join(NORMALIZATIONS)} or a Normalization. Received: {name}={value!r}")
    return NORMALIZATIONS[value]


def range_kind(low: float, high: float) -> str | None:
    """Which of `pixels`, `unit` and `signed` a range of values is, to 5 % of it; None for another."""
    for kind, (first, last) in {"pixels": (0, 255), "unit": (0, 1), "signed": (-1, 1)}.items():
        near = 0.05 * (last - first)
        if abs(low - first) <= near and abs(high - last) <= near:
            return kind
    return None


def small_margin(size: int) -> Preprocessing:
    """What is usual where nothing says how photos are prepared: the shorter side to size / 0.875, the central crop."""
    return Preprocessing(size, "bilinear", resize=round(size / 0.875), offset="down")


@dataclasses.dataclass(frozen=True, slots=True)
class Preprocessing:
    """Evaluation preprocessing of a checkpoint, down to `size` x `size` pixels.

    `resize` given: shorter side to that many pixels, then the central crop. `resize` None: the central square of
    `crop_fraction` of the shorter side, then resized (Google). Normalization: (pixel / 255 - mean) / std. `decoder` of
    JPEGs: `pillow` (accurate DCT) or `tensorflow` (its default, up to 6 of 255 away). `offset` of a central crop that leaves
    half a pixel: `round` (to even, as Python, timm and torchvision) or `down`. `squash`: the whole image is resized, whatever
    its shape, as for detectors, to `size` rows of `width` pixels (None: `size`). `upright`: a photo is first turned as its EXIF
    orientation says; timm and torchvision do not.
    """

    size: int
    interpolation: str
    resize: int | None = None
    crop_fraction: float | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    decoder: str = "pillow"
    offset: str = "round"
    squash: bool = False
    upright: bool = False
    width: int | None = None

    def __post_init__(self) -> None:
        for name in ("size", "resize", "width"):
            side = getattr(self, name)
            if (name == "size" or side is not None) and not (_is_whole(side) and 1 <= side <= MOST_PIXELS):
                raise ValueError(f"`{name}` must be a whole number of pixels, 1 to {MOST_PIXELS:,}. Received: {name}={side!r}")
        fraction = self.crop_fraction
        if fraction is not None and not (_is_number(fraction) and 0 < fraction <= 1):
            raise ValueError(f"`crop_fraction` must be a number above 0, at most 1. Received: crop_fraction={fraction!r}")
        for name in ("mean", "std"):
            sides = getattr(self, name)
            if len(sides) != 3 or not all(_is_number(side) and (name == "mean" or side > 0) for side in sides):
                raise ValueError(f"`{name}` must be three numbers, deviations above 0. Received: {name}={sides!r}")

    def __str__(self) -> str:
        first = "upright by EXIF, " if self.upright else ""
        if self.squash:
            return f"{first}resize to {self.size} x {self.width or self.size} ({self.interpolation})"
        if self.resize:
            return f"{first}resize {self.resize} ({self.interpolation}), central crop {self.size}"
        return f"{first}central crop {self.crop_fraction:.3f}, resize {self.size} ({self.interpolation})"

    def at(self, size: int) -> Preprocessing:
        """The same preprocessing down to another size, its crop in proportion."""
        if size == self.size:
            return self
        if self.squash:
            return dataclasses.replace(self, size=size, width=None)
        if self.resize:
            return dataclasses.replace(self, size=size, resize=round(size * self.resize / self.size))
        return dataclasses.replace(self, size=size, crop_fraction=size / (size + 32))

    def normalized(self, how: Normalization) -> Preprocessing:
        """The same with the mean and std of what the network does to pixels 0..255."""
        if self.normalization == how.per_channel:
            return self
        mean, std = (tuple(value / 255 for value in side) for side in (how.per_channel.mean, how.per_channel.std))
        return dataclasses.replace(self, mean=mean, std=std)  # type: ignore[arg-type]

    @property
    def normalization(self) -> Normalization:
        """The same mean and std for pixels 0..255."""
        return Normalization(tuple(255 * value for value in self.mean), tuple(255 * value for value in self.std))


@dataclasses.dataclass(frozen=True, slots=True)
class Augment:
    """How a training image is varied; every value is plain JSON.

    `crop`: `inception` takes a box of `area` (share of the image) and `aspect` (width / height), `pad` moves the central
    square by up to `pad` pixels at the output size (reflected borders), `none` takes the central square. `randaugment_ops`
    operations of strength up to `randaugment_factor` (0..1) per image. `mixup` and `cutmix` are the alpha of the beta
    distribution, 0 is off; with both on, each batch gets one of them. `erasing` is the probability per image. `upright`: photos
    are first turned as their EXIF orientation says.
    """

    crop: str = "inception"
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    pad: int = 4
    flip: bool = True
    interpolation: str = "bilinear"
    randaugment_ops: int = 0
    randaugment_factor: float = 0.5
    mixup: float = 0.0
    cutmix: float = 0.0
    erasing: float = 0.0
    upright: bool = False

    def __post_init__(self) -> None:
        for key, choices in (("crop", CROPS), ("interpolation", INTERPOLATIONS)):
            if getattr(self, key) not in choices:
                raise ValueError(f"`{key}` must be one of {choices}. Received: {key}={getattr(self, key)!r}")
        for key, limit in (("area", 1.0), ("aspect", 10.0)):
            pair = getattr(self, key)
            if not (isinstance(pair, list | tuple) and len(pair) == 2 and all(_is_number(value) for value in pair)):
                raise ValueError(f"`{key}` must be two numbers, low and high. Received: {key}={pair!r}")
            if not 0 < pair[0] <= pair[1] <= limit:
                raise ValueError(f"`{key}` must be two numbers, 0 < low <= high <= {limit:g}. Received: {key}={pair!r}")
            object.__setattr__(self, key, tuple(float(value) for value in pair))
        for key, high in (("randaugment_factor", 1), ("mixup", math.inf), ("cutmix", 1), ("erasing", 1)):
            value = getattr(self, key)
            if not _is_number(value) or not 0 <= value <= high or value == math.inf:
                raise ValueError(f"`{key}` must be a number from 0 to {high:g}. Received: {key}={value!r}")
            object.__setattr__(self, key, float(value))
        for key in ("pad", "randaugment_ops"):
            value = getattr(self, key)
            if not _is_whole(value) or not 0 <= value <= 1024:
                raise ValueError(f"`{key}` must be a whole number from 0 to 1024. Received: {key}={value!r}")
        for key in ("flip", "upright"):
            if not isinstance(getattr(self, key), bool):
                raise ValueError(f"`{key}` must be true or false. Received: {key}={getattr(self, key)!r}")

    @property
    def per_image(self) -> bool:
        """Whether images are varied one by one, not as a batch."""
        return self.crop == "inception" or self.randaugment_ops > 0 or self.erasing > 0


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
