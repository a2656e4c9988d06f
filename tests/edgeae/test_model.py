"""The model is the one described, and refuses sizes it cannot have."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from edgeae_runtime.errors import InputError
from torch import nn

from edgeae import Autoencoder, AutoencoderConfig
from edgeae.model import ConvTranspose2d


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_default_model_has_the_published_number_of_parameters():
    model = Autoencoder()
    assert parameters(model.encoder) == 96_770
    assert parameters(model.decoder) == 246_273
    assert parameters(model) == 343_043


def test_layers_are_those_of_the_book():
    model = Autoencoder()
    encoder = [layer for layer in model.encoder.modules() if isinstance(layer, nn.Conv2d)]
    assert [(layer.in_channels, layer.out_channels, layer.stride) for layer in encoder] == [
        (1, 32, (2, 2)),
        (32, 64, (2, 2)),
        (64, 128, (2, 2)),
    ]
    decoder = [layer for layer in model.decoder.modules() if isinstance(layer, nn.ConvTranspose2d)]
    assert [(layer.in_channels, layer.out_channels, layer.output_padding) for layer in decoder] == [
        (128, 128, (1, 1)),
        (128, 64, (1, 1)),
        (64, 32, (1, 1)),
    ]


@pytest.mark.parametrize(
    "config",
    [
        AutoencoderConfig(),
        AutoencoderConfig(latent_dim=16, widths=(4, 8)),
        AutoencoderConfig(image_size=48, channels=3, widths=(4, 8, 8, 4)),
        AutoencoderConfig(image_size=2, widths=(3,)),
        AutoencoderConfig(image_size=(24, 40)),
        AutoencoderConfig(image_size=(4, 36), channels=3, widths=(3, 5)),
    ],
)
def test_shapes_and_ranges(config):
    model = Autoencoder(config).eval()
    images = torch.rand(5, *config.image_shape)
    latents = model.encoder(images)
    decoded = model.decoder(latents)
    assert latents.shape == (5, config.latent_dim)
    assert decoded.shape == images.shape
    assert decoded.min() >= 0
    assert decoded.max() <= 1
    torch.testing.assert_close(decoded, model.decoder.logits(latents).sigmoid())
    logits, divergence = model(images)
    torch.testing.assert_close(logits, model.decoder.logits(latents))
    assert (divergence == 0).all()


def test_any_point_of_the_plane_decodes():
    points = torch.tensor([[0.0, 0.0], [1e4, -1e4], [-3.5, 200.0]])
    assert Autoencoder().decoder(points).isfinite().all()


def test_initial_weights_are_he_uniform_with_the_taps_that_count():
    model = Autoencoder()
    convolution, transposed = model.encoder.convolutions[2], model.decoder.transposed_convolutions[0]
    for layer, fan_in in ((convolution, 32 * 9), (transposed, 128 * 9 / 4)):
        bound = math.sqrt(6 / fan_in)
        assert 0.99 * bound < layer.weight.abs().max() <= bound
        assert (layer.bias == 0).all()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"image_size": 28}, "multiple of 8"),
        ({"image_size": 0}, "image_size = 0"),
        ({"image_size": (100, 130)}, r"100x130.*multiple of 8.*96x128 and 104x136\."),
        ({"image_size": (96, 130)}, r"The nearest that fit: 96x128 and 96x136\."),
        ({"image_size": (3, 5)}, r"The nearest that fit: 8x8\."),
        ({"image_size": (32, 0)}, "image_size = 0"),
        ({"image_size": (32, 48, 64)}, r"image_size = \(32, 48, 64\)"),
        ({"image_size": [32, "48"]}, "image_size = '48'"),
        ({"image_size": [True, True]}, "image_size = True"),
        ({"channels": -1}, "channels = -1"),
        ({"latent_dim": 0}, "latent_dim = 0"),
        ({"latent_dim": True}, "latent_dim = True"),
        ({"latent_dim": 2.0}, "latent_dim = 2.0"),
        ({"widths": ()}, "0 widths"),
        ({"widths": (32, 0)}, "widths = 0"),
        ({"widths": (1 << 20,)}, "to 65536"),
    ],
)
def test_impossible_shapes_are_refused(fields, told):
    with pytest.raises(InputError, match=told):
        AutoencoderConfig(**fields)


def test_a_transposed_convolution_is_the_same_in_training():
    """Its bias is added apart then: outputs and gradients stay PyTorch's own."""
    torch.manual_seed(0)
    layer = ConvTranspose2d(6, 4, kernel_size=3, stride=2, padding=1, output_padding=1).double()
    nn.init.normal_(layer.bias)
    image = torch.randn(3, 6, 5, 5, dtype=torch.float64)
    outputs, gradients = [], []
    for training in (True, False):
        layer.train(training).zero_grad()
        output = layer(image)
        output.square().sum().backward()
        outputs.append(output.detach())
        gradients.append([parameter.grad.clone() for parameter in layer.parameters()])
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*gradients)


def test_public_names_are_there_and_torch_waits_until_it_is_needed():
    import edgeae

    for name in edgeae.__all__:
        assert getattr(edgeae, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = edgeae.nothing
    code = "import sys, edgeae.command.app; sys.exit('torch' in sys.modules or 'onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
