"""The direction of imports, and what an import loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import keras_mnasnet

ROOT = Path(keras_mnasnet.__file__).parent

# What a module or folder of the package may import from the package: DESIGN, "Import direction".
SEARCH = {
    "architecture", "benchmarks", "data", "export", "family", "model", "pretrained", "published",
    "spec", "training", "weights",
}  # fmt: skip
ALLOWED = {
    "_version": set(),
    "preprocessing": set(),
    "utils": {"_version"},
    "architecture": set(),
    "family": {"architecture"},
    "published": set(),
    "model": {"architecture", "preprocessing"},
    "spec": {"architecture", "family", "model"},
    "weights": {"architecture", "family"},
    "pretrained": {"architecture", "spec", "weights"},
    "applications": {"architecture", "family", "model", "pretrained", "spec", "weights"},
    "backbone": {"architecture", "applications", "spec"},
    "data": {"weights"},
    "model_card": {"model", "spec"},
    "training": {"applications", "architecture", "data", "model", "pretrained", "spec", "weights"},
    "benchmarks": {
        "applications",
        "architecture",
        "data",
        "detection",
        "export",
        "family",
        "pretrained",
        "weights",
    },
    "detection": {
        "__version__",
        "applications",
        "architecture",
        "backbone",
        "data",
        "export",
        "family",
        "model",
        "pretrained",
        "spec",
        "training",
        "weights",
    },
    "export": {"__version__", "architecture", "data", "model", "pretrained", "spec", "weights"},
    "hub": {"architecture", "model", "model_card", "pretrained", "spec", "weights"},
    "search": SEARCH,
    "cli": None,
    "__init__": None,
}
MODULES = sorted(ROOT.rglob("*.py"))


def imported(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_import_direction(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert room in ALLOWED, f"add {room!r} to the table"
    found = imported(ast.parse(path.read_text("utf-8")))
    private = {name for name in found if name.startswith(("keras.src", "tensorflow.python", "search", "benchmarks"))}
    assert not private
    if ALLOWED[room] is not None:
        rooms = {name.split(".")[1] for name in found if name.startswith("keras_mnasnet.")} - {"__version__"}
        above = rooms - ALLOWED[room] - {room, "utils", "preprocessing"}
        assert not above, f"{room} may not import {above}"


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, keras_mnasnet; assert not {'tensorflow', 'keras', 'numpy', 'absl'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_builders_load_no_optional_package():
    code = (
        "import sys, keras; by_keras = set(sys.modules)\n"  # keras itself imports matplotlib where it is installed
        "import keras_mnasnet; keras_mnasnet.MnasNetSmall(weights=None)\n"
        "optional = {'tf_keras', 'tensorflow_model_optimization', 'ray', 'optuna', 'matplotlib', 'torch'}\n"
        "loaded = optional & set(sys.modules) - by_keras; assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
