"""One container's lines, from its spool to one sink, for as long as it takes.

The directory of a feed, ``<data root>/log-sinks/<driver>/<container id>``, is all that the daemon
and the sink's process share about it::

    feed.json   what the sink is told of the container; anew at each start
    spool/      written by the shim
    cursor      written by the feed
    removed     the container is gone: what is left is delivered, then the directory goes
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from pyengine.contracts.logsink import LogRecord, LogSink, LogSinkDriver, LogSource, Piece
from pyengine.errors import EngineError
from pyengine.logs import cursor as cursors
from pyengine.logs.spool import END, PIECE, Frame, SpoolReader

log = logging.getLogger(__name__)

#: Bytes of lines handed to a sink at once; all of it is sent again if that fails.
BATCH = 128 * 1024
#: Seconds between attempts at a collector that does not take anything: the first and the longest.
RETRY_FIRST, RETRY_MOST = 0.25, 10.0
#: Seconds for which a removed container's lines are kept for a collector that does not take them.
LINGER = 3600.0


class FeedFile(msgspec.Struct, kw_only=True):
    """feed.json. ``container``: its record, for hooks that redact; None if there is none."""

    source: LogSource
    options: dict[str, str]
    container: dict[str, Any] | None = None


class Feed:
    """Runs on a thread of its own (:meth:`run`) until the container is removed and all is done.

    ``tell`` is called with news for the daemon: ``{"error": str}`` (empty: it works again),
    ``{"dropped": records, "bytes": n}`` and, last, ``{"finished": True}``.
    """

    def __init__(
        self,
        directory: Path,
        driver: LogSinkDriver,
        tell: Callable[[dict[str, Any]], None],
        redact: Callable[[dict[str, Any], bytes], bytes] | None = None,
    ) -> None:
        self._directory = directory
        self._driver = driver
        self._tell = tell
        self._redact = redact
        self._file: FeedFile | None = None
        self._sink: LogSink | None = None
        self._error = ""
        self._news = threading.Event()
        self._cursor = cursors.load(directory / "cursor")
        self._counted = self._cursor.place
        self._reader = SpoolReader(str(directory / "spool"), self._cursor.place)

    def wake(self) -> None:
        """There may be something new in the spool, or the container was removed."""
        self._news.set()

    def run(self) -> None:
        while True:
            self._news.clear()
            removed = self._removed()
            frames = list(self._reader.frames(BATCH))
            if frames:
                if not self._deliver(frames):
                    break
            elif removed:
                break
            else:
                self._news.wait()
        self._close_sink()
        self._reader.close()
        shutil.rmtree(self._directory, ignore_errors=True)
        self._tell({"finished": True})

    def _deliver(self, frames: Sequence[Frame]) -> bool:
        """Until the sink has taken them; False when they have waited long enough."""
        records = [record for frame in frames for record in self._records(frame)]
        pause = RETRY_FIRST
        while records:
            try:
                if self._sink is None:
                    self._open_sink()
                assert self._sink is not None
                self._sink.send(self._redacted(records))
                break
            except (OSError, EngineError) as error:
                self._failed(str(error))
            except Exception as error:  # a sink that is broken is like a collector that is
                log.exception("log driver %s", self._driver.name)
                self._failed(f"{type(error).__name__}: {error}")
            since = self._removed()
            if since and time.time() - since > LINGER:
                log.error("%d records of a removed container are given up", len(records))
                return False
            time.sleep(pause)
            pause = min(pause * 2, RETRY_MOST)
        if self._error:
            self._error = ""
            self._tell({"error": ""})
        if frames[-1].flags & END:
            self._close_sink()
        self._cursor.delivered += len(records)
        self._cursor.place = frames[-1].after
        try:
            self._cursor.save(self._directory / "cursor")
        except OSError as error:
            # A full disk: what is delivered is not noted, and comes again if this process ends now.
            log.error("%s: the place in the log is not saved: %s", self._directory, error)
        self._reader.sweep(self._cursor.place.position)
        return True

    def _records(self, frame: Frame) -> list[LogRecord]:
        """The lines of a frame, which is the next one; what is missing before it is counted."""
        expected, self._counted = self._counted, frame.after
        lost = frame.after.records - frame.records - expected.records
        if lost > 0:
            size = frame.after.bytes - len(frame.lines) - expected.bytes
            self._cursor.dropped_records += lost
            self._cursor.dropped_bytes += size
            self._cursor.pieces.clear()
            self._tell({"dropped": lost, "bytes": size})
        if frame.flags & END:
            return []
        pieces, stream = self._cursor.pieces, frame.stream
        if frame.flags & PIECE:
            id, ordinal = pieces.get(stream) or (self._piece_id(frame), 0)
            pieces[stream] = (id, ordinal + 1)
            return [LogRecord(stream, frame.time, frame.lines, Piece(id, ordinal + 1, False))]
        found = [
            LogRecord(stream, frame.time, line)
            for line in frame.lines.removesuffix(b"\n").split(b"\n")
        ]
        begun = pieces.pop(stream, None)
        if begun is not None:
            id, ordinal = begun
            found[0] = LogRecord(stream, frame.time, found[0].line, Piece(id, ordinal + 1, True))
        return found

    def _piece_id(self, frame: Frame) -> str:
        text = f"{self._directory.name} {frame.after.position}".encode()
        return blake2b(text, digest_size=16).hexdigest()

    def _redacted(self, records: Sequence[LogRecord]) -> Sequence[LogRecord]:
        container = self._file.container if self._file is not None else None
        if self._redact is None or container is None:
            return records
        return [
            LogRecord(r.stream, r.time, self._redact(container, r.line), r.piece) for r in records
        ]

    def _open_sink(self) -> None:
        data = (self._directory / "feed.json").read_bytes()
        self._file = msgspec.json.decode(data, type=FeedFile)
        self._sink = self._driver.open(self._file.source, self._file.options)

    def _close_sink(self) -> None:
        if self._sink is not None:
            try:
                self._sink.close()
            except Exception:
                log.exception("log driver %s", self._driver.name)
            self._sink = None

    def _failed(self, reason: str) -> None:
        self._close_sink()
        if reason != self._error:
            self._error = reason
            self._tell({"error": reason})

    def _removed(self) -> float:
        """When the container was removed, in seconds since the epoch; 0: it was not."""
        try:
            return (self._directory / "removed").stat().st_mtime
        except FileNotFoundError:
            return 0.0
