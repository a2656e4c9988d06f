"""How to train: every setting of a run, validated once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from edgeae_runtime.errors import InputError
from edgeae_runtime.files.documents import is_number

TrainingPrecision = Literal["auto", "float32", "bfloat16"]
Device = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True)
class TrainingConfig:
    """The settings of a training run.

    Raises:
        InputError: a field is out of range.
    """

    epochs: int = 3
    """Passes over the training images, in all: a resumed run counts those already done."""
    batch_size: int = 128
    """Images per step, over all processes together."""
    learning_rate: float = 1e-3
    """Adam's step size; held for the first half of all steps, then lowered linearly to zero."""
    seed: int = 0
    """Decides the initial weights and the order of the images."""
    logit_bound: float = 10.0
    """Logits beyond this cost a little (see `edgeae.training.loop.logit_penalty`); 0 turns it off. Background pixels
    would drive them far out where the image no longer changes, and int8 would spend its 255 steps there."""
    beta: float = 1.0
    """Weight of a variational autoencoder's KL term against `edgeae.model.RECONSTRUCTION_WEIGHT` times the
    reconstruction: 1 is the book's."""
    kl_warmup: float = 0.0
    """Epochs over which the weight of the KL term grows from zero to `beta`; may be a fraction."""
    precision: TrainingPrecision = "auto"
    """`float32`; `bfloat16` for the convolutions with float32 weights and loss; `auto` for bfloat16 where the device is
    built for it and a probe shows that the loss does not suffer."""
    channels_last: bool = True
    """Whether images lie in memory with the channels of a pixel side by side, which convolutions read faster."""
    device: Device = "auto"
    """`cpu`, `cuda`, `mps`, or `auto` for the fastest one there is."""

    def __post_init__(self) -> None:
        for name, least, most in (("epochs", 1, 1 << 31), ("batch_size", 1, 1 << 31), ("seed", 0, (1 << 63) - 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise InputError(f"Got {name} = {value!r}, expected a whole number from {least} to {most}.")
        rate = self.learning_rate
        if not is_number(rate) or rate <= 0:
            raise InputError(f"Got learning_rate = {rate!r}, expected a number above 0; 0.001 is a good start.")
        bound = self.logit_bound
        if not is_number(bound) or bound < 0:
            raise InputError(f"Got logit_bound = {bound!r}, expected a number from 0; 10 changes no pixel visibly.")
        for name in ("beta", "kl_warmup"):
            value = getattr(self, name)
            if not is_number(value) or value < 0:
                raise InputError(f"Got {name} = {value!r}, expected a number from 0.")
        if not isinstance(self.channels_last, bool):
            raise InputError(f"Got channels_last = {self.channels_last!r}, expected True or False.")
        for name, choices in (("precision", get_args(TrainingPrecision)), ("device", get_args(Device))):
            if getattr(self, name) not in choices:
                raise InputError(f"Got {name} = {getattr(self, name)!r}, expected one of {', '.join(choices)}.")
