"""The half that runs in the daemon: a cursor over the files of one log, oldest first."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from pyengine.contracts.logging import LogChunk, LogQuery, LogReader
from pyengine_log_json_file.decode import BLOCK, Decoder
from pyengine_log_json_file.files import LogFile, open_all

#: A line longer than this is no record but damage, and is passed over.
_LONGEST = 8 * 1024 * 1024


class JsonFileReader(LogReader):
    def __init__(self, path: Path, query: LogQuery) -> None:
        self._path = os.fspath(path)
        self._query = query
        self._decoder = Decoder(query)
        self._files: list[LogFile] = []
        self._position = 0
        self._in_damage = False
        self._ready: deque[LogChunk] = deque()

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
            self._position, self._in_damage = 0, False

    def close(self) -> None:
        for file in self._files:
            file.close()
        self._files.clear()
        self._ready.clear()

    def _advance(self, file: LogFile) -> bool:
        """Decode the next block of whole lines; False at the end."""
        wanted = BLOCK
        fd = file.descriptor()
        if os.fstat(fd).st_size < self._position:
            # Emptied by somebody who needed the room.
            self._position = 0
        while True:
            block = os.pread(fd, wanted, self._position)
            # A record longer than a block goes alone.
            end = (block.rfind(b"\n") if wanted == BLOCK else block.find(b"\n")) + 1
            if end:
                break
            if len(block) < wanted:
                return False
            if wanted >= _LONGEST:
                self._position += len(block)
                self._in_damage = True
                return True
            wanted *= 4
        self._position += end
        start = 0
        if self._in_damage:
            start, self._in_damage = block.index(b"\n") + 1, False
        if start < end:
            self._ready.extend(self._decoder.decode(block[start:end]))
        return True

    def _open(self) -> None:
        self._files = open_all(self._path)
        since = self._query.since
        while len(self._files) > 1 and self._files[0].modified < since:
            self._files.pop(0).close()
        self._position = 0
        if self._query.tail >= 0:
            self._seek_tail(self._query.tail)

    def _seek_tail(self, wanted: int) -> None:
        """Stand before the last ``wanted`` records, found from the end backwards."""
        for index in range(len(self._files) - 1, -1, -1):
            records, position = self._files[index].find_tail(wanted)
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
