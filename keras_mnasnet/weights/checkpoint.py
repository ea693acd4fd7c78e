"""The one value that travels: a network, its numerics, its tensors, and what their source says about them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import weakref
import zlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_mnasnet.architecture import STEM_ACTIVATIONS, Architecture, Layer
from keras_mnasnet.preprocessing import IMAGENET, Normalization, Preprocessing, as_normalization
from keras_mnasnet.utils.reading import check_names, texts

if TYPE_CHECKING:
    from keras_mnasnet.detection.spec import DetectorSpec

OWN_SOURCE = "keras_mnasnet"
BN_LEAVES = ("gamma", "beta", "moving_mean", "moving_variance")


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: unknown, damaged, refused, or of another network."""


class DownloadError(OSError):
    """A checkpoint that could not be fetched; the message names the address, the local path and the way out."""


@dataclasses.dataclass(frozen=True, slots=True)
class Numerics:
    """How the framework that trained a checkpoint computes: what the weights alone do not say.

    `first_residual` is whether the first layer of the first stage has a residual where its shape allows one; None: as the
    member of the family has it. `stem_activation` is "relu" or "linear", what follows the stem; `normalization` what the
    network does to pixels 0..255, or the name of that.
    """

    bn_epsilon: float
    padding: str
    first_residual: bool | None = None
    stem_activation: str = "relu"
    normalization: Normalization = IMAGENET

    def __post_init__(self) -> None:
        if self.padding not in ("same", "symmetric") or not isinstance(self.bn_epsilon, float) or not 0 < self.bn_epsilon < 1:
            raise CheckpointError(f"Numerics need an epsilon in (0, 1) and a padding, same or symmetric. Received: {self}")
        if self.first_residual not in (None, True, False):
            raise CheckpointError(f"`first_residual` must be true or false. Received: {self}")
        if self.stem_activation not in STEM_ACTIVATIONS:
            raise CheckpointError(f"`stem_activation` must be one of {STEM_ACTIVATIONS}. Received: {self}")
        object.__setattr__(self, "normalization", as_normalization(self.normalization).per_channel)

    def apply(self, architecture: Architecture) -> Architecture:
        """The network as this source builds it: what follows the stem; the first residual, where that can be chosen."""
        architecture = architecture.with_stem_activation(self.stem_activation)
        first = architecture.blocks[0]
        if self.first_residual is None or first.stride != 1 or architecture.stem != first.filters:
            return architecture
        return architecture.with_first_residual(self.first_residual)


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """Where a checkpoint comes from. Figures are in %; `published` and `measured` name what is known, such as `top1`.

    `source` is who trained it: `google`, `timm`, `torchvision`, `keras_mnasnet`, or `keras` for a Keras file that does not say.
    `name` is what to show of it, the record id or the file; `notes` say what was taken of a training run's file and what was
    passed over.
    """

    source: str
    name: str
    record: str | None = None
    url: str | None = None
    license: str | None = None
    published: Mapping[str, float] = dataclasses.field(default_factory=dict)
    published_at: str | None = None
    measured: Mapping[str, float] = dataclasses.field(default_factory=dict)
    measured_on: str | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        figures = ", ".join(f"{key} {value:g} %" for key, value in (self.published or self.measured).items())
        where = f"published at {self.published_at}" if self.published else f"measured on {self.measured_on}"
        return self.name + (f" ({figures}, {where})" if figures else "")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A trained network as one value: `load(source)` gives it, `save(checkpoint, path)` writes all of it again.

    `tensors` are float32 arrays under the package's own names in Keras's layout, `size` is the input size in pixels that they
    were trained at, `preprocessing` what is done to a photo at that size. `assumed` names what the source did not say. Of a
    detector (`detector` is its spec) `size` is the input's height, the tensors include the heads, and `architecture` is the
    backbone.

    Example:
        >>> from keras_mnasnet import load
        >>> checkpoint = load("cifar10")
        >>> checkpoint.labels[:3], checkpoint.size, checkpoint.architecture.name
        (('airplane', 'automobile', 'bird'), 32, 'a1-0.5-stem1')
        >>> checkpoint.model().output_shape
        (None, 10)
    """

    architecture: Architecture
    numerics: Numerics
    classes: int
    tensors: dict[str, np.ndarray] = dataclasses.field(repr=False)
    size: int
    labels: tuple[str, ...] | None
    preprocessing: Preprocessing
    origin: Origin
    assumed: tuple[str, ...] = ()
    detector: DetectorSpec | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "preprocessing", self.preprocessing.normalized(self.numerics.normalization))
        if self.labels is None:
            return
        object.__setattr__(self, "labels", texts(self.labels))
        if len(self.labels) != self.classes:
            raise CheckpointError(
                f"{self.origin.name}: there must be one label for each class. Received: {len(self.labels)} labels for "
                f"{self.classes} classes"
            )
        try:
            check_names(self.labels, "A checkpoint's labels")
        except ValueError as error:
            raise CheckpointError(f"{self.origin.name}: {error}") from error

    @property
    def task(self) -> str:
        """`classification` or `detection`."""
        return "classification" if self.detector is None else "detection"

    def model(
        self,
        *,
        size: int | None = None,
        classes: int | None = None,
        include_top: bool = True,
        input_tensor: Any = None,
        input_shape: Any = None,
        pooling: str | None = None,
        classifier_activation: Any = "softmax",
        include_preprocessing: bool = True,
        dropout_rate: float = 0.2,
        bn_momentum: float = 0.99,
        name: str | None = None,
        framework: Any = None,
    ) -> Any:
        """The Keras model: RGB pixels 0..255 `[B, size, size, 3]` -> probabilities `[B, classes]`, or a detector's outputs.

        `size` and `classes` None are the checkpoint's own. Another number of classes gives a new classifier on the trained
        body; `include_top=False` gives the body alone. The other arguments are `MnasNet`'s. Raises ValueError for arguments
        that do not fit, CheckpointError for a classifier that the checkpoint lacks.
        """
        if self.detector is not None:
            return self._detector(self.detector, bn_momentum, name, size, classes)
        from keras_mnasnet.model import build

        if include_top and classes is None and not self.classes:
            raise CheckpointError(
                f"A checkpoint must have a classifier to be used with it. Received: {self.origin.name}, which has none. Pass "
                f"classes=N for a new one, or include_top=False."
            )
        own_top = include_top and classes in (None, self.classes)
        side = self.size if size is None else size
        model = build(
            self.architecture,
            include_top=include_top,
            input_tensor=input_tensor,
            input_shape=(side, side, 3) if input_shape is None and input_tensor is None else input_shape,
            pooling=pooling,
            classes=(self.classes or 1000) if classes is None else classes,
            classifier_activation=classifier_activation,
            include_preprocessing=include_preprocessing,
            name=name,
            dropout_rate=dropout_rate,
            bn_epsilon=self.numerics.bn_epsilon,
            bn_momentum=bn_momentum,
            padding=self.numerics.padding,
            normalization=self.numerics.normalization,
            framework=framework,
        )
        if model.inputs[0].shape[-1] != 3:
            raise CheckpointError(
                f"Checkpoints take 3 channels (RGB). Received: {self.origin.name} for an input of "
                f"{model.inputs[0].shape[-1]} channels. Build the network without weights."
            )
        assign(model, self.tensors, expected_shapes(self.architecture, self.classes if own_top else 0))
        if framework is None:
            remember(model, self)
        return model

    def _detector(self, spec: DetectorSpec, bn_momentum: float, name: str | None, size: int | None, classes: int | None) -> Any:
        from keras_mnasnet.detection.model import build_detector

        if size not in (None, self.size) or classes not in (None, self.classes):
            raise CheckpointError(
                f"A detector is built as it was trained. Received: {self.origin.name} with size={size}, classes={classes}. "
                f"Train one of another size or other classes from it: mnasnet detect train --from."
            )
        model = build_detector(spec, bn_momentum=bn_momentum, name=name)
        assign(model, self.tensors, layer_shapes(spec.layers()))
        remember(model, self)
        return model

    def check_values(self) -> None:
        """CheckpointError unless every tensor is float32 and finite."""
        for name, value in self.tensors.items():
            if value.dtype != np.float32 or not np.isfinite(value).all():
                raise CheckpointError(
                    f"{self.origin.name}: tensor {name!r} must be finite float32. Received: "
                    f"{'NaN or infinity in it' if value.dtype == np.float32 else value.dtype}"
                )


def assign(model: Any, tensors: Mapping[str, np.ndarray], names: Iterable[str]) -> None:
    """Set a model's layers from tensors by their names; the names of one layer stand together."""
    for layer, group in itertools.groupby(names, key=lambda name: name.rpartition("/")[0]):
        model.get_layer(layer).set_weights([tensors[name] for name in group])


@functools.lru_cache(maxsize=64)
def expected_shapes(architecture: Architecture, classes: int) -> dict[str, tuple[int, ...]]:
    """{name: shape in Keras's layout} of a network's tensors; `classes=0` leaves out the classifier."""
    return layer_shapes(architecture.layers(32, 32, classes=classes))


def layer_shapes(layers: Iterable[Layer]) -> dict[str, tuple[int, ...]]:
    """{name: shape in Keras's layout} of the tensors of a layer table."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in layers:
        k, cin, cout = layer.kernel, layer.input_filters, layer.filters
        kernel = {"conv": (k, k, cin, cout), "depthwise": (k, k, cin, 1), "dense": (cin, cout)}[layer.op]
        shapes[f"{layer.name}/kernel"] = kernel
        if layer.bn:
            shapes.update({f"{layer.bn}/{leaf}": (cout,) for leaf in BN_LEAVES})
        else:
            shapes[f"{layer.name}/bias"] = (cout,)
    return shapes


def fingerprint(tensors: Mapping[str, np.ndarray]) -> int:
    """A checksum that changes with any training step: of the first kernel, a late statistic and the last tensor."""
    names = list(tensors)
    chosen = (names[0], "head_bn/moving_variance", names[-1])
    return zlib.crc32(b"".join(np.ascontiguousarray(tensors[name]).tobytes() for name in chosen if name in tensors))


_REMEMBERED: weakref.WeakKeyDictionary[Any, tuple[Checkpoint, int]] = weakref.WeakKeyDictionary()


def remember(model: Any, checkpoint: Checkpoint) -> None:
    """Tie a Keras model of this process to what its checkpoint says, without its tensors; `remembered` gives it back."""
    _REMEMBERED[model] = dataclasses.replace(checkpoint, tensors={}), fingerprint(checkpoint.tensors)


def remembered(model: Any) -> tuple[Checkpoint, int] | None:
    """(what the checkpoint of a model said, the fingerprint of its tensors), or None for a model made from none."""
    return _REMEMBERED.get(model)
