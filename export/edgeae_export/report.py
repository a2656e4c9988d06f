"""What an export did, for whoever asked for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from edgeae_runtime.bundle.manifest import Manifest
from edgeae_runtime.parity import Check

from edgeae_export.compiler import Compiled
from edgeae_export.graph.running import operator_counts
from edgeae_export.graph.simplify import SimplifyReport
from edgeae_export.verdict import Comparison


@dataclass(frozen=True)
class PartReport:
    """What the export did to one part."""

    simplification: SimplifyReport
    simplified: onnx.ModelProto
    """The plain float32 graph, before any rewrite."""
    compiled: Compiled

    @property
    def model(self) -> onnx.ModelProto:
        """The exported graph."""
        return self.compiled.model

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return int(self.model.ByteSize())

    @property
    def operators(self) -> dict[str, int]:
        """How many nodes of each operator the exported graph has."""
        return operator_counts(self.model)


@dataclass(frozen=True)
class ExportReport:
    """A finished export."""

    path: Path
    parts: dict[str, PartReport]
    checks: list[Check]
    manifest: Manifest
    quality: Mapping[str, float]
    """What the exported graphs cost over the held-out images, as the manifest says it."""
    comparisons: list[Comparison]
    """The int8 parts against float32, on this machine; empty for a float32 export."""
    verdict: str
    """On size, speed and quality, what was left in float, and what variants add; empty without int8 and variants."""
    notices: list[str]
    """What the user should know about the model that was given; usually empty."""
