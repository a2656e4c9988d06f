"""What only the owner of a model knows of it, and the exporter cannot always infer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgeae_export.modules.parts import NamedPart
from edgeae_export.value_range import ValueRange


@dataclass(frozen=True)
class OwnModel:
    """How a user's own model is to be read; whatever is left out is inferred."""

    image_shape: Sequence[int] | None = None
    """Of one image, without the batch; by default that of the model or of the images."""
    encoder: NamedPart = None
    """The encoder, where it has an unusual name: a method, a submodule's path, or a callable."""
    decoder: NamedPart = None
    """The same of the decoder."""
    outputs: Sequence[str] | None = None
    """What the encoder returns, in order: `mean` (or `latent`), `log_variance`, `log_std`, `std`, `variance`, `sample`,
    or `-` for anything else."""
    encoder_arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further keyword arguments of the encoder, bound for good; `arguments.py` says how lists of numbers are read."""
    decoder_arguments: Mapping[str, Any] = field(default_factory=dict)
    """The same of the decoder."""
    value_range: ValueRange | None = None
    """What the model's own images look like, where that is not [0, 1]; by default [0, 1] for pictures, anything for
    signals and rows."""


INFERRED = OwnModel()
"""Nothing is told: everything is inferred."""
