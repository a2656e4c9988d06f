"""A rewrite in three steps: match a pattern, ask whether it may and should be replaced, replace it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import onnx
import onnx_ir as ir

from edgeae_export.graph.editing import closed, opened, refreshed


@dataclass(frozen=True)
class Decision:
    """One rewrite, one node; kept for the manifest and for `inspect`."""

    rule: str
    """The rewrite's name, which is its module's."""
    node: str
    """The node it is about, by its name in the simplified graph or one made from it."""
    applied: bool
    why: str
    """What it gains, or why the node was left alone."""


class Step(Protocol):
    """What changes an opened graph, and says what it decided."""

    @property
    def rule(self) -> str:
        """The rewrite's name, which is its module's."""

    def __call__(self, graph: ir.Graph) -> list[Decision]:
        """Change a graph in place."""


class Match(Protocol):
    """A place in a graph that a rewrite is about."""

    @property
    def name(self) -> str:
        """The node that is told of."""


Found = TypeVar("Found", bound=Match)


@dataclass(frozen=True)
class Rewrite(Generic[Found]):
    """An exact rewrite."""

    rule: str
    match: Callable[[ir.Node], Found | None]
    """Whether a node is the one that the pattern is found by; None where the rewrite has nothing to do with it."""
    obstacle: Callable[[Found], str]
    """May I, and does it pay: why the pattern stays as it is; empty when it is replaced."""
    replace: Callable[[Found], str]
    """Do it, and say what was gained."""

    def __call__(self, graph: ir.Graph) -> list[Decision]:
        """Rewrite every match in a graph, in place."""
        decisions = []
        for node in tuple(graph):
            found = self.match(node) if node.graph is graph else None  # an earlier match may have taken it out
            if found is not None:
                name, why = found.name, self.obstacle(found)
                decisions.append(Decision(self.rule, name, not why, why or self.replace(found)))
        return decisions


def always(_: Match) -> str:
    """The second step of a rewrite that may be done, and pays, wherever its pattern matches."""
    return ""


def apply(model: onnx.ModelProto, steps: Iterable[Step]) -> tuple[onnx.ModelProto, list[Decision]]:
    """Rewrites one after the other, with all their decisions.

    Args:
        model: any graph; it is not changed.
        steps: what to apply.

    Raises:
        Exception: a rewrite made something that is no ONNX, or met a graph that it did not foresee.
    """
    graph, decisions = opened(model), list[Decision]()
    for step in steps:
        made = step(graph.graph)
        decisions += made
        if any(decision.applied for decision in made):
            refreshed(graph)
    return closed(graph), decisions
