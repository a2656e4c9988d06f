"""What a package imports, its distribution asks for: no import works only because another library brought it."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"edgeae", "edgeae_export", "edgeae_runtime", "benchmarks"}
FOLDERS = {
    ROOT / "runtime" / "pyproject.toml": [ROOT / "runtime" / "edgeae_runtime"],
    ROOT / "pyproject.toml": [ROOT / "edgeae", ROOT / "export" / "edgeae_export"],
}
DISTRIBUTION = {"PIL": "pillow"}
"""Of the modules that are called otherwise; `_` and `-` are the same."""
BY_NAME = ("import_module", "library")
"""Functions that import what they are told the name of."""


def imported(source):
    """The first words of what a module's text imports: within functions, for types and by name too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Import):
            yield from (entry.name.partition(".")[0] for entry in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in BY_NAME:
            yield from (word.value.partition(".")[0] for word in node.args if isinstance(word, ast.Constant))


def asked_for(project):
    """The distributions that a project asks for, in any extra of its users, and what our own asks for."""
    document = tomllib.loads(project.read_text())["project"]
    extras = {name: lines for name, lines in document["optional-dependencies"].items() if name not in ("dev", "docs")}
    lines = [*document["dependencies"], *(line for lines in extras.values() for line in lines)]
    found = {re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in lines}
    return found | (asked_for(ROOT / "runtime" / "pyproject.toml") if "edgeae-runtime" in found else set())


@pytest.mark.parametrize("project", FOLDERS, ids=["edgeae-runtime", "edgeae"])
def test_what_is_imported_is_asked_for(project):
    asked, seen = asked_for(project), set()
    for folder in FOLDERS[project]:
        for file in folder.rglob("*.py"):
            modules = set(imported(file.read_text())) - OURS - set(sys.stdlib_module_names)
            unasked = {DISTRIBUTION.get(module, module.replace("_", "-")) for module in modules} - asked
            assert not unasked, f"{file} imports what none of {sorted(asked)} is"
            seen |= modules
    assert seen >= {"numpy", "cryptography", "model_signing"}
