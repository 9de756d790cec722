"""What lasts: attach, logs, wait."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from aiohttp import WSMsgType, web

from pyengine.contracts.logging import LogChunk, LogQuery
from pyengine.errors import Conflict, EngineError, InvalidParameter
from pyengine_api_docker.frames import frame, frame_lines
from pyengine_api_docker.hijack import Escape, Hijacked, Streams, head, parse_keys
from pyengine_api_docker.http import JSON, MULTIPLEXED_STREAM, RAW_STREAM, Call

if TYPE_CHECKING:
    from pyengine.engine.engine import Engine
    from pyengine.engine.model import Container


class Closable(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound="Closable | None")

_CONDITIONS = frozenset({"not-running", "next-exit", "removed"})


async def acquire(opening: Awaitable[T]) -> T:
    """Wait for something that must be closed, also if the client goes while it is being opened."""
    task: asyncio.Future[T] = asyncio.ensure_future(opening)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_discard)
        raise


def tell(engine: Engine, container: Container, action: str, **more: str) -> None:
    """An event of a container that only this frontend knows of."""
    about = {"image": container.config.image, "name": container.name}
    attributes = {**(container.config.labels or {}), **about, **more}
    engine.events.emit("container", action, container.id, attributes)


def _discard(task: asyncio.Future[Any]) -> None:
    if not task.cancelled() and task.exception() is None and task.result() is not None:
        task.result().close()


async def serve(
    client: Hijacked,
    attachment: Streams,
    stdin: bool,
    escape: Escape | None,
    detached: Callable[[], None],
    history: AsyncIterator[bytes] | None = None,
    encode: Callable[[bytes], bytes] | None = None,
    ended: Callable[[], Awaitable[None]] | None = None,
) -> web.StreamResponse:
    """Join a hijacked client and a container's streams until one of them ends. ``ended`` returns
    when whoever hears of that may look for an exit code."""
    try:
        await client.head_read()
        if history is not None:
            async for data in history:
                await client.send(data)
        if await client.splice(attachment, stdin=stdin, escape=escape, encode=encode):
            detached()
        elif ended is not None and not client.gone.done():
            over = asyncio.ensure_future(ended())
            try:
                await asyncio.wait((over, client.gone), return_when=asyncio.FIRST_COMPLETED)
            finally:
                over.cancel()
    finally:
        attachment.close()
        client.finish_soon()
    await client.gone
    return web.Response()


async def attach(call: Call) -> web.StreamResponse:
    """The streams on the bare connection; like Docker's, an error is bare text, too."""
    try:
        return await _attach(call)
    except EngineError as error:
        text = f"{error.message()}\r\n".encode()
        return web.Response(body=text, status=error.status, headers={"Content-Type": RAW_STREAM})


async def _attach(call: Call) -> web.StreamResponse:
    engine, query = call.engine, call.query
    container = engine.containers.get(call.name)
    tty = container.config.tty
    keys = parse_keys(query["detachKeys"])
    escape = Escape(keys) if tty else None
    _refuse_paused(call, container)
    stdin = query.flag("stdin") and container.config.open_stdin
    streams = {"stdout": query.flag("stdout"), "stderr": query.flag("stderr")}
    history = None
    if query.flag("logs"):
        history = _frames(engine.containers.logs(container.id, LogQuery(**streams), False), tty)
    if not query.flag("stream"):
        client = Hijacked.take(call.request, head(call, tty))
        try:
            if history is not None:
                await client.head_read()
                async for data in history:
                    await client.send(data)
        finally:
            client.finish_soon()
        await client.gone
        return web.Response()
    ended = engine.containers.ending(container.id)
    attachment = await acquire(engine.containers.attach(container.id, stdin=stdin, **streams))

    def detached() -> None:
        tell(engine, container, "detach")

    client = Hijacked.take(call.request, head(call, tty))
    return await serve(client, attachment, stdin, escape, detached, history, ended=ended)


def _refuse_paused(call: Call, container: Container) -> None:
    """Also for those who want what is in the log alone."""
    if container.state.paused:
        raise Conflict(f"container {call.name} is paused, unpause the container before attach")


async def _frames(chunks: AsyncIterator[LogChunk], tty: bool) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        yield chunk.data if tty else frame_lines(chunk.stream, chunk.data)


async def attach_websocket(call: Call) -> web.StreamResponse:
    """The bare payload of the streams, in binary messages (text before 1.28)."""
    engine, query = call.engine, call.query
    container = engine.containers.get(call.name)
    _refuse_paused(call, container)
    chosen = {
        name: query.flag(name) if call.version >= 42 else True
        for name in ("stdin", "stdout", "stderr")
    }
    streams = {"stdout": chosen["stdout"], "stderr": chosen["stderr"]}
    stdin = chosen["stdin"] and container.config.open_stdin
    tty = container.config.tty
    socket = web.WebSocketResponse(
        protocols=call.request.headers.getall("Sec-WebSocket-Protocol", ())
    )
    if not socket.can_prepare(call.request):
        raise InvalidParameter("not websocket protocol")
    await socket.prepare(call.request)
    send = socket.send_bytes if call.version >= 28 else _as_text(socket)
    if query.flag("logs"):
        async for chunk in engine.containers.logs(container.id, LogQuery(**streams), False):
            await send(chunk.data)
    if query.flag("stream"):
        ended = engine.containers.ending(container.id)
        attachment = await acquire(engine.containers.attach(container.id, stdin=stdin, **streams))
        try:
            await _websocket(socket, attachment, send, stdin, tty, ended)
        finally:
            attachment.close()
    await socket.close()
    return socket


def _as_text(socket: web.WebSocketResponse) -> Callable[[bytes], Awaitable[None]]:
    return lambda data: socket.send_str(data.decode(errors="replace"))


async def _websocket(
    socket: web.WebSocketResponse,
    attachment: Streams,
    send: Callable[[bytes], Awaitable[None]],
    stdin: bool,
    tty: bool,
    ended: Callable[[], Awaitable[None]],
) -> None:
    async def inward() -> None:
        async for message in socket:
            if message.type not in (WSMsgType.BINARY, WSMsgType.TEXT) or not stdin:
                continue
            data = message.data.encode() if isinstance(message.data, str) else message.data
            writer.write(data)
            await writer.drain()

    reader, writer = await asyncio.open_connection(sock=attachment.sock.dup())

    async def outward() -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            await copy()
        await ended()

    async def copy() -> None:
        while True:
            if tty:
                data = await reader.read(65536)
                if not data:
                    return
            else:
                header = await reader.readexactly(8)
                data = await reader.readexactly(int.from_bytes(header[4:], "big"))
            await send(data)

    tasks = {asyncio.ensure_future(inward()), asyncio.ensure_future(outward())}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        writer.transport.abort()


async def wait(call: Call) -> web.StreamResponse:
    """Since 1.30 the headers come at once: they say that the client will not miss the exit."""
    condition = call.query["condition"] if call.version >= 30 else ""
    if condition and condition not in _CONDITIONS:
        raise InvalidParameter(f'invalid condition: "{condition}"')
    outcome = asyncio.ensure_future(
        call.engine.containers.wait(call.name, condition or "not-running")
    )
    try:
        stream = await call.stream(JSON) if call.version >= 30 else None
        code, error = await outcome
    finally:
        outcome.cancel()
    body: dict[str, Any] = {"StatusCode": code}
    if error:
        body["Error"] = {"Message": error}
    stream = stream or await call.stream(JSON)
    await stream.write_json(body)
    return stream.response


def _copies(call: Call) -> bool:
    """Whether the client only copies the log to its output: a frame per line would make it write
    line by line, which takes longer than all the rest."""
    return call.request.headers.get("User-Agent", "").startswith(("Docker-Client/", "pyengine"))


async def logs(call: Call) -> web.StreamResponse:
    query = call.query
    wanted = {"stdout": query.flag("stdout"), "stderr": query.flag("stderr")}
    if not any(wanted.values()):
        raise InvalidParameter("Bad parameters: you must choose at least one stream")
    container = call.engine.containers.get(call.name)
    tty = container.config.tty
    tail = query["tail"]
    until = query.time("until")
    follow = query.flag("follow") and not (until and until <= time.time_ns())
    chunks = call.engine.containers.logs(
        container.id,
        LogQuery(
            since=query.time("since"),
            until=until,
            tail=int(tail) if tail.isdigit() else -1,
            timestamps=query.flag("timestamps"),
            details=query.flag("details"),
            **wanted,
        ),
        follow,
    )
    # the first records come before the headers, so that what cannot be read is an error
    upcoming = aiter(chunks)
    first = asyncio.ensure_future(anext(upcoming))
    try:
        await asyncio.wait((first,), timeout=0.05)
        if first.done() and not isinstance(first.exception(), StopAsyncIteration | None):
            first.result()
        plain = tty or call.version < 42
        framed = frame if _copies(call) else frame_lines
        stream = await call.stream(RAW_STREAM if plain else MULTIPLEXED_STREAM)
        with contextlib.suppress(StopAsyncIteration):
            chunk = await first
            while True:
                await stream.write(chunk.data if tty else framed(chunk.stream, chunk.data))
                chunk = await anext(upcoming)
        return stream.response
    finally:
        first.cancel()
