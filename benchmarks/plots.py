"""The pictures of the benchmarks: latency against fidelity, size against latency, and how time grows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, NullFormatter
from matplotlib.transforms import Bbox

from benchmarks.results import EXACT_DB, latencies, read_result

OURS, PEERS, RUNTIME = "#c2410c", "#475569", "#0369a1"
COLOURS = {"plain float32": RUNTIME, "float32": "#f59e0b", "int8": OURS}
NAMES = {"plain float32": "ONNX Runtime, plain float32", "float32": "edgeae float32", "int8": "edgeae int8"}
PLACES = sorted(
    ((right, up) for right in (0, *range(8, 180, 8), *range(-8, -180, -8)) for up in range(-240, 241, 6)),
    key=lambda place: math.hypot(place[0], 1.3 * place[1]),
)
"""Where a name may stand, in points from what it names; the nearest first."""
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
    figure, axes = plt.subplots(figsize=(8.6, 5.0), layout="constrained")
    points = [(time / 1e3, min(variant["psnr_db"], EXACT_DB), variant["variant"]) for variant, time in _points(report)]
    _scatter(axes, points)
    axes.set_ylabel("PSNR against torch float32 (dB)")
    axes.set_yticks([20, 40, 60, 80, EXACT_DB], ["20", "40", "60", "80", "exact"])
    axes.set_ylim(10, EXACT_DB + 8)
    _finish(figure, axes, report, points, path)


def draw_size(report: dict[str, Any], path: Path) -> None:
    """The decoder's latency against its file; best is the lower left."""
    figure, axes = plt.subplots(figsize=(8.6, 5.0), layout="constrained")
    points = [(time / 1e3, variant["bytes"]["decoder"] / 1000, variant["variant"]) for variant, time in _points(report)]
    _scatter(axes, points)
    axes.set_ylabel("decoder file (kB)")
    axes.set_ylim(0)
    _finish(figure, axes, report, points, path)


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
    """The points; `_label` names them once the axes stand still."""
    for x, y, name in points:
        axes.scatter(x, y, color=_colour(name), s=45, zorder=3, edgecolor="white", linewidth=0.6)


def _colour(name: str) -> str:
    return OURS if name.startswith("edgeae") else RUNTIME if name.startswith("ONNX Runtime") else PEERS


def _label(axes: Axes, points: list[tuple[float, float, str]]) -> None:
    """Each point's name beside it, at the nearest place where it covers neither a point nor another name."""
    figure = axes.figure
    figure.canvas.draw()
    figure.set_layout_engine("none")  # it would make room for the names, and move what they stand beside
    frame = axes.get_window_extent()
    half = 5 * figure.dpi / 72
    places = axes.transData.transform([point[:2] for point in points])
    taken = [Bbox.from_extents(x - half, y - half, x + half, y + half) for x, y in places]
    for x, y, name in sorted(points):
        for right, up in PLACES:
            text = axes.annotate(
                name,
                (x, y),
                (right, up),
                textcoords="offset points",
                color=_colour(name),
                fontsize=7.5,
                ha="left" if right > 0 else "right" if right < 0 else "center",
                va="center",
                arrowprops={"arrowstyle": "-", "color": "#94a3b8", "lw": 0.5, "shrinkA": 1, "shrinkB": 3},
            )
            text.update_positions(figure.canvas.get_renderer())
            box = Text.get_window_extent(text)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()
        else:
            raise ValueError(f"There is no place for {name!r} in the picture.")


def _finish(
    figure: plt.Figure, axes: Axes, report: dict[str, Any], points: list[tuple[float, float, str]], path: Path
) -> None:
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
    _label(axes, points)
    figure.savefig(path, dpi=110, pil_kwargs={"optimize": True})
    plt.close(figure)


def _plain_ticks(axes: Axes, ticks: list[float]) -> None:
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
