"""Latency measured so that a comparison holds on a noisy machine.

The candidates take turns in rounds of random order, so that a slow minute hits all of them alike; each turn times
single calls; warm-up is apart. The median of a candidate is that of its rounds' medians, with a 95 % confidence
interval from their order statistics; rounds go on until every interval is narrow or the rounds are used up. One
candidate may run twice under two names (an A/A pair): how far these two differ is the noise that no interval shows.

The clock is the wall's, for that is what a user waits for. Where another decides, as between two forms of a graph
that both run on the calling thread, `THREAD_CLOCK` counts only the time that the thread was really running: other
processes take the processor away from it, but not its time.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Clock = Callable[[], int]
"""Nanoseconds since whenever."""
WALL_CLOCK: Clock = time.perf_counter_ns
THREAD_CLOCK: Clock = time.thread_time_ns if time.get_clock_info("thread_time").resolution < 1e-6 else WALL_CLOCK
"""CPU time of the calling thread: right for ONNX Runtime with one thread, which runs in the caller's. Windows counts it
in ticks of 15 ms, too coarse for this; there it is the wall's."""
BUSY = 1.25
"""Wall time over CPU time from which a machine counts as busy: a thread that has a core to itself is near one."""
_READING_NS = 100_000
"""Least time between two readings of a clock other than the wall's: reading it is a system call of 0.2 to 1.6 us."""
_MOST_STRETCH = 50  # times its length that a turn may last by the wall, where the clock hardly moves

WARM_UP_CALLS = 10
MIN_CALLS_PER_ROUND = 3
MIN_ROUNDS, MAX_ROUNDS = 7, 21
"""Six rounds are the fewest whose extremes enclose the median with 95 % confidence."""
PRECISION = 0.02
"""Half the width of the confidence interval, relative to the median, at which the rounds stop."""
METHOD = (
    f"interleaved rounds in random order, warm-up of {WARM_UP_CALLS} calls apart; median of the rounds' medians "
    f"with its 95 % confidence interval from order statistics; stops after {MIN_ROUNDS} to {MAX_ROUNDS} rounds, when "
    f"every interval is within {100 * PRECISION:g} % of its median; a difference inside both intervals and the A/A "
    "difference together is a tie"
)


@dataclass(frozen=True)
class Latency:
    """The distribution of one candidate's call times."""

    calls: NDArray[np.float64]
    """Microseconds of every timed call."""
    round_medians: NDArray[np.float64]
    """Microseconds, one per round: their spread is the noise of the median."""
    stretch: float = 1.0
    """Wall time over the time of the clock that was used, over all turns: what other processes made of it."""

    @property
    def median_us(self) -> float:
        """Median of the rounds' medians, in microseconds."""
        return float(np.median(self.round_medians))

    @property
    def noise(self) -> float:
        """Half the width of the median's confidence interval, relative to the median."""
        return median_noise(self.round_medians)

    def percentile_us(self, percent: float) -> float:
        """A percentile over all calls, in microseconds."""
        return float(np.percentile(self.calls, percent))

    def as_document(self) -> dict[str, Any]:
        """The figures worth keeping, as JSON; times in microseconds."""
        return {
            "median_us": round(self.median_us, 2),
            "noise": round(self.noise, 4),
            "p90_us": round(self.percentile_us(90), 2),
            "p99_us": round(self.percentile_us(99), 2),
            "round_medians_us": [round(float(value), 2) for value in self.round_medians],
            "calls": len(self.calls),
        }


def median_noise(round_medians: NDArray[np.float64]) -> float:
    """Half the width of the 95 % confidence interval of a median, relative to it.

    The interval reaches from the k-th smallest to the k-th largest value, with the largest k whose binomial coverage
    is at least 95 % (Conover, *Practical Nonparametric Statistics*, 3.2); below six values, from the least to the
    greatest.
    """
    ordered, count = np.sort(round_medians), len(round_medians)
    tail, k = 0.5**count, 0
    while tail <= 0.025:
        k += 1
        tail += math.comb(count, k) * 0.5**count
    k = max(k, 1)
    return float((ordered[count - k] - ordered[k - 1]) / 2 / np.median(ordered))


@dataclass(frozen=True)
class Difference:
    """Two candidates against each other."""

    ratio: float
    """Median of the first over that of the second: above one, the second is faster."""
    noise: float
    """What the ratio may differ from one by chance."""

    @property
    def real(self) -> bool:
        """Whether the difference is larger than the noise; otherwise it is a tie."""
        return max(self.ratio, 1 / self.ratio) > 1 + self.noise


def difference(first_us: float, second_us: float, *noises: float) -> Difference:
    """Compare two medians; the noises, of both medians and of an A/A pair, add up."""
    return Difference(first_us / second_us, sum(noises))


def compared(first: Latency, second: Latency, pair_noise: float = 0.0) -> Difference:
    """Compare two candidates of one run, with the noise of their A/A pair."""
    return difference(first.median_us, second.median_us, first.noise, second.noise, pair_noise)


def interleave(
    candidates: Mapping[str, Callable[[], object]],
    *,
    rounds: int = MAX_ROUNDS,
    seconds_per_turn: float = 0.05,
    seed: int = 0,
    on_round: Callable[[int, int], None] | None = None,
    clock: Clock = WALL_CLOCK,
    budget_s: float = math.inf,
) -> dict[str, Latency]:
    """Time each candidate's call in interleaved rounds.

    Args:
        candidates: a call without arguments per name.
        rounds: how often each candidate takes its turn, at most; see `PRECISION` for when they stop earlier.
        seconds_per_turn: how long a turn lasts, or `MIN_CALLS_PER_ROUND` calls if those take longer.
        seed: of the order in each round.
        on_round: told the round done and their largest number.
        clock: what the calls are timed by, `WALL_CLOCK` or `THREAD_CLOCK`.
        budget_s: seconds of that clock after which no round begins, from `MIN_ROUNDS` rounds on.

    Returns:
        Per candidate, its latency.
    """
    for call in candidates.values():
        for _ in range(WARM_UP_CALLS):
            call()
    spent = dict.fromkeys(candidates, 0)
    passed = dict.fromkeys(candidates, 0)

    def turn(name: str) -> list[float]:
        before, wall = clock(), WALL_CLOCK()
        times = timed_turn(candidates[name], seconds_per_turn, clock)
        spent[name] += clock() - before
        passed[name] += WALL_CLOCK() - wall
        return times

    end = clock() + budget_s * 1e9
    turns = {name: (lambda name=name: turn(name)) for name in candidates}
    timed = interleave_turns(turns, rounds=rounds, seed=seed, on_round=on_round, enough=lambda: clock() > end)
    return {name: replace(each, stretch=passed[name] / max(spent[name], 1)) for name, each in timed.items()}


def interleave_turns(
    turns: Mapping[str, Callable[[], list[float]]],
    *,
    rounds: int = MAX_ROUNDS,
    seed: int = 0,
    on_round: Callable[[int, int], None] | None = None,
    enough: Callable[[], bool] = lambda: False,
) -> dict[str, Latency]:
    """As `interleave`, for candidates that time their own turns, in another process for instance.

    Args:
        turns: per name, a function that takes one turn and returns the microseconds of its calls.
        rounds, seed, on_round: as in `interleave`.
        enough: asked after each round from `MIN_ROUNDS` on, whether to leave it at that.
    """
    order = list(turns)
    shuffle = random.Random(seed).shuffle
    calls: dict[str, list[float]] = {name: [] for name in order}
    medians: dict[str, list[float]] = {name: [] for name in order}
    for done in range(1, rounds + 1):
        shuffle(order)
        for name in order:
            times = turns[name]()
            calls[name] += times
            medians[name].append(float(np.median(times)))
        if on_round:
            on_round(done, rounds)
        narrow = all(median_noise(np.array(each)) <= PRECISION for each in medians.values())
        if done >= MIN_ROUNDS and (narrow or enough()):
            break
    return {name: Latency(np.array(calls[name]), np.array(medians[name])) for name in turns}


def timed_turn(call: Callable[[], object], seconds: float, clock: Clock = WALL_CLOCK) -> list[float]:
    """Microseconds per call, after one uncounted call that warms the caches again.

    The wall times single calls, whose percentiles are of interest; another clock times some calls at once where they
    are short.
    """
    start = clock()
    call()
    together = 1 if clock is WALL_CLOCK else max(1, _READING_NS // max(clock() - start, 1))
    times: list[float] = []
    end, latest = clock() + int(seconds * 1e9), WALL_CLOCK() + int(_MOST_STRETCH * seconds * 1e9)
    while len(times) < MIN_CALLS_PER_ROUND or (clock() < end and WALL_CLOCK() < latest):
        start = clock()
        for _ in range(together):
            call()
        times.append((clock() - start) / 1e3 / together)
    return times
