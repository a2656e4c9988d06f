"""The memory of an int8 export does not grow with the calibration set."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys, tempfile, numpy as np
sys.path.insert(0, "tests/export")
from conftest import SmallModel
from edgeae_export import export
from edgeae_runtime.machine import peak_memory_mib
images = np.random.default_rng(0).integers(0, 255, (int(sys.argv[1]), 1, 16, 16), np.uint8)
before = peak_memory_mib()
with tempfile.TemporaryDirectory() as folder:
    export(SmallModel(), folder + "/bundle", quantize="int8", calibration=images, target="x86-vnni")
print(peak_memory_mib() - before)
"""
FEW, MANY = 2_000, 200_000
GROWTH_MIB = (MANY - FEW) * 16 * 16 * 4 / (1 << 20)
"""By how much the set grows as float32."""
SHARE = 0.2
"""Of that growth, the most that the process may grow by: less than one copy of the set as it is. Two runs of one export
differ by allocators and tracing."""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_calibration_set():
    few, many = (
        float(
            subprocess.run(
                [sys.executable, "-c", SCRIPT, str(count)], capture_output=True, text=True, check=True
            ).stdout
        )
        for count in (FEW, MANY)
    )
    assert many - few < SHARE * GROWTH_MIB
