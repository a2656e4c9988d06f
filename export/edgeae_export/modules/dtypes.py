"""Precisions that a module's own code asks for: seen, and autocast left out.

A bundle computes in float32. Autocast inside a model makes it coarser on purpose, for the speed of other machines; ONNX
Runtime on a CPU has no kernels for what it asks for. What else is written into a forward, such as `x.double()`, stays.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from edgeae_runtime.errors import InputError
from torch import Tensor, nn
from torch.amp.autocast_mode import autocast
from torch.utils._python_dispatch import TorchDispatchMode

from edgeae_export.modules.outputs import short_error

COARSE = (torch.float16, torch.bfloat16)


@contextlib.contextmanager
def without_autocast() -> Iterator[list[object]]:
    """Inside, `torch.autocast` does nothing; gives what asked for it."""
    entered: list[object] = []
    enter, leave = autocast.__enter__, autocast.__exit__

    def skip(self: autocast) -> autocast:
        if self._enabled:
            entered.append(self)
        return self

    autocast.__enter__, autocast.__exit__ = skip, lambda self, *error: None  # type: ignore[method-assign]
    try:
        yield entered
    finally:
        autocast.__enter__, autocast.__exit__ = enter, leave  # type: ignore[method-assign]


class _Seen(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the floating-point types that operators give."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        made = func(*args, **(kwargs or {}))
        for value in made if isinstance(made, tuple | list) else (made,):
            if isinstance(value, Tensor) and value.is_floating_point():
                self.dtypes.add(value.dtype)
        return made


@contextlib.contextmanager
def told_of_precisions(name: str, module: nn.Module, given: Tensor) -> Iterator[None]:
    """Where something inside fails and the module computes in other precisions than float32, that is the cause told.

    Raises:
        InputError: it did, in place of whatever was raised.
    """
    try:
        yield
    except Exception as error:  # of torch's exporter, onnx or ONNX Runtime, which lack kernels for other precisions
        others = inner_dtypes(module, given) - {torch.float32}
        if not others:
            raise
        written = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in others))
        raise InputError(
            f"The {name} computes in {written} in parts of its forward, and a graph of it cannot be run: ONNX Runtime "
            f"has not all kernels for that ({short_error(error)}). Take the conversion out of its forward; a bundle "
            "computes in float32."
        ) from error


def inner_dtypes(module: nn.Module, given: Tensor) -> set[torch.dtype]:
    """The floating-point types that a module computes in, on the way from an input to its outputs."""
    seen = _Seen()
    with torch.no_grad(), seen:
        module(given)
    return seen.dtypes
