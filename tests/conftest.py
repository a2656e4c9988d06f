"""What tests of several packages share."""

from __future__ import annotations

import copy
import functools
import inspect
import os
import sys

import pytest

# Of the runtime's, whose tests are also run where nothing else of the project is.
from tests.runtime.conftest import call as call
from tests.runtime.conftest import refused as refused
from tests.runtime.conftest import run_program as run_program


@pytest.fixture(scope="session", autouse=True)
def torch_operators_read_once():
    """torch.onnx parses the sources of its thousand operators again for every export, and lists torch's own dozens of
    times: half of the time of a small one.

    Here both are done once; every export gets a table of its own. Where torch has no such table, nothing changes.
    """
    if "torch" not in sys.modules:  # the runtime's tests alone
        yield
        return
    try:
        from torch._export import utils
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        listed = functools.cache(utils._materialize_cpp_cia_ops)
        read = functools.cache(ONNXRegistry.from_torchlib)
    except (ImportError, AttributeError):
        yield
        return

    def from_torchlib(*arguments, **options):
        table = copy.copy(read(*arguments, **options))
        table.functions = {name: list(found) for name, found in table.functions.items()}
        return table

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(from_torchlib))
        patch.setattr(utils, "_materialize_cpp_cia_ops", listed)
        yield


SHORTER = 10
"""Times shorter than the exporter's are a test's turns at the clock: as many rounds, of fewer calls each."""


@pytest.fixture(scope="session", autouse=True)
def short_turns():
    """Timing two forms of a part is most of a small export's time, and few tests ask which form won; those take
    `whole_turns`."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("edgeae_export.verdict", "edgeae_export.rewrites.candidates"):
            if module := sys.modules.get(name):
                patch.setattr(module, "interleave", _in_short_turns(module.interleave))
        yield


def _in_short_turns(interleave):
    @functools.wraps(interleave)
    def shorter(candidates, *, seconds_per_turn, **options):
        return interleave(candidates, seconds_per_turn=seconds_per_turn / SHORTER, **options)

    return shorter


@pytest.fixture
def whole_turns(monkeypatch):
    """The exporter's own turns, for tests of what came of the timing."""
    for name in ("edgeae_export.verdict", "edgeae_export.rewrites.candidates"):
        monkeypatch.setattr(sys.modules[name], "interleave", inspect.unwrap(sys.modules[name].interleave))


@pytest.fixture(scope="session")
def fashion_mnist():
    """The full Fashion-MNIST; without it, its tests are skipped on a desk and fail where everything must run."""
    from edgeae_runtime.errors import InputError

    from edgeae.data import load_images  # the runtime's tests run where edgeae is not installed

    try:
        return load_images("fashion-mnist", download=False)
    except InputError as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI is set, so the full data must be there: {error}")
        pytest.skip(str(error))
