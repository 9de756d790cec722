"""The spool of one container for one sink: segments of framed lines in a directory.

The shim writes (:class:`SpoolWriter`) while the sink's process reads (:class:`SpoolReader`). Each
frame holds whole lines of one stream that were read at one time, or one piece of a line that is too
long. Positions count the bytes of frames since the container first ran; a segment is called by the
position of its first frame, and begins with what had been written before it. Who reads removes what
it has delivered. Where the spool has a limit, or the filesystem runs full, the writer removes the
oldest segments, and the reader learns from the next one's beginning how much that was.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from struct import Struct
from typing import NamedTuple

from pyengine.bases.loglines import LineSplitter
from pyengine.contracts.logging import LogWriter

#: Bytes of a segment where there is no limit: what one container keeps that is delivered already.
SEGMENT = 1024 * 1024
#: Without a limit of its own a spool leaves this part of the filesystem free, and at most so much.
FLOOR_PART, FLOOR_MOST = 20, 1024**3

#: At the beginning of a segment: magic, position, records and bytes of lines before it.
BEGINNING = Struct("<8sQQQ")
MAGIC = b"PESPOOL\1"
#: Of a frame: length of the lines, stream, flags, records, time (ns).
FRAME = Struct("<IBBxxIQ")
#: The line goes on in the next frame of its stream.
PIECE = 1
#: The run has ended; the frame is empty.
END = 2


class Place(NamedTuple):
    """A position, and how many records and bytes of lines came before it."""

    position: int = 0
    records: int = 0
    bytes: int = 0


class Frame(NamedTuple):
    stream: int
    flags: int
    records: int
    time: int
    lines: bytes
    #: Where the next one begins.
    after: Place


class SpoolWriter(LogWriter):
    """Writes to new segments in ``directory``, which exists. ``limit``: bytes that may wait for the
    sink, 0 for as much as the filesystem has room for."""

    def __init__(self, directory: str, limit: int = 0) -> None:
        self._directory = directory
        self._limit = limit
        self._segment = min(SEGMENT, max(limit // 4, 4096)) if limit else SEGMENT
        self._lines = LineSplitter(self._put)
        self._time = 0
        self._lost = 0
        self._unfinished = PIECE
        self._fd = -1
        self._size = 0
        self._place = end(directory)
        self._open()

    def write(self, stream: int, chunk: bytes, time: int) -> None:
        self._time = time
        self._lines.write(stream, chunk)

    def flush(self) -> None:
        # A last line without newline is complete, however long the part of it that is there.
        self._unfinished = 0
        self._lines.flush()
        self._unfinished = PIECE
        self._append(0, END, 0, b"")

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def dropped(self) -> int:
        return self._lost

    def _put(self, stream: int, raw: bytes, whole: bool) -> None:
        if whole:
            self._append(stream, 0, raw.count(b"\n"), raw)
        else:
            self._append(stream, self._unfinished, 1, raw)

    def _append(self, stream: int, flags: int, records: int, lines: bytes) -> None:
        if self._size >= self._segment or self._fd < 0:
            self.close()
            self._open()
        frame = FRAME.pack(len(lines), stream, flags, records, self._time) + lines
        if self._fd < 0 or not self._write(frame):
            # The next segment begins behind it, so its reader will know of it.
            self._lost += len(lines)
            self.close()
        position, before, size = self._place
        self._place = Place(position + len(frame), before + records, size + len(lines))

    def _write(self, frame: bytes) -> bool:
        view = memoryview(frame)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            return False
        self._size += len(frame)
        return True

    def _open(self) -> None:
        """Begin a segment; without one if the filesystem is full."""
        self._make_room()
        path = f"{self._directory}/{self._place.position:020d}"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError:
            return
        self._fd, self._size = fd, 0
        if not self._write(BEGINNING.pack(MAGIC, *self._place)):
            self.close()
            _remove(path)

    def _make_room(self) -> None:
        if self._limit:
            paths = [f"{self._directory}/{name}" for name in segments(self._directory)]
            sizes = [_size(path) for path in paths]
            for number, path in enumerate(paths):
                if sum(sizes[number:]) + self._segment <= self._limit:
                    break
                _remove(path)
            return
        for name in segments(self._directory)[:-1]:
            if not _scarce(self._directory):
                break
            _remove(f"{self._directory}/{name}")


class SpoolReader:
    """Reads frames from ``place`` on, and removes segments that are behind it."""

    def __init__(self, directory: str, place: Place) -> None:
        self.place = place
        self._directory = directory
        self._fd = -1
        self._start = 0

    def frames(self, most: int) -> Iterator[Frame]:
        """The next frames, until they hold ``most`` bytes or none is complete. ``place`` is then
        where the next one begins; a jump in it between two frames is what was lost."""
        taken = 0
        while taken < most:
            frame = self._next()
            if frame is None:
                return
            self.place = frame.after
            taken += len(frame.lines) + FRAME.size
            yield frame

    def sweep(self, delivered: int) -> None:
        """Remove segments that end at or before the position ``delivered``; the last one stays,
        since it tells the next writer where to begin."""
        names = segments(self._directory)
        for name, following in itertools.pairwise(names):
            if int(following) <= delivered:
                _remove(f"{self._directory}/{name}")

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _next(self) -> Frame | None:
        while self._fd >= 0 or self._open():
            frame = self._frame()
            if frame is not None:
                return frame
            newer = [name for name in segments(self._directory) if int(name) > self._start]
            if not newer:
                return None
            # The writer is done with this one; what it wrote since that look comes first.
            frame = self._frame()
            if frame is not None or not self._enter(newer):
                return frame
        return None

    def _frame(self) -> Frame | None:
        return _frame_at(self._fd, self.place, self._start)

    def _open(self) -> bool:
        names = segments(self._directory)
        behind = [name for name in names if int(name) <= self.place.position]
        return self._enter(names[max(0, len(behind) - 1) :])

    def _enter(self, names: Sequence[str]) -> bool:
        """Open the first of these segments that is one."""
        for name in names:
            try:
                fd = os.open(f"{self._directory}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            beginning = _beginning(os.pread(fd, BEGINNING.size, 0))
            if beginning is None:
                os.close(fd)
                continue
            self.close()
            self._fd, self._start = fd, beginning.position
            if beginning.position > self.place.position:
                self.place = beginning
            return True
        return False


def segments(directory: str) -> list[str]:
    """Names of the segments, oldest first."""
    try:
        return sorted(name for name in os.listdir(directory) if name.isdigit())
    except FileNotFoundError:
        return []


def end(directory: str) -> Place:
    """Where the writer is, or where the next one begins."""
    for name in reversed(segments(directory)):
        try:
            with open(f"{directory}/{name}", "rb") as file:
                data = file.read()
        except FileNotFoundError:
            continue
        place = _beginning(data[: BEGINNING.size])
        if place is None:
            continue
        at = BEGINNING.size
        while at + FRAME.size <= len(data):
            length, _stream, _flags, records, _time = FRAME.unpack_from(data, at)
            at += FRAME.size + length
            if at > len(data):
                break  # torn by the end of a shim
            place = Place(place.position + FRAME.size + length, place.records + records,
                          place.bytes + length)  # fmt: skip
        return place
    return Place()


def waiting(directory: str, place: Place) -> int:
    """Bytes from ``place`` on, as far as they are still there."""
    names = segments(directory)
    if not names:
        return 0
    last = f"{directory}/{names[-1]}"
    return max(
        0, int(names[-1]) + _size(last) - BEGINNING.size - max(place.position, int(names[0]))
    )


def _beginning(data: bytes) -> Place | None:
    if len(data) < BEGINNING.size:
        return None
    magic, position, records, size = BEGINNING.unpack(data)
    return Place(position, records, size) if magic == MAGIC else None


def _frame_at(fd: int, place: Place, start: int) -> Frame | None:
    """The frame at ``place`` of the segment that begins at ``start``; None if it is not whole."""
    at = place.position - start + BEGINNING.size
    header = os.pread(fd, FRAME.size, at)
    if len(header) < FRAME.size:
        return None
    length, stream, flags, records, time = FRAME.unpack(header)
    lines = os.pread(fd, length, at + FRAME.size) if length else b""
    if len(lines) < length:
        return None
    after = Place(
        place.position + FRAME.size + length, place.records + records, place.bytes + length
    )
    return Frame(stream, flags, records, time, lines, after)


def _scarce(directory: str) -> bool:
    facts = os.statvfs(directory)
    floor = min(facts.f_blocks * facts.f_frsize // FLOOR_PART, FLOOR_MOST)
    return facts.f_bavail * facts.f_frsize < floor


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
