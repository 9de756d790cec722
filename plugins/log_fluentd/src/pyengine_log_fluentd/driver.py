"""The sink: records as entries of Fluentd's forward protocol, version 1.

Source: the forward protocol specification (v1) in Fluentd's wiki; the fields are those of Docker's
fluentd driver, as its documentation lists them.
"""

from __future__ import annotations

import base64
import os
import socket
import ssl
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from pyengine.bases import collectors
from pyengine.contracts.base import Probe
from pyengine.contracts.logging import STDERR
from pyengine.contracts.logsink import LogRecord, LogSink, LogSinkDriver, LogSource
from pyengine.errors import InvalidParameter

ADDRESS = "tcp://127.0.0.1:24224"
_PORTS = {"tcp": 24224, "tls": 24224, "unix": 0}
#: Waiting, buffers and retries are the engine's here, for all sinks alike.
_WITHOUT_EFFECT = {
    "fluentd-async", "fluentd-async-reconnect-interval", "fluentd-buffer-limit",
    "fluentd-max-retries", "fluentd-read-timeout", "fluentd-retry-wait", "fluentd-write-timeout",
}  # fmt: skip
_EVENT_TIME = 0
_time = struct.Struct(">II").pack
_encode = msgspec.msgpack.Encoder().encode


class FluentdDriver(LogSinkDriver):
    """Docker's options; the README of the package says which have nothing to do here."""

    name: ClassVar[str] = "fluentd"
    priority: ClassVar[int] = 40
    options: ClassVar[frozenset[str]] = frozenset(
        {"fluentd-address", "fluentd-request-ack", "fluentd-sub-second-precision"} | _WITHOUT_EFFECT
    )

    @classmethod
    def probe(cls, context: object) -> Probe:
        return Probe(available=True)

    def validate(self, options: Mapping[str, str]) -> None:
        _address(options)
        for name in ("fluentd-async", "fluentd-request-ack", "fluentd-sub-second-precision"):
            collectors.flag(options, name)
        collectors.count(options, "fluentd-max-retries", 0, 0, 2**32 - 1)
        collectors.seconds(options, "fluentd-retry-wait", 1.0)
        interval = collectors.seconds(options, "fluentd-async-reconnect-interval", 0.1)
        if not 0.1 <= interval <= 10:
            raise InvalidParameter(
                "invalid fluentd-async-reconnect-interval: value must be between 100ms and 10s"
            )

    def open(self, source: LogSource, options: Mapping[str, str]) -> LogSink:
        return _Fluentd(source, options)


class _Fluentd(LogSink):
    def __init__(self, source: LogSource, options: Mapping[str, str]) -> None:
        self._tag = source.tag
        self._common = {"container_id": source.id, "container_name": f"/{source.name}"}
        self._attributes = dict(source.attributes)
        self._ack = collectors.flag(options, "fluentd-request-ack")
        self._precise = collectors.flag(options, "fluentd-sub-second-precision")
        address = _address(options)
        tls = ssl.create_default_context() if address.scheme == "tls" else None
        self._sock = collectors.connect(address, socket.SOCK_STREAM, tls)

    def send(self, records: Sequence[LogRecord]) -> None:
        chunk = base64.b64encode(os.urandom(16)).decode() if self._ack else ""
        options: dict[str, Any] = {"size": len(records)}
        if chunk:
            options["chunk"] = chunk
        entries = [[self._when(record), self._entry(record)] for record in records]
        self._sock.sendall(_encode([self._tag, entries, options]))
        if chunk:
            self._await_ack(chunk)

    def close(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        self._sock.close()

    def _when(self, record: LogRecord) -> int | msgspec.msgpack.Ext:
        whole, fraction = divmod(record.time, 10**9)
        return msgspec.msgpack.Ext(_EVENT_TIME, _time(whole, fraction)) if self._precise else whole

    def _entry(self, record: LogRecord) -> dict[str, str]:
        entry = {
            **self._common,
            "source": "stderr" if record.stream == STDERR else "stdout",
            "log": record.line.decode(errors="replace"),
            **self._attributes,
        }
        piece = record.piece
        if piece is not None:
            entry["partial_message"] = "true"
            entry["partial_id"] = piece.id
            entry["partial_ordinal"] = str(piece.ordinal)
            entry["partial_last"] = "true" if piece.last else "false"
        return entry

    def _await_ack(self, chunk: str) -> None:
        deadline = time.monotonic() + collectors.PATIENCE
        answer = b""
        while time.monotonic() < deadline:
            data = self._sock.recv(4096)
            if not data:
                raise ConnectionResetError("the collector closed the connection before its answer")
            answer += data
            try:
                said = msgspec.msgpack.decode(answer)
            except msgspec.DecodeError:
                continue  # not whole yet
            if isinstance(said, dict) and said.get("ack") == chunk:
                return
            raise ConnectionError(f"the collector acknowledged something else: {said!r}")
        raise TimeoutError("the collector does not acknowledge")


def _address(options: Mapping[str, str]) -> collectors.Address:
    text = options.get("fluentd-address", "") or ADDRESS
    if "://" not in text:
        text = f"tcp://{text}"
    return collectors.parse_address(text, "fluentd-address", _PORTS, "127.0.0.1")
