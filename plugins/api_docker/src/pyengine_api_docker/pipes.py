"""Bodies that go through pipes: the engine reads and writes files on threads of its own."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import io
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, BinaryIO

from aiohttp import web

from pyengine.errors import InvalidParameter
from pyengine_api_docker.http import Call

if TYPE_CHECKING:
    from typing_extensions import Buffer

CHUNK = 1 << 18
#: The most that Linux gives without privileges (pipe(7), pipe-max-size).
_PIPE = 1 << 20


def _pipe() -> tuple[int, int]:
    ends = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(OSError):
        fcntl.fcntl(ends[0], fcntl.F_SETPIPE_SZ, _PIPE)
    return ends


class _Source(io.FileIO):
    """The reading end. ``broken``: the end of the pipe is not the end of the body."""

    broken = False

    def readinto(self, buffer: Buffer, /) -> int | None:
        count = super().readinto(buffer)
        if not count and self.broken:
            raise InvalidParameter("the body of the request broke off")
        return count


@contextlib.asynccontextmanager
async def upload(call: Call) -> AsyncIterator[BinaryIO]:
    """The request's body as a file to read. Where a body breaks off, reading raises
    ``InvalidParameter``: half an archive must not be taken for a whole one."""
    await call.expect()
    loop = asyncio.get_running_loop()
    read_end, write_end = _pipe()
    source = _Source(read_end, "rb")
    sink = os.fdopen(write_end, "wb", buffering=0)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sink)
    writer = asyncio.StreamWriter(transport, protocol, None, loop)

    async def pump() -> None:
        try:
            async for chunk in call.request.content.iter_chunked(CHUNK):
                writer.write(chunk)
                await writer.drain()
        except (BrokenPipeError, ConnectionResetError):
            # the engine has seen enough; the rest is read so that the client gets its answer
            async for _ in call.request.content.iter_chunked(CHUNK):
                pass
        except (Exception, asyncio.CancelledError):
            source.broken = True
            raise
        finally:
            writer.close()

    pumping = asyncio.ensure_future(pump())
    try:
        yield io.BufferedReader(source, CHUNK)
    except asyncio.CancelledError:
        pumping.cancel()
        raise
    finally:
        source.close()
        with contextlib.suppress(Exception, asyncio.CancelledError):
            await pumping


async def download(
    call: Call, content_type: str, produce: Callable[[BinaryIO], Awaitable[None]]
) -> web.StreamResponse:
    """An answer that ``produce`` writes. An error before the first byte is still an error answer;
    one after it cuts the connection, so that nobody takes the part for the whole."""
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
        stream = await call.stream(content_type)
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
