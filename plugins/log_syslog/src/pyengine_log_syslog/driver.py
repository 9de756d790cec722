"""The sink: a syslog message per line.

Sources: RFC 3164, RFC 5424 (messages), RFC 5425 and 6587 (how they are framed in a stream),
syslog(3); names and defaults of options are Docker's.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import ClassVar

from pyengine.bases import collectors
from pyengine.bases.collectors import Address
from pyengine.contracts.base import Probe
from pyengine.contracts.logging import STDERR
from pyengine.contracts.logsink import LogRecord, LogSink, LogSinkDriver, LogSource
from pyengine.errors import InvalidParameter

#: Where a local daemon listens, by system.
LOCAL = ("/dev/log", "/var/run/syslog", "/var/run/log")
_PORTS = {"udp": 514, "tcp": 514, "tcp+tls": 514, "unix": 0, "unixgram": 0}
_FACILITIES = {
    name: number
    for number, name in enumerate(
        ["kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron",
         "authpriv", "ftp", "", "", "", "", "local0", "local1", "local2", "local3", "local4",
         "local5", "local6", "local7"]
    )
    if name
}  # fmt: skip
_ERROR, _INFO = 3, 6
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

#: Everything of a message before its line: priority and time (ns) to bytes.
Header = Callable[[int, int], bytes]


class SyslogDriver(LogSinkDriver):
    """Docker's options."""

    name: ClassVar[str] = "syslog"
    priority: ClassVar[int] = 38
    options: ClassVar[frozenset[str]] = frozenset(
        {
            "syslog-address", "syslog-facility", "syslog-format", "syslog-tls-ca-cert",
            "syslog-tls-cert", "syslog-tls-key", "syslog-tls-skip-verify",
        }
    )  # fmt: skip

    @classmethod
    def probe(cls, context: object) -> Probe:
        return Probe(available=True)

    def validate(self, options: Mapping[str, str]) -> None:
        address = _address(options)
        if address is not None and address.path and not os.path.exists(address.path):
            raise InvalidParameter(
                f"syslog-address: stat {address.path}: no such file or directory",
                help="start the daemon that listens there, or correct the path",
            )
        _facility(options)
        if options.get("syslog-format", "") not in _HEADERS:
            known = ", ".join(filter(None, _HEADERS))
            raise InvalidParameter("Invalid syslog format", options["syslog-format"], known)
        if address is not None and address.scheme == "tcp+tls":
            _tls(options)

    def open(self, source: LogSource, options: Mapping[str, str]) -> LogSink:
        return _Syslog(source, options)


class _Syslog(LogSink):
    def __init__(self, source: LogSource, options: Mapping[str, str]) -> None:
        address = _address(options)
        form = options.get("syslog-format", "")
        self._facility = _facility(options)
        # Lines that were read at one time have the same.
        self._header = lru_cache(8)(_HEADERS[form](source))
        self._counted = form.startswith("rfc5424") and address is not None
        if address is None:
            self._sock = _local()
            self._counted = False
        else:
            tls = _tls(options) if address.scheme == "tcp+tls" else None
            kind = _KINDS[address.scheme]
            # RFC 5425 counts octets; without TLS newlines part messages, as most servers expect.
            self._counted = self._counted and tls is not None
            self._sock = collectors.connect(address, kind, tls)
        self._stream = self._sock.type is socket.SOCK_STREAM

    def send(self, records: Sequence[LogRecord]) -> None:
        messages = [self._message(record) for record in records if record.line]
        if not self._stream:
            for message in messages:
                self._sock.send(message)
        elif self._counted:
            self._sock.sendall(b"".join(b"%d %s" % (len(one), one) for one in messages))
        else:
            self._sock.sendall(b"".join(messages))

    def close(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        self._sock.close()

    def _message(self, record: LogRecord) -> bytes:
        severity = _ERROR if record.stream == STDERR else _INFO
        return self._header(self._facility * 8 + severity, record.time) + record.line + b"\n"


def _unix(source: LogSource) -> Header:
    """As a local daemon expects it, which knows the host."""
    tag = f"{source.tag}[{os.getpid()}]: "
    return lambda priority, at: f"<{priority}>{_stamp(at)} {tag}".encode()


def _rfc3164(source: LogSource) -> Header:
    tag = f"{source.host} {source.tag}[{os.getpid()}]: "
    return lambda priority, at: f"<{priority}>{_stamp(at)} {tag}".encode()


def _rfc5424(source: LogSource, digits: int = 0) -> Header:
    """The tag is both APP-NAME and MSGID; there is no structured data."""
    rest = f"{source.host} {source.tag} {os.getpid()} {source.tag} - "
    return lambda priority, at: f"<{priority}>1 {_iso(at, digits)} {rest}".encode()


_HEADERS: dict[str, Callable[[LogSource], Header]] = {
    "": _unix,
    "rfc3164": _rfc3164,
    "rfc5424": _rfc5424,
    "rfc5424micro": lambda source: _rfc5424(source, 6),
}
_KINDS = {
    "udp": socket.SOCK_DGRAM,
    "unixgram": socket.SOCK_DGRAM,
    "tcp": socket.SOCK_STREAM,
    "tcp+tls": socket.SOCK_STREAM,
    "unix": socket.SOCK_STREAM,
}


def _stamp(at: int) -> str:
    """``Jan  2 15:04:05``, in local time, whatever the locale."""
    when = time.localtime(at // 10**9)
    clock = f"{when.tm_hour:02}:{when.tm_min:02}:{when.tm_sec:02}"
    return f"{_MONTHS[when.tm_mon - 1]} {when.tm_mday:2} {clock}"


def _iso(at: int, digits: int) -> str:
    """RFC 3339, in local time."""
    when = time.localtime(at // 10**9)
    fraction = f".{at % 10**9:09}"[: digits + 1] if digits else ""
    minutes = when.tm_gmtoff // 60
    zone = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
    return time.strftime("%Y-%m-%dT%H:%M:%S", when) + fraction + (zone if minutes else "Z")


def _address(options: Mapping[str, str]) -> Address | None:
    """None: the local daemon, wherever it listens."""
    text = options.get("syslog-address", "")
    return collectors.parse_address(text, "syslog-address", _PORTS) if text else None


def _local() -> socket.socket:
    refused: OSError | None = None
    for path in LOCAL:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            try:
                return collectors.connect(Address("unix", path=path), kind)
            except OSError as error:
                refused = refused or error
    raise OSError(f"no syslog daemon listens on this host: {refused}")


def _facility(options: Mapping[str, str]) -> int:
    text = options.get("syslog-facility", "") or "daemon"
    if text in _FACILITIES:
        return _FACILITIES[text]
    if text.isdecimal() and int(text) <= 23:
        return int(text)
    known = ", ".join(_FACILITIES)
    raise InvalidParameter("invalid syslog facility", text, f"0 to 23, or {known}")


def _tls(options: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if collectors.flag(options, "syslog-tls-skip-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    authority = options.get("syslog-tls-ca-cert", "")
    own, key = options.get("syslog-tls-cert", ""), options.get("syslog-tls-key", "")
    try:
        if authority:
            context.load_verify_locations(authority)
        else:
            context.load_default_certs()
        if own or key:
            context.load_cert_chain(own, key)
    except (OSError, ValueError) as error:
        which = ", ".join(filter(None, (authority, own, key)))
        raise InvalidParameter(
            "syslog-tls: a certificate cannot be used", f"{which}: {error}"
        ) from None
    return context
