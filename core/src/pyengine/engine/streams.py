"""From the event loop's streams to the blocking ones that drivers read."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, BinaryIO, cast

from pyengine.errors import EngineError, InvalidParameter

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class AsyncReader(io.RawIOBase):
    """A file over an async iterator of chunks, for one thread that is not the loop's.

    The iterator is asked for the next chunk when the last one is used up, so a slow reader holds
    back the sender. What the iterator raises, the reader raises: ``InvalidParameter`` for anything
    but engine and operating system errors (a client that went away).
    """

    def __init__(self, chunks: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop) -> None:
        self._chunks = chunks
        self._loop = loop
        self._chunk = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        if not self._chunk:
            self._chunk = memoryview(self._next())
        piece = self._chunk[: len(view)]
        self._chunk = self._chunk[len(piece) :]
        view[: len(piece)] = piece
        return len(piece)

    def _next(self) -> bytes:
        try:
            while True:
                future = asyncio.run_coroutine_threadsafe(self._one(), self._loop)
                chunk = future.result()
                if chunk is None:
                    return b""
                if chunk:
                    return chunk
        except (EngineError, OSError):
            raise
        except Exception as error:
            raise InvalidParameter("the request's body broke off", str(error)) from error

    async def _one(self) -> bytes | None:
        return await anext(self._chunks, None)


def reader(chunks: AsyncIterator[bytes]) -> BinaryIO:
    """A buffered file over ``chunks``; call it on the loop, read it on a thread."""
    return cast(
        BinaryIO, io.BufferedReader(AsyncReader(chunks, asyncio.get_running_loop()), 1 << 20)
    )
