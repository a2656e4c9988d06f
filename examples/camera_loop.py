"""A camera's loop: score every frame by how badly the autoencoder reconstructs it, and report the unusual ones.

    python examples/camera_loop.py examples/bundle --frames 200

With a bundle that was exported with `--pixels uint8` the camera's bytes go into the graph and the screen's come out of
it: no pixel is a float in Python. With any other, numpy converts them on both sides.

The camera is simulated, so that the loop runs anywhere: a drawn frame that drifts, and now and then something that the
autoencoder never saw. Replace `frames` by your camera's generator. Buffers are made once and reused.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import numpy as np
from edgeae_runtime import Autoencoder

UNUSUAL_EVERY = 50


def frames(count: int, autoencoder: Autoencoder) -> Iterator[np.ndarray]:
    """Simulated frames, uint8 [channels, height, width]: decoded latents along a walk, and every so often noise."""
    generator = np.random.default_rng(0)
    start, end = autoencoder.sample_latents(2, seed=1)
    for index in range(count):
        weight = (1 - np.cos(2 * np.pi * index / 100)) / 2
        image = np.asarray(autoencoder.decode((1 - weight) * start + weight * end))
        if image.dtype == np.uint8:
            image = image / 255
        if index % UNUSUAL_EVERY == UNUSUAL_EVERY - 1:
            image = generator.random(image.shape)
        yield np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def main() -> None:
    """Watch, and print what is unusual."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--frames", type=int, default=200)
    options = parser.parse_args()
    if options.frames < 1:
        parser.error(f"got {options.frames} frames, expected at least one")
    with Autoencoder.load(options.bundle) as autoencoder:
        autoencoder.warmup()
        latent = np.empty((1, *autoencoder.manifest.latent.shape), np.float32)
        output = autoencoder.manifest.parts["decoder"].output
        rebuilt = np.empty((1, *(size for size in output.shape if size)), output.dtype)
        took, usual = [], []
        for index, frame in enumerate(frames(options.frames, autoencoder)):
            start = time.perf_counter()
            autoencoder.encode(frame[None], out=latent)
            autoencoder.decode(latent, out=rebuilt)
            shown = rebuilt if output.dtype == "uint8" else np.rint(rebuilt * np.float32(255)).astype(np.uint8)
            took.append(time.perf_counter() - start)  # from the camera's frame to the one that a screen takes
            error = np.square(np.subtract(shown[0], frame, dtype=np.int16), dtype=np.int32).mean() / 255**2
            if len(usual) >= 20 and error > 10 * np.median(usual):
                print(f"frame {index}: unusual (error {error:.4f}, usually {np.median(usual):.4f})")
            else:
                usual.append(error)
        each = np.median(took)
        print(f"{1 / each:,.0f} frames per second, {1e6 * each:.0f} us from the camera's to the shown one")


if __name__ == "__main__":
    main()
