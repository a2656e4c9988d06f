"""Anybody's autoencoder: found, understood, exported and verified; or refused with what to do."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from edgeae_export import OwnModel, ValueRange, export
from edgeae_export.modules.adapter import adapt
from edgeae_runtime import Autoencoder, InputError, open_bundle, verify
from edgeae_runtime.bundle.preprocessing import Preprocessing
from torch import nn

from tests.export.nets import SIZE, Base, decoder_net, encoder_net, torch_of


class Output(NamedTuple):
    log_var: torch.Tensor
    mu: torch.Tensor


class Named(Base):
    def encode(self, x):
        mean, log_variance = self.heads(x)
        return Output(log_variance, mean)


class Keyed(Base):
    def encode(self, x):
        mean, log_variance = self.heads(x)
        return {"log_covariance": log_variance, "embedding": mean}


class Distribution(Base):
    def encode(self, x):
        mean, log_variance = self.heads(x)
        return torch.distributions.Normal(mean, torch.exp(log_variance / 2))


class Sampled(Base):
    """(z, mean, log-variance), where z is drawn anew on every call."""

    def encode(self, x):
        mean, log_variance = self.heads(x)
        return mean + torch.randn_like(mean) * torch.exp(log_variance / 2), mean, log_variance


class SampledReversed(Base):
    def encode(self, x):
        mean, log_variance = self.heads(x)
        return mean + torch.randn_like(mean) * torch.exp(log_variance / 2), log_variance, mean


class ByHead(nn.Module):
    """A tuple in the unusual order, told by the names of the heads."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features, self.fc_mu, self.fc_logvar, self.decoder = (
            encoder_net(32), nn.Linear(32, 6), nn.Linear(32, 6), decoder_net(),
        )  # fmt: skip

    def encode(self, x):
        h = self.features(x)
        return self.fc_logvar(h), self.fc_mu(h)

    def decode(self, z):
        return self.decoder(z)

    def heads(self, x):
        h = self.features(x)
        return self.fc_mu(h), self.fc_logvar(h)


class Ambiguous(Base):
    def encode(self, x):
        return self.heads(x)


@pytest.mark.parametrize("kind", [Named, Keyed, Distribution, Sampled, SampledReversed, ByHead])
def test_a_distribution_is_told_apart(kind, pictures, tmp_path):
    model = kind().eval()
    export(model, tmp_path / "bundle", held_out=pictures)
    ae = Autoencoder.load(tmp_path / "bundle")
    mean, log_variance = ae.encode_distribution(pictures[:5])
    expected = torch_of(model.heads, pictures[:5])
    np.testing.assert_allclose(mean, expected[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(log_variance, expected[1].numpy(), atol=1e-5)
    assert open_bundle(tmp_path / "bundle").manifest.latent.prior == "normal"
    assert all(check.passed for check in verify(tmp_path / "bundle"))


def test_an_ambiguous_pair_has_to_be_named(pictures, tmp_path):
    model = Ambiguous().eval()
    with pytest.raises(InputError, match=r"--outputs mean,log_variance"):
        export(model, tmp_path / "bundle", own_model=OwnModel(image_shape=(1, SIZE, SIZE)))
    export(model, tmp_path / "bundle", held_out=pictures, own_model=OwnModel(outputs=("mean", "log_variance")))
    mean, _ = Autoencoder.load(tmp_path / "bundle").encode_distribution(pictures[:2])
    np.testing.assert_allclose(mean, torch_of(model.heads, pictures[:2])[0].numpy(), atol=1e-5)
    export(model, tmp_path / "bundle", held_out=pictures, overwrite=True, own_model=OwnModel(outputs=("-", "latent")))
    assert open_bundle(tmp_path / "bundle").manifest.latent.prior is None
    with pytest.raises(InputError, match="expected one word for each"):
        export(model, tmp_path / "other", held_out=pictures, own_model=OwnModel(outputs=("mean",)))


class SecondAlone(Base):
    """A deviation, not a log-variance."""

    def encode(self, x):
        mean, log_variance = self.heads(x)
        return mean, torch.exp(log_variance / 2)


def test_a_deviation_becomes_a_log_variance(pictures, tmp_path):
    model = SecondAlone().eval()
    export(model, tmp_path / "bundle", held_out=pictures, own_model=OwnModel(outputs=("mean", "std")))
    _, log_variance = Autoencoder.load(tmp_path / "bundle").encode_distribution(pictures[:4])
    np.testing.assert_allclose(log_variance, torch_of(model.heads, pictures[:4])[1].numpy(), atol=1e-4)


class Halves(nn.Module):
    """Only the submodules; a latent that is a feature map."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 4, 3, 2, 1))
        self.decoder = nn.Sequential(
            nn.Conv2d(4, 8, 3, padding=1),
            nn.ReLU(),
            nn.Upsample(scale_factor=4),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 1, 3, padding=1),
            nn.Sigmoid(),
        )


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_a_latent_that_is_a_feature_map(pictures, tmp_path, quantize):
    model = Halves().eval()
    export(model, tmp_path / "bundle", calibration=pictures, quantize=quantize)
    manifest = open_bundle(tmp_path / "bundle").manifest
    assert manifest.latent.shape == (4, 4, 4)
    assert manifest.latent.dim == 64
    ae = Autoencoder.load(tmp_path / "bundle")
    latents = ae.encode(pictures[:3])
    assert latents.shape == (3, 4, 4, 4)
    assert ae.decode(latents[0]).shape == (1, SIZE, SIZE)
    assert ae.sample(2, seed=0).shape == (2, 1, SIZE, SIZE)
    assert ae.interpolate(pictures[0], latents[1], steps=4).shape == (4, 1, SIZE, SIZE)
    np.testing.assert_allclose(ae.interpolate(pictures[0], latents[1], steps=4)[3], ae.decode(latents[1]), atol=1e-6)
    assert all(check.passed for check in verify(tmp_path / "bundle"))


class Range(nn.Module):
    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = encoder_net(channels=3), decoder_net(channels=3, last=last)


@pytest.mark.parametrize(
    ("value_range", "last"),
    [
        (ValueRange.between(-1, 1), nn.Tanh()),
        (ValueRange.normalized((0.5, 0.4, 0.3), (0.2, 0.3, 0.1)), nn.Identity()),
    ],
)
def test_other_ranges_are_undone(pictures, tmp_path, value_range, last):
    model, images = Range(last).eval(), np.repeat(pictures, 3, axis=1)
    export(model, tmp_path / "bundle", held_out=images, own_model=OwnModel(value_range=value_range))
    ae = Autoencoder.load(tmp_path / "bundle")
    mean, std = (np.array(values, np.float32).reshape(1, -1, 1, 1) for values in (value_range.mean, value_range.std))
    expected = torch_of(model.encoder, (images[:3] - mean) / std)
    np.testing.assert_allclose(ae.encode(images[:3]), expected.numpy(), atol=1e-4)
    decoded = torch_of(model.decoder, expected.numpy()).numpy() * std + mean
    np.testing.assert_allclose(ae.decode(expected.numpy()), decoded, atol=1e-4)
    recorded = open_bundle(tmp_path / "bundle").manifest.document["preprocessing"]["model_range"]
    assert recorded["std"] == pytest.approx(list(value_range.std))


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_signals(tmp_path, quantize):
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Conv1d(2, 16, 5, 2, 2), nn.ELU(), nn.Conv1d(16, 16, 5, 2, 2), nn.Flatten(), nn.Linear(256, 8)
    )
    decoder = nn.Sequential(
        nn.Linear(8, 256), nn.Unflatten(1, (16, 16)), nn.ConvTranspose1d(16, 16, 4, 2, 1), nn.ELU(),
        nn.ConvTranspose1d(16, 2, 4, 2, 1),
    )  # fmt: skip
    signals = np.cumsum(np.random.default_rng(0).standard_normal((200, 2, 64)), axis=2).astype(np.float32)
    export((encoder.eval(), decoder.eval()), tmp_path / "bundle", calibration=signals, quantize=quantize)
    ae = Autoencoder.load(tmp_path / "bundle")
    assert ae.encode(signals[:3]).shape == (3, 8)
    assert ae.reconstruct(signals[0]).shape == (2, 64)
    assert all(check.passed for check in verify(tmp_path / "bundle"))
    with pytest.raises(InputError, match="finite"):
        ae.encode(np.full((2, 64), np.nan, np.float32))


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_rows_of_a_table(tmp_path, quantize):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(40, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 4)).eval()
    decoder = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 40)).eval()
    rows = np.random.default_rng(0).standard_normal((300, 40)).astype(np.float32) * 3
    export((encoder, decoder), tmp_path / "bundle", calibration=rows, quantize=quantize)
    ae = Autoencoder.load(tmp_path / "bundle")
    assert ae.encode(rows[0]).shape == (4,)
    assert ae.reconstruct(rows[:5]).shape == (5, 40)
    assert all(check.passed for check in verify(tmp_path / "bundle"))


class Conditioned(nn.Module):
    """The decoder wants a label too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.net, self.label = encoder_net(), decoder_net(), nn.Linear(2, 6)

    def decode(self, z, y, strength=1.0):
        return self.net(z + strength * self.label(y))


def test_further_arguments_are_bound(pictures, tmp_path):
    model, label = Conditioned().eval(), torch.tensor([[0.0, 1.0]])
    with pytest.raises(InputError, match="decoder_arguments"):
        export(model, tmp_path / "bundle", held_out=pictures)
    export(
        model,
        tmp_path / "bundle",
        held_out=pictures,
        own_model=OwnModel(decoder_arguments={"y": label, "strength": 2.0}),
    )
    latents = np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32)
    expected = torch_of(lambda z: model.decode(z, label, 2.0), latents)
    np.testing.assert_allclose(Autoencoder.load(tmp_path / "bundle").decode(latents), expected.numpy(), atol=1e-5)


class Unusual(Base):
    def to_code(self, x):
        return self.heads(x)[0]

    def to_picture(self, z):
        return {"reconstruction": self.decoder(z), "loss": torch.zeros(())}


def test_halves_by_name_and_by_method(pictures, tmp_path):
    model = Unusual().eval()
    export(model, tmp_path / "named", held_out=pictures, own_model=OwnModel(encoder="to_code", decoder="to_picture"))
    export(
        model,
        tmp_path / "bound",
        held_out=pictures,
        own_model=OwnModel(encoder=model.to_code, decoder=model.to_picture),
    )
    for name in ("named", "bound"):
        found = Autoencoder.load(tmp_path / name).encode(pictures[:2])
        np.testing.assert_allclose(found, torch_of(model.to_code, pictures[:2]).numpy(), atol=1e-5)
    with pytest.raises(InputError, match="attribute"):
        export(model, tmp_path / "none", held_out=pictures, own_model=OwnModel(encoder="nothing"))
    with pytest.raises(InputError, match="plain function"):
        export(model, tmp_path / "none", held_out=pictures, own_model=OwnModel(encoder=lambda x: x))
    with pytest.raises(InputError, match="has no encoder"):
        export(nn.Linear(2, 2), tmp_path / "none", held_out=pictures)


class Noisy(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.encoder, self.net, self.how = encoder_net(), decoder_net(), how

    def decode(self, z):
        if self.how == "randn":
            z = z + torch.randn_like(z)
        if self.how == "rand":
            z = z * torch.rand(1)
        if self.how == "dropout":
            z = F.dropout(z, 0.5)
        return self.net(z)


@pytest.mark.parametrize("how", ["randn", "rand", "dropout"])
def test_randomness_is_refused(how, tmp_path):
    with pytest.raises(InputError, match=r"random.*(mean|dropout)"):
        export(Noisy(how).eval(), tmp_path / "bundle", own_model=OwnModel(image_shape=(1, SIZE, SIZE)))
    assert not (tmp_path / "bundle").exists()


def test_training_mode_is_refused(tmp_path):
    encoder, decoder = encoder_net().eval(), nn.Sequential(decoder_net(), nn.Dropout(0.5))
    with pytest.raises(InputError, match=r"training mode.*eval\(\)"):
        export((encoder, decoder.train()), tmp_path / "bundle", own_model=OwnModel(image_shape=(1, SIZE, SIZE)))


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.net, self.count = encoder_net(), decoder_net(), None

    def decode(self, z):
        self.count = self.count or len(z)
        return self.net(z.reshape(self.count, 6))


def test_a_frozen_batch_is_refused(tmp_path):
    with pytest.raises(InputError, match="batch"):
        export(Frozen().eval(), tmp_path / "bundle", own_model=OwnModel(image_shape=(1, SIZE, SIZE)))


def test_shapes_that_do_not_fit(pictures, tmp_path):
    with pytest.raises(InputError, match="not known"):
        export(Halves().eval(), tmp_path / "bundle")
    with pytest.raises(InputError, match=r"gives images of shape \[1, 20, 20\]"):
        export(Halves().eval(), tmp_path / "bundle", own_model=OwnModel(image_shape=(1, 18, 18)))
    with pytest.raises(InputError, match=r"expected \[n, 1, 32, 32\]"):
        export(Halves().eval(), tmp_path / "bundle", held_out=pictures, own_model=OwnModel(image_shape=(1, 32, 32)))
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(4))
    with pytest.raises(InputError, match="lazy"):
        export((lazy, decoder_net(4)), tmp_path / "bundle", own_model=OwnModel(image_shape=(1, SIZE, SIZE)))


def test_half_precision_and_compiled_modules(pictures, tmp_path):
    model = Halves().eval()
    reference = Halves().eval()
    export(model.to(torch.bfloat16), tmp_path / "bundle", held_out=pictures)
    found = Autoencoder.load(tmp_path / "bundle").encode(pictures[:2])
    np.testing.assert_allclose(found, torch_of(reference.encoder, pictures[:2]).numpy(), atol=0.01)
    assert next(model.parameters()).dtype == torch.bfloat16, "the user's own module is left as it was"
    compiled = torch.compile(reference.encoder)
    export((compiled, reference.decoder), tmp_path / "compiled", held_out=pictures)


def test_oblong_pictures(tmp_path):
    torch.manual_seed(0)
    model = Halves().eval()
    images = np.random.default_rng(0).random((40, 1, 16, 24), dtype=np.float32)
    export(model, tmp_path / "bundle", calibration=images, quantize="int8")
    assert Autoencoder.load(tmp_path / "bundle").reconstruct(images[:2]).shape == (2, 1, 16, 24)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (nn.Sequential(), Preprocessing()),
        (Preprocessing((10, 10), (3, 3, 3, 3)), Preprocessing((10, 10), (3, 3, 3, 3))),
        ({"source_size": [10, 10], "pad": [3, 3, 3, 3], "scale": 0.5}, Preprocessing((10, 10), (3, 3, 3, 3), 0.5)),
    ],
)
def test_what_a_model_calls_preprocessing_is_taken_where_it_is_some(model, given, found):
    model.preprocessing = given
    assert adapt(model).preprocessing == found


def test_preprocessing_that_says_nothing_is_refused(model):
    model.preprocessing = {"resize": 32}
    with pytest.raises(InputError, match="lacks 'pad'"):
        adapt(model)
