"""Lookup tables: rows of a network, building one on this machine, what a table knows and what it does not."""

import dataclasses
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from keras_mnasnet.architecture import Architecture, Block
from keras_mnasnet.export.graph import random_weights, write_graph
from keras_mnasnet.family import A1, SMALL
from keras_mnasnet.search.latency import CannotKnow, Latency, TableLatency, parse_device, parts
from keras_mnasnet.search.space import Decision, SearchSpace
from keras_mnasnet.search.tables import LANDMARKS, build_table, parts_of_space


def tiny(candidate):
    kernel, repeats = (3, 5)[candidate[0]], candidate[1] + 1
    return Architecture("tiny", 8, (Block(1, 3, 1, 1, 8, 8, skip=False), Block(repeats, kernel, 2, 3, 8, 16, se=0.25)), head=32)


SPACE = SearchSpace("tiny", (Decision("kernel", (3, 5)), Decision("repeats", (1, 2, 3))), build=tiny)


def test_rows_of_a_network():
    assert [part.key for part in parts(tiny((1, 1)), 32)] == [
        "stem8_s22@32", "r1_k3_s11_e1_i8_o8_noskip@16", "r1_k5_s22_e3_i8_o16_se0.25@16", "r1_k5_s11_e3_i16_o16_se0.25@8",
        "head32_i16@8",
    ]  # fmt: skip
    # a residual that cannot be is not part of a key: A1's first layer is the same with and without `noskip`
    assert [part.key for part in parts(A1, 224)][1] == "r1_k3_s11_e1_i32_o16@112"
    assert [part.key for part in parts(SMALL, 224)][1] == "r1_k3_s11_e1_i8_o8_noskip@112"


def run(content, image):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def test_a_network_cut_in_three_computes_the_same():
    network = tiny((0, 2))
    weights = random_weights(network, classes=10)
    image = np.random.default_rng(0).uniform(0, 255, (1, 32, 32, 3)).astype(np.float32)
    options = {"height": 32, "width": 32, "classes": 10}
    middle = run(write_graph(network, weights, until="block2a", **options), image)
    assert middle.shape == (1, 8, 8, 16)
    last = run(write_graph(network, weights, since="block2a", until="block2", **options), middle)
    scores = run(write_graph(network, weights, since="block2", **options), last)
    np.testing.assert_allclose(scores, run(write_graph(network, weights, **options), image), atol=1e-5)
    with pytest.raises(ValueError, match="`since` must be stem, a stage, a layer or head .* Received: since='block9'"):
        write_graph(network, weights, since="block9", **options)


ODD = Architecture.parse(
    "odd: stem8 r2_k3_s11_e1_i8_o8_pool r2_k3_s22_e1_i8_o8_se0.25_pool_conv r2_k5_s11_e1_i8_o16_noskip_conv "
    "r1_k1_s22_e1_i16_o32_linear r2_k3_s22_e6_i32_o32_pool head32"
)  # fmt: skip


def test_rows_of_other_operators_and_skips():
    keys = [part.key for part in parts(ODD, 32)][1:-1]
    assert keys == [
        "r1_k3_s11_e1_i8_o8_pool@16", "r1_k3_s11_e1_i8_o8_pool@16", "r1_k3_s22_e1_i8_o8_se0.25_pool_conv@16",
        "r1_k3_s11_e1_i8_o8_se0.25_pool_conv@8", "r1_k5_s11_e1_i8_o16_conv@8", "r1_k5_s11_e1_i16_o16_noskip_conv@8",
        "r1_k1_s22_e1_i16_o32_linear@8", "r1_k3_s22_e6_i32_o32_pool@4", "r1_k3_s11_e6_i32_o32_pool@2",
    ]  # fmt: skip
    for part in parts(ODD, 32):
        weights = random_weights(part.architecture, classes=10)
        content = write_graph(
            part.architecture, weights, height=part.size, width=part.size, classes=10, since=part.since, until=part.until
        )
        side = part.size
        channels = 3 if part.since is None else part.architecture.stem
        run(content, np.zeros((1, side, side, channels), np.float32))


@pytest.mark.parametrize("network", [tiny((1, 2)), A1, SMALL, ODD], ids=lambda network: network.name)
def test_rows_have_the_multiply_adds_of_the_network(network):
    def madds(part):
        rows = part.architecture.layers(part.size, part.size, classes=10)
        kept = {None: ("stem",), "stem": ("block",), "block1": ("head", "predictions")}[part.since]
        return sum(row.madds for row in rows if row.name.startswith(kept))

    assert sum(madds(part) for part in parts(network, 64)) == network.madds(64, 64, classes=10)


def test_every_network_of_a_space_is_covered():
    known = parts_of_space(SPACE, 32)
    for candidate in SPACE.members:
        assert {part.key for part in parts(tiny(candidate), 32)} <= known.keys()
    large = SearchSpace(
        "large", (*SPACE.decisions, *(Decision(f"unused{i}", tuple(range(10))) for i in range(4))),
        build=lambda candidate: tiny(candidate[:2]),
    )  # fmt: skip
    assert large.members is None
    assert parts_of_space(large, 32).keys() == known.keys()
    with pytest.raises(ValueError, match="needs a space of networks. Received: space 'tiny'"):
        parts_of_space(dataclasses.replace(SPACE, build=None), 32)


class Ruler:
    """A device whose milliseconds are 1,000 operators each, and whole networks 1.2 times the sum of their rows."""

    name, measures = "ruler", True

    def __init__(self, breaks_at=math.inf):
        self.timed, self.breaks_at = [], breaks_at

    def files_ms(self, files, names):
        if len(self.timed) >= self.breaks_at:
            raise KeyboardInterrupt
        assert all(path.read_bytes()[4:8] == b"TFL3" for path in files)
        self.timed += names
        return [float(len(name)) for name in names]

    def latency_ms(self, architecture, resolution, classes):
        return Latency(1.2 * sum(len(part.key) for part in parts(architecture, resolution)), self.name)

    def facts(self):
        return {"kind": "ruler"}


def test_a_table_is_scaled_and_checked_and_goes_on_where_it_broke(tmp_path):
    path = tmp_path / "table.json"
    broken = Ruler(breaks_at=16)
    with pytest.raises(KeyboardInterrupt):
        build_table(path, space=SPACE, device=broken, size=32, classes=10)
    assert not path.exists()
    with pytest.raises(ValueError, match="goes on with its settings. Received: .*'classes': 11"):
        build_table(path, space=SPACE, device=Ruler(), size=32, classes=11)
    ruler = Ruler()
    value = build_table(path, space=SPACE, device=ruler, size=32, classes=10)
    assert not set(ruler.timed) & set(broken.timed)
    assert set(ruler.timed + broken.timed) == set(value["ms"]) == set(parts_of_space(SPACE, 32))
    assert not list(tmp_path.glob(".*"))
    assert value["scale"] == pytest.approx(1.2)
    check = value["check"]
    assert check["percent_off"] == pytest.approx(0, abs=1e-9)
    assert check["percent_off_unscaled"] == pytest.approx(100 * (1 - 1 / 1.2))
    assert [each["use"] for each in check["networks"]] == ["scale", "check"] * 3 + ["check"] * 3
    table = TableLatency.open(path)
    for network in (tiny((0, 1)), *LANDMARKS):
        expected = 1.2 * sum(len(part.key) for part in parts(network, 32))
        assert table.latency_ms(network, 32, 10).latency_ms == pytest.approx(expected)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.json"
    build_table(path, space=SPACE, device=Ruler(), size=32, classes=10)
    return path


def test_what_a_table_does_not_know_is_for_the_next_link(table):
    model = parse_device(f"table:{table},madds")
    assert model.latency_ms(tiny((0, 0)), 32, 10).source == f"table:{table}"
    wide = dataclasses.replace(tiny((0, 0)), head=64)
    answer = model.latency_ms(wide, 32, 10)
    assert answer.source == "madds"
    assert "'tiny' with head64_i16@8, which" in answer.details["could_not_know"][f"table:{table}"]
    with pytest.raises(CannotKnow, match="of 32 pixels and 10 classes. Received: resolution=64, classes=10"):
        parse_device(f"table:{table}").latency_ms(tiny((0, 0)), 64, 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.update(schema=2), "schema must be 1. Received: .* with schema 2, of a newer"),
        (lambda value: value.update(kind="study"), "Received: .*table.json, another JSON file"),
        (lambda value: value.pop("scale"), "must be whole. Received: .*table.json, damaged"),
        (lambda value: value.update(ms={}), "must be whole"),
        (lambda value: value["ms"].update(stem="fast"), "must be whole"),
        (lambda value: value["ms"].update(stem=-1), "must be whole"),
    ],
)
def test_other_files_are_refused(table, change, message):
    value = json.loads(table.read_text("utf-8"))
    change(value)
    table.write_text(json.dumps(value), "utf-8")
    with pytest.raises(ValueError, match=message):
        parse_device(f"table:{table}")


def test_no_file_and_no_json(tmp_path):
    with pytest.raises(ValueError, match="A latency table must exist. Received: .*none.json"):
        parse_device(f"table:{tmp_path / 'none.json'}")
    (tmp_path / "garbage").write_bytes(b"\xff\x00")
    with pytest.raises(ValueError, match="is a JSON file of `mnasnet search table`"):
        parse_device(f"table:{tmp_path / 'garbage'}")


def test_a_table_of_this_machine(tmp_path):
    value = build_table(tmp_path / "table.json", space=SPACE, size=96, networks=4, runs=9)
    assert value["ms"].keys() == parts_of_space(SPACE, 96).keys()
    assert min(value["ms"].values()) > 0
    assert value["device"]["kind"] == "host"
    a1 = TableLatency.open(tmp_path / "table.json").latency_ms(A1, 96, 1000)
    measured = next(each["measured_ms"] for each in value["check"]["networks"] if each["network"].startswith("a1"))
    assert a1.latency_ms == pytest.approx(measured, rel=0.5)


OWN = """
from keras_mnasnet.architecture import Architecture
from keras_mnasnet.search.space import Decision, SearchSpace

def build(candidate):
    return Architecture.parse(f"own: stem8 r{candidate[0] + 1}_k3_s22_e3_i8_o16 head32")

def own():
    return SearchSpace("own", (Decision("repeats", tuple(range(1, 9))),), build=build)
"""


def test_command(tmp_path):
    (tmp_path / "own_space.py").write_text(OWN)
    path = tmp_path / "table.json"

    def mnasnet(*arguments):
        options = ["--space", "own_space:own", "--size", 32, "--classes", 10, "--runs", 3, "--check-networks", 4]
        command = [sys.executable, "-m", "keras_mnasnet.cli.main", "search", "table", "-o", path, *options, *arguments]
        paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths})

    done = mnasnet()
    assert done.returncode == 0, done.stderr
    assert "the sum of rows is " in done.stdout
    assert f"Use it with --device table:{path}" in done.stdout
    table = TableLatency.open(path)
    assert table.latency_ms(Architecture.parse("stem8 r5_k3_s22_e3_i8_o16 head32"), 32, 10).latency_ms > 0
    found = json.loads(mnasnet("--json").stdout)
    assert (found["space"], found["ms"].keys()) == ("own", table.rows.keys())
    for wrong, message in (
        (["--device", "pixel1"], "A table is measured on a device"),
        (["--space", "micro"], "The search spaces are"),
        (["--check-networks", 1], "`networks` must be 2 or more"),
    ):
        refused = mnasnet(*wrong)
        assert (refused.returncode, "Traceback" in refused.stderr) == (1, False)
        assert message in refused.stderr
