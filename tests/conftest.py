import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the controller's matrices are small: threads only wait for each other

import pytest

ASSETS = Path(__file__).parent / "assets"


def _folder(variable: str) -> Path:
    path = os.environ.get(variable)
    if not path:
        pytest.skip(f"{variable} is not set")
    return Path(path).resolve()


@pytest.fixture
def assets() -> Path:
    return ASSETS


@pytest.fixture
def golden() -> Path:
    """Reference outputs in the sources' own file formats; see README, Development."""
    return _folder("KERAS_MNASNET_GOLDEN")


@pytest.fixture
def data() -> Path:
    """Photos and datasets; see README, Development."""
    return _folder("KERAS_MNASNET_DATA")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """An empty cache for every test."""
    path = tmp_path / "home"
    monkeypatch.setenv("KERAS_MNASNET_HOME", str(path))
    return path


@pytest.fixture
def metadata():
    """metadata(mean, std): the bytes of TFLite metadata."""
    import tiny

    return tiny.metadata


@pytest.fixture
def write_tiny():
    """write_tiny(path, ...): writes the smallest classifier, a `.tflite` of a few hundred bytes."""
    import tiny

    return tiny.write_tiny
