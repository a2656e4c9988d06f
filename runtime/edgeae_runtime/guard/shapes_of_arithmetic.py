"""The sizes that elementwise operators, normalisations and reductions give."""

from __future__ import annotations

import math

import numpy as np

from edgeae_runtime.guard.onnx_reader import DTYPES
from edgeae_runtime.guard.shapes import (
    INTEGERS,
    Call,
    UnfitError,
    Value,
    agree,
    axis_of,
    broadcast_shapes,
    of,
    without_axes,
)


def same(call: Call) -> list[Value]:
    """As the first input."""
    first = call.given(0)
    if call.op == "Cast" and call.number("to", 0) not in DTYPES:
        raise UnfitError("makes something else than numbers")
    return [Value(first.shape, first.most)]


def along_axis(call: Call) -> list[Value]:
    """As the input, computed along an axis of it."""
    call.axis(len(call.shape()), -1)
    return same(call)


def channels(call: Call) -> list[Value]:
    """As the input, with constants per channel."""
    shape = call.shape()
    if len(shape) < 2 or call.number("training_mode", 0):
        raise UnfitError("is in training mode, or has no channels")
    agree(all(call.shape(index) == shape[1:2] for index in range(1, len(call.inputs))))
    return [of(shape)]


def layer_norm(call: Call) -> list[Value]:
    """As the input, and what was normalised away."""
    shape = call.shape()
    axis = call.axis(len(shape), -1)
    for index in range(1, len(call.inputs)):
        if call.has(index):
            agree(broadcast_shapes([shape, call.shape(index)]) == shape)
    rest = of(shape[:axis] + (1,) * (len(shape) - axis))
    return [of(shape), rest, rest]


def dropout(call: Call) -> list[Value]:
    """As the input, and the mask; only where it does nothing."""
    if call.has(2) and any(call.known(2)):
        raise UnfitError("is in training mode")
    return same(call) * 2


def divide(call: Call) -> list[Value]:
    """As `broadcast`. Whole numbers are divided only by known ones, neither 0 nor -1: of the lowest int64 by -1, a
    processor makes an exception that ends the process."""
    if call.given(0).dtype in INTEGERS:
        divisors = call.given(1).value
        if divisors is None or np.isin(divisors, (0, -1)).any():
            raise UnfitError("divides whole numbers by what the graph computes, or by 0 or -1")
    return broadcast(call)


def broadcast(call: Call) -> list[Value]:
    """numpy's rule; of shapes that are not known, no more elements than all combinations."""
    first = call.inputs[0]
    if first is not None and first.shape is not None:
        for other in call.inputs[1:]:
            if other is None or other.shape != first.shape:
                break
        else:
            return [Value(first.shape, first.most)]
    given = [call.given(index) for index in range(len(call.inputs))]
    known = [value.shape for value in given if value.shape is not None]
    if len(known) < len(given):
        return [Value(None, math.prod(value.most for value in given))]
    return [of(broadcast_shapes(known))]


def quantize(call: Call) -> list[Value]:
    """As the input; the scale is one number, or one per channel of an axis."""
    first, scale = call.given(0), call.shape(1)
    if scale not in ((), (1,)) or first.shape is None:
        shape = call.shape()
        agree(len(scale) == 1 and scale[0] == shape[call.axis(len(shape), 1)])
    if call.has(2):
        agree(call.shape(2) == scale)
    return [Value(first.shape, first.most)]


def dynamic_quantize(call: Call) -> list[Value]:
    """As the input, its scale and its zero point."""
    return [*same(call), of(()), of(())]


def reduce(call: Call) -> list[Value]:
    """Without the axes that are summed over."""
    first = call.given(0)
    if first.shape is None or (call.has(1) and call.given(1).value is None):
        return [Value(None, first.most)]
    axes = {axis_of(axis, len(first.shape)) for axis in call.known(1)} if call.has(1) else set()
    if not axes:
        axes = set() if call.number("noop_with_empty_axes", 0) else set(range(len(first.shape)))
    return [of(without_axes(first.shape, axes, keep=bool(call.number("keepdims", 1))))]


def arg_reduce(call: Call) -> list[Value]:
    """Without the axis that is searched."""
    shape = call.shape()
    return [of(without_axes(shape, {call.axis(len(shape))}, keep=bool(call.number("keepdims", 1))))]
