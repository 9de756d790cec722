"""The reader of a log that lies in files: a cursor over them, oldest first. A format adds what a
record is. It runs in the daemon, and the driver imports it when somebody reads."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator

from pyengine.bases.logfiles import LogFile, open_all
from pyengine.contracts.logging import LogChunk, LogQuery, LogReader

#: No chunk has more bytes than this, or it is one record.
LONGEST_CHUNK = 64 * 1024


class FileLogReader(LogReader):
    def __init__(self, path: str, query: LogQuery) -> None:
        self.query = query
        self._path = path
        self._files: list[LogFile] = []
        self._position = 0
        self._ready: deque[LogChunk] = deque()

    @abstractmethod
    def advance(self, fd: int, position: int) -> tuple[int, list[LogChunk]]:
        """What to show of the next records from ``position`` on, some 64 KiB of them, and where
        they end; ``position`` itself where there is no whole one yet. Damage is passed over."""

    @abstractmethod
    def find_tail(self, fd: int, wanted: int) -> tuple[int, int]:
        """How many of the last ``wanted`` lines or pieces of lines are in this file, and where to
        begin for them. Asked of one file after the other, the newest first; the last counts."""

    def restart(self) -> None:
        """The next :meth:`advance` is at the beginning of a file; for what a format remembers."""

    def read(self) -> Iterator[LogChunk]:
        if not self._files and not self._ready:
            self._open()
        while True:
            # Whoever stops half-way finds the rest here.
            while self._ready:
                yield self._ready.popleft()
            if not self._files:
                return
            if self._advance(self._files[0]):
                continue
            if len(self._files) == 1:
                newer = self._newer(self._files[0])
                if not newer:
                    return
                # What was written between the last look and the rotation comes first.
                if self._advance(self._files[0]):
                    for file in newer:
                        file.close()
                    continue
                self._files += newer
            self._files.pop(0).close()
            self._begin()

    def close(self) -> None:
        for file in self._files:
            file.close()
        self._files.clear()
        self._ready.clear()

    def _begin(self) -> None:
        self._position = 0
        self.restart()

    def _advance(self, file: LogFile) -> bool:
        """Make the next records ready; False at the end."""
        fd = file.descriptor()
        if os.fstat(fd).st_size < self._position:
            # Emptied by somebody who needed the room.
            self._begin()
        position, chunks = self.advance(fd, self._position)
        self._ready.extend(chunks)
        if position == self._position:
            return False
        self._position = position
        return True

    def _open(self) -> None:
        self._files = open_all(self._path)
        since = self.query.since
        while len(self._files) > 1 and self._files[0].modified < since:
            self._files.pop(0).close()
        self._begin()
        if self.query.tail >= 0:
            self._seek_tail(self.query.tail)

    def _seek_tail(self, wanted: int) -> None:
        """Stand before the last ``wanted`` records, found from the end backwards."""
        for index in range(len(self._files) - 1, -1, -1):
            records, position = self.find_tail(self._files[index].descriptor(), wanted)
            wanted -= records
            self._position = position
            if wanted <= 0:
                for file in self._files[:index]:
                    file.close()
                del self._files[:index]
                return

    def _newer(self, current: LogFile) -> list[LogFile]:
        """The files that came after ``current``; none as long as it is still the newest."""
        try:
            if os.stat(self._path).st_ino == current.inode:
                return []
        except FileNotFoundError:
            # In the middle of a rotation, or removed with its container.
            return []
        return open_all(self._path, after=current)


def cut_chunk(stream: int, data: bytes, time: int) -> Iterator[LogChunk]:
    """``data``, one or more records, as one chunk; or as several, cut at ends of lines, where
    prefixes made it too long."""
    start = 0
    while len(data) - start > LONGEST_CHUNK:
        cut = data.rfind(b"\n", start, start + LONGEST_CHUNK) + 1
        if not cut:
            cut = data.find(b"\n", start) + 1 or len(data)
        yield LogChunk(stream, data[start:cut], time)
        start = cut
    if start < len(data):
        yield LogChunk(stream, data[start:] if start else data, time)
