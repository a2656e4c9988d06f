"""The pictures of the benchmarks: latency against fidelity, size against latency, and how time grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.results import EXACT_DB, latencies, read_result

OURS, PEERS, RUNTIME = "#c2410c", "#475569", "#0369a1"
COLOURS = {"plain float32": RUNTIME, "float32": "#f59e0b", "int8": OURS}
NAMES = {"plain float32": "ONNX Runtime, plain float32", "float32": "edgeae float32", "int8": "edgeae int8"}
SLOWEST_SHOWN = 20.0
"""Times longer than this many times edgeae int8's would squeeze the others into a corner: they are named below."""


def draw_all(folder: Path) -> None:
    """Every picture, into the folder."""
    peers, scaling = read_result("peers"), read_result("scaling")
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    draw_fidelity(peers, folder / "latency-fidelity.png")
    draw_size(peers, folder / "size-latency.png")
    draw_scaling(scaling, folder / "scaling.png")


def draw_fidelity(report: dict[str, Any], path: Path) -> None:
    """The decoder's latency against its PSNR; best is the upper left."""
    figure, axes = plt.subplots(figsize=(7.6, 4.2), layout="constrained")
    points = [(time / 1e3, min(variant["psnr_db"], EXACT_DB), variant["variant"]) for variant, time in _points(report)]
    _scatter(axes, points)
    axes.set_ylabel("PSNR against torch float32 (dB)")
    axes.set_yticks([20, 40, 60, 80, EXACT_DB], ["20", "40", "60", "80", "exact"])
    axes.set_ylim(10, EXACT_DB + 8)
    _finish(figure, axes, report, path)


def draw_size(report: dict[str, Any], path: Path) -> None:
    """The decoder's latency against its file; best is the lower left."""
    figure, axes = plt.subplots(figsize=(7.6, 4.2), layout="constrained")
    points = [(time / 1e3, variant["bytes"]["decoder"] / 1000, variant["variant"]) for variant, time in _points(report)]
    _scatter(axes, points)
    axes.set_ylabel("decoder file (kB)")
    axes.set_ylim(0)
    _finish(figure, axes, report, path)


def draw_scaling(report: dict[str, Any], path: Path) -> None:
    """Time against image size and against batch."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.8), layout="constrained")
    for variant, colour in COLOURS.items():
        for sweep, style in (("size, grey", "-"), ("size, RGB", "--")):
            rows = [row for row in report["rows"] if sweep in row["sweeps"] and row["batch"] == 1]
            x, y = [row["size"] for row in rows], [row["us"][variant]["median_us"] / 1e3 for row in rows]
            left.plot(x, y, style, color=colour, marker="o", markersize=3.5)
        rows = [row for row in report["rows"] if "batch" in row["sweeps"]]
        per_image = [row["us"][variant]["median_us"] / row["batch"] for row in rows]
        right.plot([row["batch"] for row in rows], per_image, color=colour, marker="o", markersize=3.5)
        right.annotate(
            NAMES[variant],
            (rows[-1]["batch"], per_image[-1]),
            (0, 7),
            textcoords="offset points",
            color=colour,
            ha="right",
        )
    left.set(xlabel="image side (pixels); dashed: RGB", ylabel="decoder, batch 1 (ms)", xscale="log", yscale="log")
    right.set(xlabel="batch", ylabel="microseconds per image", xscale="log")
    right.set_ylim(0)
    _plain_ticks(left, [32, 64, 128, 256])
    _plain_ticks(right, [1, 4, 16, 64, 256])
    left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    figure.savefig(path, dpi=110, pil_kwargs={"optimize": True})
    plt.close(figure)


def _points(report: dict[str, Any]) -> list[tuple[dict[str, Any], float]]:
    rows = latencies(report, "decoder", 1, 1)
    limit = SLOWEST_SHOWN * rows["edgeae int8"]["median_us"]
    chosen = [
        (variant, rows[variant["variant"]]["median_us"]) for variant in report["variants"] if variant["variant"] in rows
    ]
    return [(variant, time) for variant, time in chosen if time <= limit]


def _scatter(axes: Axes, points: list[tuple[float, float, str]]) -> None:
    """Numbered points, the fastest first, and beside the axes what the numbers stand for."""
    for number, (x, y, name) in enumerate(sorted(points), start=1):
        colour = OURS if name.startswith("edgeae") else RUNTIME if name.startswith("ONNX Runtime") else PEERS
        axes.scatter(x, y, color=colour, s=110, zorder=3, edgecolor="white", linewidth=0.6)
        axes.annotate(str(number), (x, y), color="white", fontsize=7, ha="center", va="center", zorder=4)
        line = f"{number:>2}  {name}"
        axes.annotate(line, (1.02, 0.97 - 0.058 * number), xycoords="axes fraction", color=colour, fontsize=8)


def _finish(figure: plt.Figure, axes: Axes, report: dict[str, Any], path: Path) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlabel("decoder, batch 1, one thread (ms)")
    ticks = [tick for tick in (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2) if low <= tick <= high]
    _plain_ticks(axes, ticks)
    rows = latencies(report, "decoder", 1, 1)
    shown = {variant["variant"] for variant, _ in _points(report)}
    left_out = [f"{name}: {row['median_us'] / 1e3:.0f} ms" for name, row in rows.items() if name not in shown]
    if left_out:
        axes.set_title("not shown: " + ", ".join(left_out), fontsize=8, color=PEERS, loc="right")
    axes.grid(visible=True, lw=0.3)
    figure.savefig(path, dpi=110, pil_kwargs={"optimize": True})
    plt.close(figure)


def _plain_ticks(axes: Axes, ticks: list[float]) -> None:
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
