"""Why one tensor between two parts cannot carry what they exchange: skips, indices, codes, labels, two latents.

A bundle's encoder takes an image and gives one float tensor, which its decoder takes. Where a pair of parts wants
more, torch's own error ("missing 1 required positional argument") says neither what stands in the way nor what helps.
"""

from __future__ import annotations

import inspect

import torch
from edgeae_runtime.errors import InputError
from torch import Tensor, nn

from edgeae_export.modules.outputs import flatten
from edgeae_export.modules.parts import Call

_PACK = (
    "pack what it gives into one float tensor at the end of the encoder (torch.cat of each, flattened) and take it "
    "apart at the start of the decoder, in a module of your own"
)


class NotOneTensorError(InputError):
    """Two parts exchange more than one float tensor."""


def why_not_one_tensor(first: Call, second: Call, images: Tensor) -> str | None:
    """What the parts exchange besides one float tensor, and what to do, in a sentence; None where it is one.

    Args:
        first, second: the parts.
        images: a batch as the model wants it.
    """
    wanted, also = further_arguments(first), further_arguments(second)
    if wanted:
        return (
            f"The encoder {first} takes {_listed(wanted)} besides the image, and a bundle's takes an image alone. A "
            f"value that is the same for every image can be bound for good, with --encoder-argument {wanted[0]}=… "
            "and --decoder-argument (encoder_arguments and decoder_arguments in Python); one that changes from call to "
            "call, such as a label, cannot be exported."
        )
    try:
        with torch.inference_mode():
            given = flatten(first(images))
    except Exception:  # the user's own code may raise anything; it is told elsewhere
        return None
    whole = {key: value for key, value in given.items() if not value.is_floating_point()}
    floating = {key: value for key, value in given.items() if value.is_floating_point() and value.ndim > 1}
    if whole and not floating:
        return (
            f"The encoder {first} gives whole numbers ({_shapes(whole)}), such as the codes of a quantiser, and a "
            "bundle's latent is a float tensor. Let the encoder end with the codes' vectors (codebook(codes)) and the "
            "decoder begin with them, in a module of your own."
        )
    several = {key: value for key, value in given.items() if value.ndim > 1}
    shapes = {tuple(value.shape) for value in several.values()}
    if also and len(several) > 1 and (whole or len(shapes) > 1):
        what = "whole numbers, such as the places of a pooling" if whole else "maps, such as skips or two latents"
        return (
            f"The encoder {first} gives {what} ({_shapes(several)}), and the decoder {second} takes {_listed(also)} "
            f"besides the first: one tensor between the parts cannot carry them. To export it, {_PACK}."
        )
    if also:
        return (
            f"The decoder {second} takes {_listed(also)} besides the latent, and a bundle's takes a latent alone. A "
            f"value that is always the same can be bound for good, as --decoder-argument {also[0]}=… or "
            f"decoder_arguments={{'{also[0]}': …}}; one that changes from call to call, such as a label, cannot be "
            "exported."
        )
    if len(shapes) > 1 and _fails(second, next(iter(several.values()))) and not _fails(second, first, images):
        return (
            f"The encoder {first} gives several tensors ({_shapes(several)}), and the decoder {second} takes them "
            f"all at once: one tensor between the parts cannot carry them. To export it, {_PACK}."
        )
    return None


def further_arguments(call: Call) -> list[str]:
    """What a part wants besides its first argument, by name, and has no default nor binding for."""
    function = call.owner.forward if call.method == "forward" else call.function
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return []
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    places = [each.name for each in parameters if each.kind in positional]
    bound = {*call.plain, *call.tensors, *places[:1]}
    needed = (each for each in parameters if each.default is each.empty and each.name not in bound)
    return [each.name for each in needed if each.kind in (*positional, inspect.Parameter.KEYWORD_ONLY)]


def _fails(second: nn.Module, given: Tensor | nn.Module, images: Tensor | None = None) -> bool:
    try:
        with torch.inference_mode():
            second(given(images) if isinstance(given, nn.Module) else given)
    except Exception:  # the user's own code may raise anything
        return True
    return False


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def _shapes(tensors: dict[str, Tensor]) -> str:
    return ", ".join(f"{str(each.dtype).removeprefix('torch.')} {list(each.shape[1:])}" for each in tensors.values())
