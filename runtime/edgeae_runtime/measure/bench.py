"""Benchmarks of one or several variants of an autoencoder, with one method and one JSON schema."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae_runtime.arrays import random_input
from edgeae_runtime.autoencoder import Autoencoder
from edgeae_runtime.bundle.manifest import Manifest
from edgeae_runtime.bundle.reader import Bundle, open_bundle
from edgeae_runtime.errors import InputError
from edgeae_runtime.machine import describe_machine
from edgeae_runtime.measure.cold_start import bundle_command, measure
from edgeae_runtime.measure.endurance import endure, idle_cpu
from edgeae_runtime.measure.timing import MAX_ROUNDS, METHOD, Latency, difference, interleave

SCHEMA, SCHEMA_VERSION = "edgeae-bench", 2
MAX_SOAK_SECONDS = 24 * 3600
AGAIN = "the same again"
"""The second of the A/A pair: the last variant under another name."""

Run = Callable[[NDArray[Any]], object]


@dataclass(frozen=True)
class Case:
    """One cell of the benchmark: what runs, on how many inputs, with how many threads."""

    part: str
    """`encoder`, `decoder` or `round-trip`."""
    batch: int
    threads: int

    def __str__(self) -> str:
        return f"{self.part}, batch {self.batch}, {self.threads} thread{'s' if self.threads > 1 else ''}"


@dataclass(frozen=True)
class Row:
    """One variant in one case."""

    variant: str
    case: Case
    latency: Latency

    @property
    def images_per_second(self) -> float:
        """Throughput at the median latency."""
        return self.case.batch / self.latency.median_us * 1e6

    def as_document(self) -> dict[str, Any]:
        """The row as JSON."""
        return {
            "variant": self.variant,
            "part": self.case.part,
            "batch": self.case.batch,
            "threads": self.case.threads,
            **self.latency.as_document(),
            "images_per_second": round(self.images_per_second, 1),
        }


def bundle_runs(autoencoder: Autoencoder) -> dict[str, Run]:
    """Per part, the call to time: the library's own, validation included."""
    loaded = autoencoder.providers
    runs: dict[str, Run] = {}
    if "encoder" in loaded:
        runs["encoder"] = autoencoder.encode
    if "decoder" in loaded:
        runs["decoder"] = autoencoder.decode
    if len(loaded) == 2:
        runs["round-trip"] = autoencoder.reconstruct
    return runs


def bench_inputs(manifest: Manifest, seed: int = 0) -> Callable[[Case], NDArray[Any]]:
    """Random inputs of the right shape and kind: the time of these graphs does not depend on the values."""
    generator = np.random.default_rng(seed)

    def inputs(case: Case) -> NDArray[Any]:
        return random_input(
            generator, manifest.parts["decoder" if case.part == "decoder" else "encoder"].input, case.batch
        )

    return inputs


def time_case(
    case: Case,
    runs: Mapping[str, Run],
    inputs: NDArray[Any],
    *,
    rounds: int = MAX_ROUNDS,
    seconds_per_turn: float = 0.05,
) -> list[Row]:
    """Time the variants of one case against each other, interleaved, the last one twice.

    Returns:
        A row per variant, then one named `AGAIN`.
    """
    calls = {name: _bind(run, inputs) for name, run in runs.items()}
    calls[AGAIN] = list(calls.values())[-1]
    latencies = interleave(calls, rounds=rounds, seconds_per_turn=seconds_per_turn)
    return [Row(name, case, latencies[name]) for name in calls]


def pair_noise(rows: Sequence[Row]) -> dict[str, float]:
    """Per case, by how much the two of the A/A pair differ."""
    noise = {}
    for before, row in itertools.pairwise(rows):
        if row.variant == AGAIN:
            pair = difference(before.latency.median_us, row.latency.median_us)
            noise[str(row.case)] = round(max(pair.ratio, 1 / pair.ratio) - 1, 4)
    return noise


def bench_bundle(
    path: str | Path,
    *,
    parts: Sequence[str] | None = None,
    batches: Sequence[int] = (1, 64),
    threads: Sequence[int] = (1,),
    provider: str = "cpu",
    soak_seconds: float = 0.0,
    variants: bool = False,
    on_case: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Time a bundle alone: steady latency per case, idle CPU, and the start-up of each part in fresh processes.

    Args:
        path: the bundle's folder.
        parts: `encoder`, `decoder`, `round-trip`; by default all the bundle has.
        batches: images per call.
        threads: threads per call.
        provider: where it runs.
        soak_seconds: if above 0, also run the first case for so long without a pause, to see throttling.
        variants: whether to time every form of each part in turns, each under its name, instead of the one that is
            loaded by default; round trips are left out then.
        on_case: told what is measured next.

    Returns:
        A document of schema `edgeae-bench`.

    Raises:
        InputError: a part the bundle lacks, or a batch or thread count below 1.
    """
    check_soak(soak_seconds)
    tell = on_case or (lambda what: None)
    bundle = open_bundle(path)
    inputs = bench_inputs(bundle.manifest)
    rows: list[Row] = []
    for count in _positive("thread count", threads):
        runs = (_form_runs if variants else _default_runs)(bundle, provider, count)
        for case in cases(parts, batches, count, runs):
            tell(f"time the {case}")
            rows += time_case(case, runs[case.part], inputs(case))
    tell("start fresh processes for start-up time and memory")
    starts = [
        {"variant": "bundle", "part": part, **measure(bundle_command(path, part, provider))}
        for part in bundle.manifest.parts
    ]
    return document(rows, starts) | over_time(path, rows[0].case, provider, soak_seconds, tell)


def _default_runs(bundle: Bundle, provider: str, threads: int) -> dict[str, dict[str, Run]]:
    runs = bundle_runs(Autoencoder.from_bundle(bundle, provider, threads=threads, spinning=True))
    return {part: {"bundle": run} for part, run in runs.items()}


def _form_runs(bundle: Bundle, provider: str, threads: int) -> dict[str, dict[str, Run]]:
    """Per part, the call of each of its forms that are there, the part itself first."""
    runs: dict[str, dict[str, Run]] = {}
    for name in bundle.manifest.parts:
        runs[name] = {}
        for form in bundle.forms(name):
            loaded = Autoencoder.from_bundle(
                bundle, provider, parts=name, threads=threads, spinning=True, variants={name: form}
            )
            runs[name][form] = bundle_runs(loaded)[name]
    return runs


def over_time(
    path: str | Path, case: Case, provider: str, soak_seconds: float, tell: Callable[[str], None]
) -> dict[str, Any]:
    """What a bundle costs while nobody calls it, and whether the machine throttles while somebody does.

    Returns:
        `idle_cpu`: share of one core; and, if `soak_seconds` is above 0, `soak`: see `endure`.
    """
    bundle = open_bundle(path)
    tell("measure the idle CPU")
    with Autoencoder.from_bundle(bundle, provider, threads=case.threads) as idle:
        idle.warmup()
        found: dict[str, Any] = {"idle_cpu": round(idle_cpu(), 5)}
    if soak_seconds > 0:
        tell(f"run the {case} for {soak_seconds:g} s")
        runs = bundle_runs(Autoencoder.from_bundle(bundle, provider, threads=case.threads, spinning=True))
        call = _bind(runs[case.part], bench_inputs(bundle.manifest)(case))
        found["soak"] = {"case": str(case), **endure(call, soak_seconds)}
    return found


def check_soak(seconds: float) -> None:
    """Raise InputError unless the soak is a time one can wait for."""
    if not 0 <= seconds <= MAX_SOAK_SECONDS:
        raise InputError(f"Got a soak of {seconds:g} s, expected 0 to {MAX_SOAK_SECONDS} s.")


def cases(parts: Sequence[str] | None, batches: Sequence[int], threads: int, runs: Mapping[str, object]) -> list[Case]:
    """Every part with every batch; by default all the parts there are.

    Raises:
        InputError: a batch below 1, or a part that the bundle lacks.
    """
    missing = set(parts or ()) - runs.keys()
    if missing:
        raise InputError(f"The bundle has no {', '.join(sorted(missing))} to time; it has {', '.join(runs)}.")
    return [Case(part, batch, threads) for part in parts or runs for batch in _positive("batch", batches)]


def _positive(name: str, numbers: Sequence[int]) -> Sequence[int]:
    if not numbers or min(numbers) < 1:
        raise InputError(f"Got {name} {list(numbers)}, expected whole numbers from 1, such as 1,64.")
    return numbers


def document(rows: Sequence[Row], starts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The versioned JSON of a benchmark."""
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "machine": describe_machine(),
        "method": f"{METHOD}; idle threads spin",
        "rows": [row.as_document() for row in rows],
        "pair_noise": pair_noise(rows),
        "cold_start": [dict(start) for start in starts],
    }


def _bind(run: Run, inputs: NDArray[Any]) -> Callable[[], object]:
    return lambda: run(inputs)
