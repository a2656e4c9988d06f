"""The small arithmetic on constants and shapes by which exporters name sizes: numpy's, where all inputs are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae_runtime.guard.onnx_reader import DTYPES, MAX_CONSTANT, Tensor
from edgeae_runtime.guard.shapes import Call, Value

Array = NDArray[Any]


def fold(call: Call, result: Value) -> Array | None:
    """The numbers that a node gives, where they are few and known; None otherwise.

    Args:
        call: the node.
        result: its output, of which the shape is known already.
    """
    rule = _RULES.get(call.op)
    if rule is None or result.shape is None or result.most > MAX_CONSTANT:
        return None
    inputs = []
    for value in call.inputs:
        if value is not None and value.value is None:
            return None
        inputs.append(None if value is None else value.value)
    try:
        with np.errstate(all="ignore"):
            found = np.asarray(rule(call, *inputs))
    except Exception:  # a node that cannot be is ONNX Runtime's to refuse; its numbers are not known
        return None
    return found if found.shape == result.shape and found.dtype != object else None


def _divide(call: Call, a: Array, b: Array) -> Array:
    quotient = np.true_divide(a, b)
    return quotient if a.dtype.kind == "f" else np.trunc(quotient).astype(a.dtype)


def _slice(
    call: Call, data: Array, starts: Array, ends: Array, axes: Array | None = None, steps: Array | None = None
) -> Array:
    index: list[slice] = [slice(None)] * data.ndim
    for place, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        axis = place if axes is None else int(axes[place])
        index[axis] = slice(start, end, 1 if steps is None else int(steps[place]))
    return data[tuple(index)]


def _filled(call: Call, shape: Array) -> Array:
    content = call.attributes.get("value")
    fill = content.value if isinstance(content, Tensor) and content.value is not None else np.zeros(1, np.float32)
    return np.full(shape.tolist(), fill.reshape(()))


def _reshape(call: Call, data: Array, shape: Array) -> Array:
    return data.reshape([data.shape[i] if n == 0 else n for i, n in enumerate(shape.tolist())])


def _reduced(reduce: Callable[..., Array]) -> Callable[..., Array]:
    def run(call: Call, data: Array, axes: Array | None = None) -> Array:
        over = None if axes is None or axes.size == 0 else tuple(axes.tolist())
        return np.asarray(reduce(data, axis=over, keepdims=bool(call.number("keepdims", 1))), data.dtype)

    return run


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the inputs alone."""
    return lambda call, *inputs: function(*inputs)


_RULES: dict[str, Callable[..., Any]] = {
    "Identity": _plain(lambda a: a),
    "Cast": lambda call, a: a.astype(DTYPES[call.number("to", 0)]),
    "Add": _plain(np.add),
    "Sub": _plain(np.subtract),
    "Mul": _plain(np.multiply),
    "Div": _divide,
    "Mod": lambda call, a, b: np.fmod(a, b) if call.number("fmod", 0) else np.mod(a, b),
    "Min": lambda call, *each: np.minimum.reduce(np.broadcast_arrays(*each)),
    "Max": lambda call, *each: np.maximum.reduce(np.broadcast_arrays(*each)),
    "Neg": _plain(np.negative),
    "Floor": _plain(np.floor),
    "Ceil": _plain(np.ceil),
    "Round": _plain(np.rint),
    "Sqrt": _plain(np.sqrt),
    "Equal": _plain(np.equal),
    "Less": _plain(np.less),
    "LessOrEqual": _plain(np.less_equal),
    "Greater": _plain(np.greater),
    "GreaterOrEqual": _plain(np.greater_equal),
    "And": _plain(np.logical_and),
    "Or": _plain(np.logical_or),
    "Not": _plain(np.logical_not),
    "Where": _plain(np.where),
    "Concat": lambda call, *each: np.concatenate(each, call.number("axis", 0)),
    "Gather": lambda call, data, indices: np.take(data, indices, call.number("axis", 0)),
    "Slice": _slice,
    "Squeeze": lambda call, data, axes=None: np.squeeze(data, None if axes is None else tuple(axes.tolist())),
    "Unsqueeze": lambda call, data, axes: np.expand_dims(data, tuple(axes.tolist())),
    "Reshape": _reshape,
    "Flatten": lambda call, data: data.reshape(1, -1) if call.number("axis", 1) == 0 else None,
    "Transpose": lambda call, data: np.transpose(data, call.attributes.get("perm")),
    "Expand": lambda call, data, shape: data * np.ones(shape.tolist(), data.dtype),
    "ConstantOfShape": _filled,
    "Range": _plain(
        lambda start, limit, delta: np.arange(start.item(), limit.item(), delta.item()).astype(start.dtype)
    ),
    "ReduceProd": _reduced(np.prod),
    "ReduceSum": _reduced(np.sum),
    "ReduceMax": _reduced(np.max),
    "ReduceMin": _reduced(np.min),
}
