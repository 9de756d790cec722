"""The stream of messages in which Docker's clients follow a pull, a push or a load.

One JSON object a line: ``status`` and ``id``, for a bar ``progressDetail`` too, for programs
``aux``, at the end of what failed ``errorDetail``. Source: the Engine's API description, v1.51.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from aiohttp import web

from pyengine.cli.units import human_size
from pyengine.engine.images.progress import Line, Progress
from pyengine.errors import EngineError
from pyengine_api_docker.http import JSON, Call, Stream

log = logging.getLogger(__name__)

_WIDTH = 50


async def follow(
    call: Call, work: Callable[[Progress], Coroutine[Any, Any, None]]
) -> web.StreamResponse:
    """Do ``work`` and send what it says. A client that goes away cancels it.

    What fails before the first line was said is an answer with a status of its own, and raised;
    what fails later is the last line.
    """
    progress = Progress()
    task = asyncio.ensure_future(work(progress))
    task.add_done_callback(lambda _: progress.close())
    stream: Stream | None = None
    try:
        async for lines in progress.batches():
            stream = stream or await call.stream(JSON)
            await stream.write(b"".join(map(encode, lines)))
        try:
            await task
        except (EngineError, OSError) as error:
            if stream is None:
                raise
            await stream.write(failure(error))
        except Exception:
            if stream is None:
                raise
            log.exception("%s %s failed", call.request.method, call.request.raw_path)
            await stream.write(failure(EngineError("internal error of the engine: see its log")))
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
    stream = stream or await call.stream(JSON)
    return stream.response


def encode(line: Line) -> bytes:
    """One line of the stream."""
    body: dict[str, Any] = {}
    if line.status:
        body["status"] = line.status
    if line.bar:
        detail = {"current": line.current, "total": line.total}
        body["progressDetail"] = {name: count for name, count in detail.items() if count}
        text = bar(line.current, line.total)
        if text:
            body["progress"] = text
    if line.id:
        body["id"] = line.id
    if line.aux is not None:
        body["aux"] = line.aux
    return msgspec.json.encode(body) + b"\r\n"


def failure(error: Exception) -> bytes:
    """The last line of what failed."""
    text = str(error)
    return msgspec.json.encode({"errorDetail": {"message": text}, "error": text}) + b"\r\n"


def bar(current: int, total: int) -> str:
    """``[====>    ]  1.2MB/5MB``, for clients that draw none themselves."""
    if current <= 0 and total <= 0:
        return ""
    done = human_size(current).rjust(8)
    if total <= 0:
        return done
    filled = min(int(current / total * 100) // 2, _WIDTH)
    numbers = done if current > total else f"{done}/{human_size(total)}"
    return f"[{'=' * filled}>{' ' * (_WIDTH - filled)}] {numbers}"
