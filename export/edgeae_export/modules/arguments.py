"""Further arguments of a part, bound for good.

A list of numbers may be a size, as `image_size=[256, 256]`, or a tensor, as `y=[0, 1]`: it is tried as it was given,
then as a float32 tensor, then, if its numbers are whole, as an int64 tensor. A tensor for one image is repeated for the
batch where the part does not take it otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from edgeae_runtime.errors import InputError
from torch import Tensor, nn

from edgeae_export.modules.outputs import failed
from edgeae_export.modules.parts import Call


def bind(name: str, owner: nn.Module, method: str, arguments: Mapping[str, Any] | None, given: Tensor) -> Call:
    """A part with its arguments, in the first reading of them that it takes.

    Raises:
        InputError: it takes none of them on `given`.
    """
    first: InputError | None = None
    for reading, per_image in readings(arguments or {}):
        call = Call(owner, method, reading, per_image)
        try:
            with torch.inference_mode():
                call(given)
        except Exception as error:  # the user's own code may raise anything
            first = first or _failed(name, given, error)
        else:
            return call
    assert first is not None
    raise first


def readings(arguments: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], bool]]:
    """What arguments may mean, the plainest first, and whether tensors of one image are repeated for the batch."""
    lists = {name for name, value in arguments.items() if isinstance(value, list | tuple) and _flat(value)}
    dtypes = [torch.float32]
    if all(isinstance(number, int) for name in lists for number in _flat(arguments[name])):
        dtypes.append(torch.int64)
    found = [dict(arguments)]
    if lists:
        found += [{n: torch.tensor(v, dtype=d) if n in lists else v for n, v in arguments.items()} for d in dtypes]
    yield from ((reading, False) for reading in found)
    for reading in found:
        tensors = [value for value in reading.values() if isinstance(value, Tensor)]
        if tensors and all(value.ndim and len(value) == 1 for value in tensors):
            yield reading, True


def _flat(value: Any) -> list[Any]:  # noqa: ANN401
    """The numbers of a list, nested or not; empty where something else is among them, or its rows are uneven."""
    try:
        numbers = torch.tensor(value)
    except (TypeError, ValueError):
        return []
    return [] if numbers.dtype == torch.bool else list(numbers.reshape(-1).tolist())


def _failed(name: str, given: Tensor, error: Exception) -> InputError:
    refusal = error if isinstance(error, InputError) else failed(name, given, error)
    refusal.__cause__ = error if refusal is not error else error.__cause__
    return refusal
