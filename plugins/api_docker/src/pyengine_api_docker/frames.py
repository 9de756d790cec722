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
