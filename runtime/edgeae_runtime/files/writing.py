"""Writing a file so that nothing is lost: whole or not at all, through links and devices, in its old mode.

The bytes go to a short-named temporary file beside the target, which then takes its name. The writer holds a lock
(flock) on the temporary file for as long as it lives and the kernel lets go of it with the process, however that ends:
a `.partial` whose lock can be had belongs to nobody, and the next write into that folder removes it.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl

STANDARD_OUTPUT = "-"
PREFIX, SUFFIX = ".edgeae-", ".partial"

_DESCRIPTOR_FOLDER = re.compile(r"/dev/fd|/proc/(\d+)(/task/\d+)?/fd")
_MOST_LINKS = 40  # as the kernel
_OLD_S = 3600  # where there is no flock
_NO_TEMPORARY = {errno.EACCES, errno.EPERM, errno.EROFS}


def write_atomically(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that whoever looks finds the old one or the whole new one.

    A link is followed and stays. An existing file keeps its mode and, where that is allowed, its owner. Devices, FIFOs
    and descriptors (/dev/stdout) are written to, and so is a file that cannot be replaced because it is mounted or
    because its folder is closed: these alone are not atomic, but get their bytes only once all are there.

    Args:
        path: where to; `-` for standard output. A missing folder is made.
        write: called once with a binary file to write to.

    Raises:
        OSError: it cannot be written, with `filename` set; a file that was there is as it was.
        BrokenPipeError: nobody reads any more.
    """
    path = Path(path)
    if os.fspath(path) == STANDARD_OUTPUT:
        _write_stdout(write)
        return
    try:
        descriptor, status = _own_descriptor(path), _status(path)
        if descriptor is not None or (status is not None and not stat.S_ISREG(status.st_mode)):
            _write_through(path if descriptor is None else descriptor, write)
        else:
            _replace(Path(os.path.realpath(path)), status, write)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = os.fspath(path)  # a write's own error does not know it
        raise


def sync_folder(folder: str | Path) -> None:
    """Bring a folder's names to the disk: a rename is durable only then. Does nothing where that is not possible."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)  # PermissionError on Windows
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def temporary_folder(parent: Path, prefix: str = PREFIX, suffix: str = SUFFIX) -> Iterator[Path]:
    """A new folder in `parent` that nobody else takes for a leftover until its process ends.

    Removed at the end, whatever it holds by then. With the names given here, `remove_leftovers` removes those of the
    dead; with others that is left to the caller.
    """
    remove_leftovers(parent)
    with contextlib.ExitStack() as stack:
        while True:
            folder = parent / _temporary_name(prefix, suffix)
            folder.mkdir(0o700)
            with contextlib.suppress(FileNotFoundError):  # swept before it was held
                stack.enter_context(held(folder))
                break
        try:
            yield folder
        finally:
            with contextlib.suppress(OSError):
                _remove(folder)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep others from taking a folder for a leftover.

    Raises:
        FileNotFoundError: there is none.
    """
    if sys.platform == "win32":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if not _hold(descriptor, folder):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(folder))
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def claimed(leftover: Path) -> Iterator[None]:
    """Have a temporary file or folder alone, because its writer is gone.

    Raises:
        OSError: its writer lives, or it cannot be known.
    """
    if sys.platform == "win32":
        if time.time() - leftover.stat().st_mtime < _OLD_S:
            raise PermissionError(errno.EACCES, "It may be in use", os.fspath(leftover))
        yield
        return
    descriptor = os.open(leftover, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove what writers that were killed left in a folder; those at work are left alone."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        found = [Path(entry) for entry in entries if entry.name.startswith(PREFIX) and entry.name.endswith(SUFFIX)]
        for leftover in found:
            with contextlib.suppress(OSError), claimed(leftover):
                _remove(leftover)


def _write_stdout(write: Callable[[BinaryIO], object]) -> None:
    if sys.stdout is None:
        raise OSError(errno.EBADF, "Standard output is closed", STANDARD_OUTPUT)
    content = _content(write)
    sys.stdout.flush()
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def _write_through(target: Path | int, write: Callable[[BinaryIO], object]) -> None:
    """To a descriptor of this process through a copy, which shares its position: an opened one would begin at 0."""
    content = _content(write)
    if isinstance(target, int):
        if sys.stdout is not None:
            sys.stdout.flush()
        target = os.dup(target)
    with open(target, "wb") as file:  # noqa: PTH123 a Path cannot be a descriptor
        file.write(content)


def _content(write: Callable[[BinaryIO], object]) -> memoryview:
    """All bytes first: writers seek, pipes cannot; and a writer that fails has written nothing."""
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getbuffer()


def _replace(target: Path, status: os.stat_result | None, write: Callable[[BinaryIO], object]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent)
    try:
        temporary, descriptor = _create(target.parent, 0o666 if status is None else 0o600)
    except OSError as error:
        if status is None or error.errno not in _NO_TEMPORARY:
            raise
        _write_through(target, write)
        return
    try:
        # "w+b", since numpy writes past a plain BufferedWriter and then loses why the disk did not take it.
        with open(descriptor, "w+b") as file:  # noqa: PTH123
            if status is not None:
                _take_over(descriptor, temporary, status)
            write(file)
            file.flush()
            os.fsync(descriptor)
            if sys.platform != "win32":  # renamed while the lock is held; Windows renames closed files only
                _rename(temporary, target)
        if sys.platform == "win32":
            _rename(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def _rename(temporary: Path, target: Path) -> None:
    try:
        temporary.replace(target)
    except OSError as error:
        if error.errno != errno.EBUSY:  # a file that is mounted by itself
            raise
        _write_through(target, lambda file: file.write(temporary.read_bytes()))
        temporary.unlink()


def _create(folder: Path, mode: int) -> tuple[Path, int]:
    """A new file, locked. Whoever sweeps between its creation and its lock has unlinked it: then once more."""
    while True:
        temporary = folder / _temporary_name()
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
        if _hold(descriptor, temporary):
            return temporary, descriptor
        os.close(descriptor)


def _hold(descriptor: int, temporary: Path) -> bool:
    """Lock a temporary file or folder; False where it is gone already."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError):  # a file system without locks: there nobody takes it for dead either
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        try:
            temporary.stat()
        except FileNotFoundError:
            return False
    return True


def _remove(leftover: Path) -> None:
    if not stat.S_ISDIR(leftover.lstat().st_mode):
        leftover.unlink()
        return
    import shutil  # milliseconds, seldom needed

    shutil.rmtree(leftover)


def _temporary_name(prefix: str = PREFIX, suffix: str = SUFFIX) -> str:
    return f"{prefix}{os.urandom(6).hex()}{suffix}"  # short: the target's own name may have the longest there is


def _take_over(descriptor: int, temporary: Path, old: os.stat_result) -> None:
    """Give the new file the old one's owner, where that is allowed, then its mode."""
    if sys.platform != "win32":
        for owner, group in ((-1, old.st_gid), (old.st_uid, -1)):
            with contextlib.suppress(OSError):
                os.fchown(descriptor, owner, group)
    temporary.chmod(stat.S_IMODE(old.st_mode))


def _status(path: Path) -> os.stat_result | None:
    """Of what a path leads to.

    Raises:
        IsADirectoryError: a folder.
        OSError: links in a circle, or a folder that may not be looked into.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    return status


def _own_descriptor(path: Path) -> int | None:
    """The descriptor of this process that a path such as /dev/stdout stands for, if any."""
    for _ in range(_MOST_LINKS):
        folder = Path(os.path.realpath(path.parent))
        found = _DESCRIPTOR_FOLDER.fullmatch(str(folder))
        if found and path.name.isdecimal():
            return int(path.name) if found[1] in (None, str(os.getpid())) else None
        if not path.is_symlink():
            return None
        path = folder / path.readlink()
    return None
