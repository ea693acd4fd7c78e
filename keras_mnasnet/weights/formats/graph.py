"""The MnasNet in a graph of whichever format: recognized by its operators and their shapes, never by names.

A reader turns its file into a `Graph`, a list of `Operation`s in the order in which they are computed; `recognized` makes the
Checkpoint of it, or refuses it and names the first operator that differs.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.preprocessing import NORMALIZATIONS, PIXELS, SIGNED, UNIT, Normalization, Preprocessing, small_margin
from keras_mnasnet.spec import UnitShape, read_network
from keras_mnasnet.utils.reading import read_names
from keras_mnasnet.weights.checkpoint import Checkpoint, CheckpointError, Numerics, Origin, expected_shapes
from keras_mnasnet.weights.formats import LABEL_FILES
from keras_mnasnet.weights.registry import labels_of, with_background

EPSILON = 2.0**-10  # of the batch norms, which are folded: with it 1 - epsilon and its sum with epsilon are exact in float32
WEIGHTED = ("convolution", "dense")
ACTIVATIONS = {"relu": "a ReLU", "linear": "no activation", "sigmoid": "a sigmoid", "softmax": "a softmax"}
DEFAULT_SIZE = 224

Pads = tuple[tuple[int, int], tuple[int, int]]  # (top, bottom), (left, right)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """One operation of a graph, in words that all formats share; arrays have Keras's layout.

    | kind | what it computes | its fields |
    |---|---|---|
    | convolution | of `groups` 1, or one for each channel | kernel `[k, k, in, out]` or `[k, k, C, 1]`; bias, stride, padding |
    | dense | a matrix product | kernel `[in, out]`, bias |
    | affine | x * scale + offset, constants that broadcast along the channels; also a batch norm | scale, offset |
    | mean | over height and width | |
    | add, multiply | of two maps | |
    | max_pool | of a square window | window, stride, padding |
    | pad | zeros around a map | padding |
    | relu, sigmoid, softmax, identity | of each value | |

    Any other kind is an operator that no MnasNet has. `said` is how the file calls it, for messages. `inputs` are outputs of
    others or the graph's image, `padding` is "same", "valid" or pixels, `activation` what is fused into it ("linear": nothing).
    """

    kind: str
    said: str
    inputs: tuple[str, ...]
    output: str
    kernel: np.ndarray | None = None
    bias: np.ndarray | None = None
    stride: int = 1
    padding: str | Pads = "valid"
    groups: int = 1
    activation: str = "linear"
    scale: np.ndarray | float = 1.0
    offset: np.ndarray | float = 0.0
    window: int = 0


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """What a reader found in a file.

    `sides` are the input's height and width, None where it leaves them open. `normalization` is what is done to pixels 0..255
    before the graph, None where the file does not say it: then pixels are assumed where the graph itself normalizes, else
    `usual`. `labels`, `preprocessing` and `license` are what the file says of itself; `way` ends the message of a refusal.
    """

    path: Path
    source: str
    operations: Sequence[Operation]
    image: str
    sides: tuple[int | None, int | None]
    normalization: Normalization | None = None
    usual: Normalization = SIGNED
    labels: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None
    license: str | None = None
    notes: tuple[str, ...] = ()
    way: str = ""


def recognized(graph: Graph) -> Checkpoint:
    """The checkpoint of the MnasNet that a graph is: batch norms folded (gamma 1, mean 0, variance 1 - epsilon, beta the bias).

    The classes' names are the file's, those of `labels.txt` or `dict.txt` beside it, or ImageNet's for 1000 and 1001 outputs.
    Raises CheckpointError that names the first operator that differs, and for labels of another count.
    """
    walk = _Walk(graph)
    architecture, numerics, tensors = walk.network()
    classes = tensors["predictions/bias"].size if "predictions/bias" in tensors else 0
    said = [side for side in graph.sides if side]
    size = min(said, default=DEFAULT_SIZE)
    labels, named = _labels(graph, classes)
    guesses = {
        "input size": not said, "labels": labels is not None and not named, "preprocessing": graph.preprocessing is None,
        "normalization": not walk.is_normalized,
    }  # fmt: skip
    checkpoint = Checkpoint(
        architecture,
        numerics,
        classes,
        tensors,
        size,
        labels,
        graph.preprocessing or small_margin(size),
        Origin(graph.source, str(graph.path), license=graph.license, notes=(*graph.notes, *walk.notes)),
        tuple(name for name, guessed in guesses.items() if guessed),
    )
    checkpoint.check_values()
    return checkpoint


def _labels(graph: Graph, classes: int) -> tuple[tuple[str, ...] | None, bool]:
    """The names of the classes, and whether something said them. CheckpointError for another number of them."""
    found, place = graph.labels, f"in {graph.path}"
    if found is None:
        path = labels_beside(graph.path)
        if path is None:
            return labels_of("google", classes), False
        found, place = read_names(path, f"The labels in {path}"), f"in {path}"
    found = with_background(found, classes)
    if len(found) != classes:
        raise CheckpointError(
            f"There must be one label for each class. Received: {len(found)} labels {place} for the {classes} classes of "
            f"{graph.path}. Take them away, or write one name a line in the order of the outputs"
        )
    return found, True


def labels_beside(path: Path) -> Path | None:
    """The file of labels beside a file, as AutoML's exports have it."""
    return next((each for each in map(path.with_name, LABEL_FILES) if each.is_file()), None)


class _Walk:
    """Follows a graph from its image to its scores."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.operations = _simplified(graph)
        self.takers: dict[str, list[Operation]] = collections.defaultdict(list)
        for operation in self.operations:
            for name in dict.fromkeys(operation.inputs):
                self.takers[name].append(operation)
        self.left = {id(operation) for operation in self.operations}
        self.paddings: dict[str, Operation] = {}
        self.is_normalized = graph.normalization is not None
        self.notes: list[str] = []

    def network(self) -> tuple[Architecture, Numerics, dict[str, np.ndarray]]:
        """The network, its numerics and its tensors under the house's names."""
        image, normalization = self._normalized()
        stem = self._taker(image, "the stem", "convolution")
        self._check(stem, "a 3x3 convolution of 3 channels", _is_plain(stem) and _shape(stem)[:3] == (3, 3, 3))
        self._check(stem, "a ReLU, or nothing, behind the stem", stem.activation in ("relu", "linear"))
        self._check(stem, "a stem of stride 1 or 2", stem.stride in (1, 2))
        self._check_padding(stem)
        units: list[UnitShape] = []
        layers = {"stem_conv": stem}
        parts: list[dict[str, Operation]] = []
        x, channels, stage = stem.output, _shape(stem)[-1], 0
        last: object = None
        while not self._is_head(x):
            unit, found, x = self._unit(x, channels)
            kind = unit.op, unit.kernel, (unit.expanded or channels) / channels, unit.filters, unit.se_filters > 0
            stage += kind != last or unit.stride != 1
            last, channels = kind, unit.filters
            units.append(dataclasses.replace(unit, stage=stage))
            parts.append(found)
        layers["head_conv"] = head = self._pointwise(x, "the head", "relu")
        if (end := self._top(head.output)) is not None:
            layers["predictions"] = end
        for operation in self.operations:
            if id(operation) in self.left:
                raise self._differs(operation, "where a MnasNet has nothing")
        if not units:
            raise self._differs(head, "where a MnasNet has its stages")
        try:
            network = read_network(
                units, _shape(stem)[-1], _shape(head)[-1], stem_stride=stem.stride, stem_activation=stem.activation
            )
        except ValueError as error:
            raise self._refusal(f"with {error}") from error
        for built, found in zip(network.units(), parts, strict=True):
            for part, operation in found.items():
                name = built.conv if part == "plain" else f"{built.name}_{part}"
                layers[name if part.startswith("se") else f"{name}_conv"] = operation
        padding = next(iter(self.paddings), "same")
        numerics = Numerics(EPSILON, padding, network.units()[0].residual, network.stem_activation, normalization)
        return network, numerics, self._tensors(network, layers, _shape(end)[-1] if end else 0)

    # Its parts, in their order

    def _normalized(self) -> tuple[str, Normalization]:
        """Where the image is normalized, and what was done to pixels 0..255 until there."""
        x, scale, offset = self.graph.image, np.ones(1), np.zeros(1)
        while [taker.kind for taker in self.takers[x]] == ["affine"]:
            (taker,) = self.takers[x]
            factor, added = (_per_channel(value) for value in (taker.scale, taker.offset))
            whole = all(value.size in (1, 3) and np.isfinite(value).all() for value in (factor, added))
            positive = whole and bool((factor > 0).all()) and taker.activation == "linear"
            self._check(taker, "a normalization of the image, of one value or one for each color", positive)
            scale, offset = scale * factor, offset * factor + added
            self._done(taker)
            x = taker.output
        mean, std = -offset / scale, 1 / scale
        before = self.graph.normalization
        if before is None and x != self.graph.image:  # it takes pixels 0..255, or shares of them
            before = UNIT if max(abs(mean)) <= 1 and max(std) <= 1 else PIXELS
            self.is_normalized = True
        before = before or self.graph.usual
        outer_mean, outer_std = (np.array(side) for side in (before.mean, before.std))
        sides = (np.broadcast_to(side, 3) for side in (outer_mean + mean * outer_std, std * outer_std))
        try:
            found = Normalization(*(tuple(map(float, side)) for side in sides))
        except ValueError as error:
            raise self._refusal(f"which normalizes its image so that {error}") from error
        return x, next((known.per_channel for known in NORMALIZATIONS.values() if _close(known, found)), found)

    def _is_head(self, x: str) -> bool:
        """Whether what comes next is one 1x1 convolution with a ReLU that nothing follows, or the mean over the map alone."""
        takers = self.takers[x]
        if len(takers) != 1 or not _is_plain(takers[0]) or _shape(takers[0])[0] != 1 or takers[0].activation != "relu":
            return False
        return [taker.kind for taker in self.takers[takers[0].output]] in ([], ["mean"])

    def _unit(self, start: str, channels: int) -> tuple[UnitShape, dict[str, Operation], str]:
        """One layer of a stage, which begins at the map `start`: its shape, its weighted operations, and its output."""
        found: dict[str, Operation] = {}
        spatial = self._first(start, "the next layer")
        x = start
        if _is_plain(spatial) and _shape(spatial)[0] == 1 and any(map(_is_depthwise, self.takers[spatial.output])):
            found["expand"] = self._pointwise(start, "an expansion", "relu", among=True)
            x = spatial.output
            spatial, channels = self._first(x, "a depthwise convolution"), _shape(spatial)[-1]
        self._check(spatial, "a square kernel", _shape(spatial)[0] == _shape(spatial)[1])
        self._check(spatial, "a stride of 1 or 2", spatial.stride in (1, 2))
        op = "mbconv" if _is_depthwise(spatial) else "conv" if spatial.activation == "relu" else "linear"
        outputs = 1 if op == "mbconv" else _shape(spatial)[-1]
        self._check(spatial, f"a kernel of {channels} channels", _shape(spatial)[2:] == (channels, outputs))
        self._check(spatial, "a ReLU behind it", spatial.activation == ("linear" if op == "linear" else "relu"))
        self._check_padding(spatial)
        self._only(x, spatial, among=x == start)
        found["depthwise" if op == "mbconv" else "plain"] = last = spatial
        x = spatial.output
        if any(taker.kind == "mean" for taker in self.takers[x]):
            found["se_reduce"], found["se_expand"], x = self._gate(x)
        if op == "mbconv":
            found["project"] = last = self._pointwise(x, "a projection", "linear")
            x = last.output
        x, skipped, pooled = self._skip(start, x, spatial.stride)
        unit = UnitShape(
            kernel=_shape(spatial)[0],
            filters=_shape(last)[-1],
            expanded=channels if "expand" in found else None,
            se_filters=_shape(found["se_reduce"])[-1] if "se_reduce" in found else 0,
            stride=spatial.stride,
            residual=skipped,
            pooled=pooled,
            op=op,
        )
        return unit, found, x

    def _gate(self, x: str) -> tuple[Operation, Operation, str]:
        """Squeeze-and-excite on the map `x`: mean, 1x1 with a ReLU, 1x1, sigmoid, product."""
        mean = next(taker for taker in self.takers[x] if taker.kind == "mean")
        self._done(mean)
        reduce = self._pointwise(mean.output, "the reduction of squeeze-and-excite", "relu", "dense")
        expand = self._pointwise(reduce.output, "the expansion of squeeze-and-excite", "linear sigmoid", "dense")
        gate = expand.output
        if expand.activation == "linear":
            gate = self._taker(gate, "the gate of squeeze-and-excite", "sigmoid").output
        product = self._taker(gate, "the product of squeeze-and-excite", "multiply")
        own = {*product.inputs} == {x, gate} and product.activation == "linear"
        self._check(product, "the product of the gate and its own map", own)
        for taker in self.takers[x]:
            self._check(taker, "squeeze-and-excite alone on that map", taker in (mean, product))
        return reduce, expand, product.output

    def _skip(self, start: str, x: str, stride: int) -> tuple[str, bool, bool]:
        """(the layer's output, whether a skip is added to the map `x`, whether it is pooled)."""
        pool = next((taker for taker in self.takers[start] if taker.kind == "max_pool"), None)
        skip = start if pool is None else pool.output
        add = next((taker for taker in self.takers[x] if taker.kind == "add" and {*taker.inputs} == {skip, x}), None)
        if add is not None:
            self._check(add, "an addition without an activation", add.activation == "linear")
            self._only(x, add)
            if pool is not None:
                same = pool.window == 3 and pool.stride == stride and (pool.padding, pool.activation) == ("same", "linear")
                self._check(pool, f"a 3x3 max pooling of stride {stride} that pads as SAME", same)
                self._done(pool)
                self._only(skip, add)
        for taker in self.takers[start]:
            if id(taker) in self.left:
                raise self._differs(taker, "where a MnasNet adds a layer's input to its output, or nothing")
        return (x, False, False) if add is None else (add.output, True, pool is not None)

    def _top(self, x: str) -> Operation | None:
        """The classifier behind the head; None for a body alone."""
        if not self.takers[x]:
            return None
        x = self._taker(x, "the mean over the last map", "mean").output
        if not self.takers[x]:
            return None
        end = self._pointwise(x, "the classifier", "linear softmax sigmoid", "dense")
        x, activation = end.output, end.activation
        if self.takers[x]:
            last = self._taker(x, "the scores")
            self._check(last, "a softmax, a sigmoid or nothing behind the classifier", last.kind in ("softmax", "sigmoid"))
            x, activation = last.output, last.kind
        for taker in self.takers[x]:
            raise self._differs(taker, "behind the scores, where a MnasNet ends")
        if activation == "sigmoid":
            self.notes.append("its scores are sigmoids, one of each class; here they are a softmax of the same logits")
        return end

    # One operation

    def _first(self, x: str, what: str) -> Operation:
        """The first convolution that takes `x`."""
        found = next((taker for taker in self.takers[x] if taker.kind == "convolution"), None)
        if found is None:
            raise self._missing(x, what)
        return found

    def _taker(self, x: str, what: str, kind: str | None = None) -> Operation:
        """The one operation that takes the map `x`, of this kind."""
        if not self.takers[x] or kind not in (None, self.takers[x][0].kind):
            raise self._missing(x, what)
        self._only(x, self.takers[x][0])
        return self.takers[x][0]

    def _pointwise(self, x: str, what: str, activations: str, also: str = "", *, among: bool = False) -> Operation:
        """The 1x1 convolution (or matrix product, if dense is taken `also`) of `x`, alone or `among` a skip."""
        if self.takers[x] and self.takers[x][0].kind == also:
            found = self.takers[x][0]
        else:
            found = self._first(x, what)
            plain = _is_plain(found) and _shape(found)[:2] == (1, 1) and found.stride == 1 and _padding(found) == "any"
            self._check(found, f"{what}, a 1x1 convolution of stride 1", plain)
        wanted = " or ".join(ACTIVATIONS[each] for each in activations.split())
        self._check(found, f"{wanted} behind {what}", found.activation in activations.split())
        self._only(x, found, among=among)
        return found

    def _check_padding(self, found: Operation) -> None:
        """That a convolution pads as TensorFlow's SAME or as PyTorch does, and like those before it."""
        padding = _padding(found)
        self._check(found, "padding as SAME, or of half a kernel on every side", padding is not None)
        if padding in ("same", "symmetric"):
            for other, before in self.paddings.items():
                self._check(found, f"the padding of {before.said}", other == padding)
            self.paddings.setdefault(padding, found)

    def _only(self, x: str, wanted: Operation, *, among: bool = False) -> None:
        """That nothing but `wanted` (`among`: and a skip) takes `x`; it is done with."""
        for taker in self.takers[x]:
            if taker is not wanted and not (among and taker.kind in ("add", "max_pool")):
                raise self._differs(taker, f"beside {wanted.said}")
        self._done(wanted)

    def _done(self, operation: Operation) -> None:
        self.left.discard(id(operation))

    def _check(self, operation: Operation, wanted: str, holds: bool) -> None:
        if not holds:
            raise self._differs(operation, f"where a MnasNet has {wanted}")

    def _missing(self, x: str, what: str) -> CheckpointError:
        if self.takers[x]:
            return self._differs(self.takers[x][0], f"where a MnasNet has {what}")
        return self._refusal(f"which ends where a MnasNet has {what}")

    def _differs(self, operation: Operation, why: str) -> CheckpointError:
        has = "" if operation.activation == "linear" else f" with {operation.activation}"
        shape = "" if operation.kernel is None else f", kernel {list(operation.kernel.shape)}"
        return self._refusal(f"whose {operation.said}{shape}{has} stands {why}")

    def _refusal(self, why: str) -> CheckpointError:
        return CheckpointError(f"A model must be a MnasNet. Received: {self.graph.path}, {why[:500]}{self.graph.way}")

    def _tensors(self, network: Architecture, layers: Mapping[str, Operation], classes: int) -> dict[str, np.ndarray]:
        """The tensors of the layers; CheckpointError where a shape does not fit the others."""
        tensors = {}
        for name, shape in expected_shapes(network, classes).items():
            layer, leaf = name.split("/")
            operation = layers[f"{layer.removesuffix('_bn')}_conv" if layer.endswith("_bn") else layer]
            tensors[name] = _leaf(operation, leaf, shape)
            fits = tensors[name].shape == shape
            self._check(operation, f"{list(shape)} for {name}, not {list(tensors[name].shape)}", fits)
        return tensors


def _shape(operation: Operation) -> tuple[int, ...]:
    return (0, 0, 0, 0) if operation.kernel is None else operation.kernel.shape


def _is_plain(operation: Operation) -> bool:
    """Whether it is a convolution that mixes all channels."""
    return operation.kind == "convolution" and operation.groups == 1


def _is_depthwise(operation: Operation) -> bool:
    return operation.kind == "convolution" and operation.groups > 1


def _padding(found: Operation) -> str | None:
    """`same`, `symmetric`, `any` where both are the same, or None for another padding."""
    kernel = _shape(found)[0]
    half, before = kernel // 2, max(kernel - 2, 0) // 2
    if found.padding == "same" or kernel == 1:
        return "any" if kernel == 1 or found.stride == 1 else "same"
    if found.padding == ((half, half), (half, half)):
        return "any" if found.stride == 1 else "symmetric"
    behind = kernel - 2 - before  # what SAME puts around an even side at stride 2
    return "same" if found.stride == 2 and found.padding == ((before, behind), (before, behind)) else None


def _per_channel(value: np.ndarray | float) -> np.ndarray:
    """A constant as one value, or one for each channel, also of a row of equal pixels; of any other all its values."""
    value = np.asarray(value, np.float64)
    pixels = value.reshape(-1, value.shape[-1]) if value.ndim and value.size else value.reshape(1, -1)
    return pixels[0] if len(pixels) and (pixels == pixels[:1]).all() else value.reshape(-1)


def _close(known: Normalization, found: Normalization) -> bool:
    """Whether two normalizations are the same in float32."""
    sides = ((known.per_channel.mean, found.mean), (known.per_channel.std, found.std))
    return all(np.allclose(one, other, rtol=1e-6, atol=1e-5) for one, other in sides)


def _leaf(operation: Operation, leaf: str, shape: tuple[int, ...]) -> np.ndarray:
    kernel = operation.kernel
    if leaf == "kernel":
        assert kernel is not None
        alike = kernel.size == np.prod(shape) and {*kernel.shape} - {1} == {*shape} - {1}  # a matrix as 1x1, or the reverse
        return np.ascontiguousarray(kernel.reshape(shape) if alike and kernel.ndim != len(shape) else kernel, np.float32)
    if leaf in ("gamma", "moving_mean", "moving_variance"):
        return np.full(shape, {"gamma": 1, "moving_mean": 0, "moving_variance": 1 - EPSILON}[leaf], np.float32)
    return np.zeros(shape, np.float32) if operation.bias is None else np.ascontiguousarray(operation.bias, np.float32)


# Several operations as one


def _simplified(graph: Graph) -> list[Operation]:
    """The operations with paddings, batch norms, biases and activations taken into their convolutions, identities left out."""
    alias: dict[str, str] = {graph.image: graph.image}
    kept: list[Operation] = []
    for operation in graph.operations:
        for name in operation.inputs:
            if name not in alias:
                raise CheckpointError(
                    f"A graph must be in the order of its computation. Received: {graph.path}, whose {operation.said} takes "
                    f"what nothing before it gives"
                )
        inputs = tuple(alias[name] for name in operation.inputs)
        if operation.kind == "identity" and len(inputs) == 1:
            alias[operation.output] = inputs[0]
            continue
        alias[operation.output] = operation.output
        kept.append(dataclasses.replace(operation, inputs=inputs))
    uses = collections.Counter(name for operation in kept for name in operation.inputs)
    made: dict[str, Operation] = {}
    for operation in kept:
        before = made.get(operation.inputs[0]) if len(operation.inputs) == 1 else None
        joined = _joined(before, operation) if before is not None and uses[before.output] == 1 else None
        if joined is not None:
            assert before is not None
            del made[before.output]
        made[operation.output] = joined or operation
    return list(made.values())


def _joined(before: Operation, operation: Operation) -> Operation | None:
    """The two as one operation, where they can be."""
    if before.kind == "pad" and operation.kind == "convolution" and operation.padding == "valid":
        return dataclasses.replace(operation, inputs=before.inputs, padding=before.padding)
    if before.kind not in WEIGHTED or before.activation != "linear" or before.kernel is None:
        return None
    if operation.kind == "relu":
        return dataclasses.replace(before, output=operation.output, activation="relu")
    outputs = before.kernel.shape[-2] if before.groups > 1 else before.kernel.shape[-1]
    scale, offset = (_per_channel(value) for value in (operation.scale, operation.offset))
    if operation.kind != "affine" or any(value.size not in (1, outputs) for value in (scale, offset)):
        return None
    shape = (outputs, 1) if before.groups > 1 else (outputs,)
    bias = (0 if before.bias is None else before.bias.astype(np.float64)) * scale + offset
    return dataclasses.replace(
        before, output=operation.output, activation=operation.activation,
        bias=np.broadcast_to(bias, outputs).astype(np.float32),
        kernel=(before.kernel.astype(np.float64) * np.broadcast_to(scale, outputs).reshape(shape)).astype(np.float32),
    )  # fmt: skip
