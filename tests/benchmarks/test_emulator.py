"""The emulated cores: setup, counts, phones fitted to them. What needs the emulator skips where it is not set up."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from keras_mnasnet.benchmarks import calibrate, emulator, latency
from keras_mnasnet.benchmarks.emulator import CORES, Counted, EmulatorMeter, FitRow, PhoneFit, fitted, pixel1
from keras_mnasnet.benchmarks.speed import parse_network
from keras_mnasnet.cli.main import main
from keras_mnasnet.export.file import TfliteFile
from keras_mnasnet.export.partitions import Partitions
from keras_mnasnet.search.latency import DeviceGone, parse_device

ROOT = Path(__file__).parents[2]
TINY = "tiny: stem8 r1_k3_s22_e3_i8_o16_se0.25 head32"
INSTRUCTIONS = {"a1@224": 100_000_000, "a1@192": 80_000_000, "small": 30_000_000}


def script(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture
def installed():
    try:
        return emulator.installed()
    except OSError as error:
        pytest.skip(f"{error} KERAS_MNASNET_EMULATOR names its folder.")


@pytest.fixture
def pretended(monkeypatch):
    """A meter that knows three networks."""

    class Pretended(EmulatorMeter):
        def __init__(self, core):
            self.core = core
            self._installed = {"packages": ["qemu-user_7.deb"], "litert": "2.3.0"}
            self._process = self._place = None

        def count(self, files, *, names, sizes=None, seed=0, progress=False):
            return [Counted(INSTRUCTIONS[name], Partitions(1, {}), ()) for name in names]

    monkeypatch.setattr(emulator, "EmulatorMeter", Pretended)


def rows(*pairs):
    return [FitRow(f"n{number}", ms, round(1e6 * millions)) for number, (millions, ms) in enumerate(pairs)]


def test_a_line_by_hand():
    exact = fitted(rows((10, 23), (20, 43), (40, 83)), phone="p", core="cortex-a76", litert="2")
    assert (exact.ms_per_million, exact.constant_ms) == (2, 3)
    assert exact.percent_off == {"mean": 0, "max": 0, "one_left_out": 0}
    assert exact.ms(5_000_000) == 13
    # x = 1, 2, 3, y = 1, 2, 4: u = 1, 1, 3/4, v = 1, 1/2, 1/4; uu = 41/16, vv = 21/16, uv = 27/16, determinant 33/64
    found = fitted(rows((1, 1), (2, 2), (3, 4)), phone="p", core="cortex-a76", litert="2")
    slope, constant = (2.75 * 21 - 1.75 * 27) / 16 / (33 / 64), (1.75 * 41 - 2.75 * 27) / 16 / (33 / 64)
    assert (found.ms_per_million, found.constant_ms) == pytest.approx((slope, constant), rel=1e-5)
    assert found.percent_off["max"] == pytest.approx(100 * abs((2 * slope + constant) / 2 - 1), abs=0.01)
    # without the first: y = 2 x - 2, 0 at 1; without the second: 1.5 x - 0.5, 2.5 at 2; without the third: x, 3 at 3
    assert found.percent_off["one_left_out"] == pytest.approx((100 + 25 + 25) / 3, abs=0.01)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (((1, 1), (2, 2)), "3 or more measured networks. Received: 2"),
        (((1, 1), (2, -2), (3, 3)), "above 0. Received: n1=-2"),
        (((1, 1), (2, float("nan")), (3, 3)), "above 0. Received: n1=nan"),
        (((2, 1), (2, 2), (2, 3)), "some must be larger than others. Received: n0 1 ms, 2.0 M"),
        (((1, 3), (2, 2), (3, 1)), "must take longer"),
    ],
)
def test_what_sets_no_line(given, message):
    with pytest.raises(ValueError, match=message):
        fitted(rows(*given), phone="p", core="cortex-a76", litert="2")


def test_the_shipped_line_is_the_fit_of_its_counts(capsys, monkeypatch):
    found = script(ROOT / "search/run_fit_emulated.py")
    monkeypatch.setattr(sys, "argv", ["run_fit_emulated.py"])
    assert found.main() == 0, capsys.readouterr().out
    assert len(pixel1().rows) == 26
    monkeypatch.setitem(found.V2_ROWS, 1.3, (12.3,))
    assert found.main() == 1
    assert "error: mean: " in capsys.readouterr().out


def test_a_phone_from_measurements(pretended, tmp_path, capsys):
    file = tmp_path / "phone.json"
    measured = ["a1@224=53", "a1@192=43", "small=18"]  # 0.5 x + 3
    assert main(["bench", "calibrate", *measured, "--phone", "Mine", "--emulated-core", "cortex-a53", "-o", str(file)]) == 0
    assert "ms = 0.5 x million instructions + 3: 0.00 % off" in capsys.readouterr().out
    fit = PhoneFit.open(file)
    assert (fit.phone, fit.core, fit.rows[2]) == ("Mine", "cortex-a53", FitRow("small", 18, 30_000_000))
    assert json.loads(json.dumps(fit.to_json())) == json.loads(file.read_text("utf-8"))

    report = latency(networks=["a1@224", "small"], device=f"emulated:{file}", progress=False)
    assert [(row.instructions, row.estimated_ms, row.typical_ms) for row in report.results] == [
        (100_000_000, 53, 53), (30_000_000, 18, 18)
    ]  # fmt: skip
    assert report.results[1].ratio.value == pytest.approx(18 / 53)
    assert (report.device["phone"]["phone"], report.results[0].wall) == ("Mine", None)

    assert main(["bench", "latency", "--network", "a1@224", "--network", "small", "--device", f"emulated:{file}"]) == 0
    (row,) = (line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("small "))
    assert row[0::2] + row[3:4] == ["small", "30", "0.34", "18"]
    with pytest.raises(ValueError, match="`core` must be one of cortex-a53, .* Received: core='cortex-a9'"):
        calibrate({"a1": 1.0}, core="cortex-a9")
    assert main(["bench", "calibrate", "a1", "-o", str(file)]) == 2
    assert "received 'a1'" in capsys.readouterr().err


def test_a_core_has_no_milliseconds(pretended, capsys):
    report = latency(networks="small", device="emulated:cortex-a76", progress=False)
    assert (report.results[0].estimated_ms, report.ratio_of, report.device["phone"]) == (None, "instructions", None)
    assert main(["bench", "latency", "--network", "small", "--device", "emulated:cortex-a76"]) == 0
    shown = capsys.readouterr().out
    assert "M instructions" in shown
    assert " ms " not in shown.partition("small")[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("emulated:cortex-a9", "must be followed by a core, cortex-a53, .*Received: 'cortex-a9', which is neither"),
        ("emulated:", "must be host, adb"),
    ],
)
def test_what_is_no_emulated_device(text, message):
    with pytest.raises(ValueError, match=message):
        latency(networks="small", device=text, progress=False)
    with pytest.raises(ValueError, match=message):
        parse_device(text)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "latency table"}, {"schema": 9}, {"core": "cortex-a9"}, {"ms_per_million": -1.0}, {"ms_per_million": "1"},
        {"constant_ms": float("inf")}, {"rows": [{"network": 1}]}, {"litert": None},
    ],
)  # fmt: skip
def test_a_file_that_is_no_phone(tmp_path, change):
    file = tmp_path / "phone.json"
    fit = fitted(rows((10, 23), (20, 43), (40, 83)), phone="p", core="cortex-a76", litert="2")
    file.write_text(json.dumps(fit.to_json() | change), "utf-8")
    with pytest.raises(ValueError, match="must be one of `mnasnet bench calibrate`. Received: .*phone.json"):
        parse_device(f"emulated:{file}")


@pytest.mark.parametrize("option", [{"runs": 3}, {"threads": 2}, {"warmup": 0}, {"mask": "f0"}, {"repeats": 2}])
def test_nothing_is_timed(option):
    name, value = next(iter(option.items()))
    with pytest.raises(ValueError, match=f"nothing to time. Received: {name}={value!r}"):
        latency(networks="small", device="emulated", progress=False, **option)


def test_not_set_up(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_MNASNET_EMULATOR", str(tmp_path / "none"))
    assert main(["bench", "latency", "--network", "small@32", "--device", "emulated"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: The emulator must be set up. Received: ")
    assert "`mnasnet bench emulator` sets it up" in error
    with pytest.raises(DeviceGone, match="`mnasnet bench emulator`"):
        parse_device("emulated").latency_ms(parse_network(TINY).architecture, 32, 10)
    search = f"search run --study {tmp_path}/s.study --data shapes:20@32 --size 32 --target-ms 1 --device emulated"
    assert main([*search.split(), "--space-set", "width=0.1"]) == 1
    assert "error: The emulator must be set up" in capsys.readouterr().err.splitlines()[-1]
    (tmp_path / "none").mkdir()
    (tmp_path / "none/emulator.json").write_text('{"schema": 0}', "utf-8")
    with pytest.raises(OSError, match="must be of .*Received: .*'schema': 0"):
        EmulatorMeter("cortex-a76")


def programs(folder, **texts):
    """A PATH with these programs alone."""
    folder.mkdir()
    for name, text in texts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n", "utf-8")
        (folder / name).chmod(0o755)
    return str(folder)


def test_a_machine_that_lacks_something(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_MNASNET_EMULATOR", str(tmp_path / "emulator"))
    monkeypatch.setenv("PATH", programs(tmp_path / "bin", dpkg="echo amd64"))
    with pytest.raises(OSError, match="Received: no apt-get, dpkg-deb, cc"):
        emulator.setup(progress=False)


def test_a_folder_of_somebody_else_stays(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/1.png").touch()
    monkeypatch.setenv("KERAS_MNASNET_EMULATOR", str(tmp_path / "photos"))
    with pytest.raises(OSError, match="must be its own. Received: .*photos, which has other files"):
        emulator.setup(progress=False)
    assert (tmp_path / "photos/1.png").exists()


def test_a_setup_that_fails_leaves_nothing(tmp_path, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setenv("KERAS_MNASNET_EMULATOR", str(home / "emulator"))
    monkeypatch.setattr(emulator, "KEYRING", tmp_path)
    names = {"dpkg": "echo amd64", "dpkg-deb": "exit 0", "cc": "exit 0", "apt-get": "echo no network; exit 100"}
    monkeypatch.setenv("PATH", programs(tmp_path / "bin", **names) + os.pathsep + "/bin")
    with pytest.raises(OSError, match="Received: exit status 100 of apt-get: no network"):
        emulator.setup(progress=False)
    assert [path.name for path in home.iterdir()] == [".emulator.lock"]


# With the emulator


def written(folder, text, **options):
    return parse_network(text).write(folder, **options)[0]


def test_every_precision_counts_the_same_twice_and_gives_this_machines_outputs(installed, tmp_path):
    from keras_mnasnet.benchmarks.host_meter import drawn_values

    half = script(ROOT / "benchmarks/run_arm.py").with_half
    found = {}
    with EmulatorMeter("cortex-a76") as meter:
        for number, precision in enumerate(("float32", "float16", "weight-int8", "int8", "half")):
            file = written(tmp_path, f"small@32:{precision.replace('half', 'float32')}", number=number)
            if precision == "half":
                file.write_bytes(half(file.read_bytes()))
            (first,), (again,) = (meter.count([file], names=[precision]) for _ in range(2))
            assert first.instructions == again.instructions
            found[precision] = first.instructions
            model = TfliteFile(file, threads=1)
            here = model.run(drawn_values(model.inputs[0], np.random.default_rng(0)))[0]
            difference = np.abs(first.outputs[0].astype(float) - here).max()
            assert difference <= {"half": 0.05, "int8": 1 / 256}.get(precision, 1e-5)
            assert (difference > 0) or precision != "half"
    assert found["int8"] < found["half"] < found["float32"] == pytest.approx(found["weight-int8"], abs=200)
    with EmulatorMeter("cortex-a72") as meter:  # without dot products
        old = meter.count([tmp_path / "3-whole.tflite"], names=["int8"])[0].instructions
    assert old > 1.3 * found["int8"]


def test_no_name_of_a_folder_changes_a_count(installed, tmp_path, monkeypatch):
    file = written(tmp_path, f"{TINY}@32:int8")
    with EmulatorMeter("cortex-a76") as meter:
        (there,) = meter.count([file], names=["there"])
    elsewhere = tmp_path / "another, much longer: name/emulator"
    elsewhere.parent.mkdir()
    elsewhere.symlink_to(emulator.place())
    monkeypatch.setenv("KERAS_MNASNET_EMULATOR", str(elsewhere))
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere.parent))
    with EmulatorMeter("cortex-a76") as meter:
        assert list(elsewhere.parent.glob("keras_mnasnet-*")) == []
        (here,) = meter.count([file], names=["here"])
        assert len(list(elsewhere.parent.glob("keras_mnasnet-*"))) == 1
    assert here.instructions == there.instructions
    assert list(elsewhere.parent.iterdir()) == [elsewhere]


def test_a_file_that_fails_or_hangs_and_the_next_one(installed, tmp_path, monkeypatch):
    good, bad = written(tmp_path, f"{TINY}@32"), tmp_path / "bad, 'quoted'.tflite"
    bad.write_bytes(good.read_bytes()[:2000])
    with EmulatorMeter("cortex-a72") as meter:
        with pytest.raises(ValueError, match="one that LiteRT can run. Received: bad"):
            meter.count([bad], names=["bad"])
        before = meter.count([good], names=["good"])[0].instructions
        monkeypatch.setattr(emulator, "SECONDS", 1)
        with pytest.raises(ValueError, match="that LiteRT can run. Received: d1, which took too long"):
            meter.count([parse_network("d1").write(tmp_path, number=1)[0]], names=["d1"])
        monkeypatch.undo()
        assert meter.count([good], names=["good"])[0].instructions == before
        process = meter._process
        os.kill(process._process.pid, signal.SIGSTOP)
        monkeypatch.setattr(emulator, "SECONDS", 1)
        monkeypatch.setattr(emulator, "START_SECONDS", 0)
        with pytest.raises(OSError, match="must not end early"):
            meter.count([good], names=["good"])
        monkeypatch.undo()
        assert meter.count([good], names=["good"])[0].instructions == before
        assert meter._process is not process


def test_the_emulator_ends_with_its_parent(installed, tmp_path):
    file = written(tmp_path, f"{TINY}@32")
    code = (
        f"import os; from keras_mnasnet.benchmarks.emulator import EmulatorMeter; m = EmulatorMeter('cortex-a72'); "
        f"m.count([{str(file)!r}], names=['x']); print(m._process._process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})
    process = Path("/proc", done.stdout.decode().strip())
    ends = time.monotonic() + 20
    while process.exists() and "State:\tZ" not in (process / "status").read_text() and time.monotonic() < ends:
        time.sleep(0.1)
    assert not process.exists() or "State:\tZ" in (process / "status").read_text()


def test_a_search_asks_it(installed):
    model = parse_device("emulated")
    try:
        network = parse_network(TINY).architecture
        answer = model.latency_ms(network, 32, 10)
        assert (answer.source, answer.extrapolated, answer.details["core"]) == ("emulated", False, "cortex-a72")
        assert answer.latency_ms == pixel1().ms(answer.details["instructions"])
        assert model.latency_ms(network, 32, 10) == answer
    finally:
        model.close()


def test_every_core_starts(installed, tmp_path):
    file = written(tmp_path, f"{TINY}@32")
    counts = {}
    for core in CORES:
        with EmulatorMeter(core) as meter:
            counts[core] = meter.count([file], names=["tiny"])[0].instructions
    assert len(set(counts.values())) == len(CORES)
