"""What tests of several packages share."""

from __future__ import annotations

import copy
import functools
import os
import subprocess
import sys

import pytest


def _run(module, *arguments, cwd=None, limit_bytes=None, shell=None, text=True, environment=None):
    def limit():
        import resource  # POSIX has it

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    command = [sys.executable, "-m", module, *map(_word, arguments)]
    return subprocess.run(
        ["bash", "-c", shell, "bash", *command] if shell else command,
        capture_output=True,
        encoding="utf-8" if text else None,
        check=False,
        timeout=900,
        cwd=cwd,
        env={**os.environ, **({"PYTHONIOENCODING": "utf-8"} if text else {}), **(environment or {})},
        preexec_fn=limit if limit_bytes is not None else None,
    )


def _word(argument):
    return argument if isinstance(argument, str | os.PathLike) else str(argument)


@pytest.fixture(scope="session")
def run_program():
    """Runs a program (`edgeae`, `edgeae_runtime`) in a process of its own, alone or as `"$@"` in a line of a shell."""
    return _run


@pytest.fixture
def call(capsys):
    """Calls a program's `main` with what was typed, in this process; returns as `run_program` does."""

    def call(main, *arguments):
        capsys.readouterr()
        typed = [str(_word(argument)) for argument in arguments]
        status = main(typed)
        told = capsys.readouterr()
        return subprocess.CompletedProcess(typed, status, told.out, told.err)

    return call


@pytest.fixture(scope="session")
def refused():
    """Asserts one clear paragraph, the exit status, no traceback."""

    def refused(done, *words, status=2):
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.startswith(("error: ", "usage: ")), done.stderr
        assert "\n" not in done.stderr.strip() or done.stderr.startswith("usage: "), "one paragraph"
        for word in words:
            assert word in done.stderr

    return refused


@pytest.fixture(scope="session", autouse=True)
def torch_operators_read_once():
    """torch.onnx parses the sources of its thousand operators again for every export: half of the time of a small one.

    Here they are parsed once; every export gets a table of its own. Where torch has no such table, nothing changes.
    """
    if "torch" not in sys.modules:  # the runtime's tests alone
        yield
        return
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        read = functools.cache(ONNXRegistry.from_torchlib)
    except (ImportError, AttributeError):
        yield
        return

    def from_torchlib(*arguments, **options):
        table = copy.copy(read(*arguments, **options))
        table.functions = {name: list(found) for name, found in table.functions.items()}
        return table

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(from_torchlib))
        yield


@pytest.fixture(scope="session")
def fashion_mnist():
    """The full Fashion-MNIST; without it, its tests are skipped on a desk and fail where everything must run."""
    from edgeae_runtime.errors import InputError

    from edgeae.data import load_images  # the runtime's tests run where edgeae is not installed

    try:
        return load_images("fashion-mnist", download=False)
    except InputError as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI is set, so the full data must be there: {error}")
        pytest.skip(str(error))
