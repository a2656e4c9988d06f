"""The two wheels: what is in them, and that the runtime's works where nothing else is installed."""

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_RUNTIME_WHEEL_BYTES = 60_000

pytestmark = pytest.mark.slow


def build(project: Path, out: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, project],
        check=True,
        capture_output=True,
    )
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def runtime_wheel(tmp_path_factory) -> Path:
    return build(ROOT / "runtime", tmp_path_factory.mktemp("runtime-wheel"))


def test_the_runtime_wheel_is_small_and_alone(runtime_wheel):
    assert runtime_wheel.stat().st_size <= MAX_RUNTIME_WHEEL_BYTES
    names = zipfile.ZipFile(runtime_wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"edgeae_runtime"}
    assert "edgeae_runtime/py.typed" in names


def test_the_main_wheel_holds_the_sample_and_no_stray_folder(tmp_path):
    names = zipfile.ZipFile(build(ROOT, tmp_path)).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"edgeae", "edgeae_export"}
    for name in ("edgeae/data/sample/train-images-idx3-ubyte.gz", "edgeae/data/sample/LICENSE", "edgeae/py.typed"):
        assert name in names


def test_the_runtimes_tests_pass_where_only_numpy_and_onnxruntime_are(runtime_wheel, tmp_path):
    environment = tmp_path / "clean"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    constraints = ROOT / "constraints.txt"
    install = [python, "-m", "pip", "install", "--quiet", "--constraint", constraints]
    subprocess.run([*install, f"edgeae-runtime[cpu] @ file://{runtime_wheel}", "pytest"], check=True)
    installed = subprocess.run([python, "-m", "pip", "list"], check=True, capture_output=True, text=True).stdout
    for heavy in ("torch", "onnx ", "typer", "rich"):
        assert heavy not in installed
    tests = shutil.copytree(ROOT / "tests" / "runtime", tmp_path / "tests")
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
