"""The shim's side of its connection with a daemon, whichever that is at the moment."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable

from pyengine.faults import failpoint
from pyengine.supervisor import protocol
from pyengine.supervisor.loop import READ, WRITE, Loop
from pyengine.supervisor.protocol import Message, Type


class Link:
    """One daemon at a time: the newest that connects to the socket's path replaces the one before.

    ``hello`` makes the first message of a connection. ``on_message`` gets each message and closes
    it; ``on_gone`` is called when the daemon has closed or died. What is sent without a daemon goes
    nowhere: the next one learns it from the hello.
    """

    def __init__(
        self,
        loop: Loop,
        path: str,
        hello: Callable[[], bytes],
        on_message: Callable[[Message], None],
        on_gone: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._path = path
        self._hello = hello
        self._on_message = on_message
        self._on_gone = on_gone
        self._daemon: socket.socket | None = None
        self._listener: socket.socket | None = None
        self._outbox: deque[tuple[Type, int, bytes, list[int]]] = deque()

    @property
    def connected(self) -> bool:
        return self._daemon is not None

    @property
    def pending(self) -> bool:
        """Something waits for room in the daemon's buffer."""
        return bool(self._outbox)

    def listen(self) -> None:
        """Be found by later daemons."""
        failpoint("shim.bind")
        self.unlink()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.setblocking(False)
        mask = os.umask(0o077)
        try:
            self._listener.bind(self._path)
        finally:
            os.umask(mask)
        self._listener.listen(4)
        self._loop.watch(self._listener.fileno(), READ, self._accept)

    def unlink(self) -> None:
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass

    def connect(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._daemon = sock
        self._loop.watch(sock.fileno(), READ, self._ready)
        self.send(Type.HELLO, 0, self._hello())

    def send(
        self, type: Type, request: int, payload: bytes, descriptors: list[int] | None = None
    ) -> None:
        """Send or queue a message; takes ``descriptors`` over."""
        fds = descriptors or []
        if self._daemon is None:
            _close(fds)
            return
        self._outbox.append((type, request, payload, fds))
        if len(self._outbox) == 1:
            self._flush()

    def _accept(self, _events: int) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        self._disconnect()
        self.connect(sock)

    def _disconnect(self) -> None:
        if self._daemon is not None:
            self._loop.forget(self._daemon.fileno())
            self._daemon.close()
            self._daemon = None
        while self._outbox:
            _close(self._outbox.popleft()[3])

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if events & ~WRITE and self._daemon is not None:
            self._read(self._daemon)

    def _read(self, daemon: socket.socket) -> None:
        try:
            message = protocol.receive(daemon)
        except BlockingIOError:
            return
        except (OSError, protocol.ProtocolError):
            message = None
        if message is None:
            self._disconnect()
            self._on_gone()
            return
        try:
            self._on_message(message)
        finally:
            message.close()

    def _flush(self) -> None:
        daemon = self._daemon
        if daemon is None:
            return
        while self._outbox:
            type, request, payload, fds = self._outbox[0]
            try:
                protocol.send(daemon, type, request, payload, fds)
            except BlockingIOError:
                self._loop.watch(daemon.fileno(), READ | WRITE, self._ready)
                return
            except OSError:  # the daemon is gone; its end of file comes next
                pass
            self._outbox.popleft()
            _close(fds)
        self._loop.watch(daemon.fileno(), READ, self._ready)


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
