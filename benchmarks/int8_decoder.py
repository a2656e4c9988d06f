"""The default decoder against everything it replaces, in one interleaved run: speed, fidelity, size.

    python benchmarks/int8_decoder.py [--checkpoint runs/latest] [--json FILE]

Latency at batch 1 on one thread, and at batch 64 on two; medians of rounds in random order. Fidelity over the whole
test set. OpenVINO takes part where it is installed (`pip install openvino nncf`); it is named as absent where it is
not.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import edgeae_export
import numpy as np
import onnx
import torch
from edgeae_export.graph import runner
from edgeae_export.parity import in_large_batches, reconstruction_rise, torch_runner
from edgeae_runtime.machine import describe_machine
from edgeae_runtime.parity import psnr
from edgeae_runtime.timing import interleave
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quant_pre_process, quantize_static

import edgeae
from edgeae.benchmark import torch_call
from edgeae.export import checkpoint_images

Call = Callable[[np.ndarray], np.ndarray]
ROUNDS, SECONDS = 15, 0.05


class _Batches(CalibrationDataReader):
    def __init__(self, inputs: np.ndarray) -> None:
        self.feeds = iter([{"latent": inputs[i : i + 64]} for i in range(0, len(inputs), 64)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def naive_int8(plain: onnx.ModelProto, latents: np.ndarray) -> onnx.ModelProto:
    """ONNX Runtime's own recipe: `quant_pre_process`, then `quantize_static`, QDQ, per channel."""
    with tempfile.TemporaryDirectory() as folder:
        source, prepared, target = (str(Path(folder) / name) for name in ("a.onnx", "b.onnx", "c.onnx"))
        onnx.save(plain, source)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            target,
            _Batches(latents),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(target)


def openvino_calls(plain: onnx.ModelProto, naive: onnx.ModelProto, latents: np.ndarray) -> dict[str, Any]:
    """OpenVINO on the plain model, as compiled models by name; empty where it is not installed."""
    try:
        import nncf
        import openvino as ov
    except ImportError as error:
        print(f"OpenVINO takes no part: {error}. pip install openvino nncf")
        return {}
    core = ov.Core()

    def read(model: onnx.ModelProto) -> Any:  # noqa: ANN401 OpenVINO ships no types
        return core.read_model(model.SerializeToString(), b"")

    nncf.set_log_level(40)
    quantized = nncf.quantize(read(plain), nncf.Dataset([latents[i : i + 1] for i in range(300)]))
    models = {"float32": read(plain), "quantize_static int8": read(naive), "NNCF int8": quantized}
    settings = {"": {}, ", f32 hint": {"INFERENCE_PRECISION_HINT": "f32"}}
    common = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    return {
        f"OpenVINO {name}{hint}": core.compile_model(model, "CPU", common | extra)
        for name, model in models.items()
        for hint, extra in settings.items()
    }


def openvino_call(compiled: Any) -> Call:  # noqa: ANN401
    """The fastest way in that OpenVINO's Python interface has: one request, inputs and outputs shared."""
    request = compiled.create_infer_request()

    def call(latents: np.ndarray) -> np.ndarray:
        return request.infer([latents], share_inputs=True, share_outputs=True)[0]

    return call


def graph_call(model: onnx.ModelProto, threads: int = 1) -> Call:
    """A graph in ONNX Runtime."""
    return runner(model, threads=threads)


def timed(
    calls: Mapping[str, Call], inputs: np.ndarray, rounds: int = ROUNDS, seconds: float = SECONDS
) -> dict[str, Any]:
    """Interleaved latency of every call on the same inputs."""
    bound = {name: (lambda call=call: call(inputs)) for name, call in calls.items()}
    return {
        name: each.as_document() for name, each in interleave(bound, rounds=rounds, seconds_per_turn=seconds).items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="runs/latest")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = edgeae.load_checkpoint(options.checkpoint)
    train_images, test_images = checkpoint_images(checkpoint)
    images = test_images.astype(np.float32) / np.float32(255)
    encode, decode = torch_runner(checkpoint.encoder), torch_runner(checkpoint.decoder)
    latents = encode(images)
    reference = decode(latents)
    with tempfile.TemporaryDirectory() as folder:
        reports = {
            kind: edgeae_export.export(
                checkpoint, Path(folder) / kind, quantize=kind, calibration=train_images, held_out=test_images
            )
            for kind in ("none", "int8")
        }
    parts = {kind: report.parts for kind, report in reports.items()}
    plain = parts["none"]["decoder"].simplified
    naive = naive_int8(plain, encode(train_images[:: len(train_images) // 1024].astype(np.float32) / np.float32(255)))
    ours = {kind: parts[kind]["decoder"].model for kind in parts}
    graphs = {
        "ONNX Runtime plain float32": plain,
        "ONNX Runtime quantize_static": naive,
        "this project float32": ours["none"],
        "this project int8": ours["int8"],
    }
    calls: dict[str, Call] = {"torch eager": torch_call(checkpoint.decoder)}
    calls |= {name: graph_call(graph) for name, graph in graphs.items()}
    calls |= {name: openvino_call(model) for name, model in openvino_calls(plain, naive, latents).items()}
    latency = timed(calls, latents[:1])
    us = {name: figures["median_us"] for name, figures in latency.items()}
    rows = []
    for name, call in calls.items():
        decoded = np.concatenate([np.array(call(latents[i : i + 50])) for i in range(0, len(latents), 50)])
        size = graphs[name].ByteSize() if name in graphs else None
        rows.append(
            {
                "variant": name,
                "median_us": us[name],
                "against_quantize_static": us["ONNX Runtime quantize_static"] / us[name],
                "against_plain_float32": us["ONNX Runtime plain float32"] / us[name],
                "psnr_db": round(psnr(reference, decoded), 2) if not np.array_equal(reference, decoded) else None,
                "error_rise": reconstruction_rise(images, reference, decoded),
                "bytes": size,
            }
        )
    two = {name: graph_call(graph, threads=2) for name, graph in graphs.items()}
    batch64 = timed(two, latents[:64], rounds=9, seconds=0.15)
    encoder, both = runner(parts["int8"]["encoder"].model), runner(ours["int8"])
    found = in_large_batches(encoder, images)
    rebuilt = in_large_batches(both, found)
    spread = np.ptp(latents, axis=0)
    report = {
        "schema": "edgeae-int8-decoder",
        "schema_version": 1,
        "machine": describe_machine(),
        "test_images": len(images),
        "rows": rows,
        "batch_64_two_threads_us": {name: figures["median_us"] for name, figures in batch64.items()},
        "encoder": {
            "latent_error_of_spread": float(np.mean(np.abs(found - latents) / spread)),
            "bytes": {kind: parts[kind]["encoder"].bytes for kind in parts},
        },
        "round_trip": {
            "psnr_db": psnr(reference, rebuilt),
            "error_rise": reconstruction_rise(images, reference, rebuilt),
        },
    }
    show(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def show(report: dict[str, Any]) -> None:
    """The figures as tables."""
    machine = report["machine"]
    print(f"{machine['processor']} ({', '.join(machine['instruction_sets'])}), ONNX Runtime {machine['onnxruntime']}")
    titles = f"{'us':>7} {'vs static':>10} {'vs float':>9} {'PSNR':>7} {'rise':>9} {'kB':>7}"
    print(f"\n{'decoder, batch 1, one thread':40} {titles}")
    for row in report["rows"]:
        fidelity = "exact" if row["psnr_db"] is None else f"{row['psnr_db']:.1f}"
        size = f"{row['bytes'] / 1000:.1f}" if row["bytes"] else "-"
        print(
            f"{row['variant']:40} {row['median_us']:7.1f} {row['against_quantize_static']:9.2f}x "
            f"{row['against_plain_float32']:8.2f}x {fidelity:>7} {100 * row['error_rise']:+8.3f}% {size:>7}"
        )
    times = report["batch_64_two_threads_us"]
    print("\ndecoder, batch 64, two threads")
    for name, time in times.items():
        print(f"{name:40} {time / 1e3:7.2f} ms {times['ONNX Runtime plain float32'] / time:6.2f}x")
    encoder, both = report["encoder"], report["round_trip"]
    print(f"\nint8 encoder: mean latent error {100 * encoder['latent_error_of_spread']:.3f} % of the spread")
    print(f"int8 round trip: {both['psnr_db']:.1f} dB, reconstruction error {100 * both['error_rise']:+.3f} %")


if __name__ == "__main__":
    main()
