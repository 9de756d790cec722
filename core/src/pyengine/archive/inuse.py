"""Removing from a tree that is in use: what is mounted there stays.

The kernel refuses to remove a mount point only in the namespace that sees the mount. Anywhere else
the name goes, and the mount with it, also from the containers that were using it. So whoever
writes into a tree through a descriptor has to ask first.
"""

from __future__ import annotations

import errno
import os
import stat

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def mount_id(fd: int) -> int:
    """The number of the mount that ``fd`` leads into (proc(5), fdinfo); O_PATH will do."""
    with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
        for line in file:
            if line.startswith(b"mnt_id:"):
                return int(line.split()[1])
    raise OSError(errno.EBADF, os.strerror(errno.EBADF), fd)


def remove(parent: int, name: bytes, mount: int) -> None:
    """Remove ``name`` from directory ``parent``, which is in ``mount``, with all that is in it.

    Raises ``OSError`` EBUSY for a mount point and leaves it, and ENAMETOOLONG for what is hundreds
    of directories deep; what came before it is gone.
    """
    try:
        _remove(parent, name, mount)
    except RecursionError:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), name) from None


def _remove(parent: int, name: bytes, mount: int) -> None:
    try:
        found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except FileNotFoundError:
        return
    try:
        if mount_id(found) != mount:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), name)
        if not stat.S_ISDIR(os.fstat(found).st_mode):
            os.unlink(name, dir_fd=parent)
            return
        directory = os.open(".", _DIRECTORY_FLAGS, dir_fd=found)
    finally:
        os.close(found)
    try:
        for inside in os.listdir(directory):
            _remove(directory, os.fsencode(inside), mount)
    finally:
        os.close(directory)
    os.rmdir(name, dir_fd=parent)
