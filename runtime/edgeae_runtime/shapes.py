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

import numpy as np
from numpy.typing import NDArray

from edgeae_runtime.onnx_reader import DTYPES, Attribute, Tensor

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
        return _axis(self.number(name, default), rank)


def of(shape: Shape) -> Value:
    """A value of a known shape."""
    return Value(shape, math.prod(shape))


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
    _agree(all(call.shape(index) == shape[1:2] for index in range(1, len(call.inputs))))
    return [of(shape)]


def layer_norm(call: Call) -> list[Value]:
    """As the input, and what was normalised away."""
    shape = call.shape()
    axis = call.axis(len(shape), -1)
    for index in range(1, len(call.inputs)):
        if call.has(index):
            _agree(_broadcast([shape, call.shape(index)]) == shape)
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
    return [of(_broadcast(known))]


def quantize(call: Call) -> list[Value]:
    """As the input; the scale is one number, or one per channel of an axis."""
    first, scale = call.given(0), call.shape(1)
    if scale not in ((), (1,)) or first.shape is None:
        shape = call.shape()
        _agree(len(scale) == 1 and scale[0] == shape[call.axis(len(shape), 1)])
    if call.has(2):
        _agree(call.shape(2) == scale)
    return [Value(first.shape, first.most)]


def dynamic_quantize(call: Call) -> list[Value]:
    """As the input, its scale and its zero point."""
    return [*same(call), of(()), of(())]


def reduce(call: Call) -> list[Value]:
    """Without the axes that are summed over."""
    first = call.given(0)
    if first.shape is None or (call.has(1) and call.given(1).value is None):
        return [Value(None, first.most)]
    axes = {_axis(axis, len(first.shape)) for axis in call.known(1)} if call.has(1) else set()
    if not axes:
        axes = set() if call.number("noop_with_empty_axes", 0) else set(range(len(first.shape)))
    return [of(_without(first.shape, axes, keep=bool(call.number("keepdims", 1))))]


def arg_reduce(call: Call) -> list[Value]:
    """Without the axis that is searched."""
    shape = call.shape()
    return [of(_without(shape, {call.axis(len(shape))}, keep=bool(call.number("keepdims", 1))))]


def global_pool(call: Call) -> list[Value]:
    """One number per channel."""
    shape = call.shape()
    _agree(len(shape) > 2)
    return [of(shape[:2] + (1,) * (len(shape) - 2))]


def pool(call: Call) -> list[Value]:
    """A window slides over all axes but the first two."""
    shape = call.shape()
    kernel = call.numbers("kernel_shape", ())
    _agree(2 < len(shape) == len(kernel) + 2)
    result = of((*shape[:2], *_slide(call, shape[2:], kernel)))
    call.work = result.most * math.prod(kernel)
    return [result, result]


def conv(call: Call, weight: int = 1, bias: int = 2) -> list[Value]:
    """[n, channels, …] with a weight [out, channels / groups, …]."""
    shape, kernel = call.shape(), call.shape(weight)
    group = call.number("group", 1)
    _agree(2 < len(shape) == len(kernel) and group > 0 and shape[1] == kernel[1] * group and kernel[0] % group == 0)
    _agree(call.numbers("kernel_shape", kernel[2:]) == kernel[2:])
    if call.op != "ConvInteger" and call.has(bias):
        _agree(call.shape(bias) == kernel[:1])
    result = of((shape[0], kernel[0], *_slide(call, shape[2:], kernel[2:])))
    call.work = result.most * math.prod(kernel[1:])
    if call.op == "ConvInteger":
        call.scratch = math.prod(result.shape[2:] if result.shape else ()) * math.prod(kernel[1:])
    return [result]


def quantized_conv(call: Call) -> list[Value]:
    """As `conv`, with a scale and a zero point beside each tensor."""
    return conv(call, weight=3, bias=8)


def conv_transpose(call: Call) -> list[Value]:
    """[n, channels, …] with a weight [channels, out / groups, …]."""
    shape, kernel = call.shape(), call.shape(1)
    group, axes = call.number("group", 1), len(shape) - 2
    _agree(2 < len(shape) == len(kernel) and group > 0 and shape[1] == kernel[0] and shape[1] % group == 0)
    _agree(call.numbers("kernel_shape", kernel[2:]) == kernel[2:])
    if call.has(2):
        _agree(call.shape(2) == (kernel[1] * group,))
    strides, dilations, pads = _window(call, axes)
    extra = _counts(call.numbers("output_padding", (0,) * axes), axes, 0)
    if sizes := call.numbers("output_shape", ()):
        spatial = _counts(sizes[-axes:], axes, 1)
    elif str(call.attributes.get("auto_pad", "NOTSET")).startswith("SAME"):
        spatial = tuple(size * stride for size, stride in zip(shape[2:], strides, strict=True))
    else:
        spatial = tuple(
            stride * (size - 1) + more + (k - 1) * dilation + 1 - before - after
            for size, stride, more, k, dilation, before, after in zip(
                shape[2:], strides, extra, kernel[2:], dilations, pads[:axes], pads[axes:], strict=True
            )
        )
    _agree(min(spatial) > 0)
    result = of((shape[0], kernel[1] * group, *spatial))
    call.scratch = math.prod(shape[2:]) * math.prod(kernel[1:]) * group
    call.work = math.prod(shape) * math.prod(kernel[1:]) + result.most
    return [result]


def col2im(call: Call) -> list[Value]:
    """Columns [n, channels * block, positions] laid over images of a given size."""
    shape, image, block = call.shape(), tuple(call.known(1)), tuple(call.known(2))
    axes = len(image)
    _agree(len(shape) == 3 and len(block) == axes > 0 and min(*image, *block) > 0 and shape[1] % math.prod(block) == 0)
    _agree(math.prod(_slide(call, image, block)) == shape[2])
    call.work = math.prod(shape)
    return [of((shape[0], shape[1] // math.prod(block), *image))]


def matmul(call: Call, right: int = 1) -> list[Value]:
    """numpy's rule for products of stacks of matrices."""
    a, b = call.shape(), call.shape(right)
    _agree(bool(a) and bool(b))
    rows, columns = a if len(a) > 1 else (1, *a), b if len(b) > 1 else (*b, 1)
    _agree(rows[-1] == columns[-2])
    stack = _broadcast([rows[:-2], columns[:-2]])
    shape = (*stack, *(rows[-2:-1] if len(a) > 1 else ()), *(columns[-1:] if len(b) > 1 else ()))
    result = of(shape)
    call.work = result.most * rows[-1]
    return [result]


def quantized_matmul(call: Call) -> list[Value]:
    """As `matmul`, with a scale and a zero point beside each tensor."""
    return matmul(call, right=3)


def gemm(call: Call) -> list[Value]:
    """alpha * a b + beta * c, of matrices."""
    a, b = call.shape(), call.shape(1)
    _agree(len(a) == len(b) == 2)
    a, b = a[::-1] if call.number("transA", 0) else a, b[::-1] if call.number("transB", 0) else b
    _agree(a[1] == b[0])
    if call.has(2):
        _agree(_broadcast([(a[0], b[1]), call.shape(2)]) == (a[0], b[1]))
    call.work = a[0] * a[1] * b[1]
    return [of((a[0], b[1]))]


def einsum(call: Call) -> list[Value]:
    """Sums of products over named axes."""
    equation = str(call.attributes.get("equation", "")).replace(" ", "").replace("...", "*")
    terms, arrow, wanted = equation.partition("->")
    names = terms.split(",")
    letters = equation.replace("->", "").replace(",", "").replace("*", "")
    _agree(len(names) == len(call.inputs) and (letters.isalpha() or not letters))
    sizes: dict[str, int] = {}
    dots: list[Shape] = []
    for index, term in enumerate(names):
        shape = call.shape(index)
        before, star, after = term.partition("*")
        middle = len(shape) - len(before) - len(after)
        _agree(middle == 0 or (middle > 0 and bool(star)))
        dots.append(shape[len(before) : len(before) + middle])
        rest = shape[: len(before)] + shape[len(before) + middle :]
        for letter, size in zip(before + after, rest, strict=True):
            _agree(sizes.setdefault(letter, size) in (size, 1) or size == 1)
            sizes[letter] = max(sizes[letter], size)
    stack = _broadcast(dots)
    if not arrow:
        wanted = ("*" if "*" in terms else "") + "".join(sorted(n for n in sizes if terms.count(n) == 1))
    before, star, after = wanted.partition("*")
    _agree(set(before + after) <= set(sizes))
    call.work = math.prod(sizes.values()) * math.prod(stack)
    call.scratch = call.work if len(names) > 2 else 0  # it multiplies two at a time, in an order of its own
    middle_sizes = stack if star else ()
    return [of((*(sizes[n] for n in before), *middle_sizes, *(sizes[n] for n in after)))]


def recurrent(call: Call) -> list[Value]:
    """[steps, n, features]: every step's state, and the last ones."""
    (steps, batch, features), weight, state = call.shape(), call.shape(1), call.shape(2)
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[call.op]
    ways = 2 if call.attributes.get("direction") == "bidirectional" else 1
    hidden = state[-1]
    _agree(call.number("layout", 0) == 0 and call.number("hidden_size", hidden) == hidden)
    _agree(weight == (ways, gates * hidden, features) and state == (ways, gates * hidden, hidden))
    call.work = steps * batch * ways * gates * hidden * (features + hidden)
    last = of((ways, batch, hidden))
    return [of((steps, ways, batch, hidden)), last, last]


def reshape(call: Call) -> list[Value]:
    """The same elements in another shape."""
    first = call.given(0)
    if call.given(1).value is None or first.shape is None:
        return [Value(None, first.most)]
    wanted = call.known(1)
    if not call.number("allowzero", 0):
        wanted = [first.shape[place] if size == 0 else size for place, size in enumerate(wanted)]
    if wanted.count(-1) == 1:
        others = math.prod(size for size in wanted if size != -1)
        wanted[wanted.index(-1)] = first.most // others if others else 0
    _agree(min(wanted, default=0) >= 0 and math.prod(wanted) == first.most)
    return [of(tuple(wanted))]


def flatten(call: Call) -> list[Value]:
    """A matrix."""
    shape = call.shape()
    axis = call.number("axis", 1)
    axis = axis if axis == len(shape) else _axis(axis, len(shape))
    return [of((math.prod(shape[:axis]), math.prod(shape[axis:])))]


def squeeze(call: Call) -> list[Value]:
    """Without axes of size one."""
    shape = call.shape()
    axes = (
        {_axis(axis, len(shape)) for axis in call.known(1)}
        if call.has(1)
        else {i for i, n in enumerate(shape) if n == 1}
    )
    _agree(all(shape[axis] == 1 for axis in axes))
    return [of(_without(shape, axes, keep=False))]


def unsqueeze(call: Call) -> list[Value]:
    """With axes of size one."""
    shape, axes = list(call.shape()), call.known(1)
    rank = len(shape) + len(axes)
    _agree(len({_axis(axis, rank) for axis in axes}) == len(axes))
    for axis in sorted(_axis(axis, rank) for axis in axes):
        shape.insert(axis, 1)
    return [of(tuple(shape))]


def transpose(call: Call) -> list[Value]:
    """Axes in another order."""
    shape = call.shape()
    perm = call.numbers("perm", range(len(shape) - 1, -1, -1))
    _agree(sorted(perm) == list(range(len(shape))))
    return [of(tuple(shape[axis] for axis in perm))]


def concat(call: Call) -> list[Value]:
    """Joined along an axis."""
    shapes = [call.shape(index) for index in range(len(call.inputs))]
    axis = call.axis(len(shapes[0]))
    rest = {(shape[:axis], shape[axis + 1 :]) for shape in shapes if len(shape) == len(shapes[0])}
    _agree(len(rest) == 1 and all(len(shape) == len(shapes[0]) for shape in shapes))
    return [of((*shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1 :]))]


def split(call: Call) -> list[Value]:
    """Cut along an axis."""
    shape = call.shape()
    axis = call.axis(len(shape))
    if call.has(1):
        sizes = call.known(1)
    else:
        each = -(-shape[axis] // call.outputs)
        sizes = [each] * (call.outputs - 1) + [shape[axis] - each * (call.outputs - 1)]
    _agree(len(sizes) == call.outputs and min(sizes) >= 0 and sum(sizes) == shape[axis])
    return [of((*shape[:axis], size, *shape[axis + 1 :])) for size in sizes]


def slice_(call: Call) -> list[Value]:
    """A part along some axes."""
    first = call.given(0)
    if first.shape is None or any(call.has(index) and call.given(index).value is None for index in range(1, 5)):
        return [Value(None, first.most)]
    shape, starts, ends = list(first.shape), call.known(1), call.known(2)
    axes = call.known(3) if call.has(3) else list(range(len(starts)))
    steps = call.known(4) if call.has(4) else [1] * len(starts)
    _agree(0 not in steps and len(starts) == len(ends) == len(axes) == len(steps))
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = _axis(axis, len(shape))
        shape[place] = len(range(*slice(start, end, step).indices(shape[place])))
    return [of(tuple(shape))]


def gather(call: Call) -> list[Value]:
    """Rows by number."""
    shape, indices = call.shape(), call.shape(1)
    axis = call.axis(len(shape))
    return [of((*shape[:axis], *indices, *shape[axis + 1 :]))]


def gather_elements(call: Call) -> list[Value]:
    """One element for each index."""
    shape, indices = call.shape(), call.shape(1)
    call.axis(len(shape))
    _agree(len(shape) == len(indices))
    return [of(indices)]


def gather_nd(call: Call) -> list[Value]:
    """Slices by coordinates."""
    shape, indices = call.shape(), call.shape(1)
    batch = call.number("batch_dims", 0)
    _agree(bool(indices) and 0 <= batch < len(indices) and batch + indices[-1] <= len(shape))
    return [of((*indices[:-1], *shape[batch + indices[-1] :]))]


def depth_to_space(call: Call) -> list[Value]:
    """Channels laid out as pixels."""
    shape, block = call.shape(), call.number("blocksize", 0)
    _agree(len(shape) == 4 and block > 0 and shape[1] % (block * block) == 0)
    return [of((shape[0], shape[1] // (block * block), shape[2] * block, shape[3] * block))]


def space_to_depth(call: Call) -> list[Value]:
    """Pixels laid out as channels."""
    shape, block = call.shape(), call.number("blocksize", 0)
    _agree(len(shape) == 4 and block > 0 and shape[2] % block == 0 and shape[3] % block == 0)
    return [of((shape[0], shape[1] * block * block, shape[2] // block, shape[3] // block))]


def expand(call: Call) -> list[Value]:
    """Repeated to a given shape."""
    return [of(_broadcast([call.shape(), _sizes(call.known(1))]))]


def tile(call: Call) -> list[Value]:
    """Repeated so many times along each axis."""
    shape, repeats = call.shape(), _sizes(call.known(1))
    _agree(len(shape) == len(repeats))
    return [of(tuple(size * times for size, times in zip(shape, repeats, strict=True)))]


def pad(call: Call) -> list[Value]:
    """With so much around it."""
    shape, pads = list(call.shape()), call.known(1)
    axes = call.known(3) if call.has(3) else list(range(len(shape)))
    _agree(len(pads) == 2 * len(axes))
    for place, axis in enumerate(axes):
        shape[_axis(axis, len(shape))] += pads[place] + pads[place + len(axes)]
    return [of(_sizes(shape))]


def resize(call: Call) -> list[Value]:
    """To given sizes, or by given factors."""
    shape = call.shape()
    axes = [_axis(axis, len(shape)) for axis in call.numbers("axes", range(len(shape)))]
    by_size = call.has(3) and bool(call.known(3))
    numbers = call.known(3 if by_size else 2)
    _agree(len(numbers) == len(axes) and call.attributes.get("coordinate_transformation_mode") != "tf_crop_and_resize")
    _agree(all(math.isfinite(number) and number > 0 for number in numbers))
    if by_size and (policy := str(call.attributes.get("keep_aspect_ratio_policy", "stretch"))) != "stretch":
        factors = [number / max(shape[axis], 1) for axis, number in zip(axes, numbers, strict=True)]
        factor = min(factors) if policy == "not_larger" else max(factors)
        numbers = [int(factor * shape[axis] + 0.5) for axis in axes]
    sizes = list(shape)
    for axis, number in zip(axes, numbers, strict=True):
        sizes[axis] = int(number) if by_size else int(shape[axis] * number)
    result = of(tuple(sizes))
    call.work = 8 * result.most
    return [result]


def grid_sample(call: Call) -> list[Value]:
    """Pixels at given places."""
    shape, grid = call.shape(), call.shape(1)
    _agree(len(shape) == len(grid) > 2 and shape[0] == grid[0] and grid[-1] == len(shape) - 2)
    return [of((*shape[:2], *grid[1:-1]))]


def affine_grid(call: Call) -> list[Value]:
    """The places of a grid of a given size."""
    sizes = _sizes(call.known(1))
    _agree(len(sizes) in (4, 5))
    return [of((sizes[0], *sizes[2:], len(sizes) - 2))]


def one_hot(call: Call) -> list[Value]:
    """An axis more, of a given size."""
    shape, depth = list(call.shape()), call.known(1)
    _agree(len(depth) == 1 and depth[0] > 0)
    shape.insert(call.axis(len(shape) + 1, -1), int(depth[0]))
    return [of(tuple(shape))]


def top_k(call: Call) -> list[Value]:
    """The largest of an axis."""
    shape, k = call.shape(), call.known(1)
    axis = call.axis(len(shape), -1)
    _agree(len(k) == 1 and 0 <= k[0] <= shape[axis])
    result = of((*shape[:axis], k[0], *shape[axis + 1 :]))
    return [result, result]


def non_zero(call: Call) -> list[Value]:
    """Coordinates of at most every element."""
    return [Value(None, max(len(call.shape()), 1) * call.given(0).most)]


def shape_of(call: Call) -> list[Value]:
    """The shape itself."""
    shape = call.shape()
    found = np.array(shape[call.number("start", 0) : call.number("end", len(shape))], np.int64)
    return [Value((len(found),), len(found), found)]


def size_of(call: Call) -> list[Value]:
    """The number of elements."""
    call.shape()
    return [Value((), 1, np.array(call.given(0).most, np.int64))]


def constant(call: Call) -> list[Value]:
    """A constant in the node itself."""
    _agree(len(call.attributes) == 1)
    (content,) = call.attributes.values()
    if isinstance(content, Tensor):
        return [Value(content.shape, math.prod(content.shape), content.value)]
    numbers = np.array(content, np.float32 if "float" in next(iter(call.attributes)) else np.int64)
    return [Value(numbers.shape, numbers.size, numbers)]


def constant_of_shape(call: Call) -> list[Value]:
    """One number everywhere."""
    return [of(_sizes(call.known(0)))]


def range_(call: Call) -> list[Value]:
    """From, to, by."""
    (start,), (limit,), (delta,) = (call.known(index) for index in range(3))
    _agree(all(map(math.isfinite, (start, limit, delta))) and delta != 0)
    return [of((max(math.ceil((limit - start) / delta), 0),))]


def eye_like(call: Call) -> list[Value]:
    """A matrix with ones on a diagonal."""
    _agree(len(call.shape()) == 2)
    return [of(call.shape())]


def _agree(fits: bool) -> None:
    if not fits:
        raise UnfitError(UNFIT)


def _axis(axis: int, rank: int) -> int:
    _agree(-rank <= axis < rank)
    return axis % rank


def _broadcast(shapes: list[Shape]) -> Shape:
    rank = max(map(len, shapes))
    result = []
    for sizes in zip(*((1,) * (rank - len(shape)) + shape for shape in shapes), strict=True):
        different = {*sizes} - {1}
        _agree(len(different) <= 1)
        result.append(different.pop() if different else 1)
    return tuple(result)


def _without(shape: Shape, axes: set[int], *, keep: bool) -> Shape:
    if keep:
        return tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    return tuple(size for axis, size in enumerate(shape) if axis not in axes)


def _sizes(numbers: Iterable[Any]) -> Shape:
    sizes = tuple(int(number) for number in numbers)
    _agree(min(sizes, default=0) >= 0)
    return sizes


def _counts(numbers: tuple[int, ...], axes: int, least: int) -> tuple[int, ...]:
    _agree(len(numbers) == axes and all(least <= number < MAX_STEP for number in numbers))
    return numbers


def _window(call: Call, axes: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Strides, dilations and pads."""
    strides = _counts(call.numbers("strides", (1,) * axes), axes, 1)
    dilations = _counts(call.numbers("dilations", (1,) * axes), axes, 1)
    return strides, dilations, _counts(call.numbers("pads", (0,) * 2 * axes), 2 * axes, 0)


def _slide(call: Call, sizes: Shape, kernel: Shape) -> Shape:
    """How many places a window has along each axis."""
    axes = len(sizes)
    strides, dilations, pads = _window(call, axes)
    _counts(kernel, axes, 1)
    auto = str(call.attributes.get("auto_pad", "NOTSET"))
    _agree(auto in ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"))
    if auto.startswith("SAME"):
        return tuple(-(-size // stride) for size, stride in zip(sizes, strides, strict=True))
    places = []
    for axis, (size, k, stride, dilation) in enumerate(zip(sizes, kernel, strides, dilations, strict=True)):
        room = size + (pads[axis] + pads[axis + axes] if auto == "NOTSET" else 0) - (k - 1) * dilation - 1
        _agree(room >= 0)
        count = (-(-room // stride) if call.number("ceil_mode", 0) else room // stride) + 1
        if call.number("ceil_mode", 0) and (count - 1) * stride >= size + (pads[axis] if auto == "NOTSET" else 0):
            count -= 1  # a window that would begin in the padding at the end is left out
        places.append(count)
    return tuple(places)
