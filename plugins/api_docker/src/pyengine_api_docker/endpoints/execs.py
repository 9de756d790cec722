"""Further processes in containers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from aiohttp import web

from pyengine.engine.frames import Payloads
from pyengine.engine.model import ExecConfig
from pyengine.errors import Conflict, EngineError, InvalidParameter
from pyengine_api_docker import objects, requests
from pyengine_api_docker.endpoints.attach import acquire, serve, tell
from pyengine_api_docker.frames import frame
from pyengine_api_docker.hijack import Escape, Hijacked, head, parse_keys
from pyengine_api_docker.http import Call, empty, json


async def create(call: Call) -> web.StreamResponse:
    body = await call.body(ExecConfig)
    if not body.cmd:
        raise InvalidParameter("No exec command specified")
    if call.version < 42:
        body.console_size = None
    if body.detach_keys:
        parse_keys(body.detach_keys)
    return json({"Id": await call.engine.execs.create(call.name, body)}, 201)


async def inspect(call: Call) -> web.StreamResponse:
    return json(objects.exec_inspect(call.engine.execs.get(call.name)))


async def resize(call: Call) -> web.StreamResponse:
    height, width = call.query.size("h", "height"), call.query.size("w", "width")
    await call.engine.execs.resize(call.name, width, height)
    return empty(200)


async def start(call: Call) -> web.StreamResponse:
    """A command that cannot be started tells so in the stream: its client looks at the exit code
    afterwards (126, 127), as it does for one that ran."""
    engine = call.engine
    body = await call.body(requests.StartExec)
    record = engine.execs.get(call.name)
    container = engine.containers.get(record.container_id)
    if container.state.paused:
        raise Conflict(f"Container {container.name} is paused, unpause the container before exec")
    if not container.state.running:
        raise Conflict(f"container {container.id} is not running")
    console = body.console_size if body.tty and call.version >= 42 else None
    starting = engine.execs.start(record.id, detach=body.detach, tty=body.tty, console_size=console)
    if body.detach:
        await asyncio.shield(asyncio.ensure_future(starting))
        return empty(200)
    escape = Escape(parse_keys(record.config.detach_keys)) if body.tty else None
    client = Hijacked.take(call.request, head(call, body.tty))
    try:
        attachment = await acquire(starting)
        assert attachment is not None
    except EngineError as error:
        text = error.message().encode() + b"\r\n"
        await client.head_read()
        await client.send(text if body.tty else frame(1, text))
        client.finish_soon()
        await client.gone
        return web.Response()

    def detached() -> None:
        tell(engine, container, "exec_detach", execID=record.id)

    # How the answer is written is said by the start, whatever the process has.
    encode: Callable[[bytes], bytes] | None = None
    if record.config.tty and not body.tty:
        encode = partial(frame, 1)
    elif body.tty and not record.config.tty:
        encode = Payloads().feed
    stdin = record.config.attach_stdin
    return await serve(client, attachment, stdin, escape, detached, encode=encode)
