"""Docker's multiplexing of stdout and stderr: a header of eight bytes before each payload.

Source: the Engine's API description, "Attach to a container", section "Stream format".
"""

from __future__ import annotations

from functools import cache
from itertools import repeat


def frame(stream: int, data: bytes) -> bytes:
    """Stream, three zeros, length, payload."""
    return bytes((stream, 0, 0, 0)) + len(data).to_bytes(4, "big") + data


@cache
def _headers(stream: int) -> list[bytes]:
    """Headers of short lines, by length without the newline."""
    return [bytes((stream, 0, 0, 0)) + (n + 1).to_bytes(4, "big") for n in range(512)]


def frame_lines(stream: int, data: bytes) -> bytes:
    """A frame for each line: programs that read a log take a frame for a line. Written for bulk:
    nothing is done line by line in Python."""
    lines = data.split(b"\n")
    last = lines.pop()
    if lines:
        lengths = list(map(len, lines))
        if max(lengths) < 512:
            headers = list(map(_headers(stream).__getitem__, lengths))
        else:
            start = bytes((stream, 0, 0, 0))
            headers = [start + (n + 1).to_bytes(4, "big") for n in lengths]
        parts: list[bytes] = [b""] * (3 * len(lines))
        parts[0::3] = headers
        parts[1::3] = lines
        parts[2::3] = repeat(b"\n", len(lines))
        framed = b"".join(parts)
    else:
        framed = b""
    return framed + frame(stream, last) if last else framed


class Payloads:
    """Takes the frames off a stream again, wherever its pieces end."""

    def __init__(self) -> None:
        self._header = b""
        self._left = 0

    def feed(self, data: bytes) -> bytes:
        """The payload in ``data``, of all streams in their order."""
        found = []
        while data:
            if self._left:
                piece, data = data[: self._left], data[self._left :]
                self._left -= len(piece)
                found.append(piece)
                continue
            wanted = 8 - len(self._header)
            self._header, data = self._header + data[:wanted], data[wanted:]
            if len(self._header) == 8:
                self._left = int.from_bytes(self._header[4:], "big")
                self._header = b""
        return b"".join(found)
