"""The files of one log, for its reader: the current one and its rotated, perhaps compressed,
predecessors, as ``logrotation`` leaves them."""

from __future__ import annotations

import os
import tempfile
import zlib

from pyengine.bases.logcompress import identity, original

_BLOCK = 64 * 1024
#: So often rotations may come in between. Files that are met again even then are copies that
#: somebody made.
_ATTEMPTS = 100


class LogFile:
    """One open file, plain or the compressed copy of a plain one."""

    def __init__(self, fd: int, compressed: bool) -> None:
        self._fd = fd
        self._compressed = compressed
        status = os.fstat(fd)
        #: ns; no record in it is younger.
        self.modified = status.st_mtime_ns
        self.inode = status.st_ino
        self._original = original(os.pread(fd, 128, 0)) if compressed else b""

    def is_same(self, other: LogFile) -> bool:
        """True if both hold the same records. Both being open, no inode stands for two files; a
        compressed copy tells inode and beginning of the plain file, whose inode is free again."""
        if not self._original and not other._original:
            return self.inode == other.inode
        return self._identity() == other._identity()

    def _identity(self) -> bytes:
        return self._original or identity(self._fd)

    def descriptor(self) -> int:
        """Of the plain text; a compressed file is expanded when first asked for."""
        if self._compressed:
            plain = _expand(self._fd)
            os.close(self._fd)
            self._fd, self._compressed = plain, False
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_all(path: str, after: LogFile | None = None) -> list[LogFile]:
    """The files of the log that begins at ``path``, oldest first; or only those ``after`` one.

    Rotations may go on meanwhile. Each moves every file to the next higher number, and this walks
    upwards, so no file is missed. One that is met twice in a row moved along; one that is met again
    after another has been overtaken by a younger file, and the order is not to be trusted.
    """
    for attempt in range(_ATTEMPTS):
        found: list[LogFile] = []
        number = absent = 0
        while absent < 3:
            file = _open(path if number == 0 else f"{path}.{number}")
            number += 1
            if file is None:
                absent += 1
                continue
            absent = 0
            if after is not None and file.is_same(after):
                file.close()
                return found[::-1]
            if not any(file.is_same(other) for other in found):
                found.append(file)
                continue
            overtaken = not file.is_same(found[-1])
            file.close()
            if overtaken and attempt < _ATTEMPTS - 1:
                break
        else:
            break
        for file in found:
            file.close()
    return found[::-1]


def _open(path: str) -> LogFile | None:
    # The plain file goes only after the compressed one is complete, hence this order.
    for name, compressed in ((path, False), (path + ".gz", True)):
        try:
            return LogFile(os.open(name, os.O_RDONLY | os.O_CLOEXEC), compressed)
        except FileNotFoundError:
            continue
    return None


def _expand(fd: int) -> int:
    """A descriptor of an unnamed file with the plain text; a damaged rest is left out."""
    inflate = zlib.decompressobj(31)
    with tempfile.TemporaryFile() as plain:
        position = 0
        while not inflate.eof:
            data = os.pread(fd, _BLOCK, position)
            if not data:
                break
            position += len(data)
            try:
                plain.write(inflate.decompress(data))
            except zlib.error:
                break
        plain.flush()
        return os.dup(plain.fileno())
