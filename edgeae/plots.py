"""The pictures a person wants to see: reconstructions, the latent plane, images decoded across it, the loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from edgeae_runtime.arrays import Float32Array
from edgeae_runtime.files.writing import write_atomically
from matplotlib.figure import Figure
from numpy.typing import NDArray

mpl.use("Agg")  # files only; no display is needed or opened

_DPI = 150
_INK, _QUIET = "#222222", "#8a8a8a"


def plot_reconstructions(rows: dict[str, Float32Array], path: Path) -> None:
    """Draw rows of images under each other, one row per title.

    Args:
        rows: title -> images [n, channels, height, width] in [0, 1], the same n for all; differences may be drawn by
            giving them as images.
        path: the .png to write.
    """
    count, _, height, width = next(iter(rows.values())).shape
    wide, high = np.maximum(np.array([width, height]) / max(height, width), 0.3)  # a line's title needs room
    figure = Figure(figsize=(0.8 * wide * count + 1.6, 0.92 * high * len(rows) + 0.2), dpi=_DPI)
    axes = figure.subplots(len(rows), count, squeeze=False)
    for line, (title, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(line, images, strict=True):
            _show(axis, image)
        line[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=9, color=_INK, labelpad=8)
    figure.tight_layout(pad=0.3, w_pad=0.15, h_pad=0.25)
    _save(figure, path)


def plot_latent_plane(latents: Float32Array, labels: NDArray[np.int64], names: Sequence[str], path: Path) -> None:
    """Scatter the first two latent coordinates, coloured by class.

    Args:
        latents: float32 [n, latent_dim], latent_dim from 2.
        labels: the class of each, an index into `names`.
        names: the classes.
        path: the .png to write.
    """
    figure = Figure(figsize=(7.6, 5.6), dpi=_DPI)
    axis = figure.subplots()
    colours = mpl.colormaps["tab10"]
    order = np.random.default_rng(0).permutation(len(latents))  # no class is hidden under the last one drawn
    across, up = latents[order, 0], latents[order, 1]
    axis.scatter(across, up, c=colours(labels[order] % 10), s=5, alpha=0.6, linewidths=0)
    for index, name in enumerate(names):
        axis.scatter([], [], color=colours(index % 10), s=30, label=name)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    low, high = np.percentile(latents[:, :2], (0.2, 99.8), axis=0)
    margin = 0.06 * (high - low)
    axis.set(
        xlim=(low[0] - margin[0], high[0] + margin[0]),
        ylim=(low[1] - margin[1], high[1] + margin[1]),
        xlabel="latent 1",
        ylabel="latent 2",
    )
    axis.set_title(f"{len(latents):,} test images in the latent plane", fontsize=11, color=_INK)
    _plain(axis)
    figure.tight_layout()
    _save(figure, path)


def plot_decoded_grid(grid: Float32Array, low: Sequence[float], high: Sequence[float], path: Path) -> None:
    """Draw the images decoded at a grid of points across the latent plane.

    Args:
        grid: [rows, columns, channels, height, width] in [0, 1]; the first row lies at the top.
        low: the plane's lower bounds, per coordinate.
        high: its upper bounds.
        path: the .png to write.
    """
    rows, columns, channels, height, width = grid.shape
    sheet = grid.transpose(0, 3, 1, 4, 2).reshape(rows * height, columns * width, channels)
    longest = max(sheet.shape[:2])
    tall, wide = (max(7.2 * side / longest, 2.4) for side in sheet.shape[:2])  # axes and title need some room
    figure = Figure(figsize=(wide, tall), dpi=_DPI)
    axis = figure.subplots()
    picture = np.clip(sheet[..., 0] if channels == 1 else sheet, 0, 1)
    bounds = (low[0], high[0], low[1], high[1])
    axis.imshow(picture, cmap="gray_r", vmin=0, vmax=1, extent=bounds, aspect="auto", interpolation="none")
    axis.set(xlabel="latent 1", ylabel="latent 2")
    axis.set_title("Decoded across the latent plane", fontsize=11, color=_INK)
    _plain(axis)
    figure.tight_layout()
    _save(figure, path)


def plot_loss(
    epochs: Sequence[int], training: Sequence[float], validation: Sequence[float], floor: float, path: Path
) -> None:
    """Draw the loss per epoch beside the entropy floor that no model can go below.

    Args:
        epochs: their numbers, from 1.
        training: mean binary cross-entropy per pixel, in nats, over each epoch.
        validation: the same on the test images after each epoch.
        floor: the images' own entropy per pixel, in nats.
        path: the .png to write.
    """
    figure = Figure(figsize=(6.4, 4.2), dpi=_DPI)
    axis = figure.subplots()
    axis.plot(epochs, training, "o-", color="#7aa6c2", label="training (mean over the epoch)")
    axis.plot(epochs, validation, "o-", color="#c2452d", label="validation (after the epoch)")
    for epoch, value in zip(epochs, validation, strict=True):
        axis.annotate(f"{value:.4f}", (epoch, value), (0, -14), textcoords="offset points", ha="center", fontsize=8)
    axis.axhline(floor, color=_QUIET, linestyle="--", linewidth=1)
    axis.annotate(f"entropy floor {floor:.4f}: perfect reconstruction", (epochs[0], floor), (0, 5),
                  textcoords="offset points", fontsize=8, color=_QUIET)  # fmt: skip
    axis.set(xlabel="epoch", ylabel="binary cross-entropy per pixel (nats)", xticks=list(epochs))
    axis.set_ylim(bottom=floor - 0.1 * (max(training) - floor))
    axis.legend(frameon=False, fontsize=9)
    _plain(axis)
    figure.tight_layout()
    _save(figure, path)


def _show(axis: mpl.axes.Axes, image: Float32Array) -> None:
    picture = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    axis.imshow(np.clip(picture, 0, 1), cmap="gray_r", vmin=0, vmax=1, interpolation="none")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def _plain(axis: mpl.axes.Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(colors=_INK, labelsize=8)


def _save(figure: Figure, path: Path) -> None:
    write_atomically(path, lambda file: figure.savefig(file, format="png", facecolor="white"))
