"""Rewrites one after the other, each on what the one before it wrote."""

import numpy as np
import pytest
from edgeae_export.rewrites.below_shuffle import move_below_shuffle
from edgeae_export.rewrites.channels_last import to_channels_last
from edgeae_export.rewrites.col2im import split_col2im
from edgeae_export.rewrites.phase_split import split_phases
from edgeae_export.rewrites.steps import apply
from edgeae_export.rewrites.subpixel import to_subpixel

from tests.export.graphs import assert_equal, graph, operators, weights

RNG = np.random.default_rng(0)


def upsampling_decoder(kernel, extra, activation):
    up = {"strides": [2, 2], "pads": [1] * 4, "output_padding": [extra] * 2, "kernel_shape": [kernel] * 2}
    nodes = [
        ("Gemm", ["x", "a", "c"], ["flat"], {}),
        ("Reshape", ["flat", "shape"], ["map"], {}),
        (activation, ["map"], ["h0"], {}),
        ("ConvTranspose", ["h0", "w1", "b1"], ["up1"], up),
        (activation, ["up1"], ["h1"], {}),
        ("ConvTranspose", ["h1", "w2", "b2"], ["up2"], up),
        (activation, ["up2"], ["h2"], {}),
        ("Conv", ["h2", "w3", "b3"], ["logits"], {"pads": [1] * 4}),
        ("Sigmoid", ["logits"], ["y"], {}),
    ]
    constants = {
        "a": weights(RNG, 3, 128), "c": weights(RNG, 128), "shape": np.array([-1, 8, 4, 4]),
        "w1": weights(RNG, 8, 6, kernel, kernel), "b1": weights(RNG, 6),
        "w2": weights(RNG, 6, 4, kernel, kernel), "b2": weights(RNG, 4),
        "w3": weights(RNG, 1, 4, 3, 3), "b3": weights(RNG, 1),
    }  # fmt: skip
    return graph(nodes, [3], constants)


@pytest.mark.parametrize("kernel_and_extra", [(3, 1), (4, 0)])
@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu"])
@pytest.mark.parametrize("rows", [True, False])
def test_all_rewrites_of_a_decoder_in_a_row(kernel_and_extra, activation, rows):
    model = upsampling_decoder(*kernel_and_extra, activation)
    x = weights(RNG, 3, 3)
    splits = (split_phases,) if rows else ()
    steps = (
        to_subpixel(uncropped=lambda layer: layer.name == "up2"),
        move_below_shuffle,
        *splits,
        split_col2im,
        *to_channels_last,
    )
    rewritten, applied = model, set()
    for step in steps:  # each on a graph that was closed and opened again
        rewritten, decisions = apply(rewritten, [step])
        applied |= {decision.rule for decision in decisions if decision.applied}
        assert_equal(model, rewritten, x)
    assert applied == {step.rule for step in steps}
    assert operators(apply(model, steps)[0]) == operators(rewritten)  # as in one that stays open
    assert not {"ConvTranspose", "DepthToSpace"} & set(operators(rewritten))
    # With kernel 4 the first shuffle is cropped, so that its Conv has no taps to save; the second merges.
    assert operators(rewritten).count("Conv") == ((4 if kernel_and_extra[0] == 3 else 3) if rows else 2)
