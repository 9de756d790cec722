"""The engine's API as the commands use it."""

from __future__ import annotations

import json

from pyengine.cli.http import ConnectError, Connection, Endpoint, Response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    Query = dict[str, Any]

MAX_API = "1.51"
FALLBACK_API = "1.45"


class CommandError(Exception):
    """A command failed: its message as printed, and the exit status."""

    def __init__(self, message: str = "", code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class ApiError(CommandError):
    """The engine answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"Error response from daemon: {message}")
        self.status = status


class NoEngine(CommandError):
    """No engine answers at the endpoint."""

    def __init__(self, url: str, reason: ConnectError | None = None) -> None:
        text = f"Cannot connect to the pyengine daemon at {url}. Is the engine running?"
        detail = reason.strerror if reason is not None and reason.errno == 13 else None
        if detail:
            text = f"permission denied while trying to connect to the pyengine daemon at {url}"
        elif reason is not None and not url.startswith("unix:"):
            text += f" ({reason.strerror})"
        super().__init__(text)


class Client:
    """One engine. A connection is kept for the next request once its answer has been read."""

    def __init__(self, endpoint: Endpoint, version: str = "") -> None:
        self.endpoint = endpoint
        self._version = version
        self._idle: Connection | None = None
        self.headers: dict[str, str] = {}
        self.os_type = "linux"

    @property
    def version(self) -> str:
        """The API version both sides speak; asked once, unless the user fixed it."""
        if not self._version:
            self.ping()
        return self._version

    def ping(self, timeout: float | None = None) -> dict[str, str]:
        """Headers of ``/_ping``; NoEngine if nothing answers, or not within ``timeout`` s."""
        try:
            connection = self._connect(timeout)
            # One that is starting listens, and does not answer yet.
            connection.stream.settimeout(timeout)
            response = connection.request("HEAD", "/_ping")
            connection.stream.settimeout(None)
        except ConnectError as error:
            raise NoEngine(self.endpoint.url, error)
        if response.reusable:
            self._idle = connection
        if not self._version:
            theirs = response.headers.get("api-version") or FALLBACK_API
            self._version = min(theirs, MAX_API, key=_version_key)
        self.os_type = response.headers.get("ostype", "linux")
        return response.headers

    def _connect(self, timeout: float | None = None) -> Connection:
        host = self.endpoint.address if self.endpoint.scheme == "tcp" else "api.pyengine"
        return Connection(self.endpoint.connect(timeout), host)

    def open(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: Any = None,
        headers: dict[str, str] | None = None,
        stream: Iterable[bytes] | None = None,
    ) -> Response:
        """Send a request and return the answer unread; ApiError for status 400 and up."""
        prefix = f"/v{self.version}"
        send = {**self.headers, **(headers or {})}
        payload: bytes | Iterable[bytes] | None = stream
        if body is not None:
            payload = json.dumps(body, separators=(",", ":")).encode()
            send["Content-Type"] = "application/json"
        try:
            connection, self._idle = self._idle or self._connect(), None
            response = connection.request(method, prefix + path + encode(query), send, payload)
        except ConnectError as error:
            raise NoEngine(self.endpoint.url, error)
        if response.status >= 400:
            raise _api_error(response)
        return response

    def call(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """A request with a short answer: the decoded body, or None where there is none."""
        data = self.raw(method, path, query, body, headers)
        return json.loads(data) if data.strip() else None

    def raw(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> bytes:
        """The same, with the body as it came."""
        response = self.open(method, path, query, body, headers)
        data = response.read()
        if response.reusable:
            self._idle = response.connection
        else:
            response.connection.close()
        return data

    def get(self, path: str, query: Query | None = None) -> Any:
        return self.call("GET", path, query)

    def post(self, path: str, query: Query | None = None, body: Any = None) -> Any:
        return self.call("POST", path, query, body)

    def delete(self, path: str, query: Query | None = None) -> Any:
        return self.call("DELETE", path, query)

    def hijack(self, path: str, query: Query | None = None, body: Any = None) -> Response:
        """A connection that becomes a raw stream in both directions."""
        upgrade = {"Connection": "Upgrade", "Upgrade": "tcp"}
        return self.open("POST", path, query, body, upgrade)

    def separate(self) -> Client:
        """A client for use inside a signal handler: it shares no connection with this one."""
        other = Client(self.endpoint, self.version)
        other.headers = self.headers
        return other


def _version_key(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _api_error(response: Response) -> ApiError:
    data = response.read()
    try:
        message = json.loads(data)["message"]
    except (ValueError, KeyError, TypeError):
        message = data.decode("utf-8", "replace").strip() or f"status {response.status}"
    return ApiError(response.status, message.strip())


def encode(query: Query | None) -> str:
    """A query string: true as 1, false and empty left out, dicts as JSON, lists repeated."""
    parts: list[str] = []
    for name, value in (query or {}).items():
        if value is None or value is False or value == "" or value == {}:
            continue
        for item in value if isinstance(value, list) else [value]:
            if item is True:
                item = 1
            elif isinstance(item, dict):
                item = json.dumps(item, separators=(",", ":"))
            parts.append(f"{name}={quote(str(item))}")
    return "?" + "&".join(parts) if parts else ""


_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def quote(text: str) -> str:
    """Percent-encoding of one path segment or query value (RFC 3986)."""
    return "".join(chr(byte) if byte in _SAFE else f"%{byte:02X}" for byte in text.encode())


def filters(given: Iterable[str]) -> dict[str, dict[str, bool]]:
    """``--filter name=value`` for the API."""
    out: dict[str, dict[str, bool]] = {}
    for text in given:
        name, _, value = text.partition("=")
        out.setdefault(name.strip().lower(), {})[value.strip()] = True
    return out


def json_lines(response: Response) -> Iterator[Any]:
    """The JSON objects of a stream, as they come."""
    for line in response.lines():
        yield json.loads(line)
