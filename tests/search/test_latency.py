"""Latency models: what a text means, who answers in a chain, this machine and a phone."""

import importlib.util
import os
import signal
from pathlib import Path

import pytest

from keras_mnasnet.architecture import Architecture
from keras_mnasnet.benchmarks.phone import Plan
from keras_mnasnet.family import A1, D1, SMALL
from keras_mnasnet.search import latency as rooms
from keras_mnasnet.search.latency import CannotKnow, ChainLatency, DeviceGone, HostLatency, Latency, parse_device

TINY = Architecture.parse("tiny: stem8 r1_k3_s22_e3_i8_o16_se0.25 head32")

_spec = importlib.util.spec_from_file_location("stand_in_phone", Path(__file__).parents[1] / "benchmarks" / "test_adb.py")
_stand_in = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_stand_in)
phone = _stand_in.phone  # a fixture


@pytest.mark.parametrize(
    ("text", "kind", "name", "measures"),
    [
        ("host", rooms.HostLatency, "host", True),
        ("pixel1", rooms.Pixel1Latency, "pixel1", False),
        ("madds", rooms.MaddsLatency, "madds", False),
        ("adb", rooms.PhoneLatency, "adb", True),
        ("adb:HT69A0", rooms.PhoneLatency, "adb:HT69A0", True),
        ("pixel1,madds", rooms.ChainLatency, "pixel1,madds", False),
        ("emulated", rooms.EmulatedLatency, "emulated", True),
        ("emulated:cortex-a76,madds", rooms.ChainLatency, "emulated:cortex-a76,madds", True),
        ("adb:10.0.0.2:5555,pixel1", rooms.ChainLatency, "adb:10.0.0.2:5555,pixel1", True),
    ],
)
def test_what_a_text_means(text, kind, name, measures):
    model = parse_device(text)
    assert (type(model), model.name, model.measures) == (kind, name, measures)
    model.close()


@pytest.mark.parametrize("text", ["", "usb", "adb:", "host:1", "table:", "pixel2", "host,", "pixel1,usb", None])
def test_what_is_no_device(text):
    with pytest.raises(ValueError, match="A device must be host, adb, adb:SERIAL, emulated, .*, table:FILE"):
        parse_device(text)


def test_arithmetic_models():
    assert parse_device("madds").latency_ms(A1, 224, 1000) == Latency(A1.madds() / 1e6, "madds")
    answer = parse_device("pixel1").latency_ms(A1, 224, 1000)
    assert answer.latency_ms == pytest.approx(81.2, abs=0.05)
    assert not answer.extrapolated
    odd = parse_device("pixel1").latency_ms(D1, 224, 1000)
    assert odd.extrapolated
    assert "stage 5: kernel 7" in odd.details["unlike_fitted"][0]


class Unsure:
    name, measures = "unsure", False

    def __init__(self):
        self.closed = False

    def latency_ms(self, architecture, resolution, classes):
        if architecture.name != "tiny":
            raise CannotKnow("not tiny")
        return Latency(1.0, self.name)

    def close(self):
        self.closed = True


def test_the_next_link_answers_only_where_one_cannot_know():
    unsure = Unsure()
    chain = ChainLatency((unsure, parse_device("madds")))
    assert chain.latency_ms(TINY, 32, 10) == Latency(1.0, "unsure")
    answer = chain.latency_ms(SMALL, 32, 10)
    assert (answer.source, answer.details) == ("madds", {"could_not_know": {"unsure": "not tiny"}})
    with pytest.raises(CannotKnow, match="not tiny"):
        ChainLatency((unsure, unsure)).latency_ms(SMALL, 32, 10)
    chain.close()
    assert unsure.closed


def test_host_times_a_network_from_architecture_to_median():
    model = HostLatency()
    try:
        model.latency_ms(TINY, 32, 10)  # the process starts
        answer = model.latency_ms(A1, 224, 1000)
        assert answer.details["runs"] == 60
        assert 0 < answer.details["min_ms"] <= answer.latency_ms <= answer.details["p90_ms"]
        with pytest.raises(ValueError, match="A .tflite file must be one that LiteRT can run. Received: empty"):
            model.latency_ms(Architecture.parse("empty: stem8 r1_k3_s22_e3_i8_o16 head32"), 0, 10)
        assert model.latency_ms(TINY, 32, 10).latency_ms < answer.latency_ms
    finally:
        model.close()


def test_a_measuring_process_that_ends_is_a_device_gone_and_is_replaced(monkeypatch):
    model = HostLatency(runs=3)
    try:
        model.latency_ms(TINY, 32, 10)
        child = model._meter._child._process
        real = model._meter.measure

        def killed(*arguments, **options):
            os.kill(child.pid, signal.SIGKILL)
            monkeypatch.setattr(model._meter._child, "do", lambda *_: model._meter._child._died("", None))
            return real(*arguments, **options)

        monkeypatch.setattr(type(model._meter._child), "ended", property(lambda self: False))
        monkeypatch.setattr(model._meter, "measure", killed)
        with pytest.raises(DeviceGone, match="The measuring process must not end early"):
            model.latency_ms(TINY, 32, 10)
        monkeypatch.undo()
        assert model.latency_ms(TINY, 32, 10).latency_ms > 0
        assert model._meter._child._process.pid != child.pid
    finally:
        model.close()


def test_phone_keeps_the_tool_between_networks(phone, tmp_path):
    model = parse_device("adb", benchmark_model=_stand_in.elf(tmp_path / "android_aarch64_benchmark_model", 183))
    answers = [model.latency_ms(TINY, 32, 10) for _ in range(2)]
    assert [answer.latency_ms for answer in answers] == [78.1005] * 2
    assert (answers[0].source, answers[0].details["phone"], answers[0].details["temperature_c"]) == (
        "adb",
        "Google Pixel",
        43.5,
    )
    model.close()
    asked = (phone / "log").read_text()
    assert asked.count("/benchmark_model\n") == asked.count("chmod") == 1
    assert asked.count("--graph=0.tflite") == 2
    assert "rm -rf /data/local/tmp/keras_mnasnet-" in asked.splitlines()[-1]


def test_a_phone_that_vanishes(phone, tmp_path):
    model = parse_device("adb:HT69A0", benchmark_model=_stand_in.elf(tmp_path / "android_aarch64_benchmark_model", 183))
    model.latency_ms(TINY, 32, 10)
    (phone / "gone").touch()
    with pytest.raises(DeviceGone, match="The phone must stay connected"):
        model.latency_ms(TINY, 32, 10)
    (phone / "gone").unlink()
    assert model.latency_ms(TINY, 32, 10).latency_ms == 78.1005
    model.close()
    (phone / "devices").write_text("List of devices attached\n\n")
    with pytest.raises(DeviceGone, match="HT69A0 must be connected"):
        model.latency_ms(TINY, 32, 10)


def test_a_tool_that_fails_on_a_network_is_not_a_device_gone(phone, tmp_path):
    (phone / "exit").write_text("1")
    model = parse_device("adb", benchmark_model=_stand_in.elf(tmp_path / "android_aarch64_benchmark_model", 183))
    with pytest.raises(OSError, match="must run on the phone") as error:
        model.latency_ms(TINY, 32, 10)
    assert not isinstance(error.value, DeviceGone)
    model.close()


def test_no_phone_without_the_tool(phone):
    with pytest.raises(ValueError, match="A phone needs the official tool"):
        parse_device("adb").latency_ms(TINY, 32, 10)
    assert isinstance(Plan("x", 1, None, None, None, None, 1), Plan)
