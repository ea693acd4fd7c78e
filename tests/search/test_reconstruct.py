"""search/run_reconstruct_a2_a3.py ends on the networks that the package ships."""

import json
import os
import subprocess
import sys
from pathlib import Path

from keras_mnasnet.family import A1, A2, A3

SCRIPT = Path(__file__).parents[2] / "search" / "run_reconstruct_a2_a3.py"


def test_script_finds_the_shipped_literals():
    done = subprocess.run([sys.executable, SCRIPT, "--json"], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results["a2"]["members_with_printed_totals"] == 53_171
    assert results["a3"]["members_with_printed_totals"] == 7_762
    for network in (A2, A3):
        result = results[network.name]
        assert result["candidates"][0]["text"] == str(network)
        differing = sum(
            getattr(ours, field) != getattr(a1, field)
            for ours, a1 in zip(network.blocks, A1.blocks, strict=True)
            for field in ("expand", "kernel", "se", "filters", "repeats")
        )
        assert differing == result["changed_decisions"] == 5
