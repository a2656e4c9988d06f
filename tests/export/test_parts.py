"""Where the parts leave out what the model's own forward does, another pair is taken or the user is told."""

import re

import numpy as np
import pytest
import torch
from edgeae_export import OwnModel
from edgeae_export.modules.adapter import adapt
from edgeae_runtime import InputError
from torch import nn

from tests.export.nets import SIZE, Base, decoder_net, encoder_net

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
    (notice,) = adapt(
        model, IMAGES, OwnModel(encoder="encoder", decoder="decoder")
    ).notices  # told, and taken all the same
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
    adapt(PositiveSecond().eval(), IMAGES, OwnModel(outputs=("mean", "std")))


def test_weights_that_are_computed_on_every_call_are_exported():
    model = Whole()
    torch.nn.utils.weight_norm(
        model.encoder[0]
    )  # the old form, which keeps a tensor with a gradient beside the weights
    adapted = adapt(model.eval(), IMAGES)
    torch.testing.assert_close(decoded(adapted), model(torch.from_numpy(IMAGES)).detach())


class Codec(Whole):
    """An audio codec's way: `encode` gives codes, the halves themselves are submodules."""

    def encode(self, x):
        return [(10 * self.encoder(x)).long()]

    def decode(self, codes):
        return self.decoder(codes[0].float() / 10)

    def forward(self, x):
        return self.decode(self.encode(x))


def test_where_codes_cannot_be_exported_the_submodules_are_taken_and_told():
    first, second = adapt(Codec().eval(), IMAGES).notices
    assert re.search(r"Took encoder with decoder.*encode with decode came first.*whole numbers.*codes", first)
    assert "other images than its own forward" in second


class EatsABatch(Whole):
    """A pair that the user can mend is not passed over for one that skips half of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def encode(self, x):
        return self.fc(self.encoder(x).unsqueeze(2).squeeze())

    def decode(self, z):
        return self.decoder(z)

    def forward(self, x):
        return self.decode(self.encode(x))


def test_a_pair_that_can_be_mended_is_refused_with_its_own_reason():
    with pytest.raises(InputError, match=r"for a batch of 1.*This is of encode with decode; encode with decoder was"):
        adapt(EatsABatch().eval(), IMAGES)


@pytest.mark.parametrize(
    "names", [("encode_forward", "decode_forward"), ("enc", "dec"), ("E", "G"), ("net_enc", "net_dec"), ("g_a", "g_s")]
)
def test_other_spellings(names):
    whole = Whole().eval()
    model = nn.Module()
    for name, half in zip(names, (whole.encoder, whole.decoder), strict=True):
        model.add_module(name, half)
    torch.testing.assert_close(decoded(adapt(model.eval(), IMAGES)), whole(torch.from_numpy(IMAGES)))


def test_halves_further_inside_are_named_in_the_refusal():
    outer = nn.Module()
    outer.add_module("model", Whole())
    with pytest.raises(InputError, match=r"Inside it there is model\.encoder.*--encoder model\.encoder"):
        adapt(outer.eval(), IMAGES)
    adapt(outer.eval(), IMAGES, OwnModel(encoder="model.encoder", decoder="model.decoder"))


def test_no_arguments_are_no_reason_not_to_compare():
    """The command line gives an empty mapping where there are none."""
    (notice,) = adapt(
        Whole(between=nn.Linear(6, 6)).eval(), IMAGES, OwnModel(decoder_arguments={}, encoder_arguments={})
    ).notices
    assert "other images than its own forward" in notice


class Exchange(nn.Module):
    """Halves that exchange more than one float tensor, as many do."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.a, self.b = nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)
        self.c, self.d = nn.ConvTranspose2d(4, 4, 2, 2), nn.ConvTranspose2d(4, 1, 2, 2)


class Skips(Exchange):
    def encode(self, x):
        s = self.a(x)
        return self.b(s), [s]

    def decode(self, z, skips):
        return self.d(self.c(z) + skips[0])


class AllAtOnce(Skips):
    def encode(self, x):
        s = self.a(x)
        return [self.b(s), s]

    def decode(self, maps):
        return self.d(self.c(maps[0]) + maps[1])


class TwoLatents(Skips):
    def encode(self, x):
        top = self.a(x)
        return top, self.b(top)

    def decode(self, bottom, top):
        return self.d(self.c(top) + bottom)


class Places(Exchange):
    def encode(self, x):
        return nn.functional.max_pool2d(self.a(x), 2, return_indices=True)

    def decode(self, z, places):
        return self.d(nn.functional.max_unpool2d(z, places, 2))


class Codes(Exchange):
    def encode(self, x):
        return self.b(self.a(x)).argmax(1)

    def decode(self, codes):
        return self.d(self.c(nn.functional.one_hot(codes, 4).permute(0, 3, 1, 2).float()))


class Labels(Exchange):
    def encode(self, x, y):
        return self.b(self.a(x)) + y

    def decode(self, z, y):
        return self.d(self.c(z + y))


class DecoderLabels(Labels):
    def encode(self, x):
        return self.b(self.a(x))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Skips, r"gives maps, such as skips.*takes skips besides.*cannot carry them.*torch\.cat"),
        (AllAtOnce, r"gives several tensors .*takes them all at once.*cannot carry them.*torch\.cat"),
        (TwoLatents, r"gives maps, such as skips or two latents.*takes top besides"),
        (Places, r"gives whole numbers, such as the places of a pooling.*takes places besides"),
        (Codes, r"gives whole numbers \(int64 \[4, 4\]\), such as the codes"),
        (Labels, r"The encoder Labels\.encode takes y besides the image.*--encoder-argument y=.*cannot be exported"),
        (DecoderLabels, r"The decoder DecoderLabels\.decode takes y besides the latent.*--decoder-argument y="),
    ],
)
def test_what_one_tensor_cannot_carry_is_said(kind, words):
    with pytest.raises(InputError, match=words):
        adapt(kind("").eval(), IMAGES)


class GivesBack(OtherMethods):
    """A sampled reconstruction, the images themselves, the mean and the log-variance: nothing to compare with."""

    def decode(self, z):
        return self.decoder(z)

    def encode(self, x):
        mu, log_var = self.heads(x)
        return [mu, log_var]

    def forward(self, x):
        mu, log_var = self.encode(x)
        return [self.decode(mu + torch.randn_like(mu)), x, mu, log_var]


def test_the_images_that_forward_gives_back_are_no_reconstruction():
    assert adapt(GivesBack().eval(), IMAGES).notices == ()
