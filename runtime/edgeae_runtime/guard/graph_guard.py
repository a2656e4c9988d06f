"""A look into an ONNX file before ONNX Runtime sees it: nothing but a bounded graph of known operators.

A file from a stranger could name other files to read, hide what one reader sees and another does not, never end, or
ask for any amount of memory. So the file is read as ONNX Runtime reads it (`onnx_reader`), against lists of what may be
there (`operators`), and the size of every tensor is worked out for a batch of one (`shapes`). What these cannot do is
make ONNX Runtime itself free of faults; `verify` therefore loads a bundle in another process first.
"""

from __future__ import annotations

import math

from edgeae_runtime.errors import BundleError, shown
from edgeae_runtime.guard.dtypes import result_dtype
from edgeae_runtime.guard.folding import fold
from edgeae_runtime.guard.onnx_reader import DTYPES, WIDTHS, Graph, Node, NotReadableError, read_graph
from edgeae_runtime.guard.operators import KINDS, MAX_OPSET, MIN_OPSET, OPERATORS
from edgeae_runtime.guard.shapes import UNFIT, Call, UnfitError, Value

MAX_LIVE = 160 << 20
"""Most bytes of tensors that a graph may hold at one time for a batch of one, beside its weights and …"""
LIVE_PER_ELEMENT = 4096
"""… so many for each element of its largest input or output."""
MAX_RANK = 16
"""Most axes of a tensor."""
MAX_WORK = 20_000_000_000
"""Most multiply-adds for a batch of one, some seconds of one core, beside …"""
WORK_PER_ELEMENT = 1 << 20
"""… so many for each element of its largest input or output."""
ELEMENT_WORK = 8
"""Multiply-adds that one element of a tensor costs, whatever is done to it."""


def check_graph(raw: bytes, name: str) -> None:
    """Refuse a graph that is malformed, refers to anything outside itself, or is not bounded.

    Args:
        raw: the whole file.
        name: the part it is, for the message.

    Raises:
        BundleError: it has other fields, operators, attributes or data types than an exported graph, a node whose
            inputs do not fit, or would need more memory or work than a graph of its inputs and outputs can.
    """
    try:
        graph = read_graph(raw)
    except NotReadableError as error:
        raise BundleError(
            f"The {name}'s file is not a well-formed ONNX graph of the kind that is exported: it has {_cut(error)}. "
            "The bundle is refused: copy it again, or export it again, from a source you trust."
        ) from error
    if not MIN_OPSET <= graph.opset <= MAX_OPSET:
        raise BundleError(
            f"The {name} uses operator set {graph.opset}, this edgeae-runtime knows {MIN_OPSET} to {MAX_OPSET}. "
            "Update edgeae-runtime and ONNX Runtime, or export the bundle again."
        )
    _Walk(graph, name).check()


class _Walk:
    """One pass over the nodes, which knows the size of every tensor so far."""

    def __init__(self, graph: Graph, name: str) -> None:
        self.graph, self.name = graph, name
        self.values = {
            key: Value(t.shape, math.prod(t.shape), t.value, True, t.dtype) for key, t in graph.initialisers.items()
        }
        self.last_use = {name: place for place, node in enumerate(graph.nodes) for name in node.inputs}
        self.kept = {*graph.outputs, *graph.initialisers, *graph.inputs}
        self.live = self.peak = self.work = 0

    def check(self) -> None:
        graph = self.graph
        ends = [*graph.inputs.values(), *graph.outputs.values()]
        largest = max((math.prod(abs(size) for size in shape) for shape in ends), default=0)
        most_live, most_work = MAX_LIVE + LIVE_PER_ELEMENT * largest, MAX_WORK + WORK_PER_ELEMENT * largest
        for key, shape in graph.inputs.items():
            if key in self.values:
                raise self._refused("has an input that is a constant as well")
            sizes = tuple(abs(size) for size in shape)  # -1, the batch, is one
            self.values[key] = Value(sizes, math.prod(sizes), dtype=graph.dtypes[key])
        for place, node in enumerate(graph.nodes):
            try:
                self._node(place, node)
            except (UnfitError, KeyError, IndexError, TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
                why = str(error) if isinstance(error, UnfitError) else UNFIT
                raise self._refused(f"has a node {place} ({node.op}) that {why}") from error
            if self.peak > most_live or self.work > most_work:
                what = "holds" if self.peak > most_live else "takes"
                raise self._refused(
                    f"{what} more than a graph of such inputs and outputs may: {self.peak:,} bytes at one time and "
                    f"{self.work:,} multiply-adds for one image, at node {place} ({node.op}), allowed are "
                    f"{most_live:,} and {most_work:,}"
                )
        for key, shape in graph.outputs.items():
            self._output(key, shape)

    def _node(self, place: int, node: Node) -> None:
        operator = OPERATORS.get(node.op)
        if operator is None:
            raise UnfitError("is no operator that exported graphs use")
        for attribute, content in node.attributes.items():
            if attribute not in operator.attributes or not isinstance(content, KINDS.get(attribute, int)):
                raise UnfitError(f"has an attribute {_cut(attribute)} that it cannot have")
        values, constant = self.values, True
        inputs: list[Value | None] = []
        for name in node.inputs:
            if name and name not in values:
                raise UnfitError(f"reads {_cut(name)}, which nothing before it gives")
            value = values[name] if name else None
            constant = constant and (value is None or value.constant)
            inputs.append(value)
        least, most = operator.inputs
        if not least <= len(inputs) <= most or not 0 < len(node.outputs) <= operator.outputs:
            raise UnfitError("has another number of inputs or outputs than its operator")
        call = Call(node.op, inputs, node.attributes, len(node.outputs))
        results = operator.rule(call)
        folded = fold(call, results[0]) if results[0].value is None else None
        self.work += call.work
        for index, (name, result) in enumerate(zip(node.outputs, results, strict=False)):
            if not name:
                continue
            if name in values:
                raise UnfitError(f"gives {_cut(name)}, which is there already")
            numbers = result.value if result.value is not None else folded if index == 0 else None
            shape = result.shape
            if shape is not None and len(shape) > 1 and (not result.most or len(shape) > MAX_RANK):
                raise UnfitError("gives a tensor of no elements, or of more axes than any network has")
            dtype = result_dtype(call, index)
            if dtype not in DTYPES:
                raise UnfitError("gives something else than numbers")
            values[name] = Value(result.shape, result.most, numbers, constant, dtype)
            self.live += result.most * WIDTHS[dtype]
            self.work += ELEMENT_WORK * result.most
        self.peak = self.live + 4 * call.scratch
        self._release(place, node)

    def _release(self, place: int, node: Node) -> None:
        """What no later node reads is given back, but for constants, which ONNX Runtime keeps."""
        last_use = self.last_use
        for name in node.inputs:
            if last_use.get(name) == place:
                del last_use[name]  # a node may read a tensor twice
                if name and not (value := self.values[name]).constant and name not in self.kept:
                    self.live -= value.most * WIDTHS[value.dtype]

    def _output(self, key: str, promised: tuple[int, ...]) -> None:
        value = self.values.get(key)
        if value is None or key in self.graph.initialisers or key in self.graph.inputs:
            raise self._refused(f"has an output {_cut(key)} that no node gives")
        if value.shape is not None and value.shape != tuple(abs(size) for size in promised):
            raise self._refused(
                f"gives an output {_cut(key)} of shape {list(value.shape)} for a batch of one, and promises "
                f"{[size if size >= 0 else 'batch' for size in promised]}"
            )

    def _refused(self, what: str) -> BundleError:
        return BundleError(
            f"The {self.name}'s graph {what}. The bundle is refused: export it again with this version, "
            "from a source you trust."
        )


def _cut(text: object) -> str:
    """A stranger's words, on one line and short."""
    return shown(text)[:200]
