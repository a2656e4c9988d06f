"""The options of an export that go together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeae_runtime.bundle.manifest import PARTS

from edgeae_export.max_drop import MaxDrop
from edgeae_export.parity import COMMON_LIMITS, Int8Limits


@dataclass(frozen=True)
class Int8:
    """Where 8 bits are wanted, and what they may cost."""

    parts: Sequence[str] = PARTS
    """The parts that `quantize` applies to."""
    max_drop: str | None = None
    """What int8 may cost over the held-out images, instead of the common limits (30 dB, and a rise of 5 % unless that
    is invisible), stricter or laxer: `"45dB"`, PSNR of the reconstructions against float32, however much their error
    rises, or `"0.05%"`, rise of the reconstruction error. The layers that hurt most for their work stay in float until
    it holds."""

    @property
    def limits(self) -> Int8Limits:
        """The limits that hold.

        Raises:
            InputError: `max_drop` is neither form.
        """
        return COMMON_LIMITS if self.max_drop is None else MaxDrop.parse(self.max_drop).limits


EVERYWHERE = Int8()
"""Both parts, within the common limits."""
