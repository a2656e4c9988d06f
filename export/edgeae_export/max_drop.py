"""`--max-drop`: what int8 may cost, in the user's words."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgeae_runtime.errors import InputError

from edgeae_export.parity import INT8_PSNR_DB, Int8Limits

_FORM = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(dB|%)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class MaxDrop:
    """How much quality int8 may cost over the whole round trip."""

    metric: str
    """`psnr_db` of the reconstructions against those in float32, or `error_rise`, of the reconstruction error."""
    limit: float
    """In dB, or as a fraction."""

    @classmethod
    def parse(cls, text: str) -> MaxDrop:
        """Read `45dB` or `0.05%`.

        Raises:
            InputError: it is neither.
        """
        match = _FORM.fullmatch(text)
        if not match:
            raise InputError(
                f"Got max_drop={text!r}, expected a PSNR such as 45dB, "
                "or a rise of the reconstruction error such as 0.05%."
            )
        number = float(match[1])
        return cls("psnr_db", number) if match[2].lower() == "db" else cls("error_rise", number / 100)

    @property
    def limits(self) -> Int8Limits:
        """The limits that hold instead of the common ones, stricter or laxer.

        A PSNR replaces both: the parts must keep it too where it is laxer than theirs, and the error may rise. A rise
        replaces the common rise alone, for it says nothing of the parts.
        """
        if self.metric == "psnr_db":
            return Int8Limits(min(self.limit, INT8_PSNR_DB), self.limit, None)
        return Int8Limits(error_rise=self.limit)
