"""A long row of batches, computed one ahead of its reader, on a thread that owns what it was given."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import Any

from numpy.typing import NDArray

from edgeae_runtime.arrays import owned
from edgeae_runtime.errors import EdgeAEError

_Run = Callable[[object], NDArray[Any]]
_Done = tuple[NDArray[Any] | None, BaseException | None]


def ahead(run: _Run, batches: Iterable[object]) -> Iterator[NDArray[Any]]:
    """Outputs of `run` for each batch, in order, the next one computed while the caller uses this one.

    A batch is copied before the thread gets it, so that whoever gave it may fill it anew: a camera does. One copy is
    alive at a time. What is computed when the iterable, or a batch, raises is yielded before that.
    """
    inputs: SimpleQueue[Any] = SimpleQueue()
    outputs: SimpleQueue[_Done] = SimpleQueue()
    worker = threading.Thread(target=_work, args=(run, inputs, outputs), name="edgeae-stream", daemon=True)
    worker.start()
    source, process = iter(batches), os.getpid()
    computing, ended = False, None
    try:
        while ended is None:
            batch = None
            try:
                batch = next(source)
            except Exception as error:  # the iterable's own, StopIteration too: raised after what is finished
                ended = error
            result = _result(outputs.get()) if computing else None
            if ended is None:
                try:
                    inputs.put(owned(batch))
                except EdgeAEError as error:  # no array: refused in its turn
                    ended = error
            computing = ended is None
            if result is not None:
                yield result
                if os.getpid() != process:
                    raise EdgeAEError("A stream was begun before a fork: its thread is in the other process. Begin it "
                                      "after the fork.")  # fmt: skip
        if not isinstance(ended, StopIteration):
            raise ended
    finally:
        if os.getpid() == process:
            inputs.put(None)
            worker.join()


def _work(run: _Run, inputs: SimpleQueue[Any], outputs: SimpleQueue[_Done]) -> None:
    while (batch := inputs.get()) is not None:
        try:
            done: _Done = run(batch), None
        except BaseException as error:  # the reader's, whatever it is: it waits for an answer
            done = None, error
        del batch
        outputs.put(done)
        del done


def _result(done: _Done) -> NDArray[Any]:
    result, error = done
    if error is not None:
        raise error
    assert result is not None
    return result
