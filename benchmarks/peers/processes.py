"""The workers' other end: one process per variant, asked over a pipe, stopped while it is not asked."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.models import worker_environment

ANSWER_SECONDS = 300


class PeerError(Exception):
    """A variant could not do what it was asked; the message is its own."""


def worker_command(python: str, spec: Path) -> list[str]:
    """The command that runs a variant."""
    return [python, str(Path(__file__).parent / "worker.py"), str(spec.absolute())]


class Worker:
    """A variant in its process. Between questions the process is stopped: no thread of it spins on another's turn."""

    def __init__(self, python: str, spec: Path) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 closed with the process
        self.process = subprocess.Popen(
            worker_command(python, spec),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=worker_environment(),
        )

    def ask(self, do: str, **details: Any) -> dict[str, Any]:  # noqa: ANN401 whatever JSON has
        """Send one command and wait for its answer.

        Raises:
            PeerError: the variant failed, died, or does not answer.
        """
        assert self.process.stdin
        assert self.process.stdout
        os.kill(self.process.pid, signal.SIGCONT)
        try:
            self.process.stdin.write((json.dumps({"do": do, "part": None, **details}) + "\n").encode())
            self.process.stdin.flush()
            ready, _, _ = select.select([self.process.stdout], [], [], ANSWER_SECONDS)
            line = self.process.stdout.readline() if ready else b""
        except BrokenPipeError:
            line = b""
        if not line:
            raise PeerError(f"no answer: {self._last_words()}")
        os.kill(self.process.pid, signal.SIGSTOP)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def outputs(self, part: str, inputs: np.ndarray, chunk: int) -> np.ndarray:
        """What the variant makes of many inputs."""
        with tempfile.TemporaryDirectory() as folder:
            given, made = f"{folder}/in.npy", f"{folder}/out.npy"
            np.save(given, inputs)
            self.ask("outputs", part=part, input=given, output=made, chunk=chunk)
            return np.load(made).astype(np.float32)

    def _last_words(self) -> str:
        self.process.kill()
        self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else f"the process ended with {self.process.returncode}"

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        self.errors.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self.close()
