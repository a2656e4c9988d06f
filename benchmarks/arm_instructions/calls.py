"""Run on the emulated processor: calls of each graph, with a mark before and after them that the plugin sees.

    calls.py CALLS GRAPH.onnx...

It needs numpy and onnxruntime alone, and stands by itself: nothing of the project is there.
"""

import contextlib
import os
import sys

import numpy as np
import onnxruntime as ort

ASKED = 0x5AFE  # as in blocks.c
WARM = 3


def mark(number: int) -> None:
    """Make the one system call that the plugin waits for."""
    with contextlib.suppress(OSError):  # no such kind of priority: that is the point
        os.getpriority(ASKED, number)


def main() -> None:
    """Call every graph."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for index, path in enumerate(sys.argv[2:]):
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        given = session.get_inputs()[0]
        shape = [size if isinstance(size, int) else 1 for size in given.shape]
        feed = {given.name: np.random.default_rng(0).random(shape, np.float32)}
        for _ in range(WARM):
            session.run(None, feed)
        mark(2 * index)
        for _ in range(int(sys.argv[1])):
            session.run(None, feed)
        mark(2 * index + 1)


main()
