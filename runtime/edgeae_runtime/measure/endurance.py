"""What only shows over time: the CPU an idle model uses, and a machine that slows down when it gets hot."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgeae_runtime.measure.timing import median_noise

WINDOWS = 10
IDLE_SECONDS = 2.0


def idle_cpu(seconds: float = IDLE_SECONDS) -> float:
    """Share of one core that this process uses while its caller sleeps; loaded models belong to it."""
    before, start = time.process_time(), time.monotonic()
    time.sleep(seconds)
    return (time.process_time() - before) / (time.monotonic() - start)


def endure(call: Callable[[], object], seconds: float) -> dict[str, Any]:
    """Call without a pause, and compare the end with the beginning.

    Args:
        call: what to run.
        seconds: how long, in `WINDOWS` windows of equal length.

    Returns:
        `windows`: per window `seconds` since the start, `median_us`, and `mhz` and `celsius` where the system tells;
        `slowdown`: median of the last three windows over that of the first three; `noise`: of a window's median;
        `throttled`: whether the slow-down is larger than that.
    """
    windows: list[dict[str, Any]] = []
    start = time.monotonic()
    clock = time.perf_counter_ns
    for index in range(1, WINDOWS + 1):
        times: list[float] = []
        while not times or time.monotonic() - start < seconds * index / WINDOWS:
            before = clock()
            call()
            times.append((clock() - before) / 1e3)
        median = float(np.median(times))
        windows.append({"seconds": round(time.monotonic() - start, 2), "median_us": round(median, 2), **_sensors()})
    medians = np.array([window["median_us"] for window in windows])
    first, last = medians[:3], medians[-3:]
    slowdown, noise = float(np.median(last) / np.median(first)), median_noise(first)
    return {
        "windows": windows,
        "slowdown": round(slowdown, 3),
        "noise": round(noise, 3),
        "throttled": slowdown > 1 + max(2 * noise, 0.05),
    }


def _sensors() -> dict[str, float]:
    """Clock and temperature of the processor, where Linux tells."""
    found = {}
    for name, pattern, scale in (
        ("mhz", "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", 1e-3),
        ("celsius", "class/thermal/thermal_zone0/temp", 1e-3),
    ):
        try:
            found[name] = round(int((Path("/sys") / pattern).read_text()) * scale, 1)
        except (OSError, ValueError):
            continue
    return found
