"""Answers that the engine writes to a file, on a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import BinaryIO

from aiohttp import web

from pyengine_api_docker.http import Call

CHUNK = 1 << 18
#: The most that Linux gives without privileges (pipe(7), pipe-max-size).
_PIPE = 1 << 20


def _pipe() -> tuple[int, int]:
    ends = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(OSError):
        fcntl.fcntl(ends[0], fcntl.F_SETPIPE_SZ, _PIPE)
    return ends


async def download(
    call: Call,
    content_type: str,
    produce: Callable[[BinaryIO], Awaitable[None]],
    headers: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    """An answer that ``produce`` writes; it may add to ``headers`` before its first byte. An error
    before that byte is still an error answer; one after it cuts the connection, so that nobody
    takes the part for the whole."""
    loop = asyncio.get_running_loop()
    read_end, write_end = _pipe()
    reader = asyncio.StreamReader(limit=CHUNK)
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb", buffering=0)
    )

    async def write() -> None:
        out = os.fdopen(write_end, "wb", buffering=CHUNK)
        try:
            await produce(out)
        finally:
            # closing writes what is buffered, and so may wait for this very loop to read
            await asyncio.to_thread(out.close)

    writing = asyncio.ensure_future(write())
    try:
        data = await reader.read(CHUNK)
        if not data:
            await writing
        stream = await call.stream(content_type, headers)
        while data:
            await stream.write(data)
            data = await reader.read(CHUNK)
        await _whole(call, writing)
        return stream.response
    finally:
        # a writer that still writes finds a broken pipe, and its thread ends
        transport.close()
        writing.add_done_callback(_settle)


def _settle(writing: asyncio.Future[None]) -> None:
    """Its error has been answered, or nobody is left to answer."""
    if not writing.cancelled():
        writing.exception()


async def _whole(call: Call, writing: asyncio.Future[None]) -> None:
    try:
        await writing
    except Exception as error:
        if call.request.transport is not None:
            call.request.transport.abort()
        raise ConnectionResetError("the answer was cut short") from error
