"""A bundle takes another's place: at any moment, and after any kill, one of the two is there whole.

Cases, the first that is possible:

1. Nothing is there: the finished folder gets the name.
2. Linux exchanges two names in one step; the old folder is removed afterwards.
3. The old folder is moved aside, and back on any exception. After a kill between the two steps, the next export puts
   what it finds back.
4. The folder must stay: it is the working folder, a mount point, or its parent is closed. The files are written into a
   hidden folder inside, then take their places one by one, the manifest last. Until then the old manifest's hashes
   refuse the new files, so that no mix passes for a bundle; the next export finishes what a kill cut short.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import shutil
import signal
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from edgeae_runtime.bundle.manifest import MANIFEST_FILE
from edgeae_runtime.bundle.reader import open_bundle
from edgeae_runtime.bundle.variants import VARIANTS_FOLDER
from edgeae_runtime.errors import EdgeAEError, InputError
from edgeae_runtime.files.writing import claimed, held, sync_folder, temporary_folder

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_NO_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}
_MUST_STAY = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.EXDEV}
_MOST_NAME = 200  # bytes of the target's name in that of a temporary folder; 255 is the most for a name
_INSIDE = ".edgeae-swap-"


def replace_folder(target: Path, files: Mapping[str, bytes]) -> None:
    """Give a folder these files and no others; a link to a folder stays one.

    Raises:
        OSError: it cannot be written; what was there is there.
    """
    target = Path(os.path.realpath(target))
    if _is_working_folder(target) or target.is_mount():
        _replace_inside(target, files)
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(target.parent, _prefix(target), "") as folder:
            _write(folder, files)
            folder.chmod(stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o755)
            _put(folder, target)
    except OSError as error:
        if error.errno not in _MUST_STAY or not target.is_dir():
            raise
        _replace_inside(target, files)


def put_back(target: Path) -> None:
    """Remove what exports to this target left that were killed; where that is the only whole bundle, put it back."""
    target = Path(os.path.realpath(target))
    for leftover in _leftovers(target.parent, _prefix(target)):
        with contextlib.suppress(OSError), claimed(leftover):
            whole = next((folder for folder in (leftover, *_folders(leftover)) if is_whole(folder)), None)
            if whole is not None and not target.exists():
                whole.chmod(0o755)
                whole.rename(target)
            shutil.rmtree(leftover, ignore_errors=True)
    for leftover in _leftovers(target, _INSIDE):
        with contextlib.suppress(OSError), claimed(leftover):
            _finish(target, leftover)
            shutil.rmtree(leftover, ignore_errors=True)


def is_whole(folder: Path) -> bool:
    """Whether every file that a bundle's manifest names is there, with its recorded bytes.

    Variants may be missing, for a copy may leave them out; they are written before the manifest.
    """
    try:
        bundle = open_bundle(folder)
        for record in bundle.manifest.records:
            if bundle.has(record) or not record.file.startswith(VARIANTS_FOLDER):
                bundle.read(record)
    except (EdgeAEError, OSError):
        return False
    return True


def check_writable(target: Path) -> None:
    """Make and remove a folder where the bundle will be written.

    Raises:
        InputError: that cannot be done there.
    """
    target = Path(os.path.realpath(target))
    stays = _is_working_folder(target) or target.is_mount()
    places = ([] if stays else [_existing(target.parent)]) + ([target] if target.is_dir() else [])
    for place in places:
        try:
            with temporary_folder(place) as folder:
                (folder / "probe").write_bytes(b"edgeae")
        except OSError as error:
            why = error
        else:
            return
    raise InputError(
        f"The bundle cannot be written to {target} ({why.strerror or why}: {places[-1]}). "
        "Choose another --out, or make that folder writable."
    ) from why


def _replace_inside(target: Path, files: Mapping[str, bytes]) -> None:
    """Case 4. All old files get a second name in `old` first, so that they can come back."""
    entries = {name.split("/")[0] for name in files}
    with temporary_folder(target, _INSIDE, "") as folder:
        new, old = folder / "new", folder / "old"
        for each in (new, old):
            each.mkdir()
        _write(new, files)
        before = [path for path in target.iterdir() if not path.name.startswith(_INSIDE)]
        for path in before:
            _copy(path, old / path.name)
        sync_folder(old)
        with _interrupts_wait():
            try:
                for path in before:
                    if path.name not in entries:  # a tuning or a signature of the old bundle
                        _remove(path)
                _take_places(new, target)
            except BaseException:
                _go_back(old, target)
                for name in entries:
                    if not (old / name).exists() and (target / name).exists():
                        _remove(target / name)
                raise


def _finish(target: Path, leftover: Path) -> None:
    """End an exchange inside the folder that was cut short: forward where it had begun, else back."""
    new, old = leftover / "new", leftover / "old"
    if not new.is_dir() or not old.is_dir():
        return
    if not is_whole(target):
        _take_places(new, target)  # it had begun, so that the new files are complete
    if (new / MANIFEST_FILE).exists() or not is_whole(target):
        _go_back(old, target)


def _go_back(old: Path, target: Path) -> None:
    """Put the old files in their places; they also stay where they are, should this be cut short too."""
    for path in _in_order(old):
        if path.is_dir():  # the new one may be there, or a part of the old one
            if (target / path.name).exists():
                _remove(target / path.name)
            _copy(path, target / path.name)
            continue
        copy = old.parent / path.name
        copy.unlink(missing_ok=True)
        _copy(path, copy)
        copy.replace(target / path.name)
    sync_folder(target)


def _take_places(new: Path, target: Path) -> None:
    for path in _in_order(new):
        if path.is_dir() and (target / path.name).exists():
            _remove(target / path.name)
        path.replace(target / path.name)
    sync_folder(target)


def _in_order(folder: Path) -> list[Path]:
    """The manifest last."""
    return sorted(folder.iterdir(), key=lambda path: path.name == MANIFEST_FILE)


def _copy(path: Path, copy: Path) -> None:
    """A second name of the same file where the file system has these, else a copy."""
    if path.is_dir() and not path.is_symlink():
        shutil.copytree(path, copy, symlinks=True)
        return
    try:
        os.link(path, copy, follow_symlinks=False)
    except OSError:
        shutil.copy2(path, copy, follow_symlinks=False)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _put(folder: Path, target: Path) -> None:
    """Cases 1 to 3. An exchange leaves the old bundle under the new one's temporary name."""
    if not target.exists():
        folder.rename(target)
    elif not _exchange(folder, target):
        with _interrupts_wait(), held(target):  # so that nobody takes it for a leftover while it is aside
            aside = target.parent / f"{_prefix(target)}{os.urandom(6).hex()}"
            try:
                target.rename(aside)
                folder.rename(target)
            except BaseException:
                if aside.exists() and not target.exists():
                    aside.rename(target)
                raise
            sync_folder(target.parent)
            shutil.rmtree(aside, ignore_errors=True)
    sync_folder(target.parent)


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Ctrl-C is heard after a swap of milliseconds: a second one would cut the way back short."""
    came: list[int] = []
    try:
        handler = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    except ValueError:  # not the main thread, which alone hears it
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    failed = ctypes.get_errno()
    if failed in _NO_EXCHANGE:
        return False
    raise OSError(failed, os.strerror(failed), os.fspath(other))


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, raw in files.items():
        try:
            (folder / name).parent.mkdir(exist_ok=True)
            with (folder / name).open("wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:  # a full disk does not say which
            error.filename = error.filename or os.fspath(folder.parent)
            raise
    for each in (*_folders(folder), folder):
        sync_folder(each)


def _prefix(target: Path) -> str:
    name = target.name
    if len(os.fsencode(name)) > _MOST_NAME:
        name = f"{name[:40]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"
    return f".{name}.partial-"


def _leftovers(parent: Path, prefix: str) -> list[Path]:
    """Newest first: of two whole bundles that one is put back."""
    if not parent.is_dir():
        return []
    found = [path for path in parent.iterdir() if path.name.startswith(prefix) and not path.is_symlink()]
    return sorted((path for path in found if path.is_dir()), key=lambda path: path.stat().st_mtime, reverse=True)


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def _is_working_folder(folder: Path) -> bool:
    try:
        return folder.samefile(Path.cwd())
    except OSError:
        return False
