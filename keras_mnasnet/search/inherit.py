"""Weights for a network from those of another one: kernels cut or padded, channels by importance, new layers as identity."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from keras_mnasnet.architecture import Architecture, Unit
from keras_mnasnet.weights.checkpoint import BN_LEAVES, Checkpoint, CheckpointError, Numerics

Tensors = Mapping[str, np.ndarray]
NEW_CONV_SCALE = 0.01  # of a new convolution beside a skip: at 0 its ReLU would pass no gradient
_erf = np.vectorize(math.erf, otypes=[np.float64])


@dataclasses.dataclass(frozen=True, slots=True)
class Inherited:
    """`tensors` of the whole network; `share` (0..1) of its trainable parameters are the source's."""

    tensors: dict[str, np.ndarray]
    share: float


def inherit(
    source: Checkpoint, target: Architecture, fresh: Tensors, numerics: Numerics, labels: Sequence[str] | None = None
) -> Inherited:
    """Weights of `target` from a trained classifier; what the source does not have is taken from the `fresh` ones.

    Of too many channels the most important stay (L1 norms of batch norm scale and kernels), new ones are fresh and nothing
    reads them yet; depthwise kernels are cut to their center or padded with zeros; a new layer beside a skip is the identity,
    its last batch norm's scale being 0; new squeeze-and-excite gates are 0.5 everywhere, which the kernel behind them makes up
    for, and gates that go leave their typical value in it. So a network that only grows computes what the source does.
    Layers of another operator, and new ones without a skip, are fresh. Stages are matched by number, or by the size of their
    maps where the networks have different numbers of them. The classifier is the source's where both have the same `labels`.
    `numerics` are the target's. CheckpointError for a detector.
    """
    if source.detector is not None:
        raise CheckpointError(f"Networks inherit from a classifier. Received: the detector {source.origin.name}")
    keeps_top = labels is not None and source.labels == tuple(labels)
    return _Transfer(_adapted(source, numerics), source.architecture, target, fresh).made(keeps_top)


def _adapted(source: Checkpoint, numerics: Numerics) -> dict[str, np.ndarray]:
    """The source's tensors for pixels and batch norms as the target has them; paddings may still differ."""
    tensors = dict(source.tensors)
    old, new = source.numerics.normalization, numerics.normalization.per_channel
    if old != new:
        kernel = tensors["stem_conv/kernel"]
        std, shift = (
            np.array(values, np.float32)[:, None]
            for values in (
                np.divide(new.std, old.std),
                np.subtract(new.mean, old.mean) / np.array(old.std),
            )
        )
        tensors["stem_conv/kernel"] = kernel * std
        tensors["stem_bn/moving_mean"] = tensors["stem_bn/moving_mean"] - (kernel * shift).sum((0, 1, 2))
    if (more := np.float32(source.numerics.bn_epsilon - numerics.bn_epsilon)) != 0:
        variances = [name for name in tensors if name.endswith("/moving_variance")]
        tensors |= {name: np.maximum(tensors[name] + more, 0) for name in variances}
    return tensors


def matched(source: Architecture, target: Architecture) -> dict[int, int]:
    """{stage of the target: stage of the source}, counted from 1: by number, else by map size and place among its like."""
    if len(source.blocks) == len(target.blocks):
        return {stage: stage for stage in range(1, 1 + len(target.blocks))}

    def places(network: Architecture) -> list[tuple[int, int]]:
        size, found = 1, list[tuple[int, int]]()
        for block in network.blocks:
            size *= block.stride
            found.append((size, sum(each[0] == size for each in found)))
        return found

    ours = {place: stage for stage, place in enumerate(places(source), start=1)}
    return {stage: ours[place] for stage, place in enumerate(places(target), start=1) if place in ours}


class _Transfer:
    """One network's weights, filled layer by layer. A `take` is the source's channels that the target's first ones are."""

    def __init__(self, old: Tensors, source: Architecture, target: Architecture, fresh: Tensors) -> None:
        self.old, self.fresh = old, fresh
        self.new = {name: np.array(value, np.float32) for name, value in fresh.items()}
        self.source, self.target = source, target
        self.stages = matched(source, target)
        self.copied = 0

    def made(self, keeps_top: bool) -> Inherited:
        trunk = self._trunks()
        image = np.arange(3)
        self._conv("stem_conv", "stem_conv", image, trunk[0])
        self._norm("stem_bn", "stem_bn", trunk[0])
        theirs: dict[int, list[Unit]] = {}
        for unit in self.source.units():
            theirs.setdefault(unit.stage, []).append(unit)
        before = place = 0
        for unit in self.target.units():
            place = place + 1 if unit.stage == before else 0
            given = trunk[unit.stage if place else unit.stage - 1]
            before = unit.stage
            found = theirs.get(self.stages.get(unit.stage, 0), [])[place:][:1]
            if found and _alike(unit, found[0]):
                self._unit(unit, found[0], given, trunk[unit.stage])
            elif unit.residual or unit.pooled:
                last = f"{unit.name}_project_bn" if unit.op == "mbconv" else f"{unit.conv}_bn"
                self.new[f"{last}/gamma"][:] = NEW_CONV_SCALE if unit.op == "conv" else 0
        end = trunk[len(self.target.blocks)]
        head = self._chosen(self.target.head, self.source.head, _scale(self.old, "head_bn"))
        self._conv("head_conv", "head_conv", end, head)
        self._norm("head_bn", "head_bn", head)
        if "predictions/kernel" in self.new:
            top = self.new["predictions/kernel"]
            top[:], self.new["predictions/bias"][:] = 0, 0
            if keeps_top:
                top[: len(head)] = self.old["predictions/kernel"][head]
                self._put("predictions/bias", np.arange(top.shape[1]), "predictions/bias")
                self.copied += len(head) * top.shape[1]
        total = sum(value.size for name, value in self.new.items() if not name.endswith(BN_LEAVES[2:]))
        return Inherited(self.new, self.copied / total)

    # which channels

    def _trunks(self) -> dict[int, np.ndarray]:
        """{stage of the target, 0 the stem: take}; stages that a skip joins in the source are ordered together."""
        written: dict[int, list[str]] = {0: ["stem_bn"]}
        read: dict[int, list[str]] = {}
        joined: dict[int, int] = {0: 0}
        before = 0
        for unit in self.source.units():
            prefix, start = unit.name, unit.stage if unit.stage == before else unit.stage - 1
            joined.setdefault(unit.stage, joined[start] if unit.residual or unit.pooled else unit.stage)
            before = unit.stage
            if unit.op != "mbconv":
                read.setdefault(start, []).append(f"{unit.conv}_conv")
            elif unit.expanded != unit.input_filters:
                read.setdefault(start, []).append(f"{prefix}_expand_conv")
            else:
                read.setdefault(start, []).append(f"{prefix}_project_conv")
                written[start].append(f"{prefix}_depthwise_bn")
            written.setdefault(unit.stage, []).append(f"{prefix}_project_bn" if unit.op == "mbconv" else f"{unit.conv}_bn")
        read.setdefault(before, []).append("head_conv")
        scores: dict[int, np.ndarray] = {}
        for stage, root in joined.items():
            scale = np.sum([_scale(self.old, name) for name in written[stage]], axis=0)
            score = scale * np.sum([_reads(self.old, name) for name in read[stage]], axis=0)
            scores[root] = scores[root] + score if root in scores else score
        sizes = {0: self.source.stem, **{number: block.filters for number, block in enumerate(self.source.blocks, start=1)}}
        found = {0: self._chosen(self.target.stem, self.source.stem, scores[0])}
        for stage, block in enumerate(self.target.blocks, start=1):
            like = self.stages.get(stage)
            empty = np.arange(0)
            found[stage] = empty if like is None else self._chosen(block.filters, sizes[like], scores[joined[like]])
        return found

    @staticmethod
    def _chosen(count: int, of: int, score: np.ndarray) -> np.ndarray:
        """The `count` best of so many channels, in their order; all where there are no more."""
        return np.arange(of) if of <= count else np.sort(np.argsort(-score, kind="stable")[:count])

    # layer by layer

    def _unit(self, unit: Unit, old: Unit, given: np.ndarray, out: np.ndarray) -> None:
        gated, after = out, ""
        if unit.op == "mbconv":
            gated, after = given, f"{unit.name}_project_conv/kernel"
            if unit.expanded != unit.input_filters:
                score = _scale(self.old, f"{old.name}_depthwise_bn") * _reads(self.old, f"{old.name}_project_conv")
                gated = self._chosen(unit.expanded, old.expanded, score)
                self._conv(f"{unit.name}_expand_conv", f"{old.name}_expand_conv", given, gated)
                self._norm(f"{unit.name}_expand_bn", f"{old.name}_expand_bn", gated)
            self._depthwise(f"{unit.name}_depthwise_conv", f"{old.name}_depthwise_conv", gated)
            self._norm(f"{unit.name}_depthwise_bn", f"{old.name}_depthwise_bn", gated)
            self._conv(f"{unit.name}_project_conv", f"{old.name}_project_conv", gated, out)
            self._norm(f"{unit.name}_project_bn", f"{old.name}_project_bn", out)
        else:
            self._conv(f"{unit.conv}_conv", f"{old.conv}_conv", given, out)
            self._norm(f"{unit.conv}_bn", f"{old.conv}_bn", out)
        self._gate(unit, old, gated, after)

    def _gate(self, unit: Unit, old: Unit, gated: np.ndarray, after: str) -> None:
        """Squeeze-and-excite: copied, made neutral, or folded into what follows it (`after`, else the batch norm before)."""
        ours, theirs = f"{unit.name}_se", f"{old.name}_se"
        if unit.se_filters and old.se_filters:
            score = np.abs(self.old[f"{theirs}_expand/kernel"]).sum((0, 1, 3))
            hidden = self._chosen(unit.se_filters, old.se_filters, score)
            for name, inputs, outputs in (("reduce", gated, hidden), ("expand", hidden, gated)):
                self._conv(f"{ours}_{name}", f"{theirs}_{name}", inputs, outputs)
                self._put(f"{ours}_{name}/bias", outputs, f"{theirs}_{name}/bias")
            return
        if not unit.se_filters and not old.se_filters:
            return
        factor = np.ones(len(self.new[f"{unit.name}_depthwise_bn/gamma" if after else f"{unit.conv}_bn/gamma"]), np.float32)
        if unit.se_filters:
            self.new[f"{ours}_expand/kernel"][:], self.new[f"{ours}_expand/bias"][:] = 0, 0
            factor *= 2  # sigmoid(0) is one half
        else:
            factor[: len(gated)] = _typical_gate(self.old, old)[gated]
        if after:
            self.new[after] *= factor[:, None]
        else:
            for leaf in BN_LEAVES[:2]:  # what a ReLU follows may be scaled before it
                self.new[f"{unit.conv}_bn/{leaf}"] *= factor

    def _conv(self, name: str, old: str, inputs: np.ndarray, outputs: np.ndarray) -> None:
        """Old channels read old channels, from the center of the kernel, and nothing else; new ones read fresh everything."""
        new, was = self.new[f"{name}/kernel"], self.old[f"{old}/kernel"]
        here, there = _centers(new.shape[0], was.shape[0])
        kept = was[there, there][:, :, inputs][..., outputs]
        new[..., : len(outputs)] = 0
        new[here, here, : len(inputs), : len(outputs)] = kept
        self.copied += kept.size

    def _depthwise(self, name: str, old: str, channels: np.ndarray) -> None:
        new, was = self.new[f"{name}/kernel"], self.old[f"{old}/kernel"]
        here, there = _centers(new.shape[0], was.shape[0])
        kept = was[there, there][:, :, channels]
        new[:, :, : len(channels)] = 0
        new[here, here, : len(channels)] = kept
        self.copied += kept.size

    def _norm(self, name: str, old: str, channels: np.ndarray) -> None:
        for leaf in BN_LEAVES:
            self._put(f"{name}/{leaf}", channels, f"{old}/{leaf}", counted=leaf in BN_LEAVES[:2])

    def _put(self, name: str, channels: np.ndarray, old: str, *, counted: bool = True) -> None:
        self.new[name][: len(channels)] = self.old[old][channels]
        self.copied += len(channels) * counted


def _alike(unit: Unit, old: Unit) -> bool:
    """Whether a layer can have another's weights: the same operator, and both expand or neither does."""
    expands = [each.op == "mbconv" and each.expanded != each.input_filters for each in (unit, old)]
    return unit.op == old.op and expands[0] == expands[1]


def _centers(new: int, old: int) -> tuple[slice, slice]:
    """The part that two kernel sizes share, in each of them."""
    shared = min(new, old)
    return tuple(slice((size - shared) // 2, (size + shared) // 2) for size in (new, old))  # type: ignore[return-value]


def _scale(tensors: Tensors, norm: str) -> np.ndarray:
    return np.abs(tensors[f"{norm}/gamma"])


def _reads(tensors: Tensors, name: str) -> np.ndarray:
    """How much a convolution takes of each input channel: the L1 norm of what it multiplies it with."""
    return np.abs(tensors[f"{name}/kernel"]).sum((0, 1, 3))


def _typical_gate(tensors: Tensors, unit: Unit) -> np.ndarray:
    """The gate of each channel for the mean that batch norm and ReLU give it: E max(0, N(beta, gamma^2))."""
    norm = f"{unit.name}_depthwise_bn" if unit.op == "mbconv" else f"{unit.conv}_bn"
    beta, gamma = tensors[f"{norm}/beta"].astype(np.float64), _scale(tensors, norm).astype(np.float64)
    mean = beta
    if unit.op != "linear":
        ratio = beta / np.maximum(gamma, 1e-12)
        density = np.exp(-(ratio**2) / 2) / math.sqrt(2 * math.pi)
        mean = beta * (1 + _erf(ratio / math.sqrt(2))) / 2 + gamma * density
    kernels = [tensors[f"{unit.name}_se_{name}/kernel"][0, 0] for name in ("reduce", "expand")]
    biases = [tensors[f"{unit.name}_se_{name}/bias"] for name in ("reduce", "expand")]
    hidden = np.maximum(mean @ kernels[0] + biases[0], 0)
    return (1 / (1 + np.exp(-(hidden @ kernels[1] + biases[1])))).astype(np.float32)
