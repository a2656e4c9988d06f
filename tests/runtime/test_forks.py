"""Copies, forks and replaced folders: the same model or an error."""

import copy
import itertools
import os
import pickle  # noqa: TID251 what users do with a model that they send to a worker
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
from edgeae_runtime import Autoencoder, InputError, IntegrityError
from edgeae_runtime.sessions import forks, providers

SAME = 1e-6  # another batch size sums in another order: a few roundings of values near one
forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def many(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 3)).astype(np.float32)


def test_a_path_is_fixed_when_it_is_loaded(broken, monkeypatch):
    monkeypatch.chdir(broken.parent)
    ae = Autoencoder.load(broken.name)
    monkeypatch.chdir("/")
    for other in (pickle.loads(pickle.dumps(ae)), copy.copy(ae), copy.deepcopy(ae)):
        np.testing.assert_array_equal(other.decode(many(2)), ae.decode(many(2)))


def replace(broken, int8_bundle):
    for file in int8_bundle.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())


def test_a_replaced_bundle_is_not_unpickled(broken, int8_bundle):
    ae = Autoencoder.load(broken)
    raw = pickle.dumps(ae)
    replace(broken, int8_bundle)
    with pytest.raises(IntegrityError, match="another one"):
        pickle.loads(raw)
    with pytest.raises(IntegrityError, match="another one"):
        copy.copy(ae)
    assert ae.decode(many(1)).shape == (1, 1, 16, 16)  # here, it goes on


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda ae: pickle.loads(pickle.dumps(ae))])
def test_closing_holds_in_copies(bundle, how):
    ae = Autoencoder.load(bundle)
    ae.close()
    other = how(ae)
    with pytest.raises(InputError, match="was closed"):
        other.decode(many(1))
    assert other.manifest == ae.manifest


def child(work, seconds=30):
    """The exit status of a forked child: 0 if `work` gives true; -9 if it hung."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads is what is tested
        pid = os.fork()
    if pid == 0:
        status = 2
        try:
            status = 0 if work() else 1
        finally:
            os._exit(status)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return -9


def refused(call, error):
    try:
        call()
    except error:
        return True
    return False


@forking
@pytest.mark.parametrize("threads", [1, 2])
def test_in_a_child_the_same_model_or_an_error(broken, int8_bundle, threads, monkeypatch):
    monkeypatch.chdir(broken.parent)
    ae = Autoencoder.load(broken.name, threads=threads)
    expected = ae.decode(many(2))
    monkeypatch.chdir("/")
    assert child(lambda: np.allclose(ae.decode(many(2)), expected, atol=SAME)) == 0
    assert child(lambda: (ae.close(), refused(lambda: ae.decode(many(2)), InputError))[1]) == 0
    replace(broken, int8_bundle)
    assert child(lambda: refused(lambda: ae.decode(many(2)), IntegrityError)) == 0
    ae.close()
    assert child(lambda: refused(lambda: ae.decode(many(2)), InputError)) == 0


@forking
def test_a_child_that_never_calls_ends(bundle):
    """Freeing a session whose threads a fork has lost would wait for them."""
    code = (
        f"import os, sys, edgeae_runtime as r\nae = r.Autoencoder.load({str(bundle)!r}, threads=2)\n"
        "if (pid := os.fork()) == 0:\n    del ae\n    sys.exit(7)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False, timeout=60)
    assert done.returncode == 7


@forking
def test_a_fork_waits_for_a_session_that_is_being_made(bundle, monkeypatch):
    making, made = threading.Event(), []
    create = providers.ort.InferenceSession

    def slowly(*arguments, **named):
        making.set()
        time.sleep(0.3)
        session = create(*arguments, **named)
        made.append(session)
        return session

    monkeypatch.setattr(providers.ort, "InferenceSession", slowly)
    loader = threading.Thread(target=Autoencoder.load, args=(bundle,), kwargs={"parts": "decoder"})
    loader.start()
    assert making.wait(30)
    assert child(lambda: len(made) == 1 and forks.SESSIONS.acquire(timeout=1)) == 0
    loader.join(30)
    assert made


@forking
def test_a_stream_of_before_a_fork_says_so(ae):
    stream = ae.stream(many(1) for _ in itertools.count())
    next(stream)

    def go_on():
        try:
            next(stream)
        except Exception as error:
            return "fork" in str(error)
        return False

    assert child(go_on) == 0
    assert next(stream).shape == (1, 1, 16, 16)
