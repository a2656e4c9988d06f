"""Benchmarks and examples take what is public, and nothing from the tests; what they import is a dependency."""

import ast
import importlib.metadata
import itertools
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FILES = sorted(path for folder in ("benchmarks", "examples") for path in (ROOT / folder).rglob("*.py"))
OTHERS = {"_tools", "_unsafe_reset_threadpool"}
"""MNN's converter, whose public door installs telemetry, and ExecuTorch's only way to set the number of threads."""

PROJECTS = (ROOT / "pyproject.toml", ROOT / "runtime" / "pyproject.toml")
OWN = {"benchmarks", "tests", "edgeae", "edgeae_export", "edgeae_runtime"}


def not_public(code):
    """Imports from tests, imports of underscore names, and underscore attributes of what is not one's own."""
    tree, found = ast.parse(code), set()
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id == "self"):
            names = [node.attr] if node.attr not in own else []
        for name in names:
            words = name.split(".")
            private = [word for word in words if word.startswith("_") and not word.startswith("__")]
            if private or (words[0] == "tests" and not isinstance(node, ast.Attribute)):
                found.add(name)
    return found - OTHERS


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_public_names_are_taken(path):
    assert not not_public(path.read_text())


def test_what_is_not_public_is_seen():
    code = "import tests.x\nfrom tests import y\nfrom a._b import c\nfrom a import _d\na.f()._g = 1\nself._h\na.tests\n"
    assert not_public(code) == {"tests.x", "tests.y", "a._b.c", "a._d", "_g"}


def declared():
    """The distributions that the two projects name, with all their extras."""
    words = []
    for file in PROJECTS:
        project = tomllib.loads(file.read_text())["project"]
        words += itertools.chain(project["dependencies"], *project["optional-dependencies"].values())
    return {distribution(re.match(r"[\w.-]+", word)[0]) for word in words}


def distribution(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def roots(code):
    """The packages that a file imports."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


def test_what_is_imported_is_a_dependency():
    """The peers' own packages are not: each peer runs in an environment of its own."""
    files = [path for path in (*FILES, *(ROOT / "tests").rglob("*.py")) if path.parent.name != "peers"]
    wanted = set().union(*(roots(path.read_text()) for path in files))
    own = OWN | {path.stem for path in files} | sys.stdlib_module_names
    brought, names = importlib.metadata.packages_distributions(), declared()
    assert not {root for root in wanted - own if not names & set(map(distribution, brought.get(root, ())))}
