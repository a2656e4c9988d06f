"""The doctor finds what is wrong, and says which command mends it."""

import importlib.metadata
import platform

import pytest
from edgeae_runtime import machine
from edgeae_runtime.command import doctor
from edgeae_runtime.sessions import providers


def test_this_machine_is_healthy():
    findings = doctor.examine()
    ill = [finding for finding in findings if not finding.healthy]
    assert all(
        "int8 may be wrong with AMX" in finding.remedy for finding in ill
    )  # an old ONNX Runtime, a new processor
    assert {"Python", "system", "processor", "cores", "numpy", "onnxruntime", "provider cpu"} <= {
        f.what for f in findings
    }


def remedies():
    return " ".join(finding.remedy for finding in doctor.examine())


def with_versions(monkeypatch, **versions):
    real = importlib.metadata.version

    def version(name):
        key = name.replace("-", "_")
        if key in versions:
            if versions[key] is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return versions[key]
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_two_flavours_over_each_other(monkeypatch):
    with_versions(monkeypatch, onnxruntime_gpu="1.32.0")
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in remedies()


def test_versions_below_the_minimum(monkeypatch):
    with_versions(monkeypatch, onnxruntime="1.9.0", numpy="1.24.4")
    assert "pip install --upgrade 'onnxruntime>=1.23'" in remedies()
    assert "pip install --upgrade 'numpy>=1.26'" in remedies()


def test_no_onnxruntime_at_all(monkeypatch):
    with_versions(monkeypatch, onnxruntime=None)
    assert "pip install 'edgeae-runtime[cpu]'" in remedies()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("machine", "armv7l", "64-bit system"),
        ("libc_ver", ("", ""), "musl"),
    ],
)
def test_systems_without_wheels(monkeypatch, name, value, words):
    monkeypatch.setattr(platform, name, lambda *args: value)
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    assert words in remedies()


def test_thirty_two_bits(monkeypatch):
    monkeypatch.setattr(doctor.struct, "calcsize", lambda code: 4)
    assert "no wheels for 32 bits" in remedies()


def test_a_processor_without_avx2(monkeypatch):
    monkeypatch.setattr(doctor, "instruction_sets", lambda: ["avx512f"])
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert "Without AVX2" in remedies()


@pytest.mark.parametrize(
    ("architecture", "flags", "bad", "good"),
    [
        ("x86_64", ["avx2", "avx512f", "amx_int8"], "1.24.4", "1.25.0"),
        ("x86_64", ["avx2", "avx_vnni"], "1.23.0", "1.32.0"),
        ("aarch64", ["asimd"], "1.29.0", "1.30.0"),
    ],
)
def test_processors_that_older_kernels_mishandle(monkeypatch, architecture, flags, bad, good):
    monkeypatch.setattr(doctor, "instruction_sets", lambda: flags)
    monkeypatch.setattr(platform, "machine", lambda: architecture)
    with_versions(monkeypatch, onnxruntime=bad)
    assert "int8 may be wrong" in remedies()
    with_versions(monkeypatch, onnxruntime=good)
    assert "int8" not in remedies()


def test_a_processor_that_older_kernels_handle(monkeypatch):
    monkeypatch.setattr(doctor, "instruction_sets", lambda: ["avx2", "avx_vnni", "avx512f", "avx512_vnni"])
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    with_versions(monkeypatch, onnxruntime="1.23.0")
    assert "int8" not in remedies()


def test_a_provider_that_cannot_start(monkeypatch):
    monkeypatch.setattr(providers, "available_providers", lambda: ("cpu", "cuda"))
    monkeypatch.setattr(providers, "missing_library", lambda: "libcuda.so.1 is missing")
    (finding,) = [finding for finding in doctor.examine() if finding.what == "provider cuda"]
    assert "libcuda.so.1 is missing" in finding.remedy


@pytest.mark.parametrize(("text", "cores"), [("max 100000", None), ("150000 100000", 1.5), ("50000 100000", 0.5)])
def test_a_containers_quota_limits_the_cores(monkeypatch, tmp_path, text, cores):
    (tmp_path / "cpu.max").write_text(text)
    real = machine.Path

    class Redirected(real):
        def __new__(cls, path):
            return real(str(path).replace("/sys/fs/cgroup", str(tmp_path)))

    monkeypatch.setattr(machine, "Path", Redirected)
    assert machine.cgroup_cores() == cores
    if cores is not None:
        assert machine.usable_cores() <= max(1, round(cores + 0.49))
