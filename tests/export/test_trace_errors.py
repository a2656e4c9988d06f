"""Messages that tell the cause, without boilerplate."""

import pytest
import torch
from edgeae_export import export
from edgeae_export.graph.running import runner
from edgeae_export.graph.trace import trace
from edgeae_runtime import InputError
from torch import nn


class Decoder(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


def refusal(module, example):
    with pytest.raises(InputError) as caught:
        trace(module.eval(), example, "image", ["latent"])
    text = str(caught.value)
    assert "\x1b" not in text
    assert "Next steps" not in text
    assert "registry" not in text
    assert "/" not in text  # no paths, of this machine's or of ONNX Runtime's own source
    return text


def test_an_operator_without_onnx_form_is_named():
    text = refusal(nn.AdaptiveMaxPool2d(5), torch.rand(3, 1, 14, 14))
    assert "aten.adaptive_max_pool2d" in text
    assert "cannot trace AdaptiveMaxPool2d" in text


def test_a_branch_on_values_is_shown():
    class Branching(nn.Module):
        def forward(self, x):
            return x * 2 if x.sum() > 0 else x

    text = refusal(Branching(), torch.rand(3, 4))
    assert "depends on a value of its input (in forward, line" in text
    assert "x.sum() > 0" in text


def test_the_users_own_error_comes_through():
    class Raising(nn.Module):
        def forward(self, x):
            if torch.compiler.is_exporting():
                raise RuntimeError("not while exporting")
            return x

    assert "RuntimeError: not while exporting" in refusal(Raising(), torch.rand(3, 4))


def test_what_the_runtime_refuses_is_not_blamed_on_the_batch():
    layer = nn.ConvTranspose2d(4, 4, 2, 1, padding=0, dilation=2, output_padding=1)
    text = refusal(Decoder(layer), torch.rand(3, 4, 7, 7))
    assert "ONNX Runtime cannot run the graph" in text
    assert "ConvTranspose" in text
    assert "output_padding (1) may be too large" in text
    assert "reshape" not in text


@pytest.mark.parametrize("padding", [1, 3])
def test_an_output_padding_within_the_padding_is_written_otherwise(padding):
    layer = nn.ConvTranspose2d(4, 4, 2, 1, padding=padding, dilation=2, output_padding=1).eval()
    example = torch.rand(3, 4, 9, 9)
    graph = trace(layer, example, "latent", ["image"])
    torch.testing.assert_close(torch.from_numpy(runner(graph)(example.numpy())), layer(example), atol=1e-5, rtol=0)


def test_a_frozen_batch_is_still_told_as_such():
    class Frozen(nn.Module):
        def forward(self, x):
            return x.reshape(2, -1) * 2

    assert "reshape" in refusal(Frozen(), torch.zeros(3, 4, 4))


def test_a_half_goes_by_the_users_name(images, tmp_path):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.decoder = nn.Linear(25, 3), nn.Sequential(nn.Linear(3, 256), nn.Unflatten(1, (1, 16, 16)))

        def encode(self, x):
            return self.fc(nn.functional.adaptive_max_pool2d(x, 5).flatten(1))

        def decode(self, z):
            return self.decoder(z)

    with pytest.raises(InputError, match=r"cannot trace Model\.encode into one graph: it calls aten"):
        export(Model().eval(), tmp_path / "bundle", calibration=images)
