"""`edgeae` as a user types it: real files, from pictures to a verified bundle, and every refusal."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeae.command import console
from edgeae.command.app import main
from edgeae.data import load_images, prepare

pytestmark = pytest.mark.slow  # a model is trained and exported


@pytest.fixture
def run(call, monkeypatch):
    """`edgeae` in this process, in a folder."""

    def run(*arguments, cwd=None):
        with monkeypatch.context() as patch:
            patch.setattr(console.console, "stderr", False)  # which --json - changes for good
            if cwd is not None:
                patch.chdir(cwd)
            return call(main, *arguments)

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory, run_program) -> Path:
    """A folder in which `edgeae train` and `edgeae export --quantize int8` were run, without other arguments."""
    folder = tmp_path_factory.mktemp("trained")
    done = run_program("edgeae", "train", "--data", "sample", "--epochs", "1", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "entropy" in done.stdout
    assert "0.18" in done.stdout
    assert "Next: edgeae export --quantize int8" in done.stdout
    done = run_program("edgeae", "export", "--quantize", "int8", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "Next: edgeae bench" in done.stdout
    assert "int8: sub-pixel" in done.stdout
    assert "int8 against float32 on this machine: encoder" in done.stdout
    return folder


def test_export_prints_operators_sizes_and_parity(trained, run):
    done = run("export", "--out", "float32", cwd=trained)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("✓") == 12 + 5  # three outputs in four batches, four on corners, and that all are finite
    for words in ("traced", "simplified", "float32: ", "3 ConvTranspose", "round trip, batch 7"):
        assert words in done.stdout


def test_the_runtime_alone_verifies_the_bundle(trained, run_program):
    assert run_program("edgeae_runtime", "verify", trained / "bundle").returncode == 0


def test_verify_with_and_without_torch(trained, run):
    done = run("verify", cwd=trained)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("✓") == 3 + 3  # on real images and on corners
    done = run("verify", "--checkpoint", "runs/latest", "--json", "verify.json", cwd=trained)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("✓") > 12
    assert json.loads((trained / "verify.json").read_text())["passed"] is True


def test_verify_against_another_checkpoint_fails(trained, run, refused):
    other = run("train", "--data", "sample", "--epochs", "1", "--seed", "1", "--out", "other", cwd=trained)
    assert other.returncode == 0, other.stderr
    done = run("verify", "--checkpoint", "other", cwd=trained)
    refused(done, "Parity failed", status=1)
    assert "✗" in done.stdout


def test_bench_compares_three_variants_and_says_who_wins(trained, run):
    done = run("bench", "--batch", "1", "--part", "decoder", "--json", "bench.json", cwd=trained)
    assert done.returncode == 0, done.stderr
    report = json.loads((trained / "bench.json").read_text())
    assert [row["variant"] for row in report["rows"]] == [
        "torch eager",
        "plain float32",
        "this bundle",
        "the same again",
    ]
    fastest = min(report["rows"][:3], key=lambda row: row["median_us"])
    assert fastest["variant"] in report["verdict"]
    assert "wins" in report["verdict"]
    assert f"{report['quality']['decoder_psnr_db']:.1f} dB" in report["verdict"]
    assert report["machine"]["torch"]
    for start in report["cold_start"]:
        assert 0 < start["import_ms"] < start["total_ms"]
    # Torch needs several times the memory and the time: if not, these figures are not of fresh processes.
    memory = {start["variant"]: start["peak_memory_mib"] for start in report["cold_start"]}
    assert memory["torch eager"] > 2 * memory["this bundle"]


def test_inspect_lists_layers(trained, run):
    done = run("inspect", cwd=trained)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("int8") >= 8
    assert "ConvTranspose" in done.stdout


def test_files_in_files_out(trained, tmp_path, run):
    images = prepare(load_images("sample").test_images[:6], 32)
    np.save(tmp_path / "images.npy", images)
    bundle = ("--bundle", trained / "bundle", "--out")
    for arguments in (
        ("encode", tmp_path / "images.npy", *bundle, tmp_path / "z.npy"),
        ("decode", tmp_path / "z.npy", *bundle, tmp_path / "decoded.png"),
        ("reconstruct", tmp_path / "images.npy", *bundle, tmp_path / "again.npy"),
        ("sample", 9, "--seed", 1, *bundle, tmp_path / "new.png"),
    ):
        done = run(*arguments)
        assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "z.npy").shape == (6, 2)
    error = np.mean((np.load(tmp_path / "again.npy") - images / 255.0) ** 2)
    assert error < 0.1  # one epoch on the sample; an untrained decoder makes 0.2
    np.save(tmp_path / "a.npy", images[0])
    np.save(tmp_path / "b.npy", images[1])
    done = run("interpolate", tmp_path / "a.npy", tmp_path / "b.npy", *bundle, tmp_path / "line.npy")
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "line.npy").shape == (9, 1, 32, 32)


def test_no_checkpoint(tmp_path, run, refused):
    refused(run("export", cwd=tmp_path), "no checkpoint", "edgeae train")
    refused(run("verify", "--checkpoint", "absent", cwd=tmp_path), "no bundle")


def test_bad_bundles(trained, tmp_path, run, refused):
    (tmp_path / "file").write_text("x")
    for command in ("verify", "bench", "inspect"):
        refused(run(command, tmp_path / "file"), "is a file, expected a bundle")
        refused(run(command, tmp_path / "absent"), "no bundle at")
    broken = shutil.copytree(trained / "bundle", tmp_path / "broken")
    raw = bytearray((broken / "decoder.onnx").read_bytes())
    raw[len(raw) // 2] ^= 1
    (broken / "decoder.onnx").write_bytes(raw)
    refused(run("bench", broken, "--checkpoint", trained / "runs/latest"), "not the file that was exported")
    refused(run("sample", "--bundle", broken, "--out", tmp_path / "x.npy"), "not the file that was exported")
    refused(run("verify", broken), "not the file that was exported", status=1)


def test_bad_images(trained, tmp_path, run, refused):
    options = ("--bundle", trained / "bundle", "--out", tmp_path / "out.npy")
    np.save(tmp_path / "size.npy", np.zeros((1, 1, 20, 24), np.float32))
    refused(run("encode", tmp_path / "size.npy", *options), "[1, 1, 20, 24]", "32")
    np.save(tmp_path / "nan.npy", np.full((1, 1, 32, 32), np.nan, np.float32))
    refused(run("encode", tmp_path / "nan.npy", *options), "nan")
    (tmp_path / "empty").mkdir()
    refused(run("encode", tmp_path / "empty", *options), "no pictures")
    calibrate = ("export", trained / "runs/latest", "--out", tmp_path / "bundle", "--quantize", "int8", "--calibration")
    refused(run(*calibrate, tmp_path / "empty"), "no pictures")
    refused(run(*calibrate, tmp_path / "nan.npy"), "at least two")
    np.save(tmp_path / "nans.npy", np.full((9, 1, 32, 32), np.nan, np.float32))
    refused(run(*calibrate, tmp_path / "nans.npy"), "nan")
    refused(run(*calibrate, tmp_path / "absent"), "absent")
    assert not (tmp_path / "bundle").exists()


def test_bad_data_folders(tmp_path, run, refused):
    (tmp_path / "empty").mkdir()
    refused(run("train", "--data", tmp_path / "empty"), "train-images-idx3-ubyte")
    refused(run("train", "--data", "no-such-set"), "no-such-set", "fashion-mnist")
    refused(run("train", "--data", "sample", "--image-size", "30"), "multiple of 8")
    refused(run("train", "--data", "sample", "--epochs", "0"), "epochs")


def test_unknown_provider_and_arguments(trained, tmp_path, run, refused):
    bundle = trained / "bundle"
    refused(run("verify", bundle, "--provider", "tpu"), "'tpu'")
    refused(run("bench", bundle, "--provider", "cuda", "--checkpoint", trained / "runs/latest"), "edgeae-runtime[cuda]")
    refused(run("bench", bundle, "--batch", "0"), "whole numbers from 1")
    refused(run("bench", bundle, "--part", "nose"), "nose")
    refused(run("export", trained / "runs/latest", "--out", tmp_path / "b", "--quantize", "int4"), "none, int8")
    refused(run("export", trained / "runs/latest", "--out", bundle), "--overwrite")
    assert run("no-such-command").returncode == 2


def test_a_full_disk_and_an_unwritable_folder(trained, tmp_path, run, run_program, refused):
    # A limit on file sizes fails as a full disk does: in the middle of a write.
    checkpoint = trained / "runs/latest"
    refused(
        run_program("edgeae", "export", checkpoint, "--out", tmp_path / "bundle", limit_bytes=100_000), "cannot be used"
    )
    assert list(tmp_path.iterdir()) == []
    refused(
        run_program(
            "edgeae", "train", "--data", "sample", "--epochs", "1", "--out", tmp_path / "run", limit_bytes=100_000
        ),
        "write",
    )
    (tmp_path / "file").write_text("x")
    refused(run("export", checkpoint, "--out", tmp_path / "file" / "bundle"), "cannot be written")
    refused(run("train", "--data", "sample", "--out", tmp_path / "file" / "run"), "write")


def test_demo_without_the_data_set_uses_the_sample_and_says_so(tmp_path, run, refused):
    """The whole story, on a machine without Fashion-MNIST and without network."""
    hidden = {"EDGEAE_CACHE": str(tmp_path / "cache"), "https_proxy": "http://127.0.0.1:9"}
    code = (
        "import sys; from pathlib import Path; from edgeae.data import load\n"
        "load._package_folders = lambda: (Path('/nowhere'),)\n"
        "from edgeae.data import download\n"
        "def fetch(folder): raise OSError('no network')\n"
        "download.fetch = fetch\n"
        "from edgeae.command.app import main; sys.exit(main(['demo', '--epochs', '1']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False,
        timeout=500, env={**os.environ, **hidden},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "notice" in done.stdout
    assert "embedded sample" in done.stdout
    demo = tmp_path / "demo"
    assert sorted(path.name for path in (demo / "pictures").iterdir()) == [
        "decoded-plane.png", "latent-plane.png", "loss.png", "reconstructions.png", "samples.png",
    ]  # fmt: skip
    metrics = json.loads((demo / "metrics.json").read_text())
    assert metrics["data"]["name"] == "sample"
    assert metrics["verify"]["int8"]["passed"]
    assert metrics["bytes"]["int8"]["decoder"] < 0.5 * metrics["bytes"]["float32"]["decoder"]
    refused(run("demo", "--data", "sample", "--out", Path(__file__).parent), "left alone")
