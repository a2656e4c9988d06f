"""The golden vectors of a bundle, read from an archive that a stranger may have made: each header before its data."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeae_runtime.bundle.golden_limits import MAX_GOLDEN
from edgeae_runtime.bundle.manifest import Manifest
from edgeae_runtime.errors import BundleError, shown

if TYPE_CHECKING:
    import zipfile

GOLDEN_ARRAYS = ("image", "latent", "decoded", "log_variance")
"""The arrays of `golden.npz`, float32: n images, and what the torch model gives for them; `log_variance` of a
variational autoencoder only."""
CORNER_ARRAYS = ("corner_image", "corner_latent", "corner_decoded", "corner_log_variance")
"""The same on corners: m images, the latents of these and then of k corners that belong to no image, and m + k decoded.
Bundles of before corners were kept have none of them. There are no other arrays."""
MAX_GOLDEN_BYTES = 256 << 20  # all arrays together; a few images of any size a small model takes
_MAX_HEADER = 1024  # of a .npy: numpy's own are some 128 bytes


@dataclass(frozen=True)
class Golden:
    """A few inputs with the torch model's outputs, so that a device without torch can prove parity."""

    image: NDArray[np.float32]
    """Encoder input, [n, channels, height, width] in [0, 1]."""
    latent: NDArray[np.float32]
    """The torch encoder's output for `image`, [n, *latent shape]; the decoder's input."""
    decoded: NDArray[np.float32]
    """The torch decoder's output for `latent`, [n, channels, height, width] in [0, 1]."""
    log_variance: NDArray[np.float32] | None = None
    """The torch encoder's second output for `image`, of a variational autoencoder."""
    corners: Golden | None = None
    """The same on corners: `image` [m, …], `latent` and `decoded` [m + k, …], of which the first m belong to `image`.
    None in bundles of before corners were kept."""


def parse_golden(raw: bytes, manifest: Manifest) -> Golden:
    """The golden vectors of an archive.

    Args:
        raw: the bytes of `golden.npz`.
        manifest: gives the shapes; an array of any other is refused before its data is read.

    Raises:
        BundleError: it is no archive of these arrays, one is not finite float32 of the right shape, or there are more
            than `MAX_GOLDEN` images, or more than `MAX_GOLDEN_BYTES` in all.
    """
    import zipfile  # which costs more to import than this package

    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            reader = _Reader(archive, manifest)
            count = reader.count()
            golden = reader.arrays(GOLDEN_ARRAYS, count, count)
            corners = manifest.golden_corners
            if corners is None:
                return golden
            edges = reader.arrays(CORNER_ARRAYS, corners.images, len(corners.names))
            return replace(golden, corners=edges)
    except BundleError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise many types on what is not theirs
        raise BundleError(
            f"The golden vectors are no readable archive ({shown(error)[:200]}). "
            "Copy the bundle again, or export it again."
        ) from error


class _Reader:
    def __init__(self, archive: zipfile.ZipFile, manifest: Manifest) -> None:
        self.archive, self.manifest, self.left = archive, manifest, MAX_GOLDEN_BYTES
        names = archive.namelist()
        unknown = sorted(set(names) - {f"{name}.npy" for name in (*GOLDEN_ARRAYS, *CORNER_ARRAYS)})
        if unknown or len(set(names)) != len(names):
            raise BundleError(
                f"The golden vectors hold {shown(', '.join(unknown[:3]))[:200] or 'an array twice'}, expected only "
                f"{', '.join((*GOLDEN_ARRAYS, *CORNER_ARRAYS))}. Export the bundle again."
            )

    def count(self) -> int:
        """How many images there are."""
        with self._open("latent") as file:
            shape, _ = _header(file)
        count = shape[0] if shape else 0
        if not 0 < count <= MAX_GOLDEN:
            raise BundleError(
                f"The golden vectors hold {count} latents, expected 1 to {MAX_GOLDEN}. Export the bundle again."
            )
        return count

    def arrays(self, names: Sequence[str], images: int, latents: int) -> Golden:
        """The arrays of these names, for so many images and latents."""
        image, latent, decoded, log_variance = names
        shape, of_latent = self.manifest.image_shape, self.manifest.latent.shape
        return Golden(
            image=self._array(image, (images, *shape)),
            latent=self._array(latent, (latents, *of_latent)),
            decoded=self._array(decoded, (latents, *shape)),
            log_variance=self._array(log_variance, (images, *of_latent)) if self.manifest.variational else None,
        )

    def _array(self, name: str, expected: tuple[int, ...]) -> NDArray[np.float32]:
        with self._open(name) as file:
            shape, plain = _header(file)
            if shape != expected or not plain:
                raise BundleError(
                    f"The golden array {name!r} has shape {list(shape)[:9]}{'' if plain else ' and is not float32'}, "
                    f"expected float32 {list(expected)}. Export the bundle again."
                )
            size = 4 * math.prod(shape)
            self.left -= size
            if self.left < 0:
                raise BundleError(f"The golden vectors are larger than {MAX_GOLDEN_BYTES} bytes: refused.")
            content = file.read(size)
            if len(content) != size or file.read(1):
                raise BundleError(f"The golden array {name!r} is not {size} bytes long. Export the bundle again.")
        array = np.frombuffer(content, "<f4").reshape(shape).astype(np.float32, copy=False)
        if not np.isfinite(array).all():
            raise BundleError(f"The golden array {name!r} is not finite. Export the bundle again.")
        return array

    def _open(self, name: str) -> IO[bytes]:
        try:
            return self.archive.open(f"{name}.npy")
        except KeyError as error:
            raise BundleError(f"The golden vectors hold no array {name!r}. Export the bundle again.") from error


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool]:
    """The shape of a .npy, and whether it is float32 in C's order; read without its data."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file, max_header_size=_MAX_HEADER)
    return shape, dtype == np.dtype("<f4") and (not fortran or len(shape) < 2)
