"""A D-Bus server for one client, with answers of the test's own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

from pyengine.linux import dbus

Answers = Callable[[dbus.Message, int], bytes]


def serial(message: bytes) -> int:
    return int.from_bytes(message[8:12], "little")


def reply(to: int, signature: str = "", *values: Any) -> bytes:
    return dbus.encode(2, 1, {5: ("u", to)}, signature, values)


class Server:
    """One client: SASL with ``verdict``, then ``answers`` gives the bytes for each call."""

    def __init__(self, path: str, answers: Answers, verdict: bytes = b"OK 1234") -> None:
        self.sasl: list[bytes] = []
        self.calls: list[dbus.Message] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._serve, args=(answers, verdict), daemon=True)
        self._thread.start()

    def _serve(self, answers: Answers, verdict: bytes) -> None:
        peer, _ = self._listener.accept()
        with peer, peer.makefile("rb") as stream:
            self.sasl += [stream.readline(), stream.readline()]
            peer.sendall(verdict + b"\r\n")
            while len(head := stream.read(16)) == 16:
                message = head + stream.read(dbus.length(head) - 16)
                self.calls.append(dbus.decode(message))
                peer.sendall(answers(self.calls[-1], serial(message)))

    def close(self) -> None:
        self._listener.close()
        self._thread.join(5)
