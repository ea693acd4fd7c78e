"""Latency on a phone: the phone itself through `adb`, TensorFlow Lite's official `benchmark_model`, and measuring with both."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import re
import shlex
import shutil
import statistics
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging

from keras_mnasnet.benchmarks.timing import Times, visit_order
from keras_mnasnet.utils.reading import LIMITS, run_bounded
from keras_mnasnet.utils.text import Life, listed

RUNS, WARMUP, MIN_SECONDS = 50, 1, 1.0
RUN_SECONDS = 400.0  # the tool itself stops a warm-up and a measurement after 150 s each
MOST_RUNS = 10**9
FOLDER = "/data/local/tmp"
SWEEP = f"find {FOLDER} -maxdepth 1 -name 'keras_mnasnet-*' -mtime +0 -exec rm -rf {{}} +"  # a day old: of killed processes
CLOCK = "wall time of the official tool"

SHELL_SECONDS, PUSH_SECONDS = 30.0, 300.0
WAYS_OUT = {
    "unauthorized": "unlock the phone and accept the question 'Allow USB debugging?', then try again",
    "authorizing": "unlock the phone and accept the question 'Allow USB debugging?', then try again",
    "offline": "reconnect the cable, or run `adb kill-server` and `adb start-server`",
    "connecting": "wait a moment and try again",
    "no permissions": "add a udev rule for the phone and this user to the group plugdev, then reconnect it",
    "recovery": "start Android on the phone",
    "sideload": "start Android on the phone",
    "bootloader": "start Android on the phone",
}
LOST = re.compile(
    r"device (?:'[^']*' )?not found|no devices/emulators found|device offline|device still|unauthorized|protocol fault|"
    r"error: closed|connection reset|cannot connect to daemon|insufficient permissions",
    re.IGNORECASE,
)
STATES = "|".join((*WAYS_OUT, "device", "host", "rescue", "detached"))
DEVICE = re.compile(  # a serial may have spaces: `adb-13e75597-Abc123 (2)._adb-tls-connect._tcp`
    rf"(\S.*?)\s+(?:(no permissions)\b.*|({STATES})(?:\s+(?:\w+:\S*|\d+(?:-[\d.]+)+))*)"
)
LONGEST_LINE = 1_000  # of `adb devices -l`
EXIT = "keras_mnasnet_exit="
STATE = (
    "for z in /sys/class/thermal/thermal_zone*; do echo zone $(cat $z/type) $(cat $z/temp); done 2>/dev/null; "
    "for c in /sys/devices/system/cpu/cpu[0-9]*; do echo clock ${c##*cpu} $(cat $c/cpufreq/scaling_cur_freq) "
    "$(cat $c/cpufreq/cpuinfo_max_freq) $(cat $c/cpufreq/scaling_governor); done 2>/dev/null; "
    "dumpsys battery 2>/dev/null | grep temperature"
)

# ABI: (machine of the ELF header, names that builds of the tool and folders go by)
ABIS = {
    "arm64-v8a": (183, ("aarch64", "arm64", "arm64-v8a")),
    "armeabi-v7a": (40, ("arm", "armv7", "armeabi-v7a")),
    "x86_64": (62, ("x86_64",)),
    "x86": (3, ("x86",)),
}
TOOL = "benchmark_model"
WHERE = "https://www.tensorflow.org/lite/performance/measurement lists builds, such as android_aarch64_benchmark_model"

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
COUNT = re.compile(rf"\bcount=(\d{{1,18}})((?:[ \t]+\w+={NUMBER})+)")
FIELD = re.compile(rf"(\w+)=({NUMBER})")
TIMINGS = re.compile(
    rf"Inference timings in us: Init: ({NUMBER}), First inference: ({NUMBER}), "
    rf"Warmup \(avg\): ({NUMBER}), Inference \(avg\): ({NUMBER})"
)
MEMORY = re.compile(rf"Memory footprint delta from the start of the tool \(MB\): init=({NUMBER}) overall=({NUMBER})")
APPLIED = re.compile(
    r"(\w+) delegate(?:, and| is explicitly applied,) the model graph will (not be|be completely|be partially) executed by the "
    r"delegate(?: w/ (\d{1,9}) delegate kernels)?"
)
REPLACED = re.compile(r"Replacing (\d{1,9}) out of (\d{1,9}) node\(s\) with delegate \(TfLite(\w+)\) node")
UNSUPPORTED = re.compile(r"operations are not supported by GPU delegate:(.{0,20000}?)operations will run on the GPU", re.DOTALL)
UNSUPPORTED_OPERATOR = re.compile(r"^(?:.*tflite[^:]*: )?(?:ERROR: )?[ \t]*((?:CUSTOM )?[A-Z]\w{1,80}):", re.MULTILINE)
ACCELERATORS = re.compile(r"NNAPI accelerators available: \[([^\]\n]{1,500})\]")
TITLES = {"xnnpack": "XNNPACK", "gpu": "GPU", "nnapi": "NNAPI"}  # what the tool calls its delegates


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """How to measure: see `speed.latency`."""

    serial: str | None
    threads: int
    runs: int | None
    warmup: int | None
    mask: str | None
    benchmark_model: str | os.PathLike[str] | None
    repeats: int
    delegate: str = "xnnpack"


@dataclasses.dataclass(frozen=True, slots=True)
class PhoneSamples:
    """The tool's runs `[model][repeat]`, on what and how."""

    runs: list[list[ToolRun]]
    device: dict[str, Any]
    settings: dict[str, Any]


class PhoneMeter:
    """A phone with the official tool on it, until `close` removes it; OSError where the phone cannot be used."""

    def __init__(self, plan: Plan) -> None:
        _check(plan)
        self.plan = plan
        self._device = connect(plan.serial)
        self._phone = self._device.phone()
        self._binary, self._abi = find_binary(plan.benchmark_model, self._phone.abis)
        self._mask, self._choice = _mask(plan, self._phone)
        self._folder = f"{FOLDER}/keras_mnasnet-{uuid.uuid4().hex[:12]}"
        try:
            self._device.shell(SWEEP)
            self._device.checked(f"mkdir {self._folder}")
            self._device.push(self._binary, f"{self._folder}/benchmark_model")
            self._device.checked(f"chmod 755 {self._folder}/benchmark_model")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> PhoneMeter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def measure(self, files: Sequence[Path], *, names: Sequence[str], progress: bool = False) -> PhoneSamples:
        """Push `files` and run the tool on each in turns."""
        for index, file in enumerate(files):
            self._device.push(file, f"{self._folder}/{index}.tflite")
        before = self._device.state()
        runs: list[list[ToolRun]] = [[] for _ in names]
        with Life("measure", total=self.plan.repeats * len(names), unit="run", shown=progress) as life:
            for repeat in range(self.plan.repeats):
                for index in visit_order(len(names), repeat):
                    runs[index].append(_run(self._device, self._folder, self.plan, self._mask, f"{index}.tflite", names[index]))
                    life.step()
        after = self._device.state()
        return PhoneSamples(runs, {**self.facts, "before": before, "after": after}, self.settings)

    @property
    def facts(self) -> dict[str, Any]:
        """The phone, the tool on it, and the cores it runs on."""
        phone = self._phone
        return {
            "kind": "adb", "name": phone.model, "system": f"Android {phone.android}",
            "runtime": f"benchmark_model ({self._binary.name})", "soc": phone.soc, "abi": self._abi, "affinity": self._mask,
            "affinity_choice": self._choice,
        }  # fmt: skip

    @property
    def settings(self) -> dict[str, Any]:
        """How it measures."""
        plan = self.plan
        return {
            "device": "adb", "threads": plan.threads, "runs": _or(plan.runs, RUNS), "warmup": _or(plan.warmup, WARMUP),
            "min_seconds": MIN_SECONDS, "repeats": plan.repeats, "delegate": title_of(plan.delegate), "clock": CLOCK,
        }  # fmt: skip

    def close(self) -> None:
        """Remove everything from the phone again."""
        if not self._device.remove(self._folder):
            logging.warning(
                "The phone is away: remove %s from it once it is back (adb shell rm -r %s)", self._folder, self._folder
            )


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def title_of(delegate: str) -> str:
    """`xnnpack`, `gpu`, `nnapi` or `nnapi:ACCELERATOR` as it is shown; ValueError for any other."""
    name, colon, accelerator = delegate.partition(":")
    if name not in TITLES or (colon and (name != "nnapi" or not re.fullmatch(r"[\w.,-]{1,200}", accelerator))):
        raise ValueError(
            f"`delegate` must be xnnpack, gpu, nnapi or nnapi:ACCELERATOR, an accelerator's name as the phone has it. "
            f"Received: delegate={delegate!r}"
        )
    return f"NNAPI ({accelerator})" if accelerator else TITLES[name]


def _flags(delegate: str) -> str:
    """The tool's options for a delegate; what it leaves is run as LiteRT runs it by default."""
    name, _, accelerator = delegate.partition(":")
    return f"--use_{name}=true" + (f" --nnapi_accelerator_name={shlex.quote(accelerator)}" if accelerator else "")


def _check(plan: Plan) -> None:
    title_of(plan.delegate)
    if isinstance(plan.threads, bool) or not isinstance(plan.threads, int) or not 1 <= plan.threads <= 64:
        raise ValueError(f"`threads` must be 1 to 64. Received: threads={plan.threads!r}")
    if plan.mask is not None:
        digits = plan.mask.lower().removeprefix("0x")
        if not digits or not set(digits) <= set("0123456789abcdef") or not int(digits, 16):
            raise ValueError(
                f"`mask` must be a hexadecimal number above 0, such as f0 for cores 4 to 7. Received: mask={plan.mask!r}"
            )


def _mask(plan: Plan, phone: Phone) -> tuple[str | None, str]:
    """The mask for taskset, and how it was chosen."""
    if plan.mask is not None:
        if not phone.has_taskset:
            raise ValueError(
                f"`mask` needs taskset on the phone. Received: mask={plan.mask!r}, and {phone.model} has no taskset"
            )
        return plan.mask.lower().removeprefix("0x"), "as asked"
    mask = mask_of(phone.fastest, plan.threads)
    if mask is None or not phone.has_taskset:
        return None, f"not pinned: the phone {'has no taskset' if mask else 'does not tell the clocks of its cores'}"
    return mask, "the cores with the highest clock"


def _run(device: AdbDevice, folder: str, plan: Plan, mask: str | None, file: str, name: str) -> ToolRun:
    command = (
        f"cd {folder} && {f'taskset {mask} ' if mask else ''}./benchmark_model --graph={file} --num_threads={plan.threads} "
        f"{_flags(plan.delegate)} --warmup_runs={_or(plan.warmup, WARMUP)} --num_runs={_or(plan.runs, RUNS)} "
        f"--min_secs={MIN_SECONDS:g}"
    )
    status, output = device.shell(command, timeout=RUN_SECONDS)
    if status:
        last = " | ".join(line.strip() for line in output.strip().splitlines()[-3:])
        there = ACCELERATORS.search(output)
        raise OSError(
            f"benchmark_model must run on the phone. Received: exit status {status} for {name}: {last or 'nothing said'}. "
            f"Check that the tool is built for the phone, and that the mask names cores it has"
            + ("" if plan.delegate == "xnnpack" else f", or take another delegate than {title_of(plan.delegate)}")
            + (f"; the phone's accelerators are {there[1]}" if there else "")
        )
    try:
        return parse_output(output, plan.delegate)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def typical(run: ToolRun) -> float:
    """The median in milliseconds; of builds that print none, the average."""
    return run.mean_ms if run.median_ms is None else run.median_ms


def pooled(runs: Sequence[ToolRun]) -> Times:
    """The medians over the repeats of what each run printed, the least of their minima, the mean of all invocations."""

    def middle(values: list[float | None]) -> float | None:
        found = [value for value in values if value is not None]
        return statistics.median(found) if len(found) == len(runs) else None

    count = sum(run.count for run in runs)
    return Times(
        median_ms=middle([run.median_ms for run in runs]),
        min_ms=min(run.min_ms for run in runs),
        mean_ms=math.fsum(run.mean_ms * run.count for run in runs) / count,
        p5_ms=middle([run.p5_ms for run in runs]),
        p95_ms=middle([run.p95_ms for run in runs]),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Phone:
    """What a phone is; `fastest` maps each core to its highest clock in kHz, and is empty where that cannot be read."""

    model: str
    android: str
    abis: tuple[str, ...]
    soc: str
    fastest: dict[int, int]
    has_taskset: bool


class AdbDevice:
    """Commands on one phone. OSError where it cannot be reached, TimeoutError where it does not answer."""

    def __init__(self, serial: str) -> None:
        self.serial = serial

    def adb(self, *arguments: str, timeout: float = SHELL_SECONDS) -> str:
        """Run adb for this phone and give its output; OSError with what adb says where it fails."""
        done = _adb("-s", self.serial, *arguments, timeout=timeout)
        if done.returncode:
            said = (done.stderr + done.stdout).strip()[-300:] or "nothing said"
            lost = _lost_line(done.stderr if arguments[0] == "shell" else said)
            if lost or arguments[0] == "shell":
                raise self._lost(lost or f"exit status {done.returncode} in the middle", arguments[0])
            raise OSError(f"adb {arguments[0]} must succeed. Received: exit status {done.returncode}: {said}")
        return done.stdout.replace("\r\n", "\n")

    @staticmethod
    def _lost(how: str, verb: str) -> ConnectionError:
        return ConnectionError(
            f"The phone must stay connected. Received: {how} (adb {verb}). Check the cable and `adb devices`, and start again"
        )

    def shell(self, command: str, *, timeout: float = SHELL_SECONDS) -> tuple[int, str]:
        """(exit status, output and errors together) of a command on the phone; old phones do not pass the status on."""
        output = self.adb("shell", f"( {command} ) 2>&1; echo {EXIT}$?", timeout=timeout)
        found = re.search(rf"{EXIT}(\d{{1,9}})\s*\Z", output)
        if found is None:
            raise self._lost(f"an output that ends early, after {output.strip()[-120:]!r}", "shell")
        return int(found[1]), output[: found.start()]

    def checked(self, command: str, *, timeout: float = SHELL_SECONDS) -> str:
        """The output of a command that must succeed."""
        status, output = self.shell(command, timeout=timeout)
        if status:
            raise OSError(
                f"A command on the phone must succeed. Received: exit status {status} of `{command}`: "
                f"{output.strip()[-300:] or 'nothing said'}"
            )
        return output

    def push(self, source: os.PathLike[str], target: str) -> None:
        """Copy a file to the phone."""
        self.adb("push", os.fspath(source), target, timeout=PUSH_SECONDS)

    def phone(self) -> Phone:
        """Model, Android version, ABIs, SoC and clocks."""
        properties = dict(re.findall(r"^\[([^\]]+)\]: \[(.*?)\]\s*$", self.adb("shell", "getprop"), re.MULTILINE))

        def first(*names: str) -> str:
            return next((properties[name] for name in names if properties.get(name)), "unknown")

        abi = first("ro.product.cpu.abi")
        if abi == "unknown":
            raise OSError(
                f"The phone must say its ABI (getprop ro.product.cpu.abi). Received: {len(properties)} properties without it"
            )
        listed = properties.get("ro.product.cpu.abilist", "").split(",")
        clocks = self.state()["cores"]
        return Phone(
            model=f"{first('ro.product.manufacturer')} {first('ro.product.model')}",
            android=first("ro.build.version.release"),
            abis=tuple(dict.fromkeys([abi, *filter(None, listed)])),
            soc=first("ro.soc.model", "ro.board.platform", "ro.hardware"),
            fastest={each["core"]: each["max_clock_khz"] for each in clocks if each["max_clock_khz"]},
            has_taskset=self.shell("command -v taskset")[0] == 0,
        )

    def state(self) -> dict[str, Any]:
        """Temperature (°C, of the warmest CPU zone, else of the battery) and clock of every core; None where unreadable."""
        output = self.shell(STATE)[1]
        zones = [(kind, int(value)) for kind, value in re.findall(r"^zone (\S+) (-?\d{1,9})\s*$", output, re.MULTILINE)]
        cpu = [value if abs(value) < 1000 else value / 1000 for kind, value in zones if "cpu" in kind.lower()]
        battery = re.search(r"temperature: (-?\d{1,9})(?!\d)", output)
        cores: list[dict[str, Any]] = []
        for line in re.findall(r"^clock (\d{1,9})(?!\d)(.*)$", output, re.MULTILINE):
            if int(line[0]) >= LIMITS["cores"].most or len(cores) >= LIMITS["cores"].most:
                continue
            words = line[1].split()
            numbers = [int(word) for word in words if word.isdecimal() and len(word) <= 18]
            cores.append(
                {
                    "core": int(line[0]),
                    "clock_khz": numbers[0] if len(numbers) > 1 else None,
                    "max_clock_khz": numbers[-1] if numbers else None,
                    "governor": words[-1][:80] if words and not words[-1].isdecimal() else None,
                }
            )
        return {
            "temperature_c": max(cpu) if cpu else int(battery[1]) / 10 if battery else None,
            "temperature_of": "cpu" if cpu else "battery" if battery else None,
            "cores": cores,
        }

    def remove(self, folder: str) -> bool:
        """Remove a folder, also of a phone that comes back within seconds; False where it could not be done."""
        for wait in (False, True):
            with contextlib.suppress(OSError):
                if wait:
                    self.adb("wait-for-device", timeout=10.0)
                self.checked(f"rm -rf {shlex.quote(folder)}")
                return True
        return False


def connect(serial: str | None = None) -> AdbDevice:
    """The phone of that serial, of ANDROID_SERIAL, or the only one."""
    done = _adb("devices", "-l", timeout=SHELL_SECONDS)
    if done.returncode:
        said = (done.stderr + done.stdout).strip()[-300:] or "nothing said"
        raise OSError(f"`adb devices` must succeed. Received: exit status {done.returncode}: {said}")
    return AdbDevice(choose_device(done.stdout, serial or os.environ.get("ANDROID_SERIAL") or None))


def choose_device(listing: str, serial: str | None) -> str:
    """The serial to use, from what `adb devices -l` prints; OSError says what keeps a phone from being used."""
    devices: dict[str, str] = {}
    for line in listing.partition("List of devices attached")[2].splitlines():
        if found := DEVICE.fullmatch(line[:LONGEST_LINE].strip()):
            devices[found[1]] = found[2] or found[3]
        elif words := line.split():
            devices[words[0]] = words[1] if words[1:] else "unknown"
    shown = ", ".join(f"{name} ({state})" for name, state in devices.items()) or "none"
    if serial is not None:
        if serial not in devices:
            raise OSError(f"The phone {serial} must be connected. Received: {shown} (adb devices -l)")
        candidates = {serial: devices[serial]}
    else:
        candidates = devices
    ready = [name for name, state in candidates.items() if state == "device"]
    if len(ready) > 1:
        raise OSError(f"One phone must be named: adb:SERIAL, or ANDROID_SERIAL in the environment. Received: {shown}")
    if ready:
        return ready[0]
    if not candidates:
        raise OSError(
            "A phone must be connected, with USB debugging switched on (Settings, Developer options). "
            "Received: no device (adb devices -l)"
        )
    ways = "; ".join(f"{name} is {state}: {WAYS_OUT.get(state, 'reconnect it')}" for name, state in candidates.items())
    raise OSError(f"A phone must be ready for adb. Received: {ways}")


def mask_of(fastest: dict[int, int], threads: int) -> str | None:
    """The hexadecimal mask of the cores with the highest clock, and of the next ones while they are fewer than threads."""
    chosen: set[int] = set()
    for clock in sorted(set(fastest.values()), reverse=True):
        if len(chosen) >= threads:
            break
        chosen |= {core for core, highest in fastest.items() if highest == clock}
    return f"{sum(1 << core for core in chosen):x}" if chosen else None


def _adb(*arguments: str, timeout: float) -> subprocess.CompletedProcess[str]:
    program = shutil.which("adb")
    if program is None:
        raise FileNotFoundError(
            "adb must be installed and in PATH. Received: no adb. Install Debian's package adb, or Android's platform-tools"
        )
    try:
        return run_bounded([program, *arguments], "adb", timeout=timeout)
    except subprocess.TimeoutExpired as error:
        verb = arguments[2] if arguments[0] == "-s" else arguments[0]
        raise TimeoutError(
            f"The phone must answer within {timeout:g} s. Received: nothing (adb {verb}). Reconnect it, or run "
            f"`adb kill-server`"
        ) from error
    except OSError as error:
        raise OSError(
            f"adb must be a program that this machine can run. Received: {program} ({error.strerror or error}). Install "
            f"Debian's package adb, or Android's platform-tools for this machine, and put it first in PATH"
        ) from error


def _lost_line(text: str) -> str | None:
    return next((line.strip() for line in text.splitlines() if LOST.search(line)), None)


@dataclasses.dataclass(frozen=True, slots=True)
class ToolRun:
    """One run of the tool, in milliseconds; median, p5 and p95 are None from builds that do not print them.

    `delegates` counts the parts of the graph that the delegate runs, `outside` are the operators that it leaves (None: not
    known).
    """

    count: int
    min_ms: float
    mean_ms: float
    median_ms: float | None
    p5_ms: float | None
    p95_ms: float | None
    init_ms: float
    first_ms: float
    memory_mb: float | None
    delegates: int | None
    outside: tuple[str, ...] | None


def parse_output(text: str, delegate: str = "xnnpack") -> ToolRun:
    """Read the tool's output, with or without `INFO: ` or logcat prefixes; microseconds, which may have exponents.

    The tool prints a line of statistics after the warm-up and one after the measurement: the last counts, of a single run it
    holds no more than `curr`. ValueError where the measurement is missing, and where another delegate than XNNPACK did not run
    any of the graph: the figures are then not its own.
    """
    timings, counted = TIMINGS.search(text), COUNT.findall(text)
    if timings is None or len(counted) < 2:
        lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
        raise ValueError(
            f"benchmark_model must print two lines 'count=...' and 'Inference timings in us: ...'. Received: "
            f"{len(counted)} and {'one' if timings else 'none'}; its last lines: {' | '.join(lines[-3:]) or 'nothing at all'}"
        )
    count, fields = counted[-1]
    values = {key: float(value) / 1e3 for key, value in FIELD.findall(fields)}
    init, first, _, mean = (float(value) / 1e3 for value in timings.groups())
    figures = (*values.values(), init, first, mean)
    if not 1 <= int(count) <= MOST_RUNS or not all(math.isfinite(figure) and figure >= 0 for figure in figures):
        raise ValueError(
            f"benchmark_model must have run at least once, in times of 0 or more. Received: count={int(count):,}, "
            f"{', '.join(f'{figure:g}' for figure in figures[-3:])} ms"
        )
    only = values.get("curr", mean) if int(count) == 1 else None
    memory = MEMORY.search(text)
    delegates, outside = _delegated(text, delegate)
    return ToolRun(
        count=int(count),
        min_ms=values.get("min", mean if only is None else only),
        mean_ms=mean,
        median_ms=values.get("median", only),
        p5_ms=values.get("p5"),
        p95_ms=values.get("p95"),
        init_ms=init,
        first_ms=first,
        memory_mb=float(memory[2]) if memory else None,
        delegates=delegates,
        outside=outside,
    )


def _delegated(text: str, delegate: str) -> tuple[int | None, tuple[str, ...] | None]:
    """Of a ToolRun, by what the tool says of this delegate."""
    name = delegate.partition(":")[0]
    said = next((found for found in APPLIED.finditer(text) if found[1] == TITLES[name]), None)
    if name != "xnnpack" and (said is None or said[2] == "not be"):
        refused, there = _unsupported(text), ACCELERATORS.search(text)
        raise ValueError(
            f"The {title_of(delegate)} delegate must run the graph, or a part of it. Received: a tool that "
            f"{'does not say that it applied it' if said is None else 'could apply it to nothing'}"
            f"{f'; not supported: {listed(refused)}' if refused else ''}"
            f"{f'; the accelerators are {there[1]}' if there else ''}. The figures would be the CPU's: take a build of "
            f"the tool and a phone with this delegate, or another one (--delegate)"
        )
    if said is None:
        return None, None
    if said[2] == "be completely":
        return 1, ()
    counts = next((found for found in REPLACED.finditer(text) if found[3].lower().startswith(name)), None)
    outside = _unsupported(text) if name == "gpu" else ()
    if not outside and counts is not None:
        outside = (f"{int(counts[2]) - int(counts[1])} operators that the tool does not name",)
    return int(said[3] or 0), outside or None


def _unsupported(text: str) -> tuple[str, ...]:
    """The kinds of operators that the tool says the GPU delegate does not take."""
    found = UNSUPPORTED.search(text)
    return tuple(dict.fromkeys(UNSUPPORTED_OPERATOR.findall(found[1]))) if found else ()


def find_binary(path: str | os.PathLike[str] | None, abis: Sequence[str]) -> tuple[Path, str]:
    """The tool and its ABI: a file, or the first of `abis` (the phone's, best first) that a folder has one for."""
    if path is None:
        raise ValueError(f"A phone needs the official tool: benchmark_model= (--benchmark-model). Received: none. {WHERE}")
    place = Path(path).expanduser()
    if not place.exists():
        raise ValueError(f"`benchmark_model` must be a file, or a folder with one for each ABI. Received: {place}, not there")
    known = [abi for abi in abis if abi in ABIS]
    for abi in known:
        machine, titles = ABIS[abi]
        for candidate in [place] if place.is_file() else _candidates(place, titles):
            if candidate.is_file() and _machine(candidate) == machine:
                return candidate, abi
    if place.is_file():
        machine_of = _machine(place)
        built = next((abi for abi, (machine, _) in ABIS.items() if machine == machine_of), None)
        kind = (
            f"one for {built}" if built else "no executable for Android" if machine_of is None else "one for another processor"
        )
        raise ValueError(
            f"`benchmark_model` must be built for the phone's ABI, {' or '.join(abis)}. Received: {place}, {kind}. {WHERE}"
        )
    held = ", ".join(sorted(each.name for each in place.iterdir())[:8]) or "nothing"
    raise ValueError(
        f"The folder must have benchmark_model for the phone's ABI, {' or '.join(abis)}, named such as "
        f"android_aarch64_{TOOL} or arm64-v8a/{TOOL}. Received: {place}, which has {held}. {WHERE}"
    )


def _candidates(folder: Path, titles: Sequence[str]) -> list[Path]:
    named = [folder / f"{prefix}{title}_{TOOL}" for title in titles for prefix in ("android_", "")]
    nested = [folder / f"{prefix}{title}" / TOOL for title in titles for prefix in ("", "android_")]
    return [*named, *nested, folder / TOOL]


def _machine(path: Path) -> int | None:
    """The machine of an ELF file's header; None for any other file."""
    with path.open("rb") as file:
        header = file.read(20)
    if len(header) < 20 or header[:4] != b"\x7fELF":
        return None
    return int.from_bytes(header[18:20], "little" if header[5] == 1 else "big")
