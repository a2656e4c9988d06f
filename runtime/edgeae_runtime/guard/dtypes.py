"""The data type of every tensor of a graph: TensorProto.DataType's numbers, as ONNX's specification derives them."""

from __future__ import annotations

from collections.abc import Callable

from edgeae_runtime.guard.onnx_reader import Tensor
from edgeae_runtime.guard.shapes import Call

FLOAT, UINT8, INT32, INT64, BOOL = 1, 2, 6, 7, 9

_TRUTHS = "And Equal Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual Not Or Xor"
_COUNTS = "ArgMax ArgMin NonZero Shape Size"


def result_dtype(call: Call, index: int) -> int:
    """The data type of one of a node's outputs: that of its first input, but for some operators."""
    rule = _RULES.get(call.op)
    if rule is not None and (index == 0 or call.op in ("DynamicQuantizeLinear", "Dropout")):
        return rule(call, index)
    if index and call.op in ("TopK", "MaxPool"):
        return INT64
    return _input(call, 0)


def _input(call: Call, index: int) -> int:
    value = call.inputs[index] if index < len(call.inputs) else None
    return 0 if value is None else value.dtype


def _always(dtype: int) -> Callable[[Call, int], int]:
    return lambda call, index: dtype


def _as(place: int, default: int = 0) -> Callable[[Call, int], int]:
    return lambda call, index: _input(call, place) or default


def _constant(call: Call, index: int) -> int:
    name, content = next(iter(call.attributes.items()), ("value_float", 0.0))
    return content.dtype if isinstance(content, Tensor) else FLOAT if "float" in name else INT64


_RULES: dict[str, Callable[[Call, int], int]] = {
    **dict.fromkeys(_TRUTHS.split(), _always(BOOL)),
    **dict.fromkeys(_COUNTS.split(), _always(INT64)),
    "Cast": lambda call, index: call.number("to", 0),
    "CastLike": _as(1),
    "Where": _as(1),
    "OneHot": _as(2),
    "Constant": _constant,
    "ConstantOfShape": _constant,
    "EyeLike": lambda call, index: call.number("dtype", _input(call, 0)),
    "QuantizeLinear": _as(2, UINT8),
    "DequantizeLinear": _as(1),
    "DynamicQuantizeLinear": lambda call, index: (UINT8, FLOAT, UINT8)[index],
    "QLinearConv": _as(7),
    "QLinearMatMul": _as(7),
    "ConvInteger": _always(INT32),
    "MatMulInteger": _always(INT32),
    "Dropout": lambda call, index: BOOL if index else _input(call, 0),
}
