"""A model of somebody else's, named on the command line as `package.module:attribute`, with its weights."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

from edgeae_runtime.errors import InputError
from torch import nn

from edgeae.own_model.weight_files import short
from edgeae.own_model.weights import load_weights

_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def is_import_name(text: str) -> bool:
    """Whether a word names an attribute of a module, and not a folder."""
    return bool(_NAME.fullmatch(text))


def build_own_model(
    name: str, weights: Path | None = None, *, weights_key: str | None = None, trust_pickle: bool = False
) -> tuple[Any, list[str]]:
    """Import `package.module:attribute`, call it if it is no module yet, and load weights into it.

    The current folder can be imported from. Importing runs the package's own code: it is the user's.

    Args:
        name: the attribute may be a module, a class or function that makes one, or a pair of modules.
        weights: .safetensors, or a file of torch's that has the weights somewhere; see `edgeae.own_model.weights`.
        weights_key: where in the file, if in several places.
        trust_pickle: whether a torch file may run code while it is read; never for files from strangers.

    Returns:
        A module or a pair of modules, in eval mode, and what the user should know of the weights.

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
            f"{name} cannot be made: {short(error)}. Expected a torch module, or something to call without arguments "
            "that gives one, in a package that can be imported from here."
        ) from error
    parts = model if isinstance(model, tuple | list) else (model,)
    if not all(isinstance(part, nn.Module) for part in parts):
        kinds = ", ".join(type(part).__name__ for part in parts)
        raise InputError(f"{name} gave {kinds}, expected a torch module or a pair of them: encoder, decoder.")
    told = load_weights(parts, weights, key=weights_key, trust_pickle=trust_pickle) if weights is not None else []
    for part in parts:
        part.eval()
    return model, told
