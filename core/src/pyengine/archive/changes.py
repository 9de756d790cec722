"""What differs between two trees, as ``docker diff`` counts it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from pyengine.archive.pack import is_opaque
from pyengine.archive.whiteouts import Whiteouts, is_overlay_xattr
from pyengine.contracts.storage import Change, ChangeKind

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def changes(new: int, old: int | None, whiteouts: Whiteouts = Whiteouts.PLAIN) -> list[Change]:
    """Compare the trees behind two directory descriptors; sorted by path.

    ``old`` None: everything is added. With an overlay style, ``new`` is an upper layer over
    ``old``: what it does not name is unchanged, and what it deletes has a whiteout or lies under
    an opaque directory. With ``PLAIN`` both are whole trees.

    As Docker has it, a directory is modified if its mode or owner is, or something in it; its times
    do not count. A file copied up and left as it was is no change. A deleted directory is one
    change, whatever was in it.
    """
    found = list(_directory(new, old, "/", whiteouts, hidden=False))
    return sorted(found, key=lambda change: change.path)


def _directory(
    new: int, old: int | None, path: str, whiteouts: Whiteouts, hidden: bool
) -> Iterator[Change]:
    """``hidden``: an opaque directory is above, so names missing from ``new`` are deleted."""
    names = set(os.listdir(new))
    for name in names:
        child = path + name
        try:
            now = os.stat(name, dir_fd=new, follow_symlinks=False)
        except FileNotFoundError:
            continue
        was = _stat(old, name)
        if whiteouts.overlay and stat.S_ISCHR(now.st_mode) and now.st_rdev == 0:
            if was is not None:
                yield Change(child, ChangeKind.DELETED)
            continue
        below: list[Change] = []
        if stat.S_ISDIR(now.st_mode):
            below = _inside(new, old, was, child, whiteouts, hidden)
        if was is None:
            yield Change(child, ChangeKind.ADDED)
        elif below or not _same(new, old, name, now, was):
            yield Change(child, ChangeKind.MODIFIED)
        yield from below
    if old is not None and (hidden or not whiteouts.overlay):
        for name in os.listdir(old):
            if name not in names:
                yield Change(path + name, ChangeKind.DELETED)


def _inside(
    new: int,
    old: int | None,
    was: os.stat_result | None,
    path: str,
    whiteouts: Whiteouts,
    hidden: bool,
) -> list[Change]:
    name = os.path.basename(path)
    try:
        new_fd = os.open(name, _DIRECTORY_FLAGS, dir_fd=new)
    except (FileNotFoundError, NotADirectoryError):
        return []
    try:
        hidden = hidden or (whiteouts.overlay and is_opaque(new_fd, whiteouts))
        if old is None or was is None or not stat.S_ISDIR(was.st_mode):
            return list(_directory(new_fd, None, path + "/", whiteouts, hidden))
        old_fd = os.open(name, _DIRECTORY_FLAGS, dir_fd=old)
        try:
            return list(_directory(new_fd, old_fd, path + "/", whiteouts, hidden))
        finally:
            os.close(old_fd)
    finally:
        os.close(new_fd)


def _stat(directory: int | None, name: str) -> os.stat_result | None:
    if directory is None:
        return None
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _same(new: int, old: int | None, name: str, now: os.stat_result, was: os.stat_result) -> bool:
    if (now.st_mode, now.st_uid, now.st_gid, now.st_rdev) != (
        was.st_mode,
        was.st_uid,
        was.st_gid,
        was.st_rdev,
    ):
        return False
    if not stat.S_ISDIR(now.st_mode) and (now.st_mtime_ns, now.st_size) != (
        was.st_mtime_ns,
        was.st_size,
    ):
        return False
    return _xattrs(new, name) == _xattrs(old, name)


def _xattrs(directory: int | None, name: str) -> dict[str, bytes]:
    path = f"/proc/self/fd/{directory}/{name}"
    try:
        return {
            key: os.getxattr(path, key, follow_symlinks=False)
            for key in os.listxattr(path, follow_symlinks=False)
            if not is_overlay_xattr(key)
        }
    except OSError:
        return {}
