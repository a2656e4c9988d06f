"""What no part may do: fail, draw random numbers, or work for one batch size alone."""

from __future__ import annotations

from typing import Any

import torch
from edgeae_runtime.errors import InputError
from torch import Tensor, nn

from edgeae_export.modules.outputs import UnansweredError, failed, short_error


def run_part(name: str, module: nn.Module, given: Tensor) -> Any:  # noqa: ANN401
    """What a part makes of a batch.

    Raises:
        InputError: its own code raised.
    """
    try:
        with torch.inference_mode():
            return module(given)
    except Exception as error:  # the user's own code may raise anything
        raise failed(name, given, error) from error


def refuse_randomness(name: str, module: nn.Module, given: Tensor) -> None:
    """Raises UnansweredError where two runs on the same input differ."""
    runs = [outputs_of(run_part(name, module, given)) for _ in range(2)]
    if any(not torch.equal(one, other) for one, other in zip(*runs, strict=True) if not one.isnan().any()):
        raise UnansweredError(
            f"The {name} is random: two runs on the same input differ. An exported graph must not draw numbers; the "
            "runtime samples by itself. Return the mean instead of a sample, or name the outputs as mean and "
            "log_variance; and take functional dropout out of eval mode (F.dropout(x, training=self.training))."
        )


def refuse_frozen_batch(name: str, module: nn.Module, given: Tensor) -> None:
    """Raises InputError where a part works for one batch size alone."""
    for count in (1, 3):
        try:
            with torch.inference_mode():
                found = len(first_of(module(given[:count])))
        except Exception as error:
            raise InputError(
                f"The {name} takes a batch of {len(given)}, but fails on {count} ({short_error(error)}). Expected one "
                "that takes any batch: look for a batch size written as a number, or kept from an earlier call."
            ) from error
        if found != min(count, len(given)):
            raise InputError(
                f"The {name} gives {found} outputs for a batch of {count}. Expected as many as inputs: look for a "
                "reshape that mixes the batch with another axis."
            )


def outputs_of(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """As a tuple, whether there is one or several."""
    return value if isinstance(value, tuple) else (value,)


def first_of(value: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The first output: the latent, or the image."""
    return outputs_of(value)[0].contiguous()
