"""What an application leans on: bounded memory, its own arrays, threads, forks, pickles, streams, closing."""

import json
import multiprocessing
import os
import pickle  # noqa: TID251 what users do with a model that they send to a worker
import threading
import warnings

import numpy as np
import onnxruntime
import pytest
from edgeae_runtime import (
    Autoencoder,
    BundleError,
    EdgeAEError,
    InputError,
    ProviderError,
    autoencoder,
    open_bundle,
    part,
)
from edgeae_runtime.bundle import tuning as record
from edgeae_runtime.machine import usable_cores
from edgeae_runtime.measure import tune as tuning
from edgeae_runtime.sessions import providers

SAME = 1e-6  # another batch size sums in another order: a few roundings of values near one


def many(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 3)).astype(np.float32)


def test_large_batches_are_run_in_chunks(ae, monkeypatch):
    latents = many(1003)
    whole = ae.decode(latents)
    decoder = ae._part("decoder")
    assert decoder.chunk == part.CHUNK_BYTES // (4 * 16 * 16)
    monkeypatch.setattr(decoder, "chunk", 100)
    np.testing.assert_allclose(ae.decode(latents), whole, atol=SAME)
    images = np.random.default_rng(0).random((250, 1, 16, 16), dtype=np.float32)
    expected = ae.encode(images)
    monkeypatch.setattr(ae._part("encoder"), "chunk", 33)
    np.testing.assert_allclose(ae.encode(images), expected, atol=SAME)


@pytest.mark.parametrize("chunk", [1000, 4])
def test_outputs_go_into_the_callers_array(ae, monkeypatch, chunk):
    monkeypatch.setattr(ae._part("decoder"), "chunk", chunk)
    latents = many(10)
    out = np.full((10, 1, 16, 16), np.nan, np.float32)
    result = ae.decode(latents, out=out)
    assert result is out
    np.testing.assert_allclose(out, Autoencoder.load(ae.path).decode(latents), atol=SAME)
    codes = np.empty((4, 3), np.float32)
    assert ae.encode(np.zeros((4, 1, 16, 16), np.uint8), out=codes) is codes


@pytest.mark.parametrize(
    "out",
    [
        np.empty((9, 1, 16, 16), np.float32),
        np.empty((10, 1, 16, 16), np.float64),
        np.empty((10, 16, 16, 1), np.float32).transpose(0, 3, 1, 2)[:, :, ::-1],
        np.empty((10, 1, 16, 32), np.float32)[..., ::2],
        [0.0],
    ],
)
def test_an_array_that_does_not_fit_is_refused(ae, out):
    with pytest.raises(InputError, match=r"expected a writable, C-contiguous array of float32 \[10, 1, 16, 16\]"):
        ae.decode(many(10), out=out)


def test_an_array_that_must_not_be_written_is_refused(ae):
    out = np.empty((10, 1, 16, 16), np.float32)
    out.flags.writeable = False
    with pytest.raises(InputError, match="writable"):
        ae.decode(many(10), out=out)


def test_a_stream_gives_every_batch_in_order_one_ahead(ae):
    taken = []

    def batches():
        for seed in range(5):
            taken.append(seed)
            yield many(3 + seed, seed)

    stream = ae.stream(batches())
    first = next(stream)
    assert taken == [0, 1]  # one ahead, not all
    outputs = [first, *stream]
    for seed, images in enumerate(outputs):
        np.testing.assert_allclose(images, ae.decode(many(3 + seed, seed)), atol=SAME)
    assert [len(codes) for codes in ae.stream([np.zeros((2, 1, 16, 16), np.uint8)], "encode")] == [2]
    assert list(ae.stream([])) == []
    with pytest.raises(InputError, match="expected encode, decode or reconstruct"):
        next(ae.stream([], "close"))


def test_a_bad_batch_ends_a_stream_after_the_good_ones(ae):
    stream = ae.stream([many(2), np.zeros((2, 4), np.float32)])
    assert len(next(stream)) == 2
    with pytest.raises(InputError, match=r"\[2, 4\]"):
        next(stream)


def test_calls_from_many_threads_do_not_mix(ae):
    inputs = {seed: many(5, seed) for seed in range(8)}
    expected = {seed: ae.decode(latents) for seed, latents in inputs.items()}
    wrong = []

    def work(seed):
        results = (ae.decode(inputs[seed]) for _ in range(200))
        wrong.extend(seed for result in results if not np.allclose(result, expected[seed], atol=SAME))

    workers = [threading.Thread(target=work, args=(seed,)) for seed in inputs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert wrong == []


def _decode_in_child(ae, latents, queue):
    queue.put(ae.decode(latents))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("threads", [1, 2])
def test_it_works_after_a_fork(bundle, threads):
    ae = Autoencoder.load(bundle, threads=threads)
    latents = many(200)
    expected = ae.decode(latents)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads is what is tested
        child = context.Process(target=_decode_in_child, args=(ae, latents, queue))
        child.start()
    np.testing.assert_allclose(queue.get(timeout=60), expected, atol=SAME)
    child.join(30)
    assert child.exitcode == 0
    np.testing.assert_allclose(ae.decode(latents), expected, atol=SAME)


def test_it_pickles_by_path(bundle, broken):
    ae = Autoencoder.load(broken, parts=("decoder",), threads=1)
    raw = pickle.dumps(ae)
    assert len(raw) < 1000
    copy = pickle.loads(raw)
    assert copy.providers == {"decoder": "cpu"}
    np.testing.assert_array_equal(copy.decode(many(2)), ae.decode(many(2)))
    (broken / "decoder.onnx").write_bytes(b"changed")
    with pytest.raises(Exception, match="not the file that was exported"):
        pickle.loads(raw)


def test_closing(bundle):
    with Autoencoder.load(bundle) as ae:
        ae.warmup()
        ae.warmup(batch=4)
    with pytest.raises(InputError, match="was closed"):
        ae.decode(many(1))


def test_tuning_is_measured_stored_and_used(broken):
    document = tuning.tune(broken)
    assert set(document["parts"]) == {"encoder", "decoder"}
    assert {row["threads"] for row in document["measured"]["decoder"]} >= {1}
    assert Autoencoder.load(broken).threads == {part: each["threads"] for part, each in document["parts"].items()}
    assert Autoencoder.load(broken, threads=1).threads == {"encoder": 1, "decoder": 1}
    path = broken / record.TUNING_FILE
    stored = json.loads(path.read_text())
    stored["parts"]["decoder"]["threads"] = usable_cores()
    path.write_text(json.dumps(stored))
    assert Autoencoder.load(broken).threads["decoder"] == usable_cores()


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["machine"].update(processor="another"),
        lambda d: d["parts"]["decoder"].update(threads=100_000),
        lambda d: d["parts"]["decoder"].update(threads="all"),
        lambda d: d["parts"]["decoder"].update(form="other"),
        lambda d: d["parts"]["decoder"].update(form=["default"]),
        lambda d: d.update(parts=[2]),
        lambda d: d.update(provider="cuda"),
        lambda d: d.update(manifest_sha256="0" * 64),
        lambda d: d.update(schema_version=99),
        lambda d: d.clear(),
    ],
)
def test_a_tuning_from_elsewhere_is_ignored(broken, change):
    most = usable_cores()
    stored = record.tuning_document(open_bundle(broken), "cpu", {"decoder": record.Choice(threads=most)})
    (broken / record.TUNING_FILE).write_text(json.dumps(stored))
    assert Autoencoder.load(broken).threads == {"encoder": 1, "decoder": most}
    change(stored)
    (broken / record.TUNING_FILE).write_text(json.dumps(stored))
    assert Autoencoder.load(broken).threads == {"encoder": 1, "decoder": 1}


def best(*rows, pair=0.0):
    """The choice among rows of form, threads, cost and noise."""
    measured = [tuning.Measured(record.Choice(form, threads), cost, noise) for form, threads, cost, noise in rows]
    found = tuning.ranked(measured, pair)
    return found[0].choice.form, found[0].choice.threads


def test_a_second_thread_must_be_worth_its_core():
    def threads(*costs, noise=0.01):
        return best(*(("default", count, cost, noise) for count, cost in zip((1, 2, 4), costs, strict=False)))[1]

    assert threads(50.0, 48.0) == 1
    assert threads(50.0, 30.0, 28.0) == 2
    assert threads(50.0, 30.0, 15.0) == 4
    assert threads(50.0, 40.0, noise=0.2) == 1


def test_another_form_must_really_be_faster():
    assert best(("default", 1, 50.0, 0.01), ("other", 1, 45.0, 0.01)) == ("other", 1)
    assert best(("default", 1, 50.0, 0.06), ("other", 1, 45.0, 0.06)) == ("default", 1)
    assert best(("default", 1, 50.0, 0.01), ("other", 1, 45.0, 0.01), pair=0.1) == ("default", 1)
    assert best(("default", 1, 50.0, 0.01), ("other", 1, 60.0, 0.01), ("other", 2, 47.0, 0.01)) == ("default", 1)
    assert best(("default", 1, 50.0, 0.01), ("other", 1, 60.0, 0.01), ("other", 2, 30.0, 0.01)) == ("other", 2)
    assert best(("default", 1, 50.0, 0.0), ("slow", 1, 40.0, 0.0), ("fast", 1, 30.0, 0.0)) == ("fast", 1)


def test_auto_says_once_what_could_not_start(bundle, monkeypatch):
    def no_device(model, provider, **options):
        if provider == "cuda":
            tried.append(provider)
            raise ProviderError("The provider 'cuda' is installed but could not start.")
        return create(model, provider, **options)

    tried = []
    create = autoencoder.create_session
    monkeypatch.setattr(autoencoder, "create_session", no_device)
    monkeypatch.setattr(autoencoder, "candidates", lambda name: ("cuda", "cpu"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        ae = Autoencoder.load(bundle, "auto")
    assert ae.providers == {"encoder": "cpu", "decoder": "cpu"}
    assert [str(w.message) for w in caught if "could not start" in str(w.message)]
    assert len(caught) == 1
    assert tried == ["cuda"]  # not again for the other half


def test_a_provider_that_gets_no_node_is_refused(bundle, monkeypatch):
    monkeypatch.setattr(providers, "assigned_nodes", lambda session: {"directml": 7})
    with pytest.raises(ProviderError, match="none of the graph's 7 nodes"):
        Autoencoder.load(bundle, "cpu")


def test_onnxruntimes_own_record_tells_what_runs_where(bundle):
    ae = Autoencoder.load(bundle)
    if not hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"):
        assert ae.nodes == {"encoder": {}, "decoder": {}}
    else:
        assert set(ae.nodes["decoder"]) == {"cpu"}
        assert ae.nodes["decoder"]["cpu"] > 3


def test_a_provider_that_fails_on_a_sound_graph_is_blamed_not_the_graph(bundle, monkeypatch):
    model = open_bundle(bundle).read_part("decoder")
    create = onnxruntime.InferenceSession

    def fail(raw, options, providers, **more):
        if len(providers) > 1:
            raise RuntimeError("long C++ signature CUDA failure 35: CUDA driver version is insufficient ; GPU=-1")
        return create(raw, options, providers=providers, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    monkeypatch.setattr(providers, "missing_library", lambda: "")
    with pytest.raises(ProviderError, match=r"says: CUDA failure 35: CUDA driver version is insufficient\)"):
        providers.create_session(model, "cuda", threads=1, spinning=False)
    with pytest.raises(BundleError, match="does not accept the graph"):
        providers.create_session(model[:50], "cuda", threads=1, spinning=False)


def test_cuda_computes_in_float32_and_not_in_ten_bits(bundle, monkeypatch):
    asked = []

    def fail(raw, options, providers, **more):
        asked.append(providers)
        raise RuntimeError("no device")

    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    monkeypatch.setattr(providers, "missing_library", lambda: "")
    for provider in ("cuda", "directml", "cpu"):
        with pytest.raises(EdgeAEError):
            providers.create_session(open_bundle(bundle).read_part("decoder"), provider, threads=1, spinning=False)
    assert [each for each in asked if each[0] != "CPUExecutionProvider"] == [
        (("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"),
        (("DmlExecutionProvider", {}), "CPUExecutionProvider"),
    ]
