"""The kit of log sinks passes a plain sink, and fails each that is broken on purpose."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pyengine.bases import collectors
from pyengine.contracts.base import DriverContext, Probe
from pyengine.contracts.logsink import LogRecord, LogSink, LogSinkDriver, LogSource
from pyengine.testing import logsink
from pyengine.testing.collectors import Collector
from pyengine.testing.logsink import LogSinkSuite


class Lines(Collector):
    """A line of text each, in a stream."""

    def __init__(self, **where: Any) -> None:
        self.text = b""
        super().__init__(**where)

    @property
    def options(self) -> dict[str, str]:
        return {"lines-address": f"tcp://{self.address}"}

    def lines(self) -> list[str]:
        return self.text.decode(errors="replace").split("\n")[:-1]

    def talk(self, sock: socket.socket) -> None:
        while data := self.receive(sock):
            self.text += data


class Sink(LogSink):
    def __init__(self, options: Mapping[str, str]) -> None:
        address = collectors.parse_address(options["lines-address"], "lines-address", {"tcp": 0})
        self.sock = collectors.connect(address, socket.SOCK_STREAM)

    def send(self, records: Sequence[LogRecord]) -> None:
        self.sock.sendall(b"".join(self.encode(record) for record in records))

    def encode(self, record: LogRecord) -> bytes:
        whole = record.piece is None or record.piece.last
        return record.line + (b"\n" if whole else b"")

    def close(self) -> None:
        self.sock.close()


class Driver(LogSinkDriver):
    name: ClassVar[str] = "lines"
    options: ClassVar[frozenset[str]] = frozenset({"lines-address"})
    sink: ClassVar[type[Sink]] = Sink

    @classmethod
    def probe(cls, context: DriverContext) -> Probe:
        return Probe(available=True)

    def validate(self, options: Mapping[str, str]) -> None:
        collectors.parse_address(options["lines-address"], "lines-address", {"tcp": 0})

    def open(self, source: LogSource, options: Mapping[str, str]) -> LogSink:
        return self.sink(options)


class Suite(LogSinkSuite):
    def factory(self, context: DriverContext) -> LogSinkDriver:
        return Driver(context)

    @pytest.fixture
    def collector(self, tmp_path: Path) -> Iterator[Lines]:
        with Lines() as server:
            yield server


class TestAPlainSink(Suite):
    """Every test of the kit passes."""


class LosesTheLast(Sink):
    def send(self, records: Sequence[LogRecord]) -> None:
        super().send(records[:-1] if len(records) > 100 else records)


class NewestFirst(Sink):
    def send(self, records: Sequence[LogRecord]) -> None:
        super().send(records[::-1])


class KnowsAsciiAlone(Sink):
    def encode(self, record: LogRecord) -> bytes:
        record.line.decode("ascii")
        return super().encode(record)


class LeavesOutEmptyLines(Sink):
    def send(self, records: Sequence[LogRecord]) -> None:
        super().send([record for record in records if record.line])


class LeavesOutPieces(Sink):
    def send(self, records: Sequence[LogRecord]) -> None:
        super().send([r for r in records if r.piece is None or r.piece.last])


class ClosesOnce(Sink):
    def close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)
        self.sock.close()


class NeverComplains(Sink):
    def send(self, records: Sequence[LogRecord]) -> None:
        try:
            super().send(records)
        except OSError:
            pass


class WaitsForEver(Sink):
    def __init__(self, options: Mapping[str, str]) -> None:
        super().__init__(options)
        self.sock.settimeout(logsink.PATIENCE * 1.5)


class TakesAnyAddress(Driver):
    def validate(self, options: Mapping[str, str]) -> None:
        pass


class KnowsNothing(Driver):
    options: ClassVar[frozenset[str]] = frozenset()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What never comes is not waited for as long as in a driver's own suite."""
    monkeypatch.setattr(logsink, "PATIENCE", 1.5)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (LosesTheLast, "test_lines_arrive_in_order"),
        (NewestFirst, "test_lines_arrive_in_order"),
        (KnowsAsciiAlone, "test_any_bytes_can_be_sent"),
        (LeavesOutEmptyLines, "test_empty_lines"),
        (LeavesOutPieces, "test_pieces_of_a_long_line"),
        (ClosesOnce, "test_a_second_sink_after_the_first"),
        (NeverComplains, "test_a_collector_that_is_gone"),
        (WaitsForEver, "test_a_collector_that_is_silent"),
        (TakesAnyAddress, "test_an_address_that_is_none"),
        (KnowsNothing, "test_options_that_are_accepted"),
    ],
)
def test_the_kit_finds(
    broken: type[Any], test: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = broken if issubclass(broken, Driver) else type("Broken", (Driver,), {"sink": broken})
    driver = kind(DriverContext("id", "pyengine", tmp_path, tmp_path))
    with Lines() as server:
        known = {"driver": driver, "collector": server, "monkeypatch": monkeypatch}
        method = getattr(Suite(), test)
        wanted = method.__code__.co_varnames[1 : method.__code__.co_argcount]
        with pytest.raises((AssertionError, OSError, ValueError, pytest.fail.Exception)):
            method(**{name: known[name] for name in wanted})
