"""Running fuzzed cases in a process of their own, so that a crash or a hang is seen, attributed and counted."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable


def watch(
    worker: Callable[..., None],
    arguments: tuple[object, ...],
    cases: int,
    patience: float,
    count: Callable[[int, str], None],
) -> None:
    """Run all cases in one worker at a time; a new one goes on after a case that ended or held up the last.

    Args:
        worker: called with the first case, `cases`, `arguments` and a queue, into which it puts ("begin", case, ""),
            ("end", case, outcome), and at last ("done", the case to go on with, "").
        arguments: what else it is given.
        cases: how many there are.
        patience: seconds after which a worker that says nothing hangs.
        count: told each case's outcome, `HANG` and `CRASH (status)` among them.
    """
    context = multiprocessing.get_context("spawn")
    first = 0
    while first < cases:
        results = context.Queue()
        process = context.Process(target=worker, args=(first, cases, *arguments, results))
        process.start()
        running, since = first, time.monotonic()
        while True:
            try:
                word, case, outcome = results.get(timeout=1)
            except Exception:
                if process.is_alive() and time.monotonic() - since < patience:
                    continue
                count(running, "HANG" if process.is_alive() else f"CRASH ({process.exitcode})")
                process.kill()
                first = running + 1
                break
            if word == "done":
                first = case
                break
            running, since = case, time.monotonic()
            if word == "end":
                count(case, outcome)
                running = case + 1
        process.join(10)
