"""The README's figures are those of the results that lie beside it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def check(folder):
    command = [sys.executable, "-m", "benchmarks.render", "--check"]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode


@pytest.fixture
def copy(tmp_path):
    """What the check reads, in a folder of its own."""
    (tmp_path / "benchmarks").mkdir()
    for name in ("__init__.py", "render.py", "results", "zoo"):
        (tmp_path / "benchmarks" / name).symlink_to(ROOT / "benchmarks" / name)
    shutil.copy(ROOT / "README.md", tmp_path)
    return tmp_path


def test_the_tables_are_generated(copy):
    assert check(ROOT) == 0
    assert check(copy) == 0


TEXT = (ROOT / "README.md").read_text()
TABLES = re.findall(r"<!-- table (\w+) -->", TEXT)


@pytest.mark.parametrize("table", TABLES)
def test_a_figure_changed_by_hand_is_found(copy, table):
    start = TEXT.index(f"<!-- table {table} -->")
    figure = re.compile(r"\d+\.\d").search(TEXT, start)
    (copy / "README.md").write_text(f"{TEXT[: figure.start()]}9{TEXT[figure.start() :]}")
    assert check(copy) != 0


def test_every_picture_that_is_shown_is_there():
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", TEXT):
        assert (ROOT / path).stat().st_size < 500_000, path
