"""Names win over guesses: what the second output of an encoder is called says in which form the spread is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from edgeae_export import OwnModel
from edgeae_export.modules.adapter import adapt
from edgeae_export.modules.names import meanings
from edgeae_runtime import InputError
from torch import Tensor, nn

from tests.export.nets import SIZE, decoder_net, encoder_net

IMAGES = np.random.default_rng(0).random((20, 1, SIZE, SIZE)).astype(np.float32)


class Variational(nn.Module):
    """Two heads; a forward that decodes the mean, which tells the mean but not the form of the spread."""

    heads = ("fc_mu", "fc_logsigma")

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features, self.decoder = encoder_net(32), decoder_net()
        for name in self.heads:
            setattr(self, name, self.head())

    def head(self):
        return nn.Linear(32, 6)

    def decode(self, z):
        return self.decoder(z)

    def forward(self, x):
        made = self.encode(x)
        return self.decode(next(iter(made.values())) if isinstance(made, dict) else made[0])


class WorldModels(Variational):
    def encode(self, x):
        h = self.features(x)
        return self.fc_mu(h), self.fc_logsigma(h)

    def log_variance(self, x):
        return 2 * self.fc_logsigma(self.features(x))


class Reversed(WorldModels):
    def encode(self, x):
        h = self.features(x)
        return self.fc_logsigma(h), self.fc_mu(h)

    def forward(self, x):
        return self.decode(self.encode(x)[1])


class Clamped(WorldModels):
    def encode(self, x):
        h = self.features(x)
        a, b = self.fc_mu(h), torch.clamp(self.fc_logsigma(h), -5, 2)
        return a, b


class Deep(WorldModels):
    """Heads of several layers."""

    def head(self):
        return nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 6))


class ByVariable(Variational):
    """One layer for both, cut in two: only the variables have names."""

    heads = ("fc",)

    def head(self):
        return nn.Linear(32, 12)

    def encode(self, x):
        mu, log_std = self.fc(self.features(x)).chunk(2, dim=1)
        return mu, log_std

    def log_variance(self, x):
        return 2 * self.fc(self.features(x))[:, 6:]


class ByLayer(ByVariable):
    """The same, but the layer has the name."""

    heads = ("mu_and_logsigma",)

    def encode(self, x):
        parts = torch.chunk(self.mu_and_logsigma(self.features(x)), 2, dim=1)
        return parts[0], parts[1]

    def log_variance(self, x):
        return 2 * self.mu_and_logsigma(self.features(x))[:, 6:]


class Interleaved(ByVariable):
    def encode(self, x):
        both = self.fc(self.features(x))
        mean, log_scale = both[:, ::2].contiguous(), both[:, 1::2].contiguous()
        return mean, log_scale

    def log_variance(self, x):
        return 2 * self.fc(self.features(x))[:, 1::2]


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features, self.a, self.b = encoder_net(32), nn.Linear(32, 6), nn.Linear(32, 6)

    def forward(self, x):
        h = self.features(x)
        m, logs = self.a(h), self.b(h)
        return m, logs


class Delegating(Variational):
    heads = ("net",)

    def head(self):
        return Inner()

    def encode(self, x):
        return self.net(x)

    def log_variance(self, x):
        return 2 * self.net(x)[1]


class Variance(Variational):
    heads = ("fc_mu", "fc2")

    def encode(self, x):
        h = self.features(x)
        mu, var = self.fc_mu(h), F.softplus(self.fc2(h))
        return mu, var

    def log_variance(self, x):
        return torch.log(F.softplus(self.fc2(self.features(x))))


class Deviation(Variational):
    heads = ("fc_mu", "fc_std")

    def head(self):
        return nn.Sequential(nn.Linear(32, 6), nn.Softplus())

    def encode(self, x):
        h = self.features(x)
        a = self.fc_std(h)
        return self.fc_mu(h), a

    def log_variance(self, x):
        return 2 * torch.log(self.fc_std(self.features(x)))


class SoCalledVariance(Variational):
    """PyTorch-VAE's way: a head `fc_var` that takes both signs, so it is the logarithm."""

    heads = ("fc_mu", "fc_var")

    def encode(self, x):
        h = self.features(x)
        return [self.fc_mu(h), self.fc_var(h)]

    def log_variance(self, x):
        return self.fc_var(self.features(x))


class Keyed(WorldModels):
    def encode(self, x):
        h = self.features(x)
        return {"mu": self.fc_mu(h), "logSigma": self.fc_logsigma(h)}


@dataclasses.dataclass
class Posterior:
    z_mean: Tensor
    variance: Tensor

    def __getitem__(self, index: int) -> Tensor:
        return self.z_mean


class Fields(Variance):
    def encode(self, x):
        h = self.features(x)
        return Posterior(self.fc_mu(h), F.softplus(self.fc2(h)))


KINDS = (
    WorldModels, Reversed, Clamped, Deep, ByVariable, ByLayer, Interleaved, Delegating, Variance, Deviation,
    SoCalledVariance, Keyed, Fields,
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_says_the_form_of_the_spread(kind):
    model, images = kind().eval(), torch.from_numpy(IMAGES)
    with torch.inference_mode():
        _, found = adapt(model, IMAGES).encoder(images)
        torch.testing.assert_close(found, model.log_variance(images), atol=1e-5, rtol=1e-4)


class Precision(Variational):
    heads = ("fc_mu", "fc_logprecision")

    def encode(self, x):
        h = self.features(x)
        return self.fc_mu(h), self.fc_logprecision(h)


class NegativeDeviation(Variational):
    heads = ("fc_mu", "fc_sigma")

    def encode(self, x):
        h = self.features(x)
        return self.fc_mu(h), self.fc_sigma(h)


class Computed(Variational):
    """Twice a log-sigma is a log-variance, but what is computed from a layer is not told by its name."""

    def encode(self, x):
        h = self.features(x)
        a, b = self.fc_mu(h), 2 * self.fc_logsigma(h)
        return a, b


class Contradiction(Variational):
    def encode(self, x):
        h = self.features(x)
        mu, log_var = self.fc_mu(h), self.fc_logsigma(h)
        return mu, log_var


class KeyedPrecision(Variational):
    def encode(self, x):
        h = self.features(x)
        return {"mean": self.fc_mu(h), "precision": self.fc_logsigma(h)}


@pytest.mark.parametrize("kind", [Precision, NegativeDeviation, Computed, Contradiction, KeyedPrecision])
def test_what_a_name_leaves_open_is_asked(kind):
    model = kind().eval()
    with pytest.raises(InputError, match=r"is a spread by .*--outputs mean,"):
        adapt(model, IMAGES)
    model_range = adapt(model, IMAGES, OwnModel(outputs=("mean", "log_std")))
    assert model_range.prior == "normal"
    assert adapt(model, IMAGES, OwnModel(outputs=("mean", "-"))).prior is None


class Nameless(Variational):
    heads = ("first", "second")

    def encode(self, x):
        h = self.features(x)
        return self.first(h), self.second(h)


def test_without_a_name_the_forward_tells_and_convention_says_log_variance():
    model, images = Nameless().eval(), torch.from_numpy(IMAGES)
    with torch.inference_mode():
        mean, log_variance = adapt(model, IMAGES).encoder(images)
        torch.testing.assert_close((mean, log_variance), model.encode(images))


class Sampling(Variational):
    """While the spread is one, a sample fits a log-variance, a log-sigma and neither's double alike."""

    def encode(self, x):
        h = self.features(x)
        mu, logsigma = self.fc_mu(h), 1e-3 * self.fc_logsigma(h)
        return mu + torch.randn_like(mu) * logsigma.exp(), mu, logsigma


def test_where_samples_fit_several_forms_the_name_decides():
    model, images = Sampling().eval(), torch.from_numpy(IMAGES)
    with torch.inference_mode():
        _, found = adapt(model, IMAGES).encoder(images)
        torch.testing.assert_close(found, 2 * model.encode(images)[2])


NAMES = {
    "log_variance": "logvar log_var z_log_var fcLogVar lnvar ln_var log_sigma_sq log_sigma_squared log_covariance",
    "log_std": "logsigma log_std fc_logsigma LogSD log_scale lnSigma log_std_dev logs logsigma_head.2",
    "std": "std sigma stddev std_dev deviation scale fc_std sd",
    "variance": "var variance fc_var sigma_sq sigma_squared cov",
    "unclear": "precision rho sigma2 log_sigma2 raw_std pre_sigma inv_var cholesky sigma_logvar",
    "": "h features.3 variational variable sigmoid device upscale scale_factor logits invariant first standard log",
    "mean": "mu mean fc_mu z_mean muHead loc",
}


@pytest.mark.parametrize("meaning", NAMES)
def test_names(meaning):
    for name in NAMES[meaning].split():
        assert meanings(name) == ({meaning} if meaning else set()), name
