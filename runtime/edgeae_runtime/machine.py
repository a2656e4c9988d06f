"""What machine this is: the words that belong beside every timing."""

from __future__ import annotations

import contextlib
import math
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from edgeae_runtime.errors import InputError

FEW_THREADS = 16
"""So many threads are no harm on any machine."""
_TELLING_FLAGS = (
    "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
"""The instruction sets that ONNX Runtime's and torch's kernels choose by."""


def instruction_sets() -> list[str]:
    """The instruction sets of this processor that kernels choose by; empty where the system does not tell."""
    _, flags = _processor()
    return [flag for flag in _TELLING_FLAGS if flag in flags]


def describe_machine() -> dict[str, Any]:
    """Processor, usable cores, memory and versions, as JSON."""
    model, _ = _processor()
    return {
        "processor": model or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "instruction_sets": instruction_sets(),
        "cores": usable_cores(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnxruntime": ort.__version__,
    }


def usable_cores() -> int:
    """Cores this process may use: its affinity mask, and a container's quota, rounded up."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_cores()
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def check_threads(threads: int) -> None:
    """Refuse more threads than a machine can make use of: thousands of them take minutes to start, and then wait.

    Raises:
        InputError: below 1, or above `FEW_THREADS` and four per usable core.
    """
    if threads < 1:
        raise InputError(f"Got {threads} threads, expected a whole number from 1.")
    if threads > FEW_THREADS and threads > 4 * usable_cores():
        raise InputError(
            f"Got {threads} threads, expected at most {max(FEW_THREADS, 4 * usable_cores())} on this machine, whose "
            f"usable cores are {usable_cores()}: more of them only wait for each other."
        )


def available_memory() -> int | None:
    """Bytes that this process can still take, within a container's limit and its own; None where none is told."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        told = Path("/proc/meminfo").read_text()
        found.append(int(told.split("MemAvailable:")[1].split()[0]) << 10)
    with contextlib.suppress(OSError, ValueError):
        folder = Path("/sys/fs/cgroup")
        found.append(int((folder / "memory.max").read_text()) - int((folder / "memory.current").read_text()))
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        limit, used = resource.getrlimit(resource.RLIMIT_AS)[0], int(Path("/proc/self/statm").read_text().split()[0])
        if limit != resource.RLIM_INFINITY:
            found.append(limit - used * resource.getpagesize())
    return max(0, min(found)) if found else None


def cgroup_cores() -> float | None:
    """The CPU time per second that a container may use (Linux control groups, version 2 or 1); None without a limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            folder = Path("/sys/fs/cgroup/cpu")
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        except OSError:
            return None
    if quota in ("max", "-1"):
        return None
    return int(quota) / int(period)


def peak_memory_mib() -> float | None:
    """The most memory this process ever had resident, in MiB; None where the system does not tell."""
    status = Path("/proc/self/status")
    if status.exists():  # per address space; getrusage would also count what the parent had before exec
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if platform.system() == "Darwin" else 1 << 10)


def _processor() -> tuple[str, set[str]]:
    """Name and flags from /proc/cpuinfo, whose keys differ between x86 and ARM."""
    name, flags = "", set[str]()
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return name, flags
    for line in cpuinfo.read_text(errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model") and not name:
            name = value.strip()
        elif key.strip() in ("flags", "Features") and not flags:
            flags = set(value.split())
    return name, flags


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1)
    except (AttributeError, ValueError, OSError):
        return None
