"""Checkpoints as training runs write them: wrapped, averaged, beside an optimizer and settings, under any ending."""

import argparse
import os
import re
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from writers import TINY, Foreign, Negated, Parameter, write_torch
from writers import draw_timm as timm

from keras_mnasnet import CheckpointError, load, save
from keras_mnasnet.weights.checkpoint import expected_shapes
from keras_mnasnet.weights.convert import _timm

CASES = Path(os.environ.get("KERAS_MNASNET_CASES", "/none"))


def optimizer(state: dict[str, np.ndarray]) -> dict:
    """What torch.optim.Adam keeps of a network: moments of the shapes of its parameters."""
    moments = {
        index: {"step": 5, "exp_avg": value * 0 + 9, "exp_avg_sq": value * 0 + 9} for index, value in enumerate(state.values())
    }
    return {"state": moments, "param_groups": [{"lr": 0.1, "params": list(moments)}]}


def same(path: Path, state: dict[str, np.ndarray]):
    """The checkpoint in a file, whose tensors are those of the state dict."""
    found = load(path, network=TINY)
    for (scope, part, leaf), name in _timm(state).items():
        if (scope, part, leaf) == ("stem", "conv", "kernel"):
            np.testing.assert_array_equal(found.tensors["stem_conv/kernel"], state[name].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(found.tensors["head_bn/moving_mean"], state["bn2.running_mean"])
    assert set(found.tensors) == set(expected_shapes(found.architecture, found.classes))
    return found


@pytest.mark.parametrize("ending", ["pth.tar", "ckpt", "bin", "pt", "pth", "tar", "model", "tgz", "safetensors"])
@pytest.mark.parametrize("legacy", [False, True])
def test_the_content_decides_not_the_ending(ending, legacy, tmp_path):
    state = timm()
    assert same(write_torch(tmp_path / f"best.{ending}", state, legacy=legacy), state).origin.notes == ()


def test_safetensors_and_keras_files_by_any_name(tmp_path):
    state = timm()
    save_file(state, tmp_path / "weights.bin")
    same(tmp_path / "weights.bin", state)
    for number, ending in enumerate(("safetensors", "keras", "weights.h5")):
        save("cifar10/b1-0.5-32", tmp_path / f"m.{ending}")
        (tmp_path / f"m.{ending}").rename(tmp_path / f"renamed{number}")
        assert load(tmp_path / f"renamed{number}").labels == load("cifar10").labels


PREFIXES = (
    "module.", "_orig_mod.", "model.", "backbone.", "module._orig_mod.", "_orig_mod.module.", "model.backbone.",
    "module.module.", "net.", "student.", "features.encoder.",
)  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_is_taken_off_and_said(prefix, tmp_path, caplog):
    state = timm()
    write_torch(tmp_path / "m.pth", timm(prefix=prefix))
    save_file(timm(prefix=prefix), tmp_path / "m.safetensors")
    for name in ("m.pth", "m.safetensors"):
        caplog.clear()
        found = same(tmp_path / name, state)
        assert found.origin.notes == (f"the prefix {prefix!r} was taken off the names",)
        assert [record.getMessage() for record in caplog.records if name in record.getMessage()] == [
            f"{tmp_path / name}: the prefix {prefix!r} was taken off the names"
        ]


def test_what_was_taken_stays_with_the_checkpoint_and_is_said_once(tmp_path, caplog):
    save(load(write_torch(tmp_path / "m.pth", timm(prefix="module.")), network=TINY), tmp_path / "m.safetensors")
    caplog.clear()
    assert load(tmp_path / "m.safetensors").origin.notes == ("the prefix 'module.' was taken off the names",)
    assert not caplog.records


def test_names_of_compiled_and_sharded_layers(tmp_path):
    state = timm()
    wrapped = {
        name.replace("blocks.0.0.", "blocks.0._fsdp_wrapped_module.0._checkpoint_wrapped_module."): value
        for name, value in state.items()
    }
    found = same(write_torch(tmp_path / "m.pth", {f"_orig_mod.{name}": value for name, value in wrapped.items()}), state)
    assert found.origin.notes == (
        "the prefix '_orig_mod.' was taken off the names", "the names of wrappers were taken out of the names",
    )  # fmt: skip
    part = {name.replace("conv_stem.", "conv_stem._orig_mod."): value for name, value in state.items()}
    assert same(write_torch(tmp_path / "m.pth", part), state).origin.notes == found.origin.notes[1:]


NAMESPACE = argparse.Namespace(lr=0.1, data="/data", model="mnasnet_small")
SCALAR = Foreign("numpy.core.multiarray", "scalar", Foreign("numpy", "dtype", "f8", False, True, state=[3, "<"]), "x")


def run(kind: str) -> tuple[dict, dict, list[str]]:
    """(what a training loop writes, the state dict to be taken of it, what is said)."""
    state, other = timm(1), timm(2)
    wrapped = {f"module.{name}": value for name, value in state.items()}
    rest = {"epoch": 3, "optimizer": optimizer(other), "args": NAMESPACE, "best": SCALAR}
    args = "args (argparse.Namespace, which was not run)"
    return {
        "torchvision": (
            {"model": state, **rest, "lr_scheduler": {"last_epoch": 3, "_last_lr": [0.1]}, "scaler": {"scale": 1.0}},
            state,
            ["weights 'model' were taken", args, "optimizer (", "lr_scheduler", "multiarray.scalar, which was not run"],
        ),
        "torchvision, averaged": (
            {"model": other, "model_ema": {"n_averaged": np.array(5), **wrapped}, **rest},
            state,
            ["averaged weights 'model_ema/module' were taken, not 'model'", "model_ema/n_averaged"],
        ),
        "timm": (
            {
                "state_dict": OrderedDict(other), "state_dict_ema": OrderedDict(state), "arch": "mnasnet_small", "version": 2,
                "amp_scaler": {"scale": np.float64(2.0).item()}, "metric": 71.2, **rest,
            },
            state,
            ["averaged weights 'state_dict_ema' were taken, not 'state_dict'", "arch", "metric", "amp_scaler"],
        ),
        "timm without averages": ({"state_dict": state, "state_dict_ema": None, **rest}, state, ["'state_dict'"]),
        "Lightning": (
            {
                "state_dict": {
                    **{f"model.{name}": value for name, value in state.items()}, "loss.weight": np.ones(3, np.float32),
                    "teacher.fc.weight": np.ones((3, 3), np.float32), "teacher.fc.bias": np.ones(3, np.float32),
                },
                "pytorch-lightning_version": "2.1", "hyper_parameters": {"lr": 0.1}, "global_step": 7,
                "callbacks": {"ModelCheckpoint": {"best": "x"}}, "optimizer_states": [optimizer(other)], "loops": {},
            },
            state,
            ["prefix 'model.'", "state_dict/teacher (2 tensors)", "state_dict/loss", "optimizer_states", "hyper_parameters"],
        ),
        "DeepSpeed": ({"module": state, "ds_version": "0.14", "optimizer": None}, state, ["'module'"]),
        "fastai": ({"model": state, "opt": optimizer(other)}, state, ["opt"]),
        "an optimizer by names": (
            {"optimizer_state": {"exp_avg": dict(other)}, "exp_avg": dict(other), "net": state}, state, ["exp_avg"],
        ),
        "the average of parameters alone": (
            {"state_dict": state, "ema": {name: value for name, value in other.items() if "running" not in name}},
            state,
            ["averaged weights 'ema' were passed over: they lack", "weights 'state_dict' were taken"],
        ),
        "two networks, of which one is the teacher": (
            state | {f"teacher.{name}": value for name, value in other.items()}, state, ["passed over: teacher (41 tensors)"],
        ),
        "nested averages": ({"model": other, "ema": {"module": wrapped, "decay": 0.99}}, state, ["averaged"]),
        "parameters": ({name: Parameter(value) for name, value in state.items()}, state, []),
    }[kind]  # fmt: skip


RUNS = (
    "torchvision", "torchvision, averaged", "timm", "timm without averages", "Lightning", "DeepSpeed", "fastai",
    "an optimizer by names", "the average of parameters alone", "two networks, of which one is the teacher", "nested averages",
    "parameters",
)  # fmt: skip


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize("legacy", [False, True])
def test_the_weights_of_a_run(kind, legacy, tmp_path):
    value, state, said = run(kind)
    notes = same(write_torch(tmp_path / "last.ckpt", value, legacy=legacy), state).origin.notes
    for text in said:
        assert text in "; ".join(notes), notes


def test_nothing_is_imported_or_run(tmp_path):
    """In a process of its own that ends at any import or start that the plain file does not need."""
    write_torch(tmp_path / "plain.pth", timm())
    marker = tmp_path / "marker"
    value = {
        "model": timm(), "a": Foreign("os", "system", f"touch {marker}"), "b": Foreign("antigravity", "x"),
        "c": Foreign("builtins", "exec", "1/0", state={"x": 1}), "args": NAMESPACE, "d": SCALAR,
    }  # fmt: skip
    write_torch(tmp_path / "evil.pth", value)
    code = f"""
import sys
from keras_mnasnet import load
load({str(tmp_path / "plain.pth")!r}, network={TINY!r})
known = set(sys.modules)
def watch(event, arguments):
    if event in ("os.system", "subprocess.Popen", "exec", "pickle.find_class", "socket.connect"):
        raise SystemExit(f"{{event}} {{arguments}}")
    if event == "import" and arguments[0] not in known:
        raise SystemExit(f"import {{arguments[0]}}")
sys.addaudithook(watch)
print(*load({str(tmp_path / "evil.pth")!r}, network={TINY!r}).origin.notes)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "a (os.system, which was not run)" in done.stdout
    assert not marker.exists()


def test_several_networks_between_which_nothing_decides(tmp_path):
    for value in (
        {"student": timm(1), "teacher": timm(2)},
        timm(1, prefix="student.") | timm(2, prefix="teacher."),
        {"state_dict": timm(1, prefix="model.") | timm(2, prefix="net.")},
    ):
        with pytest.raises(CheckpointError, match=r"hold one network.*the weights of 2, .*torch.save\(weights, FILE\)"):
            load(write_torch(tmp_path / "m.pth", value), network=TINY)


@pytest.mark.parametrize("classes", [0, 1, 2, 7])
def test_classifiers_of_any_count_and_none(classes, tmp_path):
    found = same(write_torch(tmp_path / "m.pth", {"model": timm(classes=classes)}), timm(classes=classes))
    assert (found.classes, found.labels) == (classes, None)
    if not classes:
        with pytest.raises(CheckpointError, match="Pass classes=N for a new one, or include_top=False"):
            found.model()


def test_a_classifier_after_a_dropout_and_none_of_two_layers(tmp_path):
    state = timm(classes=2)
    renamed = {name.replace("classifier.", "classifier.1."): value for name, value in state.items()}
    assert same(write_torch(tmp_path / "m.pth", renamed), state).classes == 2
    two = {**renamed, "classifier.4.weight": np.ones((2, 2), np.float32)}
    with pytest.raises(CheckpointError, match="one layer of classes. Received: 'classifier.1.weight' and 'classifier.4.w"):
        load(write_torch(tmp_path / "m.pth", two), network=TINY)
    features = {name: value for name, value in state.items() if not name.startswith(("conv_head", "bn2", "classifier"))}
    deeper = {name.replace("classifier.", "classifier.1.1."): value for name, value in state.items()}
    with pytest.raises(CheckpointError, match="Received: 'classifier.1.1.*take the body alone"):
        load(write_torch(tmp_path / "m.pth", deeper), network=TINY)
    with pytest.raises(CheckpointError, match="there is none for the head conv kernel"):
        load(write_torch(tmp_path / "m.pth", features), network=TINY)


def test_types_of_numbers(tmp_path):
    import ml_dtypes

    exact = {name: value.astype(np.float16) if value.ndim else value for name, value in timm().items()}
    for dtype in (np.float16, np.float64):
        cast = {name: value.astype(dtype) if value.ndim else value for name, value in exact.items()}
        same(write_torch(tmp_path / "m.pth", cast), exact)
        save_file(cast, tmp_path / "m.safetensors")
        same(tmp_path / "m.safetensors", exact)
    short = {name: value.astype(ml_dtypes.bfloat16) if value.ndim else value for name, value in timm().items()}
    wide = {name: value.astype(np.float32) for name, value in short.items()}
    same(write_torch(tmp_path / "m.pth", short), wide)
    save_file(short, tmp_path / "m.safetensors")
    same(tmp_path / "m.safetensors", wide)
    for dtype, named in ((ml_dtypes.float8_e4m3fn, "F8_E4M3"), (np.int8, "int8")):
        other = {name: value.astype(dtype) if "conv" in name else value for name, value in timm().items()}
        save_file(other, tmp_path / "m.safetensors")
        with pytest.raises(CheckpointError, match=f"{named}.*tensor.float|{named}"):
            load(tmp_path / "m.safetensors", network=TINY)


def test_bfloat16_in_a_fresh_process(tmp_path):
    import ml_dtypes

    save_file(
        {name: value.astype(ml_dtypes.bfloat16) if value.ndim else value for name, value in timm().items()}, tmp_path / "m.bin"
    )
    code = f"from keras_mnasnet import load; print(load({str(tmp_path / 'm.bin')!r}, network={TINY!r}).classes)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("3", 0), done.stderr


def test_tied_tensors_share_their_storage(tmp_path):
    state = timm()
    path = write_torch(tmp_path / "m.pth", {"model": state, "ema_model": state})
    assert path.stat().st_size < 40_000
    same(path, state)


def test_a_tensor_that_is_something_else_is_named(tmp_path):
    state = {**timm(), "conv_head.weight": Foreign("torch.distributed.tensor", "DTensor")}
    with pytest.raises(CheckpointError, match=r"'conv_head.weight', torch.distributed.tensor.DTensor.*in shards \(FSDP\)"):
        load(write_torch(tmp_path / "m.pth", state), network=TINY)
    flat = {"_fsdp_wrapped_module._flat_param": np.ones(9, np.float32)}
    with pytest.raises(CheckpointError, match="FULL_STATE_DICT"):
        load(write_torch(tmp_path / "m.pth", flat), network=TINY)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("_rebuild_qtensor", "a quantized tensor: save the network as it was before"),
        ("_rebuild_sparse_tensor", "a sparse tensor: save tensor.to_dense()"),
        ("_rebuild_meta_tensor_no_storage", "of the meta device, without values"),
        ("_rebuild_tensor_v3", "of 8 bits or of another type that is not read: save tensor.float()"),
        ("_reconstruct", "an array of NumPy: save torch.from_numpy"),
    ],
)
@pytest.mark.parametrize("names", [("conv_head.weight",), tuple(timm())])
def test_tensors_that_are_not_read_are_named(call, said, names, tmp_path):
    """One of them or all, plain and as parameters."""
    for wrap in (lambda value: value, lambda value: Foreign("torch._utils", "_rebuild_parameter", value, True, {})):
        state = timm() | {name: wrap(Foreign("a.b", call, np.ones(3, np.float32))) for name in names}
        write_torch(tmp_path / "m.pth", {"model": {f"module.{name}": value for name, value in state.items()}})
        with pytest.raises(CheckpointError, match=re.escape(said)) as caught:
            load(tmp_path / "m.pth", network=TINY)
        assert f"'model/module.{names[0]}'" in str(caught.value)


@pytest.mark.parametrize("legacy", [False, True])
def test_views_of_the_other_sign(legacy, tmp_path):
    state = timm()
    same(write_torch(tmp_path / "m.pth", {name: Negated(value) for name, value in state.items()}, legacy=legacy), state)


def test_complex_numbers_and_archives_cut_short(tmp_path):
    state = {name: value.astype(np.complex64) if "conv_head" in name else value for name, value in timm().items()}
    with pytest.raises(CheckpointError, match="conv_head.weight of complex64. Save the network of real numbers"):
        load(write_torch(tmp_path / "m.pth", state), network=TINY)
    (tmp_path / "half.pth").write_bytes((tmp_path / "m.pth").read_bytes()[:9000])
    with pytest.raises(CheckpointError, match="a zip archive without its end"):
        load(tmp_path / "half.pth")


@pytest.mark.parametrize(("prefix", "head"), [("", "fc"), ("backbone.", "head.fc"), ("model.backbone.", "model.classifier")])
def test_a_classifier_of_another_name_is_pointed_at(prefix, head, tmp_path):
    """Beside a body under a prefix it has a place of its own: it is not taken for the network's."""
    state = {
        name.replace("classifier.", f"{head}.") if "classifier" in name else prefix + name: value
        for name, value in timm().items()
    }
    found = load(write_torch(tmp_path / "m.pth", state), network=TINY)
    assert found.classes == 0
    assert f"no classifier was taken: {head}.weight may be one, to be named '{prefix}classifier.weight'" in found.origin.notes


@pytest.mark.skipif(not CASES.is_dir(), reason="KERAS_MNASNET_CASES is not set")
@pytest.mark.parametrize("name", ["21*/dataparallel.pth", "22*/*.pth", "23*/*.pth.tar"])
def test_files_that_once_failed(name):
    (plain,), (path,) = CASES.glob("21*/plain.pth"), CASES.glob(name)
    expected, found = load(plain, network=TINY), load(path, network=TINY)
    for key, value in expected.tensors.items():
        np.testing.assert_array_equal(found.tensors[key], value)


@pytest.mark.skipif(not CASES.is_dir(), reason="KERAS_MNASNET_CASES is not set")
def test_other_files_that_once_failed():
    """bfloat16 within its rounding; a Git LFS pointer by its size; a Keras model that is no checkpoint."""
    (plain,), (path,) = CASES.glob("21*/plain.pth"), CASES.glob("24*/*.safetensors")
    expected, found = load(plain, network=TINY), load(path, network=TINY)
    for key, value in expected.tensors.items():
        np.testing.assert_allclose(found.tensors[key], value, rtol=2**-8)
    with pytest.raises(CheckpointError, match="a Git LFS pointer to a file of 8,400,000 bytes.*git lfs pull"):
        load(CASES / "25_lfs_pointer" / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"a \.keras file of this package.*`mnasnet export .*model\.keras -o FILE.tflite` takes"
    ):
        load(CASES / "33_keras_file_for_qat" / "model.keras")
