"""Reading the files that trainings leave behind, without running code that is in them.

Plain state dictionaries, safetensors, and what training scripts wrap round them: hyperparameters, counters, optimizer
states, lists, a whole pickled module of the user's own class, a TorchScript archive.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib
import pathlib
import types
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from edgeae_runtime.errors import InputError, gist
from safetensors import SafetensorError
from torch import nn

_multiarray = importlib.import_module("numpy._core.multiarray" if hasattr(np, "_core") else "numpy.core.multiarray")
_NUMPY = (_multiarray.scalar, _multiarray._reconstruct)
HARMLESS: tuple[Callable[..., Any], ...] = (
    argparse.Namespace,
    types.SimpleNamespace,
    pathlib.PosixPath,
    pathlib.WindowsPath,
    pathlib.PurePosixPath,
    pathlib.PureWindowsPath,
    datetime.datetime,
    datetime.date,
    datetime.timedelta,
    *(dict, list, set, frozenset, tuple, int, float, bool, str, complex),
    np.dtype,
    np.ndarray,
    *_NUMPY,
    *(getattr(np.dtypes, name) for name in np.dtypes.__all__ if name != "ObjectDType"),
)
"""Containers and numbers that training scripts save beside the weights: making one of them runs nothing else."""


def read_weights(path: Path, module_classes: Mapping[str, type], *, trust_pickle: bool = False) -> Any:  # noqa: ANN401
    """The document in a weights' file.

    Args:
        path: .safetensors, or what `torch.save` or `torch.jit.save` wrote.
        module_classes: by name, the classes of the module that the weights are for, which may be unpickled too.
        trust_pickle: whether the file may run code while it is read.

    Raises:
        InputError: it cannot be read, or wants to run code.
    """
    if not path.is_file():
        raise InputError(f"There are no weights at {path}. Expected a .safetensors file, or a torch state dictionary.")
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except (SafetensorError, ValueError, OSError) as error:
            raise InputError(f"{path} is not a readable safetensors file ({short(error)}).") from error
    script = _script_code(path)
    if script is not None:
        return _read_script(path, script, trust_pickle)
    wanted = _wanted(path)
    own = [(kind, name) for name, kind in module_classes.items() if name in wanted]
    try:
        with torch.serialization.safe_globals([*HARMLESS, *own]), _quiet():
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises anything
        if trust_pickle:
            return _unpickled(path)
        names = {f"{each.__module__}.{each.__qualname__}" for each in HARMLESS} | set(module_classes)
        strange = sorted((name for name in wanted if name not in names), key=lambda name: name.startswith("torch."))
        why = f"it asks for {', '.join(strange[:3])}" if strange else short(error)
        raise InputError(
            f"{path} holds more than weights, and reading it could run code of whoever made it ({why}). Save the "
            "weights alone, as torch.save(model.state_dict(), …) or with safetensors; or, if you made the file "
            "yourself, read it with --trust-pickle."
        ) from error


def _wanted(path: Path) -> list[str]:
    """The classes and functions that a file asks for beyond torch's own harmless ones; empty where it does not tell."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # an old file, or none of torch's: reading it says more
        return []


def _unpickled(path: Path) -> Any:  # noqa: ANN401
    """The whole pickle, which the user asked for."""
    try:
        with _quiet():
            return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        raise InputError(f"{path} cannot be read: {short(error)}.") from error


def _script_code(path: Path) -> str | None:
    """The code in a TorchScript archive; None for another file."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if not any(name.endswith("constants.pkl") for name in names):
            return None
        return "\n".join(archive.read(name).decode(errors="replace") for name in names if name.endswith(".py"))


def _read_script(path: Path, code: str, trust_pickle: bool) -> nn.Module:
    """The module in a TorchScript archive. Loading it runs its `__setstate__` methods, if it has any."""
    if "__setstate__" in code and not trust_pickle:
        raise InputError(
            f"{path} is a TorchScript archive that runs code while it is read (__setstate__). Save its state "
            "dictionary instead; or, if you made the file yourself, read it with --trust-pickle."
        )
    try:
        with _quiet():
            module: nn.Module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:
        raise InputError(f"{path} is not a readable TorchScript archive: {short(error)}.") from error
    return module


def class_names(modules: tuple[nn.Module, ...]) -> dict[str, type]:
    """The classes in modules, by the names a pickle calls them; the outermost also as a script's own (`__main__`)."""
    found = {f"{kind.__module__}.{kind.__qualname__}": kind for each in modules for kind in map(type, each.modules())}
    scripts = {f"__main__.{kind.__qualname__}": kind for kind in found.values() if not _torchs(kind)}
    return {**scripts, **found}


def _torchs(kind: type) -> bool:
    return kind.__module__.split(".")[0] == "torch"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def short(error: Exception) -> str:
    """An exception on one line, without torch's advice."""
    text = str(error).split("WeightsUnpickler error: ")[-1]
    return f"{type(error).__name__}: {gist(text.split('Please use')[0].split('Check the documentation')[0])}"
