"""Docker's multiplexing of stdout and stderr, taken off a stream again.

A header of eight bytes (stream, three zeros, length as big-endian u32) goes before each payload.
Source: the Engine's API description, "Attach to a container", section "Stream format".
"""

from __future__ import annotations


class Payloads:
    """Takes the frames off a stream, wherever its pieces end."""

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
