"""The writer of a log that lies in files: chunks in, records out. A format adds the records."""

from __future__ import annotations

from abc import abstractmethod

from pyengine.bases.loglines import LineSplitter
from pyengine.bases.logrotation import RotatingFile, Rotation
from pyengine.contracts.logging import STDERR, LogWriter


class FileLogWriter(LogWriter):
    """All lines that one call of ``write`` completes carry that call's time.

    Output for which there is no room is dropped, counted, and told by a record of its own before
    the next one that has room.
    """

    def __init__(self, path: str, rotation: Rotation) -> None:
        self.file = RotatingFile(path, rotation, self.repair)
        #: ns; of what is written now.
        self.time = 0
        self._lines = LineSplitter(self._put)
        self._lost = 0
        self._untold = 0

    @abstractmethod
    def store(self, stream: int, raw: bytes, whole: bool) -> int:
        """Append to ``self.file`` as :class:`LineSplitter` puts it: lines, or a piece of one.
        Answers how many bytes of ``raw`` did not get there."""

    @abstractmethod
    def repair(self, reading: int, writing: int) -> int:
        """See :class:`RotatingFile`."""

    def write(self, stream: int, chunk: bytes, time: int) -> None:
        self.time = time
        self._lines.write(stream, chunk)

    def flush(self) -> None:
        self._lines.flush()

    def close(self) -> None:
        self.file.close()

    def dropped(self) -> int:
        return self._lost

    def _put(self, stream: int, raw: bytes, whole: bool) -> None:
        full = self._untold and not self._tell()
        lost = len(raw) if full else self.store(stream, raw, whole)
        self._lost += lost
        self._untold += lost

    def _tell(self) -> bool:
        """Say in the log what is missing in it; False while there is still no room."""
        reason = self.file.reason
        text = f"pyengine: {self._untold} bytes of output are missing here: {reason}\n"
        if self.store(STDERR, text.encode(), True):
            return False
        self._untold = 0
        return True
