"""A file and the report beside it: whenever a process ends, the report is of the file, or there is none."""

import hashlib
import json
import os
import stat
import subprocess
import sys

import pytest

PROGRAM = """
import dataclasses, os, sys
from pathlib import Path
from keras_mnasnet.export.report import write_export

@dataclasses.dataclass
class Facts:
    bytes: int = 0

@dataclasses.dataclass
class Report:
    facts: Facts
    sha256: str = ""
    def as_json(self):
        return dataclasses.asdict(self)

target, content, dies_at, before = Path(sys.argv[1]), sys.argv[2].encode(), int(sys.argv[3]), sys.argv[4] == "before"
own, calls = os.replace, []

def replace(source, place):
    calls.append(place)
    if len(calls) == dies_at and before:
        os._exit(9)
    own(source, place)
    if len(calls) == dies_at:
        os._exit(9)

os.replace = replace
write_export(content, target, Report(Facts()), None)
"""


def write(target, content, dies_at=0, when="before"):
    done = subprocess.run([sys.executable, "-c", PROGRAM, target, content, str(dies_at), when], capture_output=True, text=True)
    assert done.returncode == (9 if dies_at else 0), done.stderr


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("dies_at", [1, 2])
def test_at_no_moment_does_a_report_lie_beside_another_file(tmp_path, dies_at, when):
    target, report = tmp_path / "m.tflite", tmp_path / "m.tflite.json"
    write(target, "old")
    old = target.read_bytes()
    assert json.loads(report.read_text())["sha256"] == hashlib.sha256(old).hexdigest()
    write(target, "new", dies_at, when)
    now = target.read_bytes()
    assert (now == old) == ((dies_at, when) == (1, "before"))
    if report.exists():
        assert json.loads(report.read_text())["sha256"] == hashlib.sha256(now).hexdigest()
    assert report.exists() == ((dies_at, when) == (2, "after"))
    write(target, "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.tflite", "m.tflite.json"]
    assert json.loads(report.read_text())["sha256"] == hashlib.sha256(target.read_bytes()).hexdigest()


def test_nothing_lies_beside_a_device():
    write("/dev/null", "gone")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert not os.path.exists("/dev/null.json")
