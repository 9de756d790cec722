"""The conformance kit of log sinks.

In the test suite of a driver::

    class TestMySink(LogSinkSuite):
        def factory(self, context):
            return MySink(context)

        @pytest.fixture
        def collector(self, tmp_path):
            with MyCollector(tmp_path) as one:   # see Collector
                yield one

The collector is a real server of the driver's protocol, which the suite brings along.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import pytest

from pyengine.bases import collectors
from pyengine.contracts.base import DriverContext
from pyengine.contracts.logging import STDERR, STDOUT
from pyengine.contracts.logsink import LogRecord, LogSink, LogSinkDriver, LogSource, Piece
from pyengine.errors import EngineError, InvalidParameter

SECOND = 1_000_000_000
#: 2026-01-02T03:04:05Z
EPOCH = 1_767_323_045 * SECOND
SOURCE = LogSource(
    id="0123456789ab" + "c" * 52,
    name="web",
    image="shop:1",
    image_id="sha256:" + "d" * 64,
    command="sh -c run",
    created="2026-01-02T03:04:05Z",
    host="host.example",
    tag="0123456789ab",
    attributes={"color": "red"},
)
#: Seconds in which a collector's answer, or its silence, is known.
PATIENCE = 30.0


class Collector(Protocol):
    """``options``: that lead a driver to it. ``lines``: what has come so far, in order, as text.
    ``stop``: nobody listens any more, connections are cut. ``silence``: from now on nothing is read
    (a black hole), where the protocol has an answer or a stream that can fill."""

    options: Mapping[str, str]

    def lines(self) -> Sequence[str]: ...

    def stop(self) -> None: ...

    def silence(self) -> None: ...


class LogSinkSuite:
    """Subclass it, define :meth:`factory` and a fixture ``collector``."""

    #: False: the protocol has no place for an empty line, so none is sent.
    empty_lines: ClassVar[bool] = True
    #: False: sending is all there is (datagrams to a network): nobody knows if anything arrives.
    notices_loss: ClassVar[bool] = True

    def factory(self, context: DriverContext) -> LogSinkDriver:
        """A new instance; called several times per test."""
        raise NotImplementedError

    @pytest.fixture
    def collector(self, tmp_path: Path) -> Iterator[Collector]:
        """A collector of this driver's protocol."""
        raise NotImplementedError

    @pytest.fixture
    def driver(self, tmp_path: Path) -> LogSinkDriver:
        return self.factory(DriverContext("id", "pyengine", tmp_path / "root", tmp_path / "run"))

    def test_lines_arrive_in_order(self, driver: LogSinkDriver, collector: Collector) -> None:
        sink = driver.open(SOURCE, collector.options)
        sink.send([_record("one"), _record("two", STDERR)])
        sink.send([_record(f"line {number}") for number in range(500)])
        sink.close()
        expected = ["one", "two", *(f"line {number}" for number in range(500))]
        assert _comes(collector, expected)

    def test_any_bytes_can_be_sent(self, driver: LogSinkDriver, collector: Collector) -> None:
        sink = driver.open(SOURCE, collector.options)
        sink.send([LogRecord(STDOUT, EPOCH, line) for line in (b"\xff\x00\x80", b"\x1b[1m \t x")])
        sink.send([_record("grün ✓ 𝄞"), _record("the end")])
        sink.close()
        assert _until(lambda: len(collector.lines()) == 4 and collector.lines()[-1] == "the end")
        assert collector.lines()[2] == "grün ✓ 𝄞"

    def test_empty_lines(self, driver: LogSinkDriver, collector: Collector) -> None:
        sink = driver.open(SOURCE, collector.options)
        sink.send([_record("a"), _record(""), _record("b")])
        sink.close()
        assert _comes(collector, ["a", "", "b"] if self.empty_lines else ["a", "b"])

    def test_pieces_of_a_long_line(self, driver: LogSinkDriver, collector: Collector) -> None:
        sink = driver.open(SOURCE, collector.options)
        for ordinal, last in ((1, False), (2, False), (3, True)):
            piece = Piece("e" * 32, ordinal, last)
            sink.send([LogRecord(STDOUT, EPOCH, b"x" * (10 if last else 16384), piece)])
        sink.close()
        assert _until(lambda: len("".join(collector.lines())) == 2 * 16384 + 10)

    def test_a_second_sink_after_the_first(
        self, driver: LogSinkDriver, collector: Collector
    ) -> None:
        """Waiting between them, as a server may read two connections in any order."""
        for lines in (["first"], ["first", "second"]):
            sink = driver.open(SOURCE, collector.options)
            sink.send([_record(lines[-1])])
            sink.close()
            sink.close()
            assert _comes(collector, lines)

    def test_a_collector_that_is_gone(self, driver: LogSinkDriver, collector: Collector) -> None:
        """Within a few calls: what a connection took last may be lost with it."""
        sink = driver.open(SOURCE, collector.options)
        sink.send([_record("before")])
        collector.stop()
        if not self.notices_loss:
            sink.close()
            return
        with pytest.raises((OSError, EngineError)):
            _go_on(sink, [_record("after")], 50, 0.05)
        sink.close()
        with pytest.raises((OSError, EngineError)) as refused:
            driver.open(SOURCE, collector.options).send([_record("again")])
        assert str(refused.value)

    def test_a_collector_that_is_silent(
        self, driver: LogSinkDriver, collector: Collector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is given up on; sooner here than otherwise, if the driver goes by
        ``bases.collectors.PATIENCE``."""
        monkeypatch.setattr(collectors, "PATIENCE", 1.0)
        if not self.notices_loss:
            pytest.skip("nobody knows if anything arrives")
        collector.silence()
        began = time.monotonic()
        sink = driver.open(SOURCE, collector.options)
        with pytest.raises((OSError, EngineError)):
            _go_on(sink, [_record("x" * 16000)] * 16, 2000, 0.0)
        sink.close()
        assert time.monotonic() - began < PATIENCE

    def test_no_option_is_needed_and_its_own_are_known(self, driver: LogSinkDriver) -> None:
        assert all(name == name.lower() for name in driver.options)

    def test_options_that_are_accepted(self, driver: LogSinkDriver, collector: Collector) -> None:
        assert set(collector.options) <= driver.options
        driver.validate(collector.options)

    def test_an_address_that_is_none(self, driver: LogSinkDriver) -> None:
        for name in driver.options:
            if name.endswith("-address"):
                with pytest.raises(InvalidParameter):
                    driver.validate({name: "gopher://nowhere:1"})


def _go_on(sink: LogSink, records: Sequence[LogRecord], times: int, pause: float) -> None:
    for _ in range(times):
        sink.send(records)
        time.sleep(pause)


def _record(line: str, stream: int = STDOUT) -> LogRecord:
    return LogRecord(stream, EPOCH, line.encode())


def _comes(collector: Collector, lines: list[str]) -> bool:
    assert _until(lambda: len(collector.lines()) >= len(lines)), collector.lines()
    return list(collector.lines()) == lines


def _until(holds: Any) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
