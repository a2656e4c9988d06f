"""A few of the moments of `make kill-loops`."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.proof
@pytest.mark.skipif(sys.platform == "win32", reason="forks")
@pytest.mark.parametrize("work", ["train", "export", "pictures", "tune"])
def test_nothing_is_lost_or_left_at_random_moments(work):
    program = Path(__file__).with_name("kill_loops.py")
    command = [sys.executable, program, "--moments", "8", "--seed", "1", "--only", work]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
