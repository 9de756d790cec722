"""The half that runs in the daemon: records to what a query shows of them."""

from __future__ import annotations

import os
import time as clock

from pyengine.bases.logreader import LONGEST_CHUNK, FileLogReader, cut_chunk
from pyengine.contracts.logging import STDERR, STDOUT, LogChunk, LogQuery
from pyengine_log_local.records import (
    BLOCK,
    LEAST,
    PIECE,
    Record,
    backwards,
    next_head,
    record_at,
    size_at,
)


class LocalReader(FileLogReader):
    def __init__(self, path: str, query: LogQuery) -> None:
        super().__init__(path, query)
        self._streams = {STDOUT} if query.stdout else set()
        if query.stderr:
            self._streams.add(STDERR)
        #: Lines of the next record that are before the tail.
        self._skip = 0

    def restart(self) -> None:
        self._skip = 0

    def advance(self, fd: int, position: int) -> tuple[int, list[LogChunk]]:
        block = os.pread(fd, BLOCK, position)
        shown = _Shown()
        done = 0
        while done + LEAST <= len(block):
            size = size_at(block, done)
            if done + size > len(block):
                break
            record = record_at(block, done, size) if size else None
            if record is None:
                done = next_head(block, done + 1)
                continue
            done += size
            self._show(record, shown)
        return position + done, shown.chunks()

    def find_tail(self, fd: int, wanted: int) -> tuple[int, int]:
        self._skip = 0
        missing = wanted
        for position, record in backwards(fd):
            if not missing:
                return wanted, position + record.size
            missing -= record.lines()
            if missing <= 0:
                self._skip = -missing
                return wanted, position
        return wanted - missing, 0

    def _show(self, record: Record, shown: _Shown) -> None:
        text, query = record.text, self.query
        if self._skip:
            text = text.split(b"\n", self._skip)[-1]
            self._skip = 0
        if (
            record.stream not in self._streams
            or record.time < query.since
            or (query.until and record.time > query.until)
            or not text
        ):
            return
        prefix = b""
        if query.timestamps:
            prefix = _stamp(record.time) + b" "
        if query.details:
            prefix += record.attributes + b" "
        if prefix and record.kind & PIECE:
            text = prefix + text
        elif prefix:
            text = prefix + text[:-1].replace(b"\n", b"\n" + prefix) + b"\n"
        shown.add(record.stream, text, record.time)


class _Shown:
    """Texts, joined to chunks as long as one may be."""

    def __init__(self) -> None:
        self._chunks: list[LogChunk] = []
        self._texts: list[bytes] = []
        self._stream = self._size = self._time = 0

    def add(self, stream: int, text: bytes, time: int) -> None:
        if stream != self._stream or self._size + len(text) > LONGEST_CHUNK:
            self._close()
            self._stream = stream
        self._texts.append(text)
        self._size += len(text)
        self._time = time

    def chunks(self) -> list[LogChunk]:
        self._close()
        return self._chunks

    def _close(self) -> None:
        if self._texts:
            self._chunks += cut_chunk(self._stream, b"".join(self._texts), self._time)
            self._texts.clear()
            self._size = 0


def _stamp(time: int) -> bytes:
    """The form of ``docker logs -t``: UTC with always nine digits."""
    seconds, fraction = divmod(time, 1_000_000_000)
    text = clock.strftime("%Y-%m-%dT%H:%M:%S", clock.gmtime(seconds))
    return b"%b.%09dZ" % (text.encode(), fraction)
