"""The logging kit passes a plain driver, and fails each driver that is broken on purpose."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote_plus

import msgspec
import pytest

from pyengine.contracts.base import DriverContext, Probe, reject_unknown_options
from pyengine.contracts.logging import (
    STDERR,
    STDOUT,
    LogChunk,
    LoggingDriver,
    LogQuery,
    LogReader,
    LogWriter,
)
from pyengine.testing.logging import LoggingDriverSuite


class Record(msgspec.Struct):
    number: int
    stream: int
    time: int
    text: str
    attributes: dict[str, str] = {}


class PlainWriter(LogWriter):
    """A numbered JSON object per line: slow, and easy to see through."""

    def __init__(self, path: Path, options: Mapping[str, str], attributes: Mapping[str, str]):
        self.path, self.attributes = path, dict(attributes)
        size = options.get("max-size", "-1")
        self.limit = 0 if size == "-1" else int(size.removesuffix("k")) * 1000
        self.files = int(options.get("max-file", "5"))
        self.pending = {STDOUT: b"", STDERR: b""}
        self.time = self.lost = self.untold = 0
        self.repair()
        records = load(path)
        self.number = records[-1].number if records else 0
        self.fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def repair(self) -> None:
        if self.path.exists():
            content = self.path.read_bytes()
            os.truncate(self.path, content.rfind(b"\n") + 1)

    def write(self, stream: int, chunk: bytes, time: int) -> None:
        self.time = time
        *lines, self.pending[stream] = (self.pending[stream] + chunk).split(b"\n")
        for line in lines:
            self.put(stream, line + b"\n")

    def put(self, stream: int, data: bytes) -> None:
        if self.untold:
            lost, self.untold = self.untold, 0
            self.put(STDERR, b"%d bytes lost\n" % lost)
            if self.untold:
                self.untold = lost
        if self.limit and os.fstat(self.fd).st_size >= self.limit:
            self.rotate()
        self.number += 1
        record = Record(
            self.number, stream, self.time, data.decode("utf-8", "replace"), self.attributes
        )
        line = msgspec.json.encode(record) + b"\n"
        before = os.fstat(self.fd).st_size
        try:
            if os.write(self.fd, line) < len(line):
                raise OSError("short write")
        except OSError:
            os.ftruncate(self.fd, before)
            self.full(len(data) if not data.endswith(b" bytes lost\n") else 0, data)

    def full(self, lost: int, data: bytes) -> None:
        self.lost += lost
        self.untold += lost or 1

    def rotate(self) -> None:
        os.close(self.fd)
        for number in range(self.files - 1, 0, -1):
            old = self.path if number == 1 else Path(f"{self.path}.{number - 1}")
            if old.exists():
                os.replace(old, f"{self.path}.{number}")
        self.fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def flush(self) -> None:
        for stream, data in self.pending.items():
            if data:
                self.put(stream, data)
        self.pending = {STDOUT: b"", STDERR: b""}

    def close(self) -> None:
        os.close(self.fd)

    def dropped(self) -> int:
        return self.lost


def contents(path: Path) -> Iterator[bytes]:
    """Of all files, the newest first, as they must be read: a rotation moves them the same way,
    and there may be more of them at the end than there were at the beginning."""
    number = absent = 0
    while absent < 3:
        file = Path(f"{path}.{number}") if number else path
        number += 1
        try:
            yield file.read_bytes()
            absent = 0
        except FileNotFoundError:
            absent += 1


def load(path: Path, after: int = 0) -> list[Record]:
    found: dict[int, Record] = {}
    for content in contents(path):
        here = []
        for line in content[: content.rfind(b"\n") + 1].splitlines():
            try:
                here.append(msgspec.json.decode(line, type=Record))
            except msgspec.DecodeError:
                continue
        found.update((record.number, record) for record in here)
        if here and here[0].number <= after:
            break
    return sorted(found.values(), key=lambda record: record.number)


class PlainReader(LogReader):
    def __init__(self, path: Path, query: LogQuery) -> None:
        self.path, self.query, self.last, self.first = path, query, 0, True

    def read(self) -> Iterator[LogChunk]:
        records = load(self.path, self.last)
        if self.first and self.query.tail >= 0:
            cut = records[: max(0, len(records) - self.query.tail)]
            self.last = cut[-1].number if cut else 0
        self.first = False
        for record in records:
            if record.number <= self.last:
                continue
            self.last = record.number
            if self.wanted(record):
                yield LogChunk(record.stream, self.shown(record), record.time)

    def wanted(self, record: Record) -> bool:
        query = self.query
        return (
            (query.stdout if record.stream == STDOUT else query.stderr)
            and record.time >= query.since
            and (not query.until or record.time <= query.until)
        )

    def shown(self, record: Record) -> bytes:
        prefix = ""
        if self.query.timestamps:
            seconds, fraction = divmod(record.time, 1_000_000_000)
            minute = seconds - 1_767_323_040
            prefix = f"2026-01-02T03:04:{minute:02}.{fraction:09}Z "
        if self.query.details:
            pairs = sorted(record.attributes.items())
            prefix += ",".join(f"{quote_plus(k)}={quote_plus(v)}" for k, v in pairs) + " "
        return (prefix + record.text).encode()

    def close(self) -> None:
        pass


class PlainDriver(LoggingDriver):
    name: ClassVar[str] = "plain"
    writer_class: ClassVar[type[PlainWriter]] = PlainWriter
    reader_class: ClassVar[type[PlainReader]] = PlainReader

    @classmethod
    def probe(cls, context: DriverContext) -> Probe:
        return Probe(available=True)

    def validate(self, options: Mapping[str, str]) -> None:
        known = frozenset({"max-size", "max-file"})
        reject_unknown_options(self.kind, self.name, options, known)

    def writer(
        self, path: Path, options: Mapping[str, str], attributes: Mapping[str, str]
    ) -> LogWriter:
        return self.writer_class(path, options, attributes)

    def reader(self, path: Path, options: Mapping[str, str], query: LogQuery) -> LogReader:
        return self.reader_class(path, query)

    def remove(self, path: Path) -> None:
        for file in [path, *path.parent.glob(path.name + ".*")]:
            file.unlink(missing_ok=True)


class TestPlain(LoggingDriverSuite):
    #: Its records are longer than the text by more than Docker's, and a file ends after one.
    small: ClassVar[int] = 4000

    def factory(self, context: DriverContext) -> LoggingDriver:
        return PlainDriver(context)


# -- broken on purpose -----------------------------------------------------------------------------


class ForgetsTheEnd(PlainWriter):
    def flush(self) -> None:
        pass


class CutsLines(PlainWriter):
    def write(self, stream: int, chunk: bytes, time: int) -> None:
        self.time = time
        self.put(stream, chunk)


class FailsWhenFull(PlainWriter):
    def full(self, lost: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")


class LosesSilently(PlainWriter):
    def full(self, lost: int, data: bytes) -> None:
        pass


class LeavesTornEnds(PlainWriter):
    def repair(self) -> None:
        pass


class NeverRotates(PlainWriter):
    def rotate(self) -> None:
        pass


class RotatesTooMuch(PlainWriter):
    def rotate(self) -> None:
        os.truncate(self.path, 0)


class ImportsLate(PlainWriter):
    def put(self, stream: int, data: bytes) -> None:
        importlib.import_module("this")
        super().put(stream, data)


class StartsOver(PlainReader):
    def read(self) -> Iterator[LogChunk]:
        self.last = 0
        yield from super().read()


class OneTooMany(PlainReader):
    def __init__(self, path: Path, query: LogQuery) -> None:
        tail = query.tail + 1 if query.tail > 0 else query.tail
        super().__init__(path, msgspec.structs.replace(query, tail=tail))


class IgnoresUntil(PlainReader):
    def __init__(self, path: Path, query: LogQuery) -> None:
        super().__init__(path, msgspec.structs.replace(query, until=0))


class MixesStreams(PlainReader):
    def read(self) -> Iterator[LogChunk]:
        for chunk in super().read():
            yield LogChunk(STDOUT, chunk.data, chunk.time)


class StampsOnce(PlainReader):
    def shown(self, record: Record) -> bytes:
        data = super().shown(record)
        return data if record.number == 1 else data[31:]


class LeavesFiles(PlainDriver):
    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)


class TakesAnything(PlainDriver):
    def validate(self, options: Mapping[str, str]) -> None:
        pass


class Remembers(PlainDriver):
    """Keeps in the instance what only a restart would show to be missing."""

    def __init__(self, context: DriverContext) -> None:
        super().__init__(context)
        self.held = Path(context.root).parent / f"held-{id(self)}"
        self.held.mkdir(exist_ok=True)

    def writer(
        self, path: Path, options: Mapping[str, str], attributes: Mapping[str, str]
    ) -> LogWriter:
        return super().writer(self.held / path.name, options, attributes)

    def reader(self, path: Path, options: Mapping[str, str], query: LogQuery) -> LogReader:
        return super().reader(self.held / path.name, options, query)


BROKEN: list[tuple[type[Any], str, tuple[Any, ...]]] = [
    (ForgetsTheEnd, "test_an_unfinished_line_waits_for_flush", ()),
    (CutsLines, "test_a_line_cut_between_chunks_is_one_record", ()),
    (CutsLines, "test_any_bytes_come_back", ()),
    (FailsWhenFull, "test_full_disk", ()),
    (LosesSilently, "test_full_disk", ()),
    (LeavesTornEnds, "test_torn_end", (60,)),
    (NeverRotates, "test_rotation_bounds_the_disk", ()),
    (RotatesTooMuch, "test_following_through_rotation", (200,)),
    (ImportsLate, "test_the_writer_imports_nothing", ()),
    (StartsOver, "test_reading_on", ()),
    (StartsOver, "test_following_through_rotation", (7,)),
    (OneTooMany, "test_tail", (2,)),
    (IgnoresUntil, "test_since_and_until", (0, 1_767_323_049_000_000_000, range(5))),
    (MixesStreams, "test_both_streams_come_back_in_order", ()),
    (StampsOnce, "test_every_line_has_its_timestamp", ()),
    (LeavesFiles, "test_remove", ()),
    (TakesAnything, "test_unknown_options_are_refused", ()),
    (Remembers, "test_both_streams_come_back_in_order", ()),
]


def suite_of(broken: type[Any]) -> LoggingDriverSuite:
    driver: type[PlainDriver]
    if issubclass(broken, PlainWriter):
        driver = type("Broken", (PlainDriver,), {"writer_class": broken})
    elif issubclass(broken, PlainReader):
        driver = type("Broken", (PlainDriver,), {"reader_class": broken})
    else:
        driver = broken

    class Suite(LoggingDriverSuite):
        def factory(self, context: DriverContext) -> LoggingDriver:
            return driver(context)

    return Suite()


@pytest.mark.parametrize(
    ("broken", "test", "arguments"), BROKEN, ids=[f"{row[0].__name__}-{row[1]}" for row in BROKEN]
)
def test_the_kit_finds(
    broken: type[Any], test: str, arguments: tuple[Any, ...], tmp_path: Path
) -> None:
    good: Callable[..., None] = getattr(suite_of(PlainDriver), test)
    good(tmp_path / "good", *arguments)
    with pytest.raises((AssertionError, OSError, pytest.fail.Exception)):
        getattr(suite_of(broken), test)(tmp_path / "broken", *arguments)
