"""A phone without a phone: instructions of `.tflite` files on an emulated ARM core, and milliseconds from them.

QEMU's user emulator runs Debian's Python with the aarch64 LiteRT of this machine's version; a small plugin (emulator.c) counts
the instructions of one inference. A count is the same under any load and on every machine: zeroing memory takes more or fewer
instructions by where it lies, so the emulated process finds the same names, lengths and free memory everywhere (`_command`).
Instructions are not cycles: milliseconds are a straight line through networks that were measured on a phone (`PhoneFit`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from keras_mnasnet.benchmarks.host import ROOT, MeterProcess
from keras_mnasnet.benchmarks.host_meter import COUNT, OUTPUTS
from keras_mnasnet.export.partitions import Partitions
from keras_mnasnet.utils.files import TEMPORARY, write_file
from keras_mnasnet.utils.reading import fields_of, read_json, shown
from keras_mnasnet.utils.system import machine
from keras_mnasnet.utils.text import Life, header
from keras_mnasnet.weights.fetch import cache_home

SCHEMA = 1
SETUP = 2  # the layout of the emulator's folder
SUITE, PYTHON = "bookworm", "3.11"  # Debian 12 and its Python: everything that runs is the same everywhere
MIRROR, KEYRING = "http://deb.debian.org/debian", Path("/usr/share/keyrings/debian-archive-keyring.gpg")
NEEDED = ("apt-get", "dpkg", "dpkg-deb", "cc")
WHEELS = ("numpy", "lazy_loader")
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
STEP_SECONDS = 600  # of a command of the setup
SECONDS, START_SECONDS = 1800, 120  # that one file, and the start of the emulated Python, may take at most
NAME, WORK, RECORD = "file.tflite", "work", "emulator.json"
FIT_KIND = "phone by instructions"
FEWEST_ROWS = 3  # two set a line, and one more checks it
MEMORY = "0x4000000000"  # bytes of addresses that are kept for the emulated process, or what the host has there moves its own
# Of the wheels first, and of this package last: what else lies beside it is for another processor. A fork compiles what has
# changed since the setup: a process that compiles a module has other memory than one that reads its bytecode.
BOOT = """
import os, sys
child = os.fork()
if not child:
    import compileall
    compileall.compile_dir("/package/keras_mnasnet", quiet=2)
    os._exit(0)
os.waitpid(child, 0)
sys.path[:0] = ["/site"]
sys.path += ["/package"]
from keras_mnasnet.benchmarks.host_meter import serve_counts
sys.exit(serve_counts())
"""

ARMV8 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
ARMV8_2 = f"{ARMV8} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"


@dataclasses.dataclass(frozen=True, slots=True)
class Core:
    """An emulated core: QEMU's name for it, and its /proc/cpuinfo, by which XNNPACK chooses kernels."""

    cpu: str
    part: str
    features: str
    text: str


CORES = {
    "cortex-a53": Core("cortex-a53", "0xd03", ARMV8, "ARMv8.0 in order: small cores, and cheap phones"),
    "cortex-a72": Core("cortex-a72", "0xd08", ARMV8, "ARMv8.0: a Pixel 1's time"),
    "cortex-a76": Core("cortex-a76", "0xd0b", ARMV8_2, "ARMv8.2 with half precision and dot products: phones since 2018"),
    "armv8.6": Core(
        "max,sve=off,sme=off", "0xd48", f"{ARMV8_2} jscvt fcma asimdfhm i8mm bf16",
        "ARMv8.6 with 8-bit matrix products and no SVE: no one core, but phones since 2021 have them",
    ),
}  # fmt: skip
PIXEL1 = "cortex-a72"


# Setting it up


def place() -> Path:
    """The emulator's folder: $KERAS_MNASNET_EMULATOR, or `emulator` in the cache."""
    return Path(os.environ.get("KERAS_MNASNET_EMULATOR") or cache_home() / "emulator").expanduser().absolute()


def installed(folder: Path | None = None) -> dict[str, Any]:
    """What is set up; OSError, with the command that sets it up, where it is not or is of another version."""
    folder, wanted = folder or place(), _wanted()
    way = "`mnasnet bench emulator` sets it up (Linux; a minute, no root)."
    try:
        found = read_json(folder / RECORD, "What the emulator's folder holds")
    except FileNotFoundError:
        raise OSError(f"The emulator must be set up. Received: {folder}, which is not there. {way}") from None
    except ValueError as error:
        raise OSError(f"The emulator must be whole. Received: {error}. {way}") from error
    if not isinstance(found, dict) or any(found.get(name) != value for name, value in wanted.items()):
        has = shown({name: found.get(name) for name in wanted} if isinstance(found, dict) else found)
        raise OSError(f"The emulator must be of {wanted}. Received: {folder} with {has}. {way}")
    return found


def _wanted() -> dict[str, Any]:
    return {"schema": SETUP, "suite": SUITE, "litert": machine()["litert"]}


def setup(*, progress: bool = True) -> dict[str, Any]:
    """Install the emulator into `place()`, whole or not at all, and give what was installed; nothing to do where it is there.

    Debian's packages are fetched and verified by apt and unpacked there, without root and beside the system's own; the wheels
    come from the package index by pip; the plugin is compiled. OSError says what this machine lacks, or what failed.
    """
    folder = place()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        with contextlib.suppress(OSError):
            return installed()
        _check(folder)
        litert = machine()["litert"]
        header({
            "folder": f"{folder} (about 250 MB; remove it to uninstall)",
            "packages": f"qemu-user, python{PYTHON} for arm64 and what they need, of Debian {SUITE} ({MIRROR}), by apt",
            "wheels": f"ai-edge-litert {litert}, {', '.join(WHEELS)} for aarch64, by pip",
            "plugin": "emulator.c of this package, by cc",
            "cores": ", ".join(CORES),
        }, shown=progress)  # fmt: skip
        new = folder.with_name(f"{TEMPORARY}{folder.name}")
        shutil.rmtree(new, ignore_errors=True)  # of a setup that was killed: the lock is ours
        try:
            new.mkdir()
            _fill(new, litert, progress)
            shutil.rmtree(folder, ignore_errors=True)
            new.rename(folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return installed()


def _check(folder: Path) -> None:
    """OSError where nothing can be installed there, or what lies there is somebody else's."""
    if folder.exists() and not (folder / RECORD).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise OSError(
            f"The emulator's folder must be its own. Received: {folder}, which has other files. Name another one in "
            f"KERAS_MNASNET_EMULATOR"
        )
    lacking = [name for name in NEEDED if shutil.which(name) is None]
    if not sys.platform.startswith("linux"):
        raise OSError(f"The emulator needs Linux: use a container of Debian or Ubuntu. Received: {sys.platform}")
    if not KEYRING.exists():
        lacking.append(str(KEYRING))
    if lacking:
        raise OSError(
            f"The emulator needs apt, dpkg, a C compiler and Debian's keys. Received: no {', '.join(lacking)}. On Debian and "
            f"Ubuntu: apt-get install gcc libc6-dev debian-archive-keyring. Elsewhere: in a container of one of them"
        )


def _fill(folder: Path, litert: str, progress: bool) -> None:
    native = _run("dpkg", "--print-architecture").strip()
    with Life("set up", total=5, unit="step", shown=progress) as life:
        life.step(0, "the emulator")
        packages = _unpack(folder / "host", native, "qemu-user")
        for program in (folder / "host/usr/bin").glob("qemu-*"):
            if program.name != "qemu-aarch64":
                program.unlink()
        life.step(1, "Python for arm64")
        packages += _unpack(folder / "arm64", "arm64", f"python{PYTHON}", "libstdc++6")
        life.step(1, "wheels for aarch64")
        platforms = [f"--platform={name}_aarch64" for name in PLATFORMS]
        _run(
            sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--no-compile",
            "--implementation=cp", f"--python-version={PYTHON}", *platforms, f"--target={folder / 'site'}",
            f"ai-edge-litert=={litert}", *WHEELS,
        )  # fmt: skip
        life.step(1, "the plugin")
        source = resources.files("keras_mnasnet.benchmarks").joinpath("emulator.c")
        with resources.as_file(source) as path:
            _run("cc", "-shared", "-fPIC", "-O2", f"-DNUMBER={COUNT}", "-o", str(folder / "count.so"), str(path))
        for name, core in CORES.items():
            _make_root(folder / name, core)
        write_file(folder / RECORD, json.dumps({**_wanted(), "packages": sorted(packages)}, indent=1) + "\n")
        life.step(1, "a first count")
        _try(folder)
        life.step()


def _try(folder: Path) -> None:
    """Count a small network, which also makes the bytecode of all that a count reads; OSError where that fails."""
    from keras_mnasnet.benchmarks.speed import parse_network

    with tempfile.TemporaryDirectory(prefix="keras_mnasnet-") as text, EmulatorMeter(PIXEL1, folder=folder) as meter:
        try:
            meter.count(parse_network("small@32").write(Path(text), number=0)[:1], names=["small@32"])
        except ValueError as error:
            raise OSError(f"The emulator must count a small network. Received: {error}") from error


def _unpack(root: Path, architecture: str, *names: str) -> list[str]:
    """Unpack Debian's packages and what they need into a folder, by a state of apt of its own; gives their files' names."""
    with tempfile.TemporaryDirectory(dir=root.parent) as text:
        state = Path(text)
        for part in ("lists/partial", "archives/partial"):
            (state / part).mkdir(parents=True)
        (state / "status").touch()
        (state / "sources.list").write_text(f"deb [arch={architecture} signed-by={KEYRING}] {MIRROR} {SUITE} main\n", "utf-8")
        apt = ["apt-get", "-qq"]
        for key, value in {
            "APT::Architecture": architecture, "APT::Architectures": architecture, "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root", "Dir::State": state, "Dir::State::Lists": state / "lists", "Dir::State::status":
            state / "status", "Dir::Cache": state, "Dir::Cache::Archives": state / "archives", "Dir::Etc::SourceList":
            state / "sources.list", "Dir::Etc::SourceParts": "/dev/null",
        }.items():  # fmt: skip
            apt += ["-o", f"{key}={value}"]
        _run(*apt, "update")
        _run(*apt, "-y", "--download-only", "install", *names)
        files = sorted((state / "archives").glob("*.deb"))
        for file in files:
            _run("dpkg-deb", "-x", str(file), str(root))
        return [file.name for file in files]


def _make_root(folder: Path, core: Core) -> None:
    """What a program on this core sees as `/`: the packages, and the files that tell the core."""
    for part in (folder.parent / "arm64").iterdir():
        folder.mkdir(exist_ok=True)
        (folder / part.name).symlink_to(Path("..", "arm64", part.name))
    cores = folder / "sys/devices/system/cpu"
    for made in (cores, folder / "proc"):
        made.mkdir(parents=True)
    for name in ("possible", "present", "online", "kernel_max"):
        (cores / name).write_text("0\n", "ascii")
    rows = {
        "processor": "0", "BogoMIPS": "38.40", "Features": core.features, "CPU implementer": "0x41", "CPU architecture": "8",
        "CPU variant": "0x0", "CPU part": core.part, "CPU revision": "0",
    }  # fmt: skip
    (folder / "proc/cpuinfo").write_text("".join(f"{key}\t: {value}\n" for key, value in rows.items()) + "\n", "ascii")


def _run(*command: str) -> str:
    """The output of a command of the setup; OSError with its last lines where it fails."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=STEP_SECONDS,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}, text=True, errors="replace", check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise OSError(f"A step of the setup must end within {STEP_SECONDS} s. Received: {command[0]}, which did not") from error
    if done.returncode:
        said = " | ".join(done.stdout.strip().splitlines()[-3:])[-500:] or "nothing said"
        raise OSError(f"A step of the setup must succeed. Received: exit status {done.returncode} of {command[0]}: {said}")
    return done.stdout


# Counting


@dataclasses.dataclass(frozen=True, slots=True)
class Counted:
    """Instructions of one inference, one thread, and `outputs` of the meter's random input, by position."""

    instructions: int
    partitions: Partitions
    outputs: tuple[np.ndarray, ...] = dataclasses.field(repr=False)


class EmulatorMeter:
    """An emulated Python that has loaded LiteRT and counts files until `close`; OSError where it is not set up."""

    def __init__(self, core: str, *, folder: Path | None = None) -> None:
        self.core, self.folder = core, folder or place()
        self._installed = installed(self.folder)
        self._process: MeterProcess | None = None
        self._place: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> EmulatorMeter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def count(
        self, files: Sequence[Path], *, names: Sequence[str], sizes: Sequence[int | None] | None = None, seed: int = 0,
        progress: bool = False,
    ) -> list[Counted]:  # fmt: skip
        """Count each file; `sizes` are for open inputs. ValueError names one that LiteRT cannot run, or not within SECONDS."""
        found = []
        with Life("count", total=len(files), unit="file", shown=progress) as life:
            for index, name in enumerate(names):
                life.step(0, name)
                found.append(self._count(files[index], name, sizes[index] if sizes else None, seed))
                life.step()
        return found

    def _count(self, file: Path, name: str, size: int | None, seed: int) -> Counted:
        process, work = self._started()
        for old in work.iterdir():
            old.unlink()
        (work / NAME).symlink_to(Path(file).absolute())
        job = {"threads": 1, "seed": seed, "files": [NAME], "sizes": [size], "seconds": SECONDS}
        events = {event["event"]: event for event in process.do(job, [name], seconds=SECONDS + START_SECONDS)}
        counted = fields_of(events.get("counted"), "A count", instructions=int, delegates=int, outside=dict)
        with np.load(work / OUTPUTS) as outputs:
            arrays = tuple(outputs.values())
        return Counted(counted["instructions"], Partitions(counted["delegates"], counted["outside"]), arrays)

    def _started(self) -> tuple[MeterProcess, Path]:
        """The process and where it works: a folder of its own, in which all that it sees has the same name everywhere.

        A name's length moves what lies behind it in memory. So it sees no path of this machine: its `/` is `root`, with the
        packages, the wheels and this package, and it works in `work`.
        """
        if self._process is not None and self._place is not None and not self._process.ended:
            return self._process, Path(self._place.name, WORK)
        self.close()
        self._place = tempfile.TemporaryDirectory(prefix="keras_mnasnet-")
        place = Path(self._place.name)
        (place / WORK).mkdir()
        (place / "emulator").symlink_to(self.folder)
        (place / "root").mkdir()
        for target in (*(self.folder / self.core).iterdir(), self.folder / "site"):
            (place / "root" / target.name).symlink_to(target)
        (place / "root/package").symlink_to(ROOT)
        self._process = MeterProcess(_command(self.folder, self.core), ENVIRONMENT, place / WORK)
        return self._process, place / WORK

    def facts(self) -> dict[str, Any]:
        """What is counted on."""
        emulator = next(name for name in self._installed["packages"] if name.startswith("qemu-user_"))
        return {
            "kind": "emulated", "name": f"an emulated {self.core}", "system": f"Debian {SUITE}, Python {PYTHON}, aarch64",
            "runtime": f"ai-edge-litert {self._installed['litert']} aarch64", "core": self.core, "emulator": emulator,
            "litert": self._installed["litert"],
        }  # fmt: skip

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.close()
            self._process = None
        if self._place is not None:
            self._place.cleanup()
            self._place = None


def _command(folder: Path, core: str) -> list[str]:
    """The emulated Python, run in WORK: QEMU takes no commas and its libraries' path no colons, which `folder` may have."""
    loader = next((folder / "host/lib").glob("*/ld-linux-*")).relative_to(folder)
    libraries = [loader.parent, Path("host/usr/lib", loader.parent.name)]
    return [
        f"../emulator/{loader}", "--library-path", ":".join(f"../emulator/{path}" for path in libraries),
        "../emulator/host/usr/bin/qemu-aarch64", "-cpu", CORES[core].cpu, "-R", MEMORY, "-L", "../root",
        "-plugin", "../emulator/count.so", "-0", f"/usr/bin/python{PYTHON}", f"../root/usr/bin/python{PYTHON}",
        "-S", "-P", "-c", BOOT,
    ]  # fmt: skip


ENVIRONMENT = {
    "PATH": "/usr/bin", "PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "PYTHONPYCACHEPREFIX": "../emulator/bytecode",
    "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
}  # fmt: skip


# Milliseconds


@dataclasses.dataclass(frozen=True, slots=True)
class FitRow:
    """A network that was measured on a phone, and its instructions."""

    network: str
    measured_ms: float
    instructions: int


@dataclasses.dataclass(frozen=True, slots=True)
class PhoneFit:
    """A phone's milliseconds: `ms_per_million` for a million instructions on `core`, and `constant_ms`.

    `percent_off` says how far the fitted rows are from the line (`mean`, `max`), and each from the line of the others
    (`one_left_out`).
    """

    phone: str
    core: str
    ms_per_million: float
    constant_ms: float
    percent_off: dict[str, float]
    litert: str
    rows: tuple[FitRow, ...]

    def ms(self, instructions: float) -> float:
        """The line's milliseconds."""
        return self.ms_per_million * instructions / 1e6 + self.constant_ms

    def to_json(self) -> dict[str, Any]:
        """What a file of it holds."""
        return {"schema": SCHEMA, "kind": FIT_KIND, **dataclasses.asdict(self)}

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> PhoneFit:
        """Read a file of `calibrate`; ValueError for any other."""
        what = "A phone's file"
        try:
            value = read_json(Path(path).expanduser(), what)
            found = fields_of(
                value, what, schema=int, kind=str, phone=str, core=str, ms_per_million=float, constant_ms=float,
                percent_off=dict[str, float], litert=str, rows=list[FitRow],
            )  # fmt: skip
            schema, kind = found.pop("schema"), found.pop("kind")
            if (schema, kind) != (SCHEMA, FIT_KIND) or found["core"] not in CORES:
                raise ValueError(f"schema {schema}, kind {kind!r}, core {found['core']!r}")
            if not (0 < found["ms_per_million"] < math.inf and math.isfinite(found["constant_ms"])):
                raise ValueError("milliseconds that are none")
        except (OSError, ValueError) as error:
            raise ValueError(f"A phone's file must be one of `mnasnet bench calibrate`. Received: {path} ({error})") from error
        return cls(**{**found, "rows": tuple(found["rows"])})


def fitted(rows: Sequence[FitRow], *, phone: str, core: str, litert: str) -> PhoneFit:
    """The line with the least squared relative error; ValueError where the networks do not set one.

    min over a, b of the sum of ((a x + b) / y - 1)^2, x in million instructions, y the measured milliseconds.
    """
    if len(rows) < FEWEST_ROWS:
        raise ValueError(f"A phone needs {FEWEST_ROWS} or more measured networks. Received: {len(rows)}")
    if wrong := [row for row in rows if not (math.isfinite(row.measured_ms) and row.measured_ms > 0 and row.instructions > 0)]:
        raise ValueError(f"Measured milliseconds must be above 0. Received: {wrong[0].network}={wrong[0].measured_ms}")
    slope, constant = _line(rows)
    if not slope > 0:
        raise ValueError(
            f"Networks with more instructions must take longer, and some must be larger than others. Received: "
            f"{', '.join(f'{row.network} {row.measured_ms:g} ms, {row.instructions / 1e6:.1f} M' for row in rows[:6])}"
        )
    off = [_off(row, slope, constant) for row in rows]
    alone = [_off(row, *_line([other for other in rows if other is not row])) for row in rows]
    percent = {"mean": math.fsum(off) / len(off), "max": max(off), "one_left_out": math.fsum(alone) / len(alone)}
    return PhoneFit(
        phone, core, float(f"{slope:.6g}"), float(f"{constant:.6g}"), {key: round(value, 2) for key, value in percent.items()},
        litert, tuple(rows),
    )  # fmt: skip


def _line(rows: Sequence[FitRow]) -> tuple[float, float]:
    """(a, b); a slope of 0 where all rows have the same count."""
    u = [row.instructions / 1e6 / row.measured_ms for row in rows]
    v = [1 / row.measured_ms for row in rows]
    uu, vv, uv = (math.fsum(a * b for a, b in zip(*pair, strict=True)) for pair in ((u, u), (v, v), (u, v)))
    determinant = uu * vv - uv * uv
    if determinant <= 1e-12 * uu * vv:
        return 0.0, 0.0
    return (math.fsum(u) * vv - math.fsum(v) * uv) / determinant, (math.fsum(v) * uu - math.fsum(u) * uv) / determinant


def _off(row: FitRow, slope: float, constant: float) -> float:
    """Percent."""
    return 100 * abs((slope * row.instructions / 1e6 + constant) / row.measured_ms - 1)


@functools.cache
def pixel1() -> PhoneFit:
    """The shipped fit: the networks that Google and the paper printed Pixel 1 milliseconds of."""
    with resources.as_file(resources.files("keras_mnasnet.benchmarks").joinpath("emulated_pixel1.json")) as path:
        return PhoneFit.open(path)


def parse_emulated(text: str) -> tuple[str, PhoneFit | None]:
    """(core, fit) of what stands behind `emulated:`; nothing is a Pixel 1, a core has no milliseconds, else it is a file."""
    if not text:
        return PIXEL1, pixel1()
    if text in CORES:
        return text, None
    if not Path(text).expanduser().is_file():
        raise ValueError(
            f"`emulated:` must be followed by a core, {', '.join(CORES)}, or by a file of `mnasnet bench calibrate`. "
            f"Received: {text!r}, which is neither"
        )
    fit = PhoneFit.open(text)
    return fit.core, fit
