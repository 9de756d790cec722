"""Connections that stop being HTTP: attach and exec.

The client's transport gets another protocol (``transport.set_protocol``), so that nothing of the
HTTP server stands between: aiohttp would close on a half-close, while ``echo x | docker run -i``
ends its input long before it has read the output. Source: "Attach to a container", section
"Hijacking", of the Docker Engine API.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import re
import socket
import struct
import termios
from collections.abc import Callable
from typing import Protocol, cast

from aiohttp import web

from pyengine.errors import EngineError, InvalidParameter
from pyengine_api_docker.connections import Connection, Hangup
from pyengine_api_docker.http import HEADERS, MULTIPLEXED_STREAM, RAW_STREAM, Call

DEFAULT_DETACH = "ctrl-p,ctrl-q"

#: Input that is kept for a container that is not ready; the rest waits in the client's socket.
MOST_EARLY = 1 << 18

#: How long a client may take to read the head, where it can be seen whether it has (unix sockets),
#: and how long it gets elsewhere: seconds.
HEAD_PATIENCE = 2.0
HEAD_START = 0.002

#: How long a client that has been sent everything may take to close its end.
LINGER = 10.0

_SINGLES = {f"ctrl-{chr(n + 96)}": n for n in range(1, 27)} | {
    f"ctrl-{sign}": n for sign, n in zip("@[\\]^_", (0, 27, 28, 29, 30, 31), strict=True)
}


def parse_keys(text: str) -> bytes:
    """``detachKeys``: single characters and ``ctrl-<x>`` by commas; empty gives the default."""
    keys = bytearray()
    for key in (text or DEFAULT_DETACH).split(","):
        if len(key) == 1 and re.fullmatch(r"[\x20-\x7e]", key):
            keys.append(ord(key))
        elif key in _SINGLES:
            keys.append(_SINGLES[key])
        else:
            raise InvalidParameter(f"Invalid detach keys ({text}) provided")
    return bytes(keys)


class Streams(Protocol):
    """The container's side: a stream socket that does not block, Docker's frames or raw bytes.
    The engine's attachments are such."""

    sock: socket.socket

    async def stdin_eof(self, sent: int) -> None:
        """The client's input has ended after ``sent`` bytes."""

    def close(self) -> None: ...


class Escape:
    """Looks for the detach keys in what a user types. A beginning of them is held back until the
    next key tells whether it was meant."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What is to be passed on, and whether the keys were pressed."""
        keys = self._keys
        if not self._matched and keys[0] not in data:
            return data, False
        out = bytearray()
        for byte in data:
            if byte != keys[self._matched]:
                out += keys[: self._matched]
                self._matched = 0
            if byte == keys[self._matched]:
                self._matched += 1
                if self._matched == len(keys):
                    return bytes(out), True
            else:
                out.append(byte)
        return bytes(out), False

    def rest(self) -> bytes:
        """What was held back, at the end of input."""
        held, self._matched = self._keys[: self._matched], 0
        return held


def head(call: Call, tty: bool) -> bytes:
    """The status line and headers that begin a hijacked answer."""
    if call.upgrades:
        kind = RAW_STREAM if tty or call.version < 42 else MULTIPLEXED_STREAM
        lines = ["HTTP/1.1 101 UPGRADED", f"Content-Type: {kind}"]
        lines += ["Connection: Upgrade", "Upgrade: tcp"]
    else:
        lines = ["HTTP/1.1 200 OK", f"Content-Type: {RAW_STREAM}"]
    lines += (f"{name}: {value}" for name, value in HEADERS.items())
    return "\r\n".join([*lines, "", ""]).encode()


class Hijacked(asyncio.Protocol):
    """The client's side of a connection that was taken away from the HTTP server."""

    def __init__(self, displaced: asyncio.Protocol, transport: asyncio.Transport) -> None:
        self._displaced = displaced
        self._transport = transport
        self._container: _Container | None = None
        # What comes before the container can take it; None when nobody will any more.
        self._early: bytearray | None = bytearray()
        self._ended = False
        self._hangup: Hangup | None = None
        self._writable: asyncio.Future[None] | None = None
        self._finishing: asyncio.Task[None] | None = None
        loop = asyncio.get_running_loop()
        self._taken = loop.time()
        self.gone: asyncio.Future[None] = loop.create_future()

    @classmethod
    def take(cls, request: web.BaseRequest, head: bytes) -> Hijacked:
        """Answer ``head`` and leave HTTP; before anything else is sent, :meth:`head_read`."""
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client is gone")
        self = cls(request.protocol, transport)
        transport.set_protocol(self)
        transport.write(head)
        transport.resume_reading()
        if isinstance(request.protocol, Connection) and request.protocol.ended:
            self.eof_received()
        return self

    async def head_read(self) -> None:
        """Wait until the client has read the head, or has had the time to.

        Many clients read it through a buffer and lose what follows in the same read (docker-py
        does), so what is there at once is held back. A unix socket tells what its peer has not
        read yet (SIOCOUTQ of unix(7)); with TCP, that is what has not arrived.
        """
        loop, transport = asyncio.get_running_loop(), self._transport
        connection = transport.get_extra_info("socket")
        if connection is None or connection.family != socket.AF_UNIX:
            await asyncio.sleep(self._taken + HEAD_START - loop.time())
            return
        while not transport.is_closing() and loop.time() < self._taken + HEAD_PATIENCE:
            unread = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4))
            if not transport.get_write_buffer_size() and not struct.unpack("i", unread)[0]:
                return
            await asyncio.sleep(HEAD_START / 4)

    async def send(self, data: bytes) -> None:
        """Write to the client, waiting while it is slow."""
        if self._writable is not None:
            await self._writable
        self._transport.write(data)

    async def splice(
        self,
        attachment: Streams,
        *,
        stdin: bool,
        escape: Escape | None = None,
        encode: Callable[[bytes], bytes] | None = None,
    ) -> bool:
        """Carry bytes both ways until the container's side has ended and the client has it all,
        or the client has gone. True if the detach keys ended it. ``encode``: what the output goes
        through."""
        loop = asyncio.get_running_loop()
        container = _Container(self, attachment, stdin, escape, encode)
        try:
            # a descriptor of our own: the engine closes its one when a start fails, and a number
            # that is used again must not be watched for us
            connection = attachment.sock.dup()
        except OSError:
            return False
        await loop.create_connection(lambda: container, sock=connection)
        self._container = container
        early, self._early = self._early, None
        self.resume()
        if early:
            container.take(bytes(early))
        if self._ended:
            container.end()
        if self._writable is not None:
            container.hold()
        try:
            await asyncio.wait((container.ended, self.gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._container = None
            container.close()
        return container.detached

    async def finish(self) -> None:
        """End the answer. Closing while the client still sends would reset the connection and may
        cost it the last of the output, so its end is awaited for a while."""
        transport = self._transport
        self._early = None
        if not self._ended and not self.gone.done() and transport.can_write_eof():
            with contextlib.suppress(OSError):
                transport.write_eof()
            transport.resume_reading()
            await asyncio.wait((self.gone,), timeout=LINGER)
        self.close()

    def finish_soon(self) -> None:
        """:meth:`finish`, for those who cannot wait."""
        self._finishing = asyncio.get_running_loop().create_task(self.finish())

    def close(self) -> None:
        if self._hangup is not None:
            self._hangup.close()
            self._hangup = None
        self._transport.close()

    def pause(self) -> None:
        self._transport.pause_reading()

    def resume(self) -> None:
        # after its end, reading on would find the end again and again
        if not self._ended and not self._transport.is_closing():
            self._transport.resume_reading()

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    # -- asyncio.Protocol ---------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._container is not None:
            self._container.take(data)
        elif self._early is not None:
            self._early += data
            if len(self._early) >= MOST_EARLY:
                self.pause()

    def eof_received(self) -> bool:
        self._ended = True
        if self._container is not None:
            self._container.end()
        connection = self._transport.get_extra_info("socket")
        if connection is not None and self._transport.get_extra_info("ssl_object") is None:
            self._hangup = Hangup(connection, self._transport.abort)
        return True

    def pause_writing(self) -> None:
        self._writable = asyncio.get_running_loop().create_future()
        if self._container is not None:
            self._container.hold()

    def resume_writing(self) -> None:
        if self._writable is not None:
            self._writable.set_result(None)
            self._writable = None
        if self._container is not None:
            self._container.release()

    def connection_lost(self, error: Exception | None) -> None:
        if self._hangup is not None:
            self._hangup.close()
            self._hangup = None
        if self._writable is not None:
            self._writable.set_exception(ConnectionResetError("the client is gone"))
            self._writable = None
        if not self.gone.done():
            self.gone.set_result(None)
        # the server still counts the connection among its own
        self._displaced.connection_lost(error)


class _Container(asyncio.Protocol):
    """The container's side: the stream socket to the shim."""

    def __init__(
        self,
        client: Hijacked,
        attachment: Streams,
        stdin: bool,
        escape: Escape | None,
        encode: Callable[[bytes], bytes] | None,
    ) -> None:
        self._client = client
        self._attachment = attachment
        self._stdin = stdin
        self._escape = escape
        self._encode = encode
        self._sent = 0
        self._transport: asyncio.Transport | None = None
        self._ending: asyncio.Task[None] | None = None
        self.detached = False
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(self, data: bytes) -> None:
        """The client's input."""
        if not self._stdin or self._transport is None or self._transport.is_closing():
            return
        if self._escape is not None:
            data, self.detached = self._escape.feed(data)
        self._write(data)
        if self.detached:
            self._end()

    def end(self) -> None:
        """The client's input has ended."""
        if not self._stdin or self._ending is not None:
            return
        if self._escape is not None:
            self._write(self._escape.rest())
        self._ending = asyncio.get_running_loop().create_task(self._say_end())

    async def _say_end(self) -> None:
        # a container that has just ended needs no telling
        with contextlib.suppress(OSError, EngineError):
            await self._attachment.stdin_eof(self._sent)

    def _write(self, data: bytes) -> None:
        if data and self._transport is not None and not self._transport.is_closing():
            self._sent += len(data)
            self._transport.write(data)

    def hold(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def release(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
        if self._transport is not None:
            self._transport.abort()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    # -- asyncio.Protocol ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._client.write(data if self._encode is None else self._encode(data))

    def eof_received(self) -> bool:
        self._end()
        return True

    def pause_writing(self) -> None:
        self._client.pause()

    def resume_writing(self) -> None:
        self._client.resume()

    def connection_lost(self, error: Exception | None) -> None:
        self._end()
