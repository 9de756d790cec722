"""A feed hands a spool's lines to a sink, once if all goes well, and again until it does."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pyengine.contracts.base import DriverContext, Probe
from pyengine.contracts.logging import STDERR, STDOUT
from pyengine.contracts.logsink import LogRecord, LogSink, LogSinkDriver, LogSource
from pyengine.logs import cursor, feed
from pyengine.logs.feed import Feed, FeedFile
from pyengine.logs.spool import SpoolWriter

SOURCE = LogSource(id="c" * 64, name="web", image="busybox", image_id="sha256:0", command="sh",
                   created="2026-01-01T00:00:00Z", host="here", tag="cccccccccccc")  # fmt: skip


class Memory(LogSinkDriver):
    """Keeps records; ``fails``: what its sinks raise, one after the other."""

    name = "memory"
    options = frozenset()

    def __init__(self) -> None:
        self.records: list[LogRecord] = []
        self.fails: list[Exception] = []
        self.opened = self.closed = 0

    @classmethod
    def probe(cls, context: DriverContext) -> Probe:
        return Probe(available=True)

    def validate(self, options: Mapping[str, str]) -> None:
        pass

    def open(self, source: LogSource, options: Mapping[str, str]) -> LogSink:
        assert (source, options) == (SOURCE, {"a": "b"})
        self.opened += 1
        return _Kept(self)

    def lines(self) -> list[bytes]:
        return [record.line for record in self.records]


class _Kept(LogSink):
    def __init__(self, driver: Memory) -> None:
        self._driver = driver

    def send(self, records: Sequence[LogRecord]) -> None:
        if self._driver.fails:
            raise self._driver.fails.pop(0)
        self._driver.records += records

    def close(self) -> None:
        self._driver.closed += 1


class Lab:
    def __init__(self, root: Path) -> None:
        self.directory = root / ("c" * 64)
        (self.directory / "spool").mkdir(parents=True)
        file = FeedFile(source=SOURCE, options={"a": "b"}, container={"Id": "c"})
        (self.directory / "feed.json").write_bytes(msgspec.json.encode(file))
        self.driver = Memory()
        self.news: list[dict[str, Any]] = []

    def write(self, *chunks: bytes, limit: int = 0, stream: int = STDOUT) -> None:
        """One run of the container."""
        writer = SpoolWriter(str(self.directory / "spool"), limit)
        for chunk in chunks:
            writer.write(stream, chunk, 7)
        writer.flush()
        writer.close()

    def deliver(self, **more: Any) -> None:
        """Run a feed to the end: the container is removed."""
        (self.directory / "removed").touch()
        self.begin(**more).join(20)
        assert self.news.pop() == {"finished": True}
        assert not self.directory.exists()

    def begin(self, **more: Any) -> threading.Thread:
        self.feed = Feed(self.directory, self.driver, self.news.append, **more)
        thread = threading.Thread(target=self.feed.run, daemon=True)
        thread.start()
        return thread


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setattr(feed, "RETRY_FIRST", 0.01)
    return Lab(tmp_path)


def test_lines_and_streams(lab: Lab) -> None:
    lab.write(b"one\n\ntwo")
    lab.write(b"bad\n", stream=STDERR)
    lab.deliver()
    assert lab.driver.records == [
        LogRecord(STDOUT, 7, b"one"),
        LogRecord(STDOUT, 7, b""),
        LogRecord(STDOUT, 7, b"two"),
        LogRecord(STDERR, 7, b"bad"),
    ]
    assert lab.driver.opened == lab.driver.closed
    assert lab.news == []


def test_pieces_of_a_long_line_belong_together(lab: Lab) -> None:
    lab.write(b"x" * 40_000, b"y\nshort\n", b"z" * 20_000 + b"\n")
    lab.deliver()
    pieces = [record.piece for record in lab.driver.records]
    assert [(p.ordinal, p.last) if p else None for p in pieces] == [
        (1, False), (2, False), (3, True), None, (1, False), (2, True),
    ]  # fmt: skip
    ids = [p.id for p in pieces if p]
    assert ids[0] == ids[1] == ids[2] != ids[3] == ids[4]
    assert all(len(id) == 32 for id in ids)


def test_a_line_without_end_is_whole_when_the_run_is_over(lab: Lab) -> None:
    lab.write(b"x" * 20_000)
    lab.write(b"next\n")
    lab.deliver()
    last = lab.driver.records[1].piece
    assert last is not None
    assert last.last
    assert lab.driver.records[2] == LogRecord(STDOUT, 7, b"next")


def test_a_sink_that_fails_gets_the_same_again(lab: Lab) -> None:
    lab.driver.fails = [OSError("gone"), OSError("gone"), ValueError("a bug"), OSError("gone")]
    lab.write(b"one\ntwo\n")
    lab.deliver()
    assert lab.driver.lines() == [b"one", b"two"]
    assert lab.driver.opened == 5
    assert lab.news == [
        {"error": "gone"}, {"error": "ValueError: a bug"}, {"error": "gone"}, {"error": ""},
    ]  # fmt: skip


def test_what_was_dropped_is_counted_and_told(lab: Lab) -> None:
    lab.write(*(b"line %d\n" % number for number in range(5000)), limit=16 * 1024)
    (lab.directory / "removed").touch()
    lab.begin().join(20)
    dropped, finished = lab.news
    assert finished == {"finished": True}
    assert dropped["dropped"] + len(lab.driver.records) == 5000
    assert dropped["bytes"] == sum(len(b"line %d\n" % n) for n in range(dropped["dropped"]))


def test_a_feed_goes_on_where_another_was(lab: Lab) -> None:
    lab.write(b"one\n" * 10, b"x" * 20_000)
    lab.begin()
    for _ in range(1000):
        if cursor.load(lab.directory / "cursor").delivered == 12:
            break
        threading.Event().wait(0.01)
    lab.driver, first = Memory(), lab.driver
    lab.write(b"two\n")
    lab.deliver()
    assert first.lines()[:11] == [b"one"] * 10 + [b"x" * 16384]
    assert lab.driver.lines() == [b"two"]


def test_hooks_redact_what_leaves_the_host(lab: Lab) -> None:
    def redact(container: dict[str, Any], line: bytes) -> bytes:
        assert container == {"Id": "c"}
        return line.replace(b"secret", b"***")

    lab.write(b"a secret\n")
    lab.deliver(redact=redact)
    assert lab.driver.lines() == [b"a ***"]


def test_a_removed_container_does_not_wait_for_ever(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "LINGER", 0.0)
    lab.driver.fails = [OSError("gone")] * 50
    lab.write(b"one\n")
    lab.deliver()
    assert lab.driver.lines() == []


def test_a_place_that_cannot_be_saved_stops_nothing(lab: Lab) -> None:
    (lab.directory / "cursor.new").mkdir()
    lab.write(b"one\n" * 60_000, b"two\n")
    lab.deliver()
    assert lab.driver.lines() == [b"one"] * 60_000 + [b"two"]


def test_a_cursor_that_is_damaged_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "cursor").write_bytes(b"{")
    assert cursor.load(tmp_path / "cursor") == cursor.Cursor()
