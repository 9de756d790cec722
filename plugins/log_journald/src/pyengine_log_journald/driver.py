"""The sink: records as entries of systemd's journal, over its native protocol.

Source: systemd's document on the native journal protocol, and systemd.journal-fields(7); the fields
are those of Docker's journald driver (moby, daemon/logger/journald).
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import ClassVar

from pyengine import timestamps
from pyengine.bases import collectors
from pyengine.contracts.base import Probe
from pyengine.contracts.logging import STDERR
from pyengine.contracts.logsink import LogRecord, LogSink, LogSinkDriver, LogSource
from pyengine.errors import InvalidParameter

SOCKET = "/run/systemd/journal/socket"
_ERROR, _INFORMATION = b"3", b"6"
#: The journal skips fields with other names: those of ``_`` are its own (sd_journal_print(3)).
_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
#: Of each record, or of a part of one.
_OWN = {
    "PRIORITY", "MESSAGE", "SYSLOG_TIMESTAMP", "CONTAINER_LOG_ORDINAL", "CONTAINER_PARTIAL_ID",
    "CONTAINER_PARTIAL_ORDINAL", "CONTAINER_PARTIAL_LAST", "CONTAINER_PARTIAL_MESSAGE",
}  # fmt: skip
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class JournaldDriver(LogSinkDriver):
    """Docker's driver has no options of its own. This has ``journald-socket``, for the journal of
    a namespace (``LogNamespace=`` in systemd.exec(5)): ``/run/systemd/journal.NAME/socket``."""

    name: ClassVar[str] = "journald"
    priority: ClassVar[int] = 40
    options: ClassVar[frozenset[str]] = frozenset({"journald-socket"})

    @classmethod
    def probe(cls, context: object) -> Probe:
        """Available, also where no journal is at present: it may be by the time of a container."""
        return Probe(available=True)

    def validate(self, options: Mapping[str, str]) -> None:
        try:
            _connect(options).close()
        except OSError as error:
            # Exactly Docker's words, which it has for the start of a container.
            raise InvalidParameter(
                "journald is not enabled on this host",
                str(error),
                "start systemd-journald, or choose another --log-driver",
            ) from None

    def open(self, source: LogSource, options: Mapping[str, str]) -> LogSink:
        return _Journal(source, options)


class _Journal(LogSink):
    def __init__(self, source: LogSource, options: Mapping[str, str]) -> None:
        fields = {
            "CONTAINER_ID": source.id[:12],
            "CONTAINER_ID_FULL": source.id,
            "CONTAINER_NAME": source.name,
            "CONTAINER_TAG": source.tag,
            "IMAGE_NAME": source.image,
            "SYSLOG_IDENTIFIER": source.tag,
            **{_name(key): value for key, value in source.attributes.items()},
            # Entries are in order by CONTAINER_LOG_ORDINAL among those of one sink.
            "CONTAINER_LOG_EPOCH": os.urandom(32).hex(),
        }
        # Each field is there once: what is the record's own beats a label of that name.
        self._fixed = b"".join(
            _field(name.encode(), value.encode())
            for name, value in fields.items()
            if _NAME.fullmatch(name) and name not in _OWN
        )
        self._sent = 0
        self._sock = _connect(options)

    def send(self, records: Sequence[LogRecord]) -> None:
        for record in records:
            self._sent += 1
            self._send(self._entry(record))

    def close(self) -> None:
        self._sock.close()

    def _entry(self, record: LogRecord) -> bytes:
        entry = b"%bPRIORITY=%b\nSYSLOG_TIMESTAMP=%b\nCONTAINER_LOG_ORDINAL=%d\n%b" % (
            self._fixed,
            _ERROR if record.stream == STDERR else _INFORMATION,
            _stamp(record.time),
            self._sent,
            _field(b"MESSAGE", record.line),
        )
        piece = record.piece
        if piece is not None:
            entry += b"CONTAINER_PARTIAL_ID=%b\nCONTAINER_PARTIAL_ORDINAL=%d\n" % (
                piece.id.encode(),
                piece.ordinal,
            )
            entry += b"CONTAINER_PARTIAL_LAST=%b\n" % (b"true" if piece.last else b"false")
            if not piece.last:
                entry += b"CONTAINER_PARTIAL_MESSAGE=true\n"
        return entry

    def _send(self, entry: bytes) -> None:
        """As a datagram, or in a sealed memory file if it is too big for one."""
        try:
            self._sock.send(entry)
            return
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
        memory = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with open(memory, "wb") as file:
            file.write(entry)
            file.flush()
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
            socket.send_fds(self._sock, [], [memory])


def _connect(options: Mapping[str, str]) -> socket.socket:
    path = options.get("journald-socket", "") or SOCKET
    if not path.startswith("/"):
        raise InvalidParameter(f"journald-socket: {path!r} is no absolute path")
    return collectors.connect(collectors.Address("unix", path=path), socket.SOCK_DGRAM)


@lru_cache(8)
def _stamp(time: int) -> bytes:
    """Lines that were read at one time have the same."""
    return timestamps.render(time).encode()


def _name(key: str) -> str:
    """A field's name for a label or variable, made as Docker does: ``com.example`` becomes
    ``COM_EXAMPLE``."""
    return re.sub(r"[^A-Za-z0-9]", "_", key).lstrip("_").upper()


def _field(name: bytes, value: bytes) -> bytes:
    if b"\n" in value:
        return b"%b\n%b%b\n" % (name, len(value).to_bytes(8, "little"), value)
    return b"%b=%b\n" % (name, value)
