"""What a user's encoder and decoder return, and what each of it means.

Structured outputs are flattened to named tensors: the keys of mappings and dataclasses, the mean and log-variance of
distributions, the places of tuples. Their meaning comes from the user, from the names, or from the numbers themselves:
a sample differs from run to run, and lies around the mean as the log-variance says.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from edgeae_runtime.errors import InputError
from torch import Tensor, nn

MEANS = ("mean", "mu", "loc", "z_mean", "latent", "latents", "embedding", "code", "encoding", "bottleneck", "z", "h")
LOG_VARIANCES = ("log_variance", "logvar", "log_var", "log_covariance", "z_logvar", "z_log_var")
LOG_DEVIATIONS = ("log_std", "log_sigma", "log_scale", "logstd")
DEVIATIONS = ("std", "sigma", "scale", "stddev")
IMAGES = (
    "reconstruction",
    "recon",
    "recon_x",
    "x_recon",
    "x_hat",
    "sample",
    "decoded",
    "image",
    "output",
    "logits",
    "loc",
)
SAMPLES = ("sample",)
"""Names that outputs go by in torch, diffusers, pythae and papers, the most telling first."""

_TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "log_variance": lambda value: value,
    "log_std": lambda value: 2 * value,
    "std": lambda value: 2 * value.log(),
}
_FLAGS = "outputs=('mean', 'log_variance') in Python or --outputs mean,log_variance on the command line"
_CLEARLY = 0.9
"""A reconstruction error below this share of the other's decides which output is the mean."""


@dataclasses.dataclass(frozen=True)
class EncoderRoles:
    """Which of an encoder's flattened outputs is what."""

    latent: str
    log_variance: str | None = None
    form: str = "log_variance"
    """What the second one is: `log_variance`, `log_std` or `std`; the graph gives the log-variance."""

    def pick(self, outputs: Mapping[str, Tensor]) -> Tensor | tuple[Tensor, Tensor]:
        """The latent, or the latent and its log-variance."""
        if self.log_variance is None:
            return outputs[self.latent]
        return outputs[self.latent], _TRANSFORMS[self.form](outputs[self.log_variance])


def flatten(value: Any, prefix: str = "") -> dict[str, Tensor]:  # noqa: ANN401 whatever a module returns
    """Every tensor in an output, by name: `0`, `1` for places in a tuple, `key` or `key.mean` for what has names."""
    if isinstance(value, Tensor):
        return {prefix or "0": value}
    parts = _parts(value)
    found: dict[str, Tensor] = {}
    for key, part in parts.items():
        found |= flatten(part, f"{prefix}.{key}" if prefix else key)
    return found


def _parts(value: Any) -> dict[str, Any]:  # noqa: ANN401
    if isinstance(value, Mapping):
        return {str(key): part for key, part in value.items()}
    if hasattr(value, "_fields"):  # a named tuple
        return dict(zip(value._fields, value, strict=True))
    if isinstance(value, tuple | list):
        return {str(index): part for index, part in enumerate(value)}
    if isinstance(getattr(value, "mean", None), Tensor) and isinstance(getattr(value, "logvar", None), Tensor):
        return {"mean": value.mean, "log_variance": value.logvar}  # diffusers' DiagonalGaussianDistribution
    if isinstance(value, torch.distributions.Independent):
        return _parts(value.base_dist)
    if isinstance(value, torch.distributions.Normal):
        return {"mean": value.loc, "std": value.scale}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {}


def infer_encoder(
    encoder: nn.Module,
    decoder: nn.Module,
    images: Tensor,
    given: Sequence[str] | None,
    forward: Sequence[Tensor] = (),
) -> EncoderRoles:
    """What an encoder's outputs are.

    Args:
        encoder: the user's half.
        decoder: the other one, to try candidates with.
        images: a batch as the model wants it.
        given: the user's own words, one per output.
        forward: what the whole model makes of the images, where that is known: the mean decodes to it.

    Raises:
        InputError: the encoder fails, returns no tensor, or what it returns is ambiguous.
    """
    first, second = (_tensors("encoder", encoder, images) for _ in range(2))
    if given is not None:
        return _given_roles(list(first), given)
    named = _roles_by_name(first)
    if named:
        return named
    random = [key for key in first if not torch.equal(first[key], second[key])]
    shape = first[random[0]].shape if random else next(iter(first.values())).shape
    steady = [key for key in first if key not in random and first[key].shape == shape]
    if len(first) == 1 or (len(steady) == 1 and not random):
        return EncoderRoles(next(iter(first)) if len(first) == 1 else steady[0])
    steady = _without_copies(first, steady)
    if len(steady) == 2 and random:
        return _roles_by_residual(encoder, images, random[0], steady)
    if len(steady) == 1 and not random:
        return EncoderRoles(steady[0])
    if len(steady) == 2:
        found = _roles_by_head(encoder, images, steady) or _roles_by_decoding(decoder, images, first, steady, forward)
        if found:
            return found
    shapes = ", ".join(f"{key}: {list(value.shape)}" for key, value in first.items())
    raise InputError(
        f"The encoder returns {len(first)} tensors ({shapes}), and which is the mean and which the log-variance cannot "
        f"be told. Say so, as {_FLAGS}; use sample for a drawn latent and - for anything else."
    )


def infer_decoder(decoder: nn.Module, latent: Tensor, image_shape: tuple[int, ...]) -> str:
    """Which of a decoder's outputs is the image.

    Raises:
        InputError: none, or several alike.
    """
    outputs = _tensors("decoder", decoder, latent)
    if len(outputs) == 1:
        return next(iter(outputs))
    fitting = [key for key, value in outputs.items() if tuple(value.shape[1:]) == image_shape]
    named = [key for word in IMAGES for key in fitting if _last(key) == word]
    if len(fitting) == 1 or named:
        return named[0] if named else fitting[0]
    shapes = ", ".join(f"{key}: {list(value.shape)}" for key, value in outputs.items())
    raise InputError(
        f"The decoder returns {len(outputs)} tensors ({shapes}), expected one, or one of the image's shape "
        f"{list(image_shape)}. Wrap it so that it returns the image."
    )


def _tensors(name: str, module: nn.Module, given: Tensor) -> dict[str, Tensor]:
    try:
        with torch.inference_mode():
            outputs = flatten(module(given))
    except InputError:
        raise
    except Exception as error:  # the user's own code may raise anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise InputError(
            f"The {name} fails on a batch of shape {list(given.shape)}: {reason}. Check the image shape, or name the "
            f"{name} to use."
        ) from error
    floating = {key: value for key, value in outputs.items() if value.is_floating_point() and value.ndim >= 2}
    batch = {key: value for key, value in floating.items() if len(value) == len(given)}
    if not batch:
        raise InputError(
            f"The {name} returns no floating-point tensor with the batch as its first axis, for a batch of shape "
            f"{list(given.shape)}. Expected one [batch, …] for {len(given)} inputs."
        )
    return batch


def _given_roles(keys: list[str], given: Sequence[str]) -> EncoderRoles:
    known = {"mean", "latent", "-", *SAMPLES, *_TRANSFORMS}
    wrong = [word for word in given if word not in known]
    if len(given) != len(keys) or wrong:
        raise InputError(
            f"Got outputs {', '.join(given)} for an encoder that returns {len(keys)} tensors ({', '.join(keys)}), "
            f"expected one word for each, of {', '.join(sorted(known))}."
        )
    roles = dict(zip(given, keys, strict=True))
    latent = roles.get("mean") or roles.get("latent") or roles.get("sample")
    if latent is None:
        raise InputError(f"Got outputs {', '.join(given)}, expected a mean or a latent among them.")
    form = next((word for word in _TRANSFORMS if word in roles), None)
    return EncoderRoles(latent, roles.get(form) if form else None, form or "log_variance")


def _roles_by_name(outputs: Mapping[str, Tensor]) -> EncoderRoles | None:
    """Where the outputs have telling names."""
    latent = next((key for word in MEANS for key in outputs if _last(key) == word), None)
    if latent is None:
        return None
    for form, words in (("log_variance", LOG_VARIANCES), ("log_std", LOG_DEVIATIONS), ("std", DEVIATIONS)):
        for key in outputs:
            if _last(key) in words and outputs[key].shape == outputs[latent].shape:
                return EncoderRoles(latent, key, form)
    return EncoderRoles(latent)


def _without_copies(outputs: Mapping[str, Tensor], keys: list[str]) -> list[str]:
    """A sample that is the mean itself in eval mode counts once."""
    kept: list[str] = []
    for key in keys:
        if not any(torch.equal(outputs[key], outputs[other]) for other in kept):
            kept.append(key)
    return kept


def _roles_by_residual(encoder: nn.Module, images: Tensor, sample: str, keys: list[str]) -> EncoderRoles:
    """The mean and the log-variance are those for which (sample - mean) / deviation has a deviation of one."""
    with torch.inference_mode():
        runs = [flatten(encoder(images)) for _ in range(8)]

    def misfit(roles: EncoderRoles) -> float:
        pairs = [roles.pick(run) for run in runs]
        scaled = [(run[sample] - mean) * torch.exp(-other / 2) for run, (mean, other) in zip(runs, pairs, strict=True)]
        deviation = float(torch.stack(scaled).double().square().mean().sqrt())
        return abs(math.log(max(deviation, 1e-30))) if math.isfinite(deviation) else math.inf

    orders = [(keys[0], keys[1]), (keys[1], keys[0])]
    return min((EncoderRoles(*order, form) for form in _TRANSFORMS for order in orders), key=misfit)


def _roles_by_head(encoder: nn.Module, images: Tensor, keys: list[str]) -> EncoderRoles | None:
    """Where each output is what a submodule with a telling name gave."""
    given_by: dict[int, str] = {}
    kept: list[Any] = []  # alive, so that no address is used twice

    def remember(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, given: Any, made: Any) -> None:  # noqa: ANN401
            kept.append(made)
            given_by[id(made)] = name.rsplit(".", 1)[-1].lower()

        return hook

    handles = [module.register_forward_hook(remember(name)) for name, module in encoder.named_modules() if name]
    try:
        with torch.inference_mode():
            outputs = flatten(encoder(images))
    finally:
        for handle in handles:
            handle.remove()
    names = [given_by.get(id(outputs[key]), "") for key in keys]
    spread = [any(word in name for word in ("log", "var", "sigma", "std")) for name in names]
    if not all(names) or spread[0] == spread[1]:
        return None
    mean, other = (0, 1) if spread[1] else (1, 0)
    if "var" not in names[other] or any(word in names[other] for word in ("sigma", "std", "scale")):
        return None  # a deviation, or its logarithm: the user has to say
    return EncoderRoles(keys[mean], keys[other])


def _roles_by_decoding(
    decoder: nn.Module, images: Tensor, outputs: Mapping[str, Tensor], keys: list[str], forward: Sequence[Tensor]
) -> EncoderRoles | None:
    """Where only one of the two decodes to what the whole model makes, or to the images; the other, which takes both
    signs, is by convention a log-variance."""
    errors = []
    images = forward[0] if forward else images
    for key in keys:
        try:
            decoded = next(iter(_tensors("decoder", decoder, outputs[key]).values()))
            errors.append(float((decoded - images).square().mean()))
        except (InputError, RuntimeError):
            return None
    best = min(range(2), key=lambda index: errors[index])
    other = outputs[keys[1 - best]]
    if not errors[best] < _CLEARLY * errors[1 - best] or bool((other > 0).all()):
        return None  # all positive, it may as well be a deviation or a variance
    return EncoderRoles(keys[best], keys[1 - best])


def _last(key: str) -> str:
    return key.rsplit(".", 1)[-1].lower()
