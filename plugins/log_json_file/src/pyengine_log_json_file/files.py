"""The files of one log: the current one and its rotated, perhaps compressed, predecessors."""

from __future__ import annotations

import os
import tempfile
import zlib

_BLOCK = 64 * 1024


class LogFile:
    """One open file. ``inode``: of the plain file, also where this is its compressed copy."""

    def __init__(self, fd: int, compressed: bool) -> None:
        self._fd = fd
        self._compressed = compressed
        status = os.fstat(fd)
        #: ns; no record in it is younger.
        self.modified = status.st_mtime_ns
        self.inode = _original_inode(fd) if compressed else status.st_ino

    def descriptor(self) -> int:
        """Of the plain text; a compressed file is expanded when first asked for."""
        if self._compressed:
            plain = _expand(self._fd)
            os.close(self._fd)
            self._fd, self._compressed = plain, False
        return self._fd

    def find_tail(self, wanted: int) -> tuple[int, int]:
        """How many of the last ``wanted`` records are in this file, and where they begin."""
        fd = self.descriptor()
        position = os.fstat(fd).st_size
        # The newline that ends the record before them is the one to find.
        missing = wanted + 1
        while position:
            start = max(0, position - _BLOCK)
            block = os.pread(fd, position - start, start)
            count = block.count(b"\n")
            if count < missing:
                missing -= count
                position = start
                continue
            cut = len(block)
            for _ in range(missing):
                cut = block.rindex(b"\n", 0, cut)
            return wanted, start + cut + 1
        return wanted + 1 - missing, 0

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_all(path: str) -> list[LogFile]:
    """All files of the log that begins at ``path``, oldest first.

    A rotation may go on meanwhile. It moves each file to the next higher number, and this walks
    upwards: so no file is missed, and one that is met twice is known by its inode.
    """
    found: dict[int, LogFile] = {}
    number, absent = 0, 0
    while absent < 3:
        file = _open(path if number == 0 else f"{path}.{number}")
        number += 1
        if file is None:
            absent += 1
            continue
        absent = 0
        if file.inode in found:
            file.close()
        else:
            found[file.inode] = file
    return list(reversed(found.values()))


def _open(path: str) -> LogFile | None:
    # The plain file goes only after the compressed one is complete, hence this order.
    for name, compressed in ((path, False), (path + ".gz", True)):
        try:
            return LogFile(os.open(name, os.O_RDONLY | os.O_CLOEXEC), compressed)
        except FileNotFoundError:
            continue
    return None


def _original_inode(fd: int) -> int:
    """From the comment of the gzip header; a file that is not ours is known by its own inode."""
    header = os.pread(fd, 64, 0)
    start = header.find(b"inode=")
    digits = header[start + 6 : header.find(b"\0", start)] if start > 0 else b""
    return int(digits) if digits.isdigit() else -os.fstat(fd).st_ino


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
