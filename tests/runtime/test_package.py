"""What importing costs, what is public, and how time is measured."""

import os
import subprocess
import sys

import edgeae_runtime
import numpy as np
import pytest
from edgeae_runtime.cold_start import bundle_command, measure
from edgeae_runtime.images import contact_sheet

HEAVY = ("torch", "onnx", "typer", "rich", "PIL", "matplotlib", "edgeae", "edgeae_export")
MAX_MEMORY_MIB = 80
MAX_START_MS = 150
MAX_IMPORT_MS = 120
native = pytest.mark.skipif("EDGEAE_PYTHON" in os.environ, reason="an emulator's time and memory tell nothing")
SHARED_MACHINE = 2  # other work on the machine may slow a start-up this many times


def test_public_names():
    assert sorted(edgeae_runtime.__all__) == [
        "Autoencoder", "Bundle", "BundleError", "Check", "EdgeAEError", "Golden", "InputError", "IntegrityError",
        "Manifest", "ParityError", "ProviderError", "available_providers", "open_bundle", "verify",
    ]  # fmt: skip
    for name in edgeae_runtime.__all__:
        assert hasattr(edgeae_runtime, name)


def test_running_a_bundle_imports_nothing_heavy(bundle):
    code = (
        "import sys, edgeae_runtime, edgeae_runtime.cli\n"
        f"ae = edgeae_runtime.Autoencoder.load({str(bundle)!r}); ae.sample(2, seed=0); "
        f"edgeae_runtime.verify({str(bundle)!r})\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@native
def test_importing_costs_little_over_its_two_libraries():
    code = (
        "import time, numpy, onnxruntime\nstart = time.perf_counter()\nimport edgeae_runtime\n"
        "print(1e3 * (time.perf_counter() - start))"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(5)]
    assert min(float(run.stdout) for run in runs) <= MAX_IMPORT_MS


@native
def test_first_image_comes_soon_and_small(bundle):
    figures = measure(bundle_command(bundle, "decoder", "cpu"), runs=5)
    assert figures["peak_memory_mib"] <= MAX_MEMORY_MIB
    assert figures["total_ms"] <= MAX_START_MS * SHARED_MACHINE
    assert figures["import_ms"] + figures["load_ms"] + figures["first_call_ms"] < figures["total_ms"]


def test_contact_sheet_places_every_image():
    images = np.linspace(0, 1, 5, dtype=np.float32)[:, None, None, None] * np.ones((1, 1, 4, 4), np.float32)
    sheet = contact_sheet(images, columns=3, gap=1)
    assert sheet.shape == (2 * 4 + 1, 3 * 4 + 2)
    assert [sheet[0, 0], sheet[0, 5], sheet[5, 0]] == [0, 64, 191]
    assert sheet[8, 13] == 255  # the empty place stays white
    assert contact_sheet(np.zeros((1, 3, 4, 4), np.float32)).shape == (4, 4, 3)
