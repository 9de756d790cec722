"""``pyengine system dial-stdio``: what a client at the other end of ssh starts here."""

from __future__ import annotations

import os
import select
import socket

from pyengine.cli.client import CommandError
from pyengine.cli.flags import Options, command
from pyengine.cli.http import ConnectError, Endpoint
from pyengine.cli.session import Session
from pyengine.cli.streams import would_block

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyengine.cli.tls import TlsStream

_CHUNK = 65536
#: As much as a pipe that poll calls ready takes without blocking (pipe(7), PIPE_BUF).
_PIECE = select.PIPE_BUF


@command(
    "",
    "Connect standard input and output to the engine (for clients that come by ssh)",
    at_most=0,
    hidden=True,
)
def dial_stdio(session: Session, _: Options, __: list[str]) -> None:
    endpoint = session.endpoint()
    try:
        stream = endpoint.connect()
    except ConnectError as error:
        raise CommandError(f"failed to open the raw stream connection: {_dialled(endpoint, error)}")
    try:
        Relay(stream).run()
    finally:
        stream.close()


def _dialled(endpoint: Endpoint, error: ConnectError) -> str:
    if endpoint.scheme == "unix" and error.errno:
        return f"dial unix {endpoint.address}: connect: {os.strerror(error.errno).lower()}"
    return str(error.strerror)


class Relay:
    """Standard input to the engine and the engine to standard output, each at its own pace.

    The end of the input ends our direction only. The engine's end is the end of everything: a
    client may keep its side open for ever.
    """

    def __init__(self, stream: socket.socket | TlsStream) -> None:
        self._stream = stream
        self._in, self._out = b"", b""
        self._reading = self._receiving = True
        self._half_closed = False
        stream.setblocking(False)

    def run(self) -> None:
        """Until the engine has ended its direction and all of it is written out."""
        while self._receiving or self._out:
            self._poll()
            self._receive()
            self._send()
            if not self._reading and not self._in and not self._unsent() and not self._half_closed:
                self._half_closed = True
                self._shutdown()

    def _poll(self) -> None:
        """Wait until something can go on; read what came, write what there is room for."""
        poll = select.poll()
        if self._reading and not self._in:
            poll.register(0, select.POLLIN)
        if self._out:
            poll.register(1, select.POLLOUT)
        waits = (select.POLLIN if self._receiving and not self._out else 0) | (
            select.POLLOUT if self._in or self._unsent() else 0
        )
        if waits:
            poll.register(self._stream, waits)
        for fd, happened in poll.poll(0 if self._buffered() else None):
            if fd == 0:
                self._in = _read()
                self._reading = bool(self._in)
            elif fd == 1:
                if happened & select.POLLERR:
                    raise CommandError("")  # nobody reads any more
                self._out = self._out[os.write(1, self._out[:_PIECE]) :]

    def _receive(self) -> None:
        if self._out or not self._receiving:
            return
        try:
            self._out = self._stream.recv(_CHUNK)
        except OSError as error:
            if would_block(error):
                return
            if not isinstance(error, ConnectionResetError):
                raise CommandError(f"error while Copy (stream to stdout): {error.strerror}")
        self._receiving = bool(self._out)

    def _send(self) -> None:
        try:
            if not isinstance(self._stream, socket.socket) and not self._stream.flush():
                return
            if self._in:
                self._in = self._in[self._stream.send(self._in) :]
        except (BrokenPipeError, ConnectionResetError):
            # What the engine still has to say comes first; then its end shows by itself.
            self._in, self._reading = b"", False
        except OSError as error:
            if not would_block(error):
                raise CommandError(f"error while Copy (stdin to stream): {error.strerror}")

    def _shutdown(self) -> None:
        try:
            self._stream.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # gone already: its end comes next

    def _buffered(self) -> bool:
        tls = not isinstance(self._stream, socket.socket)
        return tls and not self._out and self._stream.pending() > 0  # type: ignore[union-attr]

    def _unsent(self) -> bool:
        return not isinstance(self._stream, socket.socket) and self._stream.unsent


def _read() -> bytes:
    try:
        return os.read(0, _CHUNK)
    except OSError:
        return b""  # none was given, or its terminal is gone
