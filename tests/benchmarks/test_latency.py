"""Latency on this machine: turns, medians, the measuring process, and what it makes of damaged files."""

import dataclasses
import json
import os
import subprocess
import sys
import textwrap

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from keras_mnasnet import MnasNet, save
from keras_mnasnet.benchmarks import host, latency
from keras_mnasnet.benchmarks.host import choose_cores
from keras_mnasnet.benchmarks.speed import parse_target, stages
from keras_mnasnet.benchmarks.timing import Times, quantile, ratio_of_medians, visit_order
from keras_mnasnet.export.file import TfliteFile
from keras_mnasnet.export.graph import random_weights, write_graph
from keras_mnasnet.family import FAMILY
from keras_mnasnet.utils.system import available_cores

HEAVY = "{'keras', 'tensorflow', 'tf_keras', 'jax', 'torch'}"


@pytest.fixture
def tiny(tmp_path, write_tiny):
    return write_tiny(tmp_path / "tiny.tflite")


def custom(path, source, code="Mystery"):
    """The file with its operator replaced by a custom one."""
    model = schema.ModelT.InitFromPackedBuf(source.read_bytes(), 0)
    (operator,) = model.operatorCodes
    operator.builtinCode = operator.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    operator.customCode = code
    model.subgraphs[0].operators[0].builtinOptionsType = 0
    model.subgraphs[0].operators[0].builtinOptions = None
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def test_every_round_begins_with_the_next_model():
    assert [visit_order(3, number) for number in range(4)] == [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]
    assert visit_order(1, 7) == [0]


def test_times_by_hand():
    times = Times.of([0.005, 0.001, 0.003, 0.002, 0.004])
    assert (times.median_ms, times.min_ms, times.mean_ms) == pytest.approx((3, 1, 3))
    assert (times.p10_ms, times.p90_ms) == pytest.approx((1.4, 4.6))
    assert quantile([1.0, 2.0], 0.5) == 1.5
    assert quantile([7.0], 0.9) == 7


def test_ratio_and_its_interval_by_hand():
    """Two rounds give three draws: both of one (1/4 each) or one of each (1/2), so 2.5 % and 97.5 % are the extremes."""
    base, other = [[1.0], [3.0]], [[2.0], [12.0]]
    ratio = ratio_of_medians(other, base, seed=3)
    assert ratio.value == 7 / 2
    assert (ratio.low, ratio.high) == (2, 4)
    assert ratio == ratio_of_medians(other, base, seed=3)
    itself = ratio_of_medians(base, base)
    assert (itself.value, itself.low, itself.high) == (1, 1, 1)
    alone = ratio_of_medians([[2.0, 4.0]], [[1.0, 2.0]])
    assert (alone.value, alone.low, alone.high) == (2, None, None)


def test_noise_that_hits_a_whole_round_cancels():
    """The rounds are paired: a model twice as slow in every round is twice as slow for certain."""
    rng = np.random.default_rng(0)
    base = [[level] * 3 for level in rng.uniform(1, 5, 20)]
    ratio = ratio_of_medians([[2 * value for value in one] for one in base], base)
    assert (ratio.low, ratio.value, ratio.high) == (2, 2, 2)


def test_report(tiny, tmp_path):
    before = set(os.listdir(tmp_path))
    report = latency([tiny, "small@32", "a1-0.35@32:int8"], runs=7, warmup=1, seed=1)
    value = json.loads(json.dumps(report.to_json()))
    assert (value["schema"], value["benchmark"], value["ratio_of"]) == (2, "latency", "cpu medians")
    assert {"keras_mnasnet", "litert", "processor", "cores"} <= set(value["environment"])
    assert {"name", "runtime", "affinity", "affinity_choice", "cores", "load_average"} <= set(value["device"])
    assert {"governor", "clock_mhz", "max_clock_mhz"} <= set(value["device"]["cores"][0])
    settings = value["settings"]
    assert (settings["threads"], settings["rounds"], settings["timed_per_visit"], settings["delegate"]) == (1, 3, 3, "XNNPACK")
    assert settings["start_delay_s"] > 0
    assert value["date"].endswith("+00:00")
    file, named, int8 = value["results"]
    assert (file["model"], file["source"], file["size_bytes"]) == (str(tiny), "file", tiny.stat().st_size)
    assert (named["source"], named["size"], named["precision"]) == ("random weights, written directly", 32, "float32")
    assert named["madds"] == FAMILY["small"].madds(32, 32)
    assert "invented activation ranges" in int8["source"]
    for result in value["results"]:
        assert result["runs"] == 9
        for clock in ("cpu", "wall"):
            times = result[clock]
            assert 0 < times["min_ms"] <= times["p10_ms"] <= times["median_ms"] <= times["p90_ms"]
        assert result["stages"] == []
    assert file["ratio"] == {"value": 1, "low": 1, "high": 1}
    assert named["ratio"]["low"] <= named["ratio"]["value"] <= named["ratio"]["high"]
    assert (named["delegates"], named["outside"]) == (1, [])
    assert int8["outside"] == ["SOFTMAX"]
    assert named["memory_mb"] > 1
    assert set(os.listdir(tmp_path)) == before


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system cannot pin")
def test_pinned_to_one_core(tiny):
    core = min(os.sched_getaffinity(0))
    report = latency([tiny], runs=1, core=core, memory=False)
    assert report.device["affinity"] == [core]
    assert report.device["affinity_choice"] == "as asked"
    assert report.results[0].memory_mb is None
    usable = sorted(os.sched_getaffinity(0))
    assert choose_cores(1)[0] in usable
    assert choose_cores(len(usable)) == tuple(usable)
    assert os.sched_getaffinity(0) == set(usable)


@pytest.mark.skipif(available_cores() < 2, reason="needs two cores")
def test_two_threads(tiny):
    report = latency([tiny], runs=3, threads=2, memory=False)
    assert len(report.device["affinity"]) == 2
    assert report.ratio_of == "wall medians"
    assert "all threads" in report.settings["cpu_clock"]


def test_profile():
    (result,) = latency(["small@32"], runs=24, profile=True, memory=False).results
    assert [stage.stage for stage in result.stages] == ["stem", *(f"block{n}" for n in range(1, 8)), "head", "classifier"]
    assert sum(stage.madds for stage in result.stages) == FAMILY["small"].madds(32, 32)
    assert all(stage.ms > 0 for stage in result.stages)
    assert stages(FAMILY["a1"], 224, 1000)["block2"] == 54_942_720


@pytest.mark.parametrize("precision", ["float32", "int8-random"])
def test_a_graph_ends_where_it_is_told(precision):
    network = FAMILY["small"]
    weights = random_weights(network, classes=10)
    for part, shape in (
        ("stem", (1, 16, 16, 8)),
        ("block3", (1, 4, 4, 16)),
        ("block4a", (1, 2, 2, 32)),
        ("head", (1, 1, 1, 1280)),
    ):
        content = write_graph(network, weights, height=32, width=32, classes=10, precision=precision, until=part)
        interpreter = Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
        interpreter.invoke()
        (output,) = interpreter.get_output_details()
        assert tuple(output["shape"]) == shape
        assert output["dtype"] == (np.float32 if precision == "float32" else np.int8)
    with pytest.raises(ValueError, match="`until` must be stem, a stage, .*Received: until='block8'"):
        write_graph(network, weights, height=32, width=32, classes=10, until="block8")


def test_partitions(data):
    weights = random_weights(FAMILY["small"], classes=10)
    for precision in ("float32", "float16", "weight-int8"):
        content = write_graph(FAMILY["small"], weights, height=32, width=32, classes=10, precision=precision)
        assert TfliteFile(content).partitions().whole
    hosted = TfliteFile(next((data / "coral").glob("*.tflite"))).partitions()
    assert (hosted.delegates, hosted.outside, hosted.whole) == (2, {"AVERAGE_POOL_2D": 1, "SOFTMAX": 1}, False)
    with pytest.raises(ValueError, match="must be one that LiteRT can run. Received: "):
        TfliteFile(content[:1000]).partitions()


def test_a_file_with_an_open_size(tmp_path, write_tiny):
    path = write_tiny(tmp_path / "open.tflite", dynamic=True)
    with pytest.raises(ValueError, match=r"open.tflite: the input \[1, -1, -1, 3\] without a size. Pass size="):
        latency([path], runs=1)
    assert latency([path], runs=1, size=40, memory=False).results[0].size == 40
    fixed = write_tiny(tmp_path / "fixed.tflite")
    with pytest.raises(ValueError, match="size=40 for the fixed input"):
        latency([fixed], runs=1, size=40)


@pytest.mark.parametrize("kept", [8, 20, 300, 0.5, 0.999])
def test_a_truncated_file(tmp_path, tiny, kept):
    path = tmp_path / "cut.tflite"
    content = write_graph(FAMILY["small"], random_weights(FAMILY["small"], classes=10), height=32, width=32, classes=10)
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(ValueError, match="must be one that LiteRT can run. Received: .*cut.tflite"):
        latency([tiny, path], runs=1)


def test_files_that_are_something_else(tmp_path, tiny):
    garbage = tmp_path / "garbage.tflite"
    for content in (b"", b"PK\3\4", b"garbage" * 100):
        garbage.write_bytes(content)
        with pytest.raises(ValueError, match="the mark TFL3 after four bytes. Received: .*garbage.tflite"):
            latency([garbage])
    with pytest.raises(ValueError, match="custom.tflite: .*unresolved custom op: Mystery"):
        latency([tiny, custom(tmp_path / "custom.tflite", tiny)], runs=1)
    with pytest.raises(ValueError, match="must exist. Received: .*none.tflite, which does not exist"):
        latency([tmp_path / "none.tflite"])
    (tmp_path / "folder.tflite").mkdir()
    with pytest.raises(ValueError, match="must exist. Received: .*folder.tflite, a folder"):
        latency([tmp_path / "folder.tflite"])
    with pytest.raises(ValueError, match="folder of a model is a training run's, with model.safetensors. Received: "):
        latency([tmp_path])


@pytest.mark.parametrize(
    ("ending", "error", "message"),
    [
        (
            "os.kill(os.getpid(), signal.SIGSEGV)",
            ValueError,
            "Received: second, which ended the measuring process with SIGSEGV",
        ),
        ("sys.exit('no room')", ChildProcessError, "must not end early. Received: exit status 1: no room"),
    ],
)
def test_a_file_that_ends_the_measuring_process(tmp_path, monkeypatch, ending, error, message):
    (tmp_path / "dying_meter.py").write_text(
        textwrap.dedent(f"""
        import os, signal, sys
        sys.stdin.readline()
        print('{{"event": "load", "index": 0}}')
        print('{{"event": "load", "index": 1}}', flush=True)
        {ending}
        """)
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(host, "METER", "dying_meter")
    with host.HostMeter((), 1, 0) as meter, pytest.raises(error, match=message):
        meter.measure(["a", "b"], names=["first", "second"], runs=1, warmup=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "`threads` must be 1 to .* Received: threads=0"),
        ({"threads": -1}, "Received: threads=-1"),
        ({"threads": 4096}, "Received: threads=4096"),
        ({"threads": True}, "Received: threads=True"),
        ({"runs": 0}, "`runs` must be an integer of 1 or more. Received: runs=0"),
        ({"warmup": -1}, "`warmup` must be an integer of 0 or more"),
        ({"size": 8}, "`size` must be an integer of 32 pixels or more"),
        ({"core": 4096}, "`core` must be one of .* Received: core=4096"),
        ({"device": "usb"}, "`device` must be host, adb, adb:SERIAL, emulated, .* Received: device='usb'"),
        ({"device": "host:1"}, "`device` must be"),
        ({"device": "adb:"}, "`device` must be"),
        ({"mask": "f0"}, "are for device='adb'. Received: mask='f0'"),
        ({"device": "adb", "core": 1}, "are for device='host'. Received: profile=False, core=1"),
    ],
)
def test_wrong_settings(options, message):
    with pytest.raises(ValueError, match=message):
        latency(["small@32"], **options)


def test_wrong_models(tiny):
    with pytest.raises(ValueError, match="one or more models or networks"):
        latency([])
    with pytest.raises(ValueError, match="The networks are a1.*Received: 'b2'"):
        latency(["b2"])
    with pytest.raises(ValueError, match="A precision is one of float32, .*Received: 'int4' in 'a1:int4'"):
        latency(["a1:int4"])
    with pytest.raises(ValueError, match="32 pixels or more. Received: 'a1@16'"):
        latency(["a1@16"])
    with pytest.raises(ValueError, match="Received: 'google/a9', .*Did you mean 'google/"):
        latency(["google/a9"])
    with pytest.raises(ValueError, match="A profile cuts the graphs"):
        latency(["small", tiny], profile=True)


def test_a_model_has_its_own_weights_and_a_network_random_ones(tmp_path, capfd):
    """What is measured of a checkpoint is its file: the scores of the written graph are the model's."""
    (target,) = [parse_target("cifar10", size=32)]
    (path,) = target.write(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.float32)
    runner = Interpreter(model_path=str(path)).get_signature_runner()
    expected = MnasNet(target.architecture, weights=target.checkpoint, input_shape=(32, 32, 3)).predict(image, verbose=0)
    np.testing.assert_allclose(runner(image=image)["scores"], expected, atol=1e-5)
    assert target.checkpoint.classes == 10

    saved = tmp_path / "saved.safetensors"
    save(MnasNet(target.architecture, weights=target.checkpoint, input_shape=(32, 32, 3)), saved)
    report = latency([saved, f"{saved}@40:float16"], networks=["small@32"], runs=1, memory=False)
    rows = [(row.model, row.source, row.size, row.precision) for row in report.results]
    assert rows == [
        (str(saved), "its own weights, written directly", 32, "float32"),
        (f"{saved}@40:float16", "its own weights, written directly", 40, "float16"),
        ("small@32", "random weights, written directly", 32, "float32"),
    ]
    shown = capfd.readouterr().err
    for words in ("models ", "its own weights, written directly, 32 px", "device ", "runtime ", "runs     1 timed of each"):
        assert words in shown
    assert latency(networks="small@32", runs=1, memory=False, progress=False).results[0].model == "small@32"
    assert not capfd.readouterr().err
    with pytest.raises(ValueError, match="a detector: `mnasnet detect export cifar10/a1-0.5-32 -o FILE.tflite` writes"):
        latency(dataclasses.replace(target.checkpoint, detector="a spec"))
    with pytest.raises(ValueError, match="A file or a record is a model: give it as one"):
        latency(networks=[str(saved)])


def test_names():
    for text, name, resolution, precision in (
        ("a1", "a1", 224, "float32"),
        ("d1-320:int8", "d1-320", 320, "int8"),
        ("b1-0.5@160:weight-int8", "b1-0.5", 160, "weight-int8"),
        (f"{FAMILY['small']}@96:float16", "small", 96, "float16"),
    ):
        target = parse_target(text)
        assert (target.architecture.name, target.size, target.precision) == (name, resolution, precision)
    assert parse_target("a1", size=128).size == 128
    assert parse_target("a1@96", size=128).size == 96
    record = parse_target("cifar10/a1-0.5-32:float16")
    assert (record.size, record.classes, record.precision) == (32, 10, "float16")
    assert record.source == "its own weights, written directly"


def test_nothing_heavy_is_loaded(tiny):
    code = (
        "import sys; from keras_mnasnet.benchmarks import latency\n"
        f"latency([{str(tiny)!r}], runs=1); assert not ({HEAVY} | {{'numpy'}}) & set(sys.modules)\n"
        f"latency(['small@32'], runs=1, memory=False); assert not {HEAVY} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    code = (
        "import sys, keras_mnasnet.benchmarks.host_meter\n"
        f"assert not ({HEAVY} | {{'absl', 'keras_mnasnet.weights', 'keras_mnasnet.export.tflite'}}) & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
