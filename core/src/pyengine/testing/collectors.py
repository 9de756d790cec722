"""Log collectors for tests: servers that take lines as the real ones do, or refuse to.

A package of a sink brings the server of its protocol along, in its module ``testing``.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import ClassVar, Self

from pyengine.linux.netns import inside

#: socket(7): more than what the system allows to all; Python has no name for it.
SO_RCVBUFFORCE = 33


class Collector:
    """Listens and keeps what it gets, as the subclass has it: :meth:`talk` for connections,
    :meth:`take` for datagrams.

    ``path``: on a unix socket; else on loopback, of the network namespace called ``namespace`` if
    there is one, on ``port`` or a free one. ``tls``: for servers. ``silent``: nothing is read any
    more (a black hole), from the start or from when it is set. ``connections``: so far.
    """

    kind: ClassVar[socket.SocketKind] = socket.SOCK_STREAM

    def __init__(
        self,
        *,
        path: Path | None = None,
        namespace: str = "",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        silent: bool = False,
    ) -> None:
        self.silent = silent
        self.connections = 0
        self._tls = tls
        self._path = path
        self._open: list[socket.socket] = []
        self._stopped = False
        if path is not None:
            self._server = socket.socket(socket.AF_UNIX, self.kind)
            self._server.bind(str(path))
        else:
            self._server = _inet(namespace, self.kind)
            self._server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._server.bind(("127.0.0.1", port))
        #: ``host:port``, or the path
        name = self._server.getsockname()
        self.address: str = name if isinstance(name, str) else f"{name[0]}:{name[1]}"
        if self.kind is socket.SOCK_STREAM:
            self._server.listen()
        else:
            self._server.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop listening, and cut the connections there are."""
        self._stopped = True
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        # A socket lives as long as somebody is in a call with it, whoever has closed it.
        self._thread.join(2.0)
        self._server.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def silence(self) -> None:
        self.silent = True

    def receive(self, sock: socket.socket) -> bytes:
        """The next bytes of a connection, none at its end; not while it is silent."""
        while self.silent:
            time.sleep(0.05)
        return sock.recv(1 << 20)

    def talk(self, sock: socket.socket) -> None:
        """Take what comes on one connection."""
        raise NotImplementedError

    def take(self, datagram: bytes) -> None:
        """Take one datagram."""
        raise NotImplementedError

    def listen(self, sock: socket.socket) -> None:
        """Take datagrams until ``sock`` is shut down, which then has one of no bytes."""
        while datagram := self.receive(sock):
            self.take(datagram)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            if self.kind is not socket.SOCK_STREAM:
                self.listen(self._server)
                return
            while True:
                sock, _ = self._server.accept()
                self.connections += 1
                self._open.append(sock)
                if self._stopped:
                    sock.close()
                    return
                threading.Thread(target=self._converse, args=(sock,), daemon=True).start()

    def _converse(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
                self._open.append(sock)
            if not self._stopped:
                self.talk(sock)
        sock.close()


def _inet(namespace: str, kind: socket.SocketKind) -> socket.socket:
    if not namespace:
        return socket.socket(socket.AF_INET, kind)
    netns = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with inside(netns):
            return socket.socket(socket.AF_INET, kind)
    finally:
        os.close(netns)
