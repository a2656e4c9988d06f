"""Whether a torch model can be exported at all: finite weights, finite outputs, and one answer per image.

Told before anything is traced, and with the name of the layer: what comes out of a graph afterwards would name none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from edgeae_runtime.bundle.manifest import PARTS
from edgeae_runtime.errors import InputError
from torch import nn
from torch.nn.parameter import UninitializedParameter

from edgeae_export.arrays import Float32Array
from edgeae_export.modules.noise import NOISE_FACTOR
from edgeae_export.modules.outputs import flatten
from edgeae_export.modules.parts import unwrapped
from edgeae_export.modules.running import torch_outputs

NEIGHBOURS = 3
"""Images that are also run alone."""
APART = 10 * NOISE_FACTOR
"""Noise floors by which an answer must move to count as another: torch's own kernels differ between batch sizes."""


_WHOLE = ("", "inner", "inner.owner")
"""Names of the whole module, as it is and within the exporter's own wrappers."""


def refuse_broken_weights(model: object, *further: object) -> None:
    """Refuse NaN and infinity in parameters.

    Buffers may hold them for good reason, as the -inf of an attention mask; where they do harm, the outputs show it.

    Args:
        model: a module, a pair of modules, or an object with an encoder and a decoder.
        further: parts that were named apart from it.

    Raises:
        InputError: naming the first such parameter.
    """
    for prefix, module in _modules(model, *further):
        for name, value in module.named_parameters():
            if isinstance(value, UninitializedParameter) or not value.is_floating_point():
                continue
            finite = torch.isfinite(value.detach())
            if not finite.all():
                kind = "NaN" if value.detach().isnan().any() else "infinity"
                raise InputError(
                    f"The weights hold {kind}: {prefix}{name} of {type(module).__name__}, in {int((~finite).sum())} of "
                    f"{value.numel()} numbers. Expected finite weights: the training went astray. Export an earlier "
                    "checkpoint."
                )


def refuse_broken_outputs(name: str, module: nn.Module, inputs: Float32Array, outputs: Iterable[Float32Array]) -> None:
    """Refuse a module that gives NaN or infinity for a real image.

    Args:
        name: `encoder` or `decoder`.
        module: the module.
        inputs: float32 [n, …].
        outputs: what it gave for them, [n, …] each.

    Raises:
        InputError: naming the image and the first layer whose output is not finite.
    """
    for output in outputs:
        broken = np.flatnonzero(~np.isfinite(output).reshape(len(output), -1).all(axis=1))
        if len(broken):
            first = int(broken[0])
            raise InputError(
                f"The {name} itself, in torch, gives NaN or infinity for {len(broken)} of {len(output)} held-out "
                f"images; the first is number {first}, and {_first_broken(module, inputs[first : first + 1])}. "
                "Expected finite outputs for every image: look at that layer, for a division by zero, a logarithm of "
                "zero, or numbers too large for float32."
            )


def refuse_neighbours(
    name: str, module: nn.Module, inputs: Float32Array, outputs: Iterable[Float32Array], noise: float
) -> None:
    """Refuse a module whose answer for one image depends on the others of its batch.

    Args:
        name: `encoder` or `decoder`.
        module: the module.
        inputs: float32 [n, …].
        outputs: what it gave for them in large batches.
        noise: its noise floor.

    Raises:
        InputError: naming the layers that take statistics of the batch, if there are any.
    """
    run = torch_outputs(module)
    for index in range(min(NEIGHBOURS, len(inputs))):
        alone = run(inputs[index : index + 1])
        for one, together in zip(alone, outputs, strict=True):
            difference = float(np.abs(one[0].astype(np.float64) - together[index]).max())
            if not difference <= APART * noise:
                raise InputError(
                    f"The {name}'s answer for one image depends on the images beside it: alone it differs by "
                    f"{difference:.2g}. {_batch_statistics(module)}"
                )


def _batch_statistics(module: nn.Module) -> str:
    layers = [
        (key, type(layer).__name__)
        for key, layer in module.named_modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is None
    ]
    if not layers:
        return (
            "Expected every image to be worked on alone: look for a mean, a softmax, a normalisation or a sort over "
            "axis 0, the batch."
        )
    key, kind = layers[0]
    return (
        f"{_users_name(key)} ({kind}) keeps no running statistics (track_running_stats=False), so it takes those of "
        f"the batch, as {len(layers)} such layers do. Train with track_running_stats=True, or use GroupNorm or "
        "InstanceNorm, which look at one image alone."
    )


def _first_broken(module: nn.Module, given: Float32Array) -> str:
    """Which layer's output is the first that is not finite."""
    found: list[str] = []

    def watch(key: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def look(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401
            if not found and not _finite(output) and _finite(inputs):
                found.append(f"{_users_name(key)} ({type(layer).__name__}) is the first layer to give it")

        return look

    layers = [(key, layer) for key, layer in module.named_modules() if key not in _WHOLE]
    leaves = [(key, layer) for key, layer in layers if not list(layer.children())]
    handles = [layer.register_forward_hook(watch(key)) for key, layer in leaves]
    try:
        with torch.inference_mode():
            module(torch.from_numpy(np.ascontiguousarray(given)))
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else "it comes up between the layers"


def _finite(value: object) -> bool:
    return all(bool(torch.isfinite(each).all()) for each in flatten(value).values() if each.is_floating_point())


def _users_name(key: str) -> str:
    """A layer's name without the exporter's own wrappers around it."""
    while key.startswith(("inner.", "owner.")):
        key = key.split(".", 1)[1]
    return key


def _modules(*values: object) -> Iterator[tuple[str, nn.Module]]:
    """The modules among some values, or among the parts of each, with a prefix for the names in them."""
    for value in values:
        pair = value if isinstance(value, tuple | list) and len(value) == len(PARTS) else None
        parts = pair or [getattr(value, name, None) for name in PARTS]
        whole = _module(value) is not None  # not its truth: a container of no layers, or a compiled module, has none
        named = [("", value)] if whole else [(f"{name}.", part) for name, part in zip(PARTS, parts, strict=True)]
        yield from ((prefix, module) for prefix, each in named if (module := _module(each)) is not None)


def _module(value: object) -> nn.Module | None:
    """A module, or the one that a bound method belongs to."""
    value = value if isinstance(value, nn.Module) else getattr(value, "__self__", None)
    return unwrapped(value) if isinstance(value, nn.Module) else None
