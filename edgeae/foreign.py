"""A model of somebody else's, named on the command line as `package.module:attribute`, with its weights."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from edgeae_runtime.errors import InputError
from safetensors import SafetensorError
from torch import Tensor, nn

_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_NESTED = ("state_dict", "model_state_dict", "model")
"""Where training scripts put the weights inside their own dictionary."""
_SHOWN = 3


def is_import_name(text: str) -> bool:
    """Whether a word names an attribute of a module, and not a folder."""
    return bool(_NAME.fullmatch(text))


def build_foreign(name: str, weights: Path | None = None, *, trust_pickle: bool = False) -> Any:  # noqa: ANN401
    """Import `package.module:attribute`, call it if it is no module yet, and load weights into it.

    The current folder can be imported from. Importing runs the package's own code: it is the user's.

    Args:
        name: the attribute may be a module, a class or function that makes one, or a pair of modules.
        weights: .safetensors, or a torch file of a state dictionary.
        trust_pickle: whether a torch file may run code while it is read; never for files from strangers.

    Returns:
        A module or a pair of modules, in eval mode.

    Raises:
        InputError: it cannot be imported or made, or the weights cannot be read or do not fit.
    """
    package, attribute = name.split(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found = importlib.import_module(package)
        for word in attribute.split("."):
            found = getattr(found, word)
        model: Any = found if isinstance(found, nn.Module | tuple) else found()  # type: ignore[operator]
    except Exception as error:  # the user's own code may raise anything
        raise InputError(
            f"{name} cannot be made: {_short(error)}. Expected a torch module, or something to call without arguments "
            "that gives one, in a package that can be imported from here."
        ) from error
    parts = model if isinstance(model, tuple | list) else (model,)
    if not all(isinstance(part, nn.Module) for part in parts):
        kinds = ", ".join(type(part).__name__ for part in parts)
        raise InputError(f"{name} gave {kinds}, expected a torch module or a pair of them: encoder, decoder.")
    if weights is not None:
        if len(parts) != 1:
            raise InputError(f"{name} gave {len(parts)} modules, expected one to load {weights} into: wrap them.")
        load_weights(parts[0], weights, trust_pickle=trust_pickle)
    for part in parts:
        part.eval()
    return model


def load_weights(module: nn.Module, path: Path, *, trust_pickle: bool = False) -> None:
    """Read weights into a module; names and shapes must fit.

    Raises:
        InputError: the file cannot be read, wants to run code, or its names or shapes are not the module's.
    """
    tensors = _read(path, trust_pickle)
    try:
        result = module.load_state_dict(dict(tensors), strict=False)
    except RuntimeError as error:  # shapes
        raise InputError(f"{path} does not fit {type(module).__name__}: {_short(error)}.") from error
    if result.missing_keys or result.unexpected_keys:
        told = [
            f"{what} {', '.join(keys[:_SHOWN])}{' and more' if len(keys) > _SHOWN else ''}"
            for what, keys in (("it lacks", result.missing_keys), ("it also has", result.unexpected_keys))
            if keys
        ]
        raise InputError(
            f"{path} does not fit {type(module).__name__}: {'; '.join(told)}. Expected the weights of this very module."
        )


def _read(path: Path, trust_pickle: bool) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise InputError(f"There are no weights at {path}. Expected a .safetensors file, or a torch state dictionary.")
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except (SafetensorError, ValueError, OSError) as error:
            raise InputError(f"{path} is not a readable safetensors file ({_short(error)}).") from error
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises anything
        if not trust_pickle:
            raise InputError(
                f"{path} is not a plain state dictionary: reading it could run code of whoever made it "
                f"({_short(error)}). Save the weights with safetensors; or, if you made the file yourself, read it "
                "with --trust-pickle."
            ) from error
        document = _unpickled(path)
    if isinstance(document, nn.Module):
        document = document.state_dict()
    for key in _NESTED:
        if isinstance(document, Mapping) and isinstance(document.get(key), Mapping):
            document = document[key]
    if not isinstance(document, Mapping) or not all(isinstance(value, Tensor) for value in document.values()):
        raise InputError(f"{path} holds {type(document).__name__}, expected a state dictionary: names and tensors.")
    return document


def _unpickled(path: Path) -> Any:  # noqa: ANN401
    """The whole pickle, which the user asked for."""
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        raise InputError(f"{path} cannot be read: {_short(error)}.") from error


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
