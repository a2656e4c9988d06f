"""Which form of each part, and how many threads, a bundle runs best with on this machine, as `tune` left it beside it.

`tuning.json` is believed only for the machine, the bundle and the provider that it was measured on, and only where it
names forms that the manifest lists and thread counts that the machine has: whoever writes one can at worst choose
another listed form, whose bytes are checked like every other's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeae_runtime.bundle.variants import DEFAULT
from edgeae_runtime.files.documents import Entries
from edgeae_runtime.files.regular import regular_file

if TYPE_CHECKING:
    from pathlib import Path

    from edgeae_runtime.bundle.reader import Bundle

TUNING_FILE = "tuning.json"
SCHEMA, SCHEMA_VERSION = "edgeae-tuning", 2
"""2 added the form of each part, and what bundle and provider it was measured on."""
_MAX_BYTES = 1 << 18


@dataclass(frozen=True)
class Choice:
    """How one part is run."""

    form: str = DEFAULT
    """The name of a variant, or `default` for the part itself."""
    threads: int = 1


def read_tuning(bundle: Bundle, provider: str) -> dict[str, Choice]:
    """What the last `tune` of this bundle on this machine and provider chose for each part; empty if there was none."""
    try:
        document = _read(bundle.path)
        if _why_stale(document, bundle) or document.take("provider", str) != provider:
            return {}
        from edgeae_runtime.machine import usable_cores

        chosen, most = document.within("parts"), usable_cores()
        found = {}
        for name, part in bundle.manifest.parts.items():
            if name in chosen:
                entry = chosen.within(name)
                choice = Choice(entry.take("form", str), entry.take("threads", int))
                if choice.form in part.forms and 1 <= choice.threads <= most:
                    found[name] = choice
        return found
    except Exception:
        return {}  # an optional hint from whoever made the folder: whatever is wrong with it, the default serves


def why_stale(bundle: Bundle) -> str:
    """Why what an earlier `tune` chose is not used any more, as a clause; empty where it is, or there was none."""
    try:
        return _why_stale(_read(bundle.path), bundle)
    except FileNotFoundError:
        return ""
    except Exception:
        return f"{TUNING_FILE} cannot be read"


def _why_stale(document: Entries, bundle: Bundle) -> str:
    if document.take("schema_version", int) != SCHEMA_VERSION:
        return "it was made by another version of edgeae-runtime"
    if document.take("manifest_sha256", str) != bundle.sha256:
        return "it was measured on another bundle"
    then, now = document.take("machine", dict), machine_fingerprint()
    changed = [key for key in now if then.get(key) != now[key]]
    if not changed:
        return ""
    told = {key: f"{_WORDS[key]} {str(then.get(key))[:60]!r}, now {str(now[key])!r}" for key in changed}
    return f"it was measured with {', '.join(told.values())}"


_WORDS = {
    "processor": "the processor",
    "architecture": "the architecture",
    "cores": "cores",
    "onnxruntime": "ONNX Runtime",
}


def _read(folder: Path) -> Entries:
    """The content of a small file, which is no link: whoever made the folder would name one of the user's."""
    with regular_file(folder / TUNING_FILE, follow=False) as file:
        raw = file.read(_MAX_BYTES + 1)
    if len(raw) > _MAX_BYTES:
        raise ValueError("too long")
    return Entries.parse(raw, ValueError)


def tuning_document(bundle: Bundle, provider: str, choices: Mapping[str, Choice]) -> dict[str, Any]:
    """What `read_tuning` reads, as JSON."""
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "machine": machine_fingerprint(),
        "manifest_sha256": bundle.sha256,
        "provider": provider,
        "parts": {part: {"form": choice.form, "threads": choice.threads} for part, choice in choices.items()},
    }


def machine_fingerprint() -> dict[str, Any]:
    """What a choice depends on."""
    from edgeae_runtime.machine import describe_machine

    machine = describe_machine()
    return {key: machine[key] for key in _WORDS}
