"""Torch eager, plain ONNX Runtime and a bundle, timed against each other in one run, with the price in quality."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from edgeae_export import export
from edgeae_export.arrays import in_large_batches
from edgeae_export.modules.images import HELD_OUT_IMAGES
from edgeae_export.modules.running import torch_runner
from edgeae_export.parity import reconstruction_rise
from edgeae_runtime import Autoencoder, open_bundle
from edgeae_runtime.arrays import Float32Array, channels_first
from edgeae_runtime.bundle.parts import TensorSpec
from edgeae_runtime.measure.bench import (
    AGAIN,
    Row,
    Run,
    bench_inputs,
    bundle_runs,
    cases,
    check_soak,
    document,
    over_time,
    pair_noise,
    time_case,
)
from edgeae_runtime.measure.cold_start import bundle_command, measure, process
from edgeae_runtime.measure.timing import Difference, compared
from edgeae_runtime.parity import mse, psnr, unit_scale
from numpy.typing import NDArray

from edgeae.checkpoint import Checkpoint, load_checkpoint
from edgeae.checkpoint_images import checkpoint_images
from edgeae.verification import check_same_shape

TORCH, PLAIN, BUNDLE = "torch eager", "plain float32", "this bundle"
"""The three variants; plain float32 is the same weights in ONNX Runtime, as torch exports them."""


def bench_checkpoint(
    bundle: str | Path,
    checkpoint_path: str | Path,
    *,
    parts: Sequence[str] | None,
    batches: Sequence[int],
    threads: Sequence[int],
    provider: str,
    soak_seconds: float = 0.0,
    on_progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Time a bundle against the torch model it came from; the arguments are those of `bench_variants`."""
    checkpoint = load_checkpoint(checkpoint_path)
    _, test_images = checkpoint_images(checkpoint)
    check_same_shape(Autoencoder.load(bundle, provider), checkpoint)
    return bench_variants(
        bundle,
        checkpoint,
        test_images[:HELD_OUT_IMAGES],
        parts=parts,
        batches=batches,
        threads=threads,
        provider=provider,
        soak_seconds=soak_seconds,
        on_progress=on_progress,
    )


def bench_variants(
    bundle: str | Path,
    checkpoint: Checkpoint,
    test_images: NDArray[np.uint8],
    *,
    parts: Sequence[str] | None = None,
    batches: Sequence[int] = (1, 64),
    threads: Sequence[int] = (1,),
    provider: str = "cpu",
    soak_seconds: float = 0.0,
    on_progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Time the three variants of one model.

    Args:
        bundle: the bundle to judge.
        checkpoint: the model it was exported from.
        test_images: uint8 [n, channels, height, width], for the quality.
        parts: `encoder`, `decoder`, `round-trip`; all the bundle has by default.
        batches: images per call.
        threads: threads per call.
        provider: where the bundle runs; the other two run on the CPU.
        soak_seconds: if above 0, also run the bundle for so long without a pause, to see throttling.
        on_progress: told what is being measured.

    Returns:
        A document of schema `edgeae-bench` with `quality` and `verdict` added.
    """
    check_soak(soak_seconds)
    tell = on_progress or (lambda stage: None)
    with tempfile.TemporaryDirectory(prefix="edgeae-bench-") as folder:
        tell("export the plain float32 graphs to compare with")
        plain = Path(folder) / "plain"
        export(checkpoint, plain, held_out=test_images[:64], rewrites=False)
        rows = _rows(bundle, plain, checkpoint, parts, batches, threads, provider, tell)
        tell("start fresh processes for start-up time and memory")
        starts = _cold_starts(bundle, plain, checkpoint, provider)
    tell("measure the quality on test images")
    report = document(rows, starts) | over_time(bundle, rows[0].case, provider, soak_seconds, tell)
    report["machine"]["torch"] = torch.__version__
    report["quality"] = bundle_quality(bundle, checkpoint, test_images, provider)
    report["verdict"] = verdict(rows, report["quality"])
    return report


def bundle_quality(
    bundle: str | Path, checkpoint: Checkpoint, test_images: NDArray[np.uint8], provider: str = "cpu"
) -> dict[str, float | None]:
    """What the bundle's outputs cost against torch float32, over the given images.

    Returns:
        `decoder_psnr_db` (None for no difference at all) and, when the encoder is there too,
        `reconstruction_error_rise` (relative) and `reconstruction_mse`.
    """
    autoencoder = Autoencoder.load(bundle, provider)
    images = test_images.astype(np.float32) / np.float32(255)
    latents = torch_runner(checkpoint.encoder)(images)
    reference = torch_runner(checkpoint.decoder)(latents)
    quality: dict[str, float | None] = {}
    if "decoder" in autoencoder.providers:
        fidelity = psnr(reference, in_large_batches(lambda batch: unit_scale(autoencoder.decode(batch)), latents))
        quality["decoder_psnr_db"] = round(fidelity, 2) if np.isfinite(fidelity) else None
    if len(autoencoder.providers) == 2:
        decoded = in_large_batches(lambda batch: unit_scale(autoencoder.reconstruct(batch)), images)
        quality["reconstruction_mse"] = mse(images, decoded)
        quality["reconstruction_error_rise"] = reconstruction_rise(images, reference, decoded)
    return quality


def verdict(rows: Sequence[Row], quality: dict[str, float | None]) -> str:
    """One sentence: which variant wins the first case on this machine, and what it costs in quality."""
    case = next((row.case for row in rows if row.case.part == "decoder"), rows[0].case)
    pair = pair_noise(rows).get(str(case), 0.0)
    latency = {row.variant: row.latency for row in rows if row.case == case and row.variant != AGAIN}
    winner = min(latency, key=lambda name: latency[name].median_us)
    against = {name: compared(each, latency[winner], pair) for name, each in latency.items() if name != winner}
    others = ", ".join(_against(found, name) for name, found in against.items())
    time = latency[winner].median_us / 1e3
    sentence = f"Here {winner} wins ({case.part}, batch {case.batch}: {time:.3f} ms), {others}"
    if winner == BUNDLE:
        return f"{sentence}; {_cost(quality)}."
    if not against[BUNDLE].real:
        return f"{sentence}; the bundle is level with it, and {_cost(quality)}."
    return f"{sentence}: the bundle brings no speed on this machine ({_cost(quality)})."


def _against(found: Difference, name: str) -> str:
    return f"{found.ratio:.2f}x faster than {name}" if found.real else f"level with {name}"


def _cost(quality: dict[str, float | None]) -> str:
    fidelity, rise = quality.get("decoder_psnr_db"), quality.get("reconstruction_error_rise")
    told = [] if fidelity is None else [f"{fidelity:.1f} dB PSNR against torch"]
    if rise is not None:
        told.append(f"{100 * rise:+.2f} % reconstruction error")
    return "its price is " + (" and ".join(told) if told else "nothing: its outputs are torch's")


def _rows(
    bundle: str | Path,
    plain: Path,
    checkpoint: Checkpoint,
    parts: Sequence[str] | None,
    batches: Sequence[int],
    threads: Sequence[int],
    provider: str,
    tell: Callable[[str], None],
) -> list[Row]:
    manifest = open_bundle(bundle).manifest
    inputs = bench_inputs(manifest)
    spec = next(iter(manifest.parts.values())).input
    rows: list[Row] = []
    before = torch.get_num_threads()
    try:
        for count in threads:
            variants = {
                TORCH: _torch_runs(checkpoint),
                PLAIN: bundle_runs(Autoencoder.load(plain, threads=count, spinning=True)),
                BUNDLE: bundle_runs(Autoencoder.load(bundle, provider, threads=count, spinning=True)),
            }
            torch.set_num_threads(count)
            for case in cases(parts, batches, count, variants[BUNDLE]):
                tell(f"time the {case}")
                runs = {name: each[case.part] for name, each in variants.items()}
                if case.part != "decoder":
                    runs |= {name: _channels_first(runs[name], spec) for name in (TORCH, PLAIN)}
                rows += time_case(case, runs, inputs(case))
    finally:
        torch.set_num_threads(before)
    return rows


def _channels_first(run: Run, spec: TensorSpec) -> Run:
    return lambda batch: run(channels_first(batch, spec))


def _torch_runs(checkpoint: Checkpoint) -> dict[str, Run]:
    encoder, decoder = checkpoint.encoder, checkpoint.decoder
    return {
        "encoder": torch_call(encoder),
        "decoder": torch_call(decoder),
        "round-trip": torch_call(encoder, decoder),
    }


def torch_call(*modules: torch.nn.Module) -> Run:
    """Torch eager as a user would call it: inference mode, numpy in and out; pixels are divided by 255 first."""

    def call(batch: NDArray[Any]) -> Float32Array:
        with torch.inference_mode():
            tensor = torch.from_numpy(unit_scale(batch))
            for module in modules:
                tensor = module(tensor)
                tensor = tensor[0] if isinstance(tensor, tuple) else tensor  # a variational encoder's mean
            result: Float32Array = tensor.numpy()
        return result

    return call


def _cold_starts(bundle: str | Path, plain: Path, checkpoint: Checkpoint, provider: str) -> list[dict[str, Any]]:
    starts: list[dict[str, Any]] = []
    for part in open_bundle(bundle).manifest.parts:
        commands = {
            TORCH: process("edgeae.cold_start", str(checkpoint.path), part),
            PLAIN: bundle_command(plain, part, "cpu"),
            BUNDLE: bundle_command(bundle, part, provider),
        }
        starts += [{"variant": name, "part": part, **measure(command, runs=3)} for name, command in commands.items()]
    return starts
