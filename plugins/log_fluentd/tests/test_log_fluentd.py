"""The kit of sinks, and what is the forward protocol's own."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
import trustme

from pyengine.bases import collectors
from pyengine.contracts.base import DriverContext
from pyengine.contracts.logging import STDERR, STDOUT
from pyengine.contracts.logsink import LogRecord, LogSinkDriver, Piece
from pyengine.errors import InvalidParameter
from pyengine.testing.logsink import EPOCH, SOURCE, LogSinkSuite
from pyengine_log_fluentd.driver import FluentdDriver
from pyengine_log_fluentd.testing import Fluentd


class Forward(Fluentd):
    @property
    def options(self) -> dict[str, str]:
        return {
            "fluentd-address": self.address if ":" in self.address else f"unix://{self.address}"
        }


class Acknowledged(Forward):
    @property
    def options(self) -> dict[str, str]:
        return {**super().options, "fluentd-request-ack": "true"}


class TestOverTcp(LogSinkSuite):
    def factory(self, context: DriverContext) -> LogSinkDriver:
        return FluentdDriver(context)

    @pytest.fixture
    def collector(self) -> Iterator[Fluentd]:
        with Forward() as server:
            yield server


class TestOverAUnixSocket(TestOverTcp):
    @pytest.fixture
    def collector(self, tmp_path: Path) -> Iterator[Fluentd]:
        with Forward(path=tmp_path / "s.sock") as server:
            yield server


class TestAcknowledged(TestOverTcp):
    @pytest.fixture
    def collector(self) -> Iterator[Fluentd]:
        with Acknowledged() as server:
            yield server


@pytest.fixture
def driver(tmp_path: Path) -> FluentdDriver:
    return FluentdDriver(DriverContext("id", "pyengine", tmp_path, tmp_path))


def test_the_fields_of_a_record(driver: FluentdDriver) -> None:
    with Acknowledged() as server:
        sink = driver.open(SOURCE, server.options)
        sink.send([LogRecord(STDERR, EPOCH + 5, b"line", Piece("e" * 32, 2, True))])
        sink.close()
        ((tag, when, record),) = server.entries
    assert (tag, when) == (SOURCE.tag, EPOCH // 10**9)
    assert record == {
        "container_id": SOURCE.id,
        "container_name": "/web",
        "source": "stderr",
        "log": "line",
        "color": "red",
        "partial_message": "true",
        "partial_id": "e" * 32,
        "partial_ordinal": "2",
        "partial_last": "true",
    }


def test_times_to_the_nanosecond(driver: FluentdDriver) -> None:
    """EventTime: extension type 0, seconds and nanoseconds, each of four bytes."""
    with Acknowledged() as server:
        options = {**server.options, "fluentd-sub-second-precision": "true"}
        sink = driver.open(SOURCE, options)
        sink.send([LogRecord(STDOUT, EPOCH + 123_456_789, b"line")])
        sink.close()
        when = server.entries[0][1]
    assert when == msgpack.ExtType(
        0, (EPOCH // 10**9).to_bytes(4, "big") + (123_456_789).to_bytes(4, "big")
    )


def test_a_collector_that_never_acknowledges(
    driver: FluentdDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collectors, "PATIENCE", 0.5)
    with Acknowledged(acknowledges=False) as server:
        sink = driver.open(SOURCE, server.options)
        server.silence()
        with pytest.raises(OSError, match=r"timed out|acknowledge"):
            sink.send([LogRecord(STDOUT, EPOCH, b"line")])
        sink.close()


def test_over_tls(driver: FluentdDriver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    authority = trustme.CA()
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(serving)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with Forward(tls=serving) as server:
        options = {"fluentd-address": f"tls://{server.address}", "fluentd-request-ack": "true"}
        with pytest.raises(OSError, match="certificate"):
            driver.open(SOURCE, options)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        sink = driver.open(SOURCE, options)
        sink.send([LogRecord(STDOUT, EPOCH, b"line")])
        sink.close()
        assert server.lines() == ["line"]


def test_chunks_are_named_as_the_protocol_has_it(driver: FluentdDriver) -> None:
    chunks = []

    class Server(Acknowledged):
        def talk(self, sock: object) -> None:
            unpacker = msgpack.Unpacker()
            unpacker.feed(sock.recv(1 << 16))  # type: ignore[attr-defined]
            _, entries, options = unpacker.unpack()
            chunks.append(options["chunk"])
            assert options["size"] == len(entries)
            sock.sendall(msgpack.packb({"ack": options["chunk"]}))  # type: ignore[attr-defined]

    for _ in range(2):
        with Server() as server:
            sink = driver.open(SOURCE, server.options)
            sink.send([LogRecord(STDOUT, EPOCH, b"line")] * 3)
            sink.close()
    assert [len(base64.b64decode(chunk)) for chunk in chunks] == [16, 16]
    assert chunks[0] != chunks[1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"fluentd-address": "tcp://h/path"}, "neither host:port nor"),
        ({"fluentd-address": "unix://"}, "a unix socket has a path"),
        ({"fluentd-async": "often"}, "neither true nor false"),
        ({"fluentd-max-retries": "-1"}, "is not from 0"),
        ({"fluentd-retry-wait": "1"}, "missing unit in duration"),
        ({"fluentd-async-reconnect-interval": "1m"}, "between 100ms and 10s"),
    ],
)
def test_options_that_are_wrong(driver: FluentdDriver, options: dict[str, str], says: str) -> None:
    with pytest.raises(InvalidParameter, match=says) as refused:
        driver.validate(options)
    assert refused.value


@pytest.mark.parametrize("address", ["h:1", "h", "tcp://[::1]:24224", "tls://h", "unix:///s", ""])
def test_addresses(driver: FluentdDriver, address: str) -> None:
    driver.validate({"fluentd-address": address})
