"""The operators that a bundle's graphs may use, all of ONNX's standard domain, each with its attributes.

This is what the exporter can write: the arithmetic of neural networks. Nothing that runs another graph (If, Loop,
Scan), keeps sequences, strings or optional values, draws random numbers, or decodes files.

Source: onnx/docs/Operators.md, operator sets 18 to 24.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgeae_runtime.guard import shapes_of_arithmetic as arithmetic
from edgeae_runtime.guard import shapes_of_layers as layers
from edgeae_runtime.guard import shapes_of_layout as layout
from edgeae_runtime.guard.onnx_reader import Tensor
from edgeae_runtime.guard.shapes import MANY, Call, Value

Rule = Callable[[Call], list[Value]]

MIN_OPSET, MAX_OPSET = 18, 24
"""Operator sets that the rules below are written for; exports use 18."""

_ROWS = (
    "activation_alpha activation_beta activations axes dilations kernel_shape output_padding output_shape pads perm "
    "strides value_floats value_ints"
)
_TEXTS = (
    "approximate auto_pad coordinate_transformation_mode direction equation keep_aspect_ratio_policy mode nearest_mode "
    "padding_mode reduction round_mode"
)
_REALS = "alpha beta bias clip cubic_coeff_a epsilon extrapolation_value gamma lambd momentum ratio value_float"
KINDS: dict[str, type] = {
    **dict.fromkeys(_ROWS.split(), tuple),
    **dict.fromkeys(_TEXTS.split(), str),
    **dict.fromkeys(_REALS.split(), float),
    "value": Tensor,
}
"""The Python type of each attribute's value; those that are not listed are whole numbers."""


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator: how many inputs and outputs it has, its attributes, and the rule for its outputs' sizes."""

    rule: Rule
    inputs: tuple[int, int]
    outputs: int
    attributes: frozenset[str]


def _alike(
    rule: Rule, names: str, inputs: tuple[int, int], outputs: int = 1, attributes: str = ""
) -> dict[str, Operator]:
    operator = Operator(rule, inputs, outputs, frozenset(attributes.split()))
    return dict.fromkeys(names.split(), operator)


_WINDOW = "auto_pad dilations kernel_shape pads strides"
_RECURRENT = "activation_alpha activation_beta activations clip direction hidden_size layout"

OPERATORS: dict[str, Operator] = {
    **_alike(
        arithmetic.same,
        "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Ceil Cos Cosh Erf Exp Floor HardSwish Identity IsNaN Log Mish "
        "Neg Not Reciprocal Relu Round Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Tan Tanh",
        (1, 1),
    ),
    **_alike(arithmetic.same, "Celu Elu LeakyRelu Swish ThresholdedRelu", (1, 1), attributes="alpha"),
    **_alike(arithmetic.same, "HardSigmoid", (1, 1), attributes="alpha beta"),
    **_alike(arithmetic.same, "Selu", (1, 1), attributes="alpha gamma"),
    **_alike(arithmetic.same, "Shrink", (1, 1), attributes="bias lambd"),
    **_alike(arithmetic.same, "Gelu", (1, 1), attributes="approximate"),
    **_alike(arithmetic.same, "IsInf", (1, 1), attributes="detect_negative detect_positive"),
    **_alike(arithmetic.same, "Cast", (1, 1), attributes="to saturate round_mode"),
    **_alike(arithmetic.same, "CastLike", (2, 2), attributes="saturate round_mode"),
    **_alike(arithmetic.same, "Clip", (1, 3)),
    **_alike(arithmetic.along_axis, "Hardmax LogSoftmax Softmax", (1, 1), attributes="axis"),
    **_alike(arithmetic.along_axis, "LpNormalization", (1, 1), attributes="axis p"),
    **_alike(arithmetic.same, "MeanVarianceNormalization", (1, 1), attributes="axes"),
    **_alike(arithmetic.same, "CumSum", (2, 2), attributes="exclusive reverse"),
    **_alike(arithmetic.same, "Trilu", (1, 2), attributes="upper"),
    **_alike(arithmetic.same, "ScatterElements", (3, 3), attributes="axis reduction"),
    **_alike(arithmetic.same, "ScatterND", (3, 3), attributes="reduction"),
    **_alike(arithmetic.same, "ReverseSequence", (2, 2), attributes="batch_axis time_axis"),
    **_alike(arithmetic.channels, "BatchNormalization", (5, 5), attributes="epsilon momentum training_mode"),
    **_alike(arithmetic.channels, "InstanceNormalization", (3, 3), attributes="epsilon"),
    **_alike(arithmetic.same, "GroupNormalization", (3, 3), attributes="epsilon num_groups stash_type"),
    **_alike(arithmetic.layer_norm, "LayerNormalization", (2, 3), 3, "axis epsilon stash_type"),
    **_alike(arithmetic.layer_norm, "RMSNormalization", (2, 2), 1, "axis epsilon stash_type"),
    **_alike(arithmetic.dropout, "Dropout", (1, 3), 2, "seed"),
    **_alike(arithmetic.broadcast, "Add And Equal Greater GreaterOrEqual Less LessOrEqual Mul Or Pow Sub Xor", (2, 2)),
    **_alike(arithmetic.divide, "Div", (2, 2)),
    **_alike(arithmetic.broadcast, "BitwiseAnd BitwiseOr BitwiseXor PRelu", (2, 2)),
    **_alike(arithmetic.broadcast, "BitShift", (2, 2), attributes="direction"),
    **_alike(arithmetic.divide, "Mod", (2, 2), attributes="fmod"),
    **_alike(arithmetic.broadcast, "Max Mean Min Sum", (1, MANY)),
    **_alike(arithmetic.broadcast, "Where", (3, 3)),
    **_alike(arithmetic.quantize, "QuantizeLinear", (2, 3), attributes="axis saturate"),
    **_alike(arithmetic.quantize, "DequantizeLinear", (2, 3), attributes="axis"),
    **_alike(arithmetic.dynamic_quantize, "DynamicQuantizeLinear", (1, 1), 3),
    **_alike(
        arithmetic.reduce,
        "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
        "ReduceSumSquare",
        (1, 2),
        attributes="keepdims noop_with_empty_axes",
    ),
    **_alike(arithmetic.arg_reduce, "ArgMax ArgMin", (1, 1), attributes="axis keepdims select_last_index"),
    **_alike(layers.global_pool, "GlobalAveragePool GlobalMaxPool", (1, 1)),
    **_alike(layers.global_pool, "GlobalLpPool", (1, 1), attributes="p"),
    **_alike(layers.pool, "AveragePool", (1, 1), attributes=f"{_WINDOW} ceil_mode count_include_pad"),
    **_alike(layers.pool, "MaxPool", (1, 1), 2, f"{_WINDOW} ceil_mode storage_order"),
    **_alike(layers.pool, "LpPool", (1, 1), attributes=f"{_WINDOW} ceil_mode p"),
    **_alike(layers.conv, "Conv", (2, 3), attributes=f"{_WINDOW} group"),
    **_alike(layers.conv, "ConvInteger", (2, 4), attributes=f"{_WINDOW} group"),
    **_alike(layers.quantized_conv, "QLinearConv", (8, 9), attributes=f"{_WINDOW} group"),
    **_alike(layers.conv_transpose, "ConvTranspose", (2, 3), attributes=f"{_WINDOW} group output_padding output_shape"),
    **_alike(layers.col2im, "Col2Im", (3, 3), attributes="dilations pads strides"),
    **_alike(layers.matmul, "MatMul", (2, 2)),
    **_alike(layers.matmul, "MatMulInteger", (2, 4)),
    **_alike(layers.quantized_matmul, "QLinearMatMul", (8, 8)),
    **_alike(layers.gemm, "Gemm", (2, 3), attributes="alpha beta transA transB"),
    **_alike(layers.einsum, "Einsum", (1, MANY), attributes="equation"),
    **_alike(layers.recurrent, "LSTM", (3, 8), 3, f"{_RECURRENT} input_forget"),
    **_alike(layers.recurrent, "GRU", (3, 6), 2, f"{_RECURRENT} linear_before_reset"),
    **_alike(layers.recurrent, "RNN", (3, 6), 2, _RECURRENT),
    **_alike(layout.reshape, "Reshape", (2, 2), attributes="allowzero"),
    **_alike(layout.flatten, "Flatten", (1, 1), attributes="axis"),
    **_alike(layout.squeeze, "Squeeze", (1, 2)),
    **_alike(layout.unsqueeze, "Unsqueeze", (2, 2)),
    **_alike(layout.transpose, "Transpose", (1, 1), attributes="perm"),
    **_alike(layout.concat, "Concat", (1, MANY), attributes="axis"),
    **_alike(layout.split, "Split", (1, 2), MANY, "axis num_outputs"),
    **_alike(layout.slice_, "Slice", (3, 5)),
    **_alike(layout.gather, "Gather", (2, 2), attributes="axis"),
    **_alike(layout.gather_elements, "GatherElements", (2, 2), attributes="axis"),
    **_alike(layout.gather_nd, "GatherND", (2, 2), attributes="batch_dims"),
    **_alike(layout.depth_to_space, "DepthToSpace", (1, 1), attributes="blocksize mode"),
    **_alike(layout.space_to_depth, "SpaceToDepth", (1, 1), attributes="blocksize"),
    **_alike(layout.expand, "Expand", (2, 2)),
    **_alike(layout.tile, "Tile", (2, 2)),
    **_alike(layout.pad, "Pad", (2, 4), attributes="mode"),
    **_alike(
        layout.resize,
        "Resize",
        (1, 4),
        attributes="antialias axes coordinate_transformation_mode cubic_coeff_a exclude_outside extrapolation_value "
        "keep_aspect_ratio_policy mode nearest_mode",
    ),
    **_alike(layout.grid_sample, "GridSample", (2, 2), attributes="align_corners mode padding_mode"),
    **_alike(layout.affine_grid, "AffineGrid", (2, 2), attributes="align_corners"),
    **_alike(layout.one_hot, "OneHot", (3, 3), attributes="axis"),
    **_alike(layout.top_k, "TopK", (2, 2), 2, "axis largest sorted"),
    **_alike(layout.non_zero, "NonZero", (1, 1)),
    **_alike(layout.shape_of, "Shape", (1, 1), attributes="end start"),
    **_alike(layout.size_of, "Size", (1, 1)),
    **_alike(layout.constant, "Constant", (0, 0), attributes="value value_float value_floats value_int value_ints"),
    **_alike(layout.constant_of_shape, "ConstantOfShape", (1, 1), attributes="value"),
    **_alike(layout.range_, "Range", (3, 3)),
    **_alike(layout.eye_like, "EyeLike", (1, 1), attributes="dtype k"),
}
