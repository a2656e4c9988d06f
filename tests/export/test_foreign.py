"""Architectures from other people's packages: export, int8, verify."""

import numpy as np
import pytest
import torch
from edgeae_export import OwnModel, export
from edgeae_runtime import Autoencoder, open_bundle, verify

from benchmarks.zoo.architectures import FOREIGN, build, pictures, tensor


@pytest.mark.models
@pytest.mark.parametrize("foreign", FOREIGN, ids=lambda each: each.name)
def test_it_exports_and_verifies(foreign, tmp_path):
    model, inputs = build(foreign, steps=10), pictures(foreign.shape)
    common = {"calibration": inputs, "target": "x86-vnni"}
    common["own_model"] = OwnModel(value_range=foreign.value_range, **foreign.options)
    for quantize in ("none", "int8"):
        export(model, tmp_path / quantize, quantize=quantize, **common)
        assert all(check.passed for check in verify(tmp_path / quantize)), quantize
    ae = Autoencoder.load(tmp_path / "none")
    given = torch.from_numpy(inputs[:3])
    with torch.inference_mode():
        shown = foreign.value_range.to_model(given) if foreign.value_range else given
        latents = tensor((model.encode if hasattr(model, "encode") else model.encoder)(shown))
        decoded = tensor((model.decode if hasattr(model, "decode") else model.decoder)(latents))
    decoded = foreign.value_range.from_model(decoded) if foreign.value_range else decoded
    np.testing.assert_allclose(ae.encode(inputs[:3]), latents.numpy(), atol=2e-4)
    np.testing.assert_allclose(ae.reconstruct(inputs[:3]), decoded.numpy(), atol=2e-4)
    variational = "VAE" in foreign.name or "KL" in foreign.name
    assert (open_bundle(tmp_path / "none").manifest.latent.prior == "normal") == variational
    layers = [layer for part in open_bundle(tmp_path / "int8").manifest.parts.values() for layer in part.layers]
    assert any(layer.precision == "int8" for layer in layers)
