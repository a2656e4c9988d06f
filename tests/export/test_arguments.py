"""Further arguments of the halves: whole numbers, strings, labels and sizes reach the user's code as it wants them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from edgeae_export import OwnModel
from edgeae_export.modules.adapter import adapt
from edgeae_runtime import InputError
from torch import nn

from tests.export.nets import SIZE, decoder_net, encoder_net

IMAGES = np.random.default_rng(0).random((20, 1, SIZE, SIZE)).astype(np.float32)


class Wanting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.net = encoder_net(), decoder_net()
        self.label, self.classes = nn.Linear(2, 6), nn.Embedding(10, 6)


class Size(Wanting):
    def decode(self, z, image_size, mode="bilinear"):
        return nn.functional.interpolate(self.net(z), size=image_size, mode=mode)


class OneHot(Wanting):
    def decode(self, z, y):
        return self.net(z + self.label(y))


class Class(Wanting):
    def decode(self, z, y):
        return self.net(torch.cat([z[:, :3], self.classes(y)[:, :3]], 1))


class Both(Wanting):
    def encode(self, x, y):
        return self.encoder(x) + self.classes(y)

    def decode(self, z, y):
        return self.net(z - self.classes(y))

    def forward(self, x, y):
        return self.decode(self.encode(x, y), y)


ONE = torch.tensor([3])


@pytest.mark.parametrize(
    ("kind", "given", "meant"),
    [
        (Size, {"image_size": [SIZE, SIZE], "mode": "nearest"}, {"image_size": (SIZE, SIZE), "mode": "nearest"}),
        (Size, {"image_size": (SIZE, SIZE)}, {"image_size": (SIZE, SIZE)}),
        (OneHot, {"y": [0, 1]}, {"y": torch.tensor([0.0, 1.0])}),
        (OneHot, {"y": [[0, 1]]}, {"y": torch.tensor([[0.0, 1.0]])}),
        (Class, {"y": [3]}, {"y": ONE.expand(5)}),
        (Class, {"y": ONE}, {"y": ONE.expand(5)}),
    ],
)
def test_a_value_is_bound_as_the_half_takes_it(kind, given, meant):
    model, latents = kind().eval(), torch.randn(5, 6)
    adapted = adapt(model, IMAGES, OwnModel(decoder_arguments=given))
    with torch.no_grad():
        torch.testing.assert_close(adapted.decoder(latents), model.decode(latents, **meant))


def test_both_halves_and_forward_get_theirs():
    model, images = Both().eval(), torch.from_numpy(IMAGES)
    adapted = adapt(model, IMAGES, OwnModel(encoder_arguments={"y": [3]}, decoder_arguments={"y": [3]}))
    assert adapted.notices == ()
    with torch.no_grad():
        torch.testing.assert_close(adapted.encoder(images), model.encode(images, ONE.expand(len(images))))


def test_a_value_that_fits_no_reading_is_refused():
    with pytest.raises(InputError, match=r"The decoder fails.*--decoder-argument NAME="):
        adapt(Size().eval(), IMAGES, OwnModel(decoder_arguments={"image_size": "large"}))
