"""The frontend: sockets, requests, errors."""

from __future__ import annotations

import asyncio
import errno
import logging
import posixpath
import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import unquote

from aiohttp import web

from pyengine.contracts.frontend import Frontend, Listener
from pyengine.engine import tracing
from pyengine.errors import EngineError, InvalidParameter
from pyengine_api_docker.authorization import authorized, user
from pyengine_api_docker.connections import Connection, Server
from pyengine_api_docker.http import API_VERSION, HEADERS, Call, check_escapes, failure
from pyengine_api_docker.routes import Endpoint, find
from pyengine_api_docker.tls import TlsConnection

if TYPE_CHECKING:
    from pyengine.engine.engine import Engine

log = logging.getLogger(__name__)

#: Clients of an older API read an error's text as it is.
JSON_ERRORS = (1, 24)
_VERSIONED = re.compile(r"/v([0-9.]+)(/.*)")
#: How many connections may wait to be accepted: ``docker compose up`` opens many at once.
BACKLOG = 512
#: Build arguments travel in the query and credentials in headers; Go's server takes 1 MiB in all.
LONGEST_LINE = 1 << 20
MOST_HEADERS = 1024
#: What is wrong with the host or with a tree in it, and no defect of the engine: said as it is.
_HOST = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENAMETOOLONG})


class DockerFrontend(Frontend):
    """Serves the Docker Engine API on the daemon's sockets."""

    name: ClassVar[str] = "docker"
    protocol: ClassVar[str] = "http"

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._server = Server(
            self._handle,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=3600,
            max_line_size=LONGEST_LINE,
            max_field_size=LONGEST_LINE,
            max_headers=MOST_HEADERS,
            logger=log,
        )
        self._listeners: list[asyncio.AbstractServer] = []
        #: requests that last as long as the client likes
        self._lasting: set[asyncio.Task[object]] = set()

    async def start(self, listeners: list[Listener]) -> None:
        loop = asyncio.get_running_loop()
        for listener in listeners:
            make: Callable[[], asyncio.Protocol] = self._server
            if listener.tls is not None:
                make = partial(TlsConnection, listener.tls, self._server)
            self._listeners.append(
                await loop.create_server(make, sock=listener.socket, backlog=BACKLOG)
            )

    async def stop(self, timeout: float) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        self._server.pre_shutdown()
        for task in list(self._lasting):
            task.cancel()
        await self._server.shutdown(timeout)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        hooks = self.engine.hooks
        if not hooks.has_tracing():
            return await self._respond(request)
        path = request.raw_path.partition("?")[0]
        traceparent = request.headers.get("traceparent", "")
        with tracing.request(
            hooks.engine_span, f"{request.method} {path}", traceparent, method=request.method
        ) as span:
            response = await self._respond(request)
            span.attributes["status"] = response.status
            return response

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            response = await self._answer(request)
        except EngineError as error:
            response = failure(error.status, error.message())
            asked = _VERSIONED.fullmatch(request.raw_path.partition("?")[0])
            if asked is not None and _version(asked[1]) < JSON_ERRORS:
                response = web.Response(text=error.message() + "\n", status=error.status)
        except ConnectionError:
            if request.transport is None or request.transport.is_closing():
                # Its client has gone: no error of ours, though the server would log it as one.
                raise asyncio.CancelledError from None
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _HOST:
                log.error("%s %s failed: %s", request.method, request.raw_path, error)
                response = failure(500, str(error))
            else:
                log.exception("%s %s failed", request.method, request.raw_path)
                response = failure(500, "internal error of the engine: see its log")
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path, _, query = _local(request.raw_path).partition("?")
        if "//" in path or "/." in path:
            clean = _clean(path)
            if clean != path:
                location = f"{clean}?{query}" if query else clean
                return web.Response(status=301, headers={"Location": location})
        check_escapes(path)
        wanted = API_VERSION
        versioned = _VERSIONED.fullmatch(path)
        if versioned is not None:
            wanted, path = versioned.groups()
        endpoint, name = find(request.method, path)
        if endpoint is None:
            return failure(404, "page not found")
        version = _minor(wanted, self.engine.config.min_api_version)
        self.engine.hooks.security_authorize(request.method, request.raw_path, user(request))
        if not endpoint.early:
            await self.engine.restored()
        name = unquote(name)
        if "\n" in name:
            return failure(404, "page not found")
        call = Call(self.engine, request, version, path, name, query)
        if not self.engine.hooks.has_authorization():
            return await self._run(endpoint, call)
        return await authorized(call, lambda: self._run(endpoint, call))

    async def _run(self, endpoint: Endpoint, call: Call) -> web.StreamResponse:
        if endpoint.lasting:
            return await self._last(call, endpoint)
        if endpoint.reads:
            return await endpoint.run(call)
        # what was begun is carried through, though its client may have gone
        work = asyncio.ensure_future(endpoint.run(call))
        work.add_done_callback(_retrieve)
        return await asyncio.shield(work)

    async def _last(self, call: Call, endpoint: Endpoint) -> web.StreamResponse:
        task, connection = asyncio.current_task(), call.request.protocol
        assert task is not None
        assert isinstance(connection, Connection)
        self._lasting.add(task)
        connection.lasting = True
        try:
            return await endpoint.run(call)
        finally:
            connection.lasting = False
            self._lasting.discard(task)


def _retrieve(work: asyncio.Future[web.StreamResponse]) -> None:
    """Its error is known, though nobody may be left to be told."""
    if not work.cancelled():
        work.exception()


def _local(target: str) -> str:
    """The path and query of a request's target, which a proxy's client gives as a whole address
    (RFC 9112, section 3.2.2)."""
    if target.startswith("/"):
        return target
    _, found, rest = target.partition("://")
    return "/" + rest.partition("/")[2] if found else target


def _clean(path: str) -> str:
    """``path`` without empty and dot segments, where Docker sends its clients."""
    clean = posixpath.normpath("/" + path.lstrip("/"))
    return clean + "/" if path.endswith("/") and clean != "/" else clean


def _version(text: str) -> tuple[int, int]:
    """(1, 45) for ``1.45``."""
    parts = [int(part or 0) for part in text.split(".")]
    return parts[0], parts[1] if len(parts) > 1 else 0


def _minor(version: str, oldest: str) -> int:
    """45 for ``1.45``; ``InvalidParameter`` in Docker's words for what is not served, or is older
    than ``oldest``."""
    if version == API_VERSION:
        return 51
    major, minor = _version(version)
    if (major, minor) < tuple(map(int, oldest.split("."))):
        raise InvalidParameter(
            f"client version {version} is too old. Minimum supported API version is "
            f"{oldest}, please upgrade your client to a newer version"
        )
    if (major, minor) > (1, 51):
        raise InvalidParameter(
            f"client version {version} is too new. Maximum supported API version is {API_VERSION}"
        )
    return minor
