"""Everything that users would pick instead, against this project, in one interleaved run.

    python -m benchmarks.against_peers [--checkpoint runs/latest] [--json benchmarks/results/peers.json]

Encoder, decoder and round trip at batch 1, 8 and 64, on one thread and on all; each variant in a process of its own,
pinned to as many cores as it has threads, and stopped while another one has its turn. The last variant runs twice:
what the two differ by is the noise. A peer that is not installed or cannot convert the model is listed with the reason.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from edgeae_export.modules.running import torch_runner
from edgeae_export.parity import reconstruction_rise
from edgeae_export.pipeline import MAX_PSNR_DB
from edgeae_runtime.errors import EdgeAEError
from edgeae_runtime.files.documents import write_json
from edgeae_runtime.machine import usable_cores
from edgeae_runtime.measure.bench import AGAIN, Case, Row, document
from edgeae_runtime.measure.cold_start import measure
from edgeae_runtime.measure.timing import MAX_ROUNDS, interleave_turns
from edgeae_runtime.parity import psnr

import edgeae
from benchmarks.peers.models import EDGEAE, PARTS, VARIANTS, Variant, make_models
from benchmarks.peers.processes import PeerError, Worker, worker_command
from benchmarks.results import RESULTS, whole_number
from edgeae.checkpoint_images import checkpoint_images

BATCHES = (1, 8, 64)
CHUNK = 8
"""Batch size at which the outputs for the fidelity are made: one that every engine has a file for."""
SECONDS = 0.05
TOO_SLOW_US = 200e3
FEWER_IMAGES, SLOW_US = 160, 20e3
"""The fidelity is over the whole test set; over fewer images for a peer that takes longer than this for a chunk."""


def main() -> None:
    """Prepare, time, measure the fidelity, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="runs/latest")
    parser.add_argument("--work", type=Path, default=Path("runs/peers"))
    parser.add_argument("--json", type=Path, default=RESULTS / "peers.json")
    parser.add_argument("--rounds", type=whole_number(1, 1000), default=MAX_ROUNDS)
    parser.add_argument("--keep-models", action="store_true", help="use the files of an earlier run")
    options = parser.parse_args()
    checkpoint = edgeae.load_checkpoint(options.checkpoint)
    train_images, test_images = checkpoint_images(checkpoint)
    absent_file = options.work / "absent.json"
    if not options.keep_models:
        failed = make_models(checkpoint, train_images, test_images, options.work, print)
        absent_file.write_text(json.dumps(failed))
    absent = json.loads(absent_file.read_text())
    shapes = {"encoder": list(checkpoint.image_shape), "decoder": [checkpoint.latent_dim]}
    run = Run(options.work, shapes, options.rounds)
    run.absent = {v.name: absent[v.conversion] for v in VARIANTS if v.conversion in absent}
    images = test_images.astype(np.float32) / np.float32(255)
    fidelity = run.fidelity(images, checkpoint)
    sizes = {v.name: {part: v.bytes(options.work, part) for part in PARTS} for v in VARIANTS if v.name in fidelity}
    rows = [row for threads in sorted({1, usable_cores()}) for row in run.time(threads)]
    report = document(rows, run.cold_starts())
    report["machine"]["torch"] = torch.__version__
    report["threads"] = "each worker is pinned to cores " + "; ".join(
        f"{cores(count)} on {count} thread{'s' if count > 1 else ''}" for count in sorted({1, usable_cores()})
    )
    report["test_images"] = len(images)
    report["variants"] = [
        {
            "variant": variant.name,
            "version": run.versions[variant.name],
            "bytes": sizes[variant.name],
            **fidelity[variant.name],
        }
        for variant in VARIANTS
        if variant.name in fidelity
    ]
    report["absent"] = [{"variant": name, "reason": reason} for name, reason in run.absent.items()]
    write_json(options.json, report)
    print(f"Wrote {options.json}")


def cores(threads: int) -> list[int]:
    """The cores a worker is pinned to: the last ones, because the system's own work tends to the first."""
    return sorted(os.sched_getaffinity(0))[-threads:]


class Run:
    """One comparison: its files, what is absent and why."""

    def __init__(self, work: Path, shapes: dict[str, list[int]], rounds: int) -> None:
        self.work, self.shapes, self.rounds = work, shapes, rounds
        self.absent: dict[str, str] = {}
        self.versions: dict[str, str] = {}

    def present(self) -> list[Variant]:
        """The variants that take part."""
        return [variant for variant in VARIANTS if variant.name not in self.absent]

    def spec(self, variant: Variant, threads: int) -> Path:
        """The file that tells a worker what it is."""
        path = self.work / f"spec-{VARIANTS.index(variant)}-{threads}.json"
        files = {part: str(Path(variant.path(self.work, part)).absolute()) for part in PARTS}
        spec = {"engine": variant.engine, "files": files, "shapes": self.shapes, "cores": cores(threads)}
        path.write_text(json.dumps(spec))
        return path

    def fidelity(self, images: np.ndarray, checkpoint: edgeae.Checkpoint) -> dict[str, dict[str, Any]]:
        """Each variant's outputs over all test images against torch float32; a variant that fails is absent."""
        latents = torch_runner(checkpoint.encoder)(images)
        reference = torch_runner(checkpoint.decoder)(latents)
        spread = np.ptp(latents, axis=0)
        inputs = {"encoder": images, "decoder": latents, "round-trip": images}
        found = {}
        for variant in self.present():
            print(f"fidelity of {variant.name}")
            try:
                with Worker(variant.python, self.spec(variant, 1)) as worker:
                    self.versions[variant.name] = worker.ask("version")["version"]
                    slow = worker.ask("warm", part="decoder", batch=CHUNK)["us"] > SLOW_US
                    count = FEWER_IMAGES if slow else len(images)
                    made = {part: worker.outputs(part, each[:count], CHUNK) for part, each in inputs.items()}
            except PeerError as error:
                self.absent[variant.name] = str(error)
                print(f"  absent: {error}")
                continue
            decoded, rebuilt = (made[part].reshape(images[:count].shape) for part in ("decoder", "round-trip"))
            found[variant.name] = {
                "latent_error_of_spread": round(float(np.mean(np.abs(made["encoder"] - latents[:count]) / spread)), 7),
                "psnr_db": round(min(psnr(reference[:count], decoded), MAX_PSNR_DB), 2),
                "round_trip_psnr_db": round(min(psnr(reference[:count], rebuilt), MAX_PSNR_DB), 2),
                "error_rise": round(reconstruction_rise(images[:count], reference[:count], rebuilt), 7),
                "fidelity_images": count,
            }
        return found

    def time(self, threads: int) -> list[Row]:
        """Every case on so many threads."""
        workers = {variant.name: Worker(variant.python, self.spec(variant, threads)) for variant in self.present()}
        last = next(variant for variant in VARIANTS if variant.name == EDGEAE)
        workers[AGAIN] = Worker(last.python, self.spec(last, threads))
        rows: list[Row] = []
        try:
            for part in (*PARTS, "round-trip"):
                for batch in BATCHES:
                    rows += self.time_case(workers, Case(part, batch, threads))
        finally:
            for worker in workers.values():
                worker.close()
        return rows

    def time_case(self, workers: dict[str, Worker], case: Case) -> list[Row]:
        """One case, all variants in turns; one that fails here is left out of this case, with the reason."""
        print(case, flush=True)

        def turn(worker: Worker) -> list[float]:
            times: list[float] = worker.ask("turn", part=case.part, batch=case.batch, seconds=SECONDS)["us"]
            return times

        turns = {}
        for name, worker in workers.items():
            try:
                warm_us = worker.ask("warm", part=case.part, batch=case.batch)["us"]
                if warm_us > TOO_SLOW_US:
                    raise PeerError(f"{warm_us / 1e3:.0f} ms a call while warming up: too slow to take turns with")
            except PeerError as error:
                self.absent[f"{name}, {case}"] = str(error)
                print(f"  {name} is absent: {error}")
                continue
            turns[name] = functools.partial(turn, worker)
        latencies = interleave_turns(turns, rounds=self.rounds)
        for name, latency in latencies.items():
            print(f"  {name:<32}{latency.median_us:10.1f} us ± {100 * latency.noise:.1f} %", flush=True)
        return [Row(name, case, latency) for name, latency in latencies.items()]

    def cold_starts(self) -> list[dict[str, Any]]:
        """The decoder's start-up and memory, in fresh processes."""
        starts = []
        for variant in self.present():
            command = [*worker_command(variant.python, self.spec(variant, 1)), "cold", "decoder"]
            try:
                starts.append({"variant": variant.name, "part": "decoder", **measure(command, runs=3)})
            except EdgeAEError as error:
                self.absent[f"{variant.name}, cold start"] = str(error)
        return starts


if __name__ == "__main__":
    main()
