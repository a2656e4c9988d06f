"""What tests of several packages share."""

from __future__ import annotations

import copy
import functools
import os
import sys

import pytest

# Of the runtime's, whose tests are also run where nothing else of the project is.
from tests.runtime.conftest import call as call
from tests.runtime.conftest import refused as refused
from tests.runtime.conftest import run_program as run_program


@pytest.fixture(scope="session", autouse=True)
def torch_operators_read_once():
    """torch.onnx parses the sources of its thousand operators again for every export: half of the time of a small one.

    Here they are parsed once; every export gets a table of its own. Where torch has no such table, nothing changes.
    """
    if "torch" not in sys.modules:  # the runtime's tests alone
        yield
        return
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

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
        yield


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
