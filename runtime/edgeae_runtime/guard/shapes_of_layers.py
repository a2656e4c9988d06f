"""The sizes that layers give: convolutions, pooling, products, recurrence; and their work."""

from __future__ import annotations

import math

from edgeae_runtime.guard.shapes import Call, Shape, Value, agree, broadcast_shapes, counts_of, of, places_of, window_of


def global_pool(call: Call) -> list[Value]:
    """One number per channel."""
    shape = call.shape()
    agree(len(shape) > 2)
    return [of(shape[:2] + (1,) * (len(shape) - 2))]


def pool(call: Call) -> list[Value]:
    """A window slides over all axes but the first two."""
    shape = call.shape()
    kernel = call.numbers("kernel_shape", ())
    agree(2 < len(shape) == len(kernel) + 2)
    result = of((*shape[:2], *places_of(call, shape[2:], kernel)))
    call.work = result.most * math.prod(kernel)
    return [result, result]


def conv(call: Call, weight: int = 1, bias: int = 2) -> list[Value]:
    """[n, channels, …] with a weight [out, channels / groups, …]."""
    shape, kernel = call.shape(), call.shape(weight)
    group = call.number("group", 1)
    agree(2 < len(shape) == len(kernel) and group > 0 and shape[1] == kernel[1] * group and kernel[0] % group == 0)
    agree(call.numbers("kernel_shape", kernel[2:]) == kernel[2:])
    if call.op != "ConvInteger" and call.has(bias):
        agree(call.shape(bias) == kernel[:1])
    result = of((shape[0], kernel[0], *places_of(call, shape[2:], kernel[2:])))
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
    agree(2 < len(shape) == len(kernel) and group > 0 and shape[1] == kernel[0] and shape[1] % group == 0)
    agree(call.numbers("kernel_shape", kernel[2:]) == kernel[2:])
    if call.has(2):
        agree(call.shape(2) == (kernel[1] * group,))
    strides, dilations, pads = window_of(call, axes)
    extra = counts_of(call.numbers("output_padding", (0,) * axes), axes, 0)
    if sizes := call.numbers("output_shape", ()):
        spatial = counts_of(sizes[-axes:], axes, 1)
    elif str(call.attributes.get("auto_pad", "NOTSET")).startswith("SAME"):
        spatial = tuple(size * stride for size, stride in zip(shape[2:], strides, strict=True))
    else:
        spatial = tuple(
            stride * (size - 1) + more + (k - 1) * dilation + 1 - before - after
            for size, stride, more, k, dilation, before, after in zip(
                shape[2:], strides, extra, kernel[2:], dilations, pads[:axes], pads[axes:], strict=True
            )
        )
    agree(min(spatial) > 0)
    result = of((shape[0], kernel[1] * group, *spatial))
    call.scratch = math.prod(shape[2:]) * math.prod(kernel[1:]) * group
    call.work = math.prod(shape) * math.prod(kernel[1:]) + result.most
    return [result]


def col2im(call: Call) -> list[Value]:
    """Columns [n, channels * block, positions] laid over images of a given size."""
    shape, image, block = call.shape(), tuple(call.known(1)), tuple(call.known(2))
    axes = len(image)
    agree(len(shape) == 3 and len(block) == axes > 0 and min(*image, *block) > 0 and shape[1] % math.prod(block) == 0)
    agree(math.prod(places_of(call, image, block)) == shape[2])
    call.work = math.prod(shape)
    return [of((shape[0], shape[1] // math.prod(block), *image))]


def matmul(call: Call, right: int = 1) -> list[Value]:
    """numpy's rule for products of stacks of matrices."""
    a, b = call.shape(), call.shape(right)
    agree(bool(a) and bool(b))
    rows, columns = a if len(a) > 1 else (1, *a), b if len(b) > 1 else (*b, 1)
    agree(rows[-1] == columns[-2])
    stack = broadcast_shapes([rows[:-2], columns[:-2]])
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
    agree(len(a) == len(b) == 2)
    a, b = a[::-1] if call.number("transA", 0) else a, b[::-1] if call.number("transB", 0) else b
    agree(a[1] == b[0])
    if call.has(2):
        agree(broadcast_shapes([(a[0], b[1]), call.shape(2)]) == (a[0], b[1]))
    call.work = a[0] * a[1] * b[1]
    return [of((a[0], b[1]))]


def einsum(call: Call) -> list[Value]:
    """Sums of products over named axes."""
    equation = str(call.attributes.get("equation", "")).replace(" ", "").replace("...", "*")
    terms, arrow, wanted = equation.partition("->")
    names = terms.split(",")
    letters = equation.replace("->", "").replace(",", "").replace("*", "")
    agree(len(names) == len(call.inputs) and (letters.isalpha() or not letters))
    sizes: dict[str, int] = {}
    dots: list[Shape] = []
    for index, term in enumerate(names):
        shape = call.shape(index)
        before, star, after = term.partition("*")
        middle = len(shape) - len(before) - len(after)
        agree(middle == 0 or (middle > 0 and bool(star)))
        dots.append(shape[len(before) : len(before) + middle])
        rest = shape[: len(before)] + shape[len(before) + middle :]
        for letter, size in zip(before + after, rest, strict=True):
            agree(sizes.setdefault(letter, size) in (size, 1) or size == 1)
            sizes[letter] = max(sizes[letter], size)
    stack = broadcast_shapes(dots)
    if not arrow:
        wanted = ("*" if "*" in terms else "") + "".join(sorted(n for n in sizes if terms.count(n) == 1))
    before, star, after = wanted.partition("*")
    agree(set(before + after) <= set(sizes))
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
    agree(call.number("layout", 0) == 0 and call.number("hidden_size", hidden) == hidden)
    agree(weight == (ways, gates * hidden, features) and state == (ways, gates * hidden, hidden))
    call.work = steps * batch * ways * gates * hidden * (features + hidden)
    last = of((ways, batch, hidden))
    return [of((steps, ways, batch, hidden)), last, last]
