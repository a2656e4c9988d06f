"""The window attributes of Conv and ConvTranspose, read once, with their defaults filled in."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from edgeae_export.graph.values import attribute


@dataclass(frozen=True)
class Window:
    """How a kernel moves over the spatial axes; one number per axis, and two for the padding."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads_begin: tuple[int, ...]
    pads_end: tuple[int, ...]
    dilations: tuple[int, ...]
    output_padding: tuple[int, ...]
    groups: int
    auto_pad: str
    output_shape: bool
    """Whether a ConvTranspose asks for an output shape instead of giving its padding."""

    @classmethod
    def of(cls, node: ir.Node, kernel: tuple[int, ...]) -> Window:
        """The window of a convolution, whose kernel's size is its weight's."""
        axes = len(kernel)
        pads = attribute(node, "pads", [0] * 2 * axes)
        return cls(
            kernel=kernel,
            strides=tuple(attribute(node, "strides", [1] * axes)),
            pads_begin=tuple(pads[:axes]),
            pads_end=tuple(pads[axes:]),
            dilations=tuple(attribute(node, "dilations", [1] * axes)),
            output_padding=tuple(attribute(node, "output_padding", [0] * axes)),
            groups=attribute(node, "group", 1),
            auto_pad=attribute(node, "auto_pad", "NOTSET"),
            output_shape=bool(attribute(node, "output_shape", [])),
        )

    def obstacle(self) -> str:
        """Why the rewrites leave such a window alone; empty when they do not."""
        if self.groups != 1:
            return f"it has {self.groups} groups"
        if any(dilation != 1 for dilation in self.dilations):
            return f"it is dilated by {'x'.join(map(str, self.dilations))}"
        if self.auto_pad != "NOTSET":
            return f"its padding is left to auto_pad={self.auto_pad}"
        if self.output_shape:
            return "its padding follows from an output_shape"
        return ""
