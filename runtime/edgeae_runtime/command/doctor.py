"""`doctor`: what is wrong with this machine's set-up, and the command that mends it."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import struct
from dataclasses import dataclass

from edgeae_runtime.machine import cgroup_cores, describe_machine, instruction_sets, usable_cores

FLAVOURS = {
    "onnxruntime": "cpu",
    "onnxruntime-gpu": "cuda",
    "onnxruntime-directml": "directml",
}
"""Distributions that install the same Python package over each other, and this project's name for each."""
MINIMUM_ORT = (1, 23)
MINIMUM_NUMPY = (1, 26)


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    what: str
    found: str
    remedy: str = ""
    """What to do; empty when all is well."""

    @property
    def healthy(self) -> bool:
        """Whether nothing is to be done."""
        return not self.remedy


def examine() -> list[Finding]:
    """Look at Python, the processor, the libraries and the limits of this process."""
    return [_python(), _platform(), _processor(), _cores(), _numpy(), *_onnxruntime()]


def _python() -> Finding:
    bits = 8 * struct.calcsize("P")
    version = platform.python_version()
    if bits != 64:
        return Finding(
            "Python", f"{version}, {bits} bits", "ONNX Runtime has no wheels for 32 bits: install a 64-bit system."
        )
    return Finding("Python", f"{version}, {bits} bits")


def _platform() -> Finding:
    libc, version = platform.libc_ver()
    described = f"{platform.system()} {platform.machine()}{f', {libc} {version}' if libc else ''}"
    if platform.system() == "Linux" and libc != "glibc":
        remedy = "ONNX Runtime has wheels for glibc only: use a Debian-like image instead of one built on musl."
        return Finding("system", described, remedy)
    if platform.machine() in ("armv6l", "armv7l", "i686", "i386"):
        return Finding("system", described, "Install the 64-bit system of this board: there are no 32-bit wheels.")
    return Finding("system", described)


def _processor() -> Finding:
    machine, flags = describe_machine(), instruction_sets()
    described = f"{machine['processor']} ({', '.join(flags) or 'no instruction sets told'})"
    return Finding("processor", described, _processor_remedy(platform.machine(), set(flags)))


def _processor_remedy(architecture: str, flags: set[str]) -> str:
    """What to do about a processor that ONNX Runtime's int8 kernels are slow or wrong on; `""` if nothing."""
    installed = _numbers(next(filter(None, map(_version, FLAVOURS)), "999"))
    if architecture in ("x86_64", "AMD64") and flags:
        if "avx2" not in flags:
            return "Without AVX2 int8 is slow: export with --quantize none, and check with edgeae-runtime verify."
        if installed < (1, 25) and ("amx_int8" in flags or ("avx_vnni" in flags and "avx512f" not in flags)):
            # microsoft/onnxruntime pull request 27671 mends the kernels for AMX and AVX2-VNNI.
            return "int8 may be wrong with AMX or AVX2-VNNI before version 1.25: pip install --upgrade onnxruntime"
    if architecture in ("aarch64", "arm64") and flags and "asimddp" not in flags and installed < (1, 30):
        return "int8 may be wrong without dot-product instructions before 1.30: pip install --upgrade onnxruntime"
    return ""


def _cores() -> Finding:
    quota = cgroup_cores()
    limit = "" if quota is None else f", the container allows {quota:g}"
    return Finding("cores", f"{usable_cores()} usable{limit}")


def _numpy() -> Finding:
    version = importlib.metadata.version("numpy")
    if _numbers(version) < MINIMUM_NUMPY:
        return Finding("numpy", version, "pip install --upgrade 'numpy>=1.26'")
    return Finding("numpy", version)


def _onnxruntime() -> list[Finding]:
    installed = {name: version for name in FLAVOURS if (version := _version(name))}
    if not installed:
        return [Finding("ONNX Runtime", "not installed", "pip install 'edgeae-runtime[cpu]'")]
    findings = []
    if len(installed) > 1:
        names = " ".join(installed)
        remedy = (
            f"They overwrite each other's files. Keep one: pip uninstall -y {names}; then "
            "pip install 'edgeae-runtime[cpu]' (or cuda, or directml)"
        )
        findings.append(Finding("ONNX Runtime", f"{len(installed)} flavours: {', '.join(installed)}", remedy))
    for name, version in installed.items():
        old = _numbers(version) < MINIMUM_ORT
        minimum = ".".join(map(str, MINIMUM_ORT))
        findings.append(Finding(name, version, f"pip install --upgrade '{name}>={minimum}'" if old else ""))
    return [*findings, *_providers()]


def _providers() -> list[Finding]:
    from edgeae_runtime.sessions.providers import available_providers, start_problem

    findings = []
    for name in available_providers():
        problem = start_problem(name)
        findings.append(Finding(f"provider {name}", "cannot start" if problem else "can start", problem))
    return findings


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
