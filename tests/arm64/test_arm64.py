"""The bundle on 64-bit ARM: a Raspberry Pi 4 (Cortex-A72) and a Raspberry Pi 5 (Cortex-A76), emulated.

Emulation proves that the numbers are right, never that they come fast. `make test-arm64` builds the user land (see
prepare.sh) and names its folder in EDGEAE_ARM64.
"""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from edgeae_export import export
from edgeae_export.modules.running import torch_runner
from edgeae_runtime import Autoencoder
from edgeae_runtime.parity import psnr

from tests.export.conftest import SmallModel

pytestmark = pytest.mark.arm64

SAME_DB = 0.5
"""Int8 kernels of two processors round float scales differently, here and there by one step."""
ROOT = Path(__file__).parent.parent.parent
PYTHON = Path(__file__).parent / "python.sh"
THE_SAME_ANYWHERE = ("test_exits.py", "test_documents.py", "test_files.py", "test_variants.py")
KINDS = {
    "none": ("none", "raspberry-pi-4"),
    "int8": ("int8", "raspberry-pi-4"),
    "signed": ("int8", "raspberry-pi-5"),
}
"""Bundles with their further forms: of float32, of int8, and of int8 with signed activations."""
BOARDS = {"raspberry-pi-4": "cortex-a72", "raspberry-pi-5": "cortex-a76"}


@pytest.fixture(scope="module")
def user_land() -> Path:
    folder = os.environ.get("EDGEAE_ARM64")
    if not folder:
        pytest.fail("EDGEAE_ARM64 names no emulated user land: run make test-arm64")
    return Path(folder).resolve()


@pytest.fixture(scope="module")
def smooth_images():
    noise = np.random.default_rng(0).random((120, 1, 20, 20))
    smooth = sum(noise[:, :, i : i + 16, j : j + 16] for i in range(5) for j in range(5)) / 25
    return np.rint((smooth - smooth.min()) / np.ptp(smooth) * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory, smooth_images):
    folder = tmp_path_factory.mktemp("arm64")
    for kind, (quantize, target) in KINDS.items():
        export(SmallModel(), folder / kind, quantize=quantize, calibration=smooth_images, target=target)
    return folder


def emulate(user_land, cpu, *arguments):
    command = ["bash", str(PYTHON), str(user_land), cpu, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_golden_vectors_hold(user_land, bundles, board, kind):
    done = emulate(user_land, BOARDS[board], "-m", "edgeae_runtime", "verify", bundles / kind)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Verified" in done.stdout


@pytest.mark.parametrize("board", BOARDS)
def test_int8_images_are_as_faithful_as_here(user_land, bundles, smooth_images, board, tmp_path):
    model, here = SmallModel(), Autoencoder.load(bundles / "int8")
    images = smooth_images.astype(np.float32) / 255
    latents = torch_runner(model.encoder)(images)
    reference = torch_runner(model.decoder)(latents)
    np.save(tmp_path / "latents.npy", latents)
    arguments = ("decode", tmp_path / "latents.npy", "--out", tmp_path / "there.npy", "--bundle", bundles / "int8")
    done = emulate(user_land, BOARDS[board], "-m", "edgeae_runtime", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    there = np.load(tmp_path / "there.npy")
    assert abs(psnr(reference, there) - psnr(reference, here.decode(latents))) < SAME_DB


def test_the_runtimes_own_tests_pass_there(user_land, tmp_path):
    """All that a processor can change; what starts processes by the dozen, and mutates files, says the same here."""
    tests = shutil.copytree(ROOT / "tests" / "runtime", tmp_path / "tests")
    for name in THE_SAME_ANYWHERE:
        (tests / name).unlink()
    # The emulator looks up every path in the user land first, and finds an empty /tmp there: pytest must not list it.
    quick = ("-k", "not mutated and not fuzz and not tune", "-m", "not slow")
    arguments = ("-m", "pytest", "-q", "-p", "no:cacheprovider", *quick, "--rootdir", tests, tests)
    running = {}
    for board, cpu in BOARDS.items():
        command = ["bash", str(PYTHON), str(user_land), cpu, *map(str, arguments)]
        running[board] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for board, process in running.items():
        output, _ = process.communicate(timeout=3600)
        print(board, output.strip().splitlines()[-1])
        assert process.returncode == 0, f"{board}: {output[-3000:]}"
        assert " passed" in output


def test_a_damaged_bundle_is_refused_there_too(user_land, bundles, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(bundles / "int8", broken)
    raw = bytearray((broken / "decoder.onnx").read_bytes())
    raw[len(raw) // 2] ^= 1
    (broken / "decoder.onnx").write_bytes(raw)
    done = emulate(user_land, "cortex-a72", "-m", "edgeae_runtime", "verify", broken)
    assert done.returncode == 1
    assert "SHA-256" in done.stderr
