"""Weights from the files that trainings leave behind: found under whatever keys and prefixes, and told.

A file is flattened to names and tensors, such as `state_dict.model.encoder.0.weight`. What stands before the module's
own names is the prefix, and nothing is taken but where every name is there with its shape. Of several such places with
different numbers the one that is no moving average is preferred; between others the user has to choose.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from edgeae_runtime.errors import InputError
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from edgeae.own_model.weight_files import class_names, read_weights

_SHOWN = 3
_WRAPPERS = ("module", "_orig_mod")
"""Words that DataParallel and torch.compile put into names, at the start or in the middle."""
_AVERAGES = ("ema", "averag", "avg", "swa", "shadow", "teacher", "polyak")
_OPTIONAL = "num_batches_tracked"
"""A counter that old BatchNorm layers did not save, and that no output depends on."""
_PART_WORDS = (("enc", "encoder", "e", "0"), ("dec", "decoder", "generator", "gen", "g", "1"))


@dataclass(frozen=True)
class _Place:
    """Where in a file a module's weights are."""

    prefix: str
    tensors: Mapping[str, Tensor]
    """By the module's own names."""
    names: tuple[str, ...]
    """The file's names of them."""

    @property
    def average(self) -> bool:
        """Whether it is called a moving average."""
        return any(word in self.prefix.lower() for word in _AVERAGES)

    @property
    def name(self) -> str:
        """For the user."""
        return repr(self.prefix.rstrip(".")) if self.prefix else "the top of the file"

    def same(self, other: _Place) -> bool:
        """Whether two places hold the same numbers."""
        return all(torch.equal(value, other.tensors[name]) for name, value in self.tensors.items())


def load_weights(
    modules: Sequence[nn.Module], path: Path, *, key: str | None = None, trust_pickle: bool = False
) -> list[str]:
    """Read weights into a module, or into a pair of them.

    Args:
        modules: one, or encoder and decoder.
        path: .safetensors, or a file of torch's.
        key: where in the file to look, as `ema` or `state_dict.model`; for a pair also two with a comma between.
        trust_pickle: whether the file may run code while it is read.

    Returns:
        What the user should know: under which key and prefix the weights were, and what was left alone.

    Raises:
        InputError: the file cannot be read or wants to run code; names or shapes are not the modules', or are so in
            several places with different numbers.
    """
    document = read_weights(path, class_names(tuple(modules)), trust_pickle=trust_pickle)
    told = _wrapping(document)
    tensors = dict(_flat(document))
    if not tensors:
        raise InputError(f"{path} holds {type(document).__name__} without a tensor, expected names and tensors.")
    keys = key.split(",") if key else [None]
    if len(keys) not in (1, len(modules)):
        raise InputError(f"Got --weights-key {key} for {len(modules)} modules, expected one, or one for each.")
    seen: set[str] = set()
    for index, module in enumerate(modules):
        places = _places(module, tensors, keys[index % len(keys)])
        if not places:
            raise InputError(_misfit(path, module, tensors, keys[index % len(keys)]))
        place, notices = _chosen(places, path, _PART_WORDS[index] if len(modules) > 1 else ())
        module.load_state_dict(dict(place.tensors), strict=False)
        seen |= {name for each in places for name in each.names}
        notices = notices or _parts(document, place)
        told += [
            f"the {'encoder' if index == 0 else 'decoder'} {each}" if len(modules) > 1 else each for each in notices
        ]
    told += _left_alone(tensors, seen)
    return [f"Weights of {path.name}: {'; '.join(told)}."] if told else []


def _wrapping(document: Any) -> list[str]:  # noqa: ANN401
    """What stands round the weights without a part in their names."""
    if isinstance(document, torch.jit.ScriptModule):
        return ["taken out of a TorchScript module"]
    if isinstance(document, nn.Module):
        return [f"taken out of a whole {type(document).__name__}"]
    return []


def _parts(document: Any, place: _Place) -> list[str]:  # noqa: ANN401
    """Dictionaries at the top of a file that only together have all the names."""
    inner = [key for key, value in document.items() if isinstance(value, Mapping)] if isinstance(document, dict) else []
    keys = [str(key) for key in inner if any(name.startswith(f"{key}.") for name in place.names)]
    return [f"taken from {' and '.join(map(repr, keys))} together"] if keys else []


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:  # noqa: ANN401
    """Every tensor in a document, by its keys with dots between; the words of wrappers in the middle are left out."""
    if isinstance(value, nn.Module):
        value = value.state_dict()
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flat(part, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from _flat(part, f"{prefix}.{index}" if prefix else str(index))
    elif isinstance(value, Tensor):
        yield prefix, value
    elif isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        yield prefix, torch.from_numpy(value)


def _places(module: nn.Module, tensors: Mapping[str, Tensor], key: str | None) -> list[_Place]:
    """Every prefix behind which all of a module's names stand, with their shapes; in the order of the file."""
    wanted = module.state_dict()
    if not wanted:
        return [_Place("", {}, ())]
    for names in ({name: name for name in tensors}, _unwrapped(tensors)):
        found = []
        for prefix in _prefixes(next(iter(wanted), ""), names):
            if key is not None and not f".{prefix}".startswith(f".{key}."):
                continue
            here = {name: tensors[names[prefix + name]] for name in wanted if prefix + name in names}
            lacking = [name for name in wanted if name not in here and not name.endswith(_OPTIONAL)]
            if not lacking and all(_fits(wanted[name], value) for name, value in here.items()):
                found.append(_Place(prefix, here, tuple(names[prefix + name] for name in here)))
        if found:
            return found
    return []


def _unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Names without the words of wrappers in them, and the names they stand for."""
    return {".".join(word for word in name.split(".") if word not in _WRAPPERS): name for name in tensors}


def _prefixes(first: str, names: Mapping[str, str]) -> list[str]:
    ends = (name[: len(name) - len(first)] for name in names if name.endswith(first))
    return [prefix for prefix in dict.fromkeys(ends) if not prefix or prefix.endswith(".")]


def _fits(wanted: Tensor, value: Tensor) -> bool:
    return is_lazy(wanted) or wanted.shape == value.shape


def _chosen(places: list[_Place], path: Path, part: Sequence[str]) -> tuple[_Place, list[str]]:
    """The one place, or the one that is no average, and what to tell; `part` are the words for one of a pair."""
    named = [place for place in places if part and set(part) & set(place.prefix.lower().split("."))]
    plain = [place for place in named or places if not place.average] or named or places
    place = plain[0]
    rivals = [other for other in plain[1:] if not other.same(place)]
    if rivals:
        several = ", ".join(each.name for each in (place, *rivals)[:_SHOWN])
        raise InputError(
            f"{path} has weights that fit in several places with different numbers ({several}): say which, as "
            f"--weights-key {rivals[-1].prefix.rstrip('.') or place.prefix.rstrip('.')} (weights_key in Python)."
        )
    told = [f"taken from {place.name}"] if place.prefix else []
    if _inner_wrapper(place):
        told.append(f"without the words {' and '.join(_WRAPPERS)} in its names")
    others = [other for other in places if other not in plain and not other.same(place)]
    if others:
        key = others[0].prefix.rstrip(".")
        told.append(f"{others[0].name} fits too, by its name an average: for that give --weights-key {key}")
    return place, told


def _inner_wrapper(place: _Place) -> bool:
    return any(not name.endswith(own) for name, own in zip(place.names, place.tensors, strict=True))


def _left_alone(tensors: Mapping[str, Tensor], seen: set[str]) -> list[str]:
    """Tensors of no place that fits, but for an optimiser's: the module may be an older form of itself, or a part."""
    further = [name for name in tensors if name not in seen and "optim" not in name.lower()]
    if not further:
        return []
    shown = f"{', '.join(further[:_SHOWN])}{', …' if further[_SHOWN:] else ''}"
    plural = ("s", "were") if further[1:] else ("", "was")
    return [f"{len(further)} other tensor{plural[0]} in the file {plural[1]} left alone ({shown})"]


def _misfit(path: Path, module: nn.Module, tensors: Mapping[str, Tensor], key: str | None) -> str:
    """Why no place fits, told of the place that comes nearest."""
    wanted, name = module.state_dict(), type(module).__name__
    names = _unwrapped(tensors)
    prefixes = {prefix for first in wanted for prefix in _prefixes(first, names)}
    if key is not None:
        prefixes = {prefix for prefix in prefixes if f".{prefix}".startswith(f".{key}.")}
        if not prefixes:
            tops = list(dict.fromkeys(each.split(".")[0] for each in tensors))
            return f"{path} has no weights of {name} under {key!r}: its first keys are {', '.join(tops[:6])}."
    if not prefixes:
        shown = ", ".join([*tensors][:_SHOWN])
        return (
            f"{path} does not fit {name}: it has none of its names ({', '.join([*wanted][:_SHOWN])}, …), but {shown}. "
            "Expected the weights of this very module, behind any prefix."
        )
    nearest = max(sorted(prefixes), key=lambda prefix: sum(prefix + each in names for each in wanted))
    under = f" under {nearest.rstrip('.')!r}" if nearest else ""
    lacking = [each for each in wanted if nearest + each not in names and not each.endswith(_OPTIONAL)]
    if lacking:
        more = [each for each in names if each.startswith(nearest) and each.removeprefix(nearest) not in wanted]
        also = f"; it also has {', '.join(more[:_SHOWN])}{' and more' if more[_SHOWN:] else ''}" if more else ""
        most = f"{', '.join(lacking[:_SHOWN])}{' and more' if lacking[_SHOWN:] else ''}"
        return f"{path} does not fit {name}: it lacks {most}{under}{also}. Expected the weights of this very module."
    shapes = [
        f"{each} is {list(tensors[names[nearest + each]].shape)}, expected {list(value.shape)}"
        for each, value in wanted.items()
        if nearest + each in names and not _fits(value, tensors[names[nearest + each]])
    ]
    return (
        f"{path} does not fit {name}{under}: {'; '.join(shapes[:_SHOWN])}{' and more' if shapes[_SHOWN:] else ''}. "
        "Build the module with the sizes that it was trained with."
    )
