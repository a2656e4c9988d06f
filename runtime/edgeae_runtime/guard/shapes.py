"""The size of every tensor of a graph, for a batch of one, before anything runs.

A rule per operator gives the shapes of its outputs from those of its inputs, as ONNX's specification has them, and
refuses a node that cannot be: a permutation of another rank, a weight that does not fit. What a constant or the shape
of another tensor says about a size is followed through the small arithmetic that exporters write for it
(`folding.py`); where a size would depend on what the graph computes, only a bound on the number of elements is known,
and operators that can make a tensor grow refuse it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from edgeae_runtime.guard.onnx_reader import Attribute

Shape = tuple[int, ...]
MANY = 1 << 16
MAX_STEP = 1 << 16
"""Above any stride, dilation or padding."""
INTEGERS = frozenset({2, 3, 5, 6, 7, 12, 13})
UNFIT = "has inputs or attributes that do not fit each other"


class UnfitError(ValueError):
    """A node that cannot be, or whose size cannot be bounded; the message completes "the node …"."""


@dataclass(slots=True)
class Value:
    """What is known of a tensor."""

    shape: Shape | None
    """None where only a bound on the number of its elements is known."""
    most: int
    """Its number of elements, or a bound on it."""
    value: NDArray[Any] | None = None
    """Its numbers, where they are few and do not depend on the graph's input."""
    constant: bool = False
    """Whether it depends on no input: ONNX Runtime computes it while loading, and keeps it."""
    dtype: int = 0
    """Its data type, a key of `DTYPES`."""


@dataclass(slots=True)
class Call:
    """A node, with what is known of its inputs."""

    op: str
    inputs: list[Value | None]
    attributes: dict[str, Attribute]
    outputs: int
    work: int = field(default=0)
    """Multiply-adds beyond one step per element."""
    scratch: int = field(default=0)
    """Elements that are held while it runs, beside its inputs and outputs."""

    def shape(self, index: int = 0) -> Shape:
        """The shape of an input that must be known."""
        value = self.given(index)
        if value.shape is None:
            raise UnfitError("has an input whose shape depends on what the graph computes")
        return value.shape

    def given(self, index: int) -> Value:
        """An input that must be there."""
        value = self.inputs[index] if index < len(self.inputs) else None
        if value is None:
            raise UnfitError("lacks an input")
        return value

    def has(self, index: int) -> bool:
        """Whether an optional input is there."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def known(self, index: int) -> list[Any]:
        """The numbers of an input that names sizes."""
        numbers = self.given(index).value
        if numbers is None:
            raise UnfitError("has a size that depends on what the graph computes")
        return [number.item() for number in numbers.reshape(-1)]

    def number(self, name: str, default: int) -> int:
        """A whole number among the attributes."""
        return self.attributes.get(name, default)  # type: ignore[return-value]

    def numbers(self, name: str, default: Iterable[int]) -> tuple[int, ...]:
        """A row of whole numbers among the attributes."""
        return tuple(self.attributes.get(name, ()) or default)  # type: ignore[arg-type]

    def axis(self, rank: int, default: int = 0, name: str = "axis") -> int:
        """An axis of a tensor of `rank` axes, counted from 0."""
        return axis_of(self.number(name, default), rank)


def of(shape: Shape) -> Value:
    """A value of a known shape."""
    return Value(shape, math.prod(shape))


def agree(fits: bool) -> None:
    """Refuse a node whose inputs or attributes do not fit."""
    if not fits:
        raise UnfitError(UNFIT)


def axis_of(axis: int, rank: int) -> int:
    """An axis counted from 0, of a tensor of `rank` axes."""
    agree(-rank <= axis < rank)
    return axis % rank


def broadcast_shapes(shapes: list[Shape]) -> Shape:
    """numpy's rule."""
    rank = max(map(len, shapes))
    result = []
    for sizes in zip(*((1,) * (rank - len(shape)) + shape for shape in shapes), strict=True):
        different = {*sizes} - {1}
        agree(len(different) <= 1)
        result.append(different.pop() if different else 1)
    return tuple(result)


def without_axes(shape: Shape, axes: set[int], *, keep: bool) -> Shape:
    """A shape without some axes, or with one for each."""
    if keep:
        return tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    return tuple(size for axis, size in enumerate(shape) if axis not in axes)


def sizes_of(numbers: Iterable[Any]) -> Shape:
    """Numbers as a shape."""
    sizes = tuple(int(number) for number in numbers)
    agree(min(sizes, default=0) >= 0)
    return sizes


def counts_of(numbers: tuple[int, ...], axes: int, least: int) -> tuple[int, ...]:
    """A whole number for each axis, within what any layer has."""
    agree(len(numbers) == axes and all(least <= number < MAX_STEP for number in numbers))
    return numbers


def window_of(call: Call, axes: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Strides, dilations and pads."""
    strides = counts_of(call.numbers("strides", (1,) * axes), axes, 1)
    dilations = counts_of(call.numbers("dilations", (1,) * axes), axes, 1)
    return strides, dilations, counts_of(call.numbers("pads", (0,) * 2 * axes), 2 * axes, 0)


def places_of(call: Call, sizes: Shape, kernel: Shape) -> Shape:
    """How many places a window has along each axis."""
    axes = len(sizes)
    strides, dilations, pads = window_of(call, axes)
    counts_of(kernel, axes, 1)
    auto = str(call.attributes.get("auto_pad", "NOTSET"))
    agree(auto in ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"))
    if auto.startswith("SAME"):
        return tuple(-(-size // stride) for size, stride in zip(sizes, strides, strict=True))
    places = []
    for axis, (size, k, stride, dilation) in enumerate(zip(sizes, kernel, strides, dilations, strict=True)):
        room = size + (pads[axis] + pads[axis + axes] if auto == "NOTSET" else 0) - (k - 1) * dilation - 1
        agree(room >= 0)
        count = (-(-room // stride) if call.number("ceil_mode", 0) else room // stride) + 1
        if call.number("ceil_mode", 0) and (count - 1) * stride >= size + (pads[axis] if auto == "NOTSET" else 0):
            count -= 1  # a window that would begin in the padding at the end is left out
        places.append(count)
    return tuple(places)
