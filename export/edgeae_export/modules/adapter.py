"""From whatever a user trained to what the exporter wants: an encoder, a decoder, and the shapes between them.

Any torch module will do that has `encode` and `decode` methods or `encoder` and `decoder` submodules, or whose two
parts the user names. Outputs may be tensors, tuples, mappings or distributions: see `outputs.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from edgeae_runtime.bundle.preprocessing import Preprocessing
from edgeae_runtime.errors import InputError
from edgeae_runtime.files.documents import Entries
from torch import Tensor, nn

from edgeae_export.arrays import Float32Array
from edgeae_export.modules.arguments import bind, readings
from edgeae_export.modules.between import NotOneTensorError, why_not_one_tensor
from edgeae_export.modules.conduct import first_of, outputs_of, refuse_frozen_batch, refuse_randomness, run_part
from edgeae_export.modules.output_roles import EncoderRoles, infer_encoder
from edgeae_export.modules.outputs import UnansweredError, flatten, infer_decoder
from edgeae_export.modules.own_model import INFERRED, OwnModel
from edgeae_export.modules.parts import Call, Candidate, forward_images, named_parts, same_images, unwrapped
from edgeae_export.modules.torchscript import without_torchscript
from edgeae_export.value_range import ValueRange

TRIAL_IMAGES = 16


@dataclass(frozen=True)
class Adapted:
    """An autoencoder as the exporter takes it."""

    encoder: nn.Module
    """Eval mode, float32, CPU: [batch, *image_shape] to the latent, or to the latent and its log-variance."""
    decoder: nn.Module
    """The latent to [batch, *image_shape]."""
    image_shape: tuple[int, ...]
    preprocessing: Preprocessing
    prior: str | None
    """`"normal"` for a variational autoencoder."""
    value_range: ValueRange
    """What the model's own images look like; the two modules above take and give those of the bundle."""
    notices: tuple[str, ...] = ()
    """What the user should know: the model's own forward does more than the two parts, another pair was refused."""


class EncoderPart(nn.Module):
    """A user's encoder behind the bundle's conventions."""

    def __init__(self, inner: nn.Module, roles: EncoderRoles, value_range: ValueRange) -> None:
        super().__init__()
        self.inner, self.roles, self.value_range = inner, roles, value_range

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """The latent, or the latent and its log-variance."""
        made = self.roles.pick(flatten(self.inner(self.value_range.to_model(image))))
        return tuple(each.to(image.dtype) for each in made) if isinstance(made, tuple) else made.to(image.dtype)  # type: ignore[return-value]


class DecoderPart(nn.Module):
    """A user's decoder behind the bundle's conventions."""

    def __init__(self, inner: nn.Module, output: str, value_range: ValueRange) -> None:
        super().__init__()
        self.inner, self.output, self.value_range = inner, output, value_range

    def forward(self, latent: Tensor) -> Tensor:
        """The image."""
        return self.value_range.from_model(flatten(self.inner(latent))[self.output].to(latent.dtype))


def adapt(
    model: Any,  # noqa: ANN401 a module, a pair of modules, or an object that has them
    images: Float32Array | None = None,
    own_model: OwnModel = INFERRED,
) -> Adapted:
    """Find the parts of an autoencoder and what their outputs mean.

    Args:
        model: an `ExportableAutoencoder`, a module, or a pair (encoder, decoder).
        images: a few real images [n, …] as the bundle takes them, to tell outputs apart with; None for noise.
        own_model: what its owner tells of it.

    Raises:
        InputError: a part cannot be found or run, is random or in training mode, or its outputs are ambiguous.
    """
    shape = known_shape(model, own_model.image_shape, images)
    value_range = own_model.value_range or ValueRange.default(shape)
    if images is not None and tuple(images.shape[1:]) != shape:
        raise InputError(
            f"Got images of shape {list(images.shape[1:])} for a model of {list(shape)}: expected the same."
        )
    model = unwrapped(model)
    trial = _trial_images(images, shape, value_range)
    given = value_range.to_model(trial)
    bound = (own_model.encoder_arguments, own_model.decoder_arguments)
    references = _references(model, given, {**bound[0], **bound[1]})
    with torch.inference_mode(False):  # the caller may be in it; layers are found through autograd's graph
        found, notices = _agreeing(
            model,
            named_parts(model, own_model.encoder, own_model.decoder),
            references,
            lambda candidate: _fit(candidate, bound, trial, own_model.outputs, value_range, references),
        )
    return Adapted(
        encoder=without_torchscript(_simplest(found.encoder, trial), trial, "encoder"),
        decoder=without_torchscript(_simplest(found.decoder, found.latent), found.latent, "decoder"),
        image_shape=shape,
        preprocessing=_preprocessing(model),
        prior="normal" if found.encoder.roles.log_variance is not None else None,
        value_range=value_range,
        notices=tuple(notices),
    )


def _preprocessing(model: object) -> Preprocessing:
    """What a model says of it; another thing of that name, as a layer, says nothing."""
    given = getattr(model, "preprocessing", None)
    if isinstance(given, Mapping):
        return Preprocessing.of(Entries(given, lambda problem: InputError(f"The model's `preprocessing` {problem}.")))
    return given if isinstance(given, Preprocessing) else Preprocessing()


def _references(model: object, given: Tensor, arguments: Mapping[str, Any]) -> list[Tensor]:
    """What the model's own forward makes of images, with the arguments in the first reading that it takes."""
    found = (forward_images(model, given, reading) for reading, per_image in readings(arguments) if not per_image)
    return next((images for images in found if images), [])


@dataclass(frozen=True)
class _Fitted:
    """Two parts that fit each other, and what they made of the trial images."""

    encoder: EncoderPart
    decoder: DecoderPart
    latent: Tensor
    decoded: Tensor


def _agreeing(
    model: object,
    candidates: Sequence[Candidate],
    references: Sequence[Tensor],
    fit: Callable[[Candidate], _Fitted],
) -> tuple[_Fitted, list[str]]:
    """The first pair of parts that makes the images of `references`, or else the first that works, with notices.

    A pair that only works may skip half of the model. It is taken where it comes first, or where what came before it
    exchanges more than one tensor, as the codes of an audio codec; not behind a pair that the user can mend.
    """
    refusals: list[tuple[Candidate, InputError]] = []
    first: tuple[Candidate, _Fitted] | None = None
    for candidate in candidates:
        try:
            found = fit(candidate)
        except InputError as error:
            refusals.append((candidate, error))
            continue
        if any(same_images(image, found.decoded) for image in _expected(found, references)):
            return found, _autocast(found)
        if first is None and all(isinstance(error, NotOneTensorError) for _, error in refusals):
            first = candidate, found
        if not references:
            break
    if first is None:
        raise _best(refusals)
    taken, found = first
    notices = _autocast(found)
    if refusals and candidates.index(refusals[0][0]) < candidates.index(taken):
        refused, refusal = refusals[0]
        notices.append(f"Took {taken} as the parts of {type(model).__name__}. {refused} came first: {refusal}")
    if references:
        notices.append(_left_out(model, found.decoded, _expected(found, references)))
    return found, notices


def _expected(found: _Fitted, references: Sequence[Tensor]) -> list[Tensor]:
    value_range = found.decoder.value_range
    return [value_range.from_model(made) for image in references for made in (image, image.sigmoid())]


def _best(refusals: Sequence[tuple[Candidate, InputError]]) -> InputError:
    """What the user can answer, else what is known to stand in the way, else the first; and what else was tried."""
    told = [each for kind in (UnansweredError, NotOneTensorError) for each in refusals if isinstance(each[1], kind)]
    candidate, error = (told or refusals)[0]
    others = [str(other) for other, _ in refusals if other is not candidate]
    also = f" This is of {candidate}; {', '.join(others[:3])} {'were' if others[1:] else 'was'} tried too, and refused."
    best = InputError(f"{error}{also if others else ''}")
    best.__cause__ = error.__cause__
    return best


def _autocast(found: _Fitted) -> list[str]:
    calls = {"encoder": found.encoder.inner, "decoder": found.decoder.inner}
    asking = [name for name, call in calls.items() if isinstance(call, Call) and call.autocast]
    if not asking:
        return []
    return [
        f"The {' and the '.join(asking)} runs under autocast in torch; the bundle computes it in float32 throughout."
    ]


def _left_out(model: object, decoded: Tensor, expected: Sequence[Tensor]) -> str:
    what = (
        "ends with a sigmoid that the decoder leaves out"
        if same_images(expected[0], decoded.sigmoid())
        else "does something that they leave out, such as a quantiser, or a layer between or after them"
    )
    return (
        f"The parts of {type(model).__name__} make other images than its own forward, by up to "
        f"{float((decoded - expected[0]).abs().max()):.2g}: forward {what}. If the bundle should do it too, put it "
        "into one of the parts and name them: encoder='…' and decoder='…' in Python, or --encoder and --decoder."
    )


def _fit(
    candidate: Candidate,
    bound: tuple[Mapping[str, Any], Mapping[str, Any]],
    trial: Tensor,
    outputs: Sequence[str] | None,
    value_range: ValueRange,
    references: Sequence[Tensor],
) -> _Fitted:
    """Run two parts on real images and tell their outputs apart."""
    encode_owner, encode, decode_owner, decode = candidate.parts()
    given = value_range.to_model(trial)
    plain = Call(encode_owner, encode, bound[0]), Call(decode_owner, decode, bound[1])
    try:
        first = bind("encoder", encode_owner, encode, bound[0], given)
        roles = infer_encoder(first, plain[1], given, outputs, references)
        encoder = EncoderPart(first, roles, value_range)
        latent = first_of(run_part("encoder", encoder, trial))
        second = bind("decoder", decode_owner, decode, bound[1], latent)
        return _fitted(encoder, second, latent, trial, value_range)
    except UnansweredError:
        raise
    except InputError as error:
        why = why_not_one_tensor(*plain, given)
        if why is None:
            raise
        raise NotOneTensorError(why) from error


def _fitted(encoder: EncoderPart, second: Call, latent: Tensor, trial: Tensor, value_range: ValueRange) -> _Fitted:
    """The parts, after everything that no part may do was looked for."""
    shape = tuple(trial.shape[1:])
    decoder = DecoderPart(second, infer_decoder(second, latent, shape), value_range)
    for name, module, given in (("encoder", encoder, trial), ("decoder", decoder, latent)):
        refuse_randomness(name, module, given)
        refuse_frozen_batch(name, module, given)
    decoded = run_part("decoder", decoder, latent)
    if tuple(decoded.shape[1:]) != shape:
        raise InputError(
            f"The decoder gives images of shape {list(decoded.shape[1:])}, expected {list(shape)}, that of the "
            "encoder's. Give an image size that survives the model's strides, or name the right output."
        )
    return _Fitted(encoder, decoder, latent, decoded)


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


def _simplest(part: EncoderPart | DecoderPart, given: Tensor) -> nn.Module:
    """The user's own module, where it already does what its wrapper does: the graph then has the user's names."""
    call = part.inner
    assert isinstance(call, Call)
    if call.method != "forward" or call.plain or call.tensors or call.autocast or not part.value_range.identity:
        return part
    plain, wrapped = call.owner, outputs_of(run_part("part", part, given))
    found = run_part("part", plain, given)
    alike = isinstance(found, Tensor | tuple) and all(isinstance(each, Tensor) for each in outputs_of(found))
    same = alike and [each.dtype for each in outputs_of(found)] == [each.dtype for each in wrapped]
    return plain if same and all(map(torch.equal, outputs_of(found), wrapped)) else part


def _trial_images(images: Float32Array | None, shape: tuple[int, ...], value_range: ValueRange) -> Tensor:
    if images is not None and len(images):
        return torch.from_numpy(images[:TRIAL_IMAGES])
    generator = torch.Generator().manual_seed(0)
    draw = torch.rand if value_range.bounded else torch.randn
    return draw(TRIAL_IMAGES, *shape, generator=generator)
