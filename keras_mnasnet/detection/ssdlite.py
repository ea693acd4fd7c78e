"""`SSDLite`: a detector by its arguments, with the weights of a classifier in its backbone."""

from __future__ import annotations

import os
from collections.abc import Sequence

import keras
from absl import logging

from keras_mnasnet.applications import checkpoint_for
from keras_mnasnet.architecture import Architecture, round_filters
from keras_mnasnet.detection.model import SCORE_BIAS, build_detector
from keras_mnasnet.detection.spec import AnchorSettings, DetectorSpec, default_classes, sides
from keras_mnasnet.family import FAMILY, as_architecture
from keras_mnasnet.loading import load
from keras_mnasnet.preprocessing import SIGNED, Normalization, as_normalization
from keras_mnasnet.utils.reading import texts
from keras_mnasnet.weights.checkpoint import Checkpoint, CheckpointError, Numerics, assign, expected_shapes

EXTRAS = (512, 256, 256, 128)


def SSDLite(
    backbone: Architecture | str | None = None, classes: int | str | Sequence[str] = 90,
    weights: str | os.PathLike[str] | Checkpoint | None = None, *, category_ids: Sequence[int] | None = None,
    input_size: int | str | tuple[int, int] = 320, include_preprocessing: bool = True,
    normalize: str | Normalization | None = None, width_multiplier: float | None = None,
    depth_multiplier: float | None = None, se: bool | float | None = None, extras: Sequence[int] | None = None,
    anchors: AnchorSettings | None = None, loss: str = "focal", bn_momentum: float = 0.99,
    score_bias: float = SCORE_BIAS, name: str | None = None,
) -> keras.Model:  # fmt: skip
    """MnasNet + SSDLite (paper, section 4.3 and table 3): images `[B, H, W, 3]` -> {"boxes", "scores"}.

    "boxes" `[B, N, 4]` are (ty, tx, th, tw) relative to `anchor_boxes((H, W))`; "scores" `[B, N, classes + 1]` are logits of
    independent sigmoids, slot 0 the background. 320 px and 90 classes (91 slots) give the paper's 4.9M parameters and 0.8B
    multiply-adds: 4,912,181 and 837,819,232.

    Args:
        backbone: a family name, an Architecture or its text form, which must end at stride 32. None: the weights' own network,
            a1 without weights.
        classes: their names; or how many, which for 90 means COCO's category ids 1..90 and for 80 COCO's classes.
        weights: of the backbone: None (fresh), the name of a data set such as "imagenet", a record id, a file, "hf://..." or
            a Checkpoint. Its numerics are kept. A stem that was trained at stride 1 (cifar10, trashnet) is used at stride 2,
            or every map would be twice as high and wide, at four times the cost.
        category_ids: of the classes in annotation files; default 1, 2, ..., and COCO's own for 80 and 90 counted classes.
        input_size: pixels of the input: of a square, or (height, width), which may be written "192x320".
        include_preprocessing: True: the input is RGB pixels 0..255. False: normalized pixels.
        normalize: "signed" (x / 127.5 - 1, the Object Detection API's), "imagenet" (what the classification checkpoints
            were trained with) or a Normalization. None: that of the weights, else "signed".
        width_multiplier, depth_multiplier, se: as in `MnasNet`.
        extras: channels of the levels after the first two; default 512, 256, 256, 128, scaled with the backbone's width to
            multiples of 8, at least 16. There are two levels more than extras.
        anchors: their scales and aspect ratios; default: the Object Detection API's.
        loss: "focal" or "mined": what it is to be trained with; kept in the spec.
        score_bias: initial bias of the scores; -4.6 (probability 0.01) is for the focal loss, 0 for the mined one.
    """
    source, size = None, sides(input_size)
    if weights is None:
        network = as_architecture(backbone or "a1").scaled(width_multiplier, depth_multiplier).with_se(se)
        numerics = Numerics(1e-3, "same")
    else:
        if backbone is width_multiplier is depth_multiplier is se is None:
            source = load(weights, size=min(size))
        else:
            source = checkpoint_for(
                as_architecture(backbone or "a1"), weights, size=min(size), width_multiplier=width_multiplier,
                depth_multiplier=depth_multiplier, se=se,
            )  # fmt: skip
        if source.detector is not None:
            raise CheckpointError(
                f"`weights` are of a classifier, for the backbone. Received: {source.origin.name}, a detector. Take it as it "
                f"is: keras_mnasnet.load(...).model(), or train from it: keras_mnasnet.detection.train(from_model=...)"
            )
        network, numerics = source.architecture, source.numerics
        if network.stem_stride != 2:
            logging.warning("the stem of %s was trained at stride 1 and is used at stride 2", source.origin.name)
    network = network.with_stem_stride(2)
    names = () if isinstance(classes, int) else texts(classes)
    labels, ids = default_classes(classes) if isinstance(classes, int) else (names, tuple(range(1, len(names) + 1)))
    if extras is None:
        width = width_multiplier or network.blocks[-1].filters / _unscaled(network).blocks[-1].filters
        extras = EXTRAS if width == 1 else tuple(max(16, round_filters(depth, width)) for depth in EXTRAS)
    spec = DetectorSpec(
        backbone=str(network),
        input_size=size,
        labels=labels,
        category_ids=ids if category_ids is None else category_ids,  # type: ignore[arg-type]
        extras=extras,  # type: ignore[arg-type]
        anchors=anchors or AnchorSettings(),
        normalization=as_normalization(normalize or (SIGNED if weights is None else numerics.normalization), "normalize"),
        include_preprocessing=include_preprocessing,
        loss=loss,
        bn_epsilon=numerics.bn_epsilon,
        padding=numerics.padding,
    )
    model = build_detector(spec, bn_momentum=bn_momentum, score_bias=score_bias, name=name)
    if source is not None:
        assign(model, source.tensors, expected_shapes(source.architecture, 0))
    return model


def _unscaled(network: Architecture) -> Architecture:
    """The member of the family that a network is a scaled version of, by its name; the network itself where it is none."""
    names = sorted((name for name in FAMILY if network.name == name or network.name.startswith(f"{name}-")), key=len)
    return FAMILY[names[-1]] if names else network
