"""The half that runs in the shim: lines to JSON, a block at a time."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pyengine.bases.logrotation import Rotation
from pyengine.bases.logwriter import FileLogWriter
from pyengine.contracts.logging import STDERR, STDOUT
from pyengine.faults import failpoint
from pyengine_log_json_file.encode import escape, quote, timestamp

_BEGIN = b'{"log":"'
_STREAMS = {STDOUT: b"stdout", STDERR: b"stderr"}


class JsonFileWriter(FileLogWriter):
    def __init__(self, path: str, rotation: Rotation, attributes: Mapping[str, str]) -> None:
        super().__init__(path, rotation)
        pairs = sorted(attributes.items())
        attrs = b",".join(quote(key) + b":" + quote(value) for key, value in pairs)
        middle = b',"attrs":{' + attrs + b'},"time":"' if pairs else b',"time":"'
        self._tails = {
            stream: b'","stream":"' + name + b'"' + middle for stream, name in _STREAMS.items()
        }

    def store(self, stream: int, raw: bytes, whole: bool) -> int:
        end = self._tails[stream] + timestamp(self.time) + b'"}\n'
        if whole:
            text = escape(raw[:-1]).replace(b"\n", b"\\n" + end + _BEGIN)
            end = b"\\n" + end
        else:
            text = escape(raw)
        records = b"".join((_BEGIN, text, end))
        while records:
            room = self.file.room()
            cut = len(records)
            if cut > room:
                cut = records.find(b"\n", room - 1) + 1
            written = self.file.append(records[:cut])
            if written < cut:
                kept = records.rfind(b"\n", 0, written) + 1
                if kept < written and not self.file.retract(written - kept):
                    kept = written
                return _last_lines(raw, records.count(b"\n", kept))
            records = records[cut:]
        return 0

    def repair(self, reading: int, writing: int) -> int:
        end = size = os.fstat(reading).st_size
        tail = b""
        while end and b"\n" not in tail:
            start = max(0, end - 65536)
            tail = os.pread(reading, end - start, start)
            end = start
        whole = end + tail.rfind(b"\n") + 1
        if whole == size:
            return size
        failpoint("logging.repair")
        if tail.endswith(b'"}'):
            # Only the newline is missing.
            os.write(writing, b"\n")
            return size + 1
        os.ftruncate(writing, whole)
        return whole


def _last_lines(raw: bytes, count: int) -> int:
    """How many bytes the last ``count`` lines of ``raw`` have."""
    text = raw[:-1] if raw.endswith(b"\n") else raw
    kept = text.rsplit(b"\n", count)
    return len(raw) - (len(kept[0]) + 1 if len(kept) > count else 0)
