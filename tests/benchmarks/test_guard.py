"""The guard passes what is fast, and fails a graph that was made worse."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.guard import ELSEWHERE, FLOORS, below

ROOT = Path(__file__).parent.parent.parent


def test_only_ratios_below_their_floor_are_told():
    found = {"float32 over plain": 1.3, "int8 over plain": 2.0}
    assert below(found, {"float32 over plain": 1.25, "int8 over plain": 1.9}) == []
    assert below(found, {"float32 over plain": 1.25, "int8 over plain": 3.0}) == ["int8 over plain: 2.00x, floor 3.00x"]


def test_no_floor_lets_int8_be_slower_than_plain():
    for floors in (*json.loads(FLOORS.read_text()).values(), ELSEWHERE):
        assert floors["int8 over plain"] >= 1


@pytest.mark.slow
def test_the_guard_fails_on_a_worsened_graph():
    command = [sys.executable, "-m", "benchmarks.guard", "--int8", "quantize_static"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Below the floor in attempt 2: int8 over plain" in done.stdout
