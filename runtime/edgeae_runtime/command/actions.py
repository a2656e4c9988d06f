"""What the verbs do: files in, files out, and what is to be said of it."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae_runtime import parity
from edgeae_runtime.autoencoder import Autoencoder
from edgeae_runtime.bundle.manifest import Manifest
from edgeae_runtime.bundle.reader import open_bundle
from edgeae_runtime.command.doctor import examine
from edgeae_runtime.command.text import here, next_line
from edgeae_runtime.errors import InputError
from edgeae_runtime.files.array_files import find_array, is_array_file
from edgeae_runtime.machine import available_memory, check_threads, usable_cores
from edgeae_runtime.measure.comparison import compare_files, comparison_lines, read_report
from edgeae_runtime.parity import Check
from edgeae_runtime.pictures.images import check_output, fits_images, read_array, read_named_images, write_output
from edgeae_runtime.replay import TIMEOUT_S
from edgeae_runtime.verification import verify as verify_bundle

BENCH_PARTS = ("encoder", "decoder", "round-trip")


def encode(bundle: str, source: str, out: str, provider: str) -> str:
    """Images in a file or folder -> latents in `out`."""
    check_output(out, images=False)
    autoencoder = Autoencoder.load(bundle, provider, parts=("encoder",))
    images, names, notices = _read(source, autoencoder)
    latents = autoencoder.encode(images)
    write_output(out, latents, images=False, names=names)
    told, kind = f"Wrote {len(latents)} latents to {out}", Path(out).suffix.lower()
    if names is not None:
        kept = kind != ".npy"
        told += ", with the names of their files" if kept else "; their files' names are kept in .npz and .csv"
    if kind == ".csv" or "decoder" not in autoencoder.manifest.parts:
        return "\n".join([*notices, told])
    following = next_line("decode", here(out), "--out", "decoded.npy", bundle=bundle, provider=provider)
    return "\n".join([*notices, told, following])


def decode(bundle: str, source: str, out: str, provider: str) -> str:
    """Latents in a file -> images in `out`."""
    check_output(out, images=True)
    autoencoder = Autoencoder.load(bundle, provider, parts=("decoder",))
    fits = lambda shape: autoencoder.manifest.latent.shape in (shape, shape[1:])  # noqa: E731
    latents = find_array(source, fits, prefer="latents").array
    images = autoencoder.decode(np.atleast_2d(latents))
    write_output(out, images, images=True)
    return f"Wrote {len(images)} images to {out}\n{next_line('bench', here(bundle), provider=provider)}"


def reconstruct(bundle: str, source: str, out: str, provider: str) -> str:
    """Images in a file or folder -> their reconstructions in `out`, with the error made."""
    check_output(out, images=True)
    autoencoder = Autoencoder.load(bundle, provider)
    images, names, notices = _read(source, autoencoder)
    reconstructions = autoencoder.reconstruct(images)
    write_output(out, reconstructions.reshape(-1, *autoencoder.manifest.image_shape), images=True, names=names)
    scale = autoencoder.manifest.preprocessing.scale if images.dtype == np.uint8 else 1.0
    error = parity.mse(images.reshape(reconstructions.shape) * scale, parity.unit_scale(reconstructions))
    done = f"Wrote {len(reconstructions)} reconstructions to {out}; mean squared error {error:.5f}"
    return "\n".join([*notices, done, next_line("bench", here(bundle), provider=provider)])


def sample(bundle: str, count: int, seed: int | None, out: str, provider: str) -> str:
    """Random latents -> new images in `out`."""
    check_output(out, images=True)
    autoencoder = Autoencoder.load(bundle, provider, parts=("decoder",))
    check_memory(count, autoencoder.manifest, "new images")
    images = autoencoder.sample(count, seed)
    write_output(out, images, images=True)
    return f"Wrote {len(images)} new images to {out}\n{next_line('verify', here(bundle), provider=provider)}"


def interpolate(bundle: str, start: str, end: str, steps: int, out: str, provider: str) -> str:
    """The straight line between two images, or two latents, -> images in `out`."""
    check_output(out, images=True)
    autoencoder = Autoencoder.load(bundle, provider)
    check_memory(steps, autoencoder.manifest, "steps")
    ends = [_one(path, autoencoder) for path in (start, end)]
    images = autoencoder.interpolate(ends[0], ends[1], steps)
    write_output(out, images, images=True)
    return f"Wrote {len(images)} images to {out}\n{next_line('bench', here(bundle), provider=provider)}"


def check_bundle(
    bundle: str | Path, provider: str, key: str | Path | None = None, timeout_s: float = TIMEOUT_S
) -> tuple[list[Check], str | None]:
    """The golden vectors' checks; where a publisher's key is given, the signature first, and the key's fingerprint.

    Raises:
        SignatureError: the bundle is not as the key's holder signed it; nothing of it was run.
    """
    if key is None:
        return verify_bundle(bundle, provider, timeout_s=timeout_s), None
    from edgeae_runtime.bundle.signing import check_signature  # an extra, which few need

    fingerprint = check_signature(bundle, key)
    return verify_bundle(bundle, provider, timeout_s=timeout_s), fingerprint


def doctor() -> tuple[list[str], bool]:
    """What was looked at, a line each, and whether all of it is well."""
    findings = examine()
    lines = []
    for finding in findings:
        lines.append(f"{'✓' if finding.healthy else '✗'} {finding.what:<14} {finding.found}")
        if not finding.healthy:
            lines.append(f"  {finding.remedy}")
    return lines, all(finding.healthy for finding in findings)


def compare(old: str, new: str) -> list[str]:
    """Two benchmark files, a line per case."""
    return comparison_lines(compare_files(old, new))


def earlier_bench(path: str | Path | None) -> dict[str, Any] | None:
    """The benchmark to compare with, read before a long measurement begins."""
    return None if path is None else read_report(path)


def numbers(text: str) -> list[int]:
    """Parse `1,64`.

    Raises:
        InputError: it is something else.
    """
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise InputError(f"Got {text!r}, expected whole numbers such as 1,64.") from None


def bench_cases(bundle: str | Path, batches: str, threads: str) -> tuple[list[int], list[int]]:
    """The batches and thread counts to time, from texts such as `1,64`; refused before the work if they cannot be run.

    Warns:
        UserWarning: more threads than cores.

    Raises:
        InputError: they are no numbers, below 1, or more than this machine can run or hold.
    """
    sizes, counts = numbers(batches), numbers(threads)
    for count in counts:
        check_threads(count)
    cores = usable_cores()
    if max(counts) > cores:
        warnings.warn(
            f"{max(counts)} threads on {cores} usable cores wait for each other: this takes long, and says little.",
            stacklevel=2,
        )
    check_memory(max(sizes), open_bundle(bundle).manifest, "images in a batch")
    return sizes, counts


def check_memory(count: int, manifest: Manifest, what: str) -> None:
    """Refuse so many images that their pixels alone, in and out, are more than the memory that is free.

    Raises:
        InputError: they are.
    """
    each = 8 * math.prod(manifest.image_shape) + 12 * manifest.latent.dim
    free = available_memory()
    if free is not None and count * each > free:
        raise InputError(
            f"Got {count:,} {what}, which take {count * each / (1 << 30):,.1f} GiB of memory; "
            f"{free / (1 << 30):.1f} GiB are free. Ask for at most {free // each:,} at a time."
        )


def _read(source: str, autoencoder: Autoencoder) -> tuple[NDArray[Any], list[str] | None, list[str]]:
    """A batch of images, their files' names, and what to tell of them."""
    notices: list[str] = []
    manifest = autoencoder.manifest
    images, names = read_named_images(source, manifest.image_shape, manifest.preprocessing, notices.append)
    return images, names, notices


def _one(path: str, autoencoder: Autoencoder) -> NDArray[Any]:
    """A file's only image or latent, without its batch axis."""
    latent = autoencoder.manifest.latent.shape
    if is_array_file(path):
        fits_image = fits_images(autoencoder.manifest.image_shape, autoencoder.manifest.preprocessing)
        values = read_array(path, lambda shape: latent in (shape, shape[1:]) or fits_image(shape))
        if values.shape in (latent, (1, *latent)):
            return values.reshape(latent)
        if not fits_image(values.shape):
            raise InputError(f"{path} holds an array of shape {list(values.shape)}, expected one image or one latent.")
    images, _, _ = _read(path, autoencoder)
    if len(images) != 1:
        raise InputError(f"{path} holds {len(images)} images, expected one image or one latent.")
    return images.reshape(images.shape[1:])
