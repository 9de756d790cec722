"""A blob comes in: by range, resumed after every cut, never longer than its descriptor says."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Protocol

import aiohttp

from pyengine.oci.image import Descriptor
from pyengine.registry.auth import Scopes
from pyengine.registry.failures import Failure
from pyengine.registry.session import Session, delay_before, reading, worth_a_retry

#: Bytes that are handed to the writing thread at a time, and how long fewer may wait, in seconds.
BATCH = 1 << 20
FLUSH_EVERY = 0.1
#: A try that brought this many bytes was worth it: the count of tries begins anew.
PROGRESS = 65536

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class Ingest(Protocol):
    """Where a blob goes; see ``state/content.py``. The methods block."""

    size: int

    def write(self, data: bytes) -> object: ...
    def reset(self) -> object: ...


class Download:
    """One blob from one endpoint.

    ``progress`` is told how many bytes ``ingest`` has, which is fewer after a new start.
    ``waiting`` is told the seconds left until the next try, once a second and at last 0.
    """

    def __init__(
        self,
        session: Session,
        path: str,
        scopes: Scopes,
        descriptor: Descriptor,
        ingest: Ingest,
        progress: Callable[[int], None],
        waiting: Callable[[float], None],
    ) -> None:
        self._session = session
        self._path = path
        self._scopes = scopes
        self._digest = descriptor.digest
        self._size = descriptor.size
        self._ingest = ingest
        self._progress = progress
        self._waiting = waiting
        self._ranges = True

    async def run(self, attempts: int) -> None:
        """Raises :class:`Failure` after ``attempts`` tries in a row that brought nothing."""
        failed = 0
        while True:
            before = self._ingest.size
            try:
                await self._try()
            except Failure as failure:
                failed = 1 if self._ingest.size - before >= PROGRESS else failed + 1
                if failed >= attempts or not worth_a_retry(failure):
                    raise
                await self._wait(delay_before(failed, failure.retry_after))
            else:
                if self._ingest.size == self._size:
                    return
                failed = 0  # a part of what was asked for, as servers may send it

    async def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._waiting(left)
            await asyncio.sleep(min(left, 1.0))
        self._waiting(0)

    async def _try(self) -> None:
        if self._ingest.size > self._size or not self._ranges:
            await self._restart()
        offset = self._ingest.size
        if offset == self._size:
            return
        headers = {"Range": f"bytes={offset}-{self._size - 1}"} if offset else {}
        async with self._session.request(
            "GET", self._path, self._scopes, headers=headers, accept=(416,), missing="BLOB_UNKNOWN"
        ) as response:
            if response.status == 416:
                self._ranges = False
                raise self._failure("the registry has no such range", again=True)
            if response.status == 206:
                self._check_range(response, offset)
            elif offset:
                await self._restart()  # all of it comes again
            left = self._size - self._ingest.size
            if (response.content_length or 0) > left:
                raise self._failure(f"{response.content_length} bytes came where {left} were left")
            before = self._ingest.size
            await self._receive(response)
            if self._ingest.size < self._size and (response.status != 206 or not offset):
                raise self._failure("unexpected EOF", again=True)
            if self._ingest.size == before:
                raise self._failure("nothing came", again=True)

    def _check_range(self, response: aiohttp.ClientResponse, offset: int) -> None:
        text = response.headers.get("Content-Range", "")
        match = _CONTENT_RANGE.fullmatch(text)
        if not match or int(match[1]) != offset or match[3] not in ("*", str(self._size)):
            self._ranges = False
            raise self._failure(f"range {offset}- was wanted, {text!r} came", again=True)

    async def _receive(self, response: aiohttp.ClientResponse) -> None:
        """Read to the end; what has come is in the ingest however this ends."""
        writer = _Writer(self._ingest, self._progress)
        left = self._size - self._ingest.size
        try:
            while True:
                with reading(response):
                    chunk = await response.content.readany()
                if not chunk:
                    return
                if len(chunk) > left:
                    self._ranges = False
                    raise self._failure(f"it is longer than {self._size} bytes")
                left -= len(chunk)
                await writer.write(chunk)
        finally:
            await writer.finish()

    async def _restart(self) -> None:
        self._ranges = True
        if self._ingest.size:
            await asyncio.to_thread(self._ingest.reset)
            self._progress(0)

    def _failure(self, text: str, *, again: bool = False) -> Failure:
        return Failure(
            f"blob {self._digest} from {self._session.endpoint.host}: {text}", temporary=again
        )


class _Writer:
    """Hands bytes to a thread while the next ones come in."""

    def __init__(self, ingest: Ingest, progress: Callable[[int], None]) -> None:
        self._ingest = ingest
        self._progress = progress
        self._chunks: list[bytes] = []
        self._size = 0
        self._flushed = time.monotonic()
        self._writing: asyncio.Future[None] | None = None

    async def write(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._size >= BATCH or time.monotonic() - self._flushed >= FLUSH_EVERY:
            await self._settle()
            self._start()

    async def finish(self) -> None:
        """Write the rest."""
        await self._settle()
        if self._chunks:
            self._start()
            await self._settle()

    def _start(self) -> None:
        chunks, self._chunks, self._size = self._chunks, [], 0
        self._flushed = time.monotonic()
        loop = asyncio.get_running_loop()
        self._writing = loop.run_in_executor(None, self._write, chunks)

    def _write(self, chunks: list[bytes]) -> None:
        for chunk in chunks:
            self._ingest.write(chunk)

    async def _settle(self) -> None:
        """Wait for the thread, also when cancelled: it must not write behind its owner's back. A
        write that failed stays failed, so nothing is written after a gap."""
        if self._writing is None:
            return
        cancelled: asyncio.CancelledError | None = None
        while not self._writing.done():
            try:
                await asyncio.wait([self._writing])
            except asyncio.CancelledError as error:
                cancelled = error
        self._writing.result()
        self._writing = None
        self._progress(self._ingest.size)
        if cancelled is not None:
            raise cancelled
