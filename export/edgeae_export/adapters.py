"""From whatever a user trained to what the exporter wants: an encoder, a decoder, and the shapes between them.

Any torch module will do that has `encode` and `decode` methods or `encoder` and `decoder` submodules, or whose two
halves the user names. Outputs may be tensors, tuples, mappings or distributions: see `outputs.py`.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from edgeae_runtime.errors import InputError
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from edgeae_export.graph import Float32Array
from edgeae_export.outputs import EncoderRoles, flatten, infer_decoder, infer_encoder
from edgeae_export.value_range import ValueRange

Half = str | Callable[..., Any] | None
"""A half as the user names it: an attribute's path, a module or a bound method; None to look for the usual names."""

TRIAL_IMAGES = 16
_NO_PREPROCESSING = {"source_size": None, "pad": [0, 0, 0, 0], "scale": 1 / 255}
_TRAINING_LAYERS = (
    nn.modules.dropout._DropoutNd,
    nn.modules.batchnorm._BatchNorm,
)


@dataclass(frozen=True)
class Adapted:
    """An autoencoder as the exporter takes it."""

    encoder: nn.Module
    """Eval mode, float32, CPU: [batch, *image_shape] to the latent, or to the latent and its log-variance."""
    decoder: nn.Module
    """The latent to [batch, *image_shape]."""
    image_shape: tuple[int, ...]
    preprocessing: Mapping[str, object]
    prior: str | None
    """`"normal"` for a variational autoencoder."""
    value_range: ValueRange
    """What the model's own images look like; the two modules above take and give those of the bundle."""


class EncoderHalf(nn.Module):
    """A user's encoder behind the bundle's conventions."""

    def __init__(self, inner: nn.Module, roles: EncoderRoles, value_range: ValueRange) -> None:
        super().__init__()
        self.inner, self.roles, self.value_range = inner, roles, value_range

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """The latent, or the latent and its log-variance."""
        return self.roles.pick(flatten(self.inner(self.value_range.to_model(image))))


class DecoderHalf(nn.Module):
    """A user's decoder behind the bundle's conventions."""

    def __init__(self, inner: nn.Module, output: str, value_range: ValueRange) -> None:
        super().__init__()
        self.inner, self.output, self.value_range = inner, output, value_range

    def forward(self, latent: Tensor) -> Tensor:
        """The image."""
        return self.value_range.from_model(flatten(self.inner(latent))[self.output])


class Call(nn.Module):
    """One method of a module, with further arguments bound, as a module of its own."""

    def __init__(self, owner: nn.Module, method: str, arguments: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.owner, self.method = owner, method
        self.plain: dict[str, Any] = {}
        self.tensors: dict[str, str] = {}
        for name, value in (arguments or {}).items():
            if isinstance(value, Tensor):
                self.tensors[name] = f"argument_{name}"
                self.register_buffer(f"argument_{name}", value)
            else:
                self.plain[name] = value

    def forward(self, value: Tensor) -> Any:  # noqa: ANN401 whatever the user's method returns
        """Call it."""
        function = self.owner if self.method == "forward" else getattr(self.owner, self.method)
        bound = {name: getattr(self, buffer) for name, buffer in self.tensors.items()}
        return function(value, **self.plain, **bound)


def adapt(
    model: Any,  # noqa: ANN401 a module, a pair of modules, or an object that has them
    images: Float32Array | None = None,
    *,
    image_shape: Sequence[int] | None = None,
    encoder: Half = None,
    decoder: Half = None,
    outputs: Sequence[str] | None = None,
    decoder_arguments: Mapping[str, Any] | None = None,
    value_range: ValueRange | None = None,
) -> Adapted:
    """Find the halves of an autoencoder and what their outputs mean.

    Args:
        model: an `ExportableAutoencoder`, a module, or a pair (encoder, decoder).
        images: a few real images [n, …] as the bundle takes them, to tell outputs apart with; None for noise.
        image_shape: of one image, without the batch; by default that of the model or of `images`.
        encoder, decoder: the halves, where they have unusual names.
        outputs: what the encoder's outputs are, in order: `mean` (or `latent`), `log_variance`, `log_std`, `std`,
            `sample`, or `-` for anything else. Needed only where it cannot be inferred.
        decoder_arguments: further keyword arguments of the decoder, bound for good.
        value_range: of the model's own images; by default [0, 1] for pictures, anything for signals and rows.

    Raises:
        InputError: a half cannot be found or run, is random or in training mode, or its outputs are ambiguous.
    """
    shape = known_shape(model, image_shape, images)
    value_range = value_range or ValueRange.default(shape)
    halves = _halves(model, encoder, decoder, decoder_arguments)
    if images is not None and tuple(images.shape[1:]) != shape:
        raise InputError(
            f"Got images of shape {list(images.shape[1:])} for a model of {list(shape)}: expected the same."
        )
    trial = _trial_images(images, shape, value_range)
    roles = infer_encoder(halves[0], halves[1], value_range.to_model(trial), outputs)
    adapted_encoder = _simplest(EncoderHalf(halves[0], roles, value_range), trial)
    latent = _first(_run("encoder", adapted_encoder, trial))
    _run("decoder", halves[1], latent)  # before its outputs are told apart: it may not fit the latent at all
    adapted_decoder = _simplest(DecoderHalf(halves[1], infer_decoder(halves[1], latent, shape), value_range), latent)
    for name, module, given in (("encoder", adapted_encoder, trial), ("decoder", adapted_decoder, latent)):
        _refuse_randomness(name, module, given)
        _refuse_frozen_batch(name, module, given)
    made = tuple(_run("decoder", adapted_decoder, latent).shape[1:])
    if made != shape:
        raise InputError(
            f"The decoder gives images of shape {list(made)}, expected {list(shape)}, that of the encoder's. Give an "
            "image size that survives the model's strides, or name the right output."
        )
    return Adapted(
        encoder=adapted_encoder,
        decoder=adapted_decoder,
        image_shape=shape,
        preprocessing=getattr(model, "preprocessing", _NO_PREPROCESSING),
        prior="normal" if roles.log_variance is not None else None,
        value_range=value_range,
    )


def known_shape(model: object, image_shape: Sequence[int] | None, images: object | None) -> tuple[int, ...]:
    """The shape of one image: as told, as the model says, or as the images have it.

    Raises:
        InputError: none of these is there, or it is no shape.
    """
    images_shape = getattr(images, "shape", ())[1:]
    shape = image_shape or getattr(model, "image_shape", None) or images_shape
    if not shape or not 1 <= len(shape) <= 4 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise InputError(
            f"The shape of one image is not known (got {list(shape)}). Give image_shape, as --image-shape 3,64,64 on "
            "the command line, of one to four whole numbers, or real images."
        )
    return tuple(shape)


def _simplest(half: EncoderHalf | DecoderHalf, given: Tensor) -> nn.Module:
    """The user's own module, where it already does what its wrapper does: the graph then has the user's names."""
    call = half.inner
    assert isinstance(call, Call)
    if call.method != "forward" or call.plain or call.tensors or not half.value_range.identity:
        return half
    plain, wrapped = call.owner, _outputs(_run("half", half, given))
    found = _run("half", plain, given)
    alike = isinstance(found, Tensor | tuple) and all(isinstance(each, Tensor) for each in _outputs(found))
    same = alike and len(_outputs(found)) == len(wrapped)
    return plain if same and all(map(torch.equal, _outputs(found), wrapped)) else half


def _halves(
    model: Any,  # noqa: ANN401
    encoder: Half,
    decoder: Half,
    decoder_arguments: Mapping[str, Any] | None,
) -> tuple[nn.Module, nn.Module]:
    if isinstance(model, tuple | list) and len(model) == 2:
        encoder, decoder = encoder or model[0], decoder or model[1]
    found = (
        _find(model, encoder, ("encode", "encoder"), "encoder"),
        _find(model, decoder, ("decode", "decoder"), "decoder"),
    )
    first, second = (_ready(owner, name) for (owner, _), name in zip(found, ("encoder", "decoder"), strict=True))
    return Call(first, found[0][1]), Call(second, found[1][1], decoder_arguments)


def _find(model: Any, half: Half, usual: Sequence[str], name: str) -> tuple[nn.Module, str]:  # noqa: ANN401
    """The module that owns a half, and the name of its method."""
    if half is None:
        half = next((word for word in usual if callable(getattr(model, word, None))), None)
        if half is None:
            raise InputError(
                f"{type(model).__name__} has no {name}: expected the methods encode and decode, or the submodules "
                f"encoder and decoder. Name yours, as {name}='my_{name}' in Python or --{name} on the command line."
            )
    if isinstance(half, str):
        try:
            half = functools.reduce(getattr, half.split("."), model)
        except AttributeError as error:
            raise InputError(f"The {name} cannot be found: {error}. Expected the name of an attribute.") from error
    half = getattr(half, "_orig_mod", half)  # what torch.compile wrapped
    if isinstance(half, nn.Module):
        return half, "forward"
    owner = getattr(half, "__self__", None)
    if isinstance(owner, nn.Module):
        return owner, half.__name__  # type: ignore[union-attr] # a bound method has a name
    raise InputError(
        f"Got {type(half).__name__} as the {name}, expected a torch module or a method of one: of a plain function the "
        "weights cannot be found. Put it into a torch.nn.Module."
    )


def _ready(module: nn.Module, name: str) -> nn.Module:
    """A copy in eval mode, float32, on the CPU.

    Raises:
        InputError: it is in training mode with layers that then behave otherwise, or has no weights yet.
    """
    if any(isinstance(each, UninitializedParameter) for each in module.parameters()):
        raise InputError(f"The {name} has lazy layers without weights. Run one batch through it, then export.")
    noisy = [key for key, layer in module.named_modules() if layer.training and isinstance(layer, _TRAINING_LAYERS)]
    if noisy:
        raise InputError(
            f"The {name} is in training mode: {noisy[0]} ({type(module.get_submodule(noisy[0])).__name__}) behaves "
            "otherwise then. Call model.eval() first."
        )
    try:
        module = copy.deepcopy(module)
    except Exception as error:
        raise InputError(
            f"The {name} cannot be copied ({_short(error)}), which the exporter does before it changes its precision. "
            "Expected a module whose weights are parameters or buffers."
        ) from error
    return module.to("cpu", torch.float32).eval().requires_grad_(False)


def _trial_images(images: Float32Array | None, shape: tuple[int, ...], value_range: ValueRange) -> Tensor:
    if images is not None and len(images):
        return torch.from_numpy(images[:TRIAL_IMAGES])
    generator = torch.Generator().manual_seed(0)
    draw = torch.rand if value_range.bounded else torch.randn
    return draw(TRIAL_IMAGES, *shape, generator=generator)


def _run(name: str, module: nn.Module, given: Tensor) -> Any:  # noqa: ANN401
    try:
        with torch.inference_mode():
            return module(given)
    except Exception as error:  # the user's own code may raise anything
        raise InputError(
            f"The {name} fails on a batch of shape {list(given.shape)}: {_short(error)}. Expected one that takes it. "
            "Check the image shape, and give further arguments of the decoder with decoder_arguments."
        ) from error


def _refuse_randomness(name: str, module: nn.Module, given: Tensor) -> None:
    runs = [_outputs(_run(name, module, given)) for _ in range(2)]
    if any(not torch.equal(one, other) for one, other in zip(*runs, strict=True) if not one.isnan().any()):
        raise InputError(
            f"The {name} is random: two runs on the same input differ. An exported graph must not draw numbers; the "
            "runtime samples by itself. Return the mean instead of a sample, or name the outputs as mean and "
            "log_variance; and take functional dropout out of eval mode (F.dropout(x, training=self.training))."
        )


def _refuse_frozen_batch(name: str, module: nn.Module, given: Tensor) -> None:
    for count in (1, 3):
        try:
            with torch.inference_mode():
                found = len(_first(module(given[:count])))
        except Exception as error:
            raise InputError(
                f"The {name} takes a batch of {len(given)}, but fails on {count} ({_short(error)}). Expected one "
                "that takes any batch: look for a batch size written as a number, or kept from an earlier call."
            ) from error
        if found != min(count, len(given)):
            raise InputError(
                f"The {name} gives {found} outputs for a batch of {count}. Expected as many as inputs: look for a "
                "reshape that mixes the batch with another axis."
            )


def _outputs(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def _first(value: Tensor | tuple[Tensor, ...]) -> Tensor:
    return _outputs(value)[0].contiguous()


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
