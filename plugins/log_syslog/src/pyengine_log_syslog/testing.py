"""Syslog servers for tests: messages in a stream, parted by newlines or counted, or datagrams."""

from __future__ import annotations

import re
import socket
from typing import Any, ClassVar

from pyengine.testing.collectors import Collector

#: Priority, header up to the line, line.
_MESSAGE = re.compile(r"<(\d+)>((?:1 \S+ \S+ \S+ \d+ \S+ -|.{15} (?:\S+ )?\S+\[\d+\]:) )(.*)", re.S)


class Syslog(Collector):
    """``messages``: (priority, header, line). ``counted``: octets are counted (RFC 5425)."""

    def __init__(self, *, counted: bool = False, **where: Any) -> None:
        self.messages: list[tuple[int, str, str]] = []
        self._counted = counted
        super().__init__(**where)

    def talk(self, sock: socket.socket) -> None:
        buffer = b""
        while data := self.receive(sock):
            messages, buffer = self._cut(buffer + data)
            for message in messages:
                self.take(message)

    def take(self, datagram: bytes) -> None:
        match = _MESSAGE.fullmatch(datagram.decode(errors="replace").removesuffix("\n"))
        assert match is not None, datagram
        self.messages.append((int(match[1]), match[2], match[3]))

    def lines(self) -> list[str]:
        return [line for _, _, line in self.messages]

    def _cut(self, buffer: bytes) -> tuple[list[bytes], bytes]:
        """The messages that are whole, and the rest."""
        if not self._counted:
            *messages, rest = buffer.split(b"\n")
            return messages, rest
        messages = []
        while True:
            count, space, rest = buffer.partition(b" ")
            if not space or len(rest) < int(count):
                return messages, buffer
            messages.append(rest[: int(count)])
            buffer = rest[int(count) :]


class Datagrams(Syslog):
    kind: ClassVar[socket.SocketKind] = socket.SOCK_DGRAM
