"""The kit of sinks, and what is GELF's own."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from pyengine.contracts.base import DriverContext
from pyengine.contracts.logging import STDERR, STDOUT
from pyengine.contracts.logsink import LogRecord, LogSinkDriver, LogSource, Piece
from pyengine.errors import InvalidParameter
from pyengine.testing.logsink import EPOCH, SOURCE, LogSinkSuite
from pyengine_log_gelf.driver import GelfDriver
from pyengine_log_gelf.testing import GelfTcp, GelfUdp


class TestOverTcp(LogSinkSuite):
    empty_lines = False

    def factory(self, context: DriverContext) -> LogSinkDriver:
        return GelfDriver(context)

    @pytest.fixture
    def collector(self) -> Iterator[GelfTcp]:
        with GelfTcp() as server:
            yield server


class TestOverUdp(LogSinkSuite):
    empty_lines = False
    notices_loss = False

    def factory(self, context: DriverContext) -> LogSinkDriver:
        return GelfDriver(context)

    @pytest.fixture
    def collector(self) -> Iterator[GelfUdp]:
        with GelfUdp() as server:
            yield server


@pytest.fixture
def driver(tmp_path: Path) -> GelfDriver:
    return GelfDriver(DriverContext("id", "pyengine", tmp_path, tmp_path))


def sent(
    driver: GelfDriver,
    server: GelfTcp | GelfUdp,
    *lines: bytes,
    source: LogSource = SOURCE,
    **options: str,
) -> None:
    """Send the lines, and wait until all have come. Names of options without ``gelf-``."""
    before = len(server.messages)
    given = {f"gelf-{name.replace('_', '-')}": value for name, value in options.items()}
    sink = driver.open(source, {**server.options, **given})
    sink.send([LogRecord(STDOUT, EPOCH, line) for line in lines])
    sink.close()
    deadline = time.monotonic() + 10
    while len(server.messages) < before + len(lines):
        assert time.monotonic() < deadline, server.messages
        time.sleep(0.01)


def test_the_fields_of_a_message(driver: GelfDriver) -> None:
    source = msgspec.structs.replace(SOURCE, attributes={"color": "red", "_own": "x"})
    with GelfTcp() as server:
        sink = driver.open(source, server.options)
        records = [
            LogRecord(STDERR, EPOCH + 123_999_999, b"line"),
            LogRecord(STDOUT, EPOCH, b"", Piece("e" * 32, 1, True)),
            LogRecord(STDOUT, EPOCH, b"end"),
        ]
        sink.send(records)
        sink.close()
        while len(server.messages) < 2:
            time.sleep(0.01)
        first, second = server.messages
    assert first == {
        "version": "1.1",
        "host": "host.example",
        "short_message": "line",
        "timestamp": EPOCH // 10**9 + 0.123,
        "level": 3,
        "_container_id": SOURCE.id,
        "_container_name": "web",
        "_image_id": SOURCE.image_id,
        "_image_name": "shop:1",
        "_command": "sh -c run",
        "_tag": SOURCE.tag,
        "_created": SOURCE.created,
        "_color": "red",
        "_own": "x",
    }
    assert (second["short_message"], second["level"]) == ("end", 6)


@pytest.mark.parametrize("kind", ["gzip", "zlib", "none"])
def test_compression(driver: GelfDriver, kind: str) -> None:
    with GelfUdp() as server:
        sent(driver, server, b"x" * 500, compression_type=kind)
        assert server.compressions == {kind}
        (size,) = server.datagrams
        assert size < 500 if kind != "none" else size > 500


def test_compression_without_options_and_its_level(driver: GelfDriver) -> None:
    line = os.urandom(4000).hex().encode() * 2
    sizes = []
    for options in ({}, {"compression_level": "0"}, {"compression_level": "9"}):
        with GelfUdp() as server:
            sent(driver, server, line, **options)
            assert server.compressions == {"gzip"}
            sizes.append(sum(server.datagrams))
    assert sizes[1] > len(line) > sizes[0] > sizes[2]


@pytest.mark.parametrize(
    ("size", "chunks"), [(600, 1), (1420, 1), (1421, 2), (2816, 2), (2817, 3), (16384, 12)]
)
def test_long_messages_come_in_chunks(driver: GelfDriver, size: int, chunks: int) -> None:
    """``size`` of the message, of which 1408 bytes are in each chunk."""
    with GelfUdp() as server:
        sent(driver, server, b"x", compression_type="none")
        line = b"y" * (size - server.datagrams[0] + 1)
        sent(driver, server, line, compression_type="none")
    assert server.lines() == ["x", line.decode()]
    assert len(server.datagrams) == 1 + chunks
    assert max(server.datagrams) <= 1420


def test_the_longest_message_fits(driver: GelfDriver) -> None:
    """Each zero byte takes six in JSON; and fields that leave no room for such a line are not in
    datagrams."""
    attributes = {"small": "x", "big": "b" * 80_000, "biggest": "c" * 100_000}
    source = msgspec.structs.replace(SOURCE, attributes=attributes)
    for server, options in ((GelfUdp(), {"compression_type": "none"}), (GelfTcp(), {})):
        with server:
            sent(driver, server, bytes(16384), source=source, **options)
            (message,) = server.messages
            assert message["short_message"] == "\0" * 16384
            assert message["_small"] == "x"
            assert len(message["_big"]) == 80_000
            assert ("_biggest" in message) is isinstance(server, GelfTcp)


def test_a_connection_that_the_collector_closed_takes_nothing(driver: GelfDriver) -> None:
    """Not even once: TCP itself would take the first lines after its end, and lose them."""
    record = LogRecord(STDOUT, EPOCH, b"line")
    with GelfTcp() as server:
        sink = driver.open(SOURCE, server.options)
        sink.send([record])
        while not server.messages:
            time.sleep(0.01)
    time.sleep(0.1)
    with pytest.raises(OSError, match=r"tcp://127.0.0.1:\d+: the collector closed") as closed:
        sink.send([record])
    assert isinstance(closed.value.__cause__, ConnectionResetError)
    sink.close()


def test_a_port_where_nobody_listens(driver: GelfDriver) -> None:
    with GelfUdp() as server:
        options = server.options
    record = LogRecord(STDOUT, EPOCH, b"line")
    sink = driver.open(SOURCE, options)
    with pytest.raises(OSError, match=r"udp://127.0.0.1:\d+: Connection refused"):
        sink.send([record] * 100)
    sink.close()


UDP, TCP = {"gelf-address": "udp://h:1"}, {"gelf-address": "tcp://h:1"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "^gelf-address is a required parameter"),
        ({"gelf-address": "h:1"}, "^gelf: endpoint needs to be TCP or UDP"),
        ({"gelf-address": "udp://h"}, "^gelf: please provide gelf-address as proto://host:port"),
        ({"gelf-address": "tcp://h:70000"}, "the port is not from 1 to 65535"),
        (TCP | {"gelf-compression-type": "gzip"}, "^compression is only supported on UDP"),
        (TCP | {"gelf-compression-level": "1"}, "^compression is only supported on UDP"),
        (UDP | {"gelf-compression-type": "xz"}, '^unknown value "xz" for log opt "gelf-compr'),
        (UDP | {"gelf-compression-level": "10"}, '^unknown value "10" for log opt "gelf-compr'),
        (UDP | {"gelf-compression-level": "-2"}, "gelf log driver"),
        (UDP | {"gelf-compression-level": ""}, "gelf log driver"),
        (UDP | {"gelf-tcp-max-reconnect": "1"}, '^"gelf-tcp-max-reconnect" is only valid for TCP'),
        (TCP | {"gelf-tcp-max-reconnect": "-1"}, '^"gelf-tcp-max-reconnect" must be a positive'),
        (TCP | {"gelf-tcp-reconnect-delay": "1s"}, '^"gelf-tcp-reconnect-delay" must be a pos'),
    ],
)
def test_options_that_are_wrong(driver: GelfDriver, options: dict[str, str], says: str) -> None:
    with pytest.raises(InvalidParameter, match=says):
        driver.validate(options)


@pytest.mark.parametrize(
    "options",
    [
        {"gelf-address": "udp://[::1]:12201", "gelf-compression-type": "zlib"},
        {"gelf-address": "udp://:12201", "gelf-compression-level": "-1"},
        TCP | {"gelf-tcp-max-reconnect": "0", "gelf-tcp-reconnect-delay": "5", "tag": "x"},
    ],
)
def test_options_that_are_right(driver: GelfDriver, options: dict[str, str]) -> None:
    driver.validate(options)
