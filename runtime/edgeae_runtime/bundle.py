"""Reading a bundle: hashes first, bounded sizes, nothing outside the folder."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeae_runtime.errors import BundleError, IntegrityError
from edgeae_runtime.manifest import (
    MANIFEST_FILE,
    MAX_GOLDEN,
    MAX_MANIFEST_BYTES,
    FileRecord,
    Manifest,
    parse_manifest,
)

if TYPE_CHECKING:
    from pathlib import Path

GOLDEN_ARRAYS = ("image", "latent", "decoded", "log_variance")
"""The arrays of `golden.npz`, float32: n images, and what the torch model gives for them; `log_variance` of a
variational autoencoder only."""
CORNER_ARRAYS = ("corner_image", "corner_latent", "corner_decoded", "corner_log_variance")
"""The same on corners: m images, the latents of these and then of k corners that belong to no image, and m + k decoded.
Bundles of before corners were kept have none of them. There are no other arrays."""
MAX_GOLDEN_BYTES = 256 << 20  # decompressed; a few images of any size a small model takes


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


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: the manifest was read and validated, the other files are read when asked for."""

    path: Path
    manifest: Manifest
    sha256: str = ""
    """Of the manifest's bytes, which hold the hashes of all other files: what tells one bundle from another."""

    def read(self, record: FileRecord) -> bytes:
        """The bytes of one file, after its size and SHA-256 were found to be the recorded ones.

        Raises:
            BundleError: the file is missing, is not a regular file, or cannot be read.
            IntegrityError: its bytes are not those that were exported.
        """
        path = self.path / record.file
        if path.is_symlink() or not path.is_file():
            raise BundleError(
                f"The bundle {self.path} has no regular file {record.file}, which its manifest names. "
                "Copy the whole folder again, or export it again."
            )
        raw = _read_bounded(path, record.bytes)
        if len(raw) != record.bytes or _sha256(raw) != record.sha256:
            raise IntegrityError(
                f"{path} is not the file that was exported: it has "
                f"{'other bytes' if len(raw) == record.bytes else 'another size'} than the manifest records "
                f"({record.bytes} bytes, SHA-256 {record.sha256[:12]}…). "
                "It was damaged or changed on the way: copy the bundle again, or export it again."
            )
        return raw

    def read_part(self, name: str) -> bytes:
        """The ONNX bytes of `"encoder"` or `"decoder"`: those that were exported, and nothing that reaches outside.

        Raises:
            BundleError, IntegrityError: as `read`, or the graph refers to files or operators that are not in it.
        """
        from edgeae_runtime.graph_guard import check_graph  # here, because many uses of a manifest load no graph

        raw = self.read(self.manifest.parts[name].record)
        check_graph(raw, name)
        return raw

    def read_golden(self) -> Golden:
        """The golden vectors.

        Raises:
            BundleError: they are missing or do not fit the manifest's shapes.
            IntegrityError: they are not those that were exported.
        """
        raw = self.read(self.manifest.golden)
        _check_members(raw)
        golden = self._golden(raw, GOLDEN_ARRAYS)
        count = len(golden.image)
        self._check_golden(golden, count, count)
        corners = self.manifest.golden_corners
        if corners is None:
            return golden
        edges = self._golden(raw, CORNER_ARRAYS)
        self._check_golden(edges, corners.images, len(corners.names))
        return replace(golden, corners=edges)

    def _golden(self, raw: bytes, names: Sequence[str]) -> Golden:
        image, latent, decoded, log_variance = names
        return Golden(
            image=_golden_array(raw, image),
            latent=_golden_array(raw, latent),
            decoded=_golden_array(raw, decoded),
            log_variance=_golden_array(raw, log_variance) if self.manifest.variational else None,
        )

    def _check_golden(self, golden: Golden, images: int, latents: int) -> None:
        shape, latent = self.manifest.image_shape, self.manifest.latent.shape
        arrays = (golden.image, golden.latent, golden.decoded, golden.log_variance)
        found = [array.shape for array in arrays if array is not None]
        expected = [(images, *shape), (latents, *latent), (latents, *shape), (images, *latent)]
        if latents == 0 or latents > MAX_GOLDEN or found != expected[: len(found)]:
            raise BundleError(
                f"The golden vectors of {self.path} have shapes {found}, expected images of {shape} and latents "
                f"of {latent}, the same number of each, at most {MAX_GOLDEN}. Export the bundle again."
            )


def open_bundle(path: str | Path) -> Bundle:
    """Open the bundle in the folder `path` and validate its manifest.

    Raises:
        BundleError: there is no such folder, it holds no manifest, or the manifest is not valid.
    """
    from pathlib import Path  # here, as all of what a program needs that imports this and loads nothing yet

    folder = Path(path)
    if not folder.exists():
        raise BundleError(
            f"There is no bundle at {folder}. Make one with `edgeae export`, or give the folder of another."
        )
    if not folder.is_dir():
        raise BundleError(
            f"{folder} is a file, expected a bundle: the folder that `edgeae export` writes, "
            f"with {MANIFEST_FILE} and the ONNX graphs in it."
        )
    manifest = folder / MANIFEST_FILE
    if manifest.is_symlink() or not manifest.is_file():
        raise BundleError(
            f"The folder {folder} holds no {MANIFEST_FILE}, so it is not a bundle. "
            "Give the folder that `edgeae export` wrote."
        )
    raw = _read_bounded(manifest, MAX_MANIFEST_BYTES)
    if len(raw) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{manifest} is larger than {MAX_MANIFEST_BYTES} bytes, so it is no manifest of a bundle.")
    return Bundle(folder.absolute(), parse_manifest(raw), sha256=_sha256(raw))


def _sha256(raw: bytes) -> str:
    import hashlib

    return hashlib.sha256(raw).hexdigest()


def _read_bounded(path: Path, limit: int) -> bytes:
    """At most `limit + 1` bytes: enough to see that a file is too long, never more than was promised."""
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}. Check the folder's permissions.") from error


def _check_members(raw: bytes) -> None:
    """Nothing but the arrays that are known: what nobody reads has no business on a device."""
    import zipfile

    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            members = archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise BundleError(f"The golden vectors are no readable archive ({error}). Export again.") from error
    unknown = sorted(set(members) - {f"{name}.npy" for name in (*GOLDEN_ARRAYS, *CORNER_ARRAYS)})
    if unknown or len(set(members)) != len(members):
        raise BundleError(
            f"The golden vectors hold {', '.join(unknown[:3]) or 'an array twice'}, expected only "
            f"{', '.join((*GOLDEN_ARRAYS, *CORNER_ARRAYS))}. Export the bundle again."
        )


def _golden_array(raw: bytes, name: str) -> NDArray[np.float32]:
    """One float32 array of the .npz, refused before decompression when it would be too large."""
    import zipfile

    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            if archive.getinfo(f"{name}.npy").file_size > MAX_GOLDEN_BYTES:
                raise BundleError(f"The golden array {name!r} is larger than {MAX_GOLDEN_BYTES} bytes: refused.")
        with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
            array = np.asarray(arrays[name])
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise BundleError(f"The golden vectors hold no readable array {name!r} ({error}). Export again.") from error
    if array.dtype != np.float32 or not np.isfinite(array).all():
        raise BundleError(f"The golden array {name!r} is not finite float32. Export the bundle again.")
    return array
