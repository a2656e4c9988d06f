"""A Conv of stacked phases, split by row phase."""

import numpy as np
import pytest
from edgeae_export.rewrites.phase_split import split_phases, trim
from edgeae_export.rewrites.steps import apply

from tests.export.graphs import assert_equal, graph, operators, weights

RNG = np.random.default_rng(0)
SHUFFLE = ("DepthToSpace", ["c"], ["y"], {"blocksize": 2})


def stacked_weight(outputs=8, inputs=3):
    """[outputs, inputs, 2, 2] whose first half of the outputs leaves the row at the bottom zero."""
    weight = weights(RNG, outputs, inputs, 2, 2)
    weight[: outputs // 2, :, 1] = 0
    return weight


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", [True, False])
@pytest.mark.parametrize("merged", [True, False])
def test_a_row_of_zeros_is_split_off(bias, activation, merged):
    constants = {"w": stacked_weight(), **({"b": weights(RNG, 8)} if bias else {})}
    nodes = [("Conv", ["x", *constants], ["p"], {"pads": [0, 0, 1, 1]})]
    nodes.append(("Clip", ["p", "low"], ["c"], {}) if activation else ("Identity", ["p"], ["c"], {}))
    if not activation:
        nodes = [("Conv", ["x", *constants], ["c"], {"pads": [0, 0, 1, 1]})]
    nodes.append(("ConvTranspose", ["c", "up"], ["y"], {"strides": [2, 1]}) if merged else SHUFFLE)
    model = graph(nodes, [3, 4, 4], constants | {"low": np.float32(-0.5), "up": weights(RNG, 8, 1, 3, 3)})
    split, (decision,) = apply(model, [split_phases])
    assert decision.why == "kernels 1x2 and 2x2, 25 % of the multiply-adds saved"
    branch = ["Conv", "Clip"] if activation else ["Conv"]
    assert operators(split) == [*branch, *branch, "Concat", nodes[-1][0]]
    assert_equal(model, split, weights(RNG, 2, 3, 4, 4))


def test_a_split_needs_a_saving():
    nodes = [("Conv", ["x", "w"], ["c"], {"pads": [0, 0, 1, 1]}), SHUFFLE]
    kept, (decision,) = apply(graph(nodes, [3, 4, 4], {"w": weights(RNG, 8, 3, 2, 2)}), [split_phases])
    assert not decision.applied
    assert "save 0 %" in decision.why
    assert operators(kept) == ["Conv", "DepthToSpace"]


@pytest.mark.parametrize(
    "attributes",
    [{"group": 2}, {"dilations": [2, 2], "pads": [1] * 4}, {"auto_pad": "SAME_LOWER"}, {"strides": [2, 1]}],
)
def test_what_is_not_plain_stays(attributes):
    weight = stacked_weight(inputs=4 // attributes.get("group", 1))
    nodes = [("Conv", ["x", "w"], ["c"], {"pads": [1] * 4, **attributes}), SHUFFLE]
    if "auto_pad" in attributes:
        del nodes[0][3]["pads"]
    _, (decision,) = apply(graph(nodes, [4, 5, 5], {"w": weight}), [split_phases])
    assert decision.why == "it is not a plain Conv with stride 1 and constant weights"


@pytest.mark.parametrize("computed", ["w", "b"])
def test_weights_that_are_not_constant_stay(computed):
    constants = {"w": stacked_weight(), "b": weights(RNG, 8)}
    shape = np.array(constants.pop(computed).shape)
    nodes = [("ConstantOfShape", ["k"], [computed], {}), ("Conv", ["x", "w", "b"], ["c"], {}), SHUFFLE]
    _, (decision,) = apply(graph(nodes, [3, 5, 5], constants | {"k": shape}), [split_phases])
    assert decision.why == "it is not a plain Conv with stride 1 and constant weights"


def test_channels_that_do_not_divide_stay():
    nodes = [("Conv", ["x", "w"], ["c"], {}), ("ConvTranspose", ["c", "up"], ["y"], {"strides": [2, 2]})]
    model = graph(nodes, [3, 5, 5], {"w": stacked_weight(5), "up": weights(RNG, 5, 1, 3, 3)})
    _, (decision,) = apply(model, [split_phases])
    assert decision.why == "its channels do not divide into 2 row phases"


@pytest.mark.parametrize(
    "reader",
    [
        ("DepthToSpace", ["c"], ["y"], {"blocksize": 2, "mode": "CRD"}),
        ("ConvTranspose", ["c", "up"], ["y"], {}),
        ("Relu", ["c"], ["y"], {}),
    ],
)
def test_a_reader_without_row_phases_is_no_concern(reader):
    nodes = [("Conv", ["x", "w"], ["c"], {"pads": [0, 0, 1, 1]}), reader]
    model = graph(nodes, [3, 4, 4], {"w": stacked_weight(), "up": weights(RNG, 8, 1, 3, 3)})
    assert apply(model, [split_phases])[1] == []


def test_zeros_are_trimmed_only_with_their_padding():
    weight = np.zeros((2, 3, 3, 3), np.float32)
    weight[:, :, 2, 1] = 1
    trimmed = trim(weight, (1, 0), (0, 1))
    # One row may go at the top, for one of padding stood before it; none on the left; one column on the right.
    assert trimmed.weight.shape == (2, 3, 2, 2)
    assert (trimmed.pads_begin, trimmed.pads_end) == ((0, 0), (0, 0))
    assert trim(np.zeros((2, 3, 2, 2), np.float32), (0, 0), (1, 1)).weight.shape == (2, 3, 1, 1)
    kept = trim(np.pad(np.ones((2, 3, 1, 1), np.float32), ((0, 0), (0, 0), (1, 1), (1, 1))), (0, 0), (0, 0))
    assert kept.weight.shape == (2, 3, 3, 3)
    assert (kept.pads_begin, kept.pads_end) == ((0, 0), (0, 0))
