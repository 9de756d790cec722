"""The kit of sinks, what is the journal's own, and a real journal."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pyengine.contracts.base import DriverContext
from pyengine.contracts.logging import STDERR, STDOUT
from pyengine.contracts.logsink import LogRecord, LogSinkDriver, LogSource, Piece
from pyengine.errors import InvalidParameter
from pyengine.testing.logsink import EPOCH, SOURCE, LogSinkSuite
from pyengine_log_journald.driver import JournaldDriver
from pyengine_log_journald.testing import Journal

JOURNALD = Path("/lib/systemd/systemd-journald")


class TestJournald(LogSinkSuite):
    def factory(self, context: DriverContext) -> LogSinkDriver:
        return JournaldDriver(context)

    @pytest.fixture
    def collector(self, tmp_path: Path) -> Iterator[Journal]:
        with Journal(tmp_path / "socket") as server:
            yield server


@pytest.fixture
def driver(tmp_path: Path) -> JournaldDriver:
    return JournaldDriver(DriverContext("id", "pyengine", tmp_path, tmp_path))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "socket") as server:
        yield server


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def sent(
    driver: JournaldDriver, options: dict[str, str], *records: LogRecord, **changes: Any
) -> None:
    """Send the records of a source that is changed so."""
    source: LogSource = msgspec.structs.replace(SOURCE, **changes)
    sink = driver.open(source, options)
    sink.send(records)
    sink.close()


def test_the_fields_of_an_entry(driver: JournaldDriver, journal: Journal) -> None:
    line = LogRecord(STDOUT, EPOCH + 1_200_000, b"line")
    sent(driver, journal.options, line, LogRecord(STDERR, EPOCH, b"= err"), tag="web.1")
    until(lambda: len(journal.entries) == 2)
    first, second = journal.entries
    epoch = first.pop("CONTAINER_LOG_EPOCH")
    assert first == {
        "MESSAGE": b"line",
        "PRIORITY": b"6",
        "CONTAINER_ID": SOURCE.id[:12].encode(),
        "CONTAINER_ID_FULL": SOURCE.id.encode(),
        "CONTAINER_NAME": b"web",
        "CONTAINER_TAG": b"web.1",
        "IMAGE_NAME": b"shop:1",
        "SYSLOG_IDENTIFIER": b"web.1",
        "SYSLOG_TIMESTAMP": b"2026-01-02T03:04:05.0012Z",
        "CONTAINER_LOG_ORDINAL": b"1",
        "COLOR": b"red",
    }
    assert (second["MESSAGE"], second["PRIORITY"]) == (b"= err", b"3")
    assert (second["CONTAINER_LOG_EPOCH"], second["CONTAINER_LOG_ORDINAL"]) == (epoch, b"2")
    sent(driver, journal.options, line)
    until(lambda: len(journal.entries) == 3)
    assert journal.entries[2]["CONTAINER_LOG_EPOCH"] != epoch


def test_fields_of_pieces(driver: JournaldDriver, journal: Journal) -> None:
    pieces = (Piece("e" * 32, 1, False), Piece("e" * 32, 2, True), None)
    records = [LogRecord(STDOUT, EPOCH, b"x", piece) for piece in pieces]
    sent(driver, journal.options, *records)
    until(lambda: len(journal.entries) == 3)
    found = [
        {name[18:]: value for name, value in entry.items() if name.startswith("CONTAINER_PARTIAL_")}
        for entry in journal.entries
    ]
    id = b"e" * 32
    assert found == [
        {"MESSAGE": b"true", "ID": id, "ORDINAL": b"1", "LAST": b"false"},
        {"ID": id, "ORDINAL": b"2", "LAST": b"true"},
        {},
    ]


def test_names_and_values_of_attributes(driver: JournaldDriver, journal: Journal) -> None:
    attributes = {
        "com.example.team-Name": "a",
        "__lead": "b",
        "größe": "c",
        "several": "one\ntwo\n",
        "9lives": "begins with a digit",
        "._.": "has nothing that could be in a name",
        "long" * 17: "x",
        "message": "the line is another",
        "priority": "0",
    }
    sent(driver, journal.options, LogRecord(STDOUT, EPOCH, b"line"), attributes=attributes)
    until(lambda: journal.entries)
    (entry,) = journal.entries
    own = {
        name: value
        for name, value in entry.items()
        if not name.startswith(("CONTAINER_", "IMAGE_", "SYSLOG_"))
    }
    assert own == {
        "MESSAGE": b"line",
        "PRIORITY": b"6",
        "COM_EXAMPLE_TEAM_NAME": b"a",
        "LEAD": b"b",
        "GR__E": b"c",
        "SEVERAL": b"one\ntwo\n",
    }


def test_what_is_too_big_for_a_datagram(driver: JournaldDriver, journal: Journal) -> None:
    big = {"big": "x" * 500_000, "lines": "y\n" * 250_000}
    record = LogRecord(STDOUT, EPOCH, b"line")
    sent(driver, journal.options, record, record, attributes=big)
    until(lambda: len(journal.entries) == 2)
    assert journal.big == 2
    assert journal.entries[1]["LINES"] == b"y\n" * 250_000


def test_without_a_journal(driver: JournaldDriver, tmp_path: Path) -> None:
    nobody = {"journald-socket": str(tmp_path / "none")}
    says = "^journald is not enabled on this host"
    with pytest.raises(InvalidParameter, match=says) as refused:
        driver.validate(nobody)
    assert "No such file" in refused.value.detail
    with pytest.raises(OSError, match="No such file"):
        driver.open(SOURCE, nobody)
    with pytest.raises(InvalidParameter, match="no absolute path"):
        driver.validate({"journald-socket": "journal/socket"})
    if not Path("/run/systemd/journal/socket").exists():
        with pytest.raises(InvalidParameter, match=says):
            driver.validate({})


# -- systemd's own -------------------------------------------------------------------------------

# Its /run is a directory of the test's; and it shall leave the kernel's audit as it is.
_SCRIPT = """
set -e
mount --make-rprivate /
mkdir -p "$1/log/journal" "$1/systemd/journald.conf.d"
printf '[Journal]\\nStorage=volatile\\nAudit=\\nReadKMsg=no\\nRateLimitIntervalSec=0\\n' \
    >"$1/systemd/journald.conf.d/test.conf"
mount --bind "$1" /run
exec "$2"
"""


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Path]:
    """The ``/run`` of a real systemd-journald."""
    if not JOURNALD.exists():
        pytest.skip("needs systemd-journald")
    run = tmp_path / "run"
    process = subprocess.Popen(["unshare", "-m", "sh", "-c", _SCRIPT, "sh", str(run), JOURNALD])
    try:
        until(lambda: (run / "systemd/journal/socket").exists() or process.poll() is not None)
        yield run
    finally:
        process.terminate()
        process.wait()


def test_a_real_journal(driver: JournaldDriver, systemd: Path) -> None:
    options = {"journald-socket": str(systemd / "systemd/journal/socket")}
    driver.validate(options)
    attributes = {"com.example": "one\ntwo", "big": "x" * 500_000}
    records = [
        LogRecord(STDOUT, EPOCH, b"out", Piece("e" * 32, 1, False)),
        LogRecord(STDERR, EPOCH, "grün".encode()),
        LogRecord(STDOUT, EPOCH, b""),
        LogRecord(STDOUT, EPOCH, b"\xff\x00"),
    ]
    sent(driver, options, *records, attributes=attributes)
    found: list[dict[str, Any]] = []

    def arrived() -> bool:
        found[:] = entries(systemd)
        return len(found) == len(records)

    until(arrived)
    assert [entry["MESSAGE"] for entry in found] == ["out", "grün", "", [255, 0]]
    assert [entry["PRIORITY"] for entry in found] == ["6", "3", "6", "6"]
    assert all(entry["COM_EXAMPLE"] == "one\ntwo" for entry in found)
    assert all(entry["BIG"] == "x" * 500_000 for entry in found)
    assert found[0]["CONTAINER_ID_FULL"] == SOURCE.id
    assert found[0]["CONTAINER_PARTIAL_MESSAGE"] == "true"


def entries(run: Path) -> list[dict[str, Any]]:
    (directory,) = (run / "log/journal").iterdir()
    shown = subprocess.run(
        ["journalctl", f"--directory={directory}", "-o", "json", "--all", "CONTAINER_NAME=web"],
        capture_output=True,
        check=True,
    )
    return [json.loads(line) for line in shown.stdout.splitlines()]
