"""What tests of several packages share."""

from __future__ import annotations

import os

import pytest


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
