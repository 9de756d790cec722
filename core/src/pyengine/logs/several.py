"""One writer that is several."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pyengine.contracts.logging import LogWriter


class Several(LogWriter):
    """Passes everything on to each of ``writers``. One that raises keeps nothing from the others;
    the first thing raised is raised again when all have had their turn."""

    def __init__(self, writers: Sequence[LogWriter]) -> None:
        self._writers = writers

    def write(self, stream: int, chunk: bytes, time: int) -> None:
        self._each(lambda writer: writer.write(stream, chunk, time))

    def flush(self) -> None:
        self._each(lambda writer: writer.flush())

    def close(self) -> None:
        self._each(lambda writer: writer.close())

    def dropped(self) -> int:
        return sum(writer.dropped() for writer in self._writers)

    def _each(self, call: Callable[[LogWriter], None]) -> None:
        failure: Exception | None = None
        for writer in self._writers:
            try:
                call(writer)
            except Exception as error:
                failure = failure or error
        if failure is not None:
            raise failure
