"""What a container writes, cut into lines: the half of a log writer that knows no format.

It runs in the shim and works on blocks of whole lines, as a step per line would cost ten times
what the encoding of it does.
"""

from __future__ import annotations

from collections.abc import Callable

from pyengine.contracts.logging import STDERR, STDOUT

#: Bytes. A line that is longer becomes several records, of which only the last ends in a newline.
LINE_LIMIT = 16 * 1024


class LineSplitter:
    """Chunks in, that end anywhere; lines out, to ``put(stream, raw, whole)``.

    ``raw`` is one or more lines, each with its newline and none longer than ``limit`` without it
    (``whole``); or, not ``whole``, a piece of one without a newline: of a line over the limit, cut
    between two UTF-8 sequences, or what was left at ``flush``. The bytes of a stream come in order,
    and all that a chunk completes has been put when ``write`` returns. ``raw`` is never empty.
    """

    def __init__(self, put: Callable[[int, bytes, bool], None], limit: int = LINE_LIMIT) -> None:
        self._put = put
        self._limit = limit
        self._pending = {STDOUT: bytearray(), STDERR: bytearray()}

    def write(self, stream: int, chunk: bytes) -> None:
        """What has no newline in ``chunk`` waits for it, for the limit, or for ``flush``."""
        pending = self._pending[stream]
        end = chunk.rfind(b"\n") + 1
        if not end:
            pending += chunk
            if len(pending) > self._limit:
                self._long(stream, pending)
            return
        block = bytes(pending) + chunk[:end] if pending else chunk[:end]
        pending[:] = chunk[end:]
        self._lines(stream, block)
        if len(pending) > self._limit:
            self._long(stream, pending)

    def flush(self) -> None:
        """Put what has no newline yet; the streams have ended."""
        for stream, pending in self._pending.items():
            if pending:
                rest = bytes(pending)
                pending.clear()
                self._put(stream, rest, False)

    def _lines(self, stream: int, block: bytes) -> None:
        """``block`` ends in a newline. Most have no line over the limit and go out in one piece."""
        limit = self._limit
        start = position = 0
        while len(block) - position > limit:
            # Steps from line start to line start, as far as a window reaches, so that an
            # overlong line is met at its first byte.
            newline = block.rfind(b"\n", position, position + limit + 1)
            if newline >= 0:
                position = newline + 1
                continue
            if start < position:
                self._put(stream, block[start:position], True)
            newline = block.index(b"\n", position)
            line = bytearray(block[position:newline])
            self._long(stream, line)
            self._put(stream, bytes(line) + b"\n", True)
            start = position = newline + 1
        if start < len(block):
            self._put(stream, block[start:], True)

    def _long(self, stream: int, line: bytearray) -> None:
        """Put full pieces of ``line``, leaving in it what is within the limit."""
        while len(line) > self._limit:
            cut = _sequence_start(line, self._limit)
            self._put(stream, bytes(line[:cut]), False)
            del line[:cut]


def _sequence_start(line: bytearray, cut: int) -> int:
    """``cut``, or up to three bytes before it, so that it divides no UTF-8 sequence."""
    for back in range(min(4, cut)):
        if line[cut - back] & 0xC0 != 0x80:
            return cut - back
    return cut
