"""Where the halves leave out what the model's own forward does, another pair is taken or the user is told."""

import re

import numpy as np
import pytest
import torch
from edgeae_export.adapters import adapt
from edgeae_runtime import InputError
from torch import nn

from tests.export.test_adapters import SIZE, Base, decoder_net, encoder_net

RNG = np.random.default_rng(0)
IMAGES = RNG.random((20, 1, SIZE, SIZE)).astype(np.float32)


class Whole(nn.Module):
    """Encoder, something between, decoder, something behind."""

    def __init__(self, between: nn.Module | None = None, behind: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = encoder_net(), decoder_net(last=nn.Identity())
        self.between, self.behind = between or nn.Identity(), behind or nn.Identity()

    def forward(self, x):
        return self.behind(self.decoder(self.between(self.encoder(x))))


def decoded(adapted):
    with torch.inference_mode():
        latents = adapted.encoder(torch.from_numpy(IMAGES))
        return adapted.decoder(latents[0] if isinstance(latents, tuple) else latents)


def test_a_forward_that_agrees_is_taken():
    assert adapt(Whole().eval(), IMAGES).notices == ()


def test_a_layer_between_the_halves_is_told():
    (notice,) = adapt(Whole(between=nn.Linear(6, 6)).eval(), IMAGES).notices
    assert re.search(r"other images than its own forward.*a layer between.*--encoder", notice)


def test_a_sigmoid_behind_the_decoder_is_told():
    (notice,) = adapt(Whole(behind=nn.Sigmoid()).eval(), IMAGES).notices
    assert "forward ends with a sigmoid that the decoder leaves out" in notice


def test_halves_that_are_named_are_taken_as_they_are():
    model = Whole(between=nn.Linear(6, 6)).eval()
    (notice,) = adapt(model, IMAGES, encoder="encoder", decoder="decoder").notices  # told, and taken all the same
    assert "other images than its own forward" in notice
    whole = nn.Sequential(model.encoder, model.between)
    torch.testing.assert_close(decoded(adapt((whole, model.decoder), IMAGES)), model(torch.from_numpy(IMAGES)))


class LogitsOut(Whole):
    """Trained with a loss on logits: the decoder ends with a sigmoid, forward does not."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder.append(nn.Sigmoid())

    def forward(self, x):
        return self.decoder[:-1](self.encoder(x))


def test_a_forward_that_gives_logits_agrees():
    adapted = adapt(LogitsOut().eval(), IMAGES)
    assert adapted.notices == ()
    assert float(decoded(adapted).max()) <= 1


class OtherMethods(Base):
    """`encode` and `decode` are parts of the halves; the whole ones have longer names."""

    def encode(self, x):
        return self.features(x)

    def encode_forward(self, x):
        return self.heads(x)

    def decode(self, z):
        return self.decoder(z[:, :6])

    def decode_forward(self, z):
        return self.decoder(2 * z)

    def forward(self, x):
        mean, log_variance = self.encode_forward(x)
        z = mean + torch.randn_like(mean) * torch.exp(log_variance / 2) if self.training else mean
        return self.decode_forward(z), mean, log_variance


def test_the_pair_that_agrees_with_forward_is_found_and_so_is_the_mean():
    model = OtherMethods().eval()
    adapted = adapt(model, IMAGES)
    assert adapted.notices == ()
    images = torch.from_numpy(IMAGES)
    for found, expected in zip(adapted.encoder(images), model.heads(images), strict=True):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(decoded(adapted), model(images)[0])


class Deviations(Base):
    """(sample, mean, deviation): told by the samples themselves."""

    def encode(self, x):
        mean, log_variance = self.heads(x)
        deviation = torch.exp(log_variance / 2)
        return mean + torch.randn_like(mean) * deviation, mean, deviation


class LogDeviations(Base):
    def encode(self, x):
        mean, log_variance = self.heads(x)
        return mean + torch.randn_like(mean) * torch.exp(log_variance / 2), log_variance / 2, mean


@pytest.mark.parametrize("model", [Deviations, LogDeviations])
def test_samples_tell_the_form_of_the_spread(model):
    model = model().eval()
    images = torch.from_numpy(IMAGES)
    for found, expected in zip(adapt(model, IMAGES).encoder(images), model.heads(images), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


class PositiveSecond(Base):
    """The second output may be a deviation or a variance: both are positive, and nothing tells them apart."""

    def encode(self, x):
        mean, log_variance = self.heads(x)
        return mean, torch.exp(log_variance)

    def forward(self, x):
        return self.decode(self.encode(x)[0])


def test_a_spread_that_is_positive_everywhere_has_to_be_named():
    with pytest.raises(InputError, match="--outputs mean,log_variance"):
        adapt(PositiveSecond().eval(), IMAGES)
    adapt(PositiveSecond().eval(), IMAGES, outputs=("mean", "std"))


def test_weights_that_are_computed_on_every_call_are_exported():
    model = Whole()
    torch.nn.utils.weight_norm(
        model.encoder[0]
    )  # the old form, which keeps a tensor with a gradient beside the weights
    adapted = adapt(model.eval(), IMAGES)
    torch.testing.assert_close(decoded(adapted), model(torch.from_numpy(IMAGES)).detach())
