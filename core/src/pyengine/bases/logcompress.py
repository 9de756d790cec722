"""Compressing a rotated file beside the writing, a little with each write.

The shim has one thread and must not stall, and a process of its own would have to be reaped; so
each write compresses a few times its own length of the rotated file. The format is gzip (RFC 1952)
whose comment field says what was compressed: a reader that followed the plain file finds its place
among the rotated ones by that.
"""

from __future__ import annotations

import os
import zlib

from pyengine.faults import failpoint

SUFFIX = ".gz"
_LEAST = 64 * 1024
_RATIO = 4
#: Two to three times as fast as the usual 6, for a tenth more in size: meanwhile the container
#: waits for room in its pipe.
_LEVEL = 3


#: deflate, with a comment, no time, system unknown.
_HEADER = b"\x1f\x8b\x08\x10\0\0\0\0\0\xff"
_MARK = b"pyengine-log "


def identity(fd: int) -> bytes:
    """Of a file that will not grow shorter than its first records: inode and how it begins."""
    # Backwards, as records that end in their own CRC have one and the same CRC forwards.
    begin = os.pread(fd, 256, 0)[::-1]
    return _MARK + b"%d %08x" % (os.fstat(fd).st_ino, zlib.crc32(begin))


def original(header: bytes) -> bytes:
    """The identity of what a compressed file was made of, from its first bytes. One that somebody
    else made is known by them alone."""
    comment = header[len(_HEADER) :].partition(b"\0")[0]
    return comment if comment.startswith(_MARK) else header


class Compressor:
    """Makes ``<path>.gz`` of ``path``. The plain file goes when the other is complete."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._target = -1
        try:
            # Not listed by number, so neither a reader nor a rotation takes it for a log.
            self._target = os.open(
                path + SUFFIX + ".part",
                os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC,
                0o640,
            )
            self._deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, -15)
            self._crc = self._length = 0
            self._emit(_HEADER + identity(self._source) + b"\0")
        except OSError:
            self.close()
            raise

    @classmethod
    def resume(cls, path: str) -> Compressor | None:
        """Begin, or begin again what a crash cut short. None: nothing to do, or no room for it."""
        try:
            return cls(path)
        except OSError:
            return None

    def step(self, written: int) -> bool:
        """Go on a little; True when done or given up (then the plain file stays)."""
        try:
            data = os.read(self._source, max(_LEAST, written * _RATIO))
            if data:
                self._crc = zlib.crc32(data, self._crc)
                self._length += len(data)
                self._emit(self._deflate.compress(data))
                return False
            self._emit(self._deflate.flush())
            self._emit(self._crc.to_bytes(4, "little"))
            self._emit((self._length & 0xFFFFFFFF).to_bytes(4, "little"))
            failpoint("logging.compressed")
            os.rename(self._path + SUFFIX + ".part", self._path + SUFFIX)
            os.unlink(self._path)
        except OSError:
            self._give_up()
        self.close()
        return True

    def finish(self) -> None:
        """All the rest at once, as the next rotation must not wait."""
        while not self.step(1 << 20):
            pass

    def abandon(self) -> None:
        """Leave the plain file as it is."""
        self._give_up()
        self.close()

    def close(self) -> None:
        for fd in (self._source, self._target):
            if fd >= 0:
                os.close(fd)
        self._source = self._target = -1

    def _emit(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._target, view) :]

    def _give_up(self) -> None:
        try:
            os.unlink(self._path + SUFFIX + ".part")
        except OSError:
            pass
