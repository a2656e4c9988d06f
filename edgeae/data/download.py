"""Fashion-MNIST over the network, through torchvision, into a cache that only ever holds checked files."""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from edgeae_runtime.errors import InputError, gist

from edgeae.data.fashion_mnist import FILES, MD5, read_fashion_mnist

TIMEOUT_SECONDS = 30.0
"""The longest a server may stay silent."""
ATTEMPTS = 2


def download_fashion_mnist(cache: Path, on_progress: Callable[[str], None]) -> None:
    """Download the four files into `cache`; each appears there whole and checked, or not at all.

    Raises:
        InputError: no attempt succeeded, what came is not Fashion-MNIST, or the cache cannot be written.
    """
    raw = cache / "FashionMNIST" / "raw"
    try:
        raw.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=cache) as temporary:
            _attempt(Path(temporary), on_progress)
            read_fashion_mnist(Path(temporary), "fashion-mnist", MD5)
            for name in FILES:
                file = Path(temporary) / "FashionMNIST" / "raw" / name
                with file.open("rb") as written:
                    os.fsync(written.fileno())
                file.replace(raw / name)
    except OSError as error:
        raise InputError(
            f"Cannot keep Fashion-MNIST in the cache {cache} ({error.strerror}). "
            "Free space there, or set EDGEAE_CACHE to a folder that can be written."
        ) from error


def _attempt(folder: Path, on_progress: Callable[[str], None]) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        on_progress(f"downloading Fashion-MNIST (30 MB), attempt {attempt} of {ATTEMPTS}")
        try:
            with _socket_timeout(TIMEOUT_SECONDS), contextlib.redirect_stderr(io.StringIO()):  # torchvision's own bars
                fetch(folder)
        except (RuntimeError, OSError, http.client.HTTPException) as error:  # URLError and time-outs are OSErrors
            problem = error
        else:
            return
    raise InputError(
        f"Fashion-MNIST is not on this machine and could not be downloaded ({gist(problem)}). Install it with "
        "`apt-get install dataset-fashion-mnist`, give a folder that holds its files with `--data FOLDER`, "
        "try again with a network, or use the small built-in set with `--data sample`."
    )


def fetch(folder: Path) -> None:
    """Let torchvision download and unpack the set into `folder/FashionMNIST/raw`."""
    from torchvision.datasets import FashionMNIST  # takes a second to import, and is seldom needed

    FashionMNIST(root=str(folder), train=True, download=True)


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """A time-out for code that opens connections without one; torchvision would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
