"""Where commands look and write when nothing is said, and the option that several of them take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from edgeae_runtime.command.text import DEFAULT_BUNDLE as _BUNDLE

DEFAULT_CHECKPOINT, DEFAULT_BUNDLE = Path("runs/latest"), Path(_BUNDLE)

Bundle = Annotated[Path, typer.Argument(help="Folder of the bundle.")]
