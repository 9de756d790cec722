"""Servers of GELF 1.1 for tests, which take nothing that is not as the format has it."""

from __future__ import annotations

import json
import re
import socket
import zlib
from typing import Any, ClassVar

from pyengine.testing.collectors import Collector

_WINDOWS = {b"\x1f\x8b": (31, "gzip"), b"\x78": (15, "zlib"), b"{": (0, "none")}


class _Gelf(Collector):
    """``messages``: as they came, all fields of theirs."""

    scheme: ClassVar[str]

    def __init__(self, **where: Any) -> None:
        self.messages: list[dict[str, Any]] = []
        super().__init__(**where)

    @property
    def options(self) -> dict[str, str]:
        return {"gelf-address": f"{self.scheme}://{self.address}"}

    def lines(self, level: int = 0) -> list[str]:
        """Their texts, of all levels or of one."""
        return [m["short_message"] for m in self.messages if level in (0, m["level"])]

    def keep(self, data: bytes) -> None:
        message = json.loads(data)
        assert message["version"] == "1.1"
        assert message["short_message"]
        assert isinstance(message["timestamp"], float | int)
        known = {"version", "host", "short_message", "timestamp", "level"}
        assert known <= set(message)
        for name in set(message) - known:
            assert re.fullmatch(r"_[\w.-]*", name), f"{name} is no additional field"
        self.messages.append(message)


class GelfTcp(_Gelf):
    scheme = "tcp"

    def talk(self, sock: socket.socket) -> None:
        rest = b""
        while data := self.receive(sock):
            *whole, rest = (rest + data).split(b"\0")
            for message in whole:
                self.keep(message)


class GelfUdp(_Gelf):
    """``datagrams``: the size of each. ``compressions``: what the messages came in."""

    kind = socket.SOCK_DGRAM
    scheme = "udp"

    def __init__(self, **where: Any) -> None:
        self.datagrams: list[int] = []
        self.compressions: set[str] = set()
        self._chunks: dict[bytes, dict[int, bytes]] = {}
        super().__init__(**where)

    def take(self, datagram: bytes) -> None:
        self.datagrams.append(len(datagram))
        assert len(datagram) <= 8192
        if datagram[:2] != b"\x1e\x0f":
            self._whole(datagram)
            return
        id, number, count = datagram[2:10], datagram[10], datagram[11]
        assert number < count <= 128
        parts = self._chunks.setdefault(id, {})
        assert number not in parts
        parts[number] = datagram[12:]
        if len(parts) == count:
            self._whole(b"".join(parts[number] for number in range(count)))
            del self._chunks[id]

    def _whole(self, data: bytes) -> None:
        window, name = next(_WINDOWS[magic] for magic in _WINDOWS if data.startswith(magic))
        self.compressions.add(name)
        self.keep(zlib.decompress(data, window) if window else data)
