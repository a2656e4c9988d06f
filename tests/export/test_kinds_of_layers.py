"""One small decoder for each kind of layer that torch has: exported in both precisions, and verified."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from edgeae_export import export
from edgeae_runtime import Autoencoder, verify
from torch import nn

from tests.export.nets import SIZE, encoder_net, torch_of


def layers(middle: nn.Module) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    decoder = nn.Sequential(
        nn.Linear(6, 256), nn.Unflatten(1, (16, 4, 4)), nn.Conv2d(16, 16, 3, padding=1), middle,
        nn.LazyConv2d(16, 3, padding=1), nn.ReLU(), nn.Upsample((SIZE, SIZE)),
        nn.Conv2d(16, 1, 3, padding=1), nn.Sigmoid(),
    )  # fmt: skip
    decoder(torch.zeros(1, 6))
    return encoder_net().eval(), decoder.eval()


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))

    def forward(self, x):
        return F.relu(x + self.body(x))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        return x + self.attention(tokens, tokens, tokens, need_weights=False)[0].transpose(1, 2).reshape(x.shape)


KINDS = {
    "BatchNorm": nn.BatchNorm2d(16),
    "LeakyReLU": nn.LeakyReLU(0.2),
    "ELU": nn.ELU(),
    "SiLU": nn.SiLU(),
    "GELU": nn.GELU(),
    "Tanh": nn.Tanh(),
    "GroupNorm": nn.GroupNorm(4, 16),
    "InstanceNorm": nn.InstanceNorm2d(16, affine=True),
    "bilinear": nn.Upsample(scale_factor=2, mode="bilinear"),
    "bilinear, corners": nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
    "nearest": nn.Upsample(scale_factor=2),
    "PixelShuffle": nn.PixelShuffle(2),
    "MaxPool": nn.MaxPool2d(2),
    "AvgPool": nn.AvgPool2d(3, 1, 1),
    "PReLU": nn.PReLU(16),
    "Hardswish": nn.Hardswish(),
    "Softplus": nn.Softplus(),
    "depthwise": nn.Conv2d(16, 16, 3, padding=1, groups=16),
    "dilated": nn.Conv2d(16, 16, 3, padding=2, dilation=2),
    "grouped transposed": nn.ConvTranspose2d(16, 16, 4, 2, 1, groups=4),
    "reflect": nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect"),
    "residual": Residual(),
    "attention": Attention(),
    "Dropout": nn.Dropout2d(0.5),
}


@pytest.mark.models
@pytest.mark.parametrize("name", KINDS)
def test_a_kind_of_layer(name, pictures, tmp_path):
    encoder, decoder = layers(KINDS[name])
    for quantize in ("none", "int8"):
        out = tmp_path / quantize
        export((encoder, decoder), out, calibration=pictures, quantize=quantize, target="x86-vnni")
        assert all(check.passed for check in verify(out))
    latents = np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32)
    expected = torch_of(decoder, latents).numpy()
    np.testing.assert_allclose(Autoencoder.load(tmp_path / "none").decode(latents), expected, atol=1e-4)
