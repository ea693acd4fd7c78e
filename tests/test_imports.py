"""The direction of imports, and what an import loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import keras_mnasnet

ROOT = Path(keras_mnasnet.__file__).parent
LOW = {"_version", "utils", "preprocessing", "architecture", "family"}
VALUE = {*LOW, "model", "spec", "weights", "loading"}

# What a room may import from the package (DESIGN, "Import direction"), inside functions too. A detector's spec and graph are
# values below `weights`, in files of their own: `load` gives detectors as it gives classifiers. So is what a run's folder says.
ALLOWED = {
    "_version": set(),
    "utils": {"_version"},
    "preprocessing": set(),
    "architecture": set(),
    "family": {"architecture"},
    "model": {"architecture", "preprocessing"},
    "spec": {"architecture", "family", "model", "preprocessing"},
    "detection.anchors": {"architecture", "detection.spec"},
    "detection.spec": {"architecture", "preprocessing", "utils"},
    "detection.model": {"architecture", "preprocessing", "utils", "model", "detection.spec", "detection.anchors"},
    "weights": {*LOW, "model", "spec", "detection.spec", "detection.model"},
    "loading": {*LOW, "spec", "weights"},
    "applications": VALUE,
    "hub": VALUE,
    "data": {*LOW, "weights"},
    "training.job": {*LOW, "weights", "training.recipe"},
    "training.recipe": {*LOW},
    "export": {*VALUE, "data", "training.job"},
    "training": {*VALUE, "applications", "data", "inference"},
    "inference": {*VALUE, "data", "export"},
    "detection": {*VALUE, "applications", "data", "export", "training", "inference"},
    "benchmarks": {*VALUE, "data", "export", "detection", "inference"},
    "search": {*VALUE, "applications", "data", "export", "training", "benchmarks", "inference"},
    "cli": None,
    "": {"_version"},
}


def name_of(path: Path) -> str:
    """`detection.spec` of a file; the package itself is an empty text."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def room_of(name: str) -> str:
    two = ".".join(name.split(".")[:2])
    return two if two in ALLOWED else name.split(".")[0]


def imported(path: Path) -> set[str]:
    """The modules of the package that a file imports, anywhere but for type checking."""
    tree = ast.parse(path.read_text("utf-8"))
    only_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in (node for node in ast.walk(tree) if id(node) not in only_types):
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are for the stubs"
            names = {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        else:
            continue
        assert not any(name.startswith(("keras.src", "tensorflow.python")) for name in names)
        assert not names & {"search", "benchmarks", "weights"}, "the top-level folders are not for importing"
        ours = {name.removeprefix("keras_mnasnet").lstrip(".") for name in names if name.split(".")[0] == "keras_mnasnet"}
        precise = {name for name in ours if name in MODULES}
        found |= {name for name in precise if not any(other.startswith(f"{name}.") for other in precise)}
    return found - {name_of(path)}


IMPORTS = {name: imported(path) for name, path in MODULES.items()}


@pytest.mark.parametrize("name", MODULES, ids=lambda name: name or "keras_mnasnet")
def test_import_direction(name):
    room = room_of(name)
    assert room in ALLOWED, f"add {room!r} to the table"
    if ALLOWED[room] is not None:
        above = {each for each in map(room_of, IMPORTS[name]) if each} - ALLOWED[room] - {room}
        above -= {each for each in above if each.split(".")[0] in ALLOWED[room] | {room}}
        assert not above, f"{room} may not import {above}"


def test_no_import_goes_in_a_circle():
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' -> '.join((*path[path.index(name) :], name))}"
        if name not in done:
            for other in sorted(IMPORTS[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, keras_mnasnet; assert not {'tensorflow', 'keras', 'numpy', 'absl'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_rooms_and_names_are_attributes():
    code = (
        "import sys, keras_mnasnet\n"
        "assert keras_mnasnet.export.__name__ == 'keras_mnasnet.export'\n"
        "assert set(keras_mnasnet.__all__) <= set(dir(keras_mnasnet))\n"
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules\n"
        "assert keras_mnasnet.load('cifar10').classes == 10\n"
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_builders_load_no_optional_package():
    code = (
        "import sys, keras; by_keras = set(sys.modules)\n"  # keras itself imports matplotlib where it is installed
        "import keras_mnasnet; keras_mnasnet.MnasNetSmall(weights=None)\n"
        "optional = {'tf_keras', 'tensorflow_model_optimization', 'ray', 'optuna', 'matplotlib', 'torch'}\n"
        "loaded = optional & set(sys.modules) - by_keras; assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
