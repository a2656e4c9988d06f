"""Plans, targets, --max-drop and the verdict: what is taken, what is refused, and what is said."""

import time
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from edgeae_export import compiler, holding
from edgeae_export.compiler import FOR_QUALITY, Compiled, compile_float32, compile_int8, keep_in_float
from edgeae_export.graph.executed import dequantized_weights, executed_layers, optimized
from edgeae_export.graph.running import runner
from edgeae_export.holding import hold
from edgeae_export.int8 import as_executed as placement
from edgeae_export.int8_parts import Request, reason_for_float
from edgeae_export.max_drop import MaxDrop
from edgeae_export.parity import Int8Limits
from edgeae_export.rewrites import candidates
from edgeae_export.rewrites.plans import FOLDED, Plan
from edgeae_export.rewrites.subpixel import to_subpixel
from edgeae_export.targets import NICKNAMES, PRESETS, TARGETS, choose_target
from edgeae_export.verdict import Comparison, compare_with_float, verdict
from edgeae_runtime import InputError
from edgeae_runtime.measure.timing import BUSY, THREAD_CLOCK
from edgeae_runtime.parity import Check, psnr

from tests.export.graphs import graph, operators, weights
from tests.export.test_fit import uneven_decoder
from tests.runtime.test_timing import busy_machine

RNG = np.random.default_rng(3)
TARGET = PRESETS["x86-vnni"]
TOLERANCE = 1e-3


def encoder():
    nodes = [
        ("Conv", ["x", "w1", "b1"], ["c1"], {"pads": [1] * 4, "strides": [2, 2]}),
        ("Relu", ["c1"], ["h1"], {}),
        ("Conv", ["h1", "w2"], ["c2"], {"pads": [1] * 4, "strides": [2, 2]}),
        ("Relu", ["c2"], ["h2"], {}),
        ("Flatten", ["h2"], ["flat"], {}),
        ("Gemm", ["flat", "v"], ["y"], {}),
    ]
    constants = {
        "w1": weights(RNG, 16, 1, 3, 3) / 3, "b1": weights(RNG, 16), "w2": weights(RNG, 16, 16, 3, 3) / 12,
        "v": weights(RNG, 256, 40) / 16,
    }  # fmt: skip
    return graph(nodes, [1, 16, 16], constants)


def test_a_named_target_is_compiled_without_timing_and_always_the_same(monkeypatch):
    model, x = uneven_decoder()
    monkeypatch.setattr(candidates, "fastest", None)  # would be called for this machine
    first, second = (compile_int8(model, x, TOLERANCE, TARGET) for _ in range(2))
    assert first.plan == "sub-pixel by rows"
    assert not first.times_us
    assert first.model.SerializeToString() == second.model.SerializeToString()
    assert compile_float32(model, x, TOLERANCE, TARGET).plan == "merged tail"


def test_on_this_machine_candidates_are_timed_and_the_fastest_is_taken(monkeypatch):
    model, x = uneven_decoder()
    compiled = compile_int8(model, x, TOLERANCE, choose_target("host"))
    assert set(compiled.times_us) >= {"sub-pixel by rows", "folded"}

    def folded_wins(graphs, inputs):
        return "folded", dict.fromkeys(graphs, 1.0)

    monkeypatch.setattr(candidates, "fastest", folded_wins)
    folded = compile_int8(model, x, TOLERANCE, choose_target("host"))
    assert folded.plan == "folded"
    assert "ConvTranspose" in operators(folded.model)


def test_the_estimate_stands_unless_another_is_clearly_faster(monkeypatch):
    model, x = uneven_decoder()
    times = {"a": 100.0, "b": 97.0, "c": 99.0}

    def interleave(calls, **options):
        return {name: type("Latency", (), {"median_us": times[name], "noise": 0.0}) for name in calls}

    monkeypatch.setattr(candidates, "interleave", interleave)
    assert candidates.fastest(dict.fromkeys(times, model), x)[0] == "a"
    times["b"] = 90.0
    assert candidates.fastest(dict.fromkeys(times, model), x)[0] == "b"


def test_a_rewrite_that_changes_the_outputs_is_dropped(monkeypatch):
    model, x = uneven_decoder()

    def wrongly(layer):
        graph, told = layer.graph, to_subpixel().replace(layer)
        for value in graph.initializers.values():
            if value.name.endswith("_subpixel_weight"):
                value.const_value = ir.tensor(0 * value.const_value.numpy(), name=value.name)
        return told

    wrong = (Plan("wrong", (replace(to_subpixel(), replace=wrongly),)), FOLDED)
    monkeypatch.setattr(compiler, "FLOAT_PLANS", wrong)
    compiled = compile_float32(model, x, TOLERANCE, TARGET)
    assert "ConvTranspose" in operators(compiled.model)
    assert any("changed the outputs" in decision.why for decision in compiled.decisions)


def test_an_architecture_that_no_rewrite_fits_is_exported_as_it_is():
    model = encoder()
    compiled = compile_float32(model, RNG.random((20, 1, 16, 16), np.float32), TOLERANCE, TARGET)
    assert compiled.plan == "as it is"
    assert operators(compiled.model) == operators(model)


def test_nothing_to_run_in_int8_is_an_error():
    model = graph(
        [("Conv", ["x", "w"], ["c"], {}), ("Relu", ["c"], ["y"], {})], [1, 5, 5], {"w": weights(RNG, 8, 1, 3, 3)}
    )
    with pytest.raises(InputError, match=r"Nothing in the graph would run in int8 .*by fours"):
        compile_int8(model, weights(RNG, 20, 1, 5, 5), TOLERANCE, TARGET)


def test_pairs_that_do_not_fuse_are_an_error(monkeypatch):
    monkeypatch.setattr(placement, "float_despite_pairs", lambda model, layers: frozenset(layers))
    model, x = uneven_decoder()
    with pytest.raises(InputError, match=r"Nothing in the graph would run in int8 .*would run it in float here"):
        compile_int8(model, x, TOLERANCE, TARGET)


def test_targets_have_names_for_people():
    assert choose_target("raspberry-pi-5") == choose_target("arm64") == PRESETS["arm64"]
    assert choose_target("host").here
    assert not any(choose_target(name).here for name in TARGETS if name != "host")
    assert set(NICKNAMES) <= set(TARGETS)
    with pytest.raises(InputError, match=r"toaster.*expected one of host"):
        choose_target("toaster")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["avx2"], "x86-avx2"),
        (["avx2", "avx_vnni"], "x86-vnni"),
        (["avx512_vnni"], "x86-vnni"),
        (["avx512_vnni", "amx_int8"], "x86-amx"),
    ],
)
def test_the_host_is_known_by_its_instruction_sets(monkeypatch, flags, expected):
    from edgeae_export import targets

    monkeypatch.setattr(targets, "instruction_sets", lambda: flags)
    monkeypatch.setattr(targets.platform, "machine", lambda: "x86_64")
    assert choose_target("host").name == expected
    monkeypatch.setattr(targets.platform, "machine", lambda: "aarch64")
    assert choose_target("host").name == "arm64"
    monkeypatch.setattr(targets, "instruction_sets", lambda: ["asimd", "asimddp"])
    assert choose_target("host").name == "arm64"
    monkeypatch.setattr(targets, "instruction_sets", lambda: ["asimd"])  # without a dot product, as a Cortex-A72
    assert choose_target("host").name == "raspberry-pi-4"


@pytest.fixture(scope="module")
def halves():
    """Encoder and decoder of random weights, compiled to int8, with images."""
    images = RNG.random((120, 1, 16, 16), np.float32)
    encode = encoder()
    latents = runner(encode)(images)
    decode, _ = uneven_decoder()
    return {
        "encoder": compile_int8(encode, images, TOLERANCE, TARGET),
        "decoder": compile_int8(decode, latents, TOLERANCE, TARGET),
    }, images


def fidelity(parts, images):
    exact = runner(parts["decoder"].rewritten)(runner(parts["encoder"].rewritten)(images))
    return psnr(exact, runner(parts["decoder"].model)(runner(parts["encoder"].model)(images)))


def held(parts, images, limit):
    """The parts as they hold a PSNR of the round trip, and the forms that were checked on the way."""
    as_floats = {name: Compiled(part.rewritten, part.plan, []) for name, part in parts.items()}
    tried = []

    def checks(some):
        tried.append(some)
        return [Check("round trip, held out", "psnr_db", fidelity({**parts, **some}, images), limit)]

    return hold(parts, as_floats, checks, images, TARGET), tried


def test_the_layers_that_hurt_go_back_to_float_until_the_limit_holds(halves):
    parts, images = halves
    before = fidelity(parts, images)
    assert held(parts, images, before - 1)[0].parts == parts
    found, tried = held(parts, images, before + 2)
    assert fidelity(found.parts, images) >= before + 2
    assert not found.failed
    layers = sum(len(part.fitted.sites.layers) for part in parts.values())
    kept = [name for part in found.parts.values() for name, why in part.kept.items() if why == FOR_QUALITY]
    assert 1 <= len(kept) < layers
    assert all(name in " ".join(found.told) for name in kept[:1])
    assert f"{before:.2f} dB" in " ".join(found.told)
    assert len(tried) <= 2 + 2 * np.ceil(np.log2(layers))  # bisection, not one after the other


def test_a_part_that_cannot_hold_is_given_in_float32_and_named(halves):
    parts, images = halves
    found, _ = held(parts, images, 140.0)
    assert set(found.failed) == {"encoder", "decoder"}
    assert all(part.fitted is None for part in found.parts.values())
    assert found.failed["decoder"].limit == 140


def test_harm_is_measured_in_groups_where_layers_are_many(halves, monkeypatch):
    parts, images = halves
    monkeypatch.setattr(holding, "TRIALS", 2)
    groups = holding._groups(parts, "decoder", "", images, TARGET)
    assert len(groups) == 2
    assert frozenset().union(*(group.layers for group in groups)) == set(parts["decoder"].fitted.sites.layers)


@pytest.mark.parametrize("text", ["45", "45 db per pixel", "-3dB", "much", "5.%"])
def test_a_limit_that_is_none_is_refused(text):
    with pytest.raises(InputError, match="expected a PSNR such as 45dB"):
        MaxDrop.parse(text)


def test_limits_are_read_in_both_units():
    assert MaxDrop.parse("45dB") == MaxDrop("psnr_db", 45.0)
    assert MaxDrop.parse("0.05 %") == MaxDrop("error_rise", 0.0005)


def test_a_limit_replaces_the_common_ones_in_both_directions():
    assert MaxDrop.parse("25dB").limits == Int8Limits(25.0, 25.0, None)
    assert MaxDrop.parse("45dB").limits == Int8Limits(30.0, 45.0, None)
    assert MaxDrop.parse("20%").limits == Int8Limits(error_rise=0.2)


def test_layers_kept_in_float_run_in_float(halves):
    parts, _ = halves
    layer = parts["decoder"].fitted.sites.layers[0]
    kept = keep_in_float(parts["decoder"], frozenset({layer}), TARGET)
    assert layer in kept.kept
    assert f"{layer}_weight_int8" not in {tensor.name for tensor in kept.model.graph.initializer}


def test_the_verdict_tells_size_speed_and_quality():
    quality = {"decoder_psnr_db": 47.31, "reconstruction_error_rise": 0.0004}
    fast, slow, level = (compared_parts(time) for time in (40.0, 150.0, 101.0))
    sentence = verdict([fast], quality)
    assert "decoder 25 % of the size and 2.50x as fast; 47.3 dB PSNR, reconstruction error +0.040 %" in sentence
    assert "0.1 -> 0.04 ms" in sentence
    assert "slower" not in sentence
    assert "busy" not in sentence
    assert "1.50x slower" in verdict([slow], quality)
    assert "leave it in float32" in verdict([slow], quality)
    assert "as fast" in verdict([level], quality)
    assert "leave it" not in verdict([level], quality)
    assert "as fast within a noise of 30 %" in verdict([replace(level, noise=0.3)], quality)
    busy = verdict([replace(fast, stretch=2.5)], quality, ["The encoder stays in float32: so"])
    assert "This machine was busy: calls took up to 2.5 times their CPU time" in busy
    assert "by the wall 0.25 -> 0.1 ms" in busy
    assert "The encoder stays in float32: so." in busy
    assert verdict([], quality, ["A: b"]) == "Nothing was exported in int8. A: b."


@pytest.mark.skipif(THREAD_CLOCK is time.perf_counter_ns, reason="no fine clock of a thread's CPU time here")
def test_the_verdict_of_a_busy_machine_is_that_of_an_idle_one(monkeypatch, whole_turns):
    monkeypatch.setattr("edgeae_export.verdict.SECONDS", 0.3)
    model, x = uneven_decoder()
    int8 = compile_int8(model, x, TOLERANCE, TARGET).model
    quiet = compare_with_float("decoder", model, model, int8, x)
    with busy_machine():
        busy = compare_with_float("decoder", model, model, int8, x)
    assert busy.speed.ratio == pytest.approx(quiet.speed.ratio, rel=0.2)
    assert busy.stretch > BUSY
    quality = {"decoder_psnr_db": 47.31, "reconstruction_error_rise": 0.0004}
    assert "This machine was busy" in verdict([busy], quality)


def compared_parts(exported_us, exported_bytes=250, noise=0.03):
    return Comparison("decoder", 100.0, exported_us, 1000, exported_bytes, noise=noise, float_form_bytes=900)


@pytest.mark.parametrize(
    ("mode", "target", "exported_us", "exported_bytes", "why"),
    [
        ("int8", "host", 40.0, 250, ""),
        ("int8", "host", 150.0, 250, ""),  # smaller: the verdict says that it is slower
        ("int8", "host", 150.0, 900, "1.50x slower here, and its file would have 1 kB instead of 1"),
        ("int8", "host", 102.0, 900, ""),  # within the noise
        ("int8", "arm64", 150.0, 900, ""),  # what is slower here may be faster there
        ("auto", "host", 40.0, 950, ""),
        ("auto", "host", 102.0, 250, "only as fast here"),
        ("auto", "host", 150.0, 250, "1.50x slower"),
        ("auto", "arm64", 150.0, 250, ""),
        ("auto", "arm64", 40.0, 900, "where files shrink"),
    ],
)
def test_int8_is_left_where_it_brings_nothing(mode, target, exported_us, exported_bytes, why):
    request = Request(mode, ("decoder",), Int8Limits(), False, choose_target(target))
    found = reason_for_float(compared_parts(exported_us, exported_bytes), request)
    assert (why in found) if why else found == ""


def test_a_last_transposed_convolution_of_few_outputs_becomes_a_product():
    up = {"strides": [2, 2], "pads": [1] * 4, "kernel_shape": [4, 4]}
    nodes = [
        ("ConvTranspose", ["x", "w1"], ["c1"], up),
        ("Relu", ["c1"], ["h1"], {}),
        ("ConvTranspose", ["h1", "w2"], ["c2"], up),
        ("Sigmoid", ["c2"], ["y"], {}),
    ]
    constants = {"w1": weights(RNG, 32, 32, 4, 4) / 12, "w2": weights(RNG, 32, 1, 4, 4) / 8}
    compiled = compile_int8(graph(nodes, [32, 6, 6], constants), weights(RNG, 40, 32, 6, 6), TOLERANCE, TARGET)
    assert "Col2Im" in operators(compiled.model)
    assert operators(compiled.rewritten).count("Conv") == 1  # kernel 4, stride 2: no phase has taps of its own
    assert compiled.fitted.sites.layers == ("c1_subpixel", "c2_columns")


def test_planned_layers_are_executed_layers_after_every_step(halves):
    for part in halves[0].values():
        executed = {layer.name: layer.precision for layer in executed_layers(part.model)}
        assert {name for name, precision in executed.items() if precision == "int8"} == set(part.fitted.sites.layers)
        assert {name for name, precision in executed.items() if precision != "int8"} == set(part.kept)
        assert dequantized_weights(optimized(part.model)) == []


def test_the_names_of_machines_are_those_that_are_known():
    assert set(TARGETS) == {"host", *PRESETS, *NICKNAMES}
