"""Latency measured so that a comparison holds on a noisy machine.

The candidates take turns in rounds of random order, so that a slow minute hits all of them alike; each round times
single calls; warm-up is apart. Medians and ratios are what to quote; p90 and p99 show the tail.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

WARM_UP_CALLS = 10
MIN_CALLS_PER_ROUND = 3


@dataclass(frozen=True)
class Latency:
    """The distribution of one candidate's call times."""

    calls: NDArray[np.float64]
    """Microseconds of every timed call."""
    round_medians: NDArray[np.float64]
    """Microseconds, one per round: their spread is the noise of the median."""

    @property
    def median_us(self) -> float:
        """Median of the rounds' medians, in microseconds."""
        return float(np.median(self.round_medians))

    def percentile_us(self, percent: float) -> float:
        """A percentile over all calls, in microseconds."""
        return float(np.percentile(self.calls, percent))

    def as_document(self) -> dict[str, Any]:
        """The figures worth keeping, as JSON; times in microseconds."""
        return {
            "median_us": round(self.median_us, 2),
            "p90_us": round(self.percentile_us(90), 2),
            "p99_us": round(self.percentile_us(99), 2),
            "round_medians_us": [round(float(value), 2) for value in self.round_medians],
            "calls": len(self.calls),
        }


def interleave(
    candidates: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 9,
    seconds_per_turn: float = 0.05,
    seed: int = 0,
    on_round: Callable[[int, int], None] | None = None,
) -> dict[str, Latency]:
    """Time each candidate's call in interleaved rounds.

    Args:
        candidates: a call without arguments per name.
        rounds: how often each candidate takes its turn.
        seconds_per_turn: how long a turn lasts, or `MIN_CALLS_PER_ROUND` calls if those take longer.
        seed: of the order in each round.
        on_round: told the round done and their number.

    Returns:
        Per candidate, its latency.
    """
    for call in candidates.values():
        for _ in range(WARM_UP_CALLS):
            call()
    order = list(candidates)
    shuffle = random.Random(seed).shuffle
    calls: dict[str, list[float]] = {name: [] for name in order}
    medians: dict[str, list[float]] = {name: [] for name in order}
    for round_index in range(rounds):
        shuffle(order)
        for name in order:
            times = _turn(candidates[name], seconds_per_turn)
            calls[name] += times
            medians[name].append(float(np.median(times)))
        if on_round:
            on_round(round_index + 1, rounds)
    return {name: Latency(np.array(calls[name]), np.array(medians[name])) for name in candidates}


def _turn(call: Callable[[], object], seconds: float) -> list[float]:
    """Microseconds of single calls, after one uncounted call that warms the caches again."""
    call()
    clock = time.perf_counter_ns
    times: list[float] = []
    end = clock() + int(seconds * 1e9)
    while len(times) < MIN_CALLS_PER_ROUND or clock() < end:
        start = clock()
        call()
        times.append((clock() - start) / 1e3)
    return times
