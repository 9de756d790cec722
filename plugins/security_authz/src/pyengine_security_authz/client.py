"""One plugin: where it is and how it is asked (docs.docker.com, "Plugin API")."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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


def find(name: str, sockets: Sequence[Path] = SOCKETS, files: Sequence[Path] = FILES) -> str:
    """``unix://PATH`` or ``tcp://HOST:PORT`` of a plugin. ``DriverError`` if there is none."""
    for directory in sockets:
        for path in (directory / f"{name}.sock", directory / name / f"{name}.sock"):
            if path.exists():
                return f"unix://{path}"
    for directory in files:
        spec = directory / f"{name}.spec"
        if spec.exists():
            return spec.read_text().strip()
        described = directory / f"{name}.json"
        if described.exists():
            return str(json.loads(described.read_text())["Addr"])
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
            address = find(self.name)
            if not self._active:
                implements = self._post(address, "Plugin.Activate", {}).get("Implements") or ()
                if "authz" not in implements:
                    raise DriverError(f"plugin {self.name} does not implement authz")
                self._active = True
            return self._post(address, what, question)
        except (OSError, ValueError, http.client.HTTPException) as error:
            self._active = False
            raise DriverError(
                f"plugin {self.name} failed with error: {what}", str(error) or type(error).__name__
            ) from error

    def _post(self, address: str, what: str, question: Mapping[str, Any]) -> dict[str, Any]:
        connection = _Connection(address)
        try:
            connection.request("POST", f"/{what}", json.dumps(question), _HEADERS)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                raise ValueError(f"status {answer.status}: {body[:200].decode(errors='replace')}")
            found = json.loads(body)
            if not isinstance(found, dict):
                raise ValueError("the answer is no JSON object")
            return found
        finally:
            connection.close()


class _Connection(http.client.HTTPConnection):
    def __init__(self, address: str) -> None:
        scheme, _, self._place = address.partition("://")
        if scheme not in ("unix", "tcp"):
            raise ValueError(f"{address}: unix:// or tcp:// is known")
        self._unix = scheme == "unix"
        super().__init__("plugin" if self._unix else self._place, timeout=PATIENCE)

    def connect(self) -> None:
        if not self._unix:
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self._place)
