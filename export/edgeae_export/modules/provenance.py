"""Where an encoder's outputs come from, by name: the variables they are returned as, and the layers that made them.

A world-models encoder ends in `return mu, logsigma`, and its layers are called `fc_mu` and `fc_logsigma`: the places in
the tuple say nothing, its names all. Layers are followed through autograd's graph, so that a `clamp` or a `chunk`
behind them does not hide them.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from edgeae_export.modules.outputs import flatten

_SAME_MEANING = (
    "clamp",
    "clip",
    "clamp_",
    "contiguous",
    "float",
    "view",
    "reshape",
    "squeeze",
    "flatten",
    "to",
    "type_as",
)
"""Functions that leave what a number means as it is."""


@dataclass
class Origin:
    """What one output is called, the nearest name first."""

    variable: str = ""
    """The variable, attribute or function in the encoder's return statement."""
    layers: list[str] = field(default_factory=list)
    """Paths of the layers whose output it is, or was but for a clamp."""
    own: list[str] = field(default_factory=list)
    """Paths of the layers and weights behind this output and no other: it was computed from them."""
    shared: list[str] = field(default_factory=list)
    """Paths of the layers that several outputs were cut out of."""


def origins(encoder: nn.Module, images: Tensor, keys: Sequence[str]) -> dict[str, Origin]:
    """What is known of each output's origin; nothing where the user's code cannot be read or followed."""
    found = {key: Origin() for key in keys}
    for key, name in zip(keys, _variables(encoder, keys), strict=True):
        found[key].variable = name
    try:
        _follow(encoder, images[:2], found)
    except Exception:  # the user's own code may raise anything with gradients; then its layers say nothing
        return found
    return found


def _variables(encoder: nn.Module, keys: Sequence[str]) -> list[str]:
    """The names in `return mu, logsigma`, for outputs that are places in a tuple."""
    nothing = [""] * len(keys)
    if not all(key.isdigit() for key in keys):
        return nothing
    owner, method = getattr(encoder, "owner", encoder), getattr(encoder, "method", "forward")
    returned = _returned(owner, getattr(type(owner), method, None))
    return [returned[int(key)] if int(key) < len(returned) else "" for key in keys]


def _returned(owner: object, function: Callable[..., Any] | None, depth: int = 4) -> list[str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))  # type: ignore[arg-type] # or it raises
    except (OSError, TypeError, SyntaxError):
        return []
    found = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return) and node.value is not None]
    tuples = [[_identifier(part) for part in value.elts] for value in found if isinstance(value, ast.Tuple | ast.List)]
    if tuples and all(names == tuples[0] for names in tuples):
        return tuples[0]
    if len(found) == 1 and isinstance(found[0], ast.Call) and depth:  # return self.encoder(x): look there
        try:
            called = _attribute(owner, _path(found[0].func))
        except AttributeError:
            return []
        if isinstance(called, nn.Module):
            return _returned(called, type(called).forward, depth - 1)
        return _returned(owner, getattr(called, "__func__", None), depth - 1)
    return []


def _identifier(part: ast.expr) -> str:
    """What an element of the returned tuple is called; empty for a computation, which may change its meaning."""
    if isinstance(part, ast.Name):
        return part.id
    if isinstance(part, ast.Attribute):
        return part.attr
    if not isinstance(part, ast.Call):
        return ""
    function = part.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name in _SAME_MEANING:
        tensor = isinstance(function, ast.Attribute) and not _is_torch(function.value)
        return _identifier(function.value if tensor else part.args[0]) if tensor or part.args else ""  # type: ignore[attr-defined]
    return name if _path(function).startswith("self.") else ""


def _is_torch(value: ast.expr) -> bool:
    return isinstance(value, ast.Name) and value.id in ("torch", "F", "functional")


def _path(value: ast.expr) -> str:
    return ast.unparse(value) if isinstance(value, ast.Name | ast.Attribute) else ""


def _attribute(owner: object, path: str) -> Any:  # noqa: ANN401
    first, *rest = path.split(".")
    if first != "self" or not rest:
        raise AttributeError(path)
    for word in rest:
        owner = getattr(owner, word)
    return owner


def _follow(encoder: nn.Module, images: Tensor, found: dict[str, Origin]) -> None:
    """Fill in the layers: run once with gradients, and walk back from each output."""
    made: list[tuple[str, Tensor]] = []  # kept alive, so that no address is used twice

    def remember(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, given: Any, output: Any) -> None:  # noqa: ANN401
            made.extend((name, value) for value in flatten(output).values())

        return hook

    handles = [module.register_forward_hook(remember(name)) for name, module in encoder.named_modules() if name]
    weights = dict(encoder.named_parameters())
    trainable = [weight for weight in weights.values() if weight.is_floating_point() and not weight.requires_grad]
    for weight in trainable:
        weight.requires_grad_(True)
    try:
        with torch.enable_grad():
            outputs = flatten(encoder(images.clone().requires_grad_() * 1))
    finally:
        for handle in handles:
            handle.remove()
        for weight in trainable:
            weight.requires_grad_(False)

    steps: dict[Any, list[str]] = {}
    for name, value in made:
        if value.grad_fn is not None:
            steps.setdefault(value.grad_fn, []).append(name)
    names = {id(weight): name for name, weight in weights.items()}
    behind = {key: _ancestors(outputs[key]) for key in found}
    for key, origin in found.items():
        output = outputs[key]
        origin.layers = [name for name, value in made if value is output or _same_numbers(value, output)]
        others = set().union(*(behind[other] for other in found if other != key))
        origin.own = [name for step in behind[key] if step not in others for name in _names_of(step, steps, names)]
        common = (steps[step] for step in behind[key] if step in others and step in steps)
        origin.shared = next(common, [])  # the nearest


def _ancestors(output: Tensor) -> dict[Any, None]:
    """Every step behind an output, the nearest first."""
    found: dict[Any, None] = {}
    level = [output.grad_fn] if output.grad_fn is not None else []
    while level:
        found |= dict.fromkeys(level)
        further = (step for node in level for step, _ in node.next_functions)
        level = list(dict.fromkeys(step for step in further if step is not None and step not in found))
    return found


def _same_numbers(one: Tensor, other: Tensor) -> bool:
    """Whether most numbers are the same: of the others a clamp may have changed some."""
    return one.shape == other.shape and bool((one == other).float().mean() > 0.5)


def _names_of(step: Any, steps: dict[Any, list[str]], weights: dict[int, str]) -> list[str]:  # noqa: ANN401
    variable = getattr(step, "variable", None)
    return steps.get(step, []) + ([weights[id(variable)]] if variable is not None and id(variable) in weights else [])
