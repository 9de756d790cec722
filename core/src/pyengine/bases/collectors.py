"""What log sinks share: where a collector is, how to reach it, and values of options."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Mapping
from typing import NamedTuple

from pyengine import durations
from pyengine.bases.logoptions import parse_flag
from pyengine.errors import InvalidParameter

#: Seconds after which a collector that does not answer, or takes nothing, is given up on.
PATIENCE = 10.0


class Address(NamedTuple):
    """``path`` of a unix socket, or ``host`` and ``port``."""

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"{self.scheme}://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse_address(text: str, option: str, ports: Mapping[str, int], host: str = "") -> Address:
    """``scheme://host[:port]`` or ``unix://path``. ``ports``: the default port by scheme that is
    allowed; 0: there is none. ``host``: for an address that names none. ``InvalidParameter``."""

    def wrong(detail: str) -> InvalidParameter:
        schemes = ", ".join(ports)
        return InvalidParameter(f"{option}: {text!r} is no address", detail, f"schemes: {schemes}")

    scheme, found, rest = text.partition("://")
    if not found or scheme not in ports:
        raise wrong(f"unsupported scheme {scheme!r}" if found else "it has no scheme")
    if scheme.startswith("unix"):
        if not rest:
            raise wrong("a unix socket has a path")
        return Address(scheme, path=rest)
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.%\w]+)\]|([^:/\[\]]*))(?::(\d+))?/?", rest)
    if match is None:
        raise wrong("neither host:port nor [address]:port")
    port = int(match[3]) if match[3] else ports[scheme]
    name = match[1] or match[2] or host
    if not name or not 0 < port < 65536:
        raise wrong("the port is not from 1 to 65535" if name else "it names no host")
    return Address(scheme, name, port)


def connect(
    address: Address, kind: socket.SocketKind, tls: ssl.SSLContext | None = None
) -> socket.socket:
    """A connected socket that gives up after :data:`PATIENCE`. Raises ``OSError`` saying where."""
    try:
        if address.path:
            sock = socket.socket(socket.AF_UNIX, kind)
            sock.settimeout(PATIENCE)
            try:
                sock.connect(address.path)
            except OSError:
                sock.close()
                raise
            return sock
        if kind is socket.SOCK_STREAM:
            sock = socket.create_connection((address.host, address.port), PATIENCE)
            if tls is None:
                return sock
            try:
                return tls.wrap_socket(sock, server_hostname=address.host)
            except OSError:
                sock.close()
                raise
        family, _, _, _, where = socket.getaddrinfo(address.host, address.port, type=kind)[0]
        sock = socket.socket(family, kind)
        sock.settimeout(PATIENCE)
        sock.connect(where)
        return sock
    except OSError as error:
        raise OSError(f"{address}: {error.strerror or error}") from error


def flag(options: Mapping[str, str], name: str) -> bool:
    """True or false as Go's ``strconv.ParseBool`` reads it; false if it is not there."""
    try:
        return parse_flag(options.get(name, "") or "false")
    except ValueError as error:
        raise InvalidParameter(f"{name}: {error}") from None


def count(options: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    """A whole number within bounds."""
    text = options.get(name, "")
    if not text:
        return default
    try:
        number = int(text)
    except ValueError:
        raise InvalidParameter(f"{name}: {text!r} is no number") from None
    if not least <= number <= most:
        raise InvalidParameter(f"{name}: {number} is not from {least} to {most}")
    return number


def seconds(options: Mapping[str, str], name: str, default: float) -> float:
    """A duration as Go writes it (``1.5s``, ``100ms``), in seconds."""
    text = options.get(name, "")
    if not text:
        return default
    try:
        return durations.parse(text) / 1e9
    except ValueError as error:
        raise InvalidParameter(f"{name}: {error}", help="for example 500ms or 2s") from None
