"""The two wheels: what is in them, and that the runtime's works where nothing else is installed."""

import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
MAX_RUNTIME_WHEEL_BYTES = 150_000

MAX_EXAMPLE_BYTES = 400_000
VERSIONS = {"lowest": ("numpy==1.26.0", "onnxruntime==1.23.0"), "newest": ("numpy==2.4.6", "onnxruntime==1.32.0")}
"""The ends of the ranges that the runtime's metadata promise."""
README = (ROOT / "README.md").read_text()


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


@pytest.mark.slow
def test_the_runtime_wheel_is_small_and_alone(runtime_wheel):
    assert runtime_wheel.stat().st_size <= MAX_RUNTIME_WHEEL_BYTES
    names = zipfile.ZipFile(runtime_wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"edgeae_runtime"}
    assert "edgeae_runtime/py.typed" in names


@pytest.mark.slow
def test_the_main_wheel_holds_the_sample_and_no_stray_folder(tmp_path):
    names = zipfile.ZipFile(build(ROOT, tmp_path)).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"edgeae", "edgeae_export"}
    for name in ("edgeae/data/sample/train-images-idx3-ubyte.gz", "edgeae/data/sample/LICENSE", "edgeae/py.typed"):
        assert name in names


def clean_environment(folder: Path, *requirements: str | Path) -> Path:
    """A virtual environment with these requirements alone; the path of its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *map(str, requirements)], check=True)
    return python


@pytest.mark.proof
@pytest.mark.parametrize("versions", VERSIONS.values(), ids=VERSIONS)
def test_the_runtimes_tests_pass_where_only_numpy_and_onnxruntime_are(runtime_wheel, tmp_path, versions):
    wheel = f"edgeae-runtime[cpu] @ file://{runtime_wheel}"
    python = clean_environment(tmp_path / "clean", *versions, wheel, f"pytest=={pytest.__version__}")
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


@pytest.mark.slow
def test_the_two_lines_of_the_readme_decode_first_pictures(tmp_path):
    lines = re.findall(r"^(pip install '\./runtime.*?\]'|edgeae-runtime sample .*?\.png)", README, re.MULTILINE)
    assert len(lines) == 2
    environment, project = tmp_path / "clean", tmp_path / "project"
    venv.create(environment, with_pip=True)
    shutil.copytree(ROOT / "runtime", project / "runtime", ignore=shutil.ignore_patterns("__pycache__", "dist"))
    shutil.copytree(ROOT / "examples" / "bundle", project / "examples" / "bundle")
    for line in lines:
        command = f"PATH={environment}/bin:$PATH; {line}"
        done = subprocess.run(["bash", "-c", command], cwd=project, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    with Image.open(project / "new.png") as sheet:
        assert sheet.size == (4 * 32 + 3 * 2, 4 * 32 + 3 * 2)
        assert sheet.getextrema()[1] > 200
    assert sum(file.stat().st_size for file in (ROOT / "examples" / "bundle").iterdir()) <= MAX_EXAMPLE_BYTES


@pytest.mark.proof
def test_the_cuda_flavour_is_strict_where_there_is_no_gpu(runtime_wheel, tmp_path):
    """The real onnxruntime-gpu: with a GPU its CUDA runs, without one it refuses by name and `auto` falls back."""
    python = clean_environment(tmp_path / "cuda", f"edgeae-runtime[cuda] @ file://{runtime_wheel}")
    program = python.parent / "edgeae-runtime"
    bundle = ROOT / "examples" / "bundle"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, *arguments], check=False, capture_output=True, text=True)

    strict, auto = run("verify", bundle, "--provider", "cuda"), run("verify", bundle, "--provider", "auto")
    assert auto.returncode == 0, auto.stderr
    if strict.returncode == 0:  # a GPU
        assert "Verified" in strict.stdout
        assert auto.stderr == ""
        return
    assert strict.returncode == 2
    assert strict.stdout == ""  # not even what ONNX Runtime's own loader prints
    assert "'cuda' is installed but cannot start on this machine (lib" in strict.stderr
    assert len(strict.stderr.strip().splitlines()) == 1
    assert auto.stderr.count("cannot start on this machine") == 1
    doctor = run("doctor")
    assert doctor.returncode == 1
    assert "provider cuda  cannot start" in doctor.stdout
