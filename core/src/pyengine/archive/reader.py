"""A tar reader: bytes in, entries out; nothing here touches a file system.

The standard library's reader decodes names and attribute values, keeps times as floats and seeks;
layers need raw bytes, nanoseconds and a stream read once. Understood are ustar, pax (``x``), GNU
long names (``L``, ``K``), base-256 numbers, and sparse files in GNU's old form and pax 0.0, 0.1
and 1.0. Global pax headers (``g``) are skipped, as other engines skip them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from struct import Struct
from typing import BinaryIO

from pyengine.errors import InvalidParameter

BLOCK = 512
CHUNK = 1 << 20
#: Bound on pax headers and long names, which are held in memory.
MAX_HEADER = 1 << 20

REGULAR = frozenset((b"0", b"\0", b"7", b"S"))
HARD_LINK = b"1"
SYMLINK = b"2"
CHAR = b"3"
BLOCK_DEVICE = b"4"
DIRECTORY = b"5"
FIFO = b"6"

XATTR = b"SCHILY.xattr."

#: name, mode, uid, gid, size, mtime, checksum, type, link name, magic
_HEADER = Struct("100s8s8s8s12s12s8sc100s6s")
_EXTENSIONS = frozenset((b"x", b"X", b"g", b"L", b"K"))
#: The last is what chown(2) takes for "leave it".
_MAX_ID = 0xFFFFFFFE
_BLANKS = sum(b" " * 8)
#: Adler-32 counts in this modulus.
_ADLER = 65521


class Entry:
    """One member. ``size`` counts the bytes of :meth:`TarReader.data`.

    ``segments`` is None, or where a sparse file's data go: (offset, length) pairs that together
    hold ``size`` bytes of a file of ``real_size`` bytes. Times are nanoseconds since the epoch.
    """

    __slots__ = (
        "atime",
        "gid",
        "link",
        "major",
        "minor",
        "mode",
        "mtime",
        "name",
        "real_size",
        "segments",
        "size",
        "type",
        "uid",
        "xattrs",
    )

    def __init__(self, name: bytes, type: bytes) -> None:
        self.name = name
        self.type = type
        self.mode = 0
        self.uid = 0
        self.gid = 0
        self.size = 0
        self.real_size = 0
        self.mtime = 0
        self.atime: int | None = None
        self.link = b""
        self.major = 0
        self.minor = 0
        self.xattrs: dict[str, bytes] = {}
        self.segments: list[tuple[int, int]] | None = None


class TarReader:
    """Iterate for the entries; between two of them :meth:`data` gives the current one's bytes.

    The stream needs only ``read(n)``, which may return less than ``n``. It is read to its end, past
    the end-of-archive marker. Raises ``InvalidParameter`` for what is not a tar stream.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        # What was read and not yet used is _buffer[_position:].
        self._buffer = b""
        self._position = 0
        self._left = 0
        self._padding = 0
        self._name = b""
        # An archive has few owners and modes.
        self._numbers: dict[bytes, int] = {}

    def __iter__(self) -> Iterator[Entry]:
        seen = False
        while True:
            self._skip(self._left + self._padding)
            self._left = self._padding = 0
            entry = self._next(first=not seen)
            if entry is None:
                break
            seen = True
            yield entry
        self._buffer = b""
        while self._stream.read(CHUNK):
            pass

    def data(self) -> Iterator[memoryview]:
        """The rest of the current entry's bytes, in pieces valid until the next one."""
        while self._left:
            if self._position == len(self._buffer):
                self._fill()
            piece = memoryview(self._buffer)[self._position : self._position + self._left]
            self._position += len(piece)
            self._left -= len(piece)
            yield piece

    def whole(self) -> memoryview | None:
        """All bytes of the current entry if they happen to be at hand, else None."""
        end = self._position + self._left
        if end > len(self._buffer):
            return None
        piece = memoryview(self._buffer)[self._position : end]
        self._position = end
        self._left = 0
        return piece

    def read_data(self, limit: int) -> bytes:
        """All bytes of the current entry; ``InvalidParameter`` if there are more than ``limit``."""
        if self._left > limit:
            raise self._bad(f"is larger than {limit} bytes")
        return b"".join(self.data())

    # -- the stream --------------------------------------------------------------------------

    def _fill(self) -> None:
        self._buffer = self._stream.read(CHUNK)
        self._position = 0
        if not self._buffer:
            raise self._bad("unexpected end of the archive")

    def _take(self, size: int) -> bytes:
        end = self._position + size
        if end <= len(self._buffer):
            taken = self._buffer[self._position : end]
            self._position = end
            return taken
        parts = []
        while size:
            if self._position == len(self._buffer):
                self._fill()
            piece = self._buffer[self._position : self._position + size]
            self._position += len(piece)
            size -= len(piece)
            parts.append(piece)
        return b"".join(parts)

    def _skip(self, size: int) -> None:
        while size:
            if self._position == len(self._buffer):
                self._fill()
            step = min(size, len(self._buffer) - self._position)
            self._position += step
            size -= step

    def _header(self) -> bytes | None:
        """The next header block, or None at the end: a block of zeros or a clean end of file."""
        if self._position == len(self._buffer):
            self._buffer = self._stream.read(CHUNK)
            self._position = 0
            if not self._buffer:
                return None
        header = self._take(BLOCK)
        return None if header[0] == 0 and header.count(0) == BLOCK else header

    def _bad(self, problem: str) -> InvalidParameter:
        if self._name:
            name = self._name.decode("utf-8", "backslashreplace")
            return InvalidParameter(f"invalid tar entry {name!r}", problem)
        return InvalidParameter("invalid tar header", problem)

    # -- headers -----------------------------------------------------------------------------

    def _next(self, first: bool) -> Entry | None:
        pax: list[tuple[bytes, bytes]] = []
        long_name = long_link = None
        while True:
            header = self._header()
            if header is None:
                return None
            name, mode, uid, gid, size, mtime, checksum, type, link, magic = _HEADER.unpack_from(
                header
            )
            if not self._is_checksum(checksum, header):
                if first:
                    raise InvalidParameter("invalid tar header", "this is not a tar archive")
                raise self._bad("wrong checksum in the header that follows")
            if type not in _EXTENSIONS:
                break
            length = self._number(size)
            if not 0 <= length <= MAX_HEADER:
                raise self._bad(f"an extended header of {length} bytes")
            body = self._take(length)
            self._skip(-length % BLOCK)
            if type in b"xX":
                pax = self._pax(body)
            elif type == b"L":
                long_name = body.split(b"\0", 1)[0]
            elif type == b"K":
                long_link = body.split(b"\0", 1)[0]

        if long_name is not None:
            self._name = long_name
        else:
            self._name = name[: name.find(0)] if 0 in name else name
            if magic == b"ustar\0" and header[345]:
                self._name = header[345:500].split(b"\0", 1)[0] + b"/" + self._name
        entry = Entry(self._name, type)
        entry.mode = self._number(mode) & 0o7777
        entry.uid = self._number(uid)
        entry.gid = self._number(gid)
        entry.size = self._number(size)
        entry.mtime = self._number(mtime) * 1_000_000_000
        if long_link is not None:
            entry.link = long_link
        elif link[0]:
            entry.link = link.split(b"\0", 1)[0]
        if type in b"34" and magic.startswith(b"ustar"):
            entry.major = self._number(header[329:337])
            entry.minor = self._number(header[337:345])
        sparse = self._apply_pax(entry, pax) if pax else None
        # Old archives mark a directory by its name alone.
        if type in b"0\0" and entry.name.endswith(b"/"):
            entry.type = DIRECTORY
        if entry.type not in REGULAR:
            # A size on anything but a file says nothing about the stream (POSIX: "size" of links).
            entry.size = 0
        if entry.size < 0:
            raise self._bad("negative size")
        if not (0 <= entry.uid <= _MAX_ID and 0 <= entry.gid <= _MAX_ID):
            raise self._bad(f"{entry.uid}:{entry.gid} is no owner")
        self._left, self._padding = entry.size, -entry.size % BLOCK
        entry.real_size = entry.size
        if type == b"S":
            self._old_sparse(entry, header)
        elif sparse is not None:
            self._pax_sparse(entry, sparse)
        return entry

    def _is_checksum(self, field: bytes, header: bytes) -> bool:
        """Whether ``field`` has the sum of the header's bytes, itself counted as blanks.

        The lower half of an Adler-32 is that sum (plus one), in a tenth of the time of sum(); the
        modulus leaves a checksum as good as before.
        """
        text = field.split(b"\0", 1)[0].strip()
        try:
            wanted = int(text, 8) if text else 0
        except ValueError:
            return False
        found = (zlib.adler32(header) & 0xFFFF) - 1 - sum(field) + _BLANKS
        return wanted % _ADLER == found % _ADLER

    def _number(self, field: bytes) -> int:
        found = self._numbers.get(field)
        if found is None:
            if len(self._numbers) > 4096:
                self._numbers.clear()
            found = self._numbers[field] = self._parse_number(field)
        return found

    def _parse_number(self, field: bytes) -> int:
        if field[0] & 0x80:
            value = int.from_bytes(field, "big") & ((1 << (len(field) * 8 - 1)) - 1)
            if field[0] & 0x40:
                value -= 1 << (len(field) * 8 - 1)
            return value
        text = field.split(b"\0", 1)[0].strip()
        # int() alone would accept "0o7", "-7", "+7" and "1_0".
        if not text:
            return 0
        if text.translate(None, b"01234567"):
            raise self._bad(f"{text!r} is no octal number")
        return int(text, 8)

    def _decimal(self, text: bytes) -> int:
        # int() alone would accept "1_0", "+1" and blanks.
        if not text.isdigit() or len(text) > 20:
            raise self._bad(f"{text[:40]!r} is no decimal number")
        return int(text)

    def _pax(self, body: bytes) -> list[tuple[bytes, bytes]]:
        records = []
        position = 0
        while position < len(body):
            space = body.find(b" ", position, position + 20)
            length = self._decimal(body[position:space]) if space > 0 else 0
            end = position + length
            key, equals, value = body[space + 1 : end].partition(b"=")
            if end > len(body) or not key or not equals or not value.endswith(b"\n"):
                raise self._bad("malformed pax record")
            records.append((key, value[:-1]))
            position = end
        return records

    def _time(self, text: bytes) -> int:
        seconds, _, fraction = text.partition(b".")
        negative = seconds.startswith(b"-")
        whole = self._decimal(seconds.lstrip(b"-") or b"0") * 1_000_000_000
        part = self._decimal((fraction[:9] or b"0").ljust(9, b"0"))
        return -(whole + part) if negative else whole + part

    def _apply_pax(self, entry: Entry, pax: list[tuple[bytes, bytes]]) -> _Sparse | None:
        sparse: _Sparse | None = None
        for key, value in pax:
            if key == b"path":
                entry.name = self._name = value
            elif key == b"linkpath":
                entry.link = value
            elif key == b"size":
                entry.size = self._decimal(value)
            elif key == b"uid":
                entry.uid = self._decimal(value)
            elif key == b"gid":
                entry.gid = self._decimal(value)
            elif key == b"mtime":
                entry.mtime = self._time(value)
            elif key == b"atime":
                entry.atime = self._time(value)
            elif key.startswith(XATTR):
                name = key[len(XATTR) :].decode("utf-8", "surrogateescape")
                entry.xattrs[name] = value
            elif key.startswith(b"GNU.sparse."):
                sparse = sparse or _Sparse()
                self._sparse_record(entry, sparse, key[11:], value)
        return sparse

    # -- sparse files ------------------------------------------------------------------------

    def _sparse_record(self, entry: Entry, sparse: _Sparse, key: bytes, value: bytes) -> None:
        if key == b"name":
            entry.name = self._name = value
        elif key in (b"size", b"realsize"):
            sparse.real_size = self._decimal(value)
        elif key == b"map":
            sparse.numbers = [self._decimal(number) for number in value.split(b",") if number]
        elif key in (b"offset", b"numbytes"):
            sparse.numbers.append(self._decimal(value))
        elif key == b"major":
            sparse.in_data = value == b"1"

    def _pax_sparse(self, entry: Entry, sparse: _Sparse) -> None:
        if sparse.in_data:
            text = self._map_block(entry)
            while text.count(b"\n") < 1:
                text += self._map_block(entry)
            wanted = 1 + 2 * self._decimal(text.split(b"\n", 1)[0])
            while text.count(b"\n") < wanted:
                if len(text) > MAX_HEADER:
                    raise self._bad("sparse map too long")
                text += self._map_block(entry)
            sparse.numbers = [self._decimal(number) for number in text.split(b"\n")[1:wanted]]
        self._set_segments(entry, sparse.numbers, sparse.real_size)

    def _map_block(self, entry: Entry) -> bytes:
        if self._left < BLOCK:
            raise self._bad("sparse map cut off")
        self._left -= BLOCK
        entry.size -= BLOCK
        return self._take(BLOCK)

    def _old_sparse(self, entry: Entry, header: bytes) -> None:
        table, more = header[386:482], header[482]
        while more:
            if len(table) > MAX_HEADER:
                raise self._bad("sparse map too long")
            block = self._take(BLOCK)
            table += block[:504]
            more = block[504]
        numbers = []
        for position in range(0, len(table), 24):
            if table[position] == 0:
                break
            numbers.append(self._number(table[position : position + 12]))
            numbers.append(self._number(table[position + 12 : position + 24]))
        self._set_segments(entry, numbers, self._number(header[483:495]))

    def _set_segments(self, entry: Entry, numbers: list[int], real_size: int) -> None:
        segments = list(zip(numbers[::2], numbers[1::2], strict=False))
        end = 0
        for offset, length in segments:
            if offset < end or length < 0:
                raise self._bad("sparse map out of order")
            end = offset + length
        if len(numbers) % 2 or end > real_size or sum(n for _, n in segments) != entry.size:
            raise self._bad("sparse map does not fit the data")
        entry.segments, entry.real_size = segments, real_size


class _Sparse:
    """What pax records said of a sparse file; ``in_data``: version 1.0, map before the data."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.real_size = 0
        self.in_data = False
