"""Architectures of other people: export, int8, verify."""

import numpy as np
import pytest
import torch
from edgeae_export import export
from edgeae_runtime import Autoencoder, open_bundle, verify

from benchmarks.zoo.architectures import OTHER_MODELS, build, pictures, tensor


@pytest.mark.models
@pytest.mark.parametrize("other", OTHER_MODELS, ids=lambda each: each.name)
def test_it_exports_and_verifies(other, tmp_path):
    model, inputs = build(other, steps=10), pictures(other.shape)
    common = {"calibration": inputs, "value_range": other.value_range, "target": "x86-vnni", **other.options}
    for quantize in ("none", "int8"):
        export(model, tmp_path / quantize, quantize=quantize, **common)
        assert all(check.passed for check in verify(tmp_path / quantize)), quantize
    ae = Autoencoder.load(tmp_path / "none")
    given = torch.from_numpy(inputs[:3])
    with torch.inference_mode():
        shown = other.value_range.to_model(given) if other.value_range else given
        latents = tensor((model.encode if hasattr(model, "encode") else model.encoder)(shown))
        decoded = tensor((model.decode if hasattr(model, "decode") else model.decoder)(latents))
    decoded = other.value_range.from_model(decoded) if other.value_range else decoded
    np.testing.assert_allclose(ae.encode(inputs[:3]), latents.numpy(), atol=2e-4)
    np.testing.assert_allclose(ae.reconstruct(inputs[:3]), decoded.numpy(), atol=2e-4)
    variational = "VAE" in other.name or "KL" in other.name
    assert (open_bundle(tmp_path / "none").manifest.latent.prior == "normal") == variational
    layers = [layer for part in open_bundle(tmp_path / "int8").manifest.parts.values() for layer in part.layers]
    assert any(layer.precision == "int8" for layer in layers)
