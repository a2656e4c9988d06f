"""What importing costs, what is public, and how time is measured."""

import os
import subprocess
import sys

import edgeae_runtime
import numpy as np
import pytest
from edgeae_runtime.measure.cold_start import bundle_command, measure
from edgeae_runtime.pictures.images import contact_sheet

HEAVY = ("torch", "onnx", "typer", "rich", "PIL", "matplotlib", "edgeae", "edgeae_export")
MAX_IMPORT = 0.5  # of the CPU time that importing numpy and onnxruntime takes; measured: 0.12, 0.30 without .pyc files
MAX_START = 2.0  # times the CPU time of a process that only imports these; measured: 1.4, 1.5 without
MAX_MEMORY = 1.6  # times the memory of that process; measured: 1.27, and 1.42 where OpenBLAS has one thread
RUNS = 5
native = pytest.mark.skipif("EDGEAE_PYTHON" in os.environ, reason="an emulator's time and memory tell nothing")


def test_public_names():
    assert sorted(edgeae_runtime.__all__) == [
        "Autoencoder", "Bundle", "BundleError", "Check", "EdgeAEError", "Golden", "InputError", "IntegrityError",
        "Manifest", "ParityError", "ProviderError", "TimeLimitError", "available_providers", "open_bundle", "verify",
    ]  # fmt: skip
    for name in edgeae_runtime.__all__:
        assert hasattr(edgeae_runtime, name)


def test_running_a_bundle_imports_nothing_heavy(bundle):
    code = (
        "import sys, edgeae_runtime, edgeae_runtime.command.cli\n"
        f"ae = edgeae_runtime.Autoencoder.load({str(bundle)!r}); ae.sample(2, seed=0); "
        f"edgeae_runtime.verify({str(bundle)!r})\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_loads_little_beside_its_two_libraries():
    """Modules that only loading, verifying or measuring needs come with the first call: each costs milliseconds."""
    code = (
        "import sys, numpy, onnxruntime\nbefore = set(sys.modules)\nfrom edgeae_runtime import Autoencoder\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    late = {
        "concurrent.futures",
        "hashlib",
        "json",
        "logging",
        "pathlib",
        "shutil",
        "subprocess",
        "tempfile",
        "zipfile",
    }
    own = ("measure", "guard", "pictures", "command", "sessions.streams", "apart")
    assert loaded & late == set()
    assert not [name for name in loaded if name.startswith(tuple(f"edgeae_runtime.{place}" for place in own))]
    assert len(loaded) < 40


@native
def test_importing_costs_little_over_its_two_libraries():
    code = (
        "import time\nstart = time.process_time()\nimport numpy, onnxruntime\nmiddle = time.process_time()\n"
        "import edgeae_runtime\nprint((time.process_time() - middle) / (middle - start))"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(RUNS)
    ]
    assert min(float(run.stdout) for run in runs) <= MAX_IMPORT


def cpu_and_memory(code):
    """CPU seconds of a fresh process, and the most memory it had: what a busy machine changes little."""
    import resource  # POSIX has it

    told = "\nprint([line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0])"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code + told], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, float(done.stdout)


@native
@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux tells of a process's memory")
def test_first_image_costs_little_over_its_two_libraries(bundle):
    libraries = "import numpy, onnxruntime"
    image = (
        "import numpy, edgeae_runtime\n"
        f"edgeae_runtime.Autoencoder.load({str(bundle)!r}, parts=('decoder',)).decode(numpy.zeros(3, 'float32'))"
    )
    turns = [(cpu_and_memory(libraries), cpu_and_memory(image)) for _ in range(RUNS)]
    least_libraries, least_image = (np.min(figures, axis=0) for figures in zip(*turns, strict=True))
    cpu, memory = least_image / least_libraries
    assert cpu <= MAX_START
    assert memory <= MAX_MEMORY


@native
def test_a_cold_start_is_measured_stage_by_stage(bundle):
    figures = measure(bundle_command(bundle, "decoder", "cpu"), runs=1)
    assert figures["import_ms"] + figures["load_ms"] + figures["first_call_ms"] < figures["total_ms"]
    assert all(value > 0 for value in figures.values())


def test_contact_sheet_places_every_image():
    images = np.linspace(0, 1, 5, dtype=np.float32)[:, None, None, None] * np.ones((1, 1, 4, 4), np.float32)
    sheet = contact_sheet(images, columns=3, gap=1)
    assert sheet.shape == (2 * 4 + 1, 3 * 4 + 2)
    assert [sheet[0, 0], sheet[0, 5], sheet[5, 0]] == [0, 64, 191]
    assert sheet[8, 13] == 255  # the empty place stays white
    assert contact_sheet(np.zeros((1, 3, 4, 4), np.float32)).shape == (4, 4, 3)
