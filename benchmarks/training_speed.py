"""Time per epoch of the default training loop against the same loop in float32 without channels_last.

    python -m benchmarks.training_speed [--images 12800] [--rounds 3] [--json FILE]

Both run the library's own `train` in turns, on the same images in the same order, so that a slow minute hits both.
Prints the seconds each epoch took, scaled to 60,000 images, and the ratio of the medians.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
from pathlib import Path

from benchmarks.results import RESULTS, whole_number, write_result
from edgeae.data import load_images
from edgeae.training.loop import TrainingConfig, train

DEFAULT = TrainingConfig(epochs=1)
FLOAT32 = TrainingConfig(epochs=1, precision="float32", channels_last=False)


def main() -> None:
    """Take turns and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=whole_number(1, 60_000), default=12_800)
    parser.add_argument("--rounds", type=whole_number(1, 1000), default=3)
    parser.add_argument("--json", type=Path, default=RESULTS / "training_speed.json")
    options = parser.parse_args()
    full = load_images()
    data = dataclasses.replace(
        full,
        train_images=full.train_images[: options.images],
        train_labels=full.train_labels[: options.images],
        test_images=full.test_images[:500],
        test_labels=full.test_labels[:500],
    )
    scale = len(full.train_images) / options.images
    seconds: dict[str, list[float]] = {"default": [], "float32": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.rounds + 1):
            for name, config in (("default", DEFAULT), ("float32", FLOAT32)):
                checkpoint = train(data, Path(folder) / name, training=config)
                if turn:  # the first turn warms up
                    seconds[name].append(checkpoint.history[-1].seconds * scale)
                    print(f"{name:>8} ({checkpoint.precision}): {seconds[name][-1]:.1f} s per epoch", flush=True)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["default"] / medians["float32"]
    print(f"default {medians['default']:.1f} s, float32 {medians['float32']:.1f} s per epoch; ratio {ratio:.3f}")
    figures = {"seconds_per_epoch": seconds, "ratio_of_medians": ratio, "method": "in turns; the first turn warms up"}
    write_result("training-speed", figures, options.json, packages=("torch",))


if __name__ == "__main__":
    main()
