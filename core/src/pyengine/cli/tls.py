"""A TLS stream on which one direction can end while the other goes on.

``ssl.SSLSocket.unwrap`` sends close_notify and then reads on for the peer's; where application data
comes instead, they are lost and the connection with them (SSL_shutdown(3), "Bidirectional
Shutdown"). Here OpenSSL sees only what this class has read for it, and at that moment it has taken
all of it already.
"""

from __future__ import annotations

import contextlib
import socket
import ssl

_READ = 65536
#: The most that a record holds (RFC 8446, section 5.1): what is encrypted ahead of the socket.
_RECORD = 16384


class TlsStream:
    """The client's end, after the handshake. Methods are those of ``socket.socket``; besides their
    errors they raise ``ssl.SSLError``."""

    def __init__(self, stream: socket.socket, context: ssl.SSLContext, name: str) -> None:
        self._socket = stream
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=name)
        #: encrypted, and not sent; decrypted, and not asked for
        self._left, self._ahead = b"", b""
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.flush()
                self._fill()
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    self.flush()  # the alert that says why
                raise
        self.flush()

    def recv(self, limit: int) -> bytes:
        """Empty at the end, whether the peer said goodbye or not."""
        if self._ahead:
            piece, self._ahead = self._ahead[:limit], self._ahead[limit:]
            return piece
        while True:
            try:
                return self._tls.read(limit)
            except ssl.SSLWantReadError:
                self._fill()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""

    def send(self, data: bytes) -> int:
        """Encrypt some of ``data``; what the socket does not take at once is :attr:`unsent`."""
        if not self.flush():
            raise BlockingIOError("earlier data wait")
        count = self._tls.write(memoryview(data)[:_RECORD])
        self.flush()
        return count

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view[:_RECORD]) :]
            self.flush()

    def shutdown(self, how: int) -> None:
        """``SHUT_WR``: say that nothing more is coming. The peer's data still come."""
        assert how == socket.SHUT_WR
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError, ssl.SSLEOFError):
            while piece := self._tls.read(_READ):
                self._ahead += piece
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLSyscallError):
            self._tls.unwrap()
        self.flush()

    @property
    def unsent(self) -> bool:
        """Something encrypted waits until the socket takes it: see :meth:`flush`."""
        return bool(self._left or self._out.pending)

    def flush(self) -> bool:
        """Send what waits; False if some of it still does (a socket that does not block)."""
        self._left += self._out.read()
        while self._left:
            try:
                self._left = self._left[self._socket.send(self._left) :]
            except BlockingIOError:
                return False
        return True

    def pending(self) -> int:
        """Bytes that a poll of the socket does not see."""
        return len(self._ahead) + self._tls.pending() + self._in.pending

    def fileno(self) -> int:
        return self._socket.fileno()

    def settimeout(self, timeout: float | None) -> None:
        self._socket.settimeout(timeout)

    def setblocking(self, blocking: bool) -> None:
        self._socket.setblocking(blocking)

    def close(self) -> None:
        self._socket.close()

    def _fill(self) -> None:
        data = self._socket.recv(_READ)
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()
