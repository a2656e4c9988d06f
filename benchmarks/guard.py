"""Fails when this project's graphs lose their lead over plain ONNX Runtime; quick, for every commit.

    python -m benchmarks.guard [--int8 GRAPH.onnx]

Only ratios are compared, measured in one interleaved run: floors of absolute times would measure the machine. The
floors lie in floors.json, per kind of processor, some way below what was measured there; on a kind without floors, no
graph of this project may be slower than the plain one. A failure is measured once more before it counts. `--int8` puts
another graph in the place of the int8 one: a worsened graph must fail.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
from pathlib import Path

import edgeae_export
import numpy as np
import onnx
import torch
from edgeae_export.graph.running import runner
from edgeae_export.targets import choose_target
from edgeae_runtime.measure.timing import THREAD_CLOCK, interleave

from benchmarks.other_decoders import Model
from benchmarks.peers.models import static_int8
from edgeae.data import load_images, prepare
from edgeae.model import AutoencoderConfig, Decoder, Encoder

FLOORS = Path(__file__).parent / "floors.json"
ELSEWHERE = {"float32 over plain": 0.95, "int8 over plain": 1.0}
BATCH = 1


def decoders() -> dict[str, onnx.ModelProto]:
    """The default decoder, with random weights: plain, by `quantize_static`, and this project's two."""
    torch.manual_seed(0)
    config = AutoencoderConfig()
    model = Model("default", Encoder(config).eval(), Decoder(config).eval(), config)
    images = prepare(load_images("sample").train_images[:320], config.image_size)
    graphs = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, quantize in (("plain", "none"), ("float32", "none"), ("int8", "int8")):
            report = edgeae_export.export(
                model,
                Path(folder) / name,
                quantize=quantize,
                calibration=images[64:],
                held_out=images[:64],
                rewrites=name != "plain",
            )
            graphs[name] = report.parts["decoder"].model
            if name == "plain":
                encode = runner(report.parts["encoder"].model)
    graphs["quantize_static"] = static_int8(
        graphs["plain"], "decoder", encode(images[64:].astype(np.float32) / np.float32(255))
    )
    return graphs


def ratios(graphs: dict[str, onnx.ModelProto]) -> dict[str, float]:
    """Speed-ups at batch 1 on one thread, from one interleaved run."""
    latent = np.zeros((BATCH, 2), np.float32)
    timed = interleave(
        {name: functools.partial(runner(graph), latent) for name, graph in graphs.items()}, clock=THREAD_CLOCK
    )
    us = {name: each.median_us for name, each in timed.items()}
    return {
        "float32 over plain": us["plain"] / us["float32"],
        "int8 over plain": us["plain"] / us["int8"],
        "int8 over quantize_static": us["quantize_static"] / us["int8"],
    }


def below(found: dict[str, float], floors: dict[str, float]) -> list[str]:
    """The ratios that are below their floor, as sentences."""
    return [f"{name}: {found[name]:.2f}x, floor {floor:.2f}x" for name, floor in floors.items() if found[name] < floor]


def main() -> None:
    """Measure, compare, exit with 1 if a floor is broken twice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--int8", help="a file, or `plain`, or `quantize_static`")
    options = parser.parse_args()
    torch.set_num_threads(1)
    graphs = decoders()
    if options.int8:
        graphs["int8"] = (
            graphs["quantize_static"] if str(options.int8) == "quantize_static" else onnx.load(options.int8)
        )
    kind = choose_target("host").name
    floors = json.loads(FLOORS.read_text()).get(kind, ELSEWHERE)
    for attempt in (1, 2):
        found = ratios(graphs)
        print(f"{kind}: " + ", ".join(f"{name} {ratio:.2f}x" for name, ratio in found.items()))
        broken = below(found, floors)
        if not broken:
            print("Every floor holds.")
            return
        print(f"Below the floor in attempt {attempt}: " + "; ".join(broken))
    sys.exit(1)


if __name__ == "__main__":
    main()
