"""One variant in a process of its own, in its own environment: it times its own calls, so that nothing else is timed.

    python worker.py SPEC.json [cold PART]

It reads one JSON command per line and answers with one: `warm`, `turn` (the microseconds of single calls) and
`outputs` (a .npy file in, a .npy file out). With `cold` it loads one part, calls it once, and prints what that took.
"""

from __future__ import annotations

import time

START = time.monotonic_ns()

import importlib.metadata  # noqa: E402 the clock starts before anything is imported
import importlib.util  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
from engines import ENGINES, Call, imported  # noqa: E402

ROOT = Path(__file__).parent.parent.parent
WARM_UP_SECONDS, WARM_UP_CALLS, MAX_WARM_UP_SECONDS = 0.3, 10, 3.0


def main(arguments: list[str]) -> None:
    """Serve commands until the input ends, or measure a cold start."""
    spec = json.loads(Path(arguments[0]).read_text())
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # engines print; the answers have a channel of their own
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, spec["cores"])
    if arguments[1:]:
        answers.write(json.dumps(cold_start(spec, arguments[2])) + "\n")
        return
    model = Model(spec)
    for line in sys.stdin:
        try:
            answer: dict[str, Any] = model.answer(json.loads(line))
        except Exception as error:  # a peer may fail in any way: it is reported, and the others go on
            answer = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def cold_start(spec: dict[str, Any], part: str) -> dict[str, float]:
    """Import, load and call once on zeros; see `edgeae_runtime.measure.cold_start.measure`."""
    imported(spec["engine"])
    after_import = time.monotonic_ns()
    call = ENGINES[spec["engine"]].load(spec["files"][part], part, len(spec["cores"]))
    loaded = time.monotonic_ns()
    call(np.zeros((1, *spec["shapes"][part]), np.float32))
    done = time.monotonic_ns()
    return {
        "import_ms": (after_import - START) / 1e6,
        "load_ms": (loaded - after_import) / 1e6,
        "first_call_ms": (done - loaded) / 1e6,
        "done_ns": done,
        "peak_memory_mib": peak_memory_mib(),
    }


def peak_memory_mib() -> float:
    """The most memory this process ever had resident (Linux)."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


class Model:
    """The parts of one variant, loaded when first asked for."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.calls: dict[str, Call] = {}
        self.timed_turn = _timed_turn()

    def call(self, part: str) -> Call:
        """The call of a part; a round trip is the two one after the other."""
        if part == "round-trip":
            encode, decode = self.call("encoder"), self.call("decoder")
            return lambda batch: decode(np.ascontiguousarray(encode(batch)))
        if part not in self.calls:
            spec = self.spec
            self.calls[part] = ENGINES[spec["engine"]].load(spec["files"][part], part, len(spec["cores"]))
        return self.calls[part]

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """Do what one line asks."""
        if command["do"] == "version":
            return {"version": importlib.metadata.version(ENGINES[self.spec["engine"]].distribution)}
        call = self.call(command["part"])
        if command["do"] == "outputs":
            inputs, chunk = np.load(command["input"]), command["chunk"]
            made = [np.array(call(inputs[i : i + chunk])) for i in range(0, len(inputs), chunk)]
            np.save(command["output"], np.concatenate(made))
            return {"done": len(made)}
        part = "encoder" if command["part"] == "round-trip" else command["part"]
        shape = (command["batch"], *self.spec["shapes"][part])
        batch = np.random.default_rng(0).random(shape, dtype=np.float32)
        if command["do"] == "warm":
            start, calls = time.monotonic(), 0
            while (
                calls < 1
                or (elapsed := time.monotonic() - start) < WARM_UP_SECONDS
                or (calls < WARM_UP_CALLS and elapsed < MAX_WARM_UP_SECONDS)
            ):
                begin = time.monotonic()
                call(batch)
                calls += 1
            return {"us": (time.monotonic() - begin) * 1e6}  # of the last one: the first may have compiled something
        return {"us": self.timed_turn(lambda: call(batch), command["seconds"])}


def _timed_turn() -> Any:  # noqa: ANN401
    """The runtime's own clock, loaded from its file: the package itself wants ONNX Runtime, which peers lack."""
    path = ROOT / "runtime" / "edgeae_runtime" / "measure" / "timing.py"
    found = importlib.util.spec_from_file_location("edgeae_timing", path)
    assert found
    assert found.loader
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module
    found.loader.exec_module(module)
    return module.timed_turn


if __name__ == "__main__":
    main(sys.argv[1:])
