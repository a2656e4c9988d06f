"""Make the sample again from the full set: `python -m edgeae.data.make_sample`.

Prints the digests that `edgeae/data/sampled.py` must hold.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

from edgeae.data.fashion_mnist import FILES
from edgeae.data.idx import encode_idx, idx_md5
from edgeae.data.images import ImageSet
from edgeae.data.load import load_images
from edgeae.data.sampled import SAMPLE_FOLDER, sample_arrays


def write_sample(full: ImageSet, folder: Path) -> dict[str, str]:
    """Write the sample's four files, gzipped, the same bytes each time.

    Returns:
        MD5 of each file before compression.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays = sample_arrays(full)
    for name in FILES:
        (folder / f"{name}.gz").write_bytes(gzip.compress(encode_idx(arrays[name]), compresslevel=9, mtime=0))
    return {name: idx_md5(array) for name, array in arrays.items()}


if __name__ == "__main__":
    for file, md5 in write_sample(load_images(), SAMPLE_FOLDER).items():
        sys.stdout.write(f'"{md5}",  # {file}\n')
