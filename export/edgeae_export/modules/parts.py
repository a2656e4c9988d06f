"""Where the two parts of a user's module are, and whether they are what its own `forward` does.

Usual names come first. A module's `forward` may do something that the parts leave out (a quantiser, a further layer
between them, a sigmoid at the end): where it can be compared with, the pair that agrees is taken, or the user is told.
"""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from edgeae_runtime.errors import InputError, gist
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from edgeae_export.modules.dtypes import without_autocast
from edgeae_export.modules.outputs import UnansweredError, flatten, short_error

NamedPart = str | Callable[..., Any] | None
"""A part as the user names it: an attribute's path, a module or a bound method; None to look for the usual names."""

NAMES = (
    ("encode", "decode"),
    ("encoder", "decoder"),
    ("encode_forward", "decode_forward"),
    ("encoder_forward", "decoder_forward"),
    ("forward_encoder", "forward_decoder"),
    ("forward_encode", "forward_decode"),
    ("encode_image", "decode_image"),
    ("encode_images", "decode_images"),
    ("encoding", "decoding"),
    ("enc", "dec"),
    ("Encoder", "Decoder"),
    ("encoder_net", "decoder_net"),
    ("net_enc", "net_dec"),
    ("net_encoder", "net_decoder"),
    ("encoder_network", "decoder_network"),
    ("analysis", "synthesis"),
    ("g_a", "g_s"),
    ("inference_net", "generative_net"),
    ("inference_model", "generative_model"),
    ("inference", "generate"),
    ("inference", "generator"),
    ("encoder", "generator"),
    ("E", "G"),
)
"""Names that parts go by, in pairs, the most usual first: of torch, diffusers, pythae, CompressAI, papers' code."""
SAME_IMAGE = 1e-3
"""Of the largest value: two ways through the same layers differ by float32's rounding, 1e-5; two models by more."""
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)
_FAKE_QUANTIZE = (torch.ao.quantization.FakeQuantizeBase, torch.ao.quantization.ObserverBase)
_TRAINING_LAYERS = (
    nn.modules.dropout._DropoutNd,
    nn.modules.batchnorm._BatchNorm,
)


class Call(nn.Module):
    """One method of a module, with further arguments bound, as a module of its own. It runs without autocast."""

    def __init__(
        self, owner: nn.Module, method: str, arguments: Mapping[str, Any] | None = None, per_image: bool = False
    ) -> None:
        super().__init__()
        self.owner, self.method, self.per_image = owner, method, per_image
        self.plain: dict[str, Any] = {}
        self.tensors: dict[str, str] = {}
        for name, value in (arguments or {}).items():
            if isinstance(value, Tensor):
                self.tensors[name] = f"argument_{name}"
                self.register_buffer(f"argument_{name}", value)
            else:
                self.plain[name] = value
        self.autocast: bool | None = None
        """Whether its code asks for autocast; None before it has run."""

    @property
    def function(self) -> Callable[..., Any]:
        """The user's own code."""
        return self.owner if self.method == "forward" else getattr(self.owner, self.method)

    def forward(self, value: Tensor) -> Any:  # noqa: ANN401 whatever the user's method returns
        """Call it."""
        bound = {name: getattr(self, buffer) for name, buffer in self.tensors.items()}
        if self.per_image:
            bound = {name: tensor.expand(len(value), *tensor.shape[1:]) for name, tensor in bound.items()}
        if self.autocast is False:
            return self.function(value, **self.plain, **bound)
        with without_autocast() as entered:
            made = self.function(value, **self.plain, **bound)
        if self.autocast is None:
            self.autocast = bool(entered)
        return made

    def __str__(self) -> str:
        return f"{type(self.owner).__name__}.{self.method}"


@dataclass(frozen=True)
class Candidate:
    """A pair of parts to try, and what they are called."""

    encoder: str
    decoder: str
    parts: Callable[[], tuple[nn.Module, str, nn.Module, str]]
    """Finds them, ready to be run; raises InputError where that cannot be."""

    def __str__(self) -> str:
        return f"{self.encoder} with {self.decoder}"


def named_parts(
    model: Any,  # noqa: ANN401
    encoder: NamedPart,
    decoder: NamedPart,
) -> list[Candidate]:
    """The parts as the user names them, or every pair of usual names that the model has, the most usual first.

    Raises:
        InputError: there is no such part.
    """
    if isinstance(model, tuple | list) and len(model) == 2:
        encoder = model[0] if encoder is None else encoder  # not its truth: a compiled module has none
        decoder = model[1] if decoder is None else decoder
    encoders = [encoder] if encoder is not None else _present(model, [pair[0] for pair in NAMES], "encoder")
    decoders = [decoder] if decoder is not None else _present(model, [pair[1] for pair in NAMES], "decoder")
    pairs = list(itertools.product(encoders, decoders))
    pairs.sort(key=lambda pair: pair not in NAMES)  # a pair that goes together before a mixed one
    return [_candidate(model, *pair) for pair in pairs]


def _candidate(model: Any, encoder: NamedPart, decoder: NamedPart) -> Candidate:  # noqa: ANN401
    def parts() -> tuple[nn.Module, str, nn.Module, str]:
        (first, encode), (second, decode) = _find(model, encoder, "encoder"), _find(model, decoder, "decoder")
        return _ready(first, "encoder"), encode, _ready(second, "decoder"), decode

    return Candidate(_called(encoder), _called(decoder), parts)


def _called(part: NamedPart) -> str:
    return part if isinstance(part, str) else getattr(part, "__name__", type(part).__name__)


def _present(model: object, usual: Sequence[str], name: str) -> list[NamedPart]:
    found: list[NamedPart] = [word for word in dict.fromkeys(usual) if callable(getattr(model, word, None))]
    if not found:
        inner = [
            f"{path}.{word}"
            for path, module in (model.named_modules() if isinstance(model, nn.Module) else ())
            for word in usual
            if path and callable(getattr(module, word, None))
        ]
        seen = f" Inside it there is {', '.join(inner[:3])}." if inner else ""
        raise InputError(
            f"{type(model).__name__} has no {name}: expected the methods encode and decode, or the submodules "
            f"encoder and decoder.{seen} Name yours, as {name}='{inner[0] if inner else f'my_{name}'}' in Python or "
            f"--{name} {inner[0] if inner else f'my_{name}'} on the command line."
        )
    return found


def unwrapped(model: Any) -> Any:  # noqa: ANN401
    """What torch.compile, DataParallel, DistributedDataParallel or an average of weights was wrapped round."""
    while True:
        if isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod
        elif isinstance(model, _WRAPPERS):
            model = model.module
        else:
            return model


def _find(model: Any, part: NamedPart, name: str) -> tuple[nn.Module, str]:  # noqa: ANN401
    """The module that owns a part, and the name of its method."""
    if isinstance(part, str):
        *path, last = part.split(".")
        try:
            parent = functools.reduce(getattr, path, model)
            part = getattr(parent, last)
        except AttributeError as error:
            raise InputError(
                f"The {name} cannot be found: {gist(error)}. Expected the name of an attribute."
            ) from error
        if isinstance(part, torch.ScriptMethod) and isinstance(parent, nn.Module):
            return parent, last
    part = unwrapped(part)
    if isinstance(part, nn.Module):
        return part, "forward"
    owner = getattr(part, "__self__", None)
    if isinstance(owner, nn.Module):
        return owner, part.__name__  # type: ignore[union-attr] # a bound method has a name
    raise InputError(
        f"Got {type(part).__name__} as the {name}, expected a torch module or a method of one: of a plain function the "
        "weights cannot be found. Put it into a torch.nn.Module."
    )


def _ready(module: nn.Module, name: str) -> nn.Module:
    """A copy in eval mode, float32, on the CPU.

    Raises:
        UnansweredError: it is in training mode with layers that then behave otherwise, or prepared for quantisation.
        InputError: it has no weights yet, or cannot be copied.
    """
    if any(isinstance(each, UninitializedParameter) for each in module.parameters()):
        raise InputError(f"The {name} has lazy layers without weights. Run one batch through it, then export.")
    noisy = [key for key, layer in module.named_modules() if layer.training and _trains(layer)]
    if noisy:
        kind = _class_name(module.get_submodule(noisy[0]))
        raise UnansweredError(
            f"The {name} is in training mode: {noisy[0]} ({kind}) behaves otherwise then. Call model.eval() first."
        )
    rounding = [key for key, layer in module.named_modules() if isinstance(layer, _FAKE_QUANTIZE)]
    if rounding:
        raise UnansweredError(
            f"The {name} is prepared for torch's own quantisation ({rounding[0]} rounds what passes): expected the "
            "float model. Load its weights into the module as it was before prepare_qat; edgeae quantises with "
            "--quantize int8."
        )
    try:
        module = _copy(module)
    except Exception as error:
        raise InputError(
            f"The {name} cannot be copied ({short_error(error)}), which the exporter does before it changes its "
            "precision. Expected a module whose weights are parameters or buffers."
        ) from error
    module = module.to("cpu", torch.float32).eval()
    for weight in module.parameters():
        weight.requires_grad_(False)
    return module


def _trains(layer: nn.Module) -> bool:
    return isinstance(layer, _TRAINING_LAYERS) or _class_name(layer).startswith(("Dropout", "BatchNorm"))


def _class_name(layer: nn.Module) -> str:
    """Of a TorchScript layer, the class that it was made from."""
    return str(getattr(layer, "original_name", type(layer).__name__))


def _copy(module: nn.Module) -> nn.Module:
    """A deep copy. Tensors that were computed from weights (by `weight_norm`, on every call) are copied as numbers."""
    computed = (value for each in module.modules() for value in vars(each).values() if isinstance(value, Tensor))
    with torch.no_grad():  # a ScriptModule's weights are cloned, which autograd would follow
        return copy.deepcopy(module, {id(value): value.detach().clone() for value in computed if not value.is_leaf})


def forward_images(model: object, given: Tensor, arguments: Mapping[str, Any] | None = None) -> list[Tensor]:
    """What a module's own `forward` makes of images, where it makes something of the images' shape.

    Args:
        model: the module.
        given: images as the model wants them.
        arguments: what is bound in the parts; `forward` gets those that it takes by name.

    Returns:
        The outputs of that shape but for the images themselves; empty where `forward` is missing, fails, wants more, is
        random, or lacks a bound argument.
    """
    if not isinstance(model, nn.Module):
        return []
    try:
        accepted = inspect.signature(model.forward).parameters
        if not set(arguments or {}) <= set(accepted):
            return []
        model = _copy(model).to("cpu", torch.float32).eval()
        with torch.inference_mode(), without_autocast():
            runs = [flatten(model(given, **(arguments or {}))) for _ in range(2)]
    except Exception:  # the user's own code may raise anything; then there is nothing to compare with
        return []
    alike = [key for key, value in runs[0].items() if value.shape == given.shape and value.is_floating_point()]
    steady = [runs[0][key].float() for key in alike if torch.equal(runs[0][key], runs[1][key])]
    return [value for value in steady if not torch.equal(value, given)]  # PyTorch-VAE's also gives back what it got


def same_images(one: Tensor, other: Tensor) -> bool:
    """Whether two batches of images came through the same layers; see `SAME_IMAGE`."""
    return float((one - other).abs().max()) <= SAME_IMAGE * max(float(one.abs().max()), 1e-6)
