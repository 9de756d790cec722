"""The format. A log is a sequence of records and nothing else; numbers are little-endian.

====== ===== ====================================================================
offset bytes
====== ===== ====================================================================
0      1     0xFF, which is in no UTF-8
1      1     kind: 1 for stdout, 2 for stderr; and 4 for a piece of a line
2      2     bytes of attributes, A
4      4     bytes of the whole record, N
8      8     time in ns since the epoch, signed
16     4     CRC-32 of what is before it
20     A     attributes
20 + A       text, as the container wrote it
N - 8  4     CRC-32 of attributes and text
N - 4  4     N again, for who comes from the end
====== ===== ====================================================================

The text of a record is one or more lines with their newlines, which came together, at most 64 KiB;
or, if it is a piece, a part of a line that is longer than the limit or the rest at the end of the
output, without newline. Attributes are ``key=value`` with commas between, both encoded as in a URL,
which is what ``docker logs --details`` shows. A record of any other kind is passed over.

The head has a check of its own, so that a length that is damaged is never believed: a record whose
end is not there yet is waited for, and damage is passed over up to the next head that is right.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from zlib import crc32

from pyengine.contracts.logging import STDERR, STDOUT

#: Added to the stream in a record's kind.
PIECE = 4
LONGEST_TEXT = 64 * 1024
LONGEST_ATTRIBUTES = 0xFFFF

_MARK = 0xFF
_BEGIN = struct.Struct("<BBHIq")
_HEAD = struct.Struct("<BBHIqI")
_FOOT = struct.Struct("<II")
HEAD = _HEAD.size
#: Bytes of a record with neither attributes nor text, and with the most of both.
LEAST = HEAD + _FOOT.size
LONGEST = LEAST + LONGEST_ATTRIBUTES + LONGEST_TEXT
#: Bytes looked at together: any record and more.
BLOCK = 2 * LONGEST


class Record(NamedTuple):
    """``size``: bytes in the file. ``time``: ns since the epoch."""

    size: int
    kind: int
    time: int
    attributes: bytes
    text: bytes

    @property
    def stream(self) -> int:
        """``STDOUT``, ``STDERR``, or another number for what is not to be shown."""
        return self.kind & ~PIECE

    def lines(self) -> int:
        """How many lines or pieces it counts for."""
        if self.stream not in (STDOUT, STDERR):
            return 0
        return 1 if self.kind & PIECE else self.text.count(b"\n")


def pack(kind: int, time: int, attributes: bytes, text: bytes) -> bytes:
    """A record; neither part longer than it may be."""
    size = LEAST + len(attributes) + len(text)
    begin = _BEGIN.pack(_MARK, kind, len(attributes), size, time)
    check = crc32(text, crc32(attributes)) if attributes else crc32(text)
    return b"".join(
        (begin, crc32(begin).to_bytes(4, "little"), attributes, text, _FOOT.pack(check, size))
    )


def pack_attributes(attributes: Mapping[str, str]) -> bytes:
    """Sorted by key."""
    pairs = sorted(attributes.items())
    return b",".join(_quote(key) + b"=" + _quote(value) for key, value in pairs)


def size_at(block: bytes, position: int) -> int:
    """What the head of the record at ``position`` says of its size; 0: there is no right head."""
    mark, _, attributes, size, _, check = _HEAD.unpack_from(block, position)
    if (
        mark == _MARK
        and crc32(block[position : position + _BEGIN.size]) == check
        and LEAST + attributes <= size <= LONGEST
    ):
        return int(size)
    return 0


def record_at(block: bytes, position: int, size: int) -> Record | None:
    """The record of which :func:`size_at` knew and of which all is in ``block``; None: it is
    damaged."""
    _, kind, attributes, _, time, _ = _HEAD.unpack_from(block, position)
    end = position + size - _FOOT.size
    body = block[position + HEAD : end]
    if _FOOT.unpack_from(block, end) != (crc32(body), size):
        return None
    return Record(size, kind, time, body[:attributes], body[attributes:])


def next_head(block: bytes, position: int) -> int:
    """Where the next right head begins, from ``position`` on; or where the last bytes begin, of
    which more must be known."""
    last = max(position, len(block) - HEAD + 1)
    while True:
        position = block.find(_MARK, position, last)
        if position < 0:
            return last
        if size_at(block, position):
            return position
        position += 1


def backwards(fd: int) -> Iterator[tuple[int, Record]]:
    """The whole records of a file and where they begin, the last one first. Damage, and an
    unfinished record at the end, are passed over."""
    end = start = os.fstat(fd).st_size
    block = b""
    while end >= LEAST:
        if start and end - start < LONGEST:
            start = max(0, end - BLOCK)
            block = os.pread(fd, end - start, start)
        found = _ending_at(block, end - start) or _last_before(block, end - start)
        if found:
            position, record = found
            end = start + position
            yield end, record
        else:
            # One that began before this block would end in its beginning.
            end = min(end - 1, start + LONGEST) if start else 0


def _ending_at(block: bytes, end: int) -> tuple[int, Record] | None:
    """The record that ends at ``end``."""
    if end < LEAST:
        return None
    size = _FOOT.unpack_from(block, end - _FOOT.size)[1]
    if not LEAST <= size <= end or size_at(block, end - size) != size:
        return None
    record = record_at(block, end - size, size)
    return (end - size, record) if record else None


def _last_before(block: bytes, end: int) -> tuple[int, Record] | None:
    """The last record that ends before ``end``."""
    position = end - LEAST + 1
    while (position := block.rfind(_MARK, 0, max(0, position))) >= 0:
        size = size_at(block, position)
        if size and position + size <= end:
            record = record_at(block, position, size)
            if record:
                return position, record
    return None


_PLAIN = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_.~")


def _quote(text: str) -> bytes:
    """As in the query of a URL. (urllib would be a big module more in every shim.)"""
    raw = text.encode("utf-8", "surrogateescape")
    return b"".join(
        bytes([byte]) if byte in _PLAIN else b"+" if byte == 0x20 else b"%%%02X" % byte
        for byte in raw
    )
