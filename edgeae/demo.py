"""The whole story in one function: train, export in float32 and int8, verify, time, draw."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from edgeae_export import ExportReport, export
from edgeae_export.pipeline import Quantize
from edgeae_runtime import Autoencoder, verify
from edgeae_runtime.arrays import Float32Array
from edgeae_runtime.errors import InputError
from edgeae_runtime.files.documents import write_json
from edgeae_runtime.parity import unit_scale
from edgeae_runtime.pictures.images import write_output
from edgeae_runtime.verification import require_parity, verify_document
from numpy.typing import NDArray

from edgeae.benchmark import bench_variants
from edgeae.checkpoint import Checkpoint
from edgeae.data import ImageSet, prepare
from edgeae.model import AutoencoderConfig
from edgeae.plots import plot_decoded_grid, plot_latent_plane, plot_loss, plot_reconstructions
from edgeae.training.loop import TrainingConfig, TrainingProgress, train

PRECISIONS: dict[str, Quantize] = {"float32": "none", "int8": "int8"}
_SHOWN = 10  # pictures in a row: one of each class, then the next of each
_SAMPLES = 64  # new pictures
_GRID = 15  # points per axis of the decoded plane


@dataclass(frozen=True)
class DemoReport:
    """Where the demo's results are, and what it measured."""

    out: Path
    checkpoint: Checkpoint
    exports: dict[str, ExportReport]
    bench: dict[str, Any]
    pictures: list[Path]


def run_demo(
    data: ImageSet,
    out: str | Path,
    training: TrainingConfig | None = None,
    model: AutoencoderConfig | None = None,
    *,
    on_progress: Callable[[str], None],
    on_training: Callable[[TrainingProgress], None] | None = None,
) -> DemoReport:
    """Run every step and leave a folder of results.

    Args:
        data: the images.
        out: the folder; it gets `checkpoint/`, `bundle-float32/`, `bundle-int8/`, `pictures/` and `metrics.json`.
        training: how to train.
        model: the shape of the autoencoder, with latents of at least two numbers.
        on_progress: told the name of each stage when it begins.
        on_training: told training's progress.

    Raises:
        EdgeAEError: a step failed; what earlier steps made stays.
    """
    folder = Path(out)
    _check_folder(folder)
    on_progress(f"train on {len(data.train_images):,} images of {data.name}")
    checkpoint = train(data, folder / "checkpoint", model, training, on_progress=on_training)
    train_images, test_images = (
        prepare(images, checkpoint.config.image_size) for images in (data.train_images, data.test_images)
    )
    bundles = {name: folder / f"bundle-{name}" for name in PRECISIONS}
    exports = {}
    for name, bundle in bundles.items():
        on_progress(f"export {name}")
        exports[name] = export(
            checkpoint,
            bundle,
            quantize=PRECISIONS[name],
            calibration=train_images,
            held_out=test_images,
            overwrite=True,
        )
    verified = {}
    for name, bundle in bundles.items():
        on_progress(f"verify the {name} bundle without torch's help")
        checks = verify(bundle)
        require_parity(checks)
        verified[name] = verify_document(checks)
    on_progress("time torch, plain ONNX Runtime and the int8 bundle")
    bench = bench_variants(bundles["int8"], checkpoint, test_images, parts=("encoder", "decoder"))
    on_progress("draw")
    pictures = _draw(folder / "pictures", checkpoint, bundles, data, test_images)
    metrics = {
        "schema": "edgeae-demo",
        "schema_version": 1,
        "data": {"name": data.name, "source": data.source},
        "training": [vars(record) for record in checkpoint.history],
        "entropy_floor": checkpoint.entropy_floor,
        "bytes": {name: {part: r.bytes for part, r in report.parts.items()} for name, report in exports.items()},
        "quality": {name: dict(report.quality) for name, report in exports.items()},
        "verify": verified,
        "bench": bench,
    }
    write_json(folder / "metrics.json", metrics)
    return DemoReport(folder, checkpoint, exports, bench, pictures)


def _draw(
    folder: Path,
    checkpoint: Checkpoint,
    bundles: dict[str, Path],
    data: ImageSet,
    test_images: np.ndarray[Any, np.dtype[np.uint8]],
) -> list[Path]:
    """The five pictures, all computed by the bundles themselves."""
    autoencoders = {name: Autoencoder.load(path) for name, path in bundles.items()}
    exact = autoencoders["float32"]
    shown = test_images[one_of_each(data.test_labels, _SHOWN)]
    originals: Float32Array = shown.astype(np.float32) / np.float32(255)
    rows = {"original": originals}
    for name, autoencoder in autoencoders.items():
        rows[name] = unit_scale(autoencoder.reconstruct(shown))
    rows["8 x |int8 −\nfloat32|"] = 8 * np.abs(rows["int8"] - rows["float32"])
    latents = np.concatenate([exact.encode(test_images[i : i + 500]) for i in range(0, len(test_images), 500)])
    low, high = _bounds(exact)
    grid = unit_scale(exact.decode(_plane(low, high))).reshape(_GRID, _GRID, *exact.manifest.image_shape)
    paths = [folder / f"{name}.png" for name in ("reconstructions", "latent-plane", "decoded-plane", "loss", "samples")]
    plot_reconstructions(rows, paths[0])
    plot_latent_plane(latents, data.test_labels, data.class_names, paths[1])
    plot_decoded_grid(grid, low, high, paths[2])
    history = checkpoint.history
    plot_loss(
        [record.epoch for record in history],
        [record.train_loss for record in history],
        [record.validation_loss for record in history],
        checkpoint.entropy_floor,
        paths[3],
    )
    write_output(paths[4], exact.sample(_SAMPLES, seed=0), images=True)
    return paths


def one_of_each(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Rows of at most so many images: the first of each class, then the second of each, until there are enough.

    Args:
        labels: the class of each image, [n].
        count: images wanted.
    """
    turns = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        turns[rows] = np.arange(len(rows))
    return np.lexsort((labels, turns))[:count]


def _bounds(autoencoder: Autoencoder) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Where to look: 98 % of the prior of a variational autoencoder, of the test images of a plain one."""
    latent = autoencoder.manifest.latent
    if latent.prior == "normal":
        quantile = statistics.NormalDist().inv_cdf(0.99)
        return (-quantile,) * latent.dim, (quantile,) * latent.dim
    assert latent.low is not None
    assert latent.high is not None
    return latent.low, latent.high


def _plane(low: tuple[float, ...], high: tuple[float, ...]) -> Float32Array:
    """Points of a grid over the first two coordinates, the top row first; the others stay in their middle."""
    points = np.tile((np.array(low) + np.array(high)) / 2, (_GRID * _GRID, 1))
    across, down = np.meshgrid(np.linspace(low[0], high[0], _GRID), np.linspace(high[1], low[1], _GRID))
    points[:, 0], points[:, 1] = across.ravel(), down.ravel()
    return points.astype(np.float32)


def _check_folder(folder: Path) -> None:
    if folder.is_file():
        raise InputError(f"{folder} is a file, expected a folder for the demo's results. Choose another --out.")
    known = {"checkpoint", "pictures", "metrics.json", *(f"bundle-{name}" for name in PRECISIONS)}
    strangers = sorted({entry.name for entry in folder.iterdir()} - known) if folder.exists() else []
    if strangers:
        raise InputError(
            f"The folder {folder} holds other things than a demo's results ({', '.join(strangers[:3])}), so it is "
            "left alone. Choose another --out."
        )
