"""Decoders that the exporter was not made for: larger, in colour, with other kernels. Is int8 ever slower, or wrong?

    python -m benchmarks.other_decoders [--steps 80] [--json FILE]

Each autoencoder is trained for a few steps on Fashion-MNIST, enlarged and tinted, so that its activations are those
of a real model, exported to float32 and int8, and timed against its plain export, interleaved, on one thread, at
growing batch.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import edgeae_export
import numpy as np
import torch
import torch.nn.functional as F
from edgeae_export.graph.running import runner
from edgeae_runtime.measure.timing import interleave
from torch import Tensor, nn

from benchmarks.results import RESULTS, whole_number, write_result
from edgeae.data import load_images, prepare
from edgeae.model import AutoencoderConfig, Decoder, Encoder

BATCHES = (1, 8, 64)


class WithBatchNorm(nn.Module):
    """A decoder in the manner of DCGAN: kernels of 4, batch norms, leaky rectifiers, a tanh; 32 x 32 grey."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.first = nn.Linear(latent_dim, 128 * 4 * 4)
        layers: list[nn.Module] = []
        for before, after in ((128, 96), (96, 64)):
            layers += [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]
        self.rest = nn.Sequential(*layers, nn.ConvTranspose2d(64, 1, 4, 2, 1), nn.Tanh())

    def forward(self, latent: Tensor) -> Tensor:
        """Latents to images in [0, 1]."""
        return (self.rest(self.first(latent).unflatten(1, (128, 4, 4))) + 1) / 2


class Model:
    """What the exporter asks for."""

    def __init__(self, name: str, encoder: nn.Module, decoder: nn.Module, config: AutoencoderConfig) -> None:
        self.name, self.encoder, self.decoder = name, encoder, decoder
        self.image_shape, self.latent_dim = config.image_shape, config.latent_dim


def models() -> list[Model]:
    """The four of the table."""
    torch.manual_seed(0)
    made = []
    for size, channels, latent, widths in (
        (32, 1, 2, (32, 64, 128)),
        (64, 3, 64, (32, 64, 128, 256)),
        (128, 3, 128, (32, 64, 128, 256, 256)),
    ):
        config = AutoencoderConfig(image_size=size, channels=channels, latent_dim=latent, widths=widths)
        name = f"{size}x{size} {'grey' if channels == 1 else 'RGB'}, latent {latent}"
        made.append(Model(name, Encoder(config), Decoder(config), config))
    config = AutoencoderConfig(latent_dim=16)
    made.append(Model("32x32 grey, latent 16, kernel 4, batch norm", Encoder(config), WithBatchNorm(16), config))
    return made


def pictures(count: int, shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """Fashion-MNIST, enlarged and tinted: uint8 [count, *shape]."""
    rng = np.random.default_rng(seed)
    images = prepare(load_images().train_images[:count], 32).astype(np.float32)
    large = F.interpolate(torch.from_numpy(images), shape[1:], mode="bilinear").numpy()
    tint = rng.uniform(0.3, 1, (count, shape[0], 1, 1)) if shape[0] > 1 else 1.0
    return np.rint(large * tint).astype(np.uint8)


def train(model: Model, images: np.ndarray, steps: int) -> None:
    """Adam on the cross-entropy, for a while."""
    parameters = [*model.encoder.parameters(), *model.decoder.parameters()]
    adam = torch.optim.Adam(parameters, 1e-3)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    for step in range(steps):
        batch = torch.from_numpy(images[order[step * 32 % (len(images) - 32) :][:32].numpy()]).float() / 255
        loss = F.binary_cross_entropy(model.decoder(model.encoder(batch)).clamp(1e-6, 1 - 1e-6), batch)
        adam.zero_grad()
        loss.backward()
        adam.step()
    print(f"{model.name}: loss {loss.item():.4f} after {steps} steps")
    model.encoder.eval()
    model.decoder.eval()


def measure(model: Model, images: np.ndarray) -> dict[str, Any]:
    """Export and time one model."""
    held_out, calibration = images[:400], images[400:]
    with tempfile.TemporaryDirectory() as folder:
        reports = {
            kind: edgeae_export.export(
                model, Path(folder) / kind, quantize=kind, calibration=calibration, held_out=held_out
            )
            for kind in ("none", "int8")
        }
    part = {kind: report.parts["decoder"] for kind, report in reports.items()}
    calls = {
        "plain float32": runner(part["none"].simplified),
        "float32": runner(part["none"].model),
        "int8": runner(part["int8"].model),
    }
    latents = runner(reports["none"].parts["encoder"].model)(held_out[:64].astype(np.float32) / np.float32(255))
    times = {}
    for batch in BATCHES:
        bound = {name: (lambda call=call, batch=batch: call(latents[:batch])) for name, call in calls.items()}
        timed = interleave(bound, rounds=7, seconds_per_turn=0.08)
        times[batch] = {name: each.median_us for name, each in timed.items()}
    quality = reports["int8"].quality
    return {
        "decoder": model.name,
        "plans": {kind: each.compiled.plan for kind, each in part.items()},
        "bytes": {"plain float32": part["none"].simplified.ByteSize(), **{kind: p.bytes for kind, p in part.items()}},
        "median_us": times,
        "psnr_db": quality["decoder_psnr_db"],
        "error_rise": quality["decoder_error_rise"],
        "kept_in_float": dict(part["int8"].compiled.kept),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=whole_number(1, 1_000_000), default=80)
    parser.add_argument("--json", type=Path, default=RESULTS / "other_decoders.json")
    options = parser.parse_args()
    rows = []
    for model in models():
        images = pictures(1200, model.image_shape, seed=1)
        torch.set_num_threads(2)
        train(model, images, options.steps)
        rows.append(measure(model, images))
    print(
        f"\n{'decoder, one thread':36} {'batch':>5} {'plain us':>10} {'float32':>8} {'int8':>7}   (speed-up over plain)"
    )
    for row in rows:
        for batch, times in row["median_us"].items():
            plain = times["plain float32"]
            name = row["decoder"] if batch == 1 else ""
            print(f"{name:36} {batch:5} {plain:10.0f} {plain / times['float32']:7.2f}x {plain / times['int8']:6.2f}x")
        size = row["bytes"]
        share = 100 * size["int8"] / size["plain float32"]
        rise = 100 * row["error_rise"]
        print(
            f"{'':36}   int8: {row['psnr_db']:.1f} dB, error {rise:+.3f} %, {share:.0f} % of the size; {row['plans']}"
        )
    write_result("other-decoders", {"rows": rows}, options.json, packages=("torch",))


if __name__ == "__main__":
    main()
