"""A precision written into a forward, autocast, TorchScript, wrappers: exported right, or refused with a way out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from edgeae_export import export
from edgeae_export.graph.running import runner
from edgeae_export.graph.trace import trace
from edgeae_export.modules.adapter import adapt
from edgeae_export.modules.noise import NOISE_FACTOR, TruerRuns
from edgeae_export.reference import make_reference
from edgeae_runtime import InputError
from torch import nn

from tests.export.nets import SIZE, decoder_net, encoder_net

IMAGES = np.random.default_rng(0).random((20, 1, SIZE, SIZE)).astype(np.float32)
BFLOAT16 = 0.05
"""Most that bfloat16's three digits change an image of these small models by."""


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.net = encoder_net(), decoder_net()

    def encode(self, x):
        return self.encoder(x)

    def decode(self, z):
        return self.net(z)


class Recast(Plain):
    def decode(self, z):
        return self.net(z.double().float())


class DoubleOut(Plain):
    def decode(self, z):
        return self.net(z).double()


class DoubleBuffer(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("gain", torch.tensor(0.5, dtype=torch.float64))

    def decode(self, z):
        return self.net(z.float()) * self.gain


class DoubleLatent(Plain):
    def encode(self, x):
        return self.encoder(x).double()

    def decode(self, z):
        return self.net(z.float())


class StartState(Plain):
    """A recurrent decoder that starts with zeros of no stated precision."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.GRUCell(6, 24), nn.Linear(24, SIZE)

    def decode(self, z):
        h, rows = torch.zeros(z.shape[0], 24), []
        for _ in range(SIZE):
            h = self.cell(z, h)
            rows.append(torch.sigmoid(self.out(h)))
        return torch.stack(rows, 1).unsqueeze(1)


class StatedState(StartState):
    def decode(self, z):
        h, rows = torch.zeros(z.shape[0], 24, dtype=torch.float32), []
        for _ in range(4):
            h = self.cell(z, h)
            rows.append(torch.sigmoid(self.out(h)))
        return torch.stack(rows * 4, 1).unsqueeze(1)


def exported(adapted, reference):
    """How far the traced graphs are from torch, in noise floors."""
    far = []
    for name, inputs, expected, key in (
        ("encoder", reference.images, reference.latents, "latent"),
        ("decoder", reference.latents, reference.decoded, "image"),
    ):
        graph = trace(getattr(adapted, name), torch.from_numpy(inputs[:7]), "given", ["made"])
        far.append(float(np.abs(runner(graph)(inputs) - expected).max()) / reference.noise[key])
    return far


@pytest.mark.parametrize("kind", [Recast, DoubleOut, DoubleBuffer, DoubleLatent, StartState, StatedState])
def test_a_precision_inside_is_exported(kind):
    model = kind().eval()
    adapted = adapt(model, IMAGES)
    reference = make_reference(adapted.encoder, adapted.decoder, IMAGES)
    assert reference.latents.dtype == reference.decoded.dtype == np.float32
    assert max(exported(adapted, reference)) <= NOISE_FACTOR
    assert all(0 < floor < 1e-5 for floor in reference.noise.values()), "a few roundings, however it was measured"


class Autocast(Plain):
    def decode(self, z):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.net(z).float()


def test_autocast_is_left_out_and_told():
    model = Autocast().eval()
    adapted = adapt(model, IMAGES)
    assert any("autocast" in notice and notice.startswith("The decoder") for notice in adapted.notices)
    reference = make_reference(adapted.encoder, adapted.decoder, IMAGES)
    assert max(exported(adapted, reference)) <= NOISE_FACTOR
    with torch.no_grad():
        latents = torch.from_numpy(reference.latents)
        assert float((model.decode(latents) - torch.from_numpy(reference.decoded)).abs().max()) < BFLOAT16
        torch.testing.assert_close(model.net(latents).numpy(), reference.decoded)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert model.net(latents).dtype == torch.bfloat16, "autocast works again"


class Halved(Plain):
    def decode(self, z):
        return self.net(z.half()).float()


def test_a_precision_that_the_weights_do_not_have_is_refused():
    with pytest.raises(InputError, match=r"precision written into it.*x\.to\(layer\.weight\.dtype\)"):
        adapt(Halved().eval(), IMAGES)
    with pytest.raises(InputError, match=r"precision written into it"):
        adapt(Halved().eval().half(), IMAGES)


def test_rounding_finds_the_floor_that_float64_finds():
    """The second method, where both can be had: of the same size."""
    model = Plain().eval().requires_grad_(False)
    exact = TruerRuns.of(model.encoder, IMAGES)
    assert exact.by == "float64"
    rounded = TruerRuns(model.encoder, by="rounding")
    measured = model.encoder(torch.from_numpy(IMAGES)).numpy()
    floors = [float(max(np.abs(run[0] - measured).max() for run in way(IMAGES))) for way in (exact, rounded)]
    assert 0.3 < floors[1] / floors[0] < 3


class Coarse(Plain):
    def decode(self, z):
        return self.net(z.half().float())


def test_a_coarse_step_inside_has_its_own_noise():
    adapted = adapt(Coarse().eval(), IMAGES)
    reference = make_reference(adapted.encoder, adapted.decoder, IMAGES)
    eps = float(torch.finfo(torch.float16).eps)
    assert reference.noise["image"] >= eps * np.abs(reference.decoded).max()
    assert reference.noise["latent"] < 1e-5


class Bfloat16(Plain):
    def decode(self, z):
        return (2 * self.net(z).bfloat16()).float() / 2


def test_a_precision_that_no_kernel_has_is_refused_by_its_name(tmp_path):
    with pytest.raises(InputError, match=r"The decoder computes in bfloat16 in parts of its forward.*float32"):
        export(Bfloat16().eval(), tmp_path / "bundle", held_out=IMAGES, rewrites=False)


@pytest.mark.parametrize("make", [torch.jit.script, lambda module: torch.jit.trace(module, next(given(module)))])
def test_torchscript_halves(make):
    model = Plain().eval()
    pair = make(model.encoder), make(model.net)
    adapted = adapt(pair, IMAGES)
    assert not any(isinstance(each, torch.jit.ScriptModule) for each in adapted.decoder.modules())
    reference = make_reference(adapted.encoder, adapted.decoder, IMAGES)
    with torch.no_grad():
        torch.testing.assert_close(reference.latents, model.encoder(torch.from_numpy(IMAGES)).numpy())
    assert max(exported(adapted, reference)) <= NOISE_FACTOR


def given(module):
    yield torch.zeros(2, 1, SIZE, SIZE) if isinstance(module[0], nn.Conv2d) else torch.zeros(2, 6)


class Script(Plain):
    @torch.jit.export
    def encode(self, x):
        return self.encoder(x)

    @torch.jit.export
    def decode(self, z):
        return self.net(z)

    def forward(self, x):
        return self.net(self.encoder(x))


def test_methods_of_a_script():
    model = Script().eval()
    adapted = adapt(torch.jit.script(model), IMAGES)
    with torch.no_grad():
        torch.testing.assert_close(adapted.encoder(torch.from_numpy(IMAGES)), model.encode(torch.from_numpy(IMAGES)))


def twice(model):
    return torch.compile(nn.DataParallel(model))


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, torch.optim.swa_utils.AveragedModel, twice])
def test_wrappers_are_taken_off(wrap):
    model = Plain().eval()
    adapted = adapt(wrap(model).eval(), IMAGES)
    with torch.no_grad():
        torch.testing.assert_close(adapted.encoder(torch.from_numpy(IMAGES)), model.encode(torch.from_numpy(IMAGES)))
    halves = adapt((nn.DataParallel(model.encoder), torch.compile(model.net)), IMAGES)
    assert not any(isinstance(each, nn.DataParallel) for each in halves.encoder.modules())


def test_a_module_prepared_for_quantisation_is_refused():
    import torch.ao.quantization as quantization

    model = Plain().train()
    model.qconfig = quantization.get_default_qat_qconfig("x86")
    prepared = quantization.prepare_qat(model)
    prepared.decode(prepared.encode(torch.from_numpy(IMAGES)))
    with pytest.raises(InputError, match=r"prepared for torch's own quantisation.*before prepare_qat"):
        adapt(prepared.eval(), IMAGES)
