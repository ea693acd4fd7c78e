"""Packaging of keras_mnasnet; tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"', (ROOT / "keras_mnasnet/_version.py").read_text("utf-8"), re.MULTILINE)[1]

JAX = ["jax"]
QAT = ["tensorflow-model-optimization", "tf-keras"]
QUANTIZER = ["ai-edge-quantizer"]
REPORT = ["matplotlib"]
DETECTION = ["pycocotools"]
RAY = ["ray"]
OPTUNA = ["optuna"]
ONNX = ["onnx", "onnxruntime"]
TEST = [*JAX, *QAT, *QUANTIZER, *REPORT, *DETECTION, *RAY, *OPTUNA, *ONNX]
TEST += ["mypy", "pytest", "pytest-xdist", "ruff", "scipy", "tensorboard"]

setup(
    name="keras_mnasnet",
    version=VERSION,
    description="MnasNet for Keras 3: models, checkpoints, and the tools around them",
    long_description=(ROOT / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author="The keras_mnasnet authors",
    python_requires=">=3.11",
    package_dir={"": "."},
    packages=find_packages(include=["keras_mnasnet", "keras_mnasnet.*"]),
    package_data={
        "": ["*.pyi"],
        "keras_mnasnet": ["py.typed"],
        "keras_mnasnet.benchmarks": ["*.json", "emulator.c"],
        "keras_mnasnet.search": ["*.json", "report.css", "report.js"],
        "keras_mnasnet.weights": ["*.json", "bundled/*"],
    },
    install_requires=[
        "absl-py>=1.4",
        "ai-edge-litert",
        "filelock",
        "flatbuffers",
        "huggingface_hub>=1.0,<3",
        "keras>=3.12",
        "lazy_loader",
        "msgspec",
        "numpy",
        "pillow>=10.1",
        "pyyaml",
        "safetensors",
        "tensorflow",
        "tqdm",
    ],
    extras_require={
        "detection": DETECTION,
        "jax": JAX,
        "onnx": ONNX,
        "optuna": OPTUNA,
        "qat": QAT,
        "quantizer": QUANTIZER,
        "ray": RAY,
        "report": REPORT,
        "test": TEST,
    },
    entry_points={"console_scripts": ["mnasnet = keras_mnasnet.cli.main:entry_point"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
