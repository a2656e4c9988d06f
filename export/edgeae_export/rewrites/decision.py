"""What a rewrite decided about one node, kept for the manifest and for `inspect`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Decision:
    """One rewrite, one node."""

    rule: str
    """The rewrite's name, which is its module's."""
    node: str
    """The node it is about, by its name in the simplified graph or one made from it."""
    applied: bool
    why: str
    """What it gains, or why the node was left alone."""
