"""The machines a bundle can be made for, and what their int8 kernels want.

Sources: ONNX Runtime's quantisation guide (weights of 7 bits where 16-bit sums of U8S8 products saturate: x86 without
VNNI), and MLAS, ONNX Runtime's kernel library: its symmetric convolution kernels take zero points of zero; on AMX the
general matrix product, which takes any zero point, is faster than they are.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from edgeae_runtime.errors import InputError
from edgeae_runtime.machine import instruction_sets

MIN_INPUTS = 32
"""Products over fewer inputs stay in float: a decoder's first layer, from a latent of few numbers, costs next to
nothing, and errors in it are errors in every pixel."""
FEW_PRODUCTS = 128
"""Products per output up to which the symmetric kernels are faster on AMX as well, whose tiles take 64 at once. A first
layer of 3x3 from pictures of three channels to 64, padded to four, with the layer after it: of 64x64 487 us with one
scale for the whole weight and 292 with one per channel, with stride 2 121 and 93, of 128x128 525 and 340; with twelve
columns as channels, 72 products, of 128x128 454 and 306 (an Intel Xeon, Sapphire Rapids)."""


@dataclass(frozen=True)
class Target:
    """A kind of processor."""

    name: str
    per_channel: bool = True
    """One symmetric scale per output channel of a weight; else one scale and zero point for the whole weight."""
    weight_bits: int = 8
    """7 where products of 8 bits would saturate."""
    per_channel_up_to: int = 0
    """Weights of so few numbers per output have a scale per channel all the same."""
    signed: bool = False
    """Whether activations are int8 instead of uint8; see `int8.signed_bytes`. Of three models counted on an emulated
    Cortex-A76, every part has fewer or as many instructions then; on an A72, which has no dot product of bytes, the
    default decoder has 6 % fewer, and products of matrices up to 7 % more, so that a Raspberry Pi 4 keeps uint8."""
    float_plan: str = ""
    """The plan of float32 parts where nothing can be timed; the first of `FLOAT_PLANS` by default."""
    here: bool = False
    """Whether it is this machine: then candidates are timed, not only estimated."""

    def as_document(self) -> dict[str, Any]:
        """The target as JSON."""
        return {
            "name": self.name,
            "per_channel": self.per_channel,
            "weight_bits": self.weight_bits,
            "timed": self.here,
        }


PRESETS = {
    "x86-avx2": Target("x86-avx2", weight_bits=7),
    "x86-vnni": Target("x86-vnni"),
    "x86-amx": Target("x86-amx", per_channel=False, per_channel_up_to=FEW_PRODUCTS),
    "arm64": Target("arm64", signed=True, float_plan="folded"),
    "raspberry-pi-4": Target("raspberry-pi-4", float_plan="folded"),
    "browser": Target("browser", float_plan="folded"),
}
NICKNAMES = {"raspberry-pi-5": "arm64", "apple-silicon": "arm64", "laptop": "x86-vnni"}
TargetName = Literal[
    "host",
    "x86-avx2",
    "x86-vnni",
    "x86-amx",
    "arm64",
    "raspberry-pi-4",
    "raspberry-pi-5",
    "apple-silicon",
    "laptop",
    "browser",
]
TARGETS: tuple[TargetName, ...] = get_args(TargetName)


def choose_target(name: str) -> Target:
    """The target of a name; `host` is the preset of this machine's processor, with candidates timed on it.

    Raises:
        InputError: the name is unknown.
    """
    if name == "host":
        preset = PRESETS[_preset_of_this_machine()]
        return replace(preset, here=True)
    name = NICKNAMES.get(name, name)
    if name not in PRESETS:
        raise InputError(f"Got target {name!r}, expected one of {', '.join(TARGETS)}.")
    return PRESETS[name]


def _preset_of_this_machine() -> str:
    flags = {flag.lower() for flag in instruction_sets()}
    if platform.machine().lower() in ("aarch64", "arm64"):
        without_dot_products = "asimd" in flags and "asimddp" not in flags  # macOS tells no flags, and has them
        return "raspberry-pi-4" if without_dot_products else "arm64"
    if "amx_int8" in flags:
        return "x86-amx"
    return "x86-vnni" if {"avx512_vnni", "avx_vnni"} & flags else "x86-avx2"
