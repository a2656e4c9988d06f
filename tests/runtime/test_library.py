"""What an application leans on when hasty or under attack: memory for every dtype, arguments of any type, limits of
time, telemetry, lying graphs."""

import json
import math
import os
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from edgeae_runtime import Autoencoder, BundleError, InputError, TimeLimitError, open_bundle
from edgeae_runtime.bundle import tuning
from edgeae_runtime.machine import usable_cores
from edgeae_runtime.measure.cold_start import process

SAME = 1e-6  # another batch size sums in another order: a few roundings of values near one


def many(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 3)).astype(np.float32)


def collect(outputs, found):
    """Keep what comes before an error."""
    for output in outputs:
        found.append(output)


# Memory and conversions


def forms(images):
    """The same images of [0, 1], as every kind of array that is taken."""
    wide = np.repeat(images, 2, axis=-1)
    return {
        "uint8": np.rint(images * 255).astype(np.uint8),
        "float16": images.astype(np.float16),
        "float64": images.astype(np.float64),
        "swapped": images.astype(">f4"),
        "strided": wide[..., ::2],
        "reversed": images[::-1, :, ::-1],
        "fortran": np.asfortranarray(images),
    }


@pytest.mark.parametrize("kind", list(forms(np.zeros((1, 1, 2, 2), np.float32))))
def test_no_dtype_makes_a_converted_copy(ae, kind):
    """Peak of numpy's own allocations, against the bytes that a converted copy would take."""
    images = np.random.default_rng(0).random((20_000, 1, 16, 16), dtype=np.float32)
    batch = forms(images)[kind]
    calls = {
        "encode": lambda: ae.encode(batch),
        "reconstruct": lambda: ae.reconstruct(batch, out=out),
        "stream": lambda: [
            len(each) for each in ae.stream((batch[i : i + 500] for i in range(0, len(batch), 500)), "encode")
        ],
    }
    out = np.empty((len(batch), 1, 16, 16), np.float32)
    for name, call in calls.items():
        tracemalloc.start()
        call()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 0.5 * images.nbytes, name


@pytest.mark.parametrize("kind", list(forms(np.zeros((1, 1, 2, 2), np.float32))))
def test_every_dtype_gives_the_same_in_chunks(ae, kind, monkeypatch):
    images = np.random.default_rng(0).random((50, 1, 16, 16), dtype=np.float32)
    batch = forms(images)[kind]
    plain = np.ascontiguousarray(batch, dtype=np.float32) / (255 if kind == "uint8" else 1)
    expected = ae.encode(plain.astype(np.float32))
    rebuilt = ae.decode(expected)
    for part in ("encoder", "decoder"):
        monkeypatch.setattr(ae._part(part), "chunk", 7)
    np.testing.assert_allclose(ae.encode(batch), expected, atol=SAME)
    np.testing.assert_allclose(ae.reconstruct(batch), rebuilt, atol=SAME)


def test_checks_are_made_on_what_the_graph_gets(ae, monkeypatch):
    monkeypatch.setattr(ae._part("decoder"), "chunk", 4)
    for value in (1e39, -1e39, 1e300, np.longdouble("1e39")):
        for place in (0, 9):
            latents = np.zeros((10, 3), np.result_type(value, np.float64))
            latents[place, 1] = value
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                with pytest.raises(InputError, match="float32 can hold"):
                    ae.decode(latents)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match="finite"):
            ae.decode(np.array([[np.inf, -np.inf, 0]], np.float32))
        assert np.isfinite(ae.decode(np.full((1, 3), 1e30))).all()
        assert np.isfinite(ae.decode(np.full((1, 3), 1e-60))).all()


# Arguments


class Gradient:
    """As torch's tensors that need their gradient."""

    def __array__(self, *arguments, **named):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")


def test_arrays_of_other_kinds_are_refused_or_understood(ae):
    masked = np.ma.masked_array(many(2), mask=[[0, 1, 0], [0, 0, 0]])
    with pytest.raises(InputError, match="filled"):
        ae.decode(masked)
    np.testing.assert_array_equal(ae.decode(np.ma.masked_array(many(2))), ae.decode(many(2)))
    with pytest.raises(InputError, match="detach"):
        ae.decode(Gradient())
    for value in (
        np.array([None] * 3),
        np.zeros((2, 3), "V2"),
        np.zeros((2, 3), "M8[s]"),
        object(),
        {},
        "x",
        b"x",
        True,
        1.0,
    ):
        for call in (ae.decode, ae.encode, ae.reconstruct, lambda v: ae.interpolate(v, v)):
            with pytest.raises(InputError):
                call(value)
    np.testing.assert_array_equal(ae.decode(many(2).tolist()), ae.decode(many(2)))


@pytest.mark.parametrize(
    "options",
    [
        {"threads": "2"}, {"threads": True}, {"threads": 1.5}, {"threads": 0}, {"threads": 10**9}, {"threads": [1]},
        {"provider": []}, {"provider": None}, {"provider": b"cpu"}, {"spinning": "no"}, {"spinning": None},
        {"parts": 5}, {"parts": ()}, {"parts": [[]]}, {"parts": "d"}, {"parts": ["decoder", None]}, {"parts": ""},
        {"timeout_s": 0}, {"timeout_s": -1}, {"timeout_s": "1"}, {"timeout_s": True}, {"timeout_s": float("nan")},
        {"timeout_s": float("inf")}, {"timeout_s": 10**400}, {"timeout_s": []},
    ],
)  # fmt: skip
def test_options_of_another_type_are_refused(bundle, options):
    with pytest.raises(InputError):
        Autoencoder.load(bundle, **options)


@pytest.mark.parametrize("path", [None, 5, [], b"bundle"])
def test_a_path_of_another_type_is_refused(path):
    with pytest.raises(InputError):
        Autoencoder.load(path)


@pytest.mark.parametrize("wrong", ["x", 1.5, True, None, [], -1, 0, 10**30])
def test_numbers_of_another_type_are_refused(ae, images, wrong):
    with pytest.raises(InputError):
        ae.sample(wrong)
    with pytest.raises(InputError):
        ae.interpolate(images[0], images[1], steps=wrong)
    if wrong == 10**30:
        ae.warmup(wrong)  # warm from the first chunk on
    else:
        with pytest.raises(InputError):
            ae.warmup(wrong)
    if wrong not in (0, None, 10**30):
        with pytest.raises(InputError):
            ae.sample(1, seed=wrong)
    assert len(ae.sample(np.int64(2), seed=np.uint8(1))) == 2


def test_one_part_may_be_named_alone(bundle):
    assert list(Autoencoder.load(bundle, parts="decoder").providers) == ["decoder"]


def test_out_of_a_single_item(ae, images):
    latent, single = many(1)[0], np.empty((1, 16, 16), np.float32)
    result = ae.decode(latent, out=single)
    assert np.shares_memory(result, single)
    assert result.shape == single.shape
    np.testing.assert_array_equal(single, ae.decode(latent))
    assert ae.reconstruct(images[0, 0], out=single).shape == (1, 16, 16)
    batch = np.empty((1, 1, 16, 16), np.float32)
    assert np.shares_memory(ae.decode(latent, out=batch), batch)
    for out in (np.empty((16, 16), np.float32), np.empty((2, 1, 16, 16), np.float32), np.empty((1, 16, 16))):
        with pytest.raises(InputError, match=r"array of float32 \[1, 16, 16\]"):
            ae.decode(latent, out=out)
    with pytest.raises(InputError, match=r"array of float32 \[1, 1, 16, 16\]"):
        ae.decode(latent[None], out=single)


# Time


class Endless:
    """A session whose graph ends only when it is told to, as ONNX Runtime's do between two nodes."""

    def run(self, names, feed, options):
        while not options.terminate:
            time.sleep(0.001)
        raise RuntimeError("Exiting due to terminate flag being set to true.")


@pytest.mark.parametrize("call", ["encode", "decode", "reconstruct", "warmup"])
def test_a_call_is_ended_when_its_time_is_over(bundle, images, monkeypatch, call):
    ae = Autoencoder.load(bundle, timeout_s=0.05)
    for part in ("encoder", "decoder"):
        monkeypatch.setattr(ae._part(part), "_session", Endless())
    inputs = {"decode": many(2), "warmup": 1}.get(call, images)
    with pytest.raises(TimeLimitError, match=r"limit of 0\.05 s"):
        getattr(ae, call)(inputs)


def test_onnxruntime_heeds_the_limit(bundle):
    ae = Autoencoder.load(bundle, timeout_s=0.01)
    images = np.zeros((100_000, 1, 16, 16), np.uint8)
    with pytest.raises(TimeLimitError):
        collect((ae.encode(images) for _ in range(100)), [])


def test_a_limit_that_is_not_reached_changes_nothing(bundle, ae, images):
    limited = Autoencoder.load(bundle, timeout_s=600)
    before = threading.active_count()
    np.testing.assert_array_equal(limited.reconstruct(images), ae.reconstruct(images))
    np.testing.assert_array_equal(limited.decode(many(2)), ae.decode(many(2)))
    with pytest.raises(InputError):
        limited.decode(np.full((1, 3), np.nan))
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before  # no timer is left waiting


# The surroundings


def in_a_home(code, tmp_path, **environment):
    """Files that a process left in a new home."""
    cleared = {key: value for key, value in os.environ.items() if not key.startswith(("ORT_", "XDG_"))}
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**cleared, "HOME": str(tmp_path), **environment}, timeout=120
    )
    return [path for path in tmp_path.rglob("*") if path.is_file() and "onnxruntime" in str(path)]


@pytest.mark.parametrize(
    "module", ["edgeae_runtime", "edgeae_runtime.sessions.providers", "edgeae_runtime.command.cli"]
)
def test_nothing_is_written_for_telemetry(bundle, tmp_path, module):
    code = f"import {module}, edgeae_runtime as r\nr.Autoencoder.load({str(bundle)!r}).sample(1)"
    assert in_a_home(code, tmp_path) == []


def test_the_user_decides_on_telemetry(tmp_path):
    code = "import os, edgeae_runtime; assert os.environ['ORT_DISABLE_TELEMETRY'] == '0'"
    in_a_home(code, tmp_path, ORT_DISABLE_TELEMETRY="0")


def test_measuring_a_start_runs_nothing_of_the_current_folder(tmp_path):
    for name in ("edgeae_runtime", "numpy", "json"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise SystemExit(3)\n")
    command = process("edgeae_runtime.measure.cold_start")
    subprocess.run(command, cwd=tmp_path, check=False, capture_output=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "kind", ["fifo", "link", "device", "folder", "deep", "huge", "infinite", "text", "bool", "float", "long"]
)
def test_no_tuning_hinders_loading(broken, kind, tmp_path):
    path: Path = broken / tuning.TUNING_FILE
    most, entry = usable_cores(), {"form": "default", "threads": usable_cores()}
    whole = tuning.tuning_document(open_bundle(broken), "cpu", {"decoder": tuning.Choice(threads=most)})
    text = {
        "deep": "[" * 60_000,
        "infinite": '{"schema_version": 1, "threads": Infinity}',
        "huge": '{"schema_version": 1e999}',
        "text": "\udcff",
        "bool": json.dumps(whole | {"parts": {"decoder": entry | {"threads": True}}}),
        "float": json.dumps(whole | {"parts": {"decoder": entry | {"threads": math.inf}}}).replace("Infinity", "1e999"),
        "long": " " * (1 << 19) + json.dumps(whole),
    }.get(kind)
    if text is not None:
        path.write_bytes(text.encode(errors="surrogateescape"))
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else tmp_path / "elsewhere.json")
    assert Autoencoder.load(broken).threads == {"encoder": 1, "decoder": 1}


# Graphs that lie


SHAPES = {"wide": [2, 4], "square": [2, 2], "scalar": [], "none": [0], "flat": [6], "other batch": [3, 3]}


class Lying:
    """A session whose graph gives something else than it declares."""

    def __init__(self, result):
        self.result = result

    def run(self, names, feed, options=None):
        return [self.result] * len(names)


@pytest.mark.parametrize(
    "result",
    [
        *(np.zeros(shape, np.float32) for shape in SHAPES.values()),
        np.zeros((2, 3)),
        [1.0],
        None,
        np.zeros((2, 3), np.uint8),
    ],
)
def test_an_output_that_is_not_as_promised_blames_the_bundle(ae, monkeypatch, result):
    encoder = ae._part("encoder")
    monkeypatch.setattr(encoder, "_session", Lying(result))
    images = np.zeros((2, 1, 16, 16), np.uint8)
    for call in (ae.encode, ae.reconstruct, lambda x: ae.encode(x, out=np.empty((2, 3), np.float32))):
        with pytest.raises(BundleError, match="encoder's graph gave"):
            call(images)
    monkeypatch.setattr(encoder, "chunk", 1)
    with pytest.raises(BundleError, match="encoder's graph gave"):
        ae.encode(images)
    monkeypatch.setattr(ae._part("decoder"), "_session", Lying(result))
    with pytest.raises(BundleError, match="decoder's graph gave"):
        ae.decode(many(2))
