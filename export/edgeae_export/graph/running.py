"""Small facts about ONNX graphs, and running one."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import numpy as np
import onnx
from edgeae_runtime.arrays import to_pixels
from edgeae_runtime.errors import BundleError, InputError
from edgeae_runtime.guard.graph_guard import check_graph
from edgeae_runtime.parity import unit_scale
from edgeae_runtime.sessions.providers import create_session
from numpy.typing import NDArray

from edgeae_export.arrays import Float32Array, Run

OPSET = 18  # what torch's exporter emits without converting; every operator used here is at its final form by then
IR_VERSION = 10  # the newest that the oldest supported ONNX Runtime (see the runtime's extras) reads

SHARED_BYTES = 1024
"""Initialisers from this size on are stored once; below, a name costs as much as it saves."""

CHANNELS_FIRST = "_channels_first"
"""Behind the input's name, what a graph calls its images where it turned them itself."""

WEIGHTED_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators whose cost is multiply-adds with weights: the layers that precision is told for."""


def operator_counts(model: onnx.ModelProto) -> dict[str, int]:
    """How many nodes there are of each operator, most frequent first."""
    return dict(Counter(node.op_type for node in model.graph.node).most_common())


def parameter_count(model: onnx.ModelProto) -> int:
    """Numbers stored in initialisers."""
    return sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)


def input_name(model: onnx.ModelProto) -> str:
    """Name of the graph's only input."""
    return str(model.graph.input[0].name)


def content_of(model: onnx.ModelProto) -> bytes:
    """The bytes of a graph, the same for equal graphs."""
    return bytes(model.SerializeToString(deterministic=True))


def takes_pixels(model: onnx.ModelProto) -> bool:
    """Whether a graph's input is uint8."""
    return bool(model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8)


def takes_channels_last(model: onnx.ModelProto) -> bool:
    """Whether a graph turns its input first, as `pixels.take_channels_last` writes it."""
    turned = f"{input_name(model)}{CHANNELS_FIRST}"
    return any(turned in node.output for node in model.graph.node)


def as_input(model: onnx.ModelProto, batch: Float32Array) -> NDArray[Any]:
    """Images in [0, 1] as a graph of uint8 pixels takes them; anything else as it is."""
    if not takes_pixels(model) or batch.dtype == np.uint8:
        return batch
    pixels = to_pixels(batch)
    return np.ascontiguousarray(np.moveaxis(pixels, 1, -1)) if takes_channels_last(model) else pixels


def runner(model: onnx.ModelProto, threads: int = 1, output: int = 0) -> Run:
    """A function that runs the graph on the CPU provider, with its first input, to one of its outputs.

    Images go in and out as float32 in [0, 1] where the graph takes or gives uint8 pixels; those that are uint8 already
    go in as they are.
    """
    session = create_session(model.SerializeToString(), "cpu", threads=threads, spinning=True)
    name, output_name = input_name(model), str(model.graph.output[output].name)

    def run(batch: Float32Array) -> Float32Array:
        result: Float32Array = unit_scale(session.run((output_name,), {name: as_input(model, batch)})[0])
        return result

    return run


def joined_runner(model: onnx.ModelProto) -> Run:
    """As `runner`, to all outputs flattened beside each other, [n, numbers]: for comparing two forms of a graph."""
    session = create_session(model.SerializeToString(), "cpu", threads=1, spinning=True)
    name = input_name(model)

    def run(batch: Float32Array) -> Float32Array:
        outputs = session.run(None, {name: as_input(model, batch)})
        return np.concatenate([unit_scale(each).reshape(len(batch), -1) for each in outputs], axis=1)

    return run


def clean(model: onnx.ModelProto) -> None:
    """Pin the IR version, and drop what only the graph's makers need: a third of a small file, and private paths.

    Stack traces, source lines, the tools' bookkeeping, imports of operator sets that no node uses, and copies of
    constants: folding gives each step of a loop that was unrolled its own transposed weights.
    """
    for tensor in _constants(model.graph):
        if not tensor.HasField("raw_data"):  # one form for all, the one that the runtime's guard reads
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name))
    _share_constants(model.graph)
    for holder in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del holder.metadata_props[:]
        holder.doc_string = ""
    for value in (*model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    used = {node.domain for node in model.graph.node} | {""}
    imports = {entry.domain: entry.version for entry in model.opset_import}
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(domain, imports[domain]) for domain in sorted(used))
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "edgeae", ""


def _constants(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    """All constants of numbers: initialisers, and those in attributes."""
    attributes = [entry.t for node in graph.node for entry in node.attribute if entry.HasField("t")]
    others = (onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED)
    return [tensor for tensor in (*graph.initializer, *attributes) if tensor.data_type not in others]


def _share_constants(graph: onnx.GraphProto) -> None:
    """Let nodes with equal large initialisers read one of them."""
    kept: dict[tuple[object, ...], str] = {}
    instead: dict[str, str] = {}
    outputs = {value.name for value in graph.output}
    for tensor in graph.initializer:
        if len(tensor.raw_data) >= SHARED_BYTES and tensor.name not in outputs:
            content = tensor.data_type, tuple(tensor.dims), hashlib.sha256(tensor.raw_data).digest()
            if (first := kept.setdefault(content, tensor.name)) != tensor.name:
                instead[tensor.name] = first
    if not instead or any(entry.HasField("g") or entry.graphs for node in graph.node for entry in node.attribute):
        return  # a graph inside a node may read them too
    for node in graph.node:
        node.input[:] = [instead.get(name, name) for name in node.input]
    left = [tensor for tensor in graph.initializer if tensor.name not in instead]
    del graph.initializer[:]
    graph.initializer.extend(left)


def check_self_contained(model: onnx.ModelProto) -> None:
    """Refuse a graph that would need a file or a library beside it on the device.

    Raises:
        InputError: external data, or an operator from a domain other than ONNX's own and com.microsoft.
    """
    external = [tensor.name for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    domains = {node.domain for node in model.graph.node} - {"", "ai.onnx", "com.microsoft"}
    if external or domains or model.functions:
        found = external or sorted(domains) or [function.name for function in model.functions]
        raise InputError(
            f"The graph is not self-contained: it refers to {', '.join(found[:3])}. Expected standard operators and "
            "all weights inside one file; replace the custom operator in the model, or keep the model under 2 GB."
        )


def check_guarded(raw: bytes, name: str) -> None:
    """Refuse a graph that a runtime would refuse, before anything is written: the same guard, on the same bytes.

    Args:
        raw: the graph as it would be written.
        name: the part it is.

    Raises:
        InputError: it uses an operator that runtimes do not load from a bundle, or its sizes are not bounded.
    """
    try:
        check_graph(raw, name)
    except BundleError as error:
        reason = str(error).split(" The bundle is refused", maxsplit=1)[0]
        raise InputError(
            f"{reason} No runtime would load such a bundle, so none is written. Take what needs this operator out of "
            "the model, such as loops, random numbers, or sizes that depend on the values of its input."
        ) from error
