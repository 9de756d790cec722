"""Trees that others filled: walked and deleted at any depth, with few descriptors, and never left.

A container can nest directories deeper than any path is long, or any stack.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(parent: int | None, name: str | bytes | os.PathLike[str]) -> None:
    """Delete directory ``name`` in ``parent`` (None: the working directory) and all within.

    Raises ``OSError`` EBUSY for a mount point in the tree, or if a directory is moved meanwhile.
    """
    fd = os.open(name, _FLAGS, dir_fd=parent)
    try:
        # From the top down to where we are: the directory's name, which one it is, and the names
        # of directories in it that are still to be deleted.
        levels = [(name, _identity(fd), _clear(fd))]
        while True:
            _, (device, _), left = levels[-1]
            if left:
                fd = _enter(fd, left[-1])
                identity = _identity(fd)
                if identity[0] != device:
                    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), left[-1])
                levels.append((left.pop(), identity, _clear(fd)))
                continue
            done, _, _ = levels.pop()
            if not levels:
                break
            fd = _leave(fd, levels[-1][1])
            os.rmdir(done, dir_fd=fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent)


def directories(root: int) -> Iterator[tuple[int, list[str]]]:
    """Every directory of the tree behind descriptor ``root``, parents before children.

    Gives a descriptor, valid until the next step, and a list which the caller fills with the names
    of directories to enter; those that are gone by then are left out. Raises ``OSError`` EBUSY if a
    directory is moved while something in it is visited.
    """
    fd = os.dup(root)
    levels: list[tuple[tuple[int, int], list[str]]] = []
    try:
        while True:
            inside: list[str] = []
            yield fd, inside
            levels.append((_identity(fd), inside))
            while True:
                left = levels[-1][1]
                if left:
                    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                        fd = _enter(fd, left.pop())
                        break
                else:
                    levels.pop()
                    if not levels:
                        return
                    fd = _leave(fd, levels[-1][0])
    finally:
        os.close(fd)


def _enter(directory: int, name: str) -> int:
    """A descriptor of ``name``, in exchange for that of the directory it is in."""
    fd = os.open(name, _FLAGS, dir_fd=directory)
    os.close(directory)
    return fd


def _leave(directory: int, expected: tuple[int, int]) -> int:
    fd = os.open("..", _FLAGS, dir_fd=directory)
    if _identity(fd) != expected:
        os.close(fd)
        raise OSError(errno.EBUSY, "a directory was moved")
    os.close(directory)
    return fd


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
