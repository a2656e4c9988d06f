"""How many threads a bundle is fastest with on this machine, as `tune` left it in the bundle's folder.

`tuning.json` holds nothing but thread counts, is bound to the machine it was measured on, and is ignored anywhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeae_runtime.files.documents import Entries
from edgeae_runtime.files.regular import regular_file

if TYPE_CHECKING:
    from pathlib import Path

TUNING_FILE = "tuning.json"
SCHEMA, SCHEMA_VERSION = "edgeae-tuning", 1
_MAX_BYTES = 1 << 16


def read_tuning(bundle: Path) -> dict[str, int]:
    """Threads per part from the last `tune` of this bundle on this machine; empty if there was none."""
    try:
        document = Entries.parse(_bounded(bundle / TUNING_FILE), ValueError)
        version, machine = document.take("schema_version", int), document.take("machine", dict)
        if version != SCHEMA_VERSION or machine != machine_fingerprint():
            return {}
        from edgeae_runtime.machine import usable_cores

        threads, most = document.within("threads"), usable_cores()
        return {part: count for part in threads.document if 1 <= (count := threads.take(part, int)) <= most}
    except Exception:
        return {}  # an optional hint from whoever made the folder: whatever is wrong with it, the default serves


def _bounded(path: Path) -> bytes:
    """The content of a small file, which is no link: whoever made the folder would name one of the user's."""
    with regular_file(path, follow=False) as file:
        raw = file.read(_MAX_BYTES + 1)
    if len(raw) > _MAX_BYTES:
        raise ValueError("too long")
    return raw


def machine_fingerprint() -> dict[str, Any]:
    """What a thread count depends on."""
    from edgeae_runtime.machine import describe_machine

    machine = describe_machine()
    return {key: machine[key] for key in ("processor", "architecture", "cores", "onnxruntime")}
