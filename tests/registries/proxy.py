"""A reverse proxy in front of a registry that does all that networks and registries do wrong."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from .loops import NamespaceLoop

PIECE = 16384

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "date",
               "server"}  # fmt: skip


@dataclass
class Logged:
    """One request: ``sent`` bytes of the answer's body went out, which were ``whole`` or not.

    ``began`` and ``ended`` are in seconds of one clock.
    """

    method: str
    path: str
    range: str
    began: float = 0.0
    ended: float = 0.0
    status: int = 0
    sent: int = 0
    whole: bool = False

    @property
    def blob(self) -> str:
        """Digest of the blob that the path names, or nothing."""
        found = re.search(r"/blobs/(sha256:[0-9a-f]{64})$", self.path)
        return found[1] if found else ""

    @property
    def start(self) -> int:
        """Where the range begins."""
        return int(self.range.removeprefix("bytes=").partition("-")[0] or 0) if self.range else 0


@dataclass
class Fault:
    """What goes wrong, the next ``times`` times that a request matches ``path`` and ``method``.

    ``status`` is answered instead of asking the registry, with ``headers`` and ``body``; ``cut``
    ends the connection after so many bytes of the body; ``corrupt`` turns over the byte at that
    offset of the answer's body; ``ranges`` is ``ignored`` (200 and everything) or ``refused``
    (416); ``loop`` redirects to the same place; ``lose`` drops the answer after the registry has
    done what it was asked for.
    """

    path: str
    times: int = 1
    method: str = "GET"
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int = -1
    corrupt: int = -1
    ranges: str = ""
    loop: bool = False
    lose: bool = False

    def takes(self, request: web.Request) -> bool:
        if self.times <= 0 or request.method != self.method:
            return False
        if self.ranges and "Range" not in request.headers:
            return False
        if not re.search(self.path, request.path_qs):
            return False
        self.times -= 1
        return True


class ChaosProxy:
    """Listens in the loop's namespace and forwards to ``upstream`` (``http://host:port``).

    ``rate``: bytes of bodies a second for all connections together; 0: as fast as it goes.
    ``pause``: seconds that every request waits first.
    """

    def __init__(self, loop: NamespaceLoop, upstream: str, listen: str = "127.0.0.1") -> None:
        self._loop = loop
        self._upstream = upstream
        self._session: aiohttp.ClientSession | None = None
        self._alarm: tuple[int, Callable[[], None]] | None = None
        self._due = 0.0
        self.rate = 0
        self.pause = 0.0
        self.log: list[Logged] = []
        self.faults: list[Fault] = []
        self.host = f"{listen}:{loop.serve(self._answer, listen)}"

    def name(self, repository: str) -> str:
        return f"{self.host}/{repository}"

    @contextlib.contextmanager
    def wrong(self, *faults: Fault) -> Iterator[list[Fault]]:
        """These faults, and a log of its own, for the time of the block."""
        self.log.clear()
        self.faults[:] = faults
        try:
            yield self.faults
        finally:
            self.faults.clear()

    def alarm(self, after: int, ring: Callable[[], None]) -> None:
        """Call ``ring`` once, on the proxy's thread, when so many bytes more of blobs are out."""
        self._alarm = (after, ring)

    def disarm(self) -> bool:
        """Whether the alarm had not rung yet; it never will."""
        alarm, self._alarm = self._alarm, None
        return alarm is not None

    def blobs(self) -> list[Logged]:
        """The requests that fetched (a part of) a blob."""
        return [one for one in list(self.log) if one.method == "GET" and one.blob]

    def most_at_once(self, *methods: str) -> int:
        """How many transfers of blobs by these methods went on at the same time, at the most."""
        spans = [(one.began, one.ended) for one in list(self.log)
                 if one.method in methods and "/blobs/" in one.path]  # fmt: skip
        return max(
            (sum(begin <= moment < end for begin, end in spans) for moment, _ in spans), default=0
        )

    def close(self) -> None:
        async def close() -> None:
            if self._session:
                await self._session.close()

        self._loop.run(close())

    # -- one request -------------------------------------------------------------------------------

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        clock = asyncio.get_running_loop().time
        entry = Logged(request.method, request.path, request.headers.get("Range", ""), clock())
        self.log.append(entry)
        try:
            await asyncio.sleep(self.pause)
            return await self._answered(request, entry)
        finally:
            entry.ended = clock()

    async def _answered(self, request: web.Request, entry: Logged) -> web.StreamResponse:
        fault = next((f for f in self.faults if f.takes(request)), Fault("", 0))
        if fault.loop:
            # A different address each time: no client may count on seeing the same twice.
            hop = int(request.query.get("hop", 0)) + 1
            fault.status = 307
            fault.headers = {"Location": f"{request.path}?hop={hop}"}
        if fault.ranges == "refused":
            fault.status = 416
        if fault.status:
            entry.status = fault.status
            entry.whole = True
            return web.Response(status=fault.status, headers=fault.headers, body=fault.body)
        headers = _passed_on(request.headers)
        if fault.ranges == "ignored":
            del headers["Range"]
        if self._session is None:
            self._session = aiohttp.ClientSession(
                auto_decompress=False, connector=aiohttp.TCPConnector(limit=0)
            )
        async with self._session.request(
            request.method,
            self._upstream + request.path_qs,
            headers=headers,
            data=request.content if request.can_read_body else None,
            allow_redirects=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        ) as found:
            if fault.lose:
                self._hang_up(request)
            entry.status = found.status
            response = web.StreamResponse(status=found.status, headers=_passed_on(found.headers))
            # A client that goes away is what many a test is about.
            with contextlib.suppress(ConnectionError):
                await response.prepare(request)
                await self._pass(request, response, found, entry, fault)
            return response

    async def _pass(
        self,
        request: web.Request,
        response: web.StreamResponse,
        found: aiohttp.ClientResponse,
        entry: Logged,
        fault: Fault,
    ) -> None:
        if request.transport is not None:
            # What lies in a buffer counts as sent and is lost with a connection: little of it.
            peer = request.transport.get_extra_info("socket")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * PIECE)
        if request.method == "HEAD":
            entry.whole = True
            return
        async for piece in found.content.iter_chunked(PIECE):
            data = bytearray(piece)
            if 0 <= fault.corrupt - entry.sent < len(data):
                data[fault.corrupt - entry.sent] ^= 0xFF
            if fault.cut >= 0:
                del data[max(0, fault.cut - entry.sent) :]
            await self._wait(len(data))
            entry.sent += len(data)
            if entry.blob:
                self._count(len(data))
            await response.write(data)
            if fault.cut >= 0 and entry.sent >= fault.cut:
                # Abort would take back what is not sent yet.
                await asyncio.sleep(0.02)
                self._hang_up(request)
        entry.whole = True

    async def _wait(self, size: int) -> None:
        if self.rate:
            now = asyncio.get_running_loop().time()
            self._due = max(self._due, now) + size / self.rate
            await asyncio.sleep(self._due - now)

    def _count(self, size: int) -> None:
        if self._alarm is not None:
            left, ring = self._alarm
            self._alarm = (left - size, ring) if left > size else None
            if self._alarm is None:
                ring()

    @staticmethod
    def _hang_up(request: web.Request) -> None:
        assert request.transport is not None
        request.transport.abort()
        raise asyncio.CancelledError


def _passed_on(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """All but those of one hop; a header may come several times."""
    return CIMultiDict((k, v) for k, v in headers.items() if k.lower() not in _HOP_BY_HOP)
