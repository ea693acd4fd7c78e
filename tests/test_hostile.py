"""No file is trusted: one round of the corpus, files that did harm, and the page that says what is read how."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from corpus import READERS

from keras_mnasnet import architecture
from keras_mnasnet.detection.annotations import read_truth
from keras_mnasnet.loading import load
from keras_mnasnet.utils.reading import LIMITS, check_names, open_zip, read_xml, run_bounded, shown

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("group", ["light", "tensorflow"])
def test_the_corpus(group, tmp_path):
    script, output = ROOT / "benchmarks" / "run_fuzz.py", tmp_path / "fuzz.json"
    command = [sys.executable, script, "--rounds=1", f"--only={group}", f"--output={output}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(output.read_text())["readers"]
    assert [row["reader"] for row in rows] == [reader.name for reader in READERS if reader.group == group]
    assert all(row["errors"] > 0 and row["inputs"] == row["results"] + row["errors"] for row in rows)
    assert sum(row["inputs"] for row in rows) > {"light": 2_000, "tensorflow": 500}[group]


CASES = Path(os.environ.get("KERAS_MNASNET_CASES", "/none")) / "hostile"


@pytest.mark.skipif(not CASES.is_dir(), reason="KERAS_MNASNET_CASES is not set")
@pytest.mark.parametrize(
    "path", [path for path in sorted(CASES.glob("*")) if path.suffix in (".pth", ".tgz")], ids=lambda p: p.name
)
def test_files_that_did_harm(path):
    with pytest.raises(ValueError, match="Received: ") as caught:
        load(path)
    assert len(str(caught.value)) < 2_000


def test_boxes_of_voc_that_are_none(tmp_path):
    text = (
        "<annotation><filename>1.jpg</filename><size><width>64</width><height>42</height></size><object><name>cat</name>"
        "<bndbox><xmin>nan</xmin><ymin>1</ymin><xmax>50</xmax><ymax>50</ymax></bndbox></object></annotation>"
    )
    (tmp_path / "1.xml").write_text(text)
    with pytest.raises(ValueError, match=r"1.xml must be a VOC annotation. Received: 'nan', which is no finite number"):
        read_truth(tmp_path)


@pytest.mark.parametrize("name", ["/etc/passwd", "../outside.jpg", "a/../../outside.jpg"])
def test_photos_stay_in_their_folder(name, tmp_path):
    from keras_mnasnet.detection.data import open_dataset

    (tmp_path / "photos").mkdir()
    (tmp_path / "outside.jpg").write_bytes(b"x")
    value = {
        "images": [{"id": 1, "file_name": name, "width": 8, "height": 8}],
        "categories": [{"id": 1, "name": "box"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4]}],
    }
    (tmp_path / "x.json").write_text(json.dumps(value))
    with pytest.raises(ValueError, match="Photos must lie in their folder.*which leads out of it"):
        open_dataset(tmp_path / "x.json", tmp_path / "photos")


@pytest.mark.parametrize("name", ["a\nb", "a\n", "", " ", "a\u2028b", "x" * 1001, 7])
def test_names_are_one_line_each(name):
    with pytest.raises(ValueError, match="^Classes must have"):
        check_names(["cat", name], "Classes")


def test_a_tuple_of_2_to_the_60_leaves_is_shown():
    value: tuple = ()
    for _ in range(60):
        value = (value, value)
    assert len(shown(value)) < 200


def test_a_zip_that_unpacks_a_thousandfold(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", bytes(64 * 2**20))
    with (
        pytest.raises(ValueError, match="An archive must have at most 20 times its own size"),
        open_zip(tmp_path / "x.zip", "An archive"),
    ):
        pass


def test_entities_and_encodings(tmp_path):
    (tmp_path / "x.xml").write_text("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>")
    with pytest.raises(ValueError, match="A list must have no entities of its own"):
        read_xml(tmp_path / "x.xml", "A list")
    (tmp_path / "x.xml").write_text("<?xml version='1.0' encoding='utf-99'?><a/>")
    with pytest.raises(ValueError, match="A list must be XML. Received: .*utf-99|unknown encoding"):
        read_xml(tmp_path / "x.xml", "A list")


def test_an_output_without_end():
    with pytest.raises(OSError, match="yes must write at most"):
        run_bounded(["yes"], "yes", timeout=60)


@pytest.mark.parametrize("value", [np.nan, 1j, "x"])
def test_tensors_of_h5_are_real_numbers(value, tmp_path):
    import h5py
    from corpus import seed_h5

    path = seed_h5(tmp_path)
    with h5py.File(path, "a") as file:
        shape = file["layers/conv2d/vars/0"].shape
        del file["layers/conv2d/vars/0"]
        file.create_dataset("layers/conv2d/vars/0", data=np.full(shape, value, object if value == "x" else None))
    with pytest.raises(ValueError, match="finite float32|no real numbers"):
        load(path)


def test_the_trust_page_says_the_limits():
    text = (ROOT / "SECURITY.md").read_text("utf-8")
    said = dict(re.findall(r"^\| `([^`]+)` \| ([\d,]+) \|", text, re.MULTILINE))
    own = {
        "layers": architecture.MOST_LAYERS,
        "channels": architecture.MOST_CHANNELS,
        "text of a network": architecture.LONGEST_TEXT,
    }
    assert said == {name: f"{most:,}" for name, most in ({key: each.most for key, each in LIMITS.items()} | own).items()}


def test_a_cached_file_of_another_record_is_refused():
    from keras_mnasnet import loading
    from keras_mnasnet.weights.registry import find

    other = loading.converted_path(find("cifar10/a1-0.5-32"))
    with pytest.raises(ValueError, match="must be cifar10/b1-0.5-32.*another origin, 'cifar10/a1-0.5-32'"):
        loading._cached(find("cifar10/b1-0.5-32"), other)


def test_a_wrong_field_of_a_run_is_named_by_its_path(tmp_path):
    from corpus import seed_run

    from keras_mnasnet.training.job import read_run

    path = seed_run(tmp_path)
    value = json.loads(path.read_text())
    value["facts"]["labels"] = ["a", 7]
    path.write_text(json.dumps(value))
    with pytest.raises(
        ValueError, match=r"run.json must be a run of keras_mnasnet.*`facts` of a run.*got `int` at \$.labels\[1\]"
    ):
        read_run(tmp_path)


def test_a_network_of_a_hundred_thousand_layers():
    with pytest.raises(ValueError, match="at most 2,000 layers in its stages. Received: 100,001"):
        architecture.Architecture.parse("stem8 r1_k3_s11_e1_i8_o8 r100000_k3_s22_e3_i8_o8 head16")


def test_a_tool_that_never_ran():
    from corpus import TOOL

    from keras_mnasnet.benchmarks.phone import parse_output

    with pytest.raises(ValueError, match="must have run at least once.*Received: count=0"):
        parse_output(TOOL.replace("count=50", "count=0"))


def test_litert_is_given_no_file_with_damaged_tables(tmp_path, write_tiny, monkeypatch):
    """This one ends its process with SIGSEGV."""
    from keras_mnasnet.export import FileClassifier, TfliteFile

    content = bytearray(write_tiny(tmp_path / "x.tflite").read_bytes())
    content[10] = 6
    (tmp_path / "x.tflite").write_bytes(content)
    monkeypatch.setattr(TfliteFile, "interpreter", None)
    with pytest.raises(ValueError, match="A .tflite file must be whole. Received: .*x.tflite"):
        FileClassifier(tmp_path / "x.tflite")
