"""The words on the command line that describe a user's own model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from edgeae_runtime.errors import InputError

if TYPE_CHECKING:
    from edgeae_export.value_range import ValueRange

_Number = TypeVar("_Number", int, float)


def numbers_or_none(option: str, text: str | None, kind: Callable[[str], _Number]) -> list[_Number] | None:
    """`3,64,64` as numbers.

    Raises:
        InputError: it is something else.
    """
    if text is None:
        return None
    try:
        return [kind(word) for word in text.split(",")]
    except ValueError as error:
        raise InputError(f"Got {option} {text}, expected numbers with commas between, such as 3,64,64.") from error


def decoder_arguments(words: Sequence[str]) -> dict[str, Any]:
    """`NAME=JSON` words as keyword arguments; lists of numbers become float32 tensors.

    Raises:
        InputError: a word is something else.
    """
    import torch

    arguments: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        try:
            arguments[name] = json.loads(value)
        except ValueError as error:
            raise InputError(
                f"Got --decoder-argument {word}, expected NAME=JSON, such as scale=2 or y=[0,1]."
            ) from error
        if not equals or not name.isidentifier():
            raise InputError(f"Got --decoder-argument {word}, expected NAME=JSON, such as y=[0,1].")
        if isinstance(arguments[name], list):
            arguments[name] = torch.tensor(arguments[name], dtype=torch.float32)
    return arguments


def chosen_range(value_range: str | None, mean: str | None, std: str | None) -> ValueRange | None:
    """The model's own range of values, by its ends or by its normalisation.

    Raises:
        InputError: both are given, or half of one.
    """
    if value_range is None and mean is None and std is None:
        return None
    from edgeae_export.value_range import ValueRange

    ends, means, deviations = (
        numbers_or_none(option, text, float)
        for option, text in (("--value-range", value_range), ("--mean", mean), ("--std", std))
    )
    if ends and len(ends) == 2 and not means and not deviations:
        return ValueRange.between(*ends)
    if means and deviations and not ends:
        return ValueRange.normalized(means, deviations)
    raise InputError("Got an incomplete value range, expected either --value-range -1,1, or both --mean and --std.")
