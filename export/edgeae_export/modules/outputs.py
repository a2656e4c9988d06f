"""What a user's encoder and decoder return, as named tensors; what an encoder's mean is told in `roles.py`.

Structured outputs are flattened: the keys of mappings and dataclasses, the mean and log-variance of distributions, the
places of tuples.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import torch
from edgeae_runtime.errors import InputError, gist
from torch import Tensor, nn

IMAGES = (
    "reconstruction",
    "recon",
    "recon_x",
    "x_recon",
    "x_hat",
    "sample",
    "decoded",
    "image",
    "output",
    "logits",
    "loc",
)
SAMPLES = ("sample",)
"""Names that outputs go by in torch, diffusers, pythae and papers, the most telling first."""


class UnansweredError(InputError):
    """What a module returns is ambiguous: the user can say, and no other part should be taken instead."""


def flatten(value: Any, prefix: str = "") -> dict[str, Tensor]:  # noqa: ANN401 whatever a module returns
    """Every tensor in an output, by name: `0`, `1` for places in a tuple, `key` or `key.mean` for what has names."""
    if isinstance(value, Tensor):
        return {prefix or "0": value}
    parts = _parts(value)
    found: dict[str, Tensor] = {}
    for key, part in parts.items():
        found |= flatten(part, f"{prefix}.{key}" if prefix else key)
    return found


def _parts(value: Any) -> dict[str, Any]:  # noqa: ANN401
    if isinstance(value, Mapping):
        return {str(key): part for key, part in value.items()}
    if hasattr(value, "_fields"):  # a named tuple
        return dict(zip(value._fields, value, strict=True))
    if isinstance(value, tuple | list):
        return {str(index): part for index, part in enumerate(value)}
    if isinstance(getattr(value, "mean", None), Tensor) and isinstance(getattr(value, "logvar", None), Tensor):
        return {"mean": value.mean, "log_variance": value.logvar}  # diffusers' DiagonalGaussianDistribution
    if isinstance(value, torch.distributions.Independent):
        return _parts(value.base_dist)
    if isinstance(value, torch.distributions.Normal):
        return {"mean": value.loc, "std": value.scale}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {}


def infer_decoder(decoder: nn.Module, latent: Tensor, image_shape: tuple[int, ...]) -> str:
    """Which of a decoder's outputs is the image.

    Raises:
        InputError: none, or several alike.
    """
    outputs = batch_tensors("decoder", decoder, latent)
    if len(outputs) == 1:
        return next(iter(outputs))
    fitting = [key for key, value in outputs.items() if tuple(value.shape[1:]) == image_shape]
    named = [key for word in IMAGES for key in fitting if last_word(key) == word]
    if len(fitting) == 1 or named:
        return named[0] if named else fitting[0]
    shapes = ", ".join(f"{key}: {list(value.shape)}" for key, value in outputs.items())
    raise InputError(
        f"The decoder returns {len(outputs)} tensors ({shapes}), expected one, or one of the image's shape "
        f"{list(image_shape)}. Wrap it so that it returns the image."
    )


def batch_tensors(name: str, module: nn.Module, given: Tensor) -> dict[str, Tensor]:
    """The floating-point outputs of a part that have the batch as their first axis.

    Raises:
        InputError: the part fails, or there is none.
    """
    try:
        with torch.inference_mode():
            outputs = flatten(module(given))
    except InputError:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise failed(name, given, error) from error
    floating = {key: value for key, value in outputs.items() if value.is_floating_point() and value.ndim >= 2}
    batch = {key: value for key, value in floating.items() if len(value) == len(given)}
    if not batch:
        raise InputError(
            f"The {name} returns no floating-point tensor with the batch as its first axis, for a batch of shape "
            f"{list(given.shape)}. Expected one [batch, …] for {len(given)} inputs."
        )
    return batch


_DTYPES = re.compile(
    r"(same dtype|scalar type|type of input .* should be|expected .*(Half|Double|BFloat16|Float) but)", re.I
)
"""How torch's own errors begin where a matrix of one precision meets one of another."""


def failed(name: str, given: Tensor, error: Exception) -> InputError:
    """What to say of a part whose own code raised on a batch."""
    what = f"The {name} fails on a batch of shape {list(given.shape)}: {short_error(error)}."
    if _DTYPES.search(str(error)):
        return InputError(
            f"{what} Its forward has a precision written into it, such as .part(), .double() or dtype=…, that its own "
            "weights do not have: they are exported in float32. Write x.to(layer.weight.dtype) there, or take it out."
        )
    return InputError(
        f"{what} Expected one that takes it. Check the image shape, name the {name} to use with --{name} ({name}='…' "
        f"in Python), and bind what else it wants with --{name}-argument NAME=… ({name}_arguments)."
    )


def short_error(error: Exception) -> str:
    """What the user's own code raised, on one line."""
    return f"{type(error).__name__}: {gist(error)}"


def last_word(key: str) -> str:
    """`mean` of `posterior.mean`."""
    return key.rsplit(".", 1)[-1].lower()
