"""The numbers that a benchmark is given: what cannot be is refused before the work, and not by a traceback."""

import ast
import importlib
import re
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NUMBERS = {
    "against_peers": ["--rounds"],
    "other_decoders": ["--steps"],
    "runtime_costs": ["--soak"],
    "training_speed": ["--images", "--rounds"],
}


@pytest.mark.parametrize("typed", ["inf", "nan", "-1", "1e6", "", "9" * 5000, "0x10"])
@pytest.mark.parametrize(("name", "option"), [(name, each) for name, options in NUMBERS.items() for each in options])
def test_what_is_no_count_is_refused(name, option, typed, monkeypatch, capsys):
    benchmark = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr(sys, "argv", [name, f"{option}={typed}"])
    with pytest.raises(SystemExit) as refused:
        benchmark.main()
    assert refused.value.code == 2
    assert re.search(rf"argument {option}: got .*, expected a whole number from \d to", capsys.readouterr().err)


def test_every_number_is_checked():
    bare = [
        f"{path.name}, line {node.lineno}"
        for path in sorted(BENCHMARKS.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.keyword) and node.arg == "type" and getattr(node.value, "id", "") in ("int", "float")
    ]
    assert bare == []
