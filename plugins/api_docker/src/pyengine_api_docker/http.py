"""One request, as the endpoints see it, and the answers they give."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs

import msgspec
from aiohttp import web
from multidict import CIMultiDict

import pyengine
from pyengine import timestamps
from pyengine.errors import InvalidParameter
from pyengine_api_docker import gojson, mediatype

if TYPE_CHECKING:
    from pyengine.engine.engine import Engine

T = TypeVar("T")

#: A body that is decoded whole; archives and images are streamed instead.
LARGEST_BODY = 16 * 1024 * 1024

API_VERSION = "1.51"

#: What every answer of the API bears, streams and hijacked connections too.
HEADERS = {
    "Api-Version": API_VERSION,
    "Docker-Experimental": "false",
    "Ostype": "linux",
    "Server": f"pyengine/{pyengine.__version__} (linux)",
}

JSON = "application/json"
RAW_STREAM = "application/vnd.docker.raw-stream"
MULTIPLEXED_STREAM = "application/vnd.docker.multiplexed-stream"

_FALSE = frozenset({"", "0", "no", "false", "none"})

_INTEGER = re.compile(r"[+-]?[0-9]+")
_BAD_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2}).{0,2}", re.DOTALL)


def check_escapes(text: str) -> None:
    """``InvalidParameter`` for a percent sign that begins no byte, as in Go's ``net/url``."""
    if "%" in text and (found := _BAD_ESCAPE.search(text)) is not None:
        raise InvalidParameter(f'invalid URL escape "{found[0]}"')


class Query:
    """The query string. A key that is absent is an empty string, as in Docker."""

    __slots__ = ("_values",)

    def __init__(self, text: str) -> None:
        check_escapes(text)
        if ";" in text:
            raise InvalidParameter("invalid semicolon separator in query")
        self._values = parse_qs(text, keep_blank_values=True) if text else {}

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __getitem__(self, key: str) -> str:
        values = self._values.get(key)
        return values[0] if values else ""

    def all(self, key: str) -> list[str]:
        return self._values.get(key, [])

    def flag(self, key: str, default: bool = False) -> bool:
        """Docker's idea of a boolean: anything but empty, 0, no, false and none is true."""
        values = self._values.get(key)
        return default if values is None else values[0].strip().lower() not in _FALSE

    def integer(self, key: str) -> int | None:
        """``InvalidParameter`` in the words of Go's ``strconv`` for what is no number."""
        text = self[key]
        if not text:
            return None
        if not _INTEGER.fullmatch(text):
            raise InvalidParameter(f'strconv.Atoi: parsing "{text}": invalid syntax')
        value = int(text[:25])
        if not -(1 << 63) <= value < 1 << 63:
            raise InvalidParameter(f'strconv.Atoi: parsing "{text}": value out of range')
        return value

    def size(self, key: str, what: str) -> int:
        """A terminal's height or width, as ``what`` says: required, and what a kernel can hold."""
        text = self[key]
        if not _INTEGER.fullmatch(text):
            raise InvalidParameter(f'invalid resize {what} "{text}": invalid syntax')
        if not 0 <= int(text) < 1 << 16:
            raise InvalidParameter(f'invalid resize {what} "{text}": value out of range')
        return int(text)

    def time(self, key: str) -> int:
        """A time in ns since the epoch; 0 if absent."""
        try:
            return timestamps.parse_query(self[key])
        except ValueError as error:
            raise InvalidParameter(f'invalid value for "{key}": {error}') from error

    def filters(self) -> dict[str, list[str]]:
        """``filters``: JSON of ``{name: {value: true}}``, or of ``{name: [value]}`` before 1.22."""
        text = self["filters"]
        if not text:
            return {}
        try:
            raw = _FILTERS.decode(text)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise InvalidParameter("invalid filter") from error
        return {name: list(values or ()) for name, values in (raw or {}).items()}


_FILTERS = msgspec.json.Decoder(dict[str, dict[str, bool] | list[str] | None] | None)


class Call:
    """A request that has found its endpoint.

    ``version``: the API's minor number (45 for 1.45). ``name``: what stands for ``{id}`` or
    ``{name}`` in the endpoint's path.
    """

    __slots__ = ("_body", "engine", "name", "path", "query", "request", "version")

    def __init__(
        self,
        engine: Engine,
        request: web.BaseRequest,
        version: int,
        path: str,
        name: str,
        query: str,
    ) -> None:
        self.engine = engine
        self.request = request
        self.version = version
        self.path = path
        self.name = name
        self.query = Query(query)
        self._body: bytes | None = None

    @property
    def upgrades(self) -> bool:
        """The client asked for a protocol upgrade, and not for a bare hijack."""
        return "Upgrade" in self.request.headers

    async def raw_body(self) -> bytes:
        """The whole body; ``InvalidParameter`` unless it says that it is JSON."""
        headers = self.request.headers
        kind = headers.get("Content-Type", "")
        if (kind or self.request.can_read_body) and kind != JSON:
            mediatype.require(kind, JSON)
        return await self.any_body()

    async def any_body(self) -> bytes:
        """The whole body, whatever it says that it is."""
        if self._body is not None:
            return self._body
        if not self.request.can_read_body:
            return b""
        await self.expect()
        body = bytearray()
        async for chunk in self.request.content.iter_chunked(65536):
            body += chunk
            if len(body) > LARGEST_BODY:
                raise InvalidParameter("http: request body too large")
        self._body = bytes(body)
        return self._body

    async def body(self, type: type[T]) -> T:
        """The body as ``type``; no body at all is an empty object."""
        raw = await self.raw_body()
        return gojson.decode(raw, type) if raw else type()

    async def expect(self) -> None:
        """Tell a client that waits for it to send the body."""
        if self.request.headers.get("Expect", "").lower() == "100-continue":
            transport = self.request.transport
            if transport is not None:
                transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def stream(self, content_type: str, headers: Mapping[str, str] | None = None) -> Stream:
        """Begin an answer of unknown length; its headers are on the wire on return."""
        response = begun(content_type, headers)
        if self.request.version >= (1, 1):
            response.enable_chunked_encoding()
        await response.prepare(self.request)
        # aiohttp keeps headers back until something is written
        await response.write(b"")
        return Stream(response)


class Stream:
    """An answer that is written bit by bit."""

    __slots__ = ("response",)

    def __init__(self, response: web.StreamResponse) -> None:
        self.response = response

    async def write(self, data: bytes) -> None:
        await self.response.write(data)

    async def write_json(self, value: Any) -> None:
        await self.response.write(msgspec.json.encode(value) + b"\n")


def begun(content_type: str, headers: Mapping[str, str] | None = None) -> web.StreamResponse:
    """An answer that is written bit by bit, and so has to bring all of its headers."""
    return web.StreamResponse(headers={**HEADERS, "Content-Type": content_type, **(headers or {})})


def json(value: Any, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value) + b"\n",
        status=status,
        headers=CIMultiDict({"Content-Type": JSON}),
    )


def empty(status: int = 204) -> web.Response:
    return web.Response(status=status)


def failure(status: int, message: str) -> web.Response:
    """Docker's error body."""
    if status == 304:
        return web.Response(status=304)
    return json({"message": message}, status)
