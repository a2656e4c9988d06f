"""Running a stranger's bundle in another process first: what crashes, never ends or eats all memory there, ends there.

The guard refuses what it knows to be wrong, but ONNX Runtime itself is a million lines of C++ that read the same file.
So `verify` replays the golden vectors in a child, which gives back nothing but figures.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import warnings
from typing import Any

from edgeae_runtime.errors import (
    BundleError,
    EdgeAEError,
    InputError,
    IntegrityError,
    ProviderError,
    TimeLimitError,
    shown,
)
from edgeae_runtime.parity import Check
from edgeae_runtime.replay import MAX_WARNING, MOST_WARNINGS

MEMORY = 4 << 30
"""Bytes of address space that the child may take on the CPU, beside `MEMORY_PER_BYTE` for each byte of the graphs."""
MEMORY_PER_BYTE = 8
_KINDS: dict[str, type[EdgeAEError]] = {
    kind.__name__: kind
    for kind in (BundleError, EdgeAEError, InputError, IntegrityError, ProviderError, TimeLimitError)
}
_MAX_ANSWER = 1 << 20
_START = "import sys; sys.path[:] = {path!r}; from edgeae_runtime.replay import answer; answer()"


def can_start() -> bool:
    """Whether there is a Python to start: an application that carries its own has none."""
    return bool(sys.executable) and not getattr(sys, "frozen", False)


def verify_apart(request: dict[str, Any], timeout_s: float) -> list[Check]:
    """The checks of `verify`, made in a child process.

    Args:
        request: the arguments of `verify`, as JSON, with `memory`: the most bytes of address space.
        timeout_s: seconds until the child is ended.

    Raises:
        IntegrityError: the child died.
        TimeLimitError: it did not end in time.
        EdgeAEError: what `verify` raised there.
    """
    # -P, and the parent's own path: nothing is imported from the folder in which the command was started.
    command = [sys.executable, "-P", "-c", _START.format(path=[place for place in sys.path if place])]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, close_fds=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        late = threading.Event()

        def give_up() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(timeout_s, give_up)
        timer.start()
        try:
            with child.stdin as questions:
                questions.write(json.dumps(request).encode())
            said = child.stdout.read(_MAX_ANSWER + 1)
        except BrokenPipeError:
            said = b""
        except BaseException:
            child.kill()
            raise
        finally:
            timer.cancel()
        if len(said) > _MAX_ANSWER:
            child.kill()
        status = child.wait()
    if late.is_set():
        raise TimeLimitError(
            f"The bundle was not verified within {timeout_s:g} s, so the process that tried it was ended. "
            "Give it longer (--timeout) if this machine is slow; else take the bundle from a source you trust."
        )
    return _checks(said, status)


def _checks(said: bytes, status: int) -> list[Check]:
    """What the child answered; it ran a stranger's graph, so that its words are looked at like a stranger's."""
    try:
        document = json.loads(said)
        for told in document["warnings"][:MOST_WARNINGS] if status == 0 else ():
            warnings.warn(shown(str(told))[:MAX_WARNING], stacklevel=4)
        if status == 0 and "error" in document:
            raise _KINDS[document["error"]](shown(document["message"])[:2000])
        if status == 0:
            return [_check(entry) for entry in document["checks"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    ended = f"signal {-status}" if status < 0 else f"status {status}"
    raise IntegrityError(
        f"Loading and running the bundle ended the process that tried it ({ended}); this one is unharmed. The bundle "
        "is damaged or made to do so, or memory ran out: do not load it; take it from a source you trust."
    )


def _check(entry: dict[str, Any]) -> Check:
    texts = {name: shown(str(entry[name]))[:300] for name in ("what", "metric", "where")}
    return Check(measured=float(entry["measured"]), limit=float(entry["limit"]), **texts)
