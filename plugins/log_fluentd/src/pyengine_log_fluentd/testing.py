"""A server of the forward protocol for tests; needs the package ``msgpack``."""

from __future__ import annotations

import socket
from typing import Any

import msgpack  # type: ignore[import-untyped]

from pyengine.testing.collectors import Collector


class Fluentd(Collector):
    """``entries``: (tag, time, record) as they came. ``acknowledges``: whether it answers those who
    ask for it."""

    def __init__(self, *, acknowledges: bool = True, **where: Any) -> None:
        self.entries: list[tuple[str, Any, dict[str, str]]] = []
        self.acknowledges = acknowledges
        super().__init__(**where)

    def talk(self, sock: socket.socket) -> None:
        unpacker = msgpack.Unpacker()
        while data := self.receive(sock):
            unpacker.feed(data)
            for tag, entries, options in unpacker:
                self.keep(tag, entries)
                if "chunk" in options and self.acknowledges:
                    sock.sendall(msgpack.packb({"ack": options["chunk"]}))

    def keep(self, tag: str, entries: list[Any]) -> None:
        self.entries += [(tag, when, record) for when, record in entries]

    def lines(self, stream: str = "") -> list[str]:
        """What was in the records, of both streams or of one."""
        return [r["log"] for _, _, r in self.entries if stream in ("", r["source"])]
