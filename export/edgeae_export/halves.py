"""Where the two halves of a user's module are, and whether they are what its own `forward` does.

Usual names come first. A module's `forward` may do something that the halves leave out (a quantiser, a further layer
between them, a sigmoid at the end): where it can be compared with, the pair that agrees is taken, or the user is told.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from edgeae_runtime.errors import InputError
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from edgeae_export.outputs import flatten

Half = str | Callable[..., Any] | None
"""A half as the user names it: an attribute's path, a module or a bound method; None to look for the usual names."""

ENCODERS, DECODERS = ("encode", "encoder", "encode_forward"), ("decode", "decoder", "decode_forward")
"""Names that halves go by, the most usual first."""
SAME_IMAGE = 1e-3
"""Of the largest value: two ways through the same layers differ by float32's rounding, 1e-5; two models by more."""
_TRAINING_LAYERS = (
    nn.modules.dropout._DropoutNd,
    nn.modules.batchnorm._BatchNorm,
)


class Call(nn.Module):
    """One method of a module, with further arguments bound, as a module of its own."""

    def __init__(self, owner: nn.Module, method: str, arguments: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.owner, self.method = owner, method
        self.plain: dict[str, Any] = {}
        self.tensors: dict[str, str] = {}
        for name, value in (arguments or {}).items():
            if isinstance(value, Tensor):
                self.tensors[name] = f"argument_{name}"
                self.register_buffer(f"argument_{name}", value)
            else:
                self.plain[name] = value

    def forward(self, value: Tensor) -> Any:  # noqa: ANN401 whatever the user's method returns
        """Call it."""
        function = self.owner if self.method == "forward" else getattr(self.owner, self.method)
        bound = {name: getattr(self, buffer) for name, buffer in self.tensors.items()}
        return function(value, **self.plain, **bound)


def named_halves(
    model: Any,  # noqa: ANN401
    encoder: Half,
    decoder: Half,
    decoder_arguments: Mapping[str, Any] | None,
) -> Iterator[tuple[Call, Call]]:
    """The halves as the user names them, or every pair of usual names that the model has, the most usual first.

    Raises:
        InputError: there is no such half, or it is not ready to be exported.
    """
    if isinstance(model, tuple | list) and len(model) == 2:
        encoder, decoder = encoder or model[0], decoder or model[1]
    encoders = [encoder] if encoder is not None else _present(model, ENCODERS, "encoder")
    decoders = [decoder] if decoder is not None else _present(model, DECODERS, "decoder")
    for pair in itertools.product(encoders, decoders):
        (first, encode), (second, decode) = _find(model, pair[0], "encoder"), _find(model, pair[1], "decoder")
        yield (
            Call(_ready(first, "encoder"), encode),
            Call(_ready(second, "decoder"), decode, decoder_arguments),
        )


def _present(model: object, usual: Sequence[str], name: str) -> list[str]:
    found = [word for word in usual if callable(getattr(model, word, None))]
    if not found:
        raise InputError(
            f"{type(model).__name__} has no {name}: expected the methods encode and decode, or the submodules "
            f"encoder and decoder. Name yours, as {name}='my_{name}' in Python or --{name} on the command line."
        )
    return found


def _find(model: Any, half: Half, name: str) -> tuple[nn.Module, str]:  # noqa: ANN401
    """The module that owns a half, and the name of its method."""
    if isinstance(half, str):
        try:
            half = functools.reduce(getattr, half.split("."), model)
        except AttributeError as error:
            raise InputError(f"The {name} cannot be found: {error}. Expected the name of an attribute.") from error
    half = getattr(half, "_orig_mod", half)  # what torch.compile wrapped
    if isinstance(half, nn.Module):
        return half, "forward"
    owner = getattr(half, "__self__", None)
    if isinstance(owner, nn.Module):
        return owner, half.__name__  # type: ignore[union-attr] # a bound method has a name
    raise InputError(
        f"Got {type(half).__name__} as the {name}, expected a torch module or a method of one: of a plain function the "
        "weights cannot be found. Put it into a torch.nn.Module."
    )


def _ready(module: nn.Module, name: str) -> nn.Module:
    """A copy in eval mode, float32, on the CPU.

    Raises:
        InputError: it is in training mode with layers that then behave otherwise, or has no weights yet.
    """
    if any(isinstance(each, UninitializedParameter) for each in module.parameters()):
        raise InputError(f"The {name} has lazy layers without weights. Run one batch through it, then export.")
    noisy = [key for key, layer in module.named_modules() if layer.training and isinstance(layer, _TRAINING_LAYERS)]
    if noisy:
        raise InputError(
            f"The {name} is in training mode: {noisy[0]} ({type(module.get_submodule(noisy[0])).__name__}) behaves "
            "otherwise then. Call model.eval() first."
        )
    try:
        module = _copy(module)
    except Exception as error:
        raise InputError(
            f"The {name} cannot be copied ({short_error(error)}), which the exporter does before it changes its "
            "precision. Expected a module whose weights are parameters or buffers."
        ) from error
    return module.to("cpu", torch.float32).eval().requires_grad_(False)


def _copy(module: nn.Module) -> nn.Module:
    """A deep copy. Tensors that were computed from weights (by `weight_norm`, on every call) are copied as numbers."""
    computed = (value for each in module.modules() for value in vars(each).values() if isinstance(value, Tensor))
    return copy.deepcopy(module, {id(value): value.detach().clone() for value in computed if not value.is_leaf})


def forward_images(model: object, given: Tensor) -> list[Tensor]:
    """What a module's own `forward` makes of images, where it makes something of the images' shape.

    Returns:
        The outputs of that shape; empty where `forward` is missing, fails, wants more, or is random.
    """
    if not isinstance(model, nn.Module):
        return []
    try:
        model = _copy(getattr(model, "_orig_mod", model)).to("cpu", torch.float32).eval()
        with torch.inference_mode():
            runs = [flatten(model(given)) for _ in range(2)]
    except Exception:  # the user's own code may raise anything; then there is nothing to compare with
        return []
    alike = [key for key, value in runs[0].items() if value.shape == given.shape]
    return [runs[0][key] for key in alike if torch.equal(runs[0][key], runs[1][key])]


def same_images(one: Tensor, other: Tensor) -> bool:
    """Whether two batches of images came through the same layers; see `SAME_IMAGE`."""
    return float((one - other).abs().max()) <= SAME_IMAGE * max(float(one.abs().max()), 1e-6)


def short_error(error: Exception) -> str:
    """What the user's own code raised, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
