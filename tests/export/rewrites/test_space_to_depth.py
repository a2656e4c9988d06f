"""First convolutions that read blocks of pixels as channels."""

import numpy as np
import pytest
from edgeae_export.graph.pixels import take_uint8
from edgeae_export.graph.running import runner
from edgeae_export.int8.placement import find_sites
from edgeae_export.rewrites.space_to_depth import fold_blocks, fold_columns
from edgeae_export.rewrites.steps import apply

from tests.export.graphs import FLOAT32_TOLERANCE, graph, weights

RNG = np.random.default_rng(8)
FORMS = {"columns": fold_columns, "blocks": fold_blocks}


TAPS = weights(RNG, 5, 1, 3, 3)


def first_layer(
    channels=1, size=(16, 24), kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1), activation=True, bias=True
):
    """A convolution of pixels with what follows it."""
    constants = {"w": weights(RNG, 5, channels, *kernel), **({"b": weights(RNG, 5)} if bias else {})}
    nodes = [("Conv", ["x", *constants], ["h"], {"strides": list(strides), "pads": list(pads)})]
    nodes += [("Relu", ["h"], ["r"], {}), ("MaxPool", ["r"], ["y"], {"kernel_shape": [2, 2]})] if activation else [
        ("Sigmoid", ["h"], ["y"], {})
    ]  # fmt: skip
    return take_uint8(graph(nodes, [channels, *size], constants))


def assert_folded(model, form, channels, size):
    folded, (decision,) = apply(model, [FORMS[form]])
    assert decision.applied, decision.why
    pixels = RNG.integers(0, 256, (3, channels, *size), dtype=np.uint8)
    expected = runner(model)(pixels)
    np.testing.assert_allclose(runner(folded)(pixels), expected, atol=FLOAT32_TOLERANCE * np.abs(expected).max())
    return folded


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("kernel", "strides", "pads"),
    [
        ((3, 3), (2, 2), (1, 1, 1, 1)),
        ((4, 4), (2, 2), (1, 1, 1, 1)),
        ((5, 5), (2, 2), (2, 2, 2, 2)),
        ((3, 3), (2, 2), (0, 0, 1, 1)),
        ((7, 7), (4, 4), (3, 3, 3, 3)),
        ((4, 4), (4, 4), (0, 0, 0, 0)),
        ((2, 5), (2, 4), (0, 3, 0, 3)),
        ((3, 1), (2, 4), (1, 0, 1, 0)),
        ((3, 11), (2, 2), (1, 0, 1, 1)),
    ],
)
def test_a_folded_convolution_computes_the_same_and_runs_in_int8(form, channels, kernel, strides, pads):
    model = first_layer(channels, (16, 24), kernel, strides, pads)
    folded = assert_folded(model, form, channels, (16, 24))
    assert not find_sites(model).layers
    assert len(find_sites(folded).layers) == 1


@pytest.mark.parametrize("kernel", [(3, 3), (5, 1), (1, 5)])
def test_columns_are_folded_without_a_stride_too(kernel):
    pads = tuple(size // 2 for size in kernel) * 2
    assert_folded(first_layer(3, (9, 8), kernel, (1, 1), pads), "columns", 3, (9, 8))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("activation", "bias"), [(True, False), (False, True)])
def test_with_and_without_a_bias_and_an_activation(form, activation, bias):
    assert_folded(first_layer(activation=activation, bias=bias), form, 1, (16, 24))


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (first_layer(size=(16, 22)), "do not divide"),
        (first_layer(size=(16, 24), pads=(1, 1, 1, 4), kernel=(3, 4)), "do not divide"),
        (take_uint8(graph([("Conv", ["x", "w"], ["y"], {"dilations": [2, 2]})], [1, 16, 16], {"w": TAPS})), "dilated"),
        (take_uint8(graph([("Conv", ["x", "w"], ["y"], {"auto_pad": "VALID"})], [1, 16, 16], {"w": TAPS})), "auto_pad"),
    ],
)
def test_what_does_not_divide_is_left_alone(model, why):
    _, (decision,) = apply(model, [fold_columns])
    assert not decision.applied
    assert why in decision.why


def test_without_a_stride_there_are_no_blocks():
    _, (decision,) = apply(first_layer(strides=(1, 1)), [fold_blocks])
    assert not decision.applied


def test_only_pixels_and_few_channels_are_matched():
    of_floats = graph([("Conv", ["x", "w"], ["y"], {"strides": [2, 2]})], [1, 16, 16], {"w": weights(RNG, 5, 1, 2, 2)})
    for model in (of_floats, first_layer(channels=4)):
        assert apply(model, [fold_columns, fold_blocks])[1] == []
