"""Flags of inodes, as lsattr(1) shows them (ioctl_iflags(2))."""

from __future__ import annotations

import fcntl
import os
import struct

_GET = 0x80086601
_SET = 0x40086602
#: ``T`` of lsattr.
TOPDIR = 0x00020000


def get(path: str | os.PathLike[str]) -> int:
    """The flags of a file or directory; ``OSError`` where the filesystem has none."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        answer = fcntl.ioctl(fd, _GET, struct.pack("l", 0))
        return int(struct.unpack("l", answer)[0])
    finally:
        os.close(fd)


def add(path: str | os.PathLike[str], flags: int) -> None:
    """Set ``flags`` beside those that are set; ``OSError`` where the filesystem cannot."""
    wanted = get(path) | flags
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _SET, struct.pack("l", wanted))
    finally:
        os.close(fd)
