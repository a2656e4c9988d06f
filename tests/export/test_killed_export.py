"""Processes that are really killed while they write a bundle."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from edgeae_runtime import verify

WRITER = """
import sys, itertools
from pathlib import Path
sys.path.insert(0, {tests!r})
from conftest import SmallModel
import numpy as np
from edgeae_export import pipeline
from edgeae_export.bundle import writer as writer

captured = {{}}
def capture(contents, out, overwrite):
    captured["contents"] = contents
    return writer.write_bundle(contents, out, overwrite=overwrite)
pipeline.write_bundle = capture
pipeline.export(SmallModel(), Path({out!r}), overwrite=True)
print("ready", flush=True)
while True:
    writer.write_bundle(captured["contents"], Path({out!r}), overwrite=True)
"""
KILLS = 12


@pytest.mark.slow
def test_a_kill_leaves_a_whole_bundle_or_none(tmp_path):
    out = tmp_path / "bundle"
    code = WRITER.format(tests=str(Path(__file__).parent), out=str(out))
    random.seed(0)
    whole = 0
    for _ in range(KILLS):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(random.uniform(0, 0.05))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        if out.exists():
            assert all(check.passed for check in verify(out))
            whole += 1
    assert whole > 0


@pytest.mark.slow
def test_a_kill_at_any_stage_leaves_the_old_bundle(tmp_path, images, model):
    from edgeae_export import export

    out = tmp_path / "bundle"
    export(model, out)
    before = (out / "manifest.json").read_bytes()
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from conftest import SmallModel\n"
        "import os, signal\nfrom edgeae_export import export\n"
        "def on_stage(stage):\n    if stage.startswith(sys.argv[1]): os.kill(os.getpid(), signal.SIGKILL)\n"
        f"export(SmallModel(1), {str(out)!r}, overwrite=True, on_progress=on_stage)"
    )
    for stage in ("measure", "trace", "check parity", "write"):
        done = subprocess.run([sys.executable, "-c", code, stage], check=False)
        assert done.returncode == -signal.SIGKILL
        assert (out / "manifest.json").read_bytes() == before
        assert all(check.passed for check in verify(out))
