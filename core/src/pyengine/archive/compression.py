"""Streams in front of a tar: decompression by magic number, and a digest of what passes."""

from __future__ import annotations

import bz2
import contextlib
import hashlib
import io
import lzma
import os
import queue
import stat
import threading
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, cast

import zstandard
from isal import igzip, isal_zlib

from pyengine.errors import InvalidParameter

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK = 1 << 20
#: How many pieces of that size wait for whoever reads a :class:`LayerStream`.
_AHEAD = 4

#: Bytes given to the zstd library at once, for which it may give back 32,000 times as many.
_ZSTD_STEP = 2048

_MAGIC = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
)

#: What the decompressors raise for damaged input; :class:`_Guarded` turns it into InvalidParameter.
_DAMAGED: tuple[type[Exception], ...] = (
    zlib.error,
    cast("type[Exception]", isal_zlib.error),
    igzip.BadGzipFile,
    zstandard.ZstdError,
    lzma.LZMAError,
    EOFError,
)


class _Prefixed(io.RawIOBase):
    """A stream with some bytes put back in front; the source needs no more than ``read``."""

    def __init__(self, prefix: bytes, source: BinaryIO) -> None:
        self._prefix = prefix
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        piece = self.read(len(view))
        view[: len(piece)] = piece
        return len(piece)

    def read(self, size: int = -1, /) -> bytes:
        # No more is waited for than is there: a pipe may be slow.
        if size < 0:
            return self.readall()
        piece, self._prefix = self._prefix[:size], self._prefix[size:]
        return piece + self._source.read(size - len(piece)) if len(piece) < size else piece


class _Guarded(io.RawIOBase):
    """A decompressor whose complaints about its input are the user's errors, not ours."""

    def __init__(self, source: BinaryIO, name: str) -> None:
        self._source = source
        self._name = name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        piece = self.read(len(view))
        view[: len(piece)] = piece
        return len(piece)

    def read(self, size: int = -1, /) -> bytes:
        try:
            return self._source.read(size)
        except _DAMAGED as error:
            raise InvalidParameter(f"damaged {self._name} stream", str(error)) from error
        except OSError as error:
            # bz2 and gzip report damaged data as an OSError without a number.
            if error.errno is None:
                raise InvalidParameter(f"damaged {self._name} stream", str(error)) from error
            raise


class _Zstd(io.RawIOBase):
    """The frames of a zstd stream, one after the other; ``EOFError`` if the last is cut off, which
    the library's own reader does not notice."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._within = False
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(CHUNK), b""))
        if not self._ready:
            self._ready = memoryview(self._more())
        piece = bytes(self._ready[:size])
        self._ready = self._ready[len(piece) :]
        return piece

    def _more(self) -> bytes:
        parts: list[bytes] = []
        length = 0
        while length < CHUNK:
            data = self._source.read(_ZSTD_STEP)
            if not data:
                if self._within and not length:
                    raise EOFError("the last frame is cut off")
                break
            while data:
                part = self._frame.decompress(data)
                parts.append(part)
                length += len(part)
                self._within = not self._frame.eof
                if self._within:
                    break
                data = self._frame.unused_data
                self._frame = zstandard.ZstdDecompressor().decompressobj()
        return parts[0] if len(parts) == 1 else b"".join(parts)


def sniff(start: bytes) -> str:
    """Name of the compression that a stream beginning with ``start`` (6 bytes) has, or ``""``."""
    for magic, name in _MAGIC:
        if start.startswith(magic):
            return name
    return ""


def decompress(stream: BinaryIO) -> BinaryIO:
    """The uncompressed bytes of ``stream``: gzip, zstd, bzip2, xz by magic number, or as it is.

    Reading raises ``InvalidParameter`` where the compressed data are damaged or cut off.
    """
    start = b""
    while len(start) < 6:
        piece = stream.read(6 - len(start))
        if not piece:
            break
        start += piece
    again = _Prefixed(start, stream)
    whole = cast(BinaryIO, io.BufferedReader(again, CHUNK))
    name = sniff(start)
    plain: BinaryIO
    if name == "gzip":
        plain = cast(BinaryIO, igzip.open(whole, "rb"))  # type: ignore[no-untyped-call]
    elif name == "zstd":
        plain = cast(BinaryIO, _Zstd(whole))
    elif name == "bzip2":
        plain = cast(BinaryIO, bz2.BZ2File(whole))
    elif name == "xz":
        plain = cast(BinaryIO, lzma.LZMAFile(whole))  # noqa: SIM115
    else:
        return cast(BinaryIO, again)
    return cast(BinaryIO, _Guarded(plain, name))


class HashingReader(io.RawIOBase):
    """Passes a stream on, and knows the sha256 and the number of bytes that went through."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._hash = hashlib.sha256()
        self.size = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        piece = self._source.read(size)
        self._hash.update(piece)
        self.size += len(piece)
        return piece

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        piece = self.read(len(view))
        view[: len(piece)] = piece
        return len(piece)

    def drain(self) -> None:
        """Read what is left, so that the digest covers the whole stream."""
        while self.read(CHUNK):
            pass

    @property
    def digest(self) -> str:
        """``sha256:<hex>`` of what was read so far."""
        return "sha256:" + self._hash.hexdigest()


class DiffIdMismatch(InvalidParameter):
    """A layer is not the one that was announced. ``expected`` and ``got`` are its digests."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(f'invalid diffID for layer: expected "{expected}", got "{got}"')
        self.expected = expected
        self.got = got


class LayerStream(io.RawIOBase):
    """The uncompressed bytes of the layer in descriptor ``source``, made on a thread of its own.

    A regular file is read from its beginning, whatever its offset; anything else as it comes. With
    ``diff_id``, a stream of another digest ends with ``DiffIdMismatch``: so nobody ever sees a
    complete stream of a wrong layer. ``progress`` is called with the number of bytes taken from
    ``source``, on that thread. ``size`` and ``digest`` hold once the end was read. Until then, or
    until :meth:`close` has returned, ``source`` must stay open.
    """

    def __init__(
        self, source: int, diff_id: str = "", progress: Callable[[int], None] | None = None
    ) -> None:
        self._source = _Source(source, progress)
        self._diff_id = diff_id
        self._pieces: queue.Queue[bytes | BaseException] = queue.Queue(_AHEAD)
        self._piece = memoryview(b"")
        self._ended = False
        self.size = 0
        self.digest = ""
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="decompress", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Return when nothing reads from ``source`` any more, which a pipe may delay."""
        self._stopped = True
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._pieces.get_nowait()  # so that it is not held up by what nobody takes
            self._thread.join(0.001)
        super().close()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        if not self._piece and not self._ended:
            self._next()
        piece = self._piece if size < 0 else self._piece[:size]
        self._piece = self._piece[len(piece) :]
        whole = piece.obj
        return whole if isinstance(whole, bytes) and len(whole) == len(piece) else bytes(piece)

    def _next(self) -> None:
        piece = self._pieces.get()
        if isinstance(piece, BaseException):
            raise piece
        self._piece = memoryview(piece)
        if not piece:
            self._ended = True
            if self._diff_id and self.digest != self._diff_id:
                raise DiffIdMismatch(self._diff_id, self.digest)

    def _work(self) -> None:
        digest = hashlib.sha256()
        try:
            plain = decompress(cast(BinaryIO, self._source))
            while not self._stopped and (piece := plain.read(CHUNK)):
                digest.update(piece)
                self.size += len(piece)
                self._pieces.put(piece)
            self.digest = "sha256:" + digest.hexdigest()
            self._pieces.put(b"")
        except BaseException as error:
            self._pieces.put(error)


class _Source:
    def __init__(self, fd: int, progress: Callable[[int], None] | None) -> None:
        self._fd = fd
        self._progress = progress
        self._is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        self._position = 0

    def read(self, size: int) -> bytes:
        if self._is_file:
            piece = os.pread(self._fd, size, self._position)
        else:
            piece = os.read(self._fd, size)
        self._position += len(piece)
        if self._progress is not None:
            self._progress(self._position)
        return piece
