"""What the pages of docs/ say of the code is what the code is: modules, public names, the worked example."""

import re
import subprocess
import sys
import types
from pathlib import Path

import edgeae_export
import edgeae_runtime
import numpy as np
import pytest

import edgeae
from tests.export.graphs import graph, operators

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PACKAGES = (ROOT / "edgeae", ROOT / "export" / "edgeae_export", ROOT / "runtime" / "edgeae_runtime")
GENERATE = [sys.executable, str(DOCS / "generate.py")]


def test_the_generated_pages_are_what_the_code_says():
    done = subprocess.run([*GENERATE, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_module_has_a_line():
    told, folder = set(), ""
    for line in (DOCS / "architecture.md").read_text().splitlines():
        if heading := re.match(r"### `(.+)/`", line):
            folder = heading[1]
        elif row := re.match(r"\| `(\w+\.py)` \| \S", line):
            told.add(f"{folder}/{row[1]}")
    modules = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in package.rglob("*.py")
        if path.name != "__init__.py"
    }
    assert len(modules) > 100
    assert modules <= told, sorted(modules - told)
    assert all((ROOT / path).is_file() for path in told)


@pytest.mark.parametrize("package", [edgeae, edgeae_export, edgeae_runtime], ids=lambda package: package.__name__)
def test_every_public_name_is_described(package):
    text = (DOCS / "api.md").read_text()
    for name in package.__all__:
        described = re.search(rf"^### {name}\n\n```python\n(?:class|def) {name}\b.*?```\n\n(\S.*)$", text, re.M | re.S)
        assert described, name


@pytest.fixture
def gain(monkeypatch):
    """The page's rewrite, as a module under its name."""
    return executed(monkeypatch, "gain", blocks("python")[0])


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / "add-a-rewrite.md").read_text(), re.DOTALL | re.M)


def executed(monkeypatch, name, code):
    module = types.ModuleType(f"edgeae_export.rewrites.{name}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, f"{name}.py", "exec"), module.__dict__)
    return module


def test_the_worked_example_passes_its_own_tests(gain):
    found = {}
    exec(compile(blocks("python")[1], "test_gain.py", "exec"), found)
    for factor in [(), (1,), (5, 1, 1), (1, 5, 1, 1)]:
        for bias in (True, False):
            found["test_a_gain_is_folded"](factor, bias)
    (cases,) = found["test_what_it_leaves_alone_and_why"].pytestmark
    assert len(cases.args[1]) == 5
    for case in cases.args[1]:
        found["test_what_it_leaves_alone_and_why"](*case)


def test_the_example_is_applied_after_the_two_lines_that_the_page_adds(monkeypatch, gain):
    source = (ROOT / "export" / "edgeae_export" / "rewrites" / "plans.py").read_text()
    for before, line in re.findall(r"^ (.+)\n\+(.+)$", blocks("diff")[0], re.M):
        assert source.count(f"\n{before}\n") == 1
        source = source.replace(f"\n{before}\n", f"\n{before}\n{line}\n")
    plans = executed(monkeypatch, "plans", source)
    nodes = [("ConvTranspose", ["x", "w"], ["h"], {}), ("Mul", ["h", "f"], ["y"], {})]
    constants = {"w": np.ones((1, 2, 3, 3), np.float32), "f": np.float32(2)}
    folded, (decision,) = plans.fold(graph(nodes, [1, 4, 4], constants))
    assert (decision.rule, decision.applied) == ("gain", True)
    assert operators(folded) == ["ConvTranspose"]


def test_every_page_is_in_the_site():
    """mkdocs.yml lists them by hand, for their order."""
    listed = set(re.findall(r"^ +- .*?([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M))
    assert listed == {page.name for page in DOCS.glob("*.md")}
