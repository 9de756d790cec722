"""The half that runs in the daemon: blocks of lines, looked for forwards and from the end."""

from __future__ import annotations

import os

from pyengine.bases.logreader import FileLogReader
from pyengine.contracts.logging import LogChunk, LogQuery
from pyengine_log_json_file.decode import BLOCK, Decoder

#: A line longer than this is no record but damage, and is passed over.
_LONGEST = 8 * 1024 * 1024


class JsonFileReader(FileLogReader):
    def __init__(self, path: str, query: LogQuery) -> None:
        super().__init__(path, query)
        self._decoder = Decoder(query)
        self._in_damage = False

    def restart(self) -> None:
        self._in_damage = False

    def advance(self, fd: int, position: int) -> tuple[int, list[LogChunk]]:
        wanted = BLOCK
        while True:
            block = os.pread(fd, wanted, position)
            # A record longer than a block goes alone.
            end = (block.rfind(b"\n") if wanted == BLOCK else block.find(b"\n")) + 1
            if end:
                break
            if len(block) < wanted:
                return position, []
            if wanted >= _LONGEST:
                self._in_damage = True
                return position + len(block), []
            wanted *= 4
        start = 0
        if self._in_damage:
            start, self._in_damage = block.index(b"\n") + 1, False
        chunks = list(self._decoder.decode(block[start:end])) if start < end else []
        return position + end, chunks

    def find_tail(self, fd: int, wanted: int) -> tuple[int, int]:
        position = os.fstat(fd).st_size
        # The newline that ends the record before them is the one to find.
        missing = wanted + 1
        while position:
            start = max(0, position - BLOCK)
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
