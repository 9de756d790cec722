"""One plugin: where it is and how it is asked (docs.docker.com, "Plugin API")."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pyengine.errors import DriverError

#: Where names are looked up: sockets, then files that say where one is.
SOCKETS = (Path("/run/pyengine/plugins"), Path("/run/docker/plugins"))
FILES = (
    Path("/etc/pyengine/plugins"), Path("/etc/docker/plugins"), Path("/usr/lib/docker/plugins"),
)  # fmt: skip
#: Seconds that a plugin has for an answer.
PATIENCE = 10.0
_HEADERS = {
    "Content-Type": "application/vnd.docker.plugins.v1.2+json",
    "Accept": "application/vnd.docker.plugins.v1.2+json",
}


class Place(NamedTuple):
    """Where a plugin is: ``unix://PATH``, or ``tcp://``, ``http://`` or ``https://`` and
    ``HOST:PORT``. ``tls``: ``TLSConfig`` of the file that describes it; tcp:// with one is TLS."""

    address: str
    tls: dict[str, Any] | None = None


def find(name: str, sockets: Sequence[Path] = SOCKETS, files: Sequence[Path] = FILES) -> Place:
    """Where plugin ``name`` is. ``DriverError`` if there is none."""
    for directory in sockets:
        for path in (directory / f"{name}.sock", directory / name / f"{name}.sock"):
            if path.exists():
                return Place(f"unix://{path}")
    for directory in files:
        spec = directory / f"{name}.spec"
        if spec.exists():
            return Place(spec.read_text().strip())
        described = directory / f"{name}.json"
        if described.exists():
            about = json.loads(described.read_text())
            return Place(str(about["Addr"]), about.get("TLSConfig"))
    raise DriverError(
        f'plugin "{name}" not found',
        help=f"it has to listen on {sockets[-1] / name}.sock, or be named in {files[0]}",
    )


class Plugin:
    """Asked over a connection of its own each time: it may have been restarted. Errors are
    ``DriverError`` in Docker's words."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._active = False

    def ask(self, what: str, question: Mapping[str, Any]) -> dict[str, Any]:
        """``AuthZPlugin.AuthZReq`` or ``AuthZRes``."""
        try:
            place = find(self.name)
            if not self._active:
                implements = self._post(place, "Plugin.Activate", {}).get("Implements") or ()
                if "authz" not in implements:
                    raise DriverError(f"plugin {self.name} does not implement authz")
                self._active = True
            return self._post(place, what, question)
        except (OSError, ValueError, http.client.HTTPException) as error:
            self._active = False
            raise DriverError(
                f"plugin {self.name} failed with error: {what}", str(error) or type(error).__name__
            ) from error

    def _post(self, place: Place, what: str, question: Mapping[str, Any]) -> dict[str, Any]:
        connection = _connection(place)
        try:
            connection.request("POST", f"/{what}", json.dumps(question), _HEADERS)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                raise ValueError(_failure(body) or f"status {answer.status}")
            found = json.loads(body)
            if not isinstance(found, dict):
                raise ValueError("the answer is no JSON object")
            return found
        finally:
            connection.close()


def _failure(body: bytes) -> str:
    """What a plugin says in an answer that is an error: its ``Err``, or else all of it."""
    try:
        told = json.loads(body).get("Err")
    except (ValueError, AttributeError):
        told = None
    return str(told or body[:200].decode(errors="replace").strip())


def _connection(place: Place) -> http.client.HTTPConnection:
    scheme, _, rest = place.address.partition("://")
    if scheme == "unix":
        return _UnixConnection(rest)
    if scheme not in ("tcp", "http", "https"):
        raise ValueError(f"{place.address}: unix://, tcp://, http:// or https:// is known")
    host = rest.partition("/")[0]
    if scheme == "https" or (scheme == "tcp" and place.tls is not None):
        return http.client.HTTPSConnection(host, timeout=PATIENCE, context=_tls(place.tls or {}))
    return http.client.HTTPConnection(host, timeout=PATIENCE)


def _tls(options: Mapping[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options.get("CAFile") or None)
    if options.get("InsecureSkipVerify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if options.get("CertFile"):
        context.load_cert_chain(options["CertFile"], options.get("KeyFile") or None)
    return context


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        self._path = path
        super().__init__("plugin", timeout=PATIENCE)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self._path)
