"""The daemon's end of a connection with a zygote or shim, on an asyncio loop."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections import deque
from collections.abc import Callable

from pyengine.errors import Unavailable
from pyengine.supervisor import protocol
from pyengine.supervisor.protocol import Message, Type


class Channel:
    """Requests matched with their answers, events handed to ``on_event`` in order.

    ``on_event`` takes over the message's descriptors. ``on_close``: the peer is gone, called once
    and after every message has been handled; requests without an answer raise ``Unavailable``.
    """

    def __init__(
        self,
        sock: socket.socket,
        peer: str,
        on_event: Callable[[Message], None],
        on_close: Callable[[], None],
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._peer = peer
        self._on_event = on_event
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(protocol.LAUNCH + 1)
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._outbox: deque[tuple[Type, int, bytes, list[int]]] = deque()
        self.closed = False
        self._loop.add_reader(sock.fileno(), self._readable)

    def expect(self, request: int) -> asyncio.Future[Message]:
        """The answer to ``request``, as a future: the message, or the error it carries."""
        future: asyncio.Future[Message] = self._loop.create_future()
        if self.closed:
            future.set_exception(self._gone())
        else:
            self._waiting[request] = future
        return future

    def send(
        self,
        type: Type,
        request: int = 0,
        payload: bytes = b"",
        descriptors: list[int] | None = None,
    ) -> None:
        """Send without waiting; takes ``descriptors`` over. To a peer that is gone: nothing."""
        fds = descriptors or []
        if self.closed:
            _close(fds)
            return
        self._outbox.append((type, request, payload, fds))
        if len(self._outbox) == 1:
            self._writable()

    def submit(
        self, type: Type, payload: bytes = b"", descriptors: list[int] | None = None
    ) -> asyncio.Future[Message]:
        """Send a request; the future is its answer."""
        number = next(self._numbers)
        future = self.expect(number)
        self.send(type, number, payload, descriptors)
        return future

    async def request(
        self, type: Type, payload: bytes = b"", descriptors: list[int] | None = None
    ) -> Message:
        return await self.submit(type, payload, descriptors)

    def drain(self) -> None:
        """Handle what has arrived, now."""
        while not self.closed and self._receive():
            pass

    def close(self) -> None:
        """Close our end; ``on_close`` is not called."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        while self._outbox:
            _close(self._outbox.popleft()[3])
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(self._gone())
                # Nobody may be waiting for this one any more; that is no error of the program.
                future.exception()

    def _gone(self) -> Unavailable:
        return Unavailable(f"the connection with {self._peer} is closed")

    def _readable(self) -> None:
        self._receive()

    def _receive(self) -> bool:
        try:
            message = protocol.receive(self._sock)
        except BlockingIOError:
            return False
        except (OSError, protocol.ProtocolError):
            message = None
        if message is None:
            self.close()
            self._on_close()
            return False
        if message.request == 0:
            self._on_event(message)
            return True
        future = self._waiting.pop(message.request, None)
        if future is None or future.done():
            message.close()
        elif message.type == Type.ERROR:
            future.set_exception(protocol.unfault(message.payload))
        else:
            future.set_result(message)
        return True

    def _writable(self) -> None:
        while self._outbox:
            type, request, payload, fds = self._outbox[0]
            try:
                protocol.send(self._sock, type, request, payload, fds)
            except BlockingIOError:
                self._loop.add_writer(self._sock.fileno(), self._writable)
                return
            except OSError:  # its end of file, which comes next, tells everybody
                pass
            self._outbox.popleft()
            _close(fds)
        self._loop.remove_writer(self._sock.fileno())


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
