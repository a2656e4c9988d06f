"""CUDA's libraries, loaded before ONNX Runtime needs them, and the first one that is missing.

ONNX Runtime prints to the terminal when its CUDA provider does not load, and runs on the CPU. Loading the same
libraries here, first, gives the reason as a string instead.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import re
import sys

import onnxruntime as ort

from edgeae_runtime.errors import gist

_PREFIX, _SUFFIX = ("", ".dll") if sys.platform == "win32" else ("lib", ".so")
_MISSING_FILE = re.compile(r"(lib[\w.+-]+?\.so[\w.]*): cannot open shared object file")


@functools.cache
def missing_library() -> str:
    """Why the CUDA provider of the installed ONNX Runtime cannot load on this machine, with what to do; else `""`."""
    from pathlib import Path

    with contextlib.redirect_stdout(io.StringIO()):  # `preload_dlls` prints what it does not find
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # CUDA and cuDNN from pip's own packages, where they are installed
    folder = Path(ort.__file__).parent / "capi"
    try:
        for name in ("onnxruntime_providers_shared", "onnxruntime_providers_cuda"):
            ctypes.CDLL(str(folder / f"{_PREFIX}{name}{_SUFFIX}"))
    except OSError as error:
        return _explain(str(error))
    return ""


def _explain(error: str) -> str:
    """The loader's message as a reason and a remedy."""
    found = _MISSING_FILE.search(error)
    if found is None:
        return f"its library does not load ({gist(error)}): install 'onnxruntime-gpu[cuda,cudnn]' and NVIDIA's driver"
    library = found.group(1)
    if library.startswith("libcuda.so"):
        return f"{library} is missing, which comes with NVIDIA's driver: install the driver"
    return f"{library} is missing: pip install 'onnxruntime-gpu[cuda,cudnn]', or install that version of CUDA and cuDNN"
