"""The runtime is tested with a tiny committed bundle, so that these tests run where torch and onnx are not."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgeae_runtime import Autoencoder

BUNDLES = Path(__file__).parent / "bundles"


@pytest.fixture(scope="session")
def bundle() -> Path:
    """16 x 16 grey images, latents of 3 numbers, float32; made by make_bundles.py."""
    return BUNDLES / "float32"


@pytest.fixture(scope="session")
def int8_bundle() -> Path:
    """The same model in int8."""
    return BUNDLES / "int8"


@pytest.fixture
def broken(bundle: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(bundle, tmp_path / "broken"))


@pytest.fixture
def images() -> np.ndarray:
    """Five uint8 images of the tiny model's shape."""
    return np.random.default_rng(0).integers(0, 256, (5, 1, 16, 16), dtype=np.uint8)


@pytest.fixture
def ae(bundle: Path) -> Autoencoder:
    """The tiny model, loaded."""
    return Autoencoder.load(bundle)


Edit = Callable[[dict[str, Any]], None]


@pytest.fixture
def edit_manifest(broken: Path) -> Callable[[Edit], Path]:
    """Changes the copy's manifest and returns the copy."""

    def edit(change: Edit) -> Path:
        path = broken / "manifest.json"
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))
        return broken

    return edit


@pytest.fixture
def replace_file(broken: Path) -> Callable[[str, bytes], Path]:
    """Replaces a file of the copy and records its new hash, as a forger would."""

    def replace(name: str, raw: bytes) -> Path:
        (broken / name).write_bytes(raw)
        path = broken / "manifest.json"
        document = json.loads(path.read_text())
        parts = document["parts"].values()
        for record in (*parts, document["golden"], *(form for part in parts for form in part.get("variants", ()))):
            if record["file"] == name:
                record.update(sha256=hashlib.sha256(raw).hexdigest(), bytes=len(raw))
        path.write_text(json.dumps(document))
        return broken

    return replace


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
