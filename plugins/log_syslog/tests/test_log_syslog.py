"""The kit of sinks over every transport, and what the formats look like."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from pyengine.contracts.base import DriverContext
from pyengine.contracts.logging import STDERR, STDOUT
from pyengine.contracts.logsink import LogRecord, LogSinkDriver
from pyengine.errors import InvalidParameter
from pyengine.testing.logsink import EPOCH, SOURCE, LogSinkSuite
from pyengine_log_syslog import driver as module
from pyengine_log_syslog.driver import SyslogDriver
from pyengine_log_syslog.testing import Datagrams, Syslog


def reached(server: Syslog, scheme: str, **options: str) -> Syslog:
    """``server`` with the options that lead to it."""
    server.options = {"syslog-address": f"{scheme}://{server.address}", **options}
    return server


class Suite(LogSinkSuite):
    empty_lines = False

    def factory(self, context: DriverContext) -> LogSinkDriver:
        return SyslogDriver(context)


class TestOverTcp(Suite):
    @pytest.fixture
    def collector(self) -> Iterator[Syslog]:
        with Syslog() as server:
            yield reached(server, "tcp")


class TestOverAUnixStream(Suite):
    @pytest.fixture
    def collector(self, tmp_path: Path) -> Iterator[Syslog]:
        with Syslog(path=tmp_path / "log") as server:
            yield reached(server, "unix", **{"syslog-format": "rfc3164"})


class TestOverUnixDatagrams(Suite):
    @pytest.fixture
    def collector(self, tmp_path: Path) -> Iterator[Syslog]:
        with Datagrams(path=tmp_path / "log") as server:
            yield reached(server, "unixgram", **{"syslog-format": "rfc5424"})


class TestOverUdp(Suite):
    notices_loss = False

    @pytest.fixture
    def collector(self) -> Iterator[Syslog]:
        with Datagrams() as server:
            yield reached(server, "udp")


class TestOverTls(Suite):
    @pytest.fixture
    def collector(self, tmp_path: Path) -> Iterator[Syslog]:
        authority = trustme.CA()
        serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(serving)
        serving.verify_mode = ssl.CERT_REQUIRED
        authority.configure_trust(serving)
        own = authority.issue_cert("client.example")
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        own.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
        own.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
        with Syslog(tls=serving, counted=True) as server:
            yield reached(
                server,
                "tcp+tls",
                **{
                    "syslog-format": "rfc5424micro",
                    "syslog-tls-ca-cert": str(tmp_path / "ca.pem"),
                    "syslog-tls-cert": str(tmp_path / "cert.pem"),
                    "syslog-tls-key": str(tmp_path / "key.pem"),
                },
            )

    def test_an_authority_that_is_not_the_servers(
        self, driver: LogSinkDriver, collector: Syslog, tmp_path: Path
    ) -> None:
        trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
        options = {**collector.options, "syslog-tls-ca-cert": str(tmp_path / "other.pem")}
        with pytest.raises(OSError, match="certificate"):
            driver.open(SOURCE, options)
        sink = driver.open(SOURCE, {**options, "syslog-tls-skip-verify": "true"})
        sink.send([LogRecord(STDOUT, EPOCH, b"line")])
        sink.close()


@pytest.fixture
def driver(tmp_path: Path) -> SyslogDriver:
    return SyslogDriver(DriverContext("id", "pyengine", tmp_path, tmp_path))


@pytest.fixture
def in_utc_plus_2(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "EXAMPLE-2")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("", r"<27>Jan  2 05:04:05 0123456789ab\[\d+\]: line\n"),
        ("rfc3164", r"<27>Jan  2 05:04:05 host\.example 0123456789ab\[\d+\]: line\n"),
        (
            "rfc5424",
            r"<27>1 2026-01-02T05:04:05\+02:00 host\.example 0123456789ab \d+ "
            r"0123456789ab - line\n",
        ),
        (
            "rfc5424micro",
            r"<27>1 2026-01-02T05:04:05\.000123\+02:00 host\.example 0123456789ab \d+ "
            r"0123456789ab - line\n",
        ),
    ],
)
def test_formats(driver: SyslogDriver, in_utc_plus_2: None, form: str, message: str) -> None:
    got: list[bytes] = []

    class Raw(Datagrams):
        def take(self, datagram: bytes) -> None:
            got.append(datagram)

    with reached(Raw(), "udp") as server:
        sink = driver.open(SOURCE, {**server.options, "syslog-format": form})
        sink.send([LogRecord(STDERR, EPOCH + 123_456, b"line")])
        deadline = time.monotonic() + 10
        while not got and time.monotonic() < deadline:
            time.sleep(0.01)
        sink.close()
    assert re.fullmatch(message, got[0].decode())


@pytest.mark.parametrize(("facility", "number"), [("", 3), ("local7", 23), ("0", 0), ("16", 16)])
def test_priorities(driver: SyslogDriver, facility: str, number: int) -> None:
    with reached(Syslog(), "tcp", **{"syslog-facility": facility}) as server:
        sink = driver.open(SOURCE, server.options)
        sink.send([LogRecord(STDOUT, EPOCH, b"o"), LogRecord(STDERR, EPOCH, b"e")])
        sink.close()
        deadline = time.monotonic() + 10
        while len(server.messages) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert [priority for priority, _, _ in server.messages] == [number * 8 + 6, number * 8 + 3]


def test_the_local_daemon_is_found(
    driver: SyslogDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCAL", (str(tmp_path / "none"), str(tmp_path / "log")))
    with pytest.raises(OSError, match="no syslog daemon listens on this host"):
        driver.open(SOURCE, {})
    for kind in (Datagrams, Syslog):
        with kind(path=tmp_path / "log") as server:
            sink = driver.open(SOURCE, {})
            sink.send([LogRecord(STDOUT, EPOCH, b"line")])
            sink.close()
            deadline = time.monotonic() + 10
            while not server.messages and time.monotonic() < deadline:
                time.sleep(0.01)
            assert server.lines() == ["line"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"syslog-address": "127.0.0.1:514"}, "no scheme"),
        ({"syslog-address": "unixgram:///nowhere/log"}, "stat /nowhere/log: no such file"),
        ({"syslog-facility": "lunch"}, "invalid syslog facility"),
        ({"syslog-facility": "24"}, "invalid syslog facility"),
        ({"syslog-format": "xml"}, "Invalid syslog format"),
        (
            {"syslog-address": "tcp+tls://h", "syslog-tls-ca-cert": "/nowhere/ca.pem"},
            "/nowhere/ca.pem",
        ),
    ],
)
def test_options_that_are_wrong(driver: SyslogDriver, options: dict[str, str], says: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        driver.validate(options)
    assert says in refused.value.message()
