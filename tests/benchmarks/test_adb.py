"""Latency on a phone: a stand-in `adb` that replays what phones and the official tool print, and the real client."""

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from keras_mnasnet.benchmarks import latency
from keras_mnasnet.benchmarks.phone import FOLDER, SWEEP, AdbDevice, choose_device, connect, find_binary, mask_of, parse_output
from keras_mnasnet.cli.bench import print_latency

# A phone in a folder: `devices`, `getprop`, `state` and `output` are what it prints; `exit` is the tool's exit status,
# `dies` the number of the run of the tool at which it goes away, to be waited for if it `returns`; `refuse` a command that it
# refuses with `refusal`; `log` what it was asked.
ADB = r"""#!/bin/sh
here="$STAND_IN"
echo "$*" >> "$here/log"
if [ "$1" = devices ]; then cat "$here/devices"; exit 0; fi
serial="$2"; shift 2
if [ "$1" = wait-for-device ] && [ -e "$here/returns" ]; then rm "$here/gone"; exit 0; fi
if [ -e "$here/gone" ]; then echo "adb: device '$serial' not found" >&2; exit 1; fi
if [ -e "$here/hangs" ]; then exec sleep 20; fi
all="$*"
if [ -e "$here/refuse" ]; then
  case "$all" in *"$(cat "$here/refuse")"*)
    if [ "$1" = shell ]; then cat "$here/refusal"; echo keras_mnasnet_exit=1; exit 0; fi
    cat "$here/refusal" >&2; exit 1;;
  esac
fi
case "$all" in
  push*) [ -f "$2" ] && cp "$2" "$here/pushed-$(basename "$3")" && echo "$2: 1 file pushed" ;;
  wait-for-device*) ;;
  "shell getprop") cat "$here/getprop" ;;
  *"command -v taskset"*) cat "$here/taskset" ;;
  *thermal_zone*) cat "$here/state"; echo keras_mnasnet_exit=0 ;;
  *--graph=*)
    echo x >> "$here/runs"
    if [ "$(wc -l < "$here/runs")" = "$(cat "$here/dies" 2>/dev/null)" ]; then
      touch "$here/gone"; head -c 300 "$here/output"; exit 255
    fi
    cat "$here/output"; echo "keras_mnasnet_exit=$(cat "$here/exit")" ;;
  *) echo keras_mnasnet_exit=0 ;;
esac
"""
GETPROP = """[ro.build.version.release]: [8.1.0]
[ro.product.cpu.abi]: [arm64-v8a]
[ro.product.cpu.abilist]: [arm64-v8a,armeabi-v7a,armeabi]
[ro.product.manufacturer]: [Google]
[ro.product.model]: [Pixel]
[ro.board.platform]: [msm8996]
"""
STATE = """zone battery 29000
zone cpu0 41000
zone cpu-1-1 43500
clock 0 1593600 1593600 interactive
clock 1 307200 1593600 interactive
clock 2 2150400 2150400 interactive
clock 3 2150400 2150400 interactive
  temperature: 291
"""
OUTPUT = """INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Num threads: [1]
INFO: Graph: [0.tflite]
INFO: #threads used for CPU inference: [1]
INFO: Use xnnpack: [1]
INFO: Loaded model 0.tflite
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
INFO: Explicitly applied XNNPACK delegate, and the model graph will be completely executed by the delegate.
INFO: The input model file size (MB): 15.5068
INFO: Initialized session in 31.685ms.
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
INFO: count=6 first=98535 curr=80210 min=79800 max=98535 avg=83465.3 std=6900 p5=79800 median=80210 p95=98535

INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: count=50 first=79901 curr=78020 min=77112 max=84410 avg=78455.7 std=1301 p5=77200 median=78100.5 p95=80900

INFO: Inference timings in us: Init: 31685, First inference: 98535, Warmup (avg): 83465.3, Inference (avg): 78455.7
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE.
INFO: Memory footprint delta from the start of the tool (MB): init=34.2539 overall=36.8008
"""
OLD_OUTPUT = """STARTING!
Initialized session in 458.883ms.
Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
count=1 curr=1041765
Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
count=50 first=977738 curr=964908 min=911877 max=1.112273e+06 avg=971535 std=39112
Inference timings in us: Init: 6418, First inference: 1041765, Warmup (avg): 1.04176e+06, Inference (avg): 971535
"""


@pytest.fixture
def phone(tmp_path, monkeypatch):
    """The stand-in's folder, with `adb` first in PATH."""
    folder = tmp_path / "phone"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "adb").write_text(ADB)
    (folder / "bin" / "adb").chmod(0o755)
    for name, content in {
        "devices": "List of devices attached\nHT69A0  device usb:1-4 product:sailfish model:Pixel device:sailfish\n\n",
        "getprop": GETPROP, "state": STATE, "output": OUTPUT, "exit": "0",
        "taskset": "/system/bin/taskset\nkeras_mnasnet_exit=0\n",
    }.items():  # fmt: skip
        (folder / name).write_text(content)
    monkeypatch.setenv("STAND_IN", str(folder))
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    return folder


def elf(path: Path, machine: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00" + machine.to_bytes(2, "little") + bytes(44))
    return path


@pytest.fixture
def tool(tmp_path):
    return elf(tmp_path / "android_aarch64_benchmark_model", 183)


@pytest.fixture
def tiny(tmp_path, write_tiny):
    return write_tiny(tmp_path / "tiny.tflite")


def log(phone: Path) -> str:
    return (phone / "log").read_text()


def assert_cleaned(phone: Path) -> None:
    (made,) = set(re.findall(r"mkdir (\S+)", log(phone)))
    assert made.startswith("/data/local/tmp/keras_mnasnet-")
    assert f"rm -rf {made} " in log(phone).splitlines()[-1]


def test_report(phone, tool, tiny):
    report = latency([tiny, "small@32"], device="adb", benchmark_model=tool)
    value = json.loads(json.dumps(report.to_json()))
    assert (value["schema"], value["benchmark"], value["ratio_of"]) == (2, "latency", "wall medians")
    device = value["device"]
    assert (device["name"], device["system"], device["soc"], device["abi"]) == (
        "Google Pixel",
        "Android 8.1.0",
        "msm8996",
        "arm64-v8a",
    )
    assert (device["affinity"], device["affinity_choice"]) == ("c", "the cores with the highest clock")
    for moment in ("before", "after"):
        assert (device[moment]["temperature_c"], device[moment]["temperature_of"]) == (43.5, "cpu")
        assert device[moment]["cores"][2]["clock_khz"] == 2150400
    assert "HT69A0" not in json.dumps(value)
    assert (value["settings"]["runs"], value["settings"]["warmup"], value["settings"]["repeats"]) == (50, 1, 3)
    file, named = value["results"]
    assert (file["model"], named["source"]) == (str(tiny), "random weights, written directly")
    assert file["cpu"] is None
    wall = file["wall"]
    assert (wall["median_ms"], wall["min_ms"], wall["mean_ms"]) == pytest.approx((78.1005, 77.112, 78.4557))
    assert (wall["p5_ms"], wall["p95_ms"], wall["p10_ms"]) == (77.2, 80.9, None)
    assert (file["runs"], file["delegates"], file["outside"], file["memory_mb"]) == (150, 1, [], 36.8008)
    assert named["ratio"] == {"value": 1, "low": 1, "high": 1}
    asked = re.findall(r"cd (\S+) && (taskset \w+ )\./benchmark_model --graph=(\d)\.tflite (.*?) \)", log(phone))
    assert [number for _, _, number, _ in asked] == ["0", "1", "1", "0", "0", "1"]
    assert {mask for _, mask, _, _ in asked} == {"taskset c "}
    assert {options for *_, options in asked} == {
        "--num_threads=1 --use_xnnpack=true --warmup_runs=1 --num_runs=50 --min_secs=1"
    }
    assert (phone / "pushed-benchmark_model").read_bytes() == tool.read_bytes()
    assert (phone / "pushed-0.tflite").read_bytes() == tiny.read_bytes()
    assert f"chmod 755 {asked[0][0]}/benchmark_model" in log(phone)
    assert_cleaned(phone)


def test_settings_reach_the_tool(phone, tool, tiny):
    report = latency([tiny], device="adb:HT69A0", benchmark_model=tool, mask="0xF", threads=2, runs=10, warmup=0, repeats=2)
    assert report.settings["repeats"] == 2
    assert report.device["affinity_choice"] == "as asked"
    assert "taskset f ./benchmark_model --graph=0.tflite --num_threads=2 " in log(phone)
    assert "--warmup_runs=0 --num_runs=10" in log(phone)
    assert log(phone).count("--graph") == 2
    assert "-s HT69A0 push" in log(phone)


def test_an_older_tool_has_no_medians(phone, tool, tiny):
    (phone / "output").write_text(OLD_OUTPUT)
    report = latency([tiny], device="adb", benchmark_model=tool)
    (result,) = report.results
    assert report.ratio_of == "wall averages"
    assert (result.wall.median_ms, result.wall.mean_ms, result.wall.min_ms) == (None, 971.535, 911.877)
    assert (result.delegates, result.outside, result.memory_mb) == (None, None, None)
    assert (result.ratio.value, result.ratio.low) == (1, None)


def test_parse_output():
    run = parse_output(OUTPUT)
    assert (run.count, run.median_ms, run.init_ms, run.first_ms) == (50, 78.1005, 31.685, 98.535)
    logcat = re.sub(r"^INFO: ", "07-08 15:33:55.768 I/tflite  ( 5395): ", OUTPUT, flags=re.MULTILINE)
    assert parse_output(logcat) == run
    assert parse_output(OUTPUT.replace("\n", "\r\n")) == run
    one = re.sub(r"count=50 .*", "count=1 curr=2.65389e+06", OUTPUT).replace("(avg): 78455.7", "(avg): 2.65389e+06")
    one = parse_output(one)
    assert (one.count, one.median_ms, one.min_ms, one.mean_ms) == (1, 2653.89, 2653.89, 2653.89)
    parts = OUTPUT.replace("completely executed by the delegate.", "partially executed by the delegate w/ 23 delegate kernels.")
    assert (parse_output(parts).delegates, parse_output(parts).outside) == (23, None)
    counts_plain_parts_too = "Replacing 1036 out of 1097 node(s) with delegate (X) node, yielding 7 partitions for subgraph 0."
    assert parse_output(f"{counts_plain_parts_too}\n{OLD_OUTPUT}").delegates is None


@pytest.mark.parametrize("kept", [0, 400, 1000, OUTPUT.index("INFO: Inference timings")])
def test_an_output_that_ends_early(kept):
    with pytest.raises(ValueError, match="must print two lines 'count=...' and 'Inference timings"):
        parse_output(OUTPUT[:kept])


def test_an_empty_output(phone, tool, tiny):
    (phone / "output").write_text("")
    with pytest.raises(ValueError, match="tiny.tflite: benchmark_model must print .* nothing at all"):
        latency([tiny], device="adb", benchmark_model=tool)
    assert_cleaned(phone)


@pytest.mark.parametrize("run", [1, 2, 4])
def test_a_phone_that_goes_away(phone, tool, tiny, run, caplog):
    (phone / "dies").write_text(str(run))
    with pytest.raises(ConnectionError, match="The phone must stay connected. Received: exit status 255 in the middle"):
        latency([tiny, tiny], device="adb", benchmark_model=tool)
    cleaning, waiting = log(phone).splitlines()[-2:]
    assert "rm -rf /data/local/tmp/keras_mnasnet-" in cleaning
    assert waiting == "-s HT69A0 wait-for-device"
    assert "The phone is away: remove /data/local/tmp/keras_mnasnet-" in caplog.text


def test_a_phone_that_comes_back_is_cleaned(phone, tool, tiny, caplog):
    (phone / "dies").write_text("1")
    (phone / "returns").write_text("")
    with pytest.raises(ConnectionError):
        latency([tiny], device="adb", benchmark_model=tool)
    assert_cleaned(phone)
    assert not caplog.text


def test_a_phone_that_is_away_before_the_push(phone, tool, tiny):
    (phone / "refuse").write_text("push")
    (phone / "refusal").write_text("adb: error: failed to get feature set: device 'HT69A0' not found\n")
    with pytest.raises(ConnectionError, match="device 'HT69A0' not found .adb push."):
        latency([tiny], device="adb", benchmark_model=tool)
    assert_cleaned(phone)


def test_a_connection_that_ends_without_a_word(phone, tool, tiny):
    (phone / "bin" / "adb").write_text(ADB.replace('echo "keras_mnasnet_exit=$(cat "$here/exit")"', "true"))
    with pytest.raises(ConnectionError, match="an output that ends early, after .*overall=36.8008"):
        latency([tiny], device="adb", benchmark_model=tool)


@pytest.mark.parametrize(
    ("command", "refusal", "message"),
    [
        ("mkdir", "mkdir: '/data/local/tmp/x': Permission denied", "exit status 1 of `mkdir .*Permission denied"),
        ("push", "adb: error: failed to copy: remote couldn't create file: Permission denied", "adb push must succeed.*denied"),
        ("push", "adb: error: failed to copy: remote write failed: No space left on device", "No space left"),
        ("chmod 755", "chmod: Operation not permitted", "exit status 1 of `chmod 755"),
        ("--graph", "/system/bin/sh: ./benchmark_model: can't execute: Permission denied", "must run on the phone.*execute"),
        ("--graph", "taskset: failed to set affinity: Invalid argument", "the mask names cores it has"),
    ],
)
def test_refused_commands(phone, tool, tiny, command, refusal, message):
    (phone / "refuse").write_text(command)
    (phone / "refusal").write_text(refusal + "\n")
    with pytest.raises(OSError, match=message):
        latency([tiny], device="adb", benchmark_model=tool)
    assert_cleaned(phone)


def test_cleaning_that_is_refused_is_told(phone, tool, tiny, caplog):
    (phone / "refuse").write_text("rm -rf")
    (phone / "refusal").write_text("rm: Permission denied\n")
    latency([tiny], device="adb", benchmark_model=tool)
    assert "remove /data/local/tmp/keras_mnasnet-" in caplog.text


def test_folders_of_killed_measurements_are_swept_after_a_day(tmp_path):
    for name, age in (("keras_mnasnet-old", 2 * 86_400), ("keras_mnasnet-new", 60), ("other", 2 * 86_400)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "benchmark_model").touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    subprocess.run(["sh", "-c", SWEEP.replace(FOLDER, str(tmp_path))], check=True)
    assert {path.name for path in tmp_path.iterdir()} == {"keras_mnasnet-new", "other"}


def test_a_phone_that_does_not_answer(phone):
    (phone / "hangs").write_text("")
    with pytest.raises(TimeoutError, match=r"must answer within 0.3 s. Received: nothing \(adb shell\)"):
        AdbDevice("HT69A0").adb("shell", "getprop", timeout=0.3)


HEADER = "* daemon started successfully\nList of devices attached\n"


@pytest.mark.parametrize(
    ("listing", "serial", "message"),
    [
        ("", None, "with USB debugging switched on .* Received: no device"),
        ("A unauthorized usb:1-4", None, "A is unauthorized: unlock the phone and accept"),
        ("A offline usb:1-4", None, "A is offline: reconnect the cable"),
        ("A no permissions (user in plugdev group; are your udev rules wrong?); see [x] usb:1-4", None, "udev rule"),
        ("A device usb:1-4\nB device usb:1-5", None, r"One phone must be named: adb:SERIAL, .*A \(device\), B \(device\)"),
        ("A device\nB offline", "B", "B is offline"),
        ("A device", "C", r"The phone C must be connected. Received: A \(device\)"),
    ],
)
def test_phones_that_cannot_be_used(listing, serial, message):
    with pytest.raises(OSError, match=message):
        choose_device(HEADER + listing + "\n", serial)


SPACED = "adb-13e75597-Abc123 (2)._adb-tls-connect._tcp"


@pytest.mark.parametrize("serial", [SPACED, "my device (2)", "a device", "device", "HT69A0", "[fe80::1%wlan0]:5555", "  x  y "])
@pytest.mark.parametrize("gap", [" ", "\t", "      "])
@pytest.mark.parametrize("rest", ["", " usb:1-4 product:a model:b device:c transport_id:3", "  1-4.2 product:x"])
def test_serials_with_spaces(serial, gap, rest):
    serial = serial.strip()
    line = f"{serial}{gap}device{rest}"
    assert choose_device(f"{HEADER}{line}\n\n", None) == serial
    assert choose_device(f"{HEADER}B\tunauthorized\n{line}\n", serial) == serial
    for state in ("offline", "recovery", "sideload", "no permissions (missing udev rules?); see [http://a/b]"):
        with pytest.raises(OSError, match=f"{re.escape(serial)} is {state.partition(' (')[0]}: "):
            choose_device(f"{HEADER}{serial}{gap}{state}{rest}\n", None)


def test_a_serial_with_spaces_is_one_argument(phone, tool, tiny):
    (phone / "devices").write_text(f"{HEADER}{SPACED} device product:x\n")
    (phone / "bin" / "adb").write_text(ADB.replace('serial="$2"', 'serial="$2"; echo "<$serial>" >> "$here/serials"'))
    for device in ("adb", f"adb:{SPACED}"):
        latency([tiny], device=device, benchmark_model=tool)
    assert set((phone / "serials").read_text().splitlines()) == {f"<{SPACED}>"}


def test_the_phone_that_is_used(phone, tool, tiny, monkeypatch):
    two = f"{HEADER}A               device usb:1-4 model:Pixel\n192.168.0.7:5555 device product:x\nC unauthorized\n\n"
    assert choose_device(two, "192.168.0.7:5555") == "192.168.0.7:5555"
    assert choose_device(f"{HEADER}A device\nB unauthorized\n", None) == "A"
    (phone / "devices").write_text(two)
    with pytest.raises(OSError, match="One phone must be named"):
        latency([tiny], device="adb", benchmark_model=tool)
    monkeypatch.setenv("ANDROID_SERIAL", "192.168.0.7:5555")
    latency([tiny], device="adb", benchmark_model=tool)
    assert "-s 192.168.0.7:5555 push" in log(phone)


def test_the_mask():
    assert mask_of({0: 1800, 1: 1800, 2: 2400, 3: 2400, 4: 3000}, 1) == "10"
    assert mask_of({0: 1800, 1: 1800, 2: 2400, 3: 2400, 4: 3000}, 2) == "1c"
    assert mask_of({}, 1) is None


@pytest.mark.parametrize("mask", ["", "0", "big", "-1"])
def test_wrong_masks(phone, tool, tiny, mask):
    with pytest.raises(ValueError, match="`mask` must be a hexadecimal number above 0"):
        latency([tiny], device="adb", benchmark_model=tool, mask=mask)


def test_a_phone_that_cannot_pin(phone, tool, tiny):
    (phone / "state").write_text("zone battery cat: Permission denied\nclock 0 cat: Permission denied\n  temperature: 291\n")
    report = latency([tiny], device="adb", benchmark_model=tool)
    assert report.device["affinity"] is None
    assert report.device["affinity_choice"] == "not pinned: the phone does not tell the clocks of its cores"
    assert (report.device["before"]["temperature_c"], report.device["before"]["temperature_of"]) == (29.1, "battery")
    assert "&& ./benchmark_model" in log(phone)
    (phone / "state").write_text(STATE)
    (phone / "taskset").write_text("keras_mnasnet_exit=127\n")
    report = latency([tiny], device="adb", benchmark_model=tool)
    assert report.device["affinity_choice"] == "not pinned: the phone has no taskset"
    with pytest.raises(ValueError, match="needs taskset on the phone"):
        latency([tiny], device="adb", benchmark_model=tool, mask="f0")


def test_a_phone_that_does_not_say_its_abi(phone, tool, tiny):
    (phone / "getprop").write_text("")
    with pytest.raises(OSError, match="must say its ABI .* Received: 0 properties"):
        latency([tiny], device="adb", benchmark_model=tool)


def test_the_tool_for_the_abi(tmp_path):
    arm = ("arm64-v8a", "armeabi-v7a")
    folder = tmp_path / "tools"
    old = elf(folder / "android_arm_benchmark_model", 40)
    assert find_binary(folder, arm) == (old, "armeabi-v7a")
    new = elf(folder / "android_aarch64_benchmark_model", 183)
    assert find_binary(folder, arm) == (new, "arm64-v8a")
    assert find_binary(old, arm) == (old, "armeabi-v7a")
    nested = elf(tmp_path / "abis" / "x86_64" / "benchmark_model", 62)
    assert find_binary(tmp_path / "abis", ("x86_64", "x86")) == (nested, "x86_64")
    script = tmp_path / "benchmark_model"
    script.write_text("#!/bin/sh\n")
    for path, abis, message in (
        (None, arm, "A phone needs the official tool: benchmark_model= .*Received: none"),
        (tmp_path / "none", arm, "Received: .*none, not there"),
        (new, ("armeabi-v7a",), "must be built for the phone's ABI, armeabi-v7a. Received: .*, one for arm64-v8a"),
        (script, arm, "no executable for Android"),
        (elf(tmp_path / "riscv", 243), arm, "one for another processor"),
        (folder, ("x86_64",), "must have benchmark_model for the phone's ABI, x86_64.* which has android_aarch64_"),
    ):
        with pytest.raises(ValueError, match=message):
            find_binary(path, abis)


def test_wrong_threads(phone, tool, tiny):
    for threads in (0, -1):
        with pytest.raises(ValueError, match=f"`threads` must be 1 to 64. Received: threads={threads}"):
            latency([tiny], device="adb", benchmark_model=tool, threads=threads)


def test_a_file_keeps_its_size_on_a_phone(phone, tool, tiny):
    with pytest.raises(ValueError, match="On a phone `size` is for networks and checkpoints"):
        latency([tiny], device="adb", benchmark_model=tool, size=64)


def test_without_adb(tiny, tool, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError, match="adb must be installed and in PATH"):
        latency([tiny], device="adb", benchmark_model=tool)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"#!/bin/sh\nexit 1\n", "`adb devices` must succeed. Received: exit status 1: nothing said"),
        (b"\x00\x01\x02", r"must be a program that this machine can run. Received: .*/adb \(Exec format error\)"),
        (b"#!/no/such/shell\n", r"must be a program that this machine can run. Received: .*/adb \(No such file"),
    ],
)
def test_an_adb_that_is_none(tmp_path, monkeypatch, content, message):
    (tmp_path / "adb").write_bytes(content)
    (tmp_path / "adb").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match=message):
        connect()


@pytest.mark.skipif(shutil.which("adb") is None, reason="adb is not installed (Debian's package adb)")
def test_the_real_adb_without_a_phone(tiny, tool, tmp_path, monkeypatch):
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "5137")
    listed = subprocess.run(["adb", "devices"], capture_output=True, text=True, check=True, timeout=60).stdout
    try:
        if listed.strip() != "List of devices attached":
            pytest.skip("a phone is connected")
        with pytest.raises(OSError, match="A phone must be connected, with USB debugging"):
            latency([tiny], device="adb", benchmark_model=tool)
        with pytest.raises(OSError, match="The phone X1 must be connected. Received: none"):
            latency([tiny], device="adb:X1", benchmark_model=tool)
        with pytest.raises(ConnectionError, match="must stay connected. Received: .*device 'X1' not found .adb shell."):
            AdbDevice("X1").shell("true")
        with pytest.raises(ConnectionError, match="not found .adb push."):
            AdbDevice("X1").push(tiny, "/data/local/tmp/x")
    finally:
        subprocess.run(["adb", "kill-server"], check=False, timeout=60)


@pytest.mark.skipif("KERAS_MNASNET_CASES" not in os.environ, reason="KERAS_MNASNET_CASES is not set")
def test_a_listing_that_once_failed():
    listing = Path(os.environ["KERAS_MNASNET_CASES"], "32_adb_serial_with_a_space", "adb_devices.txt").read_text("utf-8")
    assert choose_device(listing, None) == "adb-13e75597-Abc123 (2)._adb-tls-connect._tcp"


GPU = OUTPUT.replace("Use xnnpack", "Use gpu").replace("Lite XNNPACK delegate for CPU", "Lite delegate for GPU")
WHOLE_GPU = GPU.replace("applied XNNPACK", "applied GPU")
PART = "partially executed by the delegate w/ 2 delegate kernels."
REFUSED = """ERROR: Following operations are not supported by GPU delegate:
CUSTOM TFLite_Detection_PostProcess: Operation is not supported.
MEAN: Only supported with constant axes.

98 operations will run on the GPU, and the remaining 2 operations will run on the CPU.
"""
PARTLY_GPU = WHOLE_GPU.replace("completely executed by the delegate.", PART).replace("INFO: Expl", f"{REFUSED}INFO: Expl")
NO_GPU = GPU.replace("Explicitly applied XNNPACK delegate, and the", "Though GPU delegate is explicitly applied, the").replace(
    "be completely executed", "not be executed"
)
PARTLY_NNAPI = (
    WHOLE_GPU.replace("applied GPU", "applied NNAPI")
    .replace("completely executed by the delegate.", PART)
    .replace(
        "INFO: Explicitly",
        "NNAPI accelerators available: [eden-drv,nnapi-reference]\nINFO: Replacing 90 out of 100 node(s) with delegate "
        "(TfLiteNnapiDelegate) node, yielding 3 partitions for the whole graph.\nINFO: Explicitly",
    )
)


@pytest.mark.parametrize(
    ("delegate", "output", "flags", "title", "parts", "outside"),
    [
        ("gpu", WHOLE_GPU, "--use_gpu=true", "GPU", 1, ()),
        ("gpu", PARTLY_GPU, "--use_gpu=true", "GPU", 2, ("CUSTOM TFLite_Detection_PostProcess", "MEAN")),
        (
            "nnapi:eden-drv", PARTLY_NNAPI, "--use_nnapi=true --nnapi_accelerator_name=eden-drv", "NNAPI (eden-drv)", 2,
            ("10 operators that the tool does not name",),
        ),
    ],
)  # fmt: skip
def test_other_delegates(phone, tool, tiny, capsys, delegate, output, flags, title, parts, outside):
    (phone / "output").write_text(output)
    report = latency([tiny], device="adb", benchmark_model=tool, delegate=delegate, progress=False)
    assert f"--num_threads=1 {flags} --warmup_runs" in log(phone)
    assert "xnnpack" not in log(phone)
    assert report.settings["delegate"] == title
    assert (report.results[0].delegates, report.results[0].outside) == (parts, outside)
    logcat = re.sub(r"^(?=\w)", "05-31 10:38:42.607 22206 22206 E tflite  : ", output, flags=re.MULTILINE)
    assert parse_output(logcat, delegate) == parse_output(output, delegate)
    print_latency(report)
    shown = capsys.readouterr().out
    assert f"parts: of the graph, run by {title}" in shown
    assert not outside or f"outside {title}: {', '.join(outside)}" in shown


@pytest.mark.parametrize(
    ("delegate", "output", "message"),
    [
        ("gpu", NO_GPU, "The GPU delegate must run the graph, .*could apply it to nothing. The figures would be the CPU's"),
        ("gpu", OUTPUT, "does not say that it applied it"),
        ("gpu", REFUSED + NO_GPU, "not supported: CUSTOM TFL.*, MEAN"),
        ("nnapi:npu", "NNAPI accelerators available: [eden-drv]\n" + OUTPUT, "NNAPI .npu. .*; the accelerators are eden-drv"),
        ("hexagon", OUTPUT, "`delegate` must be xnnpack, gpu, nnapi or nnapi:ACC.*Received: delegate='hexagon'"),
        ("gpu:1", OUTPUT, "Received: delegate='gpu:1'"),
        ("nnapi:$(reboot)", OUTPUT, "an accelerator's name as the phone has it"),
    ],
)
def test_delegates_that_do_not_run(phone, tool, tiny, delegate, output, message):
    (phone / "output").write_text(output)
    with pytest.raises(ValueError, match=message):
        latency([tiny], device="adb", benchmark_model=tool, delegate=delegate, progress=False)


def test_a_tool_that_fails_with_a_delegate(phone, tool, tiny):
    (phone / "output").write_text("NNAPI accelerators available: [eden-drv]\nERROR: Failed to apply NNAPI delegate.\n")
    (phone / "exit").write_text("1")
    with pytest.raises(OSError, match=r"another delegate than NNAPI \(npu\); the phone's accelerators are eden-drv"):
        latency([tiny], device="adb", benchmark_model=tool, delegate="nnapi:npu", progress=False)


def test_a_delegate_is_a_phones(tiny):
    with pytest.raises(ValueError, match="other than xnnpack is for device='adb', a phone. Received: delegate='gpu'"):
        latency([tiny], delegate="gpu")
