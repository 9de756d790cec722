"""The sink: records as messages of GELF 1.1, over UDP or TCP.

Source: Graylog's documentation of the format; the fields, options and their checks are those of
Docker's gelf driver (moby, daemon/logger/gelf).
"""

from __future__ import annotations

import os
import select
import socket
import zlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import msgspec

from pyengine.bases import collectors
from pyengine.bases.logoptions import parse_count
from pyengine.contracts.base import Probe
from pyengine.contracts.logging import STDERR
from pyengine.contracts.logsink import LogRecord, LogSink, LogSinkDriver, LogSource
from pyengine.errors import InvalidParameter

#: A datagram and what of it is a chunk's head: as much as gets through a WAN in one packet.
DATAGRAM, HEAD = 1420, 12
MOST_CHUNKS = 128
_CHUNK = b"\x1e\x0f"
#: Bytes of a message's fields, so that it fits with a line of 16 KiB, which JSON's escapes can make
#: six times as long, also without compression.
_FIELDS = MOST_CHUNKS * (DATAGRAM - HEAD) - 6 * 16 * 1024 - 1024
_ERROR, _INFORMATION = 3, 6
#: zlib's window, which also says what is around the data; 0: no compression.
_WINDOWS = {"gzip": 31, "zlib": 15, "none": 0}
_encode = msgspec.json.Encoder().encode


class GelfDriver(LogSinkDriver):
    """Docker's options. Those about reconnecting have nothing to do: the engine goes on trying, for
    all sinks alike."""

    name: ClassVar[str] = "gelf"
    priority: ClassVar[int] = 40
    options: ClassVar[frozenset[str]] = frozenset(
        {"gelf-address", "gelf-compression-type", "gelf-compression-level",
         "gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay"}
    )  # fmt: skip

    @classmethod
    def probe(cls, context: object) -> Probe:
        return Probe(available=True)

    def validate(self, options: Mapping[str, str]) -> None:
        scheme = _address(options).scheme
        for name in sorted(self.options & set(options)):
            if name.startswith("gelf-compression") and scheme != "udp":
                raise InvalidParameter("compression is only supported on UDP")
            if name.startswith("gelf-tcp"):
                if scheme != "tcp":
                    raise InvalidParameter(f'"{name}" is only valid for TCP')
                if _number(options[name], -1) < 0:
                    raise InvalidParameter(f'"{name}" must be a positive integer')
        level, kind = options.get("gelf-compression-level"), options.get("gelf-compression-type")
        if level is not None and not -1 <= _number(level, -2) <= 9:
            raise _unknown("gelf-compression-level", level, "from -1 (zlib's default) to 9")
        if kind is not None and kind not in _WINDOWS:
            raise _unknown("gelf-compression-type", kind, ", ".join(_WINDOWS))

    def open(self, source: LogSource, options: Mapping[str, str]) -> LogSink:
        address = _address(options)
        return _Tcp(source, address) if address.scheme == "tcp" else _Udp(source, address, options)


class _Gelf(LogSink):
    kind: ClassVar[socket.SocketKind]

    def __init__(self, source: LogSource, address: collectors.Address) -> None:
        self._fields: dict[str, str | float] = {
            "version": "1.1",
            "host": source.host,
            "_container_id": source.id,
            "_container_name": source.name,
            "_image_id": source.image_id,
            "_image_name": source.image,
            "_command": source.command,
            "_tag": source.tag,
            "_created": source.created,
        }
        for name, value in source.attributes.items():
            self._fields[name if name.startswith("_") else f"_{name}"] = value
        self._address = address
        self._sock = collectors.connect(address, self.kind)

    def send(self, records: Sequence[LogRecord]) -> None:
        # Graylog refuses messages without text, and Docker sends none.
        messages = [self._message(record) for record in records if record.line]
        try:
            self._send(messages)
        except OSError as error:
            raise OSError(f"{self._address}: {error.strerror or error}") from error

    def close(self) -> None:
        self._sock.close()

    @abstractmethod
    def _send(self, messages: Sequence[bytes]) -> None: ...

    def _message(self, record: LogRecord) -> bytes:
        return _encode(
            {
                **self._fields,
                "short_message": record.line.decode(errors="replace"),
                "timestamp": record.time // 10**6 / 1000,
                "level": _ERROR if record.stream == STDERR else _INFORMATION,
            }
        )


class _Tcp(_Gelf):
    """Messages end with a zero byte, which JSON has none of."""

    kind = socket.SOCK_STREAM

    def __init__(self, source: LogSource, address: collectors.Address) -> None:
        super().__init__(source, address)
        self._readable = select.poll()
        self._readable.register(self._sock, select.POLLIN)

    def close(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        super().close()

    def _send(self, messages: Sequence[bytes]) -> None:
        # A collector never says anything, so this is its end: what is sent after it gets lost
        # without an error, the first time.
        if self._readable.poll(0) and not self._sock.recv(4096):
            raise ConnectionResetError("the collector closed the connection")
        self._sock.sendall(b"".join(message + b"\0" for message in messages))


class _Udp(_Gelf):
    """Datagrams, compressed or not; a message that is too long for one comes in chunks."""

    kind = socket.SOCK_DGRAM

    def __init__(
        self, source: LogSource, address: collectors.Address, options: Mapping[str, str]
    ) -> None:
        super().__init__(source, address)
        self._window = _WINDOWS[options.get("gelf-compression-type", "gzip")]
        self._level = int(options.get("gelf-compression-level", zlib.Z_BEST_SPEED))
        # Better without a field, the longest first, than no message at all.
        while len(_encode(self._fields)) > _FIELDS:
            del self._fields[max(self._fields, key=self._length)]

    def _length(self, name: str) -> int:
        return len(_encode({name: self._fields[name]}))

    def _send(self, messages: Sequence[bytes]) -> None:
        for message in messages:
            if self._window:
                message = zlib.compress(message, self._level, self._window)
            for datagram in _datagrams(message):
                self._sock.send(datagram)


def _datagrams(message: bytes) -> Iterator[bytes]:
    if len(message) <= DATAGRAM:
        yield message
        return
    room = DATAGRAM - HEAD
    count = -(-len(message) // room)
    id = os.urandom(8)
    for number in range(count):
        part = message[number * room : (number + 1) * room]
        yield _CHUNK + id + bytes((number, count)) + part


def _address(options: Mapping[str, str]) -> collectors.Address:
    text = options.get("gelf-address", "")
    if not text:
        raise InvalidParameter(
            "gelf-address is a required parameter",
            help="for example --log-opt gelf-address=udp://127.0.0.1:12201",
        )
    if not text.startswith(("udp://", "tcp://")):
        raise InvalidParameter("gelf: endpoint needs to be TCP or UDP", f"it is {text!r}")
    try:
        return collectors.parse_address(text, "gelf-address", {"udp": 0, "tcp": 0}, "127.0.0.1")
    except InvalidParameter as error:
        raise InvalidParameter(
            "gelf: please provide gelf-address as proto://host:port",
            f"{text!r}: {error.detail}",
        ) from None


def _number(text: str, otherwise: int) -> int:
    try:
        return parse_count(text)
    except ValueError:
        return otherwise


def _unknown(name: str, value: str, known: str) -> InvalidParameter:
    return InvalidParameter(
        f'unknown value "{value}" for log opt "{name}" for gelf log driver', help=f"it is {known}"
    )
