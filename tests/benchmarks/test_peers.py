"""Each peer runs in a process of its own, and says what it makes and how long it took."""

import dataclasses
import json
import time

import edgeae_export
import numpy as np
import pytest
import torch
from edgeae_runtime.measure.bench import Case

from benchmarks.against_peers import Run
from benchmarks.peers.models import EDGEAE, VARIANTS
from benchmarks.peers.processes import PeerError, Worker
from edgeae import AutoencoderConfig, TrainingConfig, load_images, train

PRESENT = ("torch eager", "ONNX Runtime float32", "edgeae float32", EDGEAE)
"""What this project's own environment runs without conversions."""


@pytest.fixture(scope="module")
def data():
    sample = load_images("sample")
    return dataclasses.replace(
        sample,
        train_images=sample.train_images[:320],
        train_labels=sample.train_labels[:320],
        test_images=sample.test_images[:80],
        test_labels=sample.test_labels[:80],
    )


@pytest.fixture(scope="module")
def checkpoint(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("peers")
    training = TrainingConfig(epochs=1, precision="float32", device="cpu")
    return train(data, folder / "checkpoint", AutoencoderConfig(widths=(8, 16)), training)


@pytest.fixture(scope="module")
def images(checkpoint, data):
    from edgeae.data import prepare

    return prepare(data.test_images, checkpoint.image_shape[-1])


@pytest.fixture(scope="module")
def run(checkpoint, data, images):
    """A comparison of the variants that are here; every other one is absent."""
    work = checkpoint.path.parent
    for kind in ("plain", "float32", "int8"):
        edgeae_export.export(
            checkpoint,
            work / kind,
            quantize="int8" if kind == "int8" else "none",
            calibration=images,
            held_out=images[:40],
            rewrites=kind != "plain",
        )
    shapes = {"encoder": list(checkpoint.image_shape), "decoder": [checkpoint.latent_dim]}
    run = Run(work, shapes, rounds=5)
    run.absent = {variant.name: "not of this test" for variant in VARIANTS if variant.name not in PRESENT}
    return run


def worker(run, name):
    variant = next(variant for variant in VARIANTS if variant.name == name)
    return Worker(variant.python, run.spec(variant, 1))


def test_the_fidelity_is_that_of_the_outputs(run, checkpoint, images):
    pixels = images.astype(np.float32) / np.float32(255)
    found = run.fidelity(pixels, checkpoint)
    assert set(found) == set(PRESENT)
    assert found["torch eager"]["psnr_db"] > 100
    assert found["ONNX Runtime float32"]["psnr_db"] > 100
    assert 25 < found[EDGEAE]["psnr_db"] < 80
    with torch.inference_mode(), worker(run, "edgeae float32") as process:
        expected = checkpoint.decoder(checkpoint.encoder(torch.from_numpy(pixels[:5]))).numpy()
        np.testing.assert_allclose(process.outputs("round-trip", pixels[:5], 2), expected, atol=1e-4)


def test_a_case_times_every_variant_by_its_own_clock(run):
    workers = {name: worker(run, name) for name in PRESENT}
    start = time.perf_counter()
    try:
        rows = run.time_case(workers, Case("decoder", 8, 1))
    finally:
        for process in workers.values():
            process.close()
    assert [row.variant for row in rows] == list(PRESENT)
    seconds = time.perf_counter() - start
    assert all(0 < row.latency.median_us < 1e6 * seconds for row in rows), "one call takes less than all of them"


def test_a_variant_that_fails_is_named_and_the_others_go_on(run, tmp_path, monkeypatch):
    broken = worker(run, "ONNX Runtime float32")
    broken.close()
    spec = json.loads(run.spec(VARIANTS[2], 1).read_text())
    spec["files"] = dict.fromkeys(spec["files"], str(tmp_path / "nowhere.onnx"))
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    workers = {"missing": Worker(VARIANTS[2].python, tmp_path / "spec.json"), "torch eager": worker(run, "torch eager")}
    monkeypatch.setattr(run, "absent", dict(run.absent))
    try:
        rows = run.time_case(workers, Case("encoder", 1, 1))
    finally:
        for process in workers.values():
            process.close()
    assert [row.variant for row in rows] == ["torch eager"]
    assert "nowhere.onnx" in run.absent["missing, encoder, batch 1, 1 thread"]


def test_a_dead_process_is_an_error_that_tells_its_last_words(run, tmp_path):
    (tmp_path / "spec.json").write_text("{}")
    with Worker(VARIANTS[0].python, tmp_path / "spec.json") as process, pytest.raises(PeerError, match="KeyError"):
        process.ask("version")
