"""The half that runs in the shim: blocks of lines, framed."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pyengine.bases.logrotation import Rotation
from pyengine.bases.logwriter import FileLogWriter
from pyengine.errors import InvalidParameter
from pyengine.faults import failpoint
from pyengine_log_local.records import (
    LEAST,
    LONGEST,
    LONGEST_ATTRIBUTES,
    LONGEST_TEXT,
    PIECE,
    backwards,
    pack,
    pack_attributes,
)


class LocalWriter(FileLogWriter):
    def __init__(self, path: str, rotation: Rotation, attributes: Mapping[str, str]) -> None:
        self._attributes = pack_attributes(attributes)
        if len(self._attributes) > LONGEST_ATTRIBUTES:
            raise InvalidParameter(
                "the labels, env and tag of a log are too long for log driver local",
                f"{len(self._attributes)} bytes in its files, of {LONGEST_ATTRIBUTES} at most",
            )
        self._frame = LEAST + len(self._attributes)
        super().__init__(path, rotation)

    def store(self, stream: int, raw: bytes, whole: bool) -> int:
        kind = stream if whole else stream | PIECE
        while raw:
            text = self._fitting(raw, self.file.room() - self._frame) if whole else raw
            record = pack(kind, self.time, self._attributes, text)
            written = self.file.append(record)
            if written < len(record):
                if written:
                    self.file.retract(written)
                return len(raw)
            raw = raw[len(text) :]
        return 0

    def repair(self, reading: int, writing: int) -> int:
        size = os.fstat(reading).st_size
        end = 0
        for position, record in backwards(reading):
            end = position + record.size
            break
        # More than a record can be torn: then it is damage, for readers to pass over.
        if end == size or size - end > LONGEST:
            return size
        failpoint("logging.repair")
        os.ftruncate(writing, end)
        return end

    def _fitting(self, lines: bytes, room: int) -> bytes:
        """As many of ``lines`` as a record takes, and up to the one that reaches ``room``."""
        if len(lines) <= room and len(lines) <= LONGEST_TEXT:
            return lines
        if room < LONGEST_TEXT:
            return lines[: lines.find(b"\n", max(0, room - 1)) + 1]
        return lines[: lines.rfind(b"\n", 0, LONGEST_TEXT) + 1]
