"""Weights as trainings leave them: under keys and prefixes, beside other things, in a whole module; loaded and told."""

from __future__ import annotations

import argparse
import pathlib

import numpy as np
import pytest
import safetensors.torch
import torch
from edgeae_runtime import InputError
from torch import nn

from edgeae.own_model.weights import load_weights


class Net(nn.Module):
    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, width), nn.BatchNorm1d(width), nn.Linear(width, 3))
        self.decoder = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 8))

    def forward(self, x):
        return self.decoder(self.encoder(x))


def trained(seed: int = 1) -> Net:
    torch.manual_seed(seed)
    return Net().eval()


STATE, OTHER = trained().state_dict(), trained(2).state_dict()


def under(prefix, state=STATE):
    return {prefix + name: value for name, value in state.items()}


def within(half):
    return {name.removeprefix(f"{half}."): value for name, value in STATE.items() if name.startswith(half)}


def loaded(document, path, modules=None, **options):
    """What is told, after the weights turned out to be those of `STATE`."""
    torch.save(document, path)
    modules = modules or [trained(0)]
    told = load_weights(modules, path, **options)
    found = modules[0].state_dict() if len(modules) == 1 else {**under("encoder.", modules[0].state_dict())}
    assert all(torch.equal(value, STATE[name]) for name, value in found.items())
    return " ".join(told)


class Trained:
    """Hyperparameters of somebody's own class."""


LIGHTNING = {
    "epoch": 3, "pytorch-lightning_version": "2.5.0", "state_dict": under("model."), "loops": {}, "callbacks": {},
    "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(6, 8)}}}], "hyper_parameters": {"lr": 1e-3},
}  # fmt: skip

FORMS = {
    "plain": (STATE, ""),
    "DataParallel": (under("module."), "taken from 'module'"),
    "compiled": (under("_orig_mod."), "taken from '_orig_mod'"),
    "both": (under("_orig_mod.module."), "taken from '_orig_mod.module'"),
    "any prefix": (under("autoencoder.net."), "taken from 'autoencoder.net'"),
    "parts compiled": (
        {name.replace("encoder.", "encoder._orig_mod."): value for name, value in STATE.items()},
        "without the words module and _orig_mod",
    ),
    "Lightning": (LIGHTNING, "taken from 'state_dict.model'"),
    "any key": ({"step": 5, "anything": STATE}, "taken from 'anything'"),
    "deep": ({"checkpoint": {"networks": {"generator": under("module.")}}}, "'checkpoint.networks.generator.module'"),
    "only an average": ({"step": 5, "ema": STATE}, "taken from 'ema'"),
    "an average beside": ({"ema": OTHER, "model": STATE}, "taken from 'model'; 'ema' fits too"),
    "averages": (
        {"params_ema": OTHER, "params": STATE},
        "taken from 'params'; 'params_ema' fits too, by its name an average: for that give --weights-key params_ema",
    ),
    "the same twice": ({"a": STATE, "b": dict(STATE)}, "taken from 'a'"),
    "halves": ({half: within(half) for half in ("encoder", "decoder")}, "'encoder' and 'decoder' together"),
    "a counter": ({"epoch": torch.tensor(3), **STATE}, "1 other tensor in the file was left alone (epoch)"),
    "a loss": ({**STATE, "loss.vgg.weight": torch.zeros(2), "loss.vgg.bias": torch.zeros(2)}, "2 other tensors"),
    "an optimiser": ({"model": STATE, "optimizer": {"state": {0: {"exp_avg": torch.zeros(6, 8)}}}}, "from 'model'"),
    "arrays": ({name: value.numpy() for name, value in STATE.items()}, ""),
    "no counters": ({name: value for name, value in STATE.items() if "num_batches" not in name}, ""),
    "a namespace": ({"a": STATE, "hparams": argparse.Namespace(lr=1, out=pathlib.Path("runs"))}, "from 'a'"),
    "numbers": ({"a": STATE, "best": np.float64(0.5), "now": np.datetime64("2026-01-01")}, "from 'a'"),
}


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_found_and_told(form, tmp_path):
    document, words = FORMS[form]
    told = loaded(document, tmp_path / "weights.pt")
    assert words in told
    assert bool(told) == bool(words), told
    assert "exp_avg" not in told, "an optimiser's numbers are nobody's weights"


def test_a_key_chooses(tmp_path):
    document = {"model": OTHER, "ema": {"step": torch.tensor(1), "ema_model": STATE, "online_model": OTHER}}
    with pytest.raises(InputError, match=r"several places.*'ema\.ema_model', 'ema\.online_model'.*--weights-key"):
        loaded(document, tmp_path / "ema.pt", key="ema")
    loaded(document, tmp_path / "ema.pt", key="ema.ema_model")
    with pytest.raises(InputError, match=r"no weights of Net under 'nothing': its first keys are model, ema"):
        loaded(document, tmp_path / "ema.pt", key="nothing")


def test_two_places_with_different_numbers_are_asked_for(tmp_path):
    with pytest.raises(
        InputError, match=r"several places with different numbers \('best', 'last'\).*--weights-key last"
    ):
        loaded({"best": STATE, "last": OTHER}, tmp_path / "two.pt")
    loaded({"best": STATE, "last": OTHER}, tmp_path / "two.pt", key="best")


@pytest.mark.parametrize("names", [("encoder", "decoder"), ("E", "G"), ("net_enc", "net_dec")])
def test_a_pair_of_dictionaries_for_a_pair_of_modules(names, tmp_path):
    whole, blank = trained(), trained(0)
    document = {names[0]: whole.encoder.state_dict(), names[1]: whole.decoder.state_dict()}
    told = loaded(document, tmp_path / "pair.pt", [blank.encoder, blank.decoder])
    assert f"the encoder taken from '{names[0]}'" in told
    assert f"the decoder taken from '{names[1]}'" in told
    assert torch.equal(blank.decoder[0].weight, whole.decoder[0].weight)


def test_a_pair_that_is_alike_is_told_by_its_names(tmp_path):
    pair, blank = (nn.Linear(4, 4), nn.Linear(4, 4)), (nn.Linear(4, 4), nn.Linear(4, 4))
    path = tmp_path / "alike.pt"
    torch.save({"decoder": pair[1].state_dict(), "encoder": pair[0].state_dict()}, path)
    load_weights(blank, path)
    assert all(torch.equal(one.weight, other.weight) for one, other in zip(pair, blank, strict=True))
    torch.save({"b": pair[1].state_dict(), "a": pair[0].state_dict()}, path)
    with pytest.raises(InputError, match="several places"):
        load_weights(blank, path)
    load_weights(blank, path, key="b,a")
    assert torch.equal(blank[0].weight, pair[1].weight)


def test_a_whole_module_of_the_named_class(tmp_path):
    torch.save(trained(), tmp_path / "whole.pt")
    blank = trained(0)
    assert load_weights([blank], tmp_path / "whole.pt") == ["Weights of whole.pt: taken out of a whole Net."]
    assert torch.equal(blank.encoder[0].weight, STATE["encoder.0.weight"])
    with pytest.raises(InputError, match=r"it asks for \S*Net.*--trust-pickle"):
        load_weights([nn.Linear(2, 2)], tmp_path / "whole.pt")
    torch.save({"state_dict": STATE, "config": Trained()}, tmp_path / "config.pt")
    with pytest.raises(InputError, match=r"it asks for .*Trained\).*--trust-pickle"):
        load_weights([blank], tmp_path / "config.pt")
    load_weights([blank], tmp_path / "config.pt", trust_pickle=True)


def test_a_torchscript_archive(tmp_path):
    torch.jit.trace(trained(), torch.zeros(2, 8)).save(tmp_path / "script.pt")
    blank = trained(0)
    assert load_weights([blank], tmp_path / "script.pt") == ["Weights of script.pt: taken out of a TorchScript module."]
    assert torch.equal(blank.encoder[0].weight, STATE["encoder.0.weight"])


def test_what_does_not_fit_says_where(tmp_path):
    wide = Net(7).state_dict()
    lacking = {name: value for name, value in STATE.items() if name != "encoder.0.bias"}
    cases = {
        "shapes": ({"state_dict": wide}, r"under 'state_dict': encoder.0.weight is \[7, 8\], expected \[6, 8\]"),
        "missing": (under("model.", lacking), r"lacks encoder.0.bias under 'model'"),
        "strange": ({"a.weight": torch.zeros(1)}, r"none of its names \(encoder.0.weight.*but a.weight"),
        "empty": ({"epoch": 3}, "without a tensor"),
    }
    for name, (document, words) in cases.items():
        torch.save(document, tmp_path / f"{name}.pt")
        with pytest.raises(InputError, match=words):
            load_weights([trained(0)], tmp_path / f"{name}.pt")
    safetensors.torch.save_file(under("model.", lacking), tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match=r"lacks encoder\.0\.bias"):
        load_weights([trained(0)], tmp_path / "weights.safetensors")
    (tmp_path / "text.pt").write_text("no")
    with pytest.raises(InputError, match=r"text.pt .*read"):
        load_weights([trained(0)], tmp_path / "text.pt")
