"""One half of an autoencoder, loaded: batches in, batches out, in bounded memory."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgeae_runtime.arrays import Float32Array
from edgeae_runtime.errors import BundleError, EdgeAEError, InputError
from edgeae_runtime.manifest import Part
from edgeae_runtime.providers import assigned_nodes

CHUNK_BYTES = 1 << 20
"""Images per run of the graph are as many as fit in here: its activations take some fifty times as much, and beyond a
few hundred small images a larger batch is no faster."""
_DTYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}


class LoadedPart:
    """The encoder or the decoder with its session; safe to call from several threads at once."""

    def __init__(self, name: str, part: Part, session: ort.InferenceSession, provider: str) -> None:
        _check_signature(session, name, part)
        self.spec, self.provider, self.nodes = part, provider, assigned_nodes(session)
        self._session = session
        self._input, self._outputs = part.input.name, (part.output.name,)
        self._shape = tuple(n for n in part.output.shape if n is not None)
        self._dtype = np.dtype(part.output.dtype)
        larger = max(_item_bytes(part.input.shape), _item_bytes(part.output.shape))
        self.chunk = max(CHUNK_BYTES // larger, 1)
        """Most inputs per run of the graph."""
        # DirectML allows one run at a time; the others allow any number.
        self._turn: AbstractContextManager[Any] = threading.Lock() if provider == "directml" else nullcontext()

    def __call__(self, batch: Float32Array, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Run a checked batch.

        Args:
            batch: float32 [n, …], C-contiguous.
            out: where to write; by default a new array.

        Raises:
            InputError: `out` does not fit.
        """
        if out is None and len(batch) <= self.chunk:
            try:
                with self._turn:
                    result: NDArray[Any] = self._session.run(self._outputs, {self._input: batch})[0]
            except Exception as error:  # ONNX Runtime raises many types that share no base class
                raise _failed(error) from error
            return result
        if out is None:
            out = np.empty((len(batch), *self._shape), self._dtype)
        else:
            self._check_out(out, len(batch))
        for start in range(0, len(batch), self.chunk):
            self._run_into(batch[start : start + self.chunk], out[start : start + self.chunk])
        return out

    def distribution(self, batch: Float32Array) -> tuple[Float32Array, Float32Array]:
        """Run a checked batch for both outputs of a variational encoder: mean and log-variance."""
        names = [spec.name for spec in self.spec.outputs]
        try:
            with self._turn:
                chunks = [
                    self._session.run(names, {self._input: batch[start : start + self.chunk]})
                    for start in range(0, len(batch), self.chunk)
                ]
        except Exception as error:
            raise _failed(error) from error
        mean, log_variance = (np.concatenate(each) for each in zip(*chunks, strict=True))
        return mean, log_variance

    def _run_into(self, batch: Float32Array, target: NDArray[Any]) -> None:
        """One run whose output ONNX Runtime writes straight into `target`."""
        binding = self._session.io_binding()
        binding.bind_cpu_input(self._input, batch)
        binding.bind_output(self._outputs[0], "cpu", 0, self._dtype, target.shape, target.ctypes.data)
        try:
            with self._turn:
                self._session.run_with_iobinding(binding)
        except Exception as error:
            raise _failed(error) from error

    def _check_out(self, out: object, count: int) -> None:
        wanted = (count, *self._shape)
        fits = isinstance(out, np.ndarray) and out.shape == wanted and out.dtype == self._dtype
        if not isinstance(out, np.ndarray) or not fits or not out.flags.c_contiguous or not out.flags.writeable:
            found = f"{out.dtype} {list(out.shape)}" if isinstance(out, np.ndarray) else type(out).__name__
            raise InputError(
                f"Got out={found}, expected a writable, C-contiguous array of {self._dtype} {list(wanted)}. "
                "Make it with numpy.empty, or leave out away."
            )


def _failed(error: Exception) -> EdgeAEError:
    return EdgeAEError(
        f"ONNX Runtime {ort.__version__} failed while running the graph: {str(error).strip()[:300]} "
        "Try smaller batches if memory ran out; else export the bundle again, or update ONNX Runtime."
    )


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
