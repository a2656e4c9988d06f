"""The README's figures are those of the results that lie beside it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def check(folder):
    return subprocess.run([sys.executable, folder / "benchmarks" / "render.py", "--check"], check=False).returncode


def test_the_tables_are_generated():
    assert check(ROOT) == 0


def test_a_figure_changed_by_hand_is_found(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "results").symlink_to(ROOT / "benchmarks" / "results")
    (tmp_path / "benchmarks" / "render.py").write_text((ROOT / "benchmarks" / "render.py").read_text())
    text = (ROOT / "README.md").read_text()
    (tmp_path / "README.md").write_text(text.replace("quantize_static`) | 0.3", "quantize_static`) | 0.9", 1))
    assert check(tmp_path) != 0
