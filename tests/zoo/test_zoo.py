"""Other people's trained models: they work, and every form of them that is exported does too."""

import os

import numpy as np
import pytest
import torch
from edgeae_export import export
from edgeae_export.arrays import in_large_batches
from edgeae_export.graph.executed import executed_layers
from edgeae_export.graph.running import runner
from edgeae_export.modules.running import torch_runner
from edgeae_runtime import verify
from edgeae_runtime.parity import mse, psnr

from benchmarks.peers.models import static_int8
from benchmarks.zoo import weights
from benchmarks.zoo.weights import ZOO, ZooMissingError, load

pytestmark = pytest.mark.models

MOST_OF_MEAN_ERROR = 0.95
"""What a model's error may be of the mean input's, if it is to have learnt anything: between 0.02 (taef2, whose inputs
differ most) and 0.93 (ToyCar, whose rows are noise around one spectrum) were measured in torch."""
VAE_PSNR_DB = {True: 44.0, False: 40.0}
"""What both disentangling VAEs are to keep in int8, by whether weights have a scale per channel: 47.1 and 46.8 dB were
measured before this limit was set. AMX's fast kernel takes one scale for the whole weight: 41.5 dB for the first."""
BESIDE_STATIC_DB = 0.1
"""The last digit that the tables show: as good as `quantize_static` may be as much below."""
ERROR_RISE = 0.05
"""The export's own limit of the rise, which the held-out inputs here must keep too."""
CIFAR_DECODER_SIZE = 0.45
"""Of the plain float32 file: a quarter for 8 bits, and the rest for what a file of 63 kB has besides."""

VARIATIONAL = [entry for entry in ZOO if "vae" in entry.name]
CIFAR = [entry for entry in ZOO if "cifar" in entry.name]


def name(entry):
    return entry.name


class Exported:
    """One model, in torch, plain, and in the forms of edgeae; each is made once."""

    def __init__(self, entry, folder):
        self.entry, self.folder, self.reports = entry, folder, {}
        self.model = load(entry)
        self.inputs = entry.inputs(self.model)
        self.latents = torch_runner(self.model.encoder)(self.inputs.held_out)
        self.decoded = torch_runner(self.model.decoder)(self.latents)
        self.peak = 1.0 if self.inputs.held_out.ndim == 4 else float(np.ptp(self.decoded))

    def report(self, quantize):
        """Everything as it comes: no option is set."""
        if quantize not in self.reports:
            given = {"calibration": self.inputs.calibration, "held_out": self.inputs.held_out}
            self.reports[quantize] = export(self.model, self.folder / quantize, quantize=quantize, **given)
        return self.reports[quantize]

    def run(self, quantize, part, given):
        return in_large_batches(runner(self.report(quantize).parts[part].model), given)

    def decoder_psnr(self, decoded):
        return psnr(self.decoded, decoded, self.peak)


@pytest.fixture(scope="module")
def made():
    """What the tests of one model share."""
    return {}


@pytest.fixture(params=ZOO, ids=name)
def zoo(request, made, tmp_path_factory):
    """The weights are no part of the project: without them a desk skips, and a machine that must run all fails."""
    entry = request.param
    try:
        if entry.name not in made:
            made[entry.name] = Exported(entry, tmp_path_factory.mktemp("zoo"))
        return made[entry.name]
    except ZooMissingError as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI is set, so the zoo must be there: {error}")
        pytest.skip(str(error))


def test_the_trained_model_knows_its_inputs(zoo):
    held_out = zoo.inputs.held_out
    assert mse(held_out, zoo.decoded) < MOST_OF_MEAN_ERROR * mse(held_out, zoo.inputs.mean)


def test_float32_computes_what_torch_does(zoo):
    assert all(check.passed for check in zoo.report("none").checks)
    limits = {check.what: check.limit for check in zoo.report("none").checks}
    latents, decoded = (
        zoo.run("none", part, given) for part, given in (("encoder", zoo.inputs.held_out), ("decoder", zoo.latents))
    )
    np.testing.assert_allclose(latents, zoo.latents, rtol=0, atol=limits["encoder latent, batch 7"])
    np.testing.assert_allclose(decoded, zoo.decoded, rtol=0, atol=limits["decoder image, batch 7"])


def test_int8_is_exported_without_options_and_verifies(zoo):
    report = zoo.report("int8")
    assert all(check.passed for check in verify(zoo.folder / "int8"))
    for part, told in report.manifest.parts.items():
        executed = [layer.precision for layer in executed_layers(report.parts[part].model)]
        assert executed == [layer.precision for layer in told.layers]
    assert any(part.precision == "int8" for part in report.manifest.parts.values())


def test_int8_raises_the_error_on_held_out_inputs_by_little(zoo):
    decoded = zoo.run("int8", "decoder", zoo.run("int8", "encoder", zoo.inputs.held_out))
    held_out = zoo.inputs.held_out
    assert mse(held_out, decoded) <= (1 + ERROR_RISE) * mse(held_out, zoo.decoded)


def test_int8_is_as_faithful_as_quantize_static(zoo):
    """Of taef2 above all: today's ranges for a large decoder lose more than they gain."""
    encoder, decoder = (zoo.report("none").parts[name].simplified for name in ("encoder", "decoder"))
    latents = in_large_batches(runner(encoder), zoo.inputs.calibration)
    static = in_large_batches(runner(static_int8(decoder, "decoder", latents)), zoo.latents)
    int8 = zoo.run("int8", "decoder", zoo.latents)
    assert zoo.decoder_psnr(int8) >= zoo.decoder_psnr(static) - BESIDE_STATIC_DB


@pytest.mark.parametrize("zoo", VARIATIONAL, ids=name, indirect=True)
def test_the_variational_ones_keep_their_decibels(zoo):
    assert zoo.report("int8").manifest.latent.prior == "normal"
    per_channel = zoo.report("int8").manifest.document["target"]["per_channel"]
    assert zoo.decoder_psnr(zoo.run("int8", "decoder", zoo.latents)) >= VAE_PSNR_DB[per_channel]


@pytest.mark.parametrize("zoo", VARIATIONAL, ids=name, indirect=True)
def test_mean_and_log_variance_are_told_apart(zoo):
    with torch.inference_mode():
        _, log_variance = zoo.model.encode(torch.from_numpy(zoo.inputs.held_out))
    found = in_large_batches(runner(zoo.report("none").parts["encoder"].model, output=1), zoo.inputs.held_out)
    limit = next(check.limit for check in zoo.report("none").checks if check.what.startswith("encoder log-variance"))
    np.testing.assert_allclose(found, log_variance.numpy(), rtol=0, atol=limit)


@pytest.mark.parametrize("zoo", CIFAR, ids=name, indirect=True)
def test_a_small_decoder_shrinks(zoo):
    decoder = zoo.report("int8").parts["decoder"]
    size, plain = decoder.bytes, decoder.simplified.ByteSize()
    assert size <= CIFAR_DECODER_SIZE * plain


def test_missing_weights_are_told_with_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv(weights.VARIABLE, str(tmp_path))
    with pytest.raises(ZooMissingError, match=weights.VARIABLE):
        load(ZOO[0])
