"""A log in files of bounded size: the current one, and its predecessors as ``.1``, ``.2``, ...

This is the writer's side, which runs in the shim; ``logfiles`` is the reader's. Records are the
affair of the format: it decides where to cut what goes into one file, and what a crash left torn.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from pyengine.bases.logcompress import SUFFIX, Compressor
from pyengine.faults import failpoint

_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
_ENDLESS = 1 << 62


class Rotation(NamedTuple):
    """``size``: bytes after which a file is rotated, 0 for never. ``files``: the most to keep, the
    current one included. ``compress``: whether rotated ones become gzip."""

    size: int
    files: int
    compress: bool


class RotatingFile:
    """Open for appending. ``repair`` gets a descriptor that reads and one that writes of a file
    that is not empty, closes off what a crash left after the last whole record, and answers the
    size after that.

    Raises ``OSError`` if the file cannot be opened, and for nothing after that: what a full disk
    takes shows in what :meth:`append` answers, and ``reason`` says why.
    """

    def __init__(self, path: str, rotation: Rotation, repair: Callable[[int, int], int]) -> None:
        self.reason = ""
        self._path = path
        self._rotation = rotation
        self._compressor: Compressor | None = None
        self._fd = os.open(path, _FLAGS, 0o640)
        self._size = os.fstat(self._fd).st_size
        if self._size:
            # The log's own is for writing only.
            reading = os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._size = repair(reading, self._fd)
            finally:
                os.close(reading)
        self._limit = rotation.size
        if rotation.compress:
            self._compressor = Compressor.resume(path + ".1")

    def room(self) -> int:
        """Bytes until this file is due for rotation, 1 or more; one that is due is rotated first.

        As with Docker a file ends with the record that fills it, and may get longer by that.
        """
        if not self._limit:
            return _ENDLESS
        if self._size >= self._limit:
            self._rotate()
        return max(1, self._limit - self._size)

    def append(self, data: bytes) -> int:
        """Write, and answer how many bytes of ``data`` are in the file: fewer on a full disk."""
        written = 0
        try:
            written = os.write(self._fd, data)
            while written < len(data):
                written += os.write(self._fd, memoryview(data)[written:])
        except OSError as error:
            self.reason = os.strerror(error.errno or 0)
        self._size += written
        if self._compressor and self._compressor.step(len(data)):
            self._compressor = None
        return written

    def retract(self, count: int) -> bool:
        """Take back the last ``count`` bytes, the beginning of a record; False: they stay."""
        try:
            os.ftruncate(self._fd, os.fstat(self._fd).st_size - count)
        except OSError:
            return False
        self._size -= count
        return True

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._compressor:
            self._compressor.abandon()
            self._compressor = None

    def _rotate(self) -> None:
        """Shift the files by one. If that fails, go on with the one that is open."""
        if os.fstat(self._fd).st_size < self._size:
            # Somebody emptied the file to make room.
            self._size = os.fstat(self._fd).st_size
            return
        path, files = self._path, self._rotation.files
        if self._compressor:
            self._compressor.finish()
            self._compressor = None
        failpoint("logging.rotate")
        try:
            # A gap, left by a crash in the middle of this, is filled first.
            last = 0
            while last < files - 1 and _exists(f"{path}.{last + 1}"):
                last += 1
            for number in range(last, 0, -1):
                for suffix in ("", SUFFIX):
                    old = f"{path}.{number}{suffix}"
                    if number == files - 1:
                        _quietly(os.unlink, old)
                    else:
                        _quietly(os.rename, old, f"{path}.{number + 1}{suffix}")
            failpoint("logging.rotate.current")
            if files > 1:
                os.rename(path, path + ".1")
            else:
                os.unlink(path)
            fd = os.open(path, _FLAGS, 0o640)
        except OSError as error:
            self.reason = os.strerror(error.errno or 0)
            if files > 1 and not os.path.exists(path):
                _quietly(os.rename, path + ".1", path)
            self._limit = self._size + self._rotation.size
            return
        os.close(self._fd)
        self._fd, self._size, self._limit = fd, 0, self._rotation.size
        if self._rotation.compress:
            self._compressor = Compressor.resume(path + ".1")


def _exists(path: str) -> bool:
    return os.path.exists(path) or os.path.exists(path + SUFFIX)


def _quietly(call: Callable[..., None], *names: str) -> None:
    try:
        call(*names)
    except FileNotFoundError:
        pass
