"""What the outputs of a user's encoder mean: which one is the latent, and which its spread, in what form.

The meaning comes from the user, else from names (`names.py`, `provenance.py`), else from the numbers themselves: a
sample differs from run to run and lies around the mean as the spread says; the mean decodes to the image. Names win
over numbers; where they contradict each other, or say what a bundle cannot hold, the user is asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from edgeae_runtime.errors import InputError
from torch import Tensor, nn

from edgeae_export.modules.names import MEAN, UNCLEAR, meanings, spread_of
from edgeae_export.modules.outputs import SAMPLES, UnansweredError, batch_tensors, flatten, last_word
from edgeae_export.modules.provenance import Origin, origins

MEANS = ("mean", "mu", "loc", "z_mean", "latent", "latents", "embedding", "code", "encoding", "bottleneck", "z", "h")
"""Keys that latents go by in torch, diffusers, pythae and papers, the most telling first."""

_TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "log_variance": lambda value: value,
    "log_std": lambda value: 2 * value,
    "std": lambda value: 2 * value.log(),
    "variance": lambda value: value.log(),
}
_POSITIVE = ("std", "variance")
_FLAGS = "outputs=('mean', 'log_variance') in Python or --outputs mean,log_variance on the command line"
_CLEARLY = 0.9
"""A reconstruction error below this share of the other's decides which output is the mean."""
_ALIKE = 0.05
"""Misfits of a sample's deviation, in logarithms, that 8 draws of 16 latents do not tell apart (a few per cent)."""


@dataclass(frozen=True)
class EncoderRoles:
    """Which of an encoder's flattened outputs is what."""

    latent: str
    log_variance: str | None = None
    form: str = "log_variance"
    """What the second one is: `log_variance`, `log_std`, `std` or `variance`; the graph gives the log-variance."""

    def pick(self, outputs: Mapping[str, Tensor]) -> Tensor | tuple[Tensor, Tensor]:
        """The latent, or the latent and its log-variance."""
        if self.log_variance is None:
            return outputs[self.latent]
        return outputs[self.latent], _TRANSFORMS[self.form](outputs[self.log_variance])


def infer_encoder(
    encoder: nn.Module,
    decoder: nn.Module,
    images: Tensor,
    given: Sequence[str] | None,
    forward: Sequence[Tensor] = (),
) -> EncoderRoles:
    """What an encoder's outputs are.

    Args:
        encoder: the user's part.
        decoder: the other one, to try candidates with.
        images: a batch as the model wants it.
        given: the user's own words, one per output.
        forward: what the whole model makes of the images, where that is known: the mean decodes to it.

    Raises:
        InputError: the encoder fails, or returns no tensor.
        UnansweredError: what it returns is ambiguous, or its names say what a bundle cannot hold.
    """
    first, second = (batch_tensors("encoder", encoder, images) for _ in range(2))
    if given is not None:
        return _given_roles(list(first), given)
    named = _roles_by_key(first)
    if named:
        return named
    random = [key for key in first if not torch.equal(first[key], second[key])]
    shape = first[random[0]].shape if random else next(iter(first.values())).shape
    steady = [key for key in first if key not in random and first[key].shape == shape]
    if len(first) == 1 or (len(steady) == 1 and not random):
        return EncoderRoles(next(iter(first)) if len(first) == 1 else steady[0])
    steady = _without_copies(first, steady)
    if len(steady) == 1 and not random:
        return EncoderRoles(steady[0])
    if len(steady) == 2:
        said = _said(encoder, images, first, steady)
        if random:
            return _roles_by_residual(encoder, images, random[0], steady, said)
        found = _roles_by_name(first, said) or _roles_by_decoding(decoder, images, first, steady, forward, said)
        if found:
            return found
    raise UnansweredError(
        f"The encoder returns {len(first)} tensors ({_shapes(first)}), and which is the mean and which the "
        f"log-variance cannot be told. Say so, as {_FLAGS}; use log_std, std or variance for another form of the "
        "spread, sample for a drawn latent and - for anything else."
    )


def _given_roles(keys: list[str], given: Sequence[str]) -> EncoderRoles:
    known = {"mean", "latent", "-", *SAMPLES, *_TRANSFORMS}
    wrong = [word for word in given if word not in known]
    if len(given) != len(keys) or wrong:
        raise UnansweredError(
            f"Got outputs {', '.join(given)} for an encoder that returns {len(keys)} tensors ({', '.join(keys)}), "
            f"expected one word for each, of {', '.join(sorted(known))}."
        )
    roles = dict(zip(given, keys, strict=True))
    latent = roles.get("mean") or roles.get("latent") or roles.get("sample")
    if latent is None:
        raise UnansweredError(f"Got outputs {', '.join(given)}, expected a mean or a latent among them.")
    form = next((word for word in _TRANSFORMS if word in roles), None)
    return EncoderRoles(latent, roles.get(form) if form else None, form or "log_variance")


def _roles_by_key(outputs: Mapping[str, Tensor]) -> EncoderRoles | None:
    """Where the outputs have keys that tell: those of a mapping, a named tuple or a dataclass."""
    said = {key: meanings(last_word(key)) for key in outputs}
    exact = (key for word in MEANS for key in outputs if last_word(key) == word)
    latent = next(exact, next((key for key in outputs if said[key] == {MEAN}), None))
    if latent is None:
        return None
    alike = [key for key in outputs if key != latent and outputs[key].shape == outputs[latent].shape]
    spreads = {key: form for key in alike if (form := spread_of(said[key]))}
    known = {key: form for key, form in spreads.items() if form != UNCLEAR and _possible(form, outputs[key])}
    if not spreads:
        return EncoderRoles(latent)
    for form in _TRANSFORMS:  # two forms of one spread say the same
        for key in known:
            if known[key] == form:
                return EncoderRoles(latent, key, form)
    key = next(iter(spreads))
    raise _ask(key, f"its key {key!r}", spreads[key], list(outputs))


@dataclass(frozen=True)
class _Said:
    """What names say of one output."""

    meanings: frozenset[str]
    by: str
    derived: bool = False
    """The name is that of something the output was computed from; it may since have become another form."""


def _said(encoder: nn.Module, images: Tensor, outputs: Mapping[str, Tensor], keys: Sequence[str]) -> dict[str, _Said]:
    """What names say of each output; the nearest name that its numbers allow counts."""
    known = origins(encoder, images, keys)
    return {key: _nearest(key, known[key], outputs[key]) for key in keys}


def _nearest(key: str, origin: Origin, output: Tensor) -> _Said:
    spoken = [_Said(meanings(last_word(key)), f"its key {key!r}")]
    spoken += [_Said(meanings(origin.variable), f"the name {origin.variable!r} in the return statement")]
    layers = [_Said(_of_path(path), f"the layer {path!r} that gives it") for path in origin.layers]
    behind = [_Said(_of_path(path), f"the layer {path!r} that it is computed from", True) for path in origin.own]
    claims = [claim for claim in spoken + layers + behind if claim.meanings]
    possible = [claim for claim in claims if _possible(spread_of(claim.meanings), output)]
    if not possible:
        return _impossible(claims[0]) if claims else _of_all(origin.shared)
    nearest, layer = possible[0], next((claim for claim in possible if claim in layers), None)
    if layer and spread_of(layer.meanings) != spread_of(nearest.meanings):
        return _Said(frozenset({UNCLEAR}), f"{nearest.by}, and another kind by {layer.by}")
    return nearest


def _of_path(path: str) -> frozenset[str]:
    """The innermost name that says something."""
    return next((found for word in reversed(path.split(".")) if (found := meanings(word))), frozenset())


def _of_all(shared: Sequence[str]) -> _Said:
    """What a layer says that several outputs were cut out of, such as `mu_logsigma`."""
    path = next((path for path in shared if _of_path(path)), "")
    return _Said(_of_path(path), f"the layer {path!r} that it was cut out of")


def _impossible(claim: _Said) -> _Said:
    """A variance below zero is the logarithm of one, as in PyTorch-VAE's `fc_var`; a deviation below zero is none."""
    form = "log_variance" if spread_of(claim.meanings) == "variance" and not claim.derived else UNCLEAR
    return _Said(frozenset({form}), claim.by, claim.derived)


def _possible(form: str | None, output: Tensor) -> bool:
    return form not in _POSITIVE or bool((output >= 0).all())


def _roles_by_name(outputs: Mapping[str, Tensor], said: Mapping[str, _Said]) -> EncoderRoles | None:
    """Where a name says which of the two is the spread, and in what form."""
    spreads = {key: spread_of(each.meanings) for key, each in said.items() if MEAN not in each.meanings}
    spreads = {key: form for key, form in spreads.items() if form}
    if not spreads:
        return None
    key, form = next(iter(spreads.items()))
    if len(spreads) > 1 or form == UNCLEAR or said[key].derived:
        raise _ask(key, said[key].by, form, list(said))
    return EncoderRoles(next(other for other in said if other != key), key, form or "log_variance")


def _ask(key: str, by: str, form: str | None, keys: Sequence[str]) -> UnansweredError:
    word = form if form in _TRANSFORMS else "log_std"
    example = ",".join(word if other == key else "mean" for other in keys)
    return UnansweredError(
        f"The encoder returns {', '.join(keys)}, and {key} is a spread by {by}; in which form cannot be told: a "
        "log-variance, the logarithm of a standard deviation, a deviation and a variance differ by what no check sees. "
        f"Say what each output is, in order, as outputs={tuple(example.split(','))} in Python or --outputs {example} "
        "on the command line, of mean, log_variance, log_std, std, variance, sample and - for anything else."
    )


def _without_copies(outputs: Mapping[str, Tensor], keys: list[str]) -> list[str]:
    """A sample that is the mean itself in eval mode counts once."""
    kept: list[str] = []
    for key in keys:
        if not any(torch.equal(outputs[key], outputs[other]) for other in kept):
            kept.append(key)
    return kept


def _roles_by_residual(
    encoder: nn.Module, images: Tensor, sample: str, keys: list[str], said: Mapping[str, _Said]
) -> EncoderRoles:
    """The mean and the log-variance are those for which (sample - mean) / deviation has a deviation of one.

    Where several forms fit alike, as they do while the spread is near one, the name decides.
    """
    with torch.inference_mode():
        runs = [flatten(encoder(images)) for _ in range(8)]

    def misfit(roles: EncoderRoles) -> float:
        pairs = [roles.pick(run) for run in runs]
        scaled = [(run[sample] - mean) * torch.exp(-other / 2) for run, (mean, other) in zip(runs, pairs, strict=True)]
        deviation = float(torch.stack(scaled).double().square().mean().sqrt())
        return abs(math.log(max(deviation, 1e-30))) if math.isfinite(deviation) else math.inf

    orders = [(keys[0], keys[1]), (keys[1], keys[0])]
    misfits = {
        roles: misfit(roles) for order in orders for form in _TRANSFORMS for roles in [EncoderRoles(*order, form)]
    }
    least = min(misfits.values())
    fitting = [roles for roles in misfits if misfits[roles] <= least + _ALIKE]
    named = [roles for roles in fitting if spread_of(said[str(roles.log_variance)].meanings) == roles.form]
    return min(named or fitting, key=lambda roles: misfits[roles])


def _roles_by_decoding(
    decoder: nn.Module,
    images: Tensor,
    outputs: Mapping[str, Tensor],
    keys: list[str],
    forward: Sequence[Tensor],
    said: Mapping[str, _Said],
) -> EncoderRoles | None:
    """Where only one of the two decodes to what the whole model makes, or to the images.

    The other has the form that the layer says which both were cut out of; else, if it takes both signs, it is by
    convention a log-variance.
    """
    errors = []
    images = forward[0] if forward else images
    for key in keys:
        try:
            with torch.inference_mode():
                decoded = next(iter(batch_tensors("decoder", decoder, outputs[key]).values()))
                errors.append(float((decoded - images).square().mean()))
        except (InputError, RuntimeError):
            return None
    best = min(range(2), key=lambda index: errors[index])
    mean, spread = keys[best], keys[1 - best]
    if not errors[best] < _CLEARLY * errors[1 - best] or said[spread].meanings == {MEAN}:
        return None
    form = spread_of(said[spread].meanings)
    if form == UNCLEAR or (form and not _possible(form, outputs[spread])):
        raise _ask(spread, said[spread].by, form, keys)
    if form is None and bool((outputs[spread] > 0).all()):
        return None  # all positive, it may as well be a deviation or a variance
    return EncoderRoles(mean, spread, form or "log_variance")


def _shapes(outputs: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{key}: {list(value.shape)}" for key, value in outputs.items())
