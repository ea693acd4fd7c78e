"""Every command's parser, walked: help, examples, one meaning an option, suggestions, refusals."""

import os
import re
import subprocess
import sys
from collections import defaultdict

import pytest

from keras_mnasnet.cli.main import ROOMS, parser
from keras_mnasnet.cli.options import OF_DETECTORS, OPTIONS
from keras_mnasnet.cli.parsing import Parser


def walk(parent: Parser):
    for child in parent.commands.values():
        yield child
        yield from walk(child)


ALL = {each.prog: each for each in walk(parser())}
LEAVES = {prog: each for prog, each in ALL.items() if not each.commands}


def actions(command: Parser):
    return [action for action in command._actions if action.dest != "help"]


@pytest.mark.parametrize("prog", ALL)
def test_help(mnasnet, prog):
    words = prog.split()[1:]
    status, out, err = mnasnet(*words, "--help")
    assert (status, err) == (0, "")
    assert out.startswith((f"usage: {prog} ", f"usage: {prog}\n"))
    example = out[out.index("\nexample:\n") :].splitlines()[2].strip()
    assert example.startswith("mnasnet " if ALL[prog].commands else prog)
    arguments = [word for word in re.findall(r"(?<=\s)(?:--[a-z-]+|-o)\b", example)]
    known = {option for each in ALL.values() for action in each._actions for option in action.option_strings}
    assert set(arguments) <= known
    assert not re.search("verbosity|logtostderr|alsologto|pdb|helpfull", out)
    status, _, err = mnasnet(*words, "--helpfull")
    assert status == 2


@pytest.mark.parametrize("prog", LEAVES)
def test_examples_parse(prog):
    example = re.search(r"example:\n  mnasnet (.+)", LEAVES[prog].format_help())[1]
    arguments = parser().parse_args(example.split())
    assert arguments.parser.prog == prog
    assert callable(arguments.run)
    assert arguments.json is False


@pytest.mark.parametrize("prog", ALL)
def test_sentences(prog):
    assert re.match("[A-Z]", ALL[prog].description), "a description is a sentence"
    assert ALL[prog].description.endswith(".")
    for action in actions(ALL[prog]):
        if action.metavar == "COMMAND":
            continue
        assert action.help, f"{action.dest} has no help"
        assert re.match("[A-Z]", action.help), action.help
        assert action.help.endswith((".", ").")), action.help
        assert "normalis" not in action.help


def test_one_option_has_one_meaning():
    """What several commands take is one of the shared options: its help begins as the others', and its type is theirs."""
    uses = defaultdict(list)
    for command in LEAVES.values():
        for action in actions(command):
            for option in {action.option_strings[-1]} if action.option_strings else ():
                uses[option].append(action)
    shared = {name.rpartition("/")[2]: settings for name, settings in OPTIONS.items()}
    for option, found in uses.items():
        if option not in shared:  # of one command, or written once for several
            assert len({action.help.partition(". ")[0] for action in found}) == 1, option
            continue
        meaning = shared[option]["help"].partition(" (default")[0].rstrip(".:")
        for action in found:
            assert action.help.startswith(meaning), (option, action.help)
            of_detectors = option == "--size" and action.type is OF_DETECTORS["type"]
            assert of_detectors or action.type == shared[option].get("type")
            assert action.nargs == (0 if shared[option].get("action") == "store_true" else None)


def test_vocabulary():
    """The model is a positional, the result is -o, sizes are --size; nothing is named otherwise anywhere."""
    options = {option for each in LEAVES.values() for action in each._actions for option in action.option_strings}
    assert not {"--weights", "--model", "--resolution", "--images", "--classes-file", "--licence"} & options
    for prog, command in LEAVES.items():
        strings = [action.option_strings for action in actions(command)]
        assert all("-o" in each for each in strings if "--output" in each), prog
        assert ["--json"] in strings


@pytest.mark.parametrize("prog", [prog for prog, each in ALL.items() if each.commands or each.needs])
def test_what_is_missing(mnasnet, prog):
    """The help, and a line that says it."""
    status, out, err = mnasnet(*prog.split()[1:])
    assert (status, out) == (2, "")
    assert err.startswith(f"usage: {prog} ")
    assert "example:" in err
    assert err.splitlines()[-1].startswith(f"error: `{prog}` needs ")


def test_bare_mnasnet_prints_its_help(mnasnet):
    status, out, err = mnasnet()
    assert (status, err) == (0, "")
    assert out.startswith("usage: mnasnet COMMAND")
    assert out == mnasnet("--help")[1]
    assert re.match(r"mnasnet \d", mnasnet("--version")[1])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("predct cifar10 a.jpg", "Did you mean 'predict'?"),
        ("bench accurcy cifar10", "Did you mean 'accuracy'?"),
        ("weights lst", "Did you mean 'list'?"),
        ("search sttus --study x", "Did you mean 'status'?"),
        ("predict cifar10 a.jpg --tpo 3", "`mnasnet predict` does not take '--tpo'. Did you mean '--top'?"),
        ("predict cifar10 a.jpg --label=x", "Did you mean '--labels'?"),
        ("export cifar10 -o a.tflite --quant int8", "'--quant'. Did you mean '--quantize'?"),
        ("export cifar10 -o a.tflite --network a1", "`mnasnet export` does not take '--network'."),
        ("export cifar10 -o a.tflite --quantize int", "Did you mean 'int8'?"),
        ("train shapes --network a1 --epoch 3 -o x", "Did you mean '--epochs'?"),
        ("weights list cifar10", "`mnasnet weights list` does not take 'cifar10'."),
        ("--json networks", "takes a command before options: networks, "),
        ("predict cifar10", "The following arguments are required: PHOTO"),
        ("export cifar10", "The following arguments are required: -o/--output"),
        ("info a1 --width wide", "Argument --width: invalid float value: 'wide'"),
        ("info", "needs MODEL|NETWORK"),
        ("info a1 --network b1", "received both"),
    ],
)
def test_usage_errors(mnasnet, line, message):
    status, out, err = mnasnet(*line.split())
    assert (status, out) == (2, "")
    assert err.startswith("usage: mnasnet")
    assert message in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("prog", LEAVES)
def test_no_abbreviations(prog):
    options = sorted({option for action in LEAVES[prog]._actions for option in action.option_strings if option[:2] == "--"})
    for option in options:
        if any(other.startswith(option[:-1]) and other != option for other in options):
            continue
        with pytest.raises(SystemExit):
            LEAVES[prog].parse_args([option[:-1], "1"])


def test_options_between_positional_arguments():
    arguments = parser().parse_args(["predict", "cifar10", "a.jpg", "--top", "3", "b.jpg"])
    assert (arguments.model, arguments.photos, arguments.top) == ("cifar10", ["a.jpg", "b.jpg"], 3)
    arguments = parser().parse_args(["detect", "train", "a.json", "--from", "imagenet", "photos", "-o", "run"])
    assert (arguments.annotations, arguments.photos, arguments.from_model) == ("a.json", "photos", "imagenet")


def test_parsers_are_made_anew():
    assert parser() is not parser()
    assert parser().parse_args(["networks"]).parser is not parser().parse_args(["networks"]).parser


def test_one_command_needs_one_room():
    assert [command for commands in ROOMS.values() for command in commands] == list(parser().commands)
    assert all(tuple(parser(command).commands) == commands for commands in ROOMS.values() for command in commands)
    code = "import sys; from keras_mnasnet.cli.main import main; main(['info', '--help']); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert [room for room in ROOMS if f"keras_mnasnet.cli.{room}" in loaded] == ["networks"]


def test_help_loads_nothing_heavy():
    code = (
        "import contextlib, io, sys\n"
        "from keras_mnasnet.cli.main import main, parser\n"
        "def walk(each):\n"
        "    yield each\n"
        "    for child in each.commands.values(): yield from walk(child)\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    for each in walk(parser()): assert main([*each.prog.split()[1:], '--help']) == 0\n"
        "heavy = {'tensorflow', 'keras', 'numpy', 'huggingface_hub', 'safetensors', 'absl'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)
