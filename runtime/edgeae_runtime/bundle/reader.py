"""Reading a bundle: hashes first, bounded sizes, nothing outside the folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeae_runtime.bundle.manifest import MANIFEST_FILE, MAX_MANIFEST_BYTES, Manifest, parse_manifest
from edgeae_runtime.bundle.variants import DEFAULT
from edgeae_runtime.errors import BundleError, IntegrityError, shown
from edgeae_runtime.files.file_record import FileRecord
from edgeae_runtime.files.regular import NotRegularError, regular_file

if TYPE_CHECKING:
    from pathlib import Path

    from edgeae_runtime.bundle.golden import Golden

ROOT_VARIABLE = "EDGEAE_ROOT"
_PASSED: set[str] = set()
_MOST_PASSED = 1000
"""SHA-256 of the graphs that passed the guard in this process: the same bytes need not be read again."""


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: the manifest was read and validated, the other files are read when asked for."""

    path: Path
    manifest: Manifest
    root: str
    """Where links of the bundle may lead: its own folder, or what the user named."""
    sha256: str = ""
    """Of the manifest's bytes, which hold the hashes of all other files: what tells one bundle from another."""

    def read(self, record: FileRecord) -> bytes:
        """The bytes of one file, after its size and SHA-256 were found to be the recorded ones.

        Raises:
            BundleError: the file is missing, is not a regular file, or cannot be read.
            IntegrityError: its bytes are not those that were exported.
        """
        path = self.path / record.file
        size, raw = _read(path, self.root, lambda size: size == record.bytes)
        if size != record.bytes or _sha256(raw) != record.sha256:
            raise IntegrityError(
                f"{shown(path)} is not the file that was exported: it has "
                f"{'other bytes' if size == record.bytes else 'another size'} than the manifest records "
                f"({record.bytes} bytes, SHA-256 {record.sha256[:12]}…). "
                "It was damaged or changed on the way: copy the bundle again, or export it again."
            )
        return raw

    def has(self, record: FileRecord) -> bool:
        """Whether a file is there at all, whatever it is: a copy may leave out the folder of variants."""
        return os.path.lexists(self.path / record.file)

    def forms(self, name: str) -> list[str]:
        """The names of a part's forms whose files are there, that of the part itself first."""
        part = self.manifest.parts[name]
        return [form for form in part.forms if form == DEFAULT or self.has(part.form(form).record)]

    def read_part(self, name: str, form: str = DEFAULT) -> bytes:
        """The ONNX bytes of `"encoder"` or `"decoder"`: those that were exported, and nothing that reaches outside.

        Args:
            name: the part.
            form: the name of one of its variants; by default the part itself.

        Raises:
            BundleError, IntegrityError: as `read`, or the graph refers to files or operators that are not in it.
            InputError: there is no such form.
        """
        from edgeae_runtime.guard.graph_guard import check_graph  # here, because many uses of a manifest load no graph

        record = self.manifest.parts[name].form(form).record
        raw = self.read(record)
        if record.sha256 not in _PASSED:
            check_graph(raw, name)
            if len(_PASSED) < _MOST_PASSED:
                _PASSED.add(record.sha256)
        return raw

    def read_golden(self) -> Golden:
        """The golden vectors.

        Raises:
            BundleError: they are missing or do not fit the manifest's shapes.
            IntegrityError: they are not those that were exported.
        """
        from edgeae_runtime.bundle.golden import parse_golden

        return parse_golden(self.read(self.manifest.golden), self.manifest)


def open_bundle(path: str | Path, *, root: str | Path | None = None) -> Bundle:
    """Open the bundle in the folder `path` and validate its manifest.

    Args:
        path: the folder.
        root: a folder of which all files are the user's own. Links of the bundle are followed as far as they end inside
            it, as those of a cache that keeps content beside its snapshots do; by default inside what the environment
            variable `EDGEAE_ROOT` names, or else the bundle's folder.

    Raises:
        BundleError: there is no such folder, it holds no manifest, or the manifest is not valid.
    """
    from pathlib import Path

    folder = Path(path)
    if not folder.exists():
        raise BundleError(
            f"There is no bundle at {shown(folder)}. Make one with `edgeae export`, or give the folder of another."
        )
    if not folder.is_dir():
        raise BundleError(
            f"{shown(folder)} is a file, expected a bundle: the folder that `edgeae export` writes, "
            f"with {MANIFEST_FILE} and the ONNX graphs in it."
        )
    manifest = folder / MANIFEST_FILE
    if not os.path.lexists(manifest):
        raise BundleError(
            f"The folder {shown(folder)} holds no {MANIFEST_FILE}, so it is not a bundle. "
            "Give the folder that `edgeae export` wrote."
        )
    within = os.path.realpath(root if root is not None else os.environ.get(ROOT_VARIABLE) or folder)
    size, raw = _read(manifest, within, lambda size: size <= MAX_MANIFEST_BYTES)
    if size > MAX_MANIFEST_BYTES:
        raise BundleError(
            f"{shown(manifest)} is larger than {MAX_MANIFEST_BYTES} bytes, so it is no manifest of a bundle."
        )
    return Bundle(folder.absolute(), parse_manifest(raw), within, _sha256(raw))


def _sha256(raw: bytes) -> str:
    import hashlib

    return hashlib.sha256(raw).hexdigest()


def _read(path: Path, root: str, wanted: Callable[[int], bool]) -> tuple[int, bytes]:
    """The size of a file, and its bytes where that size is wanted: never more than was promised.

    Raises:
        BundleError: it is no regular file, leads out of `root`, or cannot be read.
    """
    try:
        place = os.path.realpath(path, strict=True)
        if not place.startswith(root.rstrip(os.sep) + os.sep):
            raise BundleError(
                f"{shown(path)} is a link that leads out of {shown(root)}, so it is not followed. Copy the bundle with "
                f"its files (`cp -rL`), or name the folder that holds both: as root, or in {ROOT_VARIABLE}."
            )
        with regular_file(place) as file:
            size = os.fstat(file.fileno()).st_size
            return size, file.read(size) if wanted(size) else b""
    except NotRegularError as error:
        raise BundleError(
            f"{shown(path)} is {error}; a bundle is made of files. Copy the whole folder again, or export it again."
        ) from error
    except FileNotFoundError as error:
        raise BundleError(
            f"The bundle {shown(path.parent)} has no file {path.name}, which its manifest names, or it is a link to "
            "nowhere. Copy the whole folder again, or export it again."
        ) from error
    except (OSError, MemoryError, RuntimeError) as error:  # RuntimeError: a circle of links
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise BundleError(f"{shown(path)} cannot be read: {reason}. Check the folder's permissions.") from error
