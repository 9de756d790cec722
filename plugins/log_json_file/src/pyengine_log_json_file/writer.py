"""The half that runs in the shim: chunks in, whole records out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from pyengine.bases.loglines import LineSplitter
from pyengine.contracts.logging import STDERR, STDOUT, LogWriter
from pyengine.faults import failpoint
from pyengine_log_json_file.compress import SUFFIX, Compressor
from pyengine_log_json_file.encode import escape, quote, timestamp
from pyengine_log_json_file.options import Options

_BEGIN = b'{"log":"'
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
_STREAMS = {STDOUT: b"stdout", STDERR: b"stderr"}


class JsonFileWriter(LogWriter):
    """All lines that one call completes carry that call's time. A file is rotated when a record is
    due and the file has reached ``size``, as Docker does it.
    """

    def __init__(self, path: Path, options: Options, attributes: Mapping[str, str]) -> None:
        self._path = os.fspath(path)
        self._options = options
        pairs = sorted(attributes.items())
        attrs = b",".join(quote(key) + b":" + quote(value) for key, value in pairs)
        middle = b',"attrs":{' + attrs + b'},"time":"' if pairs else b',"time":"'
        self._tails = {
            stream: b'","stream":"' + name + b'"' + middle for stream, name in _STREAMS.items()
        }
        self._lines = LineSplitter(self._put)
        self._time = 0
        self._lost = 0
        self._untold = 0
        self._reason = ""
        self._compressor: Compressor | None = None
        self._fd = os.open(self._path, _FLAGS, 0o640)
        self._size = _repair(self._fd)
        self._limit = options.size
        if options.compress:
            self._compressor = Compressor.resume(self._path + ".1")

    def write(self, stream: int, chunk: bytes, time: int) -> None:
        self._time = time
        self._lines.write(stream, chunk)

    def flush(self) -> None:
        self._lines.flush()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._compressor:
            self._compressor.close()
            self._compressor = None

    def dropped(self) -> int:
        return self._lost

    def _put(self, stream: int, raw: bytes, whole: bool) -> None:
        """Append ``raw``: lines, each a record (``whole``), or one record without newline."""
        end = self._tails[stream] + timestamp(self._time) + b'"}\n'
        if whole:
            text = escape(raw[:-1]).replace(b"\n", b"\\n" + end + _BEGIN)
            end = b"\\n" + end
        else:
            text = escape(raw)
        records = b"".join((_BEGIN, text, end))
        if self._untold and not self._tell():
            self._drop(raw, raw.count(b"\n") + 1)
            return
        while records:
            if self._limit and self._size >= self._limit:
                self._rotate()
            cut = len(records)
            if self._limit and self._size + cut > self._limit:
                cut = records.find(b"\n", self._limit - self._size - 1) + 1
            kept = self._append(records[:cut])
            if kept < cut:
                self._drop(raw, records.count(b"\n", kept))
                return
            records = records[cut:]

    def _append(self, records: bytes) -> int:
        """Write, and answer how many bytes of whole records are in the file now."""
        view = memoryview(records)
        written = 0
        try:
            while written < len(records):
                written += os.write(self._fd, view[written:])
        except OSError as error:
            self._reason = os.strerror(error.errno or 0)
            whole = records.rfind(b"\n", 0, written) + 1
            if whole < written:
                try:
                    os.ftruncate(self._fd, os.fstat(self._fd).st_size - (written - whole))
                except OSError:
                    whole = written
            written = whole
        self._size += written
        if self._compressor and self._compressor.step(len(records)):
            self._compressor = None
        return written

    def _drop(self, raw: bytes, records: int) -> None:
        """Count the last ``records`` lines of ``raw`` as lost."""
        text = raw[:-1] if raw.endswith(b"\n") else raw
        kept = text.rsplit(b"\n", records)
        lost = len(raw) - (len(kept[0]) + 1 if len(kept) > records else 0)
        self._lost += lost
        self._untold += lost

    def _tell(self) -> bool:
        """Say in the log what is missing in it; False while there is still no room."""
        text = f"pyengine: {self._untold} bytes of output are missing here: {self._reason}\n"
        end = self._tails[STDERR] + timestamp(self._time) + b'"}\n'
        record = b"".join((_BEGIN, escape(text.encode()).replace(b"\n", b"\\n"), end))
        if self._append(record) < len(record):
            return False
        self._untold = 0
        return True

    def _rotate(self) -> None:
        """Shift the files by one. If that fails, go on with the one that is open."""
        if os.fstat(self._fd).st_size < self._size:
            # Somebody emptied the file to make room.
            self._size = os.fstat(self._fd).st_size
            return
        path, files = self._path, self._options.files
        if self._compressor:
            self._compressor.finish()
            self._compressor = None
        failpoint("logging.rotate")
        try:
            # A gap, left by a crash in the middle of this, is filled first.
            last = 0
            while last < files - 1 and _exists(f"{path}.{last + 1}"):
                last += 1
            for number in range(last, 0, -1):
                for suffix in ("", SUFFIX):
                    old = f"{path}.{number}{suffix}"
                    if number == files - 1:
                        _quietly(os.unlink, old)
                    else:
                        _quietly(os.rename, old, f"{path}.{number + 1}{suffix}")
            failpoint("logging.rotate.current")
            if files > 1:
                os.rename(path, path + ".1")
            else:
                os.unlink(path)
            fd = os.open(path, _FLAGS, 0o640)
        except OSError as error:
            self._reason = os.strerror(error.errno or 0)
            if files > 1 and not os.path.exists(path):
                _quietly(os.rename, path + ".1", path)
            self._limit = self._size + self._options.size
            return
        os.close(self._fd)
        self._fd, self._size, self._limit = fd, 0, self._options.size
        if self._options.compress:
            self._compressor = Compressor.resume(path + ".1")


def _exists(path: str) -> bool:
    return os.path.exists(path) or os.path.exists(path + SUFFIX)


def _quietly(call: Callable[..., None], *names: str) -> None:
    try:
        call(*names)
    except FileNotFoundError:
        pass


def _repair(fd: int) -> int:
    """Close off what a crash left after the last whole record; the size after that.

    ``fd`` is open for writing only, hence the second one by way of /proc.
    """
    size = os.fstat(fd).st_size
    if not size:
        return 0
    reading = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        end, tail = size, b""
        while end and b"\n" not in tail:
            start = max(0, end - 65536)
            tail = os.pread(reading, end - start, start)
            end = start
    finally:
        os.close(reading)
    whole = end + tail.rfind(b"\n") + 1
    if whole == size:
        return size
    failpoint("logging.repair")
    if tail.endswith(b'"}'):
        # Only the newline is missing.
        os.write(fd, b"\n")
        return size + 1
    os.ftruncate(fd, whole)
    return whole
