"""search/run_reconstruct_a2_a3.py ends on the networks that the package ships."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from keras_mnasnet.family import A1, A2, A3, PUBLISHED
from keras_mnasnet.search.latency import pixel1_ms

SCRIPT = Path(__file__).parents[2] / "search" / "run_reconstruct_a2_a3.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("run_reconstruct_a2_a3", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_script_finds_the_shipped_literals():
    done = subprocess.run([sys.executable, SCRIPT, "--json"], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results["a2"]["members_with_printed_totals"] == 53_171
    assert results["a3"]["members_with_printed_totals"] == 7_762
    for network, changes, finalists in ((A2, 5, 6), (A3, 6, 9)):
        result = results[network.name]
        assert (result["changed_decisions"], len(result["candidates"])) == (changes, finalists)
        assert result["chosen"] == result["shipped"] == str(network)
        assert result["chosen"] in [row["text"] for row in result["candidates"]]
        printed = PUBLISHED[network.name]
        for row in result["candidates"]:
            assert (round(row["params"] / 1e6, 1), round(row["madds"] / 1e6)) == (printed.params_m, printed.madds_m)
            assert abs(row["pixel1_ms"] / printed.latency_ms - 1) <= 0.04
        differing = sum(
            getattr(ours, field) != getattr(a1, field)
            for ours, a1 in zip(network.blocks, A1.blocks, strict=True)
            for field in ("expand", "kernel", "se", "filters", "repeats")
        )
        assert differing == changes


@pytest.mark.parametrize("network", [A2, A3], ids=lambda network: network.name)
def test_sums_of_stages_are_the_network(script, network):
    found = script.fixed_figures().copy()
    for stage in range(1, 7):
        found += script.stage_figures(stage, network.blocks[stage - 1].filters, network.blocks[stage])
    assert tuple(found) == pytest.approx((network.params(), network.madds(), pixel1_ms(network)))


def test_certainty_of_a_ranking(script):
    accuracies = {"first": [0.50, 0.51, 0.525], "ahead": [0.52, 0.53, 0.54], "noisy": [0.60, 0.49, 0.54], "behind": [0.4] * 3}
    rows = script.ranking(accuracies)
    assert [row["text"] for row in rows] == ["noisy", "ahead", "first", "behind"], "by mean accuracy"
    assert (rows[1]["mean"], rows[1]["standard_error"]) == (pytest.approx(0.53), pytest.approx(0.01 / 3**0.5))
    assert [row["behind"] for row in rows] == [[], [], ["ahead"], ["first", "ahead", "noisy"]]
    assert not script.is_ahead([0.6, 0.6], [0.5, 0.5]), "two trainings are no evidence"


def part(seeds, accuracy, epochs=4, text="a"):
    found = {text: [accuracy] * len(seeds), "b": [0.3] * len(seeds)}
    return {"recipe": "r", "images": 9, "epochs": epochs, "resolution": 48, "seeds": seeds, "accuracies": found}


def test_trainings_of_several_runs_are_joined(script):
    both = script.joined([part([0, 1], 0.5), part([4], 0.7)])
    assert both["seeds"] == [0, 1, 4]
    assert both["accuracies"] == {"a": [0.5, 0.5, 0.7], "b": [0.3, 0.3, 0.3]}
    for other, message in (
        (part([1], 0.7), r"different seeds to be joined. Received: seeds \[0, 1, 1\]"),
        (part([2], 0.7, epochs=5), "alike to be joined. Received: epochs=4 and 5"),
        (part([2], 0.7, text="c"), "of the same networks to be joined. Received: different ones"),
    ):
        with pytest.raises(ValueError, match=message):
            script.joined([part([0, 1], 0.5), other])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"networks": {"a3": {"proxy": part([0], 0.5)}}}, "proxy trainings of 'a3' must be of its finalists"),
        ({"networks": {"a3": {}}}, "must be an output of this script. Received: "),
        ([], "must be an output of this script. Received: "),
        (None, "must be an output of this script. Received: "),
    ],
)
def test_other_results_are_refused(tmp_path, content, message):
    file = tmp_path / "other.json"
    if content is not None:
        file.write_text(json.dumps(content), "utf-8")
    command = [sys.executable, SCRIPT, "--only", "a3", "--proxy-results", file]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_proxy_trainings_need_data():
    done = subprocess.run([sys.executable, SCRIPT, "--proxy-trainings", "1"], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 2
    assert "--proxy-trainings needs --data" in done.stderr
