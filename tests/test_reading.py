"""The bounded readers of what others wrote: a value, or one error that names the field."""

import dataclasses
import json
import os

import pytest

from keras_mnasnet.training.recipe import RECIPES, Recipe
from keras_mnasnet.utils.reading import check_names, open_zip, parse_json, read_json, read_text, read_xml, record, unpack_tar


def test_a_text_is_one_name():
    assert check_names("cat", "Classes") == check_names(["cat"], "Classes") == ("cat",)


@pytest.mark.parametrize("name", RECIPES)
def test_a_record_comes_back_from_json(name):
    value = json.loads(json.dumps(dataclasses.asdict(RECIPES[name])))
    assert record(value, Recipe, "A recipe") == RECIPES[name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": "ten"}, r"expected `int`, got `str` at \$\.epochs"),
        ({"epochs": True}, r"expected `int`, got `bool` at \$\.epochs"),
        ({"augment": {"area": [0.5, "x"]}}, r"expected `float`, got `str` at \$\.augment\.area\[1\]"),
        ({"spoons": 3}, "unknown spoons"),
    ],
)
def test_a_wrong_field_is_named(change, message):
    value = {**json.loads(json.dumps(dataclasses.asdict(RECIPES["cifar10"]))), **change}
    with pytest.raises(ValueError, match=f"^A recipe must have the fields of its schema. Received: {message}"):
        record(value, Recipe, "A recipe")


@pytest.mark.parametrize("text", ["[" * 300_000, '{"a":', b"\xff\xfe", "", '{"a": 1} x'])
def test_what_is_not_json(text):
    with pytest.raises(ValueError, match="^A list must be JSON. Received: "):
        parse_json(text, "A list")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,}', "no comma before a closing bracket"),
        ("// made by hand\n[1]", "JSON has no comments"),
        ("[1, # one\n2]", "JSON has no comments"),
        ('{"a": 1}\n{"a": 2}', "JSON Lines"),
        ('{"a": [1, 2', "cut off"),
        ('{"a": "b', "cut off"),
        ("é".encode("cp1252"), "save it as UTF-8"),
    ],
)
def test_what_people_write_as_json_is_refused_with_a_way_out(text, message):
    with pytest.raises(ValueError, match=f"^A file must be JSON. Received: .*{message}"):
        parse_json(text, "A file")


def test_files_that_are_none(tmp_path):
    (tmp_path / "long.json").write_text("[" + " " * 100 + "]")
    with pytest.raises(ValueError, match="A list must have at most 50 bytes. Received: .*long.json of 102"):
        read_json(tmp_path / "long.json", "A list", limit=50)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="A list must be a regular file. Received: .*pipe"):
        read_json(tmp_path / "pipe", "A list")
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with pytest.raises(ValueError, match="nested too deeply in .*deep.json"):
        read_json(tmp_path / "deep.json", "A list")
    with pytest.raises(OSError, match="none.json"):
        read_json(tmp_path / "none.json", "A list")


def test_empty_files_are_called_so(tmp_path):
    path = tmp_path / "x"
    path.touch()
    with pytest.raises(ValueError, match="A list must be JSON. Received: it is empty in .*x"):
        read_json(path, "A list")
    with pytest.raises(ValueError, match="A list must be XML. Received: .*x: it is empty"):
        read_xml(path, "A list")
    with (
        pytest.raises(ValueError, match=r"A list must be a whole zip archive. Received: .*x, .*\(it is empty\)"),
        open_zip(path, "A list"),
    ):
        pass
    with pytest.raises(ValueError, match=r"A list must be a whole tar archive. Received: .*\(empty file\)"):
        unpack_tar(path, tmp_path, "A list")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-16-le"])
def test_a_text_is_read_with_any_byte_order_mark_and_json_too(tmp_path, encoding):
    path = tmp_path / "labels.txt"
    mark = "\ufeff" if encoding in ("utf-16-be", "utf-16-le") else ""
    path.write_bytes((mark + '["café"]\n').encode(encoding))
    assert read_text(path, "A text") == '["café"]\n'
    assert read_json(path, "A text") == ["café"]


def test_utf16_without_a_mark_is_no_text(tmp_path):
    (tmp_path / "labels.txt").write_bytes("cat\n".encode("utf-16-le"))
    with pytest.raises(ValueError, match="A list must be UTF-8 text. Received: .*labels.txt, with zero bytes: as UTF-16"):
        read_text(tmp_path / "labels.txt", "A list")
    (tmp_path / "labels.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="A list must be UTF-8 text. Received: .*labels.txt"):
        read_text(tmp_path / "labels.txt", "A list")
