"""The sockets that the daemon listens on: addresses, modes, and who may speak to them.

``-H`` takes ``unix://PATH`` (0660, with the group), ``tcp://ADDRESS:PORT`` and ``fd://N`` (a socket
that the service manager has opened). TCP is plain unless ``tls`` or ``tlsverify`` is set; with
``tlsverify`` only a client with a certificate of the CA is served.
"""

from __future__ import annotations

import contextlib
import grp
import logging
import os
import socket
import ssl
import stat
from pathlib import Path

from pyengine.config import DEFAULT_SOCKET, Config
from pyengine.config.addresses import with_scheme
from pyengine.errors import ConfigError, Unavailable

log = logging.getLogger(__name__)

#: Where a TCP address without a port listens.
PLAIN_PORT, TLS_PORT = 2375, 2376
BACKLOG = 1024


def addresses(config: Config) -> list[str]:
    """Every ``-H`` once; the default socket if there is none."""
    wanted = config.hosts or [DEFAULT_SOCKET]
    return list(dict.fromkeys(_with_port(address, config) for address in wanted))


def certificates(config: Config) -> ssl.SSLContext | None:
    """The TLS of TCP addresses; None where they are plain. ``ConfigError`` in Docker's words for
    files that are missing or wrong."""
    if not (config.tls or config.tlsverify):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load_certificates(context, config)
    return context


def load_certificates(context: ssl.SSLContext, config: Config) -> None:
    """Read the files (again): connections that are made from now on use them."""
    directory = Path(os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
    certificate = config.tlscert or str(directory / "cert.pem")
    key = config.tlskey or str(directory / "key.pem")
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f'could not load X509 key pair (cert: "{certificate}", key: "{key}")',
            str(error),
            "set tlscert and tlskey",
        ) from error
    if not config.tlsverify:
        return
    authority = config.tlscacert or str(directory / "ca.pem")
    try:
        context.load_verify_locations(authority)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f'could not read CA certificate "{authority}"', str(error), "set tlscacert"
        ) from error
    context.verify_mode = ssl.CERT_REQUIRED


def listen(address: str, config: Config) -> socket.socket:
    """A listening socket that does not block. ``ConfigError`` for an address that is none."""
    scheme, _, rest = address.partition("://")
    if scheme == "unix":
        return listen_unix(Path(rest), config.group)
    if scheme == "fd":
        return _inherited(rest)
    if scheme != "tcp":
        raise ConfigError(
            f"-H {address}: unknown kind of address",
            help="unix:///path/to/socket, tcp://address:port or fd://",
        )
    if not (config.tls or config.tlsverify):
        log.warning(
            "%s: anybody who reaches this port is root on this host; use it on loopback only, or "
            "with --tlsverify",
            address,
        )
    elif not config.tlsverify:
        log.warning("%s: --tlsverify is not set: anybody who reaches this port is root", address)
    host, _, port = rest.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]") or "127.0.0.1", int(port)))
    except (OSError, ValueError) as error:
        listener.close()
        raise ConfigError(f"-H {address}: {error}") from error
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def listen_unix(path: Path, group: str, replace: bool = False) -> socket.socket:
    """As :func:`listen`. ``replace``: take the place of one that somebody listens on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if stat.S_ISSOCK(path.stat().st_mode) and not replace:
            with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
                try:
                    probe.connect(str(path))
                except OSError:
                    path.unlink()  # nobody listens: left by a daemon that was killed
                else:
                    raise Unavailable(
                        f"somebody listens on {path} already", help="choose another -H unix://..."
                    )
    except FileNotFoundError:
        pass
    # Bound under a name of its own and renamed: no moment with a wrong mode, none without a socket.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    listener.bind(str(temporary))
    temporary.chmod(0o660)
    try:
        os.chown(temporary, 0, int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid)
    except KeyError:
        log.info("there is no group %r: only root may use %s", group, path)
    listener.listen(BACKLOG)
    temporary.replace(path)
    listener.setblocking(False)
    return listener


def _with_port(address: str, config: Config) -> str:
    """``tcp://``, ``tcp://HOST`` and ``tcp://HOST:`` mean Docker's port; a bare ``HOST:PORT`` is
    meant for TCP."""
    address = with_scheme(address)
    scheme, separator, rest = address.partition("://")
    if scheme != "tcp":
        return address
    host, colon, port = rest.rpartition(":")
    if not colon or "]" in port:
        host, port = rest, ""
    default = TLS_PORT if config.tls or config.tlsverify else PLAIN_PORT
    return f"{scheme}{separator}{host or '127.0.0.1'}:{port or default}"


def _inherited(number: str) -> socket.socket:
    """A socket of the service manager's (sd_listen_fds(3)): the first, or the one of a number."""
    try:
        listener = socket.socket(fileno=int(number or "3"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"-H fd://{number}: {error}", help="is the socket unit there that belongs to it?"
        ) from error
    listener.setblocking(False)
    return listener
