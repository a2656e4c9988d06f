"""Channels scaled along residual streams and between layers: exact, and more even."""

import numpy as np
import pytest
import torch
from edgeae_export.graph.editing import opened
from edgeae_export.graph.trace import trace
from edgeae_export.int8.channel_classes import channel_classes
from edgeae_export.int8.equalize import equalizable, equalize
from torch import nn

from tests.export.graphs import FOLDED_TOLERANCE, assert_equal, graph, weights

RNG = np.random.default_rng(7)
SPREAD = np.logspace(-1, 1, 8).astype(np.float32)
SEVERAL_LAYERS = 50 * FOLDED_TOLERANCE
"""Each layer's weights are rounded to float32 anew."""


class Residual(nn.Module):
    """A stream of two blocks, pooled and resized, of channels of uneven size."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.first.weight.data *= torch.from_numpy(SPREAD)[:, None, None, None]
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.LeakyReLU(), nn.Conv2d(8, 8, 1)) for _ in range(2)
        )
        self.shift = nn.Parameter(torch.rand(1, 8, 1, 1))
        self.thin = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(8, 8, 2, 2, groups=2)

    def forward(self, x):
        h = torch.relu(self.first(x)) + self.shift
        for block in self.blocks:
            h = torch.relu(h + block(h))
            h = nn.functional.max_pool2d(h, 2)
        h = torch.relu(self.thin(nn.functional.interpolate(h, scale_factor=2)))
        return self.last(torch.relu(self.up(h)))


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_a_residual_stream_is_one_class_and_scales_exactly(strength):
    x = RNG.random((9, 3, 16, 16)).astype(np.float32)
    model = trace(Residual().eval(), torch.from_numpy(x[:3]), "x", ["y"])
    classes = channel_classes(opened(model).graph)
    stream = max(classes, key=lambda each: len(each.values))
    assert (len(stream.writers), len(stream.readers), len(stream.shifts)) == (3, 3, 1)
    even = equalize(model, x, strength)
    assert even is not model
    assert_equal(model, even, x, float64=False)  # ONNX's reference has no grouped ConvTranspose


@pytest.mark.parametrize("op", ["Sigmoid", "Softmax", "Exp"])
def test_a_stream_that_something_else_reads_is_left_alone(op):
    nodes = [
        ("Conv", ["x", "w"], ["h"], {"pads": [1] * 4}),
        ("Relu", ["h"], ["r"], {}),
        ("Conv", ["r", "v"], ["b"], {"pads": [1] * 4}),
        (op, ["r"], ["gate"], {}),
        ("Mul", ["b", "gate"], ["y"], {}),
    ]
    model = graph(nodes, [4, 6, 6], {"w": weights(RNG, 8, 4, 3, 3), "v": weights(RNG, 8, 8, 3, 3)})
    assert not equalizable(model)
    assert equalize(model, weights(RNG, 5, 4, 6, 6), 1.0) is model


def test_rows_that_are_not_the_batch_are_left_alone():
    nodes = [
        ("Reshape", ["x", "rows"], ["flat"], {}),
        ("Gemm", ["flat", "w"], ["h"], {}),
        ("Relu", ["h"], ["r"], {}),
        ("Reshape", ["r", "map"], ["m"], {}),
        ("Conv", ["m", "v"], ["y"], {}),
    ]
    constants = {"rows": np.array([-1, 5]), "w": weights(RNG, 5, 16), "map": np.array([-1, 8, 4, 4]),
                 "v": weights(RNG, 4, 8, 3, 3)}  # fmt: skip
    model = graph(nodes, [8, 5], constants)
    x = weights(RNG, 3, 8, 5)
    assert_equal(model, equalize(model, x, 1.0), x, tolerance=SEVERAL_LAYERS)
