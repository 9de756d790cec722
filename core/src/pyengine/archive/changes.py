"""What differs between two trees, as ``docker diff`` counts it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack

from pyengine.archive.pack import is_opaque
from pyengine.archive.whiteouts import Whiteouts, is_overlay_xattr
from pyengine.contracts.storage import Change, ChangeKind
from pyengine.linux.syscalls import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def changes(new: int, old: int | None, whiteouts: Whiteouts = Whiteouts.PLAIN) -> list[Change]:
    """Compare the trees behind two directory descriptors; sorted by path.

    ``old`` None: everything is added. With an overlay style, ``new`` is an upper layer over
    ``old``: what it does not name is unchanged, and what it deletes has a whiteout or lies under
    an opaque directory. With ``PLAIN`` both are whole trees.

    As Docker has it, a directory is modified if its mode or owner is, or something in it; its times
    do not count. A file copied up and left as it was is no change. A deleted directory is one
    change, whatever was in it. ``OSError`` ENAMETOOLONG for what is too deep to be named by a path.
    """
    found: dict[str, ChangeKind] = {}
    # By path, not by descriptor: a tree may be deeper than descriptors last. The tuple says whether
    # an opaque directory is above, and whether ``old`` has the directory as well.
    pending = [("", False, old is not None)]
    while pending:
        path, hidden, both = pending.pop()
        with ExitStack() as opened:
            here = _open(new, path)
            if here is None:
                continue  # somebody removed it meanwhile
            opened.callback(os.close, here)
            there = _open(old, path) if both and old is not None else None
            if there is not None:
                opened.callback(os.close, there)
            hidden = hidden or (whiteouts.overlay and is_opaque(here, whiteouts))
            pending += _directory(here, there, path, whiteouts, hidden, found)
    # A directory with a change in it has changed.
    for path in list(found):
        above = os.path.dirname(path)
        while above != "/" and above not in found:
            found[above] = ChangeKind.MODIFIED
            above = os.path.dirname(above)
    return [Change(path, kind) for path, kind in sorted(found.items())]


def _directory(
    new: int,
    old: int | None,
    above: str,
    whiteouts: Whiteouts,
    hidden: bool,
    found: dict[str, ChangeKind],
) -> Iterator[tuple[str, bool, bool]]:
    """Add to ``found`` what differs in one directory; what is to be looked at next."""
    names = set(os.listdir(new))
    for name in names:
        path = f"{above}/{name}"
        try:
            now = os.stat(name, dir_fd=new, follow_symlinks=False)
        except FileNotFoundError:
            continue
        was = _stat(old, name)
        if whiteouts.overlay and stat.S_ISCHR(now.st_mode) and now.st_rdev == 0:
            if was is not None:
                found[path] = ChangeKind.DELETED
            continue
        if was is None:
            found[path] = ChangeKind.ADDED
        elif not _same(new, old, name, now, was):
            found[path] = ChangeKind.MODIFIED
        if stat.S_ISDIR(now.st_mode):
            yield path, hidden, was is not None and stat.S_ISDIR(was.st_mode)
    if old is not None and (hidden or not whiteouts.overlay):
        for name in os.listdir(old):
            if name not in names:
                found[f"{above}/{name}"] = ChangeKind.DELETED


def _open(top: int, path: str) -> int | None:
    """Directory ``path`` below ``top``; None if there is none, or a link on the way."""
    try:
        resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
        return openat2(top, path.lstrip("/") or ".", _DIRECTORY_FLAGS, 0, resolve)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise


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
