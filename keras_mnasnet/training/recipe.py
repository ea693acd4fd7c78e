"""Training recipes as values: the named ones and what they rest on, text form, JSON form, checks. Loads nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, overload

from keras_mnasnet.preprocessing import Augment
from keras_mnasnet.utils.reading import parse_json, read_json, record, shown
from keras_mnasnet.utils.text import did_you_mean

SCHEMA = 1
OPTIMIZERS = ("rmsprop-tf1", "sgd", "adamw")
SCHEDULES = ("exponential", "cosine")
CLASS_WEIGHTS, SAMPLINGS, KEEPS = ("none", "balanced"), ("uniform", "balanced"), ("best", "last")
IDLE = {
    "rmsprop-tf1": ("nesterov", "layer_decay"), "sgd": ("rho", "epsilon", "layer_decay"),
    "adamw": ("momentum", "nesterov", "rho", "epsilon"), "exponential": (), "cosine": ("decay_rate", "decay_epochs"),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is trained. `learning_rate` is for `base_batch` images a step and scales with `batch_size`.

    `weight_decay` spares biases and batch norms; it is L2 in the gradient for `rmsprop-tf1` and `sgd`, decoupled for
    `adamw`. The first `frozen_epochs` train the classifier (of a detector: all but the backbone) alone at a constant
    `frozen_learning_rate`, without the schedule, and the frozen batch norms keep their statistics. With `frozen_bn` those of
    the backbone are frozen in every epoch: statistics, gamma and beta. `ema` 0 means no moving average. `size` None is the
    network's own. The warm-up starts at `warmup_learning_rate`, which scales with the batch as `learning_rate` does.

    For classes of unequal size, `class_weights` "balanced" weighs a class's loss by images / (classes * its images), and
    `sampling` "balanced" draws every class equally often. `keep`: the model file holds the "best" epoch by the validation, or
    the "last"; where a test split judges, it is the last, and only `patience` stops early and keeps the best all the same.
    `layer_decay` multiplies the learning rate once for every block below the classifier. `teacher_weight` is the share of the
    loss that a teacher gives (distillation), at this `temperature`.
    """

    GROUPS: ClassVar[dict[str, type]] = {"augment": Augment}  # fields whose own fields are keys, as augment.flip

    name: str
    epochs: int
    batch_size: int
    optimizer: str
    learning_rate: float
    base_batch: int
    schedule: str
    warmup_epochs: float = 0.0
    warmup_learning_rate: float = 0.0
    decay_rate: float = 0.97
    decay_epochs: float = 2.4
    momentum: float = 0.9
    nesterov: bool = True
    rho: float = 0.9
    epsilon: float = 1e-3
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    label_smoothing: float = 0.0
    dropout: float = 0.2
    bn_momentum: float = 0.99
    ema: float = 0.0
    frozen_epochs: int = 0
    frozen_learning_rate: float = 0.0
    frozen_bn: bool = False
    patience: int = 0
    keep: str = "best"
    class_weights: str = "none"
    sampling: str = "uniform"
    layer_decay: float = 1.0
    teacher_weight: float = 0.0
    temperature: float = 2.0
    size: int | None = None
    seed: int = 0
    augment: Augment = dataclasses.field(default_factory=Augment)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            hint = self.GROUPS["augment"] if field.name == "augment" else field.type
            object.__setattr__(self, field.name, _typed(field.name, getattr(self, field.name), hint))
        for key, low, high in RANGES:
            value = getattr(self, key)
            if isinstance(value, int | float) and not low <= value <= high:
                raise ValueError(f"A recipe's `{key}` must be between {low:g} and {high:g}. Received: {key}={value!r}")
        for key, choices in CHOICES:
            if getattr(self, key) not in choices:
                raise ValueError(f"A recipe's `{key}` must be one of {choices}. Received: {key}={shown(getattr(self, key))}")
        if not 0 <= self.frozen_epochs <= self.epochs:
            raise ValueError(
                f"`frozen_epochs` must be between 0 and `epochs`. "
                f"Received: frozen_epochs={self.frozen_epochs}, epochs={self.epochs}"
            )
        if self.frozen_epochs and not self.frozen_learning_rate:
            raise ValueError("`frozen_epochs` needs a `frozen_learning_rate` above 0. Received: frozen_learning_rate=0")

    @property
    def peak_learning_rate(self) -> float:
        """The rate after the warm-up at this batch size: `learning_rate * batch_size / base_batch`."""
        return self.learning_rate * self.batch_size / self.base_batch

    @property
    def first_learning_rate(self) -> float:
        """The rate at which the warm-up starts, at this batch size."""
        return self.warmup_learning_rate * self.batch_size / self.base_batch

    @property
    def freezes(self) -> bool:
        """Whether it keeps weights as they were, which makes sense for trained ones alone."""
        return self.frozen_epochs > 0 or self.frozen_bn

    @property
    def idle(self) -> frozenset[str]:
        """The keys that this optimizer and this schedule do not use."""
        return frozenset(IDLE[self.optimizer] + IDLE[self.schedule])

    @classmethod
    def named(cls) -> dict[str, Any]:
        """The recipes of this kind that have a name."""
        return RECIPES

    def changed(self, **values: Any) -> Self:
        """The recipe with other values; a key such as `augment.flip` changes one of a group.

        ValueError for a key that has no effect with the recipe's optimizer or schedule.
        """
        own: dict[str, Any] = {}
        grouped: dict[str, dict[str, Any]] = {}
        for key, value in values.items():
            group, dot, name = key.partition(".")
            if dot and group in self.GROUPS:
                grouped.setdefault(group, {})[name] = value
            else:
                own[key] = value
        _check_keys(own, type(self))
        for group, changes in grouped.items():
            kind = self.GROUPS[group]
            _check_keys(changes, kind, f"{group}.")
            base = own.get(group, getattr(self, group))
            if base is not None and not isinstance(base, kind):
                raise ValueError(
                    f"A recipe's `{group}` must be left out where its parts are given. Received: {group}={shown(base)} and "
                    f"{', '.join(f'{group}.{name}' for name in changes)}. Leave one or the other out."
                )
            own[group] = kind(**changes) if base is None else dataclasses.replace(base, **changes)  # type: ignore[type-var]
        recipe = dataclasses.replace(self, **own)
        without_effect = sorted(recipe.idle & own.keys())
        if without_effect:
            raise ValueError(
                f"A recipe's values must have an effect. Received: {', '.join(without_effect)} with "
                f"optimizer={recipe.optimizer!r}, schedule={recipe.schedule!r} in a {type(self).__name__}, which does not use "
                f"them"
            )
        return recipe

    def __str__(self) -> str:
        """`name key=value ...`, as `parse_recipe` reads it: what differs from the named recipe, or from the defaults."""
        parts = [self.name]
        named = self.named().get(self.name)
        for field in dataclasses.fields(self):
            own, usual = getattr(self, field.name), getattr(named, field.name) if named else field.default
            kind = self.GROUPS.get(field.name)
            if kind is not None and isinstance(own, kind):
                base = usual if isinstance(usual, kind) else kind()
                inner = [each.name for each in dataclasses.fields(kind)]
                differing = [name for name in inner if getattr(own, name) != getattr(base, name)]
                if usual is None and not differing:
                    differing = inner[:1]  # the group is said, by whichever of its values
                parts += [f"{field.name}.{name}={_as_text(getattr(own, name))}" for name in differing]
            elif field.name != "name" and own != usual:
                parts.append(f"{field.name}={_as_text(own)}")
        return " ".join(parts)


R = TypeVar("R", bound=Recipe)
INFINITE = 10**9
CHOICES = (
    ("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("keep", KEEPS), ("class_weights", CLASS_WEIGHTS),
    ("sampling", SAMPLINGS),
)  # fmt: skip
RANGES = (
    ("epochs", 1, INFINITE), ("batch_size", 1, INFINITE), ("base_batch", 1, INFINITE), ("learning_rate", 0, 1000),
    ("warmup_epochs", 0, INFINITE), ("warmup_learning_rate", 0, 1000),
    ("decay_rate", 0, 1), ("decay_epochs", 1e-6, INFINITE), ("momentum", 0, 0.99999),
    ("rho", 0, 0.99999), ("epsilon", 1e-12, 1), ("weight_decay", 0, 1), ("clip_norm", 0, INFINITE),
    ("label_smoothing", 0, 0.99),
    ("dropout", 0, 0.99), ("bn_momentum", 0, 0.99999), ("ema", 0, 0.999999), ("frozen_learning_rate", 0, 1000),
    ("patience", 0, INFINITE), ("layer_decay", 0.01, 1), ("teacher_weight", 0, 1), ("temperature", 0.1, 100),
    ("size", 32, 4096), ("seed", 0, 2**31 - 1),
)  # fmt: skip


def _as_text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _typed(key: str, value: Any, hint: Any) -> Any:
    """The value as the field's type; an int is a float too, nothing else is converted."""
    if hint == "Any":  # checked by its own recipe
        return value
    if isinstance(hint, type):
        fits, hint = isinstance(value, hint), hint.__name__
    elif hint == "bool":
        fits = isinstance(value, bool)
    elif hint == "str":
        fits = isinstance(value, str) and bool(value)
    elif isinstance(value, bool) or not isinstance(value, int | float):
        fits = value is None and "None" in hint
    elif hint == "float":
        fits = abs(value) <= sys.float_info.max  # not for NaN
        value = float(value) if fits else value
    else:
        fits = isinstance(value, int)
    if not fits:
        raise ValueError(f"A recipe's `{key}` must be of type {hint}. Received: {key}={shown(value)}")
    return value


def _check_keys(values: dict[str, Any], kind: type, prefix: str = "") -> None:
    known = [field.name for field in dataclasses.fields(kind)]
    for key in values:
        if key not in known:
            near = did_you_mean(prefix + key, [prefix + name for name in known], most=1)
            raise ValueError(f"A recipe's keys are {', '.join(known)}. Received: unknown key {prefix + key!r}.{near}")


def recipe_to_json(recipe: Recipe) -> dict[str, Any]:
    """A JSON object with every value."""
    return {"schema": SCHEMA, **dataclasses.asdict(recipe)}


@overload
def recipe_from_json(value: Any) -> Recipe: ...
@overload
def recipe_from_json(value: Any, kind: type[R]) -> R: ...
def recipe_from_json(value: Any, kind: Any = Recipe) -> Any:
    """The inverse of `recipe_to_json`; ValueError for another schema, an unknown key or a value out of range."""
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        found = value.get("schema") if isinstance(value, dict) else type(value).__name__
        raise ValueError(f"A recipe is a JSON object with schema {SCHEMA}. Received: schema={shown(found)}")
    values = {key: item for key, item in value.items() if key != "schema"}
    _check_keys(values, kind)
    if not isinstance(values.setdefault("augment", {}), dict):
        raise ValueError(f"A recipe's `augment` is a JSON object. Received: augment={shown(values['augment'])}")
    for group, type_ in kind.GROUPS.items():
        if isinstance(inner := values.get(group), dict):
            _check_keys(inner, type_, f"{group}.")
            values[group] = record(inner, type_, f"A recipe's `{group}`")
    return _complete(values, kind)


def _complete(values: dict[str, Any], kind: type[R]) -> R:
    missing = [
        field.name for field in dataclasses.fields(kind)
        if field.name not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]  # fmt: skip
    if missing:
        raise ValueError(f"A recipe needs {', '.join(missing)}. Received: {', '.join(sorted(values))}")
    return kind(**values)


@overload
def parse_recipe(text: str) -> Recipe: ...
@overload
def parse_recipe(text: str, kind: type[R]) -> R: ...
def parse_recipe(text: str, kind: Any = Recipe) -> Any:
    """A named recipe, `name key=value ...` (values as JSON), or the path of a `.json` file."""
    if text.endswith(".json"):
        path = Path(text).expanduser()
        if not path.is_file():
            raise ValueError(f"A recipe file must exist. Received: {path}, which does not")
        try:
            return recipe_from_json(read_json(path, "A recipe file"), kind)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    name, *pairs = text.split() or [""]
    values = parse_values(pairs)
    named = kind.named()
    if name in named:
        return named[name].changed(**values)
    if not values:
        raise ValueError(
            f"A recipe is one of {', '.join(named)}, a .json file, or a new name with all its values. Received: {name!r}."
            f"{did_you_mean(name, named, most=1)}"
        )
    own = {key: value for key, value in values.items() if key.partition(".")[0] not in kind.GROUPS or "." not in key}
    _check_keys(own, kind)
    grouped = {key: value for key, value in values.items() if key not in own}
    return _complete({"name": name, **own}, kind).changed(**grouped)


def recipe_of(
    recipe: str | os.PathLike[str] | Recipe, changes: Mapping[str, Any] | None = None, *, kind: type[Recipe] = Recipe,
    **values: Any,
) -> Any:  # fmt: skip
    """The recipe that a door is given (a name, a text, the path of a .json file, or a Recipe), with `changes`, and with those
    of `values` that are not None."""
    found = recipe if isinstance(recipe, Recipe) else parse_recipe(os.fspath(recipe), kind)
    if not isinstance(found, kind):
        raise ValueError(f"A recipe of kind {kind.__name__} is needed. Received: {type(found).__name__} {found.name!r}")
    return found.changed(**{**(changes or {}), **{key: value for key, value in values.items() if value is not None}})


def parse_values(pairs: list[str]) -> dict[str, Any]:
    """`key=value` texts, values as JSON or plain words; ValueError names a text without `=`."""
    values = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ValueError(f"A recipe's value is written key=value. Received: {pair!r}")
        try:
            value = parse_json(text, "A recipe's value")
        except ValueError:
            value = text
        values[key] = tuple(value) if isinstance(value, list) else value
    return values


_ALL = (
    Recipe(
        name="paper-imagenet", epochs=350, batch_size=4096, optimizer="rmsprop-tf1", learning_rate=0.256, base_batch=4096,
        schedule="exponential", warmup_epochs=5.0, decay_rate=0.97, decay_epochs=2.4, momentum=0.9, rho=0.9, epsilon=1e-3,
        weight_decay=1e-5, label_smoothing=0.1, dropout=0.2, bn_momentum=0.99, ema=0.9999,
        augment=Augment(crop="inception", flip=True),
    ),
    Recipe(
        name="finetune", epochs=10, batch_size=32, optimizer="adamw", learning_rate=3e-3, base_batch=32, schedule="cosine",
        warmup_epochs=0.5, weight_decay=0.02, clip_norm=1.0, label_smoothing=0.1, dropout=0.2, bn_momentum=0.9,
        frozen_epochs=1, frozen_learning_rate=3e-3, augment=Augment(crop="inception", area=(0.35, 1.0), flip=True),
    ),
    Recipe(
        name="distill", epochs=60, batch_size=32, optimizer="adamw", learning_rate=1e-3, base_batch=32, schedule="cosine",
        warmup_epochs=2.0, weight_decay=0.02, clip_norm=1.0, dropout=0.2, bn_momentum=0.9, teacher_weight=0.7,
        temperature=2.0, augment=Augment(crop="inception", area=(0.35, 1.0), flip=True),
    ),
    Recipe(
        name="cifar10", epochs=40, batch_size=128, optimizer="adamw", learning_rate=6e-3, base_batch=128, schedule="cosine",
        warmup_epochs=2.0, weight_decay=0.05, label_smoothing=0.1, dropout=0.2, bn_momentum=0.99, ema=0.9995, size=32,
        augment=Augment(crop="pad", pad=4, flip=True),
    ),
    Recipe(
        name="proxy-5-epochs", epochs=5, batch_size=128, optimizer="adamw", learning_rate=6e-3, base_batch=128,
        schedule="cosine", warmup_epochs=0.5, weight_decay=0.05, label_smoothing=0.1, dropout=0.2, bn_momentum=0.9, size=32,
        augment=Augment(crop="pad", pad=4, flip=True),
    ),
)  # fmt: skip
RECIPES = {recipe.name: recipe for recipe in _ALL}

_PAPER = "arXiv 1807.11626v3, section 5"
_TRAINER = "tensorflow/tpu models/official/mnasnet/mnasnet_main.py and mnasnet_utils.py"
_OURS = "keras_mnasnet"
SOURCES = {
    "paper-imagenet": {
        "rho, momentum, bn_momentum, weight_decay, dropout, learning_rate, warmup_epochs, decay_rate, decay_epochs, "
        "batch_size, augment (Inception crop)": _PAPER,
        "epochs (437,898 steps at batch 1024), epsilon, label_smoothing, ema (statistics included), the rate's scaling with "
        "the batch": _TRAINER,
        "biases are spared by the weight decay (the trainer spares batch norms only)": _OURS,
    },
    "finetune": {
        "learning_rate, frozen_epochs, layer_decay": f"{_OURS}, measured: docs/small_photos.md",
        "everything else": _OURS,
    },
    "distill": {"the loss": "Hinton et al., arXiv 1503.02531, section 2", "everything else": _OURS},
    "cifar10": {"everything": _OURS},
    "proxy-5-epochs": {"5 epochs": "arXiv 1807.11626v3, section 4.2", "everything else": _OURS},
}
