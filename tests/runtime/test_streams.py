"""Streams: whose arrays are whose, what comes before an error, and how one ends."""

import itertools
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from edgeae_runtime import InputError


def many(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 3)).astype(np.float32)


def collect(outputs, found):
    """Keep what comes before an error."""
    for output in outputs:
        found.append(output)


class Slow:
    """`autoencoder.decode`, after a while: whoever refills a buffer has time to."""

    def __init__(self, autoencoder, monkeypatch):
        decode = autoencoder.decode
        monkeypatch.setattr(autoencoder, "decode", lambda latents: (time.sleep(0.005), decode(latents))[1])


def test_a_stream_owns_what_a_camera_refills(ae, monkeypatch):
    expected = [ae.decode(many(2, seed)) for seed in range(20)]
    Slow(ae, monkeypatch)

    def camera():
        buffer = np.empty((2, 3), np.float32)
        for seed in range(20):
            buffer[:] = many(2, seed)
            yield buffer

    for found, wanted in itertools.zip_longest(ae.stream(camera()), expected):
        np.testing.assert_array_equal(found, wanted)


def test_a_stream_owns_what_its_reader_refills(ae, monkeypatch):
    expected = [ae.decode(many(2, seed)) for seed in range(10)]
    Slow(ae, monkeypatch)
    buffers = [many(2, seed) for seed in range(10)]
    outputs = []
    for output in ae.stream(iter(buffers)):
        outputs.append(output)
        for buffer in buffers[: len(outputs) + 1]:  # those that were taken: this one, and the one ahead
            buffer[:] = 0
    np.testing.assert_array_equal(outputs, expected)


def test_what_is_finished_comes_before_what_the_iterable_raises(ae):
    def batches():
        for seed in range(3):
            yield many(2, seed)
        raise KeyError("the camera's plug")

    found = []
    with pytest.raises(KeyError, match="plug"):
        collect(ae.stream(batches()), found)
    np.testing.assert_array_equal(found, [ae.decode(many(2, seed)) for seed in range(3)])


@pytest.mark.parametrize("bad", [np.zeros((2, 4), np.float32), "no array", None, np.full((1, 3), 1e39)])
def test_what_is_finished_comes_before_a_bad_batch(ae, bad):
    found = []
    with pytest.raises(InputError):
        collect(ae.stream([many(1), many(2), bad, many(3)]), found)
    assert [len(output) for output in found] == [1, 2]


def test_a_reader_may_stop_early(ae):
    before = threading.active_count()
    for stop in (0, 1, 3):
        stream = ae.stream(many(2, seed) for seed in itertools.count())
        for _ in range(stop):
            next(stream)
        stream.close()
        assert threading.active_count() == before
    stream = ae.stream(many(2, seed) for seed in itertools.count())
    next(stream)
    del stream
    assert threading.active_count() == before


def test_a_process_ends_with_a_stream_open(bundle):
    code = (
        "import itertools, numpy, edgeae_runtime as r\n"
        f"ae = r.Autoencoder.load({str(bundle)!r})\n"
        "stream = ae.stream(numpy.zeros((1, 3), 'float32') for _ in itertools.count()); next(stream)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_wrong_arguments_of_a_stream_are_told_at_once(ae):
    for batches, call in ((5, "decode"), ([], 5), ([], np.zeros(3)), ([], "close")):
        with pytest.raises(InputError):
            ae.stream(batches, call)
