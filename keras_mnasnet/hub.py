"""Models to and from the Hugging Face Hub: weights, everything needed to rebuild the model, and a model card."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
from absl import logging

from keras_mnasnet import model as models
from keras_mnasnet._version import __version__
from keras_mnasnet.architecture import Architecture
from keras_mnasnet.loading import RUN_MODEL, load, save
from keras_mnasnet.preprocessing import MOST_PIXELS
from keras_mnasnet.spec import Spec, describe, rebuild
from keras_mnasnet.utils.files import scratch
from keras_mnasnet.utils.reading import check_limit, read_json, record, shown, texts
from keras_mnasnet.weights.checkpoint import CheckpointError, DownloadError, assign, expected_shapes, remember
from keras_mnasnet.weights.fetch import fetch_hub

SCHEMA = 1
LIBRARY = "keras_mnasnet"
CONFIG_FILE, WEIGHTS_FILE, LABELS_FILE, CARD_FILE = "config.json", RUN_MODEL, "labels.txt", "README.md"
DEFAULT_SIZE = 224


def push_to_hub(
    model: Any,
    repo_id: str,
    *,
    labels: Sequence[str] | None = None,
    metrics: Mapping[str, float] | None = None,
    dataset: str | None = None,
    license: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str = "Add a MnasNet made with keras_mnasnet",
    create_pr: bool = False,
) -> str:
    """Upload a model with its model card to `owner/name` (made if missing); the commit's address.

    `model` is a Keras model of this package, or anything that `load` takes. `labels` are the class names in order; default:
    the model's own. `metrics`, such as `{"top1": 0.94}`, are figures that you measured, and `dataset` is what you measured them
    on. `license` None is the model's own, or apache-2.0. `revision` is an existing branch, by default `main`.

    Raises ValueError for arguments and models that cannot be uploaded, DownloadError if the Hub refuses or is away.
    """
    from huggingface_hub import constants

    _check_repo_id(repo_id)
    if create_pr and revision not in (None, constants.DEFAULT_REVISION):
        raise ValueError(
            f"A pull request is made against the default branch. Received: create_pr=True with revision={revision!r}. "
            f"Leave out one of them."
        )
    checkpoint = load(model)
    if checkpoint.detector is not None:
        raise ValueError(
            f"The model card is a classifier's. Received: {checkpoint.origin.name}, a detector. Write it with save(model, "
            f"'model.safetensors'), upload that with `hf upload`, and load('hf://owner/name') takes it."
        )
    license = (checkpoint.origin.license or "apache-2.0").lower() if license is None else license
    labels = checkpoint.labels if labels is None else labels
    for name, text in (("commit_message", commit_message), ("license", license)):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"`{name}` must be a text that is not empty. Received: {name}={text!r}")
    model = model if isinstance(model, keras.Model) else checkpoint.model()
    spec = dataclasses.replace(describe(model), normalization=checkpoint.numerics.normalization)
    class_names = _checked_labels(labels, spec)
    figures = _checked_metrics(metrics, dataset)
    with scratch() as folder:
        save(checkpoint, folder / WEIGHTS_FILE, labels=class_names)
        config = json.dumps(_config(spec, model.name, class_names is not None), indent=2)
        (folder / CONFIG_FILE).write_text(config + "\n", "utf-8")
        if class_names is not None:
            (folder / LABELS_FILE).write_bytes("".join(f"{label}\n" for label in class_names).encode())
        card = make_card(spec, repo_id, class_names, figures, dataset, license)
        (folder / CARD_FILE).write_bytes(card.encode())
        url = _upload(folder, repo_id, private, token, revision, commit_message, create_pr)
    logging.info("pushed %s to %s", model.name, url)
    return url


def from_hub(repo_id: str, *, revision: str | None = None, token: str | bool | None = None) -> keras.Model:
    """The model that `push_to_hub` put into `owner/name`: `[B, H, W, C]` -> `[B, classes]`, computing what it computed.

    `revision` is a commit, branch or tag; a commit pins the model. All files come from one commit even without it.

    Raises DownloadError if the Hub cannot be reached or has no such file, CheckpointError if the files are not a
    model of this package.
    """
    config, commit = _fetch_config(repo_id, revision, token)
    where = f"{repo_id}@{commit}"
    spec, name = _parse(config, where)
    checkpoint = load(fetch_hub(repo_id, WEIGHTS_FILE, commit, token=token))
    stored = (checkpoint.numerics.bn_epsilon, checkpoint.numerics.padding, checkpoint.classes)
    same = checkpoint.architecture.same_network(spec.architecture) and stored == (spec.bn_epsilon, spec.padding, spec.classes)
    if not same or checkpoint.numerics.normalization != spec.normalization.per_channel:
        raise CheckpointError(
            f"{WEIGHTS_FILE} of {where} must be what its {CONFIG_FILE} says: '{spec.architecture}' with "
            f"{spec.classes} classes, bn_epsilon={spec.bn_epsilon}, padding={spec.padding!r}. "
            f"Received: '{checkpoint.architecture}' with {checkpoint.classes} classes, {checkpoint.numerics}. "
            f"Push the model again, or choose another revision."
        )
    try:
        model = rebuild(spec, name)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{CONFIG_FILE} of {where} must describe a model. Received: {error}") from error
    assign(model, checkpoint.tensors, expected_shapes(spec.architecture, spec.classes))
    remember(model, checkpoint)
    return model


def _check_repo_id(repo_id: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    problem = ""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        problem = f" ({error})"
    if problem or "/" not in repo_id:
        raise ValueError(f"`repo_id` must be 'owner/name', without hf:// and revision. Received: repo_id={repo_id!r}{problem}")


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and value.splitlines() == [value]


def _checked_labels(labels: Sequence[str] | None, spec: Spec) -> list[str] | None:
    if labels is None:
        return None
    labels = list(texts(labels))
    if len(labels) != spec.classes:
        raise ValueError(
            f"`labels` must have one name for each of the model's {spec.classes} classes. Received: {len(labels)} labels"
        )
    for label in labels:
        if not _is_line(label):
            raise ValueError(f"Each of `labels` must be a text of one line. Received: {label!r}")
    return labels


def _checked_metrics(metrics: Mapping[str, float] | None, dataset: str | None) -> dict[str, float]:
    if metrics is None:
        return {}
    way_out = "Pass figures that you measured, such as metrics={'top1': 0.94}, dataset='flowers-102'."
    if not isinstance(metrics, Mapping):
        raise ValueError(f"`metrics` must be a dict of numbers. Received: metrics={metrics!r}. {way_out}")
    for name, value in metrics.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not _is_line(name):
            raise ValueError(f"`metrics` must be a dict of numbers. Received: {name!r}: {value!r}. {way_out}")
    if metrics and not _is_line(dataset):
        raise ValueError(
            f"`dataset` must name what the metrics were measured on. Received: dataset={dataset!r} with "
            f"metrics={dict(metrics)}. {way_out}"
        )
    return dict(metrics)


def _config(spec: Spec, name: str, has_labels: bool) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "library": LIBRARY,
        "library_version": __version__,
        "name": name,
        "architecture": str(spec.architecture),
        "include_top": spec.classes > 0,
        **{key: value for key, value in dataclasses.asdict(spec).items() if key != "architecture"},
        "labels": LABELS_FILE if has_labels else None,
        "preprocessing": {
            "channels": "RGB",
            "inside_the_model": spec.include_preprocessing,
            "input_range": list(input_range(spec)),
            "formula": "(pixel - mean) / std",
            "mean": list(spec.normalization.mean),
            "std": list(spec.normalization.std),
        },
    }


def _parse(config: dict[str, Any], where: str) -> tuple[Spec, str | None]:
    """(Spec, model name) of a config.json; CheckpointError for another library's, another schema's or a broken one."""
    if config.get("library") != LIBRARY:
        raise CheckpointError(
            f"{CONFIG_FILE} of {where} must be one that keras_mnasnet.push_to_hub wrote. "
            f"Received: library={shown(config.get('library'))}, model_type={shown(config.get('model_type'))}. For weights of "
            f"other libraries call keras_mnasnet.load('hf://owner/name@revision/file').model()."
        )
    if config.get("schema") != SCHEMA:
        raise CheckpointError(
            f"{CONFIG_FILE} of {where} must have schema {SCHEMA}. Received: schema={shown(config.get('schema'))}, written "
            f"by keras_mnasnet {str(config.get('library_version'))[:40]}. Update keras_mnasnet, or choose an older revision."
        )
    keys = [field.name for field in dataclasses.fields(Spec)]
    if missing := [key for key in keys if key not in config]:
        raise CheckpointError(
            f"{CONFIG_FILE} of {where} must have the keys {', '.join(keys)}. Received: none of {', '.join(missing)}. "
            f"Push the model again, or choose another revision."
        )
    try:
        values: dict[str, Any] = {key: config[key] for key in keys}
        values["architecture"] = Architecture.parse(record(values["architecture"], str, "`architecture`"))
        values["input_shape"] = models.resolve_input_shape(
            record(values["input_shape"], tuple[int | None, ...], "`input_shape`")
        )
        if any(side is not None and side > MOST_PIXELS for side in values["input_shape"]):
            raise ValueError(f"input_shape={values['input_shape']}")
        check_limit("classes", record(values["classes"], int, "`classes`"), "A model")
        return record(values, Spec, "A model"), record(config.get("name"), str | None, "`name`")  # type: ignore[arg-type]
    except ValueError as error:
        raise CheckpointError(f"{CONFIG_FILE} of {where} must describe a model. Received: {error}") from error


def _fetch_config(repo_id: str, revision: str | None, token: str | bool | None) -> tuple[dict[str, Any], str]:
    """(config.json, commit it is at): huggingface_hub keeps a file in a folder named by its commit, offline too."""
    _check_repo_id(repo_id)
    path = fetch_hub(repo_id, CONFIG_FILE, revision, token=token)
    try:
        value = read_json(path, CONFIG_FILE)
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} must hold a JSON object. Received: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object. Received: {type(value).__name__}")
    return value, path.parent.name


def _upload(
    folder: Path, repo_id: str, private: bool | None, token: str | bool | None, revision: str | None, message: str, pr: bool
) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    api = HfApi(token=token)
    stale = None if (folder / LABELS_FILE).exists() else [LABELS_FILE]
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        info = api.upload_folder(
            repo_id=repo_id, folder_path=folder, commit_message=message, revision=revision, create_pr=pr, delete_patterns=stale
        )
    except HfHubHTTPError as error:
        raise DownloadError(_refusal(f"{api.endpoint}/{repo_id}", revision, error)) from error
    except (HTTPError, OSError) as error:
        raise DownloadError(
            f"The Hub must be reachable at {api.endpoint} to push to {repo_id}. "
            f"Received: {type(error).__name__}: {error}. "
            f"Check the network, HF_ENDPOINT and HF_HUB_OFFLINE, and push again."
        ) from error
    return str(info.commit_url)


def _refusal(address: str, revision: str | None, error: Any) -> str:
    status = error.response.status_code
    lines = (error.server_message or str(error)).strip().splitlines()
    way_out = {
        401: "Log in with `hf auth login`, or pass token=... that may write.",
        403: "Use a token that may write there (https://huggingface.co/settings/tokens), or pass create_pr=True.",
        404: f"Check the name, and that the branch {revision!r} exists." if revision else "Check the name and the token.",
    }.get(status, "Push again later.")
    return f"{address} must accept the model. Received: {status} ({lines[0] if lines else 'no reason given'}). {way_out}"


def input_range(spec: Spec) -> tuple[float, float]:
    """The least and greatest value the model is meant to be fed."""
    if spec.include_preprocessing:
        return 0, 255
    pairs = list(zip(spec.normalization.mean, spec.normalization.std, strict=True))
    return round(min(-mean / std for mean, std in pairs), 4), round(max((255 - mean) / std for mean, std in pairs), 4)


def make_card(
    spec: Spec, repo_id: str, labels: list[str] | None, metrics: dict[str, float], dataset: str | None, license: str
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
        license=license,
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
        f'`keras_mnasnet.load("hf://{repo_id}@<commit>")` gives labels and preprocessing with it.',
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
    mean, std = (f"({', '.join(f'{value:g}' for value in side)})" for side in (spec.normalization.mean, spec.normalization.std))
    normalization = f"(pixel - mean) / std, mean {mean}, std {std}"
    how = (
        f"pixels {low} to {high}, not normalized: the model does that itself ({normalization})."
        if spec.include_preprocessing
        else f"what `keras_mnasnet.preprocess_input` returns, {low:g} to {high:g}: {normalization}."
    )
    return f"RGB images, channels last, `[B, {height}, {width}, 3]`; {how}"


def _output(spec: Spec, labels: list[str] | None) -> str:
    if not spec.classes:
        shape = f"[B, {spec.architecture.head}]" if spec.pooling else f"[B, h, w, {spec.architecture.head}]"
        return f"Features `{shape}`, pooling `{spec.pooling}`; there is no classifier."
    what = f"activation `{spec.classifier_activation}`" if spec.classifier_activation else "logits"
    names = (
        f"Class names are in `{LABELS_FILE}`, one per line in order; `keras_mnasnet.load` reads them."
        if labels
        else "No class names were given."
    )
    return f"`[B, {spec.classes}]`, {what}. {names}"


def _evaluation(metrics: dict[str, float], dataset: str | None) -> str:
    if not metrics:
        return "No figures were given."
    rows = "\n".join(f"| {name} | {value!r} |" for name, value in metrics.items())
    return f"On {dataset}, as reported by whoever pushed the model:\n\n| metric | value |\n|---|---|\n{rows}"
