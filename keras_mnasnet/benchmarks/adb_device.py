"""One phone through `adb`: choosing it, running commands on it, and what it is."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shlex
import shutil
import subprocess
from typing import Any

__all__ = ["AdbDevice", "Phone", "choose_device", "connect", "mask_of"]

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
EXIT = "keras_mnasnet_exit="
STATE = (
    "for z in /sys/class/thermal/thermal_zone*; do echo zone $(cat $z/type) $(cat $z/temp); done 2>/dev/null; "
    "for c in /sys/devices/system/cpu/cpu[0-9]*; do echo clock ${c##*cpu} $(cat $c/cpufreq/scaling_cur_freq) "
    "$(cat $c/cpufreq/cpuinfo_max_freq) $(cat $c/cpufreq/scaling_governor); done 2>/dev/null; "
    "dumpsys battery 2>/dev/null | grep temperature"
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
        found = re.search(rf"{EXIT}(\d+)\s*\Z", output)
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
        zones = [(kind, int(value)) for kind, value in re.findall(r"^zone (\S+) (-?\d+)\s*$", output, re.MULTILINE)]
        cpu = [value if abs(value) < 1000 else value / 1000 for kind, value in zones if "cpu" in kind.lower()]
        battery = re.search(r"temperature: (-?\d+)", output)
        cores = []
        for line in re.findall(r"^clock (\d+)(.*)$", output, re.MULTILINE):
            words = line[1].split()
            numbers = [int(word) for word in words if word.isdigit()]
            cores.append(
                {
                    "core": int(line[0]),
                    "clock_khz": numbers[0] if len(numbers) > 1 else None,
                    "max_clock_khz": numbers[-1] if numbers else None,
                    "governor": words[-1] if words and not words[-1].isdigit() else None,
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
        if words := line.split():
            devices[words[0]] = (
                "no permissions" if words[1:3] == ["no", "permissions"] else words[1] if words[1:] else "unknown"
            )
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
        return subprocess.run(
            [program, *arguments], capture_output=True, text=True, errors="replace", timeout=timeout, stdin=subprocess.DEVNULL
        )
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
