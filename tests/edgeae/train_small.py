"""A small run as a program, for tests that need real processes: started alone, by torchrun or by accelerate.

python train_small.py OUT [--epochs N] [--resume] [--pause SECONDS]
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path

import edgeae

TRAIN, TEST, BATCH = 257, 101, 64  # the last batch holds one image: of two processes, one gets none


def small_set(images: edgeae.ImageSet) -> edgeae.ImageSet:
    """The first few images of a set."""
    return dataclasses.replace(
        images,
        train_images=images.train_images[:TRAIN],
        train_labels=images.train_labels[:TRAIN],
        test_images=images.test_images[:TEST],
        test_labels=images.test_labels[:TEST],
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--pause", type=float, default=0.0, help="Seconds to wait at every report.")
    arguments = parser.parse_args()

    def report(event: edgeae.TrainingProgress) -> None:
        print(f"epoch {event.epoch} step {event.step}", flush=True)
        time.sleep(arguments.pause)

    checkpoint = edgeae.train(
        small_set(edgeae.load_images("sample")),
        arguments.out,
        edgeae.AutoencoderConfig(widths=(4, 8)),
        edgeae.TrainingConfig(epochs=arguments.epochs, batch_size=BATCH, precision="float32", device="cpu"),
        resume=arguments.resume,
        on_progress=report,
    )
    sys.stdout.write(f"validation {checkpoint.history[-1].validation_loss!r}\n")


if __name__ == "__main__":
    main()
