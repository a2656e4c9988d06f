"""Two processes learn what one learns, started by torchrun or by accelerate."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edgeae import load_checkpoint
from edgeae.checkpoint import load_optimizer

PROGRAM = str(Path(__file__).with_name("train_small.py"))
NOISE = 1e-6  # relative; sums over other groups of images round differently


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def launcher(name: str) -> list[str]:
    if name == "torchrun":
        return ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
    # --multi_gpu is how accelerate says "several processes here"; without GPUs they run on the CPU.
    options = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    return ["-m", "accelerate.commands.launch", *options.split(), "--main_process_port", free_port()]


def run(command: list[str]) -> list[str]:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("single")
    run([PROGRAM, str(out)])
    return out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torchrun", "accelerate"])
def test_two_processes_learn_what_one_learns(name, single, tmp_path):
    lines = run([*launcher(name), PROGRAM, str(tmp_path)])
    ends = [line for line in lines if line.startswith("validation")]
    assert len(ends) == 2  # there were two processes
    assert ends[0] == ends[1]
    assert len([line for line in lines if line.startswith("epoch")]) == 12  # and only one of them reported
    one, two = (json.loads((folder / "metrics.json").read_text())["history"] for folder in (single, tmp_path))
    for alone, together in zip(one, two, strict=True):
        for loss in ("train_loss", "validation_loss", "validation_mse"):
            assert together[loss] == pytest.approx(alone[loss], rel=NOISE), (alone["epoch"], loss)
    # Adam hides a wrong scale of the gradients from the losses, but not from its own mean of them.
    for name, mean in load_optimizer(single).items():
        torch.testing.assert_close(load_optimizer(tmp_path)[name], mean, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.slow
def test_two_processes_resume(single, tmp_path):
    run([*launcher("torchrun"), PROGRAM, str(tmp_path), "--epochs", "2"])
    run([*launcher("torchrun"), PROGRAM, str(tmp_path), "--epochs", "3", "--resume"])
    resumed = load_checkpoint(tmp_path)
    assert [record.epoch for record in resumed.history] == [1, 2, 3]
    assert resumed.history[1].validation_loss == pytest.approx(
        load_checkpoint(single).history[1].validation_loss, rel=NOISE
    )
