"""TorchScript parts, made into what torch can export: `torch.export` refuses a ScriptModule, and knows a way round."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from edgeae_runtime.errors import InputError
from torch import Tensor, nn

from edgeae_export.modules.outputs import short_error

_BATCHES = (1, 2, 3)
_SAME = 1e-5
"""Of the largest value: the same operators on the same numbers, perhaps fused otherwise."""


def without_torchscript(part: nn.Module, given: Tensor, name: str) -> nn.Module:
    """The part itself, or where TorchScript is in it, the same operators as an ordinary module.

    Args:
        part: a tensor to a tensor or a tuple of them.
        given: a batch of inputs, at least three.
        name: encoder or decoder.

    Raises:
        InputError: its operators cannot be had.
    """
    if not any(isinstance(module, torch.jit.ScriptModule) for module in part.modules()):
        return part
    try:
        with _quiet(), torch.inference_mode(False), torch.no_grad():
            given = given.clone()  # a latent that was made in inference mode cannot be traced with
            found = _converted(part, given)
            alike = all(_alike(found(given[:count]), part(given[:count])) for count in _BATCHES)
    except Exception as error:  # torch's converter raises anything
        raise InputError(_refusal(name, short_error(error))) from error
    if not alike:
        raise InputError(
            _refusal(name, "the operators torch reads out of it give other outputs for another batch size")
        )
    return found


def _refusal(name: str, why: str) -> str:
    return (
        f"The {name} is a TorchScript module, and torch cannot read its operators ({why}). Give the torch.nn.Module "
        "that it was scripted or traced from; its weights can be read from the TorchScript file: --checkpoint on the "
        "command line, or model.load_state_dict(torch.jit.load(path).state_dict())."
    )


def _converted(part: nn.Module, given: Tensor) -> nn.Module:
    from torch._export.converter import TS2EPConverter  # what torch.export itself recommends; it has no public name

    traced = torch.jit.trace(part, (given,), check_trace=False)  # type: ignore[no-untyped-call]
    program = TS2EPConverter(traced, (given,), {}).convert()
    module = program.module(check_guards=False)
    for method in ("train", "eval"):  # which a program refuses, and which change nothing in it
        vars(module).pop(method, None)
    for weight in module.parameters():
        weight.requires_grad_(False)
    return _Program(module)


class _Program(nn.Module):
    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, value: Tensor) -> Any:  # noqa: ANN401 a tensor or a tuple of them
        """Run the operators."""
        made = self.program(value)
        return tuple(made) if isinstance(made, list) else made


def _alike(one: Any, other: Any) -> bool:  # noqa: ANN401
    pairs = zip(*(each if isinstance(each, tuple) else (each,) for each in (one, other)), strict=True)
    return all(
        a.shape == b.shape and float((a - b).abs().max()) <= _SAME * max(float(b.abs().max()), 1e-6) for a, b in pairs
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
