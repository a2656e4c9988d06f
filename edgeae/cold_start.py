"""What the first image costs with torch, measured in a process of its own; see `edgeae_runtime.measure.cold_start`."""

from __future__ import annotations

import time


def main(start: int, checkpoint: str, part: str) -> None:
    """Import torch, load, run once on zeros, and print the figures as JSON."""
    import torch

    from edgeae.checkpoint import load_checkpoint

    imported = time.monotonic_ns()
    loaded_checkpoint = load_checkpoint(checkpoint)
    module = loaded_checkpoint.encoder if part == "encoder" else loaded_checkpoint.decoder
    shape = loaded_checkpoint.image_shape if part == "encoder" else (loaded_checkpoint.latent_dim,)
    loaded = time.monotonic_ns()
    with torch.inference_mode():
        output = module(torch.zeros(1, *shape))
        (output[0] if isinstance(output, tuple) else output).numpy()

    from edgeae_runtime.measure.cold_start import report

    report(start, imported, loaded)
