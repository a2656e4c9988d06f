"""The window attributes of Conv and ConvTranspose, read once, with their defaults filled in."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import NodeProto

from edgeae_export.graph.layers import GraphEditor, attribute


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
    def of(cls, editor: GraphEditor, node: NodeProto) -> Window | None:
        """The window of a convolution with constant weights; None when the weights are not constant."""
        weight = editor.constant(node.input[1])
        if weight is None or (len(node.input) > 2 and node.input[2] and editor.constant(node.input[2]) is None):
            return None
        axes = weight.ndim - 2
        pads = attribute(node, "pads", [0] * 2 * axes)
        return cls(
            kernel=tuple(weight.shape[2:]),
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
        """Why the rewrites of this package leave such a window alone; empty when they do not."""
        if self.groups != 1:
            return f"it has {self.groups} groups"
        if any(dilation != 1 for dilation in self.dilations):
            return f"it is dilated by {'x'.join(map(str, self.dilations))}"
        if self.auto_pad != "NOTSET":
            return f"its padding is left to auto_pad={self.auto_pad}"
        if self.output_shape:
            return "its padding follows from an output_shape"
        return ""
