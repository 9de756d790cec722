"""A server of the journal's native protocol for tests, which takes nothing that is not as the
protocol has it. It is stricter than systemd-journald, which skips what it does not understand."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import time
from pathlib import Path
from typing import Any

from pyengine.testing.collectors import Collector

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class Journal(Collector):
    """On a socket at ``path``. ``entries``: the fields of each. ``big``: how many of them came in a
    memory file."""

    kind = socket.SOCK_DGRAM

    def __init__(self, path: Path, **more: Any) -> None:
        self.entries: list[dict[str, bytes]] = []
        self.big = 0
        super().__init__(path=path, **more)

    @property
    def options(self) -> dict[str, str]:
        return {"journald-socket": self.address}

    def lines(self, priority: str = "") -> list[str]:
        """The messages, of all priorities or of one."""
        return [
            entry["MESSAGE"].decode(errors="replace")
            for entry in self.entries
            if priority in ("", entry["PRIORITY"].decode())
        ]

    def listen(self, sock: socket.socket) -> None:
        while True:
            while self.silent:
                time.sleep(0.05)
            data, memory, _, _ = socket.recv_fds(sock, 1 << 18, 4)
            if memory:
                (file,) = memory
                assert not data, "either bytes or a file"
                assert fcntl.fcntl(file, fcntl.F_GET_SEALS) == _SEALS
                data = os.pread(file, os.fstat(file).st_size, 0)
                os.close(file)
                self.big += 1
            if not data:
                return
            self.take(data)

    def take(self, datagram: bytes) -> None:
        entry: dict[str, bytes] = {}
        while datagram:
            line, newline, rest = datagram.partition(b"\n")
            assert newline, "the last field has no end"
            name, equals, value = line.partition(b"=")
            if not equals:
                size = int.from_bytes(rest[:8], "little")
                value = rest[8 : 8 + size]
                assert rest[8 + size : 9 + size] == b"\n"
                rest = rest[9 + size :]
            assert re.fullmatch(rb"[A-Z][A-Z0-9_]{0,63}", name), f"{name!r} is no name of a field"
            assert name.decode() not in entry, f"{name!r} is there twice"
            entry[name.decode()] = value
            datagram = rest
        self.entries.append(entry)
