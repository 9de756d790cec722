"""rsyslogd, the daemon that most hosts run, reads what the driver sends."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyengine.contracts.base import DriverContext
from pyengine.contracts.logging import STDERR, STDOUT
from pyengine.contracts.logsink import LogRecord
from pyengine.testing.logsink import EPOCH, SOURCE
from pyengine_log_syslog.driver import SyslogDriver

CONFIG = """
global(workDirectory="{root}" net.enableDNS="off")
module(load="imuxsock" SysSock.Use="off")
module(load="imtcp")
input(type="imuxsock" Socket="{root}/log" useSysTimeStamp="off" ParseHostname="off")
input(type="imtcp" port="0" address="127.0.0.1" listenPortFileName="{root}/port")
template(name="parsed" type="string"
    string="%syslogfacility-text%.%syslogseverity-text% %hostname% %programname%:%msg%\\n")
action(type="omfile" file="{root}/out" template="parsed")
"""


class Rsyslog:
    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "conf").write_text(CONFIG.format(root=root))
        command = ["rsyslogd", "-n", "-f", str(root / "conf"), "-i", str(root / "pid")]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE)
        self.until(lambda: (root / "port").exists() and (root / "log").exists())

    @property
    def port(self) -> int:
        return int((self.root / "port").read_text())

    def lines(self) -> list[str]:
        path = self.root / "out"
        return path.read_text().splitlines() if path.exists() else []

    def until(self, holds: object) -> None:
        assert callable(holds)
        deadline = time.monotonic() + 20
        while not holds():
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline, self.lines()
            time.sleep(0.02)


@pytest.fixture
def rsyslog(tmp_path: Path) -> Iterator[Rsyslog]:
    server = Rsyslog(tmp_path)
    yield server
    server.process.terminate()
    server.process.communicate()


@pytest.mark.parametrize(
    ("where", "form"),
    [
        # Local messages name no host: it is this one.
        ("unixgram://{root}/log", ""),
        ("tcp://127.0.0.1:{port}", "rfc3164"),
        ("tcp://127.0.0.1:{port}", "rfc5424"),
        ("tcp://127.0.0.1:{port}", "rfc5424micro"),
    ],
)
def test_a_message_is_understood(rsyslog: Rsyslog, tmp_path: Path, where: str, form: str) -> None:
    driver = SyslogDriver(DriverContext("id", "pyengine", tmp_path, tmp_path))
    options = {
        "syslog-address": where.format(root=tmp_path, port=rsyslog.port),
        "syslog-format": form,
        "syslog-facility": "local3",
    }
    driver.validate(options)
    sink = driver.open(SOURCE, options)
    sink.send([LogRecord(STDOUT, EPOCH, b"one line"), LogRecord(STDERR, EPOCH, b"another")])
    sink.send([LogRecord(STDOUT, EPOCH, b"%d" % number) for number in range(300)])
    sink.close()
    rsyslog.until(lambda: len(rsyslog.lines()) >= 302)
    # MSG of RFC 3164 begins after the colon, with the space.
    gap = "" if "5424" in form else " "
    host = SOURCE.host if form else os.uname().nodename
    assert rsyslog.lines()[:2] == [
        f"local3.info {host} {SOURCE.tag}:{gap}one line",
        f"local3.err {host} {SOURCE.tag}:{gap}another",
    ]
    assert rsyslog.lines()[-1].endswith("299")
