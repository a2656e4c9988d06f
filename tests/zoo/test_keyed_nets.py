"""Models whose parts return their results under keys: what the exporter is to find in them is there."""

from functools import partial

import pytest
import torch

from benchmarks.zoo.keyed_nets import convolutional, dense, residual

MODELS = {
    "AE, dense": (partial(dense, False), (1, 28, 28), 10, 814_874),
    "VAE, dense": (partial(dense, True), (1, 28, 28), 10, 820_004),
    "VAE, convolutional": (convolutional, (1, 28, 28), 16, 17_232_033),
    "AE, residual": (residual, (3, 32, 32), 16, 850_963),
}
"""Each with its image, latent and number of parameters, as in the nets that the papers' comparison was made with."""


@pytest.mark.parametrize("name", MODELS)
def test_outputs_have_keys_attributes_and_places(name):
    make, shape, latent, parameters = MODELS[name]
    model = make().eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    image = torch.rand(3, *shape)
    with torch.inference_mode():
        found = model.encoder(image)
        decoded = model.decoder(found.embedding)
    assert list(found) == ["embedding", "log_covariance"][: 1 + ("VAE" in name)]
    assert all(value.shape == (3, latent) for value in found.values())
    assert found[0] is found["embedding"] is found.embedding
    assert list(decoded) == ["reconstruction"]
    assert decoded.reconstruction.shape == image.shape
    assert not hasattr(decoded, "embedding")


@pytest.mark.parametrize("name", MODELS)
def test_the_whole_model_takes_its_batch_under_a_key(name):
    make, shape, _, _ = MODELS[name]
    model, image = make().eval(), torch.rand(3, *shape)
    with torch.inference_mode():
        first, second = (model({"data": image}) for _ in range(2))
    assert list(first)[-3:] == ["loss", "recon_x", "z"]
    assert torch.equal(first.z, second.z) == ("VAE" not in name)  # a variational one draws
    losses = first.recon_loss + first.reg_loss if "VAE" in name else (first.recon_x - image).square().sum() / 3
    torch.testing.assert_close(first.loss, losses)
