"""Folders of the user's: where downloads and prepared pictures are kept, and paths with a `~`."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

import platformdirs

_OWN = "EDGEAE_CACHE"


def cache_folder() -> Path:
    """Where downloads and prepared pictures are kept: `$EDGEAE_CACHE`, else the system's place for caches
    (`$XDG_CACHE_HOME/edgeae` or `~/.cache/edgeae` on Linux).

    Without a home, as in a container whose user has none, it is a temporary folder of this user's alone, and a warning
    says so.
    """
    if own := os.environ.get(_OWN):
        return user_path(own)
    place = Path(platformdirs.user_cache_dir("edgeae", appauthor=False))
    if place.is_absolute() and _may_be_there(place):
        return place
    temporary = _temporary()
    warnings.warn(
        f"There is no home to keep downloads and prepared pictures in: they are in {temporary}, which may be cleared "
        f"at any time. Set {_OWN} to a folder to keep them.",
        stacklevel=2,
    )
    return temporary


def user_path(name: str | Path) -> Path:
    """A path with its `~` replaced by a home, where there is such a home."""
    try:
        return Path(name).expanduser()
    except RuntimeError:  # no such user, or a user without a home
        return Path(name)


def _may_be_there(place: Path) -> bool:
    """Whether a folder exists, or can be made: it is made then."""
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError:
        return place.is_dir()
    return True


def _temporary() -> Path:
    """A folder that nobody else can write to: one that another user put there first is not taken."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    place = Path(tempfile.gettempdir()) / f"edgeae-{user}"
    place.mkdir(mode=0o700, exist_ok=True)
    status = place.lstat()
    if place.is_symlink() or status.st_uid != user or status.st_mode & 0o022:
        return Path(tempfile.mkdtemp(prefix="edgeae-"))
    return place
