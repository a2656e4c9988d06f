"""What the pages of docs/ say of the code is what the code is: modules, public names, the worked example."""

import re
import subprocess
import sys
import types
from pathlib import Path

import edgeae_export
import edgeae_runtime
import pytest

import edgeae

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


def test_the_worked_example_computes_the_same(monkeypatch):
    """The page's rewrite under its name, then the page's tests as pytest runs them."""
    rewrite, tests = re.findall(r"^```python\n(.*?)^```$", (DOCS / "add-a-rewrite.md").read_text(), re.DOTALL | re.M)
    name = "edgeae_export.rewrites.gain"
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(rewrite, "gain.py", "exec"), module.__dict__)
    found: dict[str, object] = {}
    exec(compile(tests, "test_gain.py", "exec"), found)
    for factor in [(), (1,), (5, 1, 1), (1, 5, 1, 1)]:
        for bias in (True, False):
            found["test_a_gain_is_folded"](factor, bias)
    found["test_a_gain_per_position_is_left_alone"]()
    found["test_a_map_that_is_read_elsewhere_is_left_alone"]()


def test_the_example_is_registered_where_the_page_says():
    plans = (ROOT / "export" / "edgeae_export" / "rewrites" / "plans.py").read_text()
    assert re.search(r"^FOLDING: .*\{$", plans, re.M)
    assert '"affine_folding": ' in plans
    assert "def steps_of(" in plans


def test_every_page_is_in_the_site():
    """mkdocs.yml lists them by hand, for their order."""
    listed = set(re.findall(r"^ +- .*?([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M))
    assert listed == {page.name for page in DOCS.glob("*.md")}
