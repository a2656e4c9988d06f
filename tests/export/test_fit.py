"""Equalising, bias correction and the fit: exact where they say so, and nearer to the float graph."""

from dataclasses import replace

import numpy as np
import pytest
from edgeae_export.graph.running import runner
from edgeae_export.int8 import fitting as fit_module
from edgeae_export.int8.bias_correction import _means, correct_biases
from edgeae_export.int8.calibration import activations, calibrate
from edgeae_export.int8.equalize import Equalizer, equalize
from edgeae_export.int8.fitting import fit
from edgeae_export.int8.placement import find_sites
from edgeae_export.int8.quantize import quantize
from edgeae_export.int8.ranges import output_error, starting_ranges
from edgeae_export.int8.rounding import round_weights
from edgeae_export.rewrites.plans import FOLDED, INT8_PLANS, fold, rewrite
from edgeae_export.targets import PRESETS
from edgeae_runtime.parity import psnr
from onnx import numpy_helper

from tests.export.graphs import FOLDED_TOLERANCE, assert_equal, graph, weights

RNG = np.random.default_rng(2)
TARGET = PRESETS["x86-vnni"]


def uneven_decoder(activation="Relu", latent=40, seed=1):
    """A decoder whose channels have ranges from 0.01 to 10."""
    rng = np.random.default_rng(seed)
    spread = np.logspace(-2, 1, 16).astype(np.float32)
    up = {"strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1]}
    nodes = [
        ("Gemm", ["x", "a", "c"], ["flat"], {"transB": 1}),
        (activation, ["flat"], ["h"], {}),
        ("Reshape", ["h", "shape"], ["map"], {}),
        ("ConvTranspose", ["map", "w1", "b1"], ["u1"], up),
        (activation, ["u1"], ["h1"], {}),
        ("ConvTranspose", ["h1", "w2", "b2"], ["u2"], up),
        (activation, ["u2"], ["h2"], {}),
        ("Conv", ["h2", "w3", "b3"], ["logits"], {"pads": [1] * 4}),
        ("Sigmoid", ["logits"], ["y"], {}),
    ]
    constants = {
        "a": weights(rng, 16 * 16, latent) * np.repeat(spread, 16)[:, None], "c": weights(rng, 256),
        "shape": np.array([-1, 16, 4, 4]),
        "w1": weights(rng, 16, 16, 3, 3) * spread[None, :, None, None] / (12 * spread[:, None, None, None]),
        "b1": weights(rng, 16), "w2": weights(rng, 16, 8, 3, 3) / 12 / spread[:, None, None, None],
        "b2": weights(rng, 8), "w3": weights(rng, 1, 8, 3, 3) / 8, "b3": weights(rng, 1),
    }  # fmt: skip
    return graph(nodes, [latent], constants), weights(rng, 200, latent)


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu"])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_equalising_is_exact_and_evens_out_the_channels(activation, strength):
    model, x = uneven_decoder(activation)
    even = equalize(model, x, strength)
    assert_equal(model, even, x[:7], tolerance=50 * FOLDED_TOLERANCE)  # four tensors of weights rounded anew

    def unevenness(graph):
        values = np.concatenate([each["map"] for each in activations(graph, ["map"], x[:64])])
        peaks = np.abs(values).max(axis=(0, 2, 3))
        return peaks.max() / peaks.min()

    assert unevenness(even) < 0.3 * unevenness(model)


def test_what_does_not_scale_is_not_equalised():
    model, x = uneven_decoder("Sigmoid")
    assert equalize(model, x, 1.0) is model
    model, x = uneven_decoder()
    assert equalize(model, x, 0.0) is model


def test_bias_correction_gives_the_layers_their_means_back():
    model, x = uneven_decoder()
    model, _ = fold(model)
    model, _ = rewrite(model, INT8_PLANS[0])
    sites = find_sites(model)
    ranges = starting_ranges(model, sites, calibrate(model, sites.tensors, x), 99.0)  # clips, so that means shift
    shifts = correct_biases(model, sites, x, lambda some: quantize(model, sites, ranges, TARGET, some))
    assert shifts
    layer = next(iter(shifts))
    node = next(node for node in model.graph.node if node.name == layer)
    outputs = {layer: node.output[0]}
    exact = _means(model, outputs, x)[layer]
    before = _means(quantize(model, sites, ranges, TARGET), outputs, x)[layer]
    after = _means(quantize(model, sites, ranges, TARGET, shifts), outputs, x)[layer]
    assert np.abs(after - exact).mean() < 0.2 * np.abs(before - exact).mean()


def test_the_fit_is_nearer_than_its_parts(monkeypatch):
    model, x = uneven_decoder()
    folded, _ = fold(model)
    fitted = fit(folded, INT8_PLANS[0], x, TARGET)
    assert fitted.strength > 0
    held_out = weights(RNG, 100, 40)
    exact = runner(model)(held_out)
    fidelity = psnr(exact, runner(fitted.quantized(TARGET))(held_out))
    monkeypatch.setattr(fit_module, "STRENGTHS", (0.0,))
    plain = fit(folded, INT8_PLANS[0], x, TARGET)
    assert fidelity > psnr(exact, runner(plain.quantized(TARGET))(held_out)) + 3  # the channels differ a thousandfold
    histograms = calibrate(plain.rewritten, plain.sites.tensors, x)
    widest = starting_ranges(plain.rewritten, plain.sites, histograms, 100.0)
    error = output_error(plain.rewritten, plain.sites, TARGET, x[1::2], plain.bias_shifts)
    assert error(plain.ranges) < error(widest)


def plain_error(folded, plan, x):
    """The least error of plain ranges on the inputs that judge."""
    fitted_to, judging = fit_module.split(folded, x)
    judge = fit_module.Judge(folded, fitted_to, judging, TARGET)
    return judge, min(
        judge.error(each) for each in fit_module._plain(Equalizer(folded, fitted_to), plan, fitted_to, 0.0)
    )


def test_what_only_suits_the_inputs_it_was_made_from_is_dropped(monkeypatch):
    model, x = uneven_decoder()
    folded, _ = fold(model)

    def overfitted(plain, start, *rest):
        return replace(start, ranges={group: (0.02 * low, 0.02 * high) for group, (low, high) in start.ranges.items()})

    def flattened(*arguments):
        rounded = round_weights(*arguments)
        return {name: replace(weight, values=weight.values // 8) for name, weight in rounded.items()}

    def harmful(fitted, *rest):
        return replace(fitted, bias_shifts={name: np.float64(5.0) for name in fitted.sites.layers})

    monkeypatch.setattr(fit_module, "round_weights", flattened)
    monkeypatch.setattr(fit_module, "_searched", overfitted)
    monkeypatch.setattr(fit_module, "_with_corrected_biases", harmful)
    monkeypatch.setattr(Equalizer, "at", lambda equalizer, strength: equalizer.model)
    judge, plain = plain_error(folded, INT8_PLANS[0], x)
    fitted = fit(folded, INT8_PLANS[0], x, TARGET)
    assert judge.error(fitted) == plain
    assert not fitted.bias_shifts
    assert not fitted.rounded


@pytest.mark.parametrize("count", [2, 7, 30, 200])
def test_the_fit_is_never_worse_than_plain_ranges(count):
    model, x = uneven_decoder()
    folded, _ = fold(model)
    judge, plain = plain_error(folded, FOLDED, x[:count])
    assert judge.error(fit(folded, FOLDED, x[:count], TARGET)) <= plain


def test_rare_inputs_count_wherever_they_are():
    """Where none of the judging inputs is loud, narrow ranges look good; loud ones among the others tell."""
    nodes = [("Conv", ["x", "w"], ["c"], {}), ("Relu", ["c"], ["h"], {}), ("Conv", ["h", "v"], ["y"], {})]
    model = graph(nodes, [4, 5, 5], {"w": weights(RNG, 8, 4, 3, 3), "v": weights(RNG, 4, 8, 1, 1)})
    folded, x = fold(model)[0], weights(RNG, 200, 4, 5, 5)
    fitted_to, judging = fit_module.split(folded, x)
    fitted_to[[0, 50, 100]] *= 8
    wide = fit_module._plain(Equalizer(folded, fitted_to), FOLDED, fitted_to, 0.0)[0]
    narrow = replace(wide, ranges={group: (low / 4, high / 4) for group, (low, high) in wide.ranges.items()})
    blind = fit_module.Judge(folded, judging, judging, TARGET)
    assert blind.best([wide, narrow]) is narrow
    assert fit_module.Judge(folded, fitted_to, judging, TARGET).best([narrow, wide]) is wide


def test_none_of_the_inputs_that_judge_is_fitted_to():
    model, x = uneven_decoder()
    fitted_to, judging = fit_module.split(model, x)
    assert len(fitted_to) + len(judging) == len(x)
    assert not {row.tobytes() for row in fitted_to} & {row.tobytes() for row in judging}


def test_the_fit_is_the_same_twice():
    model, x = uneven_decoder()
    folded, _ = fold(model)
    first, second = (fit(folded, FOLDED, x, TARGET).quantized(TARGET) for _ in range(2))
    assert first.SerializeToString() == second.SerializeToString()
    assert all(np.isfinite(numpy_helper.to_array(t)).all() for t in first.graph.initializer if t.data_type == 1)
