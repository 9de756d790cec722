"""Logging drivers: what a container wrote, kept and read again.

A driver has two halves. The *writer* lives in the shim: pure, single-threaded, imported in the
zygote before any fork (so its module imports little and nothing later). The *reader* lives on a
daemon thread and reads the files by cursor, while the writer writes and after it is gone.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import msgspec

from pyengine.contracts.base import Driver, Kind
from pyengine.errors import InvalidParameter

if TYPE_CHECKING:
    from pyengine.engine.model import Container

STDOUT = 1
STDERR = 2


class LogQuery(msgspec.Struct, frozen=True):
    """What ``docker logs`` asks. Times are ns since the epoch, 0: no bound. ``tail`` -1: all.

    ``timestamps`` and ``details`` put Docker's prefixes before each line of ``LogChunk.data``.
    """

    stdout: bool = True
    stderr: bool = True
    since: int = 0
    until: int = 0
    tail: int = -1
    timestamps: bool = False
    details: bool = False


class LogChunk(msgspec.Struct, frozen=True):
    """One or more consecutive whole records of one stream, as the user shall see them.

    ``data`` is what the container wrote (a record longer than the driver's line limit comes in
    pieces that join without loss), at most 64 KiB or one record. ``time``: of the last record.
    """

    stream: int
    data: bytes
    time: int


class LogWriter(ABC):
    """Open for one container. Methods run in the shim's only thread and must not block for long."""

    @abstractmethod
    def write(self, stream: int, chunk: bytes, time: int) -> None:
        """Take what the container wrote to ``stream`` (1, 2) at ``time`` (ns). Chunks end anywhere,
        also inside a line or a UTF-8 sequence; bytes that are no UTF-8 may come back as U+FFFD.
        What is complete is in the file (not necessarily on disk) on return.

        A full disk raises nothing: the loss is counted and told in the log when there is room.
        """

    @abstractmethod
    def flush(self) -> None:
        """Write out a last line without newline; the streams have ended."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the files. Nothing is written after it. Idempotent."""

    def dropped(self) -> int:
        """How many bytes were lost so far (full disk)."""
        return 0


class LogReader(ABC):
    """A cursor over one container's log."""

    @abstractmethod
    def read(self) -> Iterator[LogChunk]:
        """Yield what matches from the cursor to the present end, oldest first; then stop.

        Called again it goes on where it stopped, through rotation, losing and doubling nothing.
        A torn or damaged record is skipped; an unfinished one at the end is left for later.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the files, from any thread while nobody reads. Idempotent."""


class LoggingDriver(Driver):
    """Checks options, and makes the two halves: :class:`LogWriter`, :class:`LogReader`."""

    kind: ClassVar[Kind] = Kind.LOGGING
    #: False: the driver keeps nothing (none); ``docker logs`` says so.
    readable: ClassVar[bool] = True
    #: What the file is called by which Docker's tools know this format, ``{id}`` being the
    #: container's: ``inspect`` names it as LogPath. Empty: nobody but the driver reads the log.
    #: Since contract 1.1.
    public_name: ClassVar[str] = ""
    #: The options that are this driver's own (``max-size``), for containers that have log sinks
    #: beside it: each gets what it knows. Since contract 1.1.
    options: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def validate(self, options: Mapping[str, str]) -> None:
        """Refuse unknown or bad container options (``--log-opt``) with ``InvalidParameter``."""

    @abstractmethod
    def writer(
        self, path: Path, options: Mapping[str, str], attributes: Mapping[str, str]
    ) -> LogWriter:
        """Open the log at ``path`` (a file name; rotated ones get suffixes) for appending.

        A torn record that a crash left at the end is closed off first. ``options``: the engine's
        defaults overlaid with the container's. ``attributes``: labels and env to keep with records.
        """

    @abstractmethod
    def reader(self, path: Path, options: Mapping[str, str], query: LogQuery) -> LogReader:
        """Open a cursor. A log that does not exist yet is an empty one."""

    @abstractmethod
    def remove(self, path: Path) -> None:
        """Delete the log and its rotated parts."""


def record_attributes(container: Container, options: Mapping[str, str]) -> dict[str, str]:
    """What a log keeps with each record: the ``attributes`` of :meth:`LoggingDriver.writer`.

    The options are the same for all drivers, and Docker's: ``labels`` and ``env`` list names,
    ``labels-regex`` and ``env-regex`` match them, ``tag`` is a template of which the plain fields
    are known (``{{.Name}}``). Raises ``InvalidParameter`` for an expression or a template that is
    none, so it also serves to check them at create.
    """
    found: dict[str, str] = {}
    environment = dict(item.split("=", 1) for item in container.config.env or () if "=" in item)
    for option, values in (("labels", container.config.labels or {}), ("env", environment)):
        found.update(
            (name, values[name]) for name in options.get(option, "").split(",") if name in values
        )
        pattern = options.get(f"{option}-regex", "")
        if pattern:
            try:
                matches = re.compile(pattern).search
            except re.error as error:
                raise InvalidParameter(
                    f"invalid regular expression of log opt '{option}-regex'",
                    f"{pattern}: {error}",
                ) from None
            found.update((name, value) for name, value in values.items() if matches(name))
    if options.get("tag"):
        found["tag"] = _tag(container, options["tag"])
    return found


_FIELD = re.compile(r"\{\{-?\s*\.(\w+)\s*-?\}\}")


def _tag(container: Container, template: str) -> str:
    fields = {
        "ID": container.id[:12],
        "FullID": container.id,
        "Name": container.name,
        "Command": " ".join([container.path, *container.args]),
        "ImageID": container.image.removeprefix("sha256:")[:12],
        "ImageFullID": container.image,
        "ImageName": container.image_name or container.config.image,
        "Hostname": os.uname().nodename,
        "DaemonName": "pyengine",
    }

    def value(match: re.Match[str]) -> str:
        if match[1] not in fields:
            raise InvalidParameter(
                f"log opt 'tag' asks for .{match[1]}", help="it knows ." + ", .".join(fields)
            )
        return fields[match[1]]

    if "{{" in _FIELD.sub("", template):
        raise InvalidParameter(
            f"log opt 'tag' is no template that this engine knows: {template}",
            help="fields like {{.Name}} and text",
        )
    return _FIELD.sub(value, template)
