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


def part_arguments(option: str, words: Sequence[str]) -> dict[str, Any]:
    """`NAME=JSON` words as keyword arguments.

    Lists with a fraction among their numbers become float32 tensors. A list of whole numbers may be a size as well: it
    stays a list, and the exporter tries it as it is before it tries tensors; see `edgeae_export.modules.arguments`.
    What is no JSON, as `mode=nearest`, is a string; `NAME=tensor:[0,1]` is a float32 tensor for sure.

    Raises:
        InputError: a word is something else.
    """
    import torch

    arguments: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not text or not name.isidentifier():
            raise InputError(f"Got {option} {word}, expected NAME=JSON, such as scale=2 or y=[0,1].")
        value = _value(text.removeprefix("tensor:"))
        if text.startswith("tensor:") or _fractions(value):
            try:
                value = torch.tensor(value, dtype=torch.float32)
            except (TypeError, ValueError) as error:
                raise InputError(f"Got {option} {word}, expected numbers in lists of the same length.") from error
        arguments[name] = value
    return arguments


def _value(text: str) -> Any:  # noqa: ANN401
    try:
        return json.loads(text)
    except ValueError:
        if text[0] in '[{"':
            raise InputError(f'Got the value {text}, which is no JSON: expected it as [0,1] or "text".') from None
        return text


def _fractions(value: Any) -> bool:  # noqa: ANN401
    """Whether a list, nested or not, holds numbers with a fraction."""
    return isinstance(value, list) and any(isinstance(each, float) or _fractions(each) for each in value)


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
