"""The model card of a MnasNet on the Hugging Face Hub: figures that are computed here or were passed in, and no others."""

from __future__ import annotations

import re

from keras_mnasnet import __version__
from keras_mnasnet.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from keras_mnasnet.spec import Spec

__all__ = ["CONFIG_FILE", "LABELS_FILE", "LIBRARY", "WEIGHTS_FILE", "input_range", "make_card"]

LIBRARY = "keras_mnasnet"
CONFIG_FILE, WEIGHTS_FILE, LABELS_FILE = "config.json", "model.safetensors", "labels.txt"
DEFAULT_SIZE = 224


def input_range(spec: Spec) -> tuple[float, float]:
    """The least and greatest value the model is meant to be fed."""
    if spec.include_preprocessing:
        return 0, 255
    pairs = list(zip(IMAGENET_MEAN, IMAGENET_STD, strict=True))
    return round(min(-mean / std for mean, std in pairs), 4), round(max((1 - mean) / std for mean, std in pairs), 4)


def make_card(
    spec: Spec, repo_id: str, labels: list[str] | None, metrics: dict[str, float], dataset: str | None, licence: str
) -> str:
    """README.md: what the model is, in figures that are computed here or were passed in."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    task = "image-classification" if spec.classes else "image-feature-extraction"
    results = [
        EvalResult(
            task_type=task,
            dataset_type=re.sub(r"[^a-z0-9._/-]+", "-", dataset.lower()).strip("-") or dataset,
            dataset_name=dataset,
            metric_type=name,
            metric_value=value,
        )
        for name, value in metrics.items()
        if dataset
    ]
    data = ModelCardData(
        library_name="keras",
        license=licence,
        pipeline_tag=task,
        tags=[LIBRARY, "keras", "mnasnet", "mobile", "arxiv:1807.11626"],
        metrics=list(metrics) or None,
        model_name=repo_id.rpartition("/")[2] if results else None,
        eval_results=results or None,
    )
    sections = [
        f"---\n{data.to_yaml()}\n---",
        f"# {repo_id.rpartition('/')[2]}",
        f"A MnasNet ({spec.architecture.name}) for Keras 3, made with `keras_mnasnet` {__version__}.",
        "## Network",
        _network(spec),
        "## Input",
        _input(spec),
        "## Output",
        _output(spec, labels),
        "## How to load it",
        f'```python\nfrom keras_mnasnet import from_hub\n\nmodel = from_hub("{repo_id}", revision="<commit>")\n```',
        "`revision` takes a commit id from the history of this repository: it pins the model. Without it the newest "
        "commit of `main` is loaded, with all files from that one commit.",
        "## Numerics",
        f"Batch-norm epsilon {spec.bn_epsilon:g}, momentum {spec.bn_momentum:g}; padding `{spec.padding}` "
        f"({'as TensorFlow pads' if spec.padding == 'same' else 'as PyTorch pads'}); dropout {spec.dropout_rate:g} "
        f"before the classifier in training. `{CONFIG_FILE}` and `{WEIGHTS_FILE}` (float32) record these values, "
        "and loading applies them.",
        "## Evaluation",
        _evaluation(metrics, dataset),
        "## Reference",
        "Tan et al., *MnasNet: Platform-Aware Neural Architecture Search for Mobile*, CVPR 2019, "
        "[arXiv:1807.11626](https://arxiv.org/abs/1807.11626).",
    ]
    return ModelCard("\n\n".join(sections) + "\n").content


def _network(spec: Spec) -> str:
    network = spec.architecture
    height, width = (side or DEFAULT_SIZE for side in spec.input_shape[:2])
    provenance = {
        "published": "the authors' own; multipliers, if any, are in its name",
        "reconstructed": "a reconstruction: its layout was never published",
        "custom": "not a published MnasNet",
    }[network.provenance]
    table = [
        "| stage | layers | kernel | stride | expansion | channels | squeeze-and-excite |",
        "|---|---|---|---|---|---|---|",
        f"| stem | 1 | 3x3 | 2 | | {network.stem} | |",
    ]
    for stage, block in enumerate(network.blocks, start=1):
        size, gate = f"{block.kernel}x{block.kernel}", f"{block.se:g}" if block.se else "-"
        kind = ("" if block.op == "mbconv" else f" {block.op}") + (" pool" if block.pool else "")
        table.append(
            f"| {stage} | {block.repeats}{kind} | {size} | {block.stride} | {block.expand} | {block.filters} | {gate} |"
        )
    rows = "\n".join([*table, f"| head | 1 | 1x1 | 1 | | {network.head} | |"])
    return (
        f"- Layout: {provenance}\n"
        f"- Parameters (trainable): {network.params(classes=spec.classes):,}\n"
        f"- Multiply-adds at {height} x {width}: {network.madds(height, width, classes=spec.classes):,}\n\n"
        f"{rows}\n\n```text\n{network}\n```"
    )


def _input(spec: Spec) -> str:
    height, width, _ = (side or "any" for side in spec.input_shape)
    low, high = input_range(spec)
    normalisation = f"(pixel / 255 - mean) / std, mean {IMAGENET_MEAN}, std {IMAGENET_STD}"
    how = (
        f"pixels {low} to {high}, not normalised: the model does that itself ({normalisation})."
        if spec.include_preprocessing
        else f"what `keras_mnasnet.preprocess_input` returns, {low:g} to {high:g}: {normalisation}."
    )
    return f"RGB images, channels last, `[B, {height}, {width}, 3]`; {how}"


def _output(spec: Spec, labels: list[str] | None) -> str:
    if not spec.classes:
        shape = f"[B, {spec.architecture.head}]" if spec.pooling else f"[B, h, w, {spec.architecture.head}]"
        return f"Features `{shape}`, pooling `{spec.pooling}`; there is no classifier."
    what = f"activation `{spec.classifier_activation}`" if spec.classifier_activation else "logits"
    names = (
        f"Class names are in `{LABELS_FILE}`, one per line in order; `keras_mnasnet.hub.labels_from_hub` reads them."
        if labels
        else "No class names were given."
    )
    return f"`[B, {spec.classes}]`, {what}. {names}"


def _evaluation(metrics: dict[str, float], dataset: str | None) -> str:
    if not metrics:
        return "No figures were given."
    rows = "\n".join(f"| {name} | {value!r} |" for name, value in metrics.items())
    return f"On {dataset}, as reported by whoever pushed the model:\n\n| metric | value |\n|---|---|\n{rows}"
