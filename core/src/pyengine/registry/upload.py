"""A blob goes out: in one piece, or in chunks where the registry wants that or was cut off.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md, "Push".
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import BinaryIO
from urllib.parse import urlencode, urlsplit

import aiohttp

from pyengine.oci.image import Descriptor
from pyengine.registry import session as timing
from pyengine.registry.auth import Scopes
from pyengine.registry.failures import Failure
from pyengine.registry.session import Body, Session, delay_before, join, worth_a_retry

PIECE = 1 << 20
#: Bytes of a PATCH; halved when a registry finds it too large.
CHUNK = 32 << 20
SMALLEST_CHUNK = 1 << 20
#: Answers to a whole blob that mean: not in one piece.
_IN_CHUNKS = {405, 411, 413, 501}

_OCTETS = {"Content-Type": "application/octet-stream"}


def upload_location(session: Session, response: aiohttp.ClientResponse) -> str:
    """Where the upload goes on. :class:`Failure` without one, and if it is plain HTTP though the
    registry is not; some say http behind a proxy that ends TLS, and mean themselves."""
    location = response.headers.get("Location", "")
    if not location:
        raise Failure(f"{session.endpoint.host} names no location for the upload")
    url = join(str(response.url), location)
    if url.startswith("http://") and not session.endpoint.insecure:
        if urlsplit(url).hostname != urlsplit(session.endpoint.url).hostname:
            raise Failure(f"{session.endpoint.host} wants the upload at a place without TLS")
        url = session.endpoint.url.partition("://")[0] + url.removeprefix("http")
    return url


class Upload:
    """One blob to one endpoint. ``location``: of an upload that was begun already."""

    def __init__(
        self,
        session: Session,
        repository: str,
        scopes: Scopes,
        descriptor: Descriptor,
        open: Callable[[], BinaryIO],
        progress: Callable[[int], None],
        location: str = "",
    ) -> None:
        self._session = session
        self._begin_path = f"/v2/{repository}/blobs/uploads/"
        self._scopes = scopes
        self._digest = descriptor.digest
        self._size = descriptor.size
        self._open = open
        self._progress = progress
        self._location = location
        self._offset = 0
        self._chunk = 0
        self._smallest = SMALLEST_CHUNK
        self._unsure = False
        self._deadline: asyncio.Timeout | None = None
        self._broken: Exception | None = None

    async def run(self, attempts: int) -> None:
        """Raises :class:`Failure` after ``attempts`` tries in a row that got nowhere."""
        failed = furthest = 0
        while True:
            try:
                await self._try()
                return
            except Failure as failure:
                # A registry that forgets everything again and again does not get on.
                failed = 1 if self._offset > furthest else failed + 1
                furthest = max(furthest, self._offset)
                again = worth_a_retry(failure) or self._adapts(failure)
                if failed >= attempts or not again:
                    raise
                await asyncio.sleep(delay_before(failed, failure.retry_after))

    def _adapts(self, failure: Failure) -> bool:
        """True if another way may work."""
        if failure.status in _IN_CHUNKS:
            if self._chunk == 0:
                self._chunk = max(CHUNK, self._smallest)
            elif self._chunk // 2 >= self._smallest:
                self._chunk //= 2
            else:
                return False
            return True
        if failure.code in ("BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID") or failure.status == 416:
            self._start_over()
            return True
        return False

    def _start_over(self) -> None:
        self._location, self._offset, self._unsure = "", 0, False
        self._progress(0)

    async def _try(self) -> None:
        if not self._location:
            await self._begin()
        elif self._unsure:
            await self._ask()
        self._unsure = True
        if not self._chunk and not self._offset:
            await self._put(0)
            return
        while self._offset < self._size:
            await self._patch()
        await self._put(self._size)

    async def _begin(self) -> None:
        request = self._session.request("POST", self._begin_path, self._scopes, body=b"")
        async with request as response:
            self._took(response)
            self._offset = 0

    async def _ask(self) -> None:
        """How much has arrived."""
        try:
            async with self._session.request("GET", self._location, self._scopes) as response:
                self._took(response, keep=True)
                self._offset = _received(response)
        except Failure as failure:
            if not 400 <= failure.status < 500 or failure.status == 429:
                raise
            self._start_over()
            await self._begin()
            return
        self._chunk = self._chunk or max(CHUNK, self._smallest)
        self._progress(self._offset)

    async def _put(self, start: int) -> None:
        """The end of it, from ``start``, and the digest."""
        separator = "&" if "?" in self._location else "?"
        url = f"{self._location}{separator}{urlencode({'digest': self._digest})}"
        length = self._size - start
        headers = {**_OCTETS, "Content-Length": str(length)}
        body = self._body(start, self._size) if length else b""
        request = self._session.request("PUT", url, self._scopes, headers=headers, body=body)
        async with self._moving(), request as response:
            named = response.headers.get("Docker-Content-Digest", self._digest)
            if named != self._digest:
                raise Failure(f"the registry has stored {named}, not {self._digest}")
        self._progress(self._size)

    async def _patch(self) -> None:
        end = min(self._offset + self._chunk, self._size) if self._chunk else self._size
        headers = {
            **_OCTETS,
            "Content-Length": str(end - self._offset),
            "Content-Range": f"{self._offset}-{end - 1}",
        }
        body = self._body(self._offset, end)
        request = self._session.request(
            "PATCH", self._location, self._scopes, headers=headers, body=body
        )
        async with self._moving(), request as response:
            self._took(response, keep=True)
            received = _received(response, end)
        if not self._offset < received <= end:
            raise Failure(f"the registry took {received} bytes of {end}", temporary=True)
        self._offset = received

    def _took(self, response: aiohttp.ClientResponse, *, keep: bool = False) -> None:
        if not keep or "Location" in response.headers:
            self._location = upload_location(self._session, response)
        smallest = response.headers.get("OCI-Chunk-Min-Length", "")
        if smallest.isascii() and smallest.isdigit():
            self._smallest = max(int(smallest), 1)
            self._chunk = max(self._chunk, self._smallest) if self._chunk else 0

    @asynccontextmanager
    async def _moving(self) -> AsyncIterator[None]:
        """Around a request with a body: :class:`Failure` when the registry takes no more of it."""
        self._broken = None
        try:
            async with asyncio.timeout(None) as self._deadline:
                yield
        except Failure as failure:
            # What goes wrong while bytes are made is not told by the connection that lacks them.
            if self._broken is None:
                raise
            raise self._broken from failure
        except TimeoutError as error:
            text = f"{self._session.endpoint.host} stopped taking blob {self._digest}"
            raise Failure(text, temporary=True) from error
        finally:
            self._deadline = None

    def _expect(self, seconds: float | None) -> None:
        """Something must happen within so many seconds."""
        if self._deadline is not None:
            now = asyncio.get_running_loop().time()
            self._deadline.reschedule(None if seconds is None else now + seconds)

    def _body(self, start: int, end: int) -> Body:
        async def pieces() -> AsyncIterator[bytes]:
            try:
                with await asyncio.to_thread(self._open) as file:
                    await asyncio.to_thread(file.seek, start)
                    at = start
                    while at < end:
                        piece = await asyncio.to_thread(file.read, min(PIECE, end - at))
                        if not piece:
                            text = f"blob {self._digest} ends at {at}, not {self._size} bytes"
                            raise Failure(text)
                        self._expect(timing.STALL_TIMEOUT)
                        yield piece
                        self._expect(None)
                        at += len(piece)
                        self._progress(at)
            except Exception as error:
                self._broken = error
                raise

        return pieces


def _received(response: aiohttp.ClientResponse, default: int = 0) -> int:
    """Bytes that the registry has, from ``Range: 0-<last>``."""
    match = re.fullmatch(r"(?:bytes=)?0-(\d+)", response.headers.get("Range", ""))
    if not match:
        return default
    # "0-0" is also how registries say that nothing has come
    return int(match[1]) + 1 if match[1] != "0" else min(default, 1)
