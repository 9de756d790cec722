"""The HTTP server's connections: a client that has said all still wants its answer."""

from __future__ import annotations

import asyncio
import re
import select
import socket
from collections.abc import Callable

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import BadHttpMethod, HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from pyengine_api_docker.http import HEADERS, failure

_SOME_METHOD = re.compile(r"b'[!-~]+ \S+ HTTP/1\.[01]'")


class Server(web.Server):
    """aiohttp's, which drops a connection when the client ends its direction. Those who pipe a
    request into the socket (``nc -N``, ``docker system dial-stdio``) end it right after the
    request."""

    def __call__(self) -> Connection:
        return Connection(self, loop=self._loop, **self._kwargs)

    def _make_request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        assert isinstance(protocol, Connection)
        protocol.body = payload
        return super()._make_request(message, payload, protocol, writer, task)


class Connection(RequestHandler):
    """One connection. ``lasting``: the answer goes on until the client leaves. ``body``: that of
    the request that is being answered, or was last."""

    __slots__ = ("_hangup", "body", "ended", "lasting")

    def __init__(self, *arguments: object, **settings: object) -> None:
        super().__init__(*arguments, **settings)  # type: ignore[arg-type]
        self.ended = False
        self.lasting = False
        self.body: StreamReader | None = None
        self._hangup: Hangup | None = None

    def eof_received(self) -> bool:  # type: ignore[override]
        """True if the connection stays, for what is being answered."""
        transport = self.transport
        if transport is None or not self._asked():
            return False
        connection = transport.get_extra_info("socket")
        plain = transport.get_extra_info("ssl_object") is None
        if connection is not None and plain and connection.family == socket.AF_UNIX:
            self._hangup = Hangup(connection, transport.abort)
        elif self.lasting:
            # On TCP the end of one direction looks like the end of both.
            return False
        self.ended = True
        self.close()
        return True

    def _asked(self) -> bool:
        """Whether a request is there, and nothing is missing of it."""
        if self._waiter is not None and not self._waiter.done():
            return False
        bodies = [body for _, body in self._messages]
        if self.body is not None:
            bodies.append(self.body)
        return bool(bodies) and all(body.is_eof() for body in bodies)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is no HTTP is a mistake of the client: a short answer, and nothing for the log. A
        method that the parser has never heard of is a page that is not there."""
        if not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        reason = exc.message.strip()
        if isinstance(exc, BadHttpMethod) and _SOME_METHOD.search(reason):
            response: web.StreamResponse = failure(404, "page not found")
        else:
            reason = reason.partition("\n")[0].rstrip(":")
            response = web.Response(status=status, text=f"{status} Bad Request: {reason}")
        response.headers.update(HEADERS)
        response.force_close()
        return response

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._hangup is not None:
            self._hangup.close()
            self._hangup = None
        super().connection_lost(exc)


class Hangup:
    """Tells when a peer that ended its input has closed altogether.

    asyncio no longer watches a socket at whose end it has read; a readable end of file would wake
    it for ever. An epoll of its own that asks for nothing reports EPOLLHUP alone (epoll_ctl(2)).
    """

    def __init__(self, connection: socket.socket, then: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._epoll.register(connection.fileno(), 0)
        self._then = then
        self._loop.add_reader(self._epoll.fileno(), self._fire)

    def _fire(self) -> None:
        self.close()
        self._then()

    def close(self) -> None:
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
