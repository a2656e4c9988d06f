"""Encode a large folder of pictures with Dask: the model is loaded once per worker process, not once per picture.

pip install 'edgeae-runtime[cpu,images]' dask
python examples/encode_folder.py examples/bundle pictures/ latents.npz --workers 2
"""

from __future__ import annotations

import argparse
import functools
import os
from pathlib import Path

import numpy as np
from dask import bag
from dask.base import compute
from edgeae_runtime import Autoencoder
from edgeae_runtime.pictures.loading import find_pictures, read_pictures

PARTITION = 64


@functools.cache
def worker_model(bundle: str) -> Autoencoder:
    """This process's model: loaded at its first partition, then kept."""
    return Autoencoder.load(bundle, parts=("encoder",))


def encode(files: list[Path], bundle: str) -> list[tuple[str, np.ndarray, int]]:
    """Name, latent and worker of each picture of one partition."""
    autoencoder = worker_model(bundle)
    shape, preprocessing = autoencoder.manifest.image_shape, autoencoder.manifest.preprocessing
    images, good = read_pictures(files, shape, preprocessing, print)  # broken ones are skipped and told
    latents = autoencoder.encode(images)
    return [(file.name, latent, os.getpid()) for file, latent in zip(good, latents, strict=True)]


def main() -> None:
    """Encode all pictures, and write names and latents."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    files = find_pictures(options.folder, tell=print)
    parts = [files[start : start + PARTITION] for start in range(0, len(files), PARTITION)]
    pictures = bag.from_sequence(parts, npartitions=max(len(parts), 1))
    encoded = pictures.map(encode, bundle=options.bundle)
    (batches,) = compute(encoded, scheduler="processes", num_workers=options.workers, chunksize=1)
    rows = [row for batch in batches for row in batch]
    if not rows:
        parser.error(f"{options.folder} holds no picture that can be read")
    names, latents, workers = zip(*rows, strict=True)
    np.savez(options.out, names=np.array(names), latents=np.stack(latents))
    print(f"Encoded {len(names)} pictures by {len(set(workers))} of {options.workers} workers: {options.out}")


if __name__ == "__main__":
    main()
