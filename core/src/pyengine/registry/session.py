"""One request to a registry: connection, redirects, authentication, and what may go wrong."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar
from urllib.parse import urljoin, urlsplit

import aiohttp
from yarl import URL

from pyengine import __version__
from pyengine.registry import failures
from pyengine.registry.auth import Answer, Authorizer, Refused, Scopes, Tokens, parse_challenges
from pyengine.registry.failures import Failure
from pyengine.registry.hosts import Endpoint, RegistryConfig
from pyengine.registry.models import Credentials

log = logging.getLogger(__name__)

T = TypeVar("T")

#: A body is made anew for each try; None: no body.
Body = Callable[[], AsyncIterable[bytes]] | bytes | None

MAX_REDIRECTS = 10
#: Seconds until a connection must stand, until the next byte must come or go, and until something
#: that was sent must be answered: a registry may have gigabytes to move first.
CONNECT_TIMEOUT = 30.0
STALL_TIMEOUT = 60.0
ANSWER_TIMEOUT = 600.0
#: Longest answer of a token service, in bytes.
TOKEN_LIMIT = 1 << 20
#: Back-off between tries, in seconds: doubled each time up to the longest.
FIRST_DELAY = 0.5
LONGEST_DELAY = 15.0
#: A registry that wants us to wait longer than this gets no second try.
LONGEST_RETRY_AFTER = 60.0

_REDIRECTS = {301, 302, 303, 307, 308}


def delay_before(attempt: int, retry_after: float | None) -> float:
    """Seconds to wait before try number ``attempt`` (the first repetition is 1)."""
    if retry_after is not None:
        return retry_after
    return float(min(FIRST_DELAY * 2 ** (attempt - 1), LONGEST_DELAY) * random.uniform(0.5, 1.5))


def worth_a_retry(failure: Failure) -> bool:
    return failure.temporary and (failure.retry_after or 0) <= LONGEST_RETRY_AFTER


async def retrying(operation: Callable[[], Awaitable[T]], attempts: int) -> T:
    """Call until it succeeds, at most ``attempts`` times; raises the last :class:`Failure`."""
    attempt = 0
    while True:
        attempt += 1
        try:
            return await operation()
        except Failure as failure:
            if attempt >= attempts or not worth_a_retry(failure):
                raise
            await asyncio.sleep(delay_before(attempt, failure.retry_after))


class Transport:
    """Connections of one engine to all registries; one pool, keyed by host, TLS and proxy."""

    def __init__(self, config: RegistryConfig) -> None:
        self.config = config
        self._client: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    def _session(self) -> aiohttp.ClientSession:
        if self._client is None:
            self._client = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
                cookie_jar=aiohttp.DummyCookieJar(),
                # digests are of the bytes as they are: nobody unpacks them on the way
                auto_decompress=False,
                headers={
                    "User-Agent": f"pyengine/{__version__}",
                    "Accept-Encoding": "identity",
                },
                read_bufsize=1 << 20,
            )
        return self._client

    @asynccontextmanager
    async def exchange(
        self,
        endpoint: Endpoint,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer, after redirects, whatever its status; its body is not read yet.

        ``Authorization`` goes to the first host only. Raises :class:`Failure` if there is no
        answer, for too many redirects, and for one to plain HTTP unless the endpoint is insecure.
        """
        first, now = url, dict(headers)
        for _ in range(MAX_REDIRECTS + 1):
            try:
                response = await self._send(endpoint, method, url, now, body)
            except Failure as failure:
                # Who was asked has answered; it is somebody else who does not.
                failure.unreachable = failure.unreachable and url == first
                raise
            try:
                location = response.headers.get("Location", "")
                if response.status not in _REDIRECTS or not location:
                    yield response
                    return
                target = join(url, location)
                if not endpoint.insecure and not target.startswith("https://"):
                    raise Failure(
                        f'{method.title()} "{first}": the registry redirects to {_short(target)}, '
                        "which is not https"
                    )
                if origin(target) != origin(url):
                    now.pop("Authorization", None)
                if response.status == 303 or (response.status < 303 and method == "POST"):
                    method, body = "GET", None
                url = target
            finally:
                response.release()
        raise Failure(f'{method.title()} "{first}": stopped after {MAX_REDIRECTS} redirects')

    async def _send(
        self, endpoint: Endpoint, method: str, url: str, headers: Mapping[str, str], body: Body
    ) -> aiohttp.ClientResponse:
        wait = STALL_TIMEOUT if method in ("GET", "HEAD") else ANSWER_TIMEOUT
        log.debug("%s %s", method, _short(url))
        try:
            return await self._session().request(
                method,
                # as it is: quoting a signed URL anew breaks its signature
                URL(url, encoded=url.isascii() and " " not in url),
                headers=headers,
                data=body() if callable(body) else body,
                allow_redirects=False,
                ssl=endpoint.tls,
                proxy=self.config.proxy(url),
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=CONNECT_TIMEOUT, sock_read=wait
                ),
            )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise failures.unreachable(
                method, _short(url), error, tls=not endpoint.insecure
            ) from error


class Session:
    """Requests to one endpoint in one user's name."""

    def __init__(
        self,
        transport: Transport,
        tokens: Tokens,
        endpoint: Endpoint,
        credentials: Credentials | None,
        *,
        offline: bool = False,
    ) -> None:
        self.endpoint = endpoint
        #: True once this endpoint has answered anything.
        self.answered = False
        self._transport = transport
        self._greeting = asyncio.Lock()
        self._greeted = False
        self.authorizer = Authorizer(
            self._ask_for_token,
            tokens,
            endpoint.url,
            credentials,
            plain=endpoint.insecure,
            offline=offline,
        )

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        scopes: Scopes,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        accept: tuple[int, ...] = (),
        missing: str = "",
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a request for ``path`` (``/v2/...``, or a whole URL of this endpoint's).

        Raises :class:`Failure` for a status from 300 on that is not in ``accept``; ``missing`` is
        the error code of a 404 that has none. Read the body within :func:`reading`.
        """
        new = await self._greet()
        url = path if "://" in path else self.endpoint.url + path
        ours = origin(url) == origin(self.endpoint.url)
        for last in (False, True):
            sent = await self._authorization(method, url, scopes, new) if ours else ""
            now = {**(headers or {}), **({"Authorization": sent} if sent else {})}
            async with self._transport.exchange(self.endpoint, method, url, now, body) as response:
                self.answered = True
                asked = parse_challenges(response.headers.getall("WWW-Authenticate", []))
                home = origin(str(response.url)) == origin(self.endpoint.url)
                again = response.status == 401 and home and not last
                if again and self.authorizer.refused(asked, sent, scopes):
                    continue
                if response.status >= 300 and response.status not in accept:
                    with reading(response):
                        raise await failures.answered(response, missing)
                yield response
                return

    def forget(self) -> None:
        """Begin from the beginning: there may be another server now."""
        self.answered = self._greeted = False

    async def _greet(self) -> bool:
        """Ask ``/v2/`` once for what it wants of us, as Docker does: a registry that also serves
        the anonymous would otherwise never ask. False: that was before."""
        async with self._greeting:
            if self._greeted:
                return False
            exchange = self._transport.exchange(
                self.endpoint, "GET", f"{self.endpoint.url}/v2/", {}
            )
            async with exchange as response:
                self.answered = True
                if response.status >= 500 or response.status == 429:
                    raise await failures.answered(response)
                headers = response.headers.getall("WWW-Authenticate", [])
                asked = parse_challenges(headers) if response.status == 401 else []
                self.authorizer.challenge(asked)
                self._greeted = True
                return True

    async def _authorization(self, method: str, url: str, scopes: Scopes, new: bool) -> str:
        """``new``: what the endpoint asks for is not from before."""
        try:
            return await self.authorizer.authorization(scopes)
        except (Refused, ValueError) as refusal:
            if not new:
                self._greeted = False
                return await self._authorization(method, url, scopes, await self._greet())
            text = f'{method.title()} "{url}": {refusal}'
            raise Failure(text, code="UNAUTHORIZED") from refusal
        except Failure as failure:
            if failure.unreachable and not new:
                self._greeted = False
                return await self._authorization(method, url, scopes, await self._greet())
            if 400 <= failure.status < 500 and not failure.temporary:
                text = f'{method.title()} "{url}": {failure.text}'
                raise Failure(text, code="UNAUTHORIZED") from failure
            raise

    async def _ask_for_token(
        self, method: str, url: str, headers: Mapping[str, str], data: bytes | None
    ) -> Answer:
        exchange = self._transport.exchange(self.endpoint, method, url, headers, data)
        async with exchange as response:
            if response.status >= 400 and not (method == "POST" and response.status in (404, 405)):
                raise await failures.answered(response)
            return Answer(response.status, await read(response, TOKEN_LIMIT))


async def read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body; :class:`Failure` if it is longer than ``limit`` or breaks off."""
    if (response.content_length or 0) > limit:
        raise Failure(f"answer of {response.content_length} bytes is too large: {limit} at most")
    chunks: list[bytes] = []
    size = 0
    with reading(response):
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if size > limit:
                response.close()
                raise Failure(f"answer is too large: {limit} bytes at most")
            chunks.append(chunk)
    return b"".join(chunks)


@contextmanager
def reading(response: aiohttp.ClientResponse) -> Iterator[None]:
    """Around reads of ``response``'s body: what goes wrong becomes a :class:`Failure`."""
    url = _short(str(response.url))
    try:
        yield
    except aiohttp.ClientPayloadError as error:
        text = f'{response.method.title()} "{url}": unexpected EOF'
        raise Failure(text, temporary=True) from error
    except (aiohttp.ClientError, OSError) as error:
        raise failures.unreachable(response.method, url, error, tls=False) from error


def join(base: str, location: str) -> str:
    """Where ``location`` points, seen from ``base``; :class:`Failure` if it is no address."""
    try:
        target = urljoin(base, location)
        origin(target)
    except ValueError as error:
        raise Failure(f"{_short(base)} points to {_short(location)!r}: {error}") from error
    return target


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: what credentials belong to."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return parts.scheme, (parts.hostname or "").lower(), port


def _short(url: str) -> str:
    """Without the query: signed URLs of storage services are secrets, and long."""
    return url.partition("?")[0]
