"""One part of an autoencoder, encoder or decoder, loaded: batches in, batches out, in bounded memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgeae_runtime.arrays import Float32Array, checked
from edgeae_runtime.bundle.parts import Part, TensorSpec
from edgeae_runtime.errors import BundleError, EdgeAEError, InputError, gist
from edgeae_runtime.sessions.forks import keep_in_children
from edgeae_runtime.sessions.providers import assigned_nodes

CHUNK_BYTES = 1 << 20
"""Images per run of the graph are as many as fit in here: its activations take some fifty times as much, and beyond a
few hundred small images a larger batch is no faster."""
_DTYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}


class LoadedPart:
    """The encoder or the decoder with its session; safe to call from several threads at once."""

    def __init__(self, name: str, part: Part, session: ort.InferenceSession, provider: str) -> None:
        _check_signature(session, name, part)
        self.spec, self.provider, self.nodes = part, provider, assigned_nodes(session)
        self._name, self._session = name, session
        self._item = "image" if name == "encoder" else "latent"
        self.input = part.input
        self._input, self._names = part.input.name, [spec.name for spec in part.outputs]
        self._first = self._names[:1]
        self._promised = [_without_batch(spec) for spec in part.outputs]
        self._shape, self._dtype = self._promised[0]
        larger = max(_item_bytes(part.input.shape), _item_bytes(part.output.shape))
        self.chunk = max(CHUNK_BYTES // larger, 1)
        """Most inputs per run of the graph."""
        # DirectML allows one run at a time; the others allow any number.
        self._turn = threading.Lock() if provider == "directml" else None
        keep_in_children(self)

    def __call__(
        self, batch: NDArray[Any], out: NDArray[Any] | None = None, options: ort.RunOptions | None = None
    ) -> NDArray[Any]:
        """Run a batch, converted and checked a chunk at a time.

        Args:
            batch: [n, …], as `image_batch` or `latent_batch` give it.
            out: where to write, as `output` gives it; by default a new array.
            options: of the runs.

        Raises:
            InputError: a value that the input may not have; the chunks before it are in `out`.
            BundleError: the graph's output is not what the manifest promises.
        """
        if out is None and len(batch) <= self.chunk:
            return self.run(batch, options)
        if out is None:
            out = self.output(len(batch))
        in_chunks(lambda chunk: self.run(chunk, options), batch, out, self.chunk)
        return out

    def run(self, batch: NDArray[Any], options: ort.RunOptions | None = None) -> NDArray[Any]:
        """One run of the graph, for its first output; as `__call__`."""
        result = self._run(batch, self._first, options)[0]
        # What a graph declares, it need not give.
        if type(result) is np.ndarray and result.shape == (len(batch), *self._shape) and result.dtype == self._dtype:
            return result
        raise self._broken_promise(result, (len(batch), *self._shape), self._dtype)

    def distribution(
        self, batch: NDArray[Any], options: ort.RunOptions | None = None
    ) -> tuple[Float32Array, Float32Array]:
        """Run a batch for both outputs of a variational encoder: mean and log-variance."""
        outputs = [self._empty(len(batch), shape, dtype) for shape, dtype in self._promised]
        for start in range(0, len(batch), self.chunk):
            rows = slice(start, start + self.chunk)
            for result, whole in zip(self._run(batch[rows], self._names, options), outputs, strict=True):
                target = whole[rows]
                if type(result) is not np.ndarray or result.shape != target.shape or result.dtype != target.dtype:
                    raise self._broken_promise(result, target.shape, target.dtype)
                target[...] = result
        return outputs[0], outputs[1]

    def _run(self, batch: NDArray[Any], names: list[str], options: ort.RunOptions | None) -> list[NDArray[Any]]:
        feed = {self._input: checked(batch, self.input, self._item)}
        try:
            if self._turn is None:
                results: list[NDArray[Any]] = self._session.run(names, feed, options)
            else:
                with self._turn:
                    results = self._session.run(names, feed, options)
        except Exception as error:  # ONNX Runtime raises many types that share no base class
            raise _failed(error) from error
        return results

    def _broken_promise(self, result: object, shape: tuple[int, ...], dtype: np.dtype[Any]) -> BundleError:
        found = f"{result.dtype} {list(result.shape)}" if isinstance(result, np.ndarray) else type(result).__name__
        return BundleError(
            f"The {self._name}'s graph gave {found}, its manifest promises {dtype} {list(shape)}. "
            "The bundle is inconsistent: export it again."
        )

    def output(self, count: int, out: object = None, single: bool = False) -> NDArray[Any]:
        """An array of [count, *output shape] to write into: the caller's, or a new one.

        Args:
            count: items.
            out: the caller's array; for a single item, also without the batch's axis.
            single: whether that is so.

        Raises:
            InputError: `out` does not fit, or there is no memory for so many.
        """
        if out is None:
            return self._empty(count, self._shape, self._dtype)
        wanted = (count, *self._shape)
        array: NDArray[Any] | None = None
        if isinstance(out, np.ndarray) and out.dtype == self._dtype and out.flags.c_contiguous and out.flags.writeable:
            array = out[None] if single and out.shape == self._shape else out
        if array is None or array.shape != wanted:
            found = f"{out.dtype} {list(out.shape)}" if isinstance(out, np.ndarray) else type(out).__name__
            raise InputError(
                f"Got out={found}, expected a writable, C-contiguous array of {self._dtype} "
                f"{list(self._shape if single else wanted)}. Make it with numpy.empty, or leave out away."
            )
        return array

    @staticmethod
    def _empty(count: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        try:
            return np.empty((count, *shape), dtype)
        except (MemoryError, ValueError, OverflowError) as error:
            raise InputError(
                f"There is no memory for {count} outputs of {dtype} {list(shape)}: ask for fewer."
            ) from error


def in_chunks(run: Callable[[NDArray[Any]], NDArray[Any]], batch: NDArray[Any], out: NDArray[Any], size: int) -> None:
    """Write what `run` gives for each `size` rows of `batch` into the same rows of `out`."""
    for start in range(0, len(batch), size):
        out[start : start + size] = run(batch[start : start + size])


def _failed(error: Exception) -> EdgeAEError:
    return EdgeAEError(
        f"ONNX Runtime {ort.__version__} failed while running the graph: {gist(error, 300)}. "
        "Try smaller batches if memory ran out; else export the bundle again, or update ONNX Runtime."
    )


def _without_batch(spec: TensorSpec) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of one item."""
    return tuple(n for n in spec.shape[1:] if n is not None), np.dtype(spec.dtype)


def _item_bytes(shape: tuple[int | None, ...]) -> int:
    """Bytes of one float32 item of a batch."""
    count = 4
    for size in shape:
        count *= size or 1
    return count


def _check_signature(session: ort.InferenceSession, name: str, part: Part) -> None:
    """The graph's inputs and outputs must be those of the manifest: else every later message would mislead."""
    groups = ((session.get_inputs(), part.inputs), (session.get_outputs(), part.outputs))
    found = [[f"{_DTYPES.get(n.type, n.type)} {n.name} {_sizes(n.shape)}" for n in nodes] for nodes, _ in groups]
    promised = [[f"{s.dtype} {s.name} {_sizes(s.shape)}" for s in specs] for _, specs in groups]
    if found != promised:
        raise BundleError(
            f"The {name}'s graph has inputs and outputs {found}, its manifest promises {promised}. "
            "The bundle is inconsistent: export it again."
        )


def _sizes(shape: tuple[Any, ...] | list[Any]) -> list[int | str]:
    """A shape with every axis that may vary written alike."""
    return [size if isinstance(size, int) else "batch" for size in shape]
