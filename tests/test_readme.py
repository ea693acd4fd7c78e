"""The README's tables and examples against the code."""

import ast
import importlib
import re
from pathlib import Path

from keras_mnasnet.family import FAMILY, PUBLISHED, default_size
from keras_mnasnet.weights.registry import names, records

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")


def test_checkpoint_table_is_the_records():
    rows = re.findall(r"^\| `([^`]+)` \| (\S+) \| (\S+) \| (\d+) \| (\S+) \| (\S+) \| (\S+) \|$", README, re.MULTILINE)
    expected = [
        (
            record.id, record.network, f"{record.width:g}", str(record.size), f"{record.params:,}", f"{record.top1:g}",
            "-" if record.top5 is None else f"{record.top5:g}",
        )
        for record in records("imagenet")
    ]  # fmt: skip
    assert rows == expected


def test_bundled_table_is_the_records():
    rows = re.findall(r"^\| `(\w+/[^`]+)` \| (\S+) \| (\S+) \| (\S+) M \| (\S+) \| (\S+) \|$", README, re.MULTILINE)
    expected = [
        (
            record.id, record.network, f"{record.params:,}",
            f"{record.architecture.madds(record.size, record.size, classes=record.classes) / 1e6:.2f}",
            f"{record.top1:g}", f"{record.top5:g}",
        )
        for record in records()
        if record.bundled
    ]  # fmt: skip
    assert rows == expected


def test_network_table_is_the_family():
    for name, network in FAMILY.items():
        size = default_size(network)
        row = next(line for line in README.splitlines() if re.match(rf"\| {name}( \(|\b \|)", line, re.IGNORECASE))
        assert f"| {network.params():,} | {network.madds(size, size) / 1e6:,.2f} M |" in row
        assert ("reconstructed" in row) == (network.provenance == "reconstructed")
        if PUBLISHED[name].top1:
            assert f"{PUBLISHED[name].top1}" in row
            assert f"{PUBLISHED[name].latency_ms:g} ms" in row


def test_examples_name_what_exists():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert {alias.name for alias in node.names} <= set(module.__all__)
    for record_id in re.findall(r"(?:weights[= ]\"?|load_weights\(model, \"|fetch )((?:google|timm)/[\w.-]+)", README):
        assert record_id in names()
