"""Whose tensors a file holds, by their names: under which prefix, of which copy, and what else is in the file.

A training run writes more than a network: wrappers put a prefix before every name, and averaged weights, the optimizer's state
and settings lie beside it. Prefixes and the names of dicts are one thing here: `state_dict_ema/module.conv_stem.weight`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from keras_mnasnet.utils.reading import shown
from keras_mnasnet.utils.text import listed
from keras_mnasnet.weights.checkpoint import CheckpointError
from keras_mnasnet.weights.formats import TensorFile

WRAPPERS = re.compile(r"(?:(?<=[./])|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")  # also within names
USUAL = (  # what the weights of a run are called, the likeliest first
    "state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "backbone", "encoder", "weights",
    "params",
)  # fmt: skip
AVERAGED = re.compile(r"(?:^|_)(?:ema|average|averaged|averaging|avg|swa|polyak|shadow)(?:_|$)", re.IGNORECASE)
NO_WEIGHTS = re.compile(
    r"optim|^opts?(?:_|$)|exp_avg|momentum_buffer|square_avg|master_param|(?:^|_)grads?(?:_|$)", re.IGNORECASE
)
COUNTER = "num_batches_tracked"
TF2CV = "init_block/conv1/conv/"  # a part of a name in its .h5 files
MARKS = {  # source -> names that a network of it has
    "timm": ("conv_stem.weight", "blocks.0.0.conv_dw.weight"),
    "torchvision": ("layers.0.weight", "layers.8.0.layers.0.weight"),
}
ROOTS = {
    "timm": ("conv_stem", "bn1", "blocks", "conv_head", "bn2", "classifier"),
    "torchvision": ("layers", "classifier"),
}
WHOLE_MODEL = "a whole model"  # how a reader calls a pickled one in `TensorFile.others`
PARTS = re.compile(r"[^./]*[./]?")


@dataclasses.dataclass(frozen=True, slots=True)
class _Copy:
    """One network's weights: `prefix` of the names as they are compared, `said` as the file has it."""

    source: str
    prefix: str
    said: str

    @property
    def parts(self) -> list[str]:
        return [part for part in re.split("[./]", self.prefix) if part]

    @property
    def averaged(self) -> bool:
        return any(map(AVERAGED.search, self.parts))

    @property
    def rank(self) -> tuple[int, ...]:
        """Sort key: averaged weights first, then those under the usual names."""
        places = [USUAL.index(part) if part in USUAL else len(USUAL) for part in self.parts]
        return (0 if self.averaged else 2 if len(USUAL) in places else 1, *places[:1])

    def __str__(self) -> str:
        return repr(self.said.rstrip("./")) if self.said else "those without a prefix"


def recognize(file: TensorFile) -> tuple[str, TensorFile]:
    """(the source that wrote the tensors, the file with its names alone); `notes` say what was taken and passed over.

    Averaged weights are preferred. Raises CheckpointError for unknown names, which are shown, and for several networks between
    which nothing decides.
    """
    for source, is_mark in (
        ("google", lambda name: "/mnas_stem/" in f"/{name}"),
        ("keras", lambda name: name.startswith("layers/depthwise_conv2d/vars/")),
        ("pytorchcv", lambda name: name == "features.init_block.conv1.conv.weight"),
        ("tf2cv", lambda name: TF2CV in name),
        ("mindcv", lambda name: name == "features.8.layers.0.weight"),
    ):
        if any(map(is_mark, file.shapes)):
            return source, file
    names = {WRAPPERS.sub("", name): name for name in file.shapes}
    if len(names) < len(file.shapes):  # a wrapped and a plain copy
        names = {name: name for name in file.shapes}
    others = {WRAPPERS.sub("", name): name for name in file.others}
    copies = sorted(_copies(names) or _copies(names | others), key=lambda copy: copy.rank)
    if not copies:
        raise _unknown(file)
    chosen, notes = copies[0], []
    plain = [copy for copy in copies if not copy.averaged]
    if chosen.averaged and plain:
        missing = _within(plain[0], names).keys() - _within(chosen, names).keys()
        if lost := sorted(name for name in missing if not name.endswith(COUNTER)):
            notes.append(f"the averaged weights {chosen} were passed over: they lack {listed(lost, 2)}")
            chosen = plain[0]
    equal = [copy for copy in copies if copy.rank == chosen.rank]
    if len(equal) > 1:
        raise CheckpointError(
            f"A checkpoint must hold one network, or say which is the trained one. Received: {file.path} with the weights of "
            f"{len(equal)}, {listed(equal)}. Save one of them alone in PyTorch: torch.save(weights, FILE)."
        )
    place, _, prefix = chosen.said.rpartition("/")
    if chosen.averaged:
        notes.append(f"the averaged weights {chosen} were taken" + (f", not {plain[0]}" if plain else ""))
    elif place:
        notes.append(f"the weights {place!r} were taken")
    if prefix:
        notes.append(f"the prefix {prefix!r} was taken off the names")
    _check_others(file, chosen)
    tensors = _within(chosen, names)
    if any(len(original) != len(chosen.said) + len(name) for name, original in tensors.items()):
        notes.append("the names of wrappers were taken out of the names")
    if heads := _other_heads(file, tensors):
        notes.append(f"no classifier was taken: {listed(heads, 2)} may be one, to be named {prefix + 'classifier.weight'!r}")
    if rest := _passed_over(file, chosen.said, set(tensors.values())):
        notes.append(f"passed over: {rest}")
    shapes = {name: file.shapes[original] for name, original in tensors.items()}
    return chosen.source, dataclasses.replace(
        file, shapes=shapes, read=lambda name: file.read(tensors[name]), notes=tuple(notes), others={}
    )


def _copies(names: Mapping[str, str]) -> list[_Copy]:
    found = []
    for source, (mark, other) in MARKS.items():
        for name, original in names.items():
            prefix = name.removesuffix(mark)
            if prefix != name and (not prefix or prefix[-1] in "./") and prefix + other in names:
                copy = _Copy(source, prefix, original.removesuffix(mark) if original.endswith(mark) else prefix)
                if not any(map(NO_WEIGHTS.search, copy.parts)):
                    found.append(copy)
    return found


def _within(copy: _Copy, names: Mapping[str, str]) -> dict[str, str]:
    """{name of the source: name in the file} of the network's tensors under the copy's prefix."""
    below = {name[len(copy.prefix) :]: original for name, original in names.items() if name.startswith(copy.prefix)}
    return {name: original for name, original in below.items() if name.split(".")[0] in ROOTS[copy.source]}


def _other_heads(file: TensorFile, tensors: Mapping[str, str]) -> list[str]:
    """Of a network without a classifier, the matrices beside it that take its features."""
    if any(name.startswith("classifier.") for name in tensors):
        return []
    last = next((tensors[name] for name in ("conv_head.weight", "layers.14.weight") if name in tensors), None)
    features = file.shapes[last][:1] if last else ()
    taken = set(tensors.values())
    return [
        name
        for name, shape in file.shapes.items()
        if name not in taken
        and len(shape) == 2
        and shape[1:] == features
        and not any(map(NO_WEIGHTS.search, PARTS.findall(name)))
    ]


def _check_others(file: TensorFile, chosen: _Copy) -> None:
    """CheckpointError for something else where a tensor of the network should be."""
    for name, what in file.others.items():
        place = WRAPPERS.sub("", name)
        if place.startswith(chosen.prefix) and place[len(chosen.prefix) :].split(".")[0] in ROOTS[chosen.source]:
            raise CheckpointError(
                f"{file.path} must hold the tensors of a MnasNet whole. Received: {shown(name)}, {what}.{_of_parts(what)}"
            )


def _of_parts(what: str) -> str:
    if "Sharded" in what or "DTensor" in what:
        return " This is a part of a network that was trained in shards (FSDP): save a full state dict."
    return ""


def _passed_over(file: TensorFile, prefix: str, taken: set[str]) -> str:
    """What a file holds besides the chosen weights, in words."""
    ours = PARTS.findall(prefix)[:-1]
    found: dict[str, list[str]] = {}
    for name in [*file.shapes, *file.others]:
        if name in taken or name.endswith(COUNTER):
            continue
        parts = PARTS.findall(name)[:-1]
        same = next((at for at, part in enumerate(ours) if at >= len(parts) or part != parts[at]), len(ours))
        found.setdefault("".join(parts[: same + 1]).rstrip("./"), []).append(name)
    texts = []
    for label, group in found.items():
        what = file.others.get(label, "")
        count = sum(name in file.shapes for name in group)
        texts.append(f"{label} ({what})" if "." in what else f"{label} ({count} tensors)" if count > 1 else label)
    return listed(texts, 12)


def _unknown(file: TensorFile) -> CheckpointError:
    for name, what in file.others.items():
        if what.startswith(WHOLE_MODEL):
            where = f", {shown(name)} is" if name else ""
            return CheckpointError(
                f"A checkpoint must hold tensors by their names. Received: {file.path}{where} {what} as a pickle, of which "
                f"nothing was run. Save its weights alone where it was made: torch.save(model.state_dict(), FILE)."
            )
    if any(name.endswith("_flat_param") or "_flat_param_" in name for name in file.shapes):
        return CheckpointError(
            f"A checkpoint must hold the tensors of each layer. Received: {file.path}, the flat parameters of a network that "
            f"was trained in shards. Save a full state dict: FSDP.set_state_dict_type(model, StateDictType.FULL_STATE_DICT)."
        )
    others = f", beside {listed(file.others, 4)}" if file.others else ""
    return CheckpointError(
        f"A checkpoint must be Google's (TF1 MnasNet), timm's, torchvision's, imgclsmob's, MindCV's or keras_mnasnet's own. "
        f"Received: {file.path} with {len(file.shapes)} tensors named {listed(sorted(file.shapes)) or 'none'}{others}. Save "
        f"the network's own: torch.save(model.state_dict(), FILE)"
    )
