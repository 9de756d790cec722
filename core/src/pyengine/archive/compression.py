"""Streams in front of a tar: decompression by magic number, and a digest of what passes."""

from __future__ import annotations

import bz2
import hashlib
import io
import lzma
import zlib
from typing import TYPE_CHECKING, BinaryIO, cast

import zstandard
from isal import igzip, isal_zlib

from pyengine.errors import InvalidParameter

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK = 1 << 20

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
        if self._prefix:
            piece, self._prefix = self._prefix[: len(view)], self._prefix[len(view) :]
        else:
            piece = self._source.read(len(view))
        view[: len(piece)] = piece
        return len(piece)


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
    whole = cast(BinaryIO, io.BufferedReader(_Prefixed(start, stream), CHUNK))
    name = sniff(start)
    plain: BinaryIO
    if name == "gzip":
        plain = cast(BinaryIO, igzip.open(whole, "rb"))  # type: ignore[no-untyped-call]
    elif name == "zstd":
        plain = cast(
            BinaryIO, zstandard.ZstdDecompressor().stream_reader(whole, read_across_frames=True)
        )
    elif name == "bzip2":
        plain = cast(BinaryIO, bz2.BZ2File(whole))
    elif name == "xz":
        plain = cast(BinaryIO, lzma.LZMAFile(whole))  # noqa: SIM115
    else:
        return whole
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
