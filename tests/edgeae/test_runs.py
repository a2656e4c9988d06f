"""`train`, `export` and `demo` lose nothing: leave to replace, a resume that remembers, and what an interrupt says."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from edgeae_runtime.errors import InputError

from edgeae.checkpoint import load_checkpoint
from edgeae.command import runs
from edgeae.demo import one_of_each

NOTHING = runs.Given(None, None, None, None, None, None, None, {})


def command(*arguments):
    return [sys.executable, "-m", "edgeae", *map(str, arguments)]


def run(*arguments, cwd):
    return subprocess.run(command(*arguments), cwd=cwd, capture_output=True, text=True, timeout=900)


def next_line(output):
    return next(line for line in output.splitlines() if line.startswith("Next: ")).removeprefix("Next: ")


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "tiny set.npy", (rng.random((400, 32, 32, 1)) * 255).astype(np.uint8))
    return tmp_path


@pytest.fixture
def typed_run(folder):
    done = run(
        "train", "--data", "tiny set.npy", "--epochs", 1, "--latent-dim", 8, "--batch-size", 32, "--out", "r 8",
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, folder / "r 8"


@pytest.mark.slow
def test_a_checkpoint_is_replaced_only_with_leave(typed_run):
    folder, out = typed_run
    before = (out / "checkpoint.json").read_bytes()
    done = run("train", "--data", "tiny set.npy", "--epochs", 1, "--out", out, cwd=folder)
    assert done.returncode == 2
    assert "--overwrite" in done.stderr
    assert "--resume" in done.stderr
    assert (out / "checkpoint.json").read_bytes() == before
    done = run("train", "--data", "tiny set.npy", "--epochs", 1, "--out", out, "--overwrite", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert load_checkpoint(out).latent_dim == 2
    assert next_line(done.stdout).startswith("edgeae export ")
    assert shlex.split(next_line(done.stdout))[2] == str(out)


@pytest.mark.slow
def test_resume_remembers_and_only_what_is_typed_contradicts(typed_run):
    folder, out = typed_run
    done = run("train", "--resume", "--out", "r 8", "--epochs", 2, cwd=folder)
    assert done.returncode == 0, done.stderr
    resumed = load_checkpoint(out)
    assert (resumed.epochs_done, resumed.latent_dim, resumed.training.batch_size) == (2, 8, 32)
    before = (out / "checkpoint.json").read_bytes()
    for typed in (["--latent-dim", 2], ["--batch-size", 64], ["--kind", "vae"], ["--data", "sample"], ["--seed", 1],
                  ["--preset", "medium"], ["--learning-rate", 0.1], ["--overwrite"]):  # fmt: skip
        done = run("train", "--resume", "--out", "r 8", *typed, cwd=folder)
        assert done.returncode == 2, typed
        assert (out / "checkpoint.json").read_bytes() == before
    assert run("train", "--resume", "--out", "r 8", "--preset", "small", cwd=folder).returncode == 0


def test_a_run_that_is_resumed_gives_what_was_not_typed(checkpoint, monkeypatch):
    asked = []
    monkeypatch.setattr(runs, "load_images", lambda name, pictures, on_progress: asked.append(name))
    _, config, training = runs.prepare_run(NOTHING, checkpoint.path, resume=True, overwrite=False, tell=print)
    assert asked == [checkpoint.data_name]
    assert config == checkpoint.config
    assert training.epochs == checkpoint.training.epochs
    with pytest.raises(InputError, match="--overwrite"):
        runs.prepare_run(NOTHING, checkpoint.path, resume=False, overwrite=False, tell=print)


def interrupted(folder, number, *arguments, after="test images"):
    """Stop `train` by a signal some time after a line of its output."""
    process = subprocess.Popen(
        command("train", "--data", "tiny set.npy", "--epochs", 100000, "--out", "out put", *arguments),
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    lines = []
    for line in process.stdout:
        lines.append(line)
        if after in line:
            break
    if after == "test images":
        time.sleep(0.02)
    process.send_signal(number)
    rest, _ = process.communicate(timeout=60)
    return process.returncode, "".join(lines) + rest


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_says_what_is_there_and_next_goes_on(folder, number, status):
    code, output = interrupted(folder, number, "--latent-dim", 8, "--batch-size", 4)
    assert code == status, output
    assert "Traceback" not in output
    first = not (folder / "out put" / "checkpoint.json").exists()
    typed = ["edgeae", "train", "--data", "tiny set.npy", "--epochs", "100000", "--out", "out put"]
    if first:
        assert "no checkpoint" in output
        assert shlex.split(next_line(output)) == [*typed, "--latent-dim", "8", "--batch-size", "4"]
    code, output = interrupted(folder, number, *(() if first else ("--overwrite",)), after="epoch 1 of")
    assert code == status, output
    kept = load_checkpoint(folder / "out put").epochs_done
    assert f"holds the {kept} finished epoch" in output
    assert shlex.split(next_line(output)) == [*typed, "--resume"]
    assert len(list((folder / "out put").iterdir())) == 4
    again = shlex.split(next_line(output))[1:]
    again[again.index("100000")] = str(kept + 1)
    done = run(*again, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert load_checkpoint(folder / "out put").epochs_done == kept + 1


def test_what_an_interrupt_says(checkpoint, tmp_path):
    typed = ["train", "--data", "my set", "--out", "x"]
    told, command = runs.stopped(tmp_path, None, typed)
    assert "no checkpoint yet" in told
    assert command == "edgeae train --data 'my set' --out x"
    told, command = runs.stopped(checkpoint.path, runs.stamp(checkpoint.path), [*typed, "--overwrite"])
    assert "holds what it held" in told
    assert command.endswith("--out x --overwrite")
    told, command = runs.stopped(checkpoint.path, None, [*typed, "--overwrite"])
    assert "2 finished epochs" in told
    assert command.endswith("--out x --resume")


@pytest.mark.slow
def test_export_asks_for_images_only_where_it_needs_them(typed_run):
    folder, _ = typed_run
    os.rename(folder / "tiny set.npy", folder / "elsewhere.npy")  # noqa: PTH104
    done = run("export", "r 8", "--out", "float", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "cannot be had" in done.stdout
    done = run("export", "r 8", "--out", "int8", "--quantize", "int8", cwd=folder)
    assert done.returncode == 2
    assert "--calibration" in done.stderr
    done = run("export", "r 8", "--out", "int8", "--quantize", "int8", "--calibration", "elsewhere.npy", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "int8" / "manifest.json").read_bytes())["quantization"]["calibration_images"] > 100


@pytest.mark.parametrize("classes", [1, 2, 10, 30])
def test_pictures_are_chosen_from_any_number_of_classes(classes):
    labels = np.random.default_rng(0).integers(0, classes, 100)
    rows = one_of_each(labels, 10)
    assert len(rows) == len(set(rows.tolist())) == 10
    assert len(np.unique(labels[rows])) == min(classes, 10)
    if classes == 10:
        assert rows.tolist() == [int(np.flatnonzero(labels == label)[0]) for label in range(10)]
    assert len(one_of_each(labels[:3], 10)) == 3


@pytest.mark.slow
def test_a_finished_run_is_tidied_when_it_is_resumed(typed_run):
    """The writer may be killed after the checkpoint was written and before the old one was removed."""
    folder, out = typed_run
    (out / "metrics.json").write_text("{}")
    (out / "model-0000-0123abcd.safetensors").write_bytes(b"old")
    assert run("train", "--resume", "--out", "r 8", cwd=folder).returncode == 0
    assert len(list(out.iterdir())) == 4
    assert len(json.loads((out / "metrics.json").read_text())["history"]) == 1


@pytest.mark.slow
def test_a_demo_of_two_classes_draws(folder):
    from PIL import Image

    rng = np.random.default_rng(0)
    for label in ("cats", "dogs"):
        (folder / "two" / label).mkdir(parents=True)
        for index in range(40):
            pixels = (rng.random((64, 64, 3)) * 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "two" / label / f"{index}.png")
    done = run("demo", "--data", "two", "--epochs", "1", "--out", "de mo", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(Path(folder / "de mo" / "pictures").iterdir())) == 5
    assert "--bundle 'de mo/bundle-int8'" in done.stdout
