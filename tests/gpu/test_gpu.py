"""Bundles on a GPU: the same numbers, on the GPU itself, at any batch: `make test-gpu`, with GPU=directml there.

They need the runtime, its flavour of ONNX Runtime and pytest alone, and are skipped where the provider cannot start.
With EDGEAE_GPU=cpu they run on the CPU, which tells whether they are right themselves.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from edgeae_runtime import Autoencoder, available_providers, open_bundle, verify
from edgeae_runtime.sessions.providers import start_problem
from edgeae_runtime.verification import require_parity

ROOT = Path(__file__).parents[2]
BUNDLES = {
    "float32": ROOT / "tests/runtime/bundles/float32",
    "int8": ROOT / "tests/runtime/bundles/int8",
    "trained": ROOT / "examples/bundle",
}
PROVIDER = os.environ.get("EDGEAE_GPU", "cuda")
BATCHES = (1, 2, 3, 7, 32, 256)
FLOAT32 = 1e-4
"""Of an output's largest value: another order of the sums in float32 makes some 1e-6 of it, TF32 some 1e-3."""
INT8 = 0.05
"""The same of an int8 bundle: a rounding that falls to the other side is a step of some 1/255 in each layer."""

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", autouse=True)
def _gpu() -> None:
    if PROVIDER not in available_providers():
        pytest.skip(f"the installed ONNX Runtime has no provider {PROVIDER!r}, only {', '.join(available_providers())}")
    if problem := start_problem(PROVIDER):
        pytest.skip(problem)


@pytest.fixture(params=BUNDLES)
def path(request) -> Path:
    return BUNDLES[request.param]


@pytest.fixture
def both(path) -> tuple[Autoencoder, Autoencoder]:
    """On the GPU, and on the CPU."""
    return Autoencoder.load(path, PROVIDER), Autoencoder.load(path, "cpu")


def images_of(autoencoder: Autoencoder, count: int) -> np.ndarray:
    shape = (count, *autoencoder.manifest.image_shape)
    return np.random.default_rng(count).integers(0, 256, shape, dtype=np.uint8)


def allowed(autoencoder: Autoencoder, part: str, outputs: np.ndarray) -> float:
    precision = autoencoder.manifest.parts[part].precision
    return (FLOAT32 if precision == "float32" else INT8) * max(float(np.abs(outputs.astype(np.float32)).max()), 1e-6)


def assert_close(autoencoder: Autoencoder, part: str, found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    difference = np.abs(found.astype(np.float32) - expected.astype(np.float32)).max()
    assert difference <= allowed(autoencoder, part, expected), f"{part}: {difference}"


def test_the_golden_vectors_hold(path):
    checks = verify(path, PROVIDER)
    assert {check.what.split()[0] for check in checks} == {"encoder", "decoder", "round"}
    require_parity(checks)


def test_it_runs_there_and_float32_nowhere_else(both):
    gpu, _ = both
    assert set(gpu.providers.values()) == {PROVIDER}
    for part, counts in gpu.nodes.items():
        if not counts:
            pytest.skip("ONNX Runtime before 1.24 keeps no record of where nodes run")
        assert counts.get(PROVIDER, 0) > 0
        if gpu.manifest.parts[part].precision == "float32":
            assert set(counts) == {PROVIDER}, f"{part}: silently on the CPU"


@pytest.mark.parametrize("count", BATCHES)
def test_any_batch_gives_what_the_cpu_gives(both, count):
    gpu, cpu = both
    images = images_of(gpu, count)
    latents = cpu.encode(images)
    assert_close(gpu, "encoder", gpu.encode(images), latents)
    assert_close(gpu, "decoder", gpu.decode(latents), cpu.decode(latents))


def test_an_image_is_the_same_alone_and_in_a_batch(both):
    gpu, _ = both
    images = images_of(gpu, BATCHES[-1])
    together = gpu.encode(images)
    for index in (0, 1, 100, 255):
        assert_close(gpu, "encoder", gpu.encode(images[index : index + 1]), together[index : index + 1])


def test_batches_of_changing_size_one_after_another(both):
    gpu, cpu = both
    for count in (256, 1, 7, 256, 2, 1):
        images = images_of(gpu, count)
        assert_close(gpu, "encoder", gpu.encode(images), cpu.encode(images))


def test_callers_arrays_and_streams(both):
    gpu, _ = both
    batches = [gpu.encode(images_of(gpu, count)) for count in (1, 5, 64)]
    for latents, streamed in zip(batches, gpu.stream(batches), strict=True):
        expected = gpu.decode(latents)
        out = np.empty_like(expected)
        assert gpu.decode(latents, out=out) is out
        assert_close(gpu, "decoder", out, expected)
        assert_close(gpu, "decoder", streamed, expected)


def test_threads_at_once(both):
    gpu, _ = both
    inputs = [images_of(gpu, count) for count in (1, 3, 17, 64)]
    alone = [gpu.encode(images) for images in inputs]
    found: dict[tuple[int, int], np.ndarray] = {}

    def work(worker: int) -> None:
        for index, images in enumerate(inputs):
            found[worker, index] = gpu.encode(images)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(threads) * len(inputs)
    for (_, index), latents in found.items():
        assert_close(gpu, "encoder", latents, alone[index])


@pytest.mark.skipif(PROVIDER != "cuda", reason="a variable of CUDA's hides the GPU")
def test_where_the_gpu_is_hidden_it_is_refused_and_auto_says_so(path):
    def run(provider: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edgeae_runtime", "verify", str(path), "--provider", provider]
        hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
        return subprocess.run(command, env=hidden, capture_output=True, text=True, check=False)

    strict = run("cuda")
    assert strict.returncode == 2
    assert "'cuda' is installed but cannot start" in strict.stderr
    auto = run("auto")
    assert auto.returncode == 0, auto.stderr
    assert "cuda" in auto.stderr


def test_the_bundles_are_those_of_every_other_test():
    precisions = {name: open_bundle(path).manifest.parts["decoder"].precision for name, path in BUNDLES.items()}
    assert precisions["float32"] == "float32"
    assert precisions["int8"] == "int8"
