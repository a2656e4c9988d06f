"""The sizes of what is moved, cut, joined, repeated or made up: where tensors can grow."""

from __future__ import annotations

import math

import numpy as np

from edgeae_runtime.guard.onnx_reader import Tensor
from edgeae_runtime.guard.shapes import Call, Value, agree, axis_of, broadcast_shapes, of, sizes_of, without_axes


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
    agree(min(wanted, default=0) >= 0 and math.prod(wanted) == first.most)
    return [of(tuple(wanted))]


def flatten(call: Call) -> list[Value]:
    """A matrix."""
    shape = call.shape()
    axis = call.number("axis", 1)
    axis = axis if axis == len(shape) else axis_of(axis, len(shape))
    return [of((math.prod(shape[:axis]), math.prod(shape[axis:])))]


def squeeze(call: Call) -> list[Value]:
    """Without axes of size one."""
    shape = call.shape()
    axes = (
        {axis_of(axis, len(shape)) for axis in call.known(1)}
        if call.has(1)
        else {i for i, n in enumerate(shape) if n == 1}
    )
    agree(all(shape[axis] == 1 for axis in axes))
    return [of(without_axes(shape, axes, keep=False))]


def unsqueeze(call: Call) -> list[Value]:
    """With axes of size one."""
    shape, axes = list(call.shape()), call.known(1)
    rank = len(shape) + len(axes)
    agree(len({axis_of(axis, rank) for axis in axes}) == len(axes))
    for axis in sorted(axis_of(axis, rank) for axis in axes):
        shape.insert(axis, 1)
    return [of(tuple(shape))]


def transpose(call: Call) -> list[Value]:
    """Axes in another order."""
    shape = call.shape()
    perm = call.numbers("perm", range(len(shape) - 1, -1, -1))
    agree(sorted(perm) == list(range(len(shape))))
    return [of(tuple(shape[axis] for axis in perm))]


def concat(call: Call) -> list[Value]:
    """Joined along an axis."""
    shapes = [call.shape(index) for index in range(len(call.inputs))]
    axis = call.axis(len(shapes[0]))
    rest = {(shape[:axis], shape[axis + 1 :]) for shape in shapes if len(shape) == len(shapes[0])}
    agree(len(rest) == 1 and all(len(shape) == len(shapes[0]) for shape in shapes))
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
    agree(len(sizes) == call.outputs and min(sizes) >= 0 and sum(sizes) == shape[axis])
    return [of((*shape[:axis], size, *shape[axis + 1 :])) for size in sizes]


def slice_(call: Call) -> list[Value]:
    """A part along some axes."""
    first = call.given(0)
    if first.shape is None or any(call.has(index) and call.given(index).value is None for index in range(1, 5)):
        return [Value(None, first.most)]
    shape, starts, ends = list(first.shape), call.known(1), call.known(2)
    axes = call.known(3) if call.has(3) else list(range(len(starts)))
    steps = call.known(4) if call.has(4) else [1] * len(starts)
    agree(0 not in steps and len(starts) == len(ends) == len(axes) == len(steps))
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = axis_of(axis, len(shape))
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
    agree(len(shape) == len(indices))
    return [of(indices)]


def gather_nd(call: Call) -> list[Value]:
    """Slices by coordinates."""
    shape, indices = call.shape(), call.shape(1)
    batch = call.number("batch_dims", 0)
    agree(bool(indices) and 0 <= batch < len(indices) and batch + indices[-1] <= len(shape))
    return [of((*indices[:-1], *shape[batch + indices[-1] :]))]


def depth_to_space(call: Call) -> list[Value]:
    """Channels laid out as pixels."""
    shape, block = call.shape(), call.number("blocksize", 0)
    agree(len(shape) == 4 and block > 0 and shape[1] % (block * block) == 0)
    return [of((shape[0], shape[1] // (block * block), shape[2] * block, shape[3] * block))]


def space_to_depth(call: Call) -> list[Value]:
    """Pixels laid out as channels."""
    shape, block = call.shape(), call.number("blocksize", 0)
    agree(len(shape) == 4 and block > 0 and shape[2] % block == 0 and shape[3] % block == 0)
    return [of((shape[0], shape[1] * block * block, shape[2] // block, shape[3] // block))]


def expand(call: Call) -> list[Value]:
    """Repeated to a given shape."""
    return [of(broadcast_shapes([call.shape(), sizes_of(call.known(1))]))]


def tile(call: Call) -> list[Value]:
    """Repeated so many times along each axis."""
    shape, repeats = call.shape(), sizes_of(call.known(1))
    agree(len(shape) == len(repeats))
    return [of(tuple(size * times for size, times in zip(shape, repeats, strict=True)))]


def pad(call: Call) -> list[Value]:
    """With so much around it."""
    shape, pads = list(call.shape()), call.known(1)
    axes = call.known(3) if call.has(3) else list(range(len(shape)))
    agree(len(pads) == 2 * len(axes))
    for place, axis in enumerate(axes):
        shape[axis_of(axis, len(shape))] += pads[place] + pads[place + len(axes)]
    return [of(sizes_of(shape))]


def resize(call: Call) -> list[Value]:
    """To given sizes, or by given factors."""
    shape = call.shape()
    axes = [axis_of(axis, len(shape)) for axis in call.numbers("axes", range(len(shape)))]
    by_size = call.has(3) and bool(call.known(3))
    numbers = call.known(3 if by_size else 2)
    agree(len(numbers) == len(axes) and call.attributes.get("coordinate_transformation_mode") != "tf_crop_and_resize")
    agree(all(math.isfinite(number) and number > 0 for number in numbers))
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
    agree(len(shape) == len(grid) > 2 and shape[0] == grid[0] and grid[-1] == len(shape) - 2)
    return [of((*shape[:2], *grid[1:-1]))]


def affine_grid(call: Call) -> list[Value]:
    """The places of a grid of a given size."""
    sizes = sizes_of(call.known(1))
    agree(len(sizes) in (4, 5))
    return [of((sizes[0], *sizes[2:], len(sizes) - 2))]


def one_hot(call: Call) -> list[Value]:
    """An axis more, of a given size."""
    shape, depth = list(call.shape()), call.known(1)
    agree(len(depth) == 1 and depth[0] > 0)
    shape.insert(call.axis(len(shape) + 1, -1), int(depth[0]))
    return [of(tuple(shape))]


def top_k(call: Call) -> list[Value]:
    """The largest of an axis."""
    shape, k = call.shape(), call.known(1)
    axis = call.axis(len(shape), -1)
    agree(len(k) == 1 and 0 <= k[0] <= shape[axis])
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
    agree(len(call.attributes) == 1)
    (content,) = call.attributes.values()
    if isinstance(content, Tensor):
        return [Value(content.shape, math.prod(content.shape), content.value)]
    numbers = np.array(content, np.float32 if "float" in next(iter(call.attributes)) else np.int64)
    return [Value(numbers.shape, numbers.size, numbers)]


def constant_of_shape(call: Call) -> list[Value]:
    """One number everywhere."""
    return [of(sizes_of(call.known(0)))]


def range_(call: Call) -> list[Value]:
    """From, to, by."""
    (start,), (limit,), (delta,) = (call.known(index) for index in range(3))
    agree(all(map(math.isfinite, (start, limit, delta))) and delta != 0)
    return [of((max(math.ceil((limit - start) / delta), 0),))]


def eye_like(call: Call) -> list[Value]:
    """A matrix with ones on a diagonal."""
    agree(len(call.shape()) == 2)
    return [of(call.shape())]
