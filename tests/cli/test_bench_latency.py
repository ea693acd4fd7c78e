"""`mnasnet bench latency`, as a user types it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from keras_mnasnet.export.graph import random_weights, write_graph
from keras_mnasnet.family import FAMILY


@pytest.fixture
def files(tmp_path):
    weights = random_weights(FAMILY["small"], classes=10)
    for precision in ("float32", "int8-random"):
        content = write_graph(FAMILY["small"], weights, height=32, width=32, classes=10, precision=precision)
        (tmp_path / f"{precision}.tflite").write_bytes(content)
    return [str(path) for path in sorted(tmp_path.glob("*.tflite"))]


def test_table(mnasnet, files, tmp_path):
    output = tmp_path / "new" / "latency.json"
    status, out, _ = mnasnet("bench", "latency", *files, "--network", "small@32", "--runs", "6", "--profile", "-o", str(output))
    assert status == 1
    assert not out
    status, out, _ = mnasnet("bench", "latency", *files, "--network", "small@32", "--runs", "6", "-o", str(output))
    assert status == 0
    lines = out.splitlines()
    header = next(line for line in lines if line.startswith("model"))
    assert header.split("  ")[-1].strip() == "parts"
    for word in ("MB", "cpu ms", "p10", "p90", "wall ms", "x first", "memory MB"):
        assert word in header
    assert "1.000..1.000" in out
    assert "2 rounds of 3 timed runs each, in turns; measuring began" in out
    assert "small@32: random weights, written directly, 32 pixels, float32" in out
    assert "outside XNNPACK: SOFTMAX" in out
    assert lines[-1] == f"wrote {output}"
    assert [result["runs"] for result in json.loads(output.read_text("utf-8"))["results"]] == [6, 6, 6]


def test_profile(mnasnet):
    status, out, _ = mnasnet("bench", "latency", "--network", "small@32", "--runs", "3", "--profile", "--no-normalization")
    assert status == 0
    assert "small@32: milliseconds by stage" in out
    assert "classifier" in out
    assert "GMAC/s" in out
    assert "random weights, written directly, 32 pixels, float32, input normalized outside" in out


def test_json_is_one_value(mnasnet, files):
    status, out, _ = mnasnet("bench", "latency", files[0], "--runs", "3", "--json")
    assert status == 0
    assert json.loads(out)["results"][0]["model"] == files[0]


def test_failures_are_one_message_and_status_1(mnasnet, files, tmp_path):
    cut = tmp_path / "cut.tflite"
    cut.write_bytes(Path(files[0]).read_bytes()[:1000])
    for arguments, message in (
        (("none.tflite",), "must exist"),
        ((files[0], str(cut)), "must be one that LiteRT can run. Received: "),
        (("--network", "a9"), "The networks are"),
        ((files[0], "--threads", "0"), "Received: threads=0"),
        (("--network", "a1", "--mask", "f0"), "are for device='adb'"),
    ):
        status, out, err = mnasnet("bench", "latency", *arguments)
        assert (status, out) == (1, "")
        assert err.splitlines()[-1].startswith("error: ")
        assert message in err
    assert mnasnet("bench", "latency")[0] == 2


def test_an_output_that_cannot_be_written_is_told_before_measuring(mnasnet, files, tmp_path, monkeypatch):
    monkeypatch.setattr("keras_mnasnet.benchmarks.speed.latency", None)
    (tmp_path / "file").write_text("x")
    for output, message in ((tmp_path, "which is a folder"), (tmp_path / "file" / "x.json", "folder that allows it")):
        status, out, err = mnasnet("bench", "latency", files[0], "-o", str(output))
        assert (status, out) == (1, "")
        assert message in err


def test_the_report_says_when_measuring_began(files):
    command = [sys.executable, "-m", "keras_mnasnet.cli.main", "bench", "latency", *files, "--runs", "3", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["settings"]["start_delay_s"] > 0.05


def test_loads_nothing_heavy(files):
    code = (
        "import sys; from keras_mnasnet.cli.main import entry_point\n"
        f"sys.argv = ['mnasnet', 'bench', 'latency', {files[0]!r}, '--runs', '3', '--json']\n"
        "try: entry_point()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert not {'tensorflow', 'keras', 'numpy', 'keras_mnasnet.weights.registry'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
