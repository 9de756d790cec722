"""Log sinks: drivers that carry what a container wrote to a collector elsewhere.

A sink is a logging driver that keeps nothing itself. The shim writes the container's lines to a
*spool* on disk; a process per sink driver reads the spools of all containers that use it, and hands
the lines to the driver. So a collector that is slow, silent or gone neither stops nor delays a
container, and a sink that dies goes on where it was. ``docker logs`` reads the local log that is
kept beside it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import msgspec

from pyengine.contracts.base import Driver, Kind


class Piece(msgspec.Struct, frozen=True):
    """A line of more than 16 KiB comes in pieces: all have one ``id`` (32 hexadecimal digits),
    ``ordinal`` counts from 1, and one is the ``last``."""

    id: str
    ordinal: int
    last: bool


class LogRecord(msgspec.Struct, frozen=True):
    """One line of ``stream`` (1, 2), as bytes without its newline; it may be empty. ``time``: when
    the engine read it, ns since the epoch. ``piece``: set if it is part of a longer one."""

    stream: int
    time: int
    line: bytes
    piece: Piece | None = None


class LogSource(msgspec.Struct, frozen=True, kw_only=True):
    """The container whose lines a sink gets, as it was at its latest start.

    ``tag``: of the option ``tag``, by default the first twelve digits of the id. ``attributes``:
    the labels and variables that ``labels``, ``env`` and their ``-regex`` forms choose.
    ``command``: with its arguments. ``created``: RFC 3339. ``host``: the host's name.
    """

    id: str
    name: str
    image: str
    image_id: str
    command: str
    created: str
    host: str
    tag: str
    attributes: Mapping[str, str] = {}


class LogSink(ABC):
    """Open for one container; used by one thread. It may block as long as it likes, but gives up
    on a collector that does not answer (some ten seconds) so that the reason can be told."""

    @abstractmethod
    def send(self, records: Sequence[LogRecord]) -> None:
        """Hand ``records`` (in order, at least one) to the collector.

        Raises ``OSError`` or an error of :mod:`pyengine.errors` if that did not succeed; then this
        sink is closed, and after a while a new one gets the same records again, all of them.
        """

    @abstractmethod
    def close(self) -> None:
        """Pass on what is buffered and let go of connections. Idempotent; raises nothing."""


class LogSinkDriver(Driver):
    """Checks options, and opens sinks in a process of its own: its module is imported in the daemon
    for :meth:`validate` and there for :meth:`open`.

    Delivery is at least once: what a sink that died had sent and not yet noted is sent again.
    """

    kind: ClassVar[Kind] = Kind.LOGGING
    #: The options that are this driver's own (``fluentd-address``). Those that the engine resolves
    #: for all drivers (``tag``, ``labels``, ``env``, ``mode``, ``max-buffer-size``...) are not.
    options: ClassVar[frozenset[str]]

    @abstractmethod
    def validate(self, options: Mapping[str, str]) -> None:
        """Refuse bad values of options (``InvalidParameter``); unknown ones do not get here."""

    @abstractmethod
    def open(self, source: LogSource, options: Mapping[str, str]) -> LogSink:
        """A sink for the lines of ``source``. Raises as :meth:`LogSink.send` does."""
