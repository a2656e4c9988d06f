"""The measuring itself: does it find differences that are there, and none that are not?"""

import contextlib
import itertools
import math
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from edgeae_runtime.measure import endurance
from edgeae_runtime.measure.endurance import WINDOWS, endure, idle_cpu
from edgeae_runtime.measure.timing import (
    BUSY,
    MAX_ROUNDS,
    MIN_ROUNDS,
    THREAD_CLOCK,
    compared,
    difference,
    interleave,
    interleave_turns,
    median_noise,
)


def test_interleaving_finds_the_slower_one():
    order = []

    def call(name, seconds):
        order.append(name)
        time.sleep(seconds)

    latencies = interleave(
        {"fast": lambda: call("fast", 0.0005), "slow": lambda: call("slow", 0.002)},
        rounds=6,
        seconds_per_turn=0.01,
    )
    assert latencies["slow"].median_us > 1.5 * latencies["fast"].median_us
    assert len(latencies["fast"].round_medians) == 6
    assert latencies["fast"].percentile_us(99) >= latencies["fast"].median_us
    # The candidates take turns: neither runs all its rounds in one go.
    turns = [name for name, before in zip(order[1:], order, strict=False) if name != before]
    assert len(turns) >= 5


@pytest.mark.parametrize("count", [6, 7, 9, 15, 21])
def test_the_interval_covers_the_median_as_often_as_it_says(count):
    rng = np.random.default_rng(count)
    draws = rng.lognormal(0, 0.1, (4000, count))
    medians = np.median(draws, axis=1)
    inside = [abs(math.log(m)) <= 2 * median_noise(row) for m, row in zip(medians, draws, strict=True)]
    # The interval itself covers 95 %; half its width around the median nearly as often, twice that surely.
    assert np.mean(inside) > 0.95


def test_the_interval_of_few_rounds_reaches_from_end_to_end():
    assert median_noise(np.array([90.0, 100.0, 130.0])) == pytest.approx(0.2)
    # Seven values: the first and the last are the 95 % interval; nine: the second and the last but one.
    assert median_noise(np.arange(97.0, 104.0)) == pytest.approx(0.03)
    assert median_noise(np.arange(96.0, 105.0)) == pytest.approx(0.03)


def test_rounds_stop_when_every_interval_is_narrow():
    steady = {"a": lambda: [100.0, 100.0], "b": lambda: [50.0]}
    assert len(interleave_turns(steady)["a"].round_medians) == MIN_ROUNDS
    values = itertools.cycle([100.0, 200.0, 400.0])
    restless = {"a": lambda: [100.0], "b": lambda: [next(values)]}
    assert len(interleave_turns(restless)["a"].round_medians) == MAX_ROUNDS


@contextlib.contextmanager
def busy_machine(processes_per_core=3):
    """Other processes that want the processor all the time."""
    count = processes_per_core * (os.cpu_count() or 1)
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


@pytest.mark.skipif(THREAD_CLOCK is time.perf_counter_ns, reason="no fine clock of a thread's CPU time here")
def test_a_busy_machine_is_noticed_and_does_not_move_the_ratio_of_cpu_times():
    short, long = (lambda: sum(range(20_000))), (lambda: sum(range(60_000)))
    with busy_machine():
        timed = interleave({"short": short, "long": long}, seconds_per_turn=0.02, clock=THREAD_CLOCK, budget_s=1.0)
    assert compared(timed["long"], timed["short"]).ratio == pytest.approx(3, rel=0.2)
    assert timed["long"].stretch > BUSY


def test_a_budget_ends_the_rounds_but_not_before_the_least():
    values = itertools.cycle([0.001, 0.003])
    timed = interleave({"a": lambda: time.sleep(next(values))}, seconds_per_turn=0.001, budget_s=0.0)
    assert len(timed["a"].round_medians) == MIN_ROUNDS


@pytest.mark.skipif(THREAD_CLOCK is time.perf_counter_ns, reason="no fine clock of a thread's CPU time here")
def test_a_turn_ends_even_where_the_clock_stands_still():
    timed = interleave({"waits": lambda: time.sleep(0.002)}, rounds=1, seconds_per_turn=0.005, clock=THREAD_CLOCK)
    assert timed["waits"].stretch > BUSY


def test_a_difference_within_the_noise_is_a_tie():
    assert difference(104.0, 100.0, 0.02, 0.01).real
    assert not difference(104.0, 100.0, 0.02, 0.01, 0.02).real
    assert difference(100.0, 104.0, 0.02, 0.01).real, "slower counts as much as faster"
    turns = interleave_turns({"a": lambda: [100.0], "b": lambda: [80.0]})
    assert compared(turns["a"], turns["b"]).ratio == pytest.approx(1.25)
    assert not compared(turns["a"], turns["a"]).real


def test_idle_cpu_sees_a_spinning_thread():
    stop = threading.Event()

    def spin():
        while not stop.is_set():
            pass

    quiet = idle_cpu(0.3)
    thread = threading.Thread(target=spin)
    thread.start()
    try:
        assert idle_cpu(0.3) > 10 * quiet, "also where other work leaves the thread little of a core"
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(("growth", "throttled"), [(0.0, False), (0.1, True)])
def test_enduring_tells_a_machine_that_slows_down(monkeypatch, growth, throttled):
    now = [0.0]
    monkeypatch.setattr(endurance.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(endurance.time, "perf_counter_ns", lambda: int(now[0] * 1e9))

    def call():
        now[0] += 0.01 * (1 + growth * now[0])

    report = endure(call, 10.0)
    assert report["throttled"] is throttled
    assert len(report["windows"]) == WINDOWS
    assert report["windows"][-1]["seconds"] == pytest.approx(10, rel=0.02)
    assert (report["slowdown"] > 1.5) is throttled
