"""How far a module's float32 outputs may lie from the truth: its own noise floor.

Where the module runs in float64, the floor is the largest difference between the two precisions. A module that has a
precision written into its forward cannot, or does so only in parts. Then its float32 run is repeated with every operand
of every operator changed by a random relative rounding error, as in Monte Carlo arithmetic (D. S. Parker, 1997): what
the outputs move by is what rounding costs. Measured both ways, on convolutions, dense layers, an LSTM and attention,
the second floor is 0.95 to 1.83 times the first.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from edgeae_runtime.parity import max_abs
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from edgeae_export.arrays import Float32Array
from edgeae_export.modules.dtypes import COARSE, inner_dtypes

Outputs = tuple[Float32Array, ...]
NOISE_FACTOR = 10.0
"""How many noise floors a float32 output may differ by: two implementations, each one floor from the truth on these
inputs, with room for kernels (fused multiply-adds, other blockings, other processors) whose floor is a few times
torch's. A wrong operator differs by thousands."""

DRAWS = 4
"""Runs with random rounding: the largest of four differences."""
_EPS32 = float(torch.finfo(torch.float32).eps)


@dataclass
class TruerRuns:
    """A module's outputs as nearly exact as can be had, to measure its float32 outputs against."""

    module: nn.Module
    by: str
    """`float64`, `rounding`, or `float64 and rounding` where only parts ran in float64."""
    coarsest: float = _EPS32
    """Relative step of the coarsest precision that the module computes in."""
    _exact: Callable[[Float32Array], Outputs] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, module: nn.Module, example: Float32Array) -> TruerRuns:
        """Find the way.

        Args:
            module: in eval mode, float32, on the CPU.
            example: a few of its inputs.
        """
        few = torch.from_numpy(example[:2])
        inner = inner_dtypes(module, few)
        coarsest = max((float(torch.finfo(dtype).eps) for dtype in inner & set(COARSE)), default=_EPS32)
        doubled = copy.deepcopy(module).to(torch.float64).eval()
        try:
            with _float64():
                there = inner_dtypes(doubled, few.double())
        except Exception:  # a precision is written into the user's own code
            return cls(module, by="rounding", coarsest=coarsest)
        exact = _runs(doubled, torch.float64)
        by = "float64" if there <= {torch.float64} else "float64 and rounding"
        return cls(module, by=by, coarsest=coarsest, _exact=exact)

    def __call__(self, inputs: Float32Array) -> list[Outputs]:
        """Several truths, or one: the floor is the largest difference to any."""
        found = [self._exact(inputs)] if self._exact is not None else []
        run = _runs(self.module, torch.float32)
        if self.by != "float64":
            for draw in range(DRAWS):
                with _Rounding(draw):
                    found.append(run(inputs))
        if self.coarsest > _EPS32:  # a number at the edge of two coarse steps may fall to either side
            rng = np.random.default_rng(0)
            step = lambda value: value * (1 + self.coarsest * rng.uniform(-1, 1, value.shape).astype(np.float32))  # noqa: E731
            found.append(tuple(map(step, run(inputs))))
        return found

    def floor(self, truths: list[Float32Array], measured: Float32Array) -> float:
        """The noise floor, but never below the rounding of the largest value itself."""
        largest = float(np.max(np.abs(measured)))
        return max(*(max_abs(truth, measured) for truth in truths), self.coarsest * largest)


class _Rounding(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every float32 operand of every operator is off by up to one rounding error."""

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        aliases = any(each.alias_info is not None for each in (*func._schema.arguments, *func._schema.returns))
        if not aliases:  # neither a view, nor in place
            args = tree_map_only(Tensor, self._off, args)
        return func(*args, **(kwargs or {}))

    def _off(self, value: Tensor) -> Tensor:
        if value.dtype != torch.float32:
            return value
        error = torch.rand(value.shape, generator=self.generator) * 2 - 1
        return value * (1 + error * (_EPS32 / 2))


def _runs(module: nn.Module, dtype: torch.dtype, batch: int = 256) -> Callable[[Float32Array], Outputs]:
    def run(inputs: Float32Array) -> Outputs:
        with torch.no_grad(), _float64() if dtype == torch.float64 else contextlib.nullcontext():
            outputs = [module(chunk.to(dtype)) for chunk in torch.split(torch.from_numpy(inputs), batch)]
        rows = [each if isinstance(each, tuple) else (each,) for each in outputs]
        return tuple(np.concatenate([part.numpy() for part in parts]) for parts in zip(*rows, strict=True))

    return run


@contextlib.contextmanager
def _float64() -> Iterator[None]:
    """`torch.zeros(…)` without a dtype, as start states are made, gives float64 inside."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
