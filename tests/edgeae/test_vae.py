"""The variational autoencoder: its loss, its noise, and what of it reaches the bundle."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from edgeae_export import export
from edgeae_runtime import Autoencoder, InputError, open_bundle, verify

from edgeae import Autoencoder as Model
from edgeae import AutoencoderConfig, TrainingConfig, load_checkpoint, train
from edgeae.data import prepare
from edgeae.model import kl_divergence


@pytest.fixture(scope="module")
def variational() -> AutoencoderConfig:
    return AutoencoderConfig(widths=(4, 8), latent_dim=3, kind="vae")


@pytest.fixture(scope="module")
def trained_vae(tmp_path_factory, small_set, variational, small_training):
    return train(small_set, tmp_path_factory.mktemp("vae") / "checkpoint", variational, small_training)


@pytest.fixture(scope="module", params=["none", "int8"])
def bundle(request, tmp_path_factory, trained_vae, small_set):
    out = tmp_path_factory.mktemp("vae-bundle") / request.param
    train_images, test_images = (prepare(part, 32) for part in (small_set.train_images, small_set.test_images))
    export(trained_vae, out, quantize=request.param, calibration=train_images, held_out=test_images)
    return out


def test_the_divergence_is_that_of_the_distributions():
    mean, log_variance = torch.randn(7, 3), torch.randn(7, 3)
    posterior = torch.distributions.Normal(mean, torch.exp(log_variance / 2))
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(kl_divergence(mean, log_variance), expected)


def test_a_sample_lies_around_the_mean_as_the_variance_says(variational):
    model, image = Model(variational).eval(), torch.rand(1, 1, 32, 32).expand(4000, -1, -1, -1)
    seen = []
    model.decoder.logits = lambda latent: seen.append(latent) or latent
    with torch.inference_mode():
        model(image, torch.randn(4000, 3))
        mean, log_variance = model.encoder(image[:1])
    torch.testing.assert_close(seen[0].mean(0), mean[0], atol=0.1, rtol=0.1)
    torch.testing.assert_close(seen[0].std(0), torch.exp(log_variance[0] / 2), atol=0.1, rtol=0.1)


def test_training_reports_both_terms_and_keeps_them(trained_vae, small_set):
    again = load_checkpoint(trained_vae.path)
    assert again.history == trained_vae.history
    assert again.prior == "normal"
    assert again.config.kind == "vae"
    last = again.history[-1]
    images = torch.from_numpy(prepare(small_set.test_images, 32).astype(np.float32) / 255)
    with torch.inference_mode():
        mean, log_variance = again.encoder(images)
    assert last.validation_kl == pytest.approx(kl_divergence(mean, log_variance).mean().item(), rel=1e-5)
    assert last.train_kl > 0
    assert last.validation_total == pytest.approx(500 * last.validation_loss + last.validation_kl)
    assert "validation_kl" in json.loads((trained_vae.path / "metrics.json").read_text())["history"][-1]


def test_the_divergence_falls_with_beta(tmp_path, small_set, variational, small_training):
    found = []
    for beta in (0.0, 100.0):
        settings = dataclasses.replace(small_training, beta=beta, learning_rate=5e-3, epochs=3)
        found.append(train(small_set, tmp_path / str(beta), variational, settings).history[-1].validation_kl)
    assert found[1] < 0.2 * found[0]


def test_a_warm_up_starts_without_the_divergence(tmp_path, small_set, variational, small_training):
    settings = dataclasses.replace(small_training, beta=100.0, learning_rate=5e-3, epochs=1)
    at_once = train(small_set, tmp_path / "a", variational, settings)
    warm = train(small_set, tmp_path / "b", variational, dataclasses.replace(settings, kl_warmup=10.0))
    assert warm.history[-1].validation_kl > 2 * at_once.history[-1].validation_kl


def test_the_noise_repeats_and_a_resumed_run_is_the_same(tmp_path, trained_vae, small_set, variational, small_training):
    first = dataclasses.replace(small_training, epochs=1)
    train(small_set, tmp_path, variational, first)
    # Two epochs in one go follow another schedule than one and one: compare runs of the same schedule.
    resumed = train(small_set, tmp_path, variational, small_training, resume=True)
    assert [r.epoch for r in resumed.history] == [1, 2]
    again = train(small_set, tmp_path / "again", variational, small_training)
    pairs = zip(again.model.parameters(), trained_vae.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_checkpoint_from_before_is_a_plain_autoencoder(checkpoint):
    path = checkpoint.path / "checkpoint.json"
    document = json.loads(path.read_text())
    del document["config"]["kind"], document["training"]["beta"], document["training"]["kl_warmup"]
    for record in document["history"]:
        del record["train_kl"], record["validation_kl"]
    path.write_text(json.dumps(document))
    loaded = load_checkpoint(checkpoint.path)
    assert loaded.config.kind == "ae"
    assert loaded.prior is None
    assert loaded.history == checkpoint.history


@pytest.mark.parametrize("settings", [{"beta": -1.0}, {"kl_warmup": float("nan")}, {"beta": True}])
def test_settings_that_make_no_sense(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        TrainingConfig(**settings)
    with pytest.raises(InputError, match="kind"):
        AutoencoderConfig(kind="gan")


def test_the_bundle_gives_the_distribution(bundle, trained_vae, small_set):
    assert all(check.passed for check in verify(bundle))
    assert any("log-variance" in check.what for check in verify(bundle))
    manifest = open_bundle(bundle).manifest
    assert [spec.name for spec in manifest.parts["encoder"].outputs] == ["latent", "log_variance"]
    assert manifest.latent.prior == "normal"
    ae = Autoencoder.load(bundle)
    images = prepare(small_set.test_images, 32)[:9]
    with torch.inference_mode():
        expected = trained_vae.encoder(torch.from_numpy(images.astype(np.float32) / 255))
    found = ae.encode_distribution(images)
    for mine, theirs in zip(found, expected, strict=True):
        tolerance = 1e-4 if bundle.name == "none" else 0.1 * float(np.ptp(theirs.numpy()))
        np.testing.assert_allclose(mine, theirs.numpy(), atol=tolerance)
    np.testing.assert_array_equal(ae.encode(images), found[0])
    single = ae.encode_distribution(images[0])
    assert [part.shape for part in single] == [(3,), (3,)]


def test_the_runtime_samples_with_a_seed(bundle, small_set):
    ae = Autoencoder.load(bundle)
    image = prepare(small_set.test_images, 32)[:1]
    many = np.repeat(image, 3000, axis=0)
    drawn = ae.encode_sample(many, seed=4)
    np.testing.assert_array_equal(drawn, ae.encode_sample(many, seed=4))
    mean, log_variance = ae.encode_distribution(image)
    np.testing.assert_allclose(drawn.mean(0), mean[0], atol=0.1 * np.exp(log_variance[0] / 2).max())
    np.testing.assert_allclose(drawn.std(0), np.exp(log_variance[0] / 2), rtol=0.1)
    prior = ae.sample_latents(5000, seed=0)
    assert prior.dtype == np.float32
    assert np.abs(prior.mean(0)).max() < 0.06
    assert np.abs(prior.std(0) - 1).max() < 0.06
    assert ae.sample(3, seed=1).shape == (3, 1, 32, 32)


def test_a_plain_encoder_has_no_distribution(tmp_path, trained):
    export(trained, tmp_path / "bundle")
    ae = Autoencoder.load(tmp_path / "bundle")
    with pytest.raises(InputError, match="not variational"):
        ae.encode_distribution(np.zeros((1, 32, 32), np.uint8))


def test_no_graph_draws_numbers(bundle):
    for part in ("encoder", "decoder"):
        operators = open_bundle(bundle).manifest.document["parts"][part]["operators"]
        assert not [name for name in operators if name.startswith(("Random", "Bernoulli", "Multinomial"))]
