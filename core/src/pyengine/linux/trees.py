"""Deleting trees that others filled: of any depth, with few descriptors, and never outside."""

from __future__ import annotations

import errno
import os

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(parent: int | None, name: str | bytes | os.PathLike[str]) -> None:
    """Delete directory ``name`` in ``parent`` (None: the working directory) and all within.

    A container can nest directories deeper than any path is long, or any stack. Raises ``OSError``:
    EBUSY for a mount point in the tree, or if a directory is moved while it is deleted.
    """
    fd = os.open(name, _FLAGS, dir_fd=parent)
    try:
        # From the top down to where we are: the directory's name, which one it is, and the names
        # of directories in it that are still to be deleted.
        levels = [(name, _identity(fd), _clear(fd))]
        while True:
            _, (device, _), left = levels[-1]
            if left:
                inner = _enter(fd, left[-1])
                os.close(fd)
                fd = inner
                identity = _identity(fd)
                if identity[0] != device:
                    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), left[-1])
                levels.append((left.pop(), identity, _clear(fd)))
                continue
            done, _, _ = levels.pop()
            if not levels:
                break
            above = _enter(fd, "..")
            os.close(fd)
            fd = above
            if _identity(fd) != levels[-1][1]:
                raise OSError(errno.EBUSY, "moved while it was deleted", done)
            os.rmdir(done, dir_fd=fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent)


def _enter(directory: int, name: str) -> int:
    return os.open(name, _FLAGS, dir_fd=directory)


def _identity(directory: int) -> tuple[int, int]:
    found = os.fstat(directory)
    return found.st_dev, found.st_ino


def _clear(directory: int) -> list[str]:
    """Delete what is no directory; the names of the directories."""
    directories = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=directory)
    return directories
