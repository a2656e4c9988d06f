"""A limit on the time of a call: a timer tells ONNX Runtime to end its run."""

from __future__ import annotations

import threading
from types import TracebackType

import onnxruntime as ort

from edgeae_runtime.errors import EdgeAEError, TimeLimitError


class TimeLimit:
    """Ends the runs that are given its options, as a context; a run that it ended raises TimeLimitError.

    ONNX Runtime looks between two nodes of a graph, so that a call may last a node longer.
    """

    def __init__(self, seconds: float) -> None:
        self.options = ort.RunOptions()
        self._seconds = seconds
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def _end(self) -> None:
        self.options.terminate = True

    def __enter__(self) -> ort.RunOptions:
        self._timer.start()
        return self.options

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self.options.terminate and isinstance(error, EdgeAEError):
            raise TimeLimitError(
                f"A call took longer than its limit of {self._seconds:g} s, and was ended. Give fewer images per call, "
                "or a larger timeout_s; a bundle that takes so long for one image is not to be trusted."
            ) from error
