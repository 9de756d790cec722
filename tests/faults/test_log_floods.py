"""A flood of lines into each log driver: none is lost, or it is known how many.

The amount is PYENGINE_FLOOD megabytes, 200 if it is not set.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import EngineProcess

from pyengine.testing.collectors import Collector
from pyengine_log_fluentd.testing import Fluentd
from pyengine_log_gelf.testing import GelfTcp
from pyengine_log_journald.testing import Journal
from pyengine_log_syslog.testing import Syslog

pytestmark = pytest.mark.faults

LINE = "a line of the flood with some words in it, and its end at the eightieth letter."
LINES = int(os.environ.get("PYENGINE_FLOOD", "200")) * 1_000_000 // (len(LINE) + 1)
FLOOD = ("busybox", "sh", "-c", f"yes '{LINE}' | head -n {LINES}")
WITHIN = 300.0


class ManyFluentd(Fluentd):
    """Counts, as two million records would not fit."""

    count = 0
    wrong = 0

    def keep(self, tag: str, entries: list[Any]) -> None:
        self.count += len(entries)
        self.wrong += sum(record["log"] != LINE for _, record in entries)


class ManySyslog(Syslog):
    count = 0
    wrong = 0

    def take(self, datagram: bytes) -> None:
        self.count += 1
        self.wrong += not datagram.endswith(LINE.encode())


class ManyGelf(GelfTcp):
    count = 0
    wrong = 0

    def keep(self, data: bytes) -> None:
        self.count += 1
        self.wrong += LINE.encode() not in data


class ManyEntries(Journal):
    count = 0
    wrong = 0

    def take(self, datagram: bytes) -> None:
        self.count += 1
        self.wrong += b"MESSAGE=" + LINE.encode() not in datagram


#: A server, and the option that leads to it.
SINKS: dict[str, tuple[Callable[..., Any], str]] = {
    "fluentd": (ManyFluentd, "fluentd-address=unix://{}"),
    "syslog": (ManySyslog, "syslog-address=unix://{}"),
    "gelf": (ManyGelf, "gelf-address=tcp://{}"),
    "journald": (ManyEntries, "journald-socket={}"),
}


@pytest.fixture
def collector(
    request: pytest.FixtureRequest, tmp_path: Path, engine: EngineProcess
) -> Iterator[Collector]:
    where: dict[str, Any] = {"path": tmp_path / "sock"}
    if request.param == "gelf":
        where = {"namespace": engine.namespace}
    with SINKS[request.param][0](**where) as server:
        yield server


def flags(driver: str, collector: Collector, *options: str) -> list[str]:
    given = ["--log-driver", driver, "--log-opt", SINKS[driver][1].format(collector.address)]
    return given + [word for option in options for word in ("--log-opt", option)]


def run(engine: EngineProcess, *words: str) -> str:
    """Begin the flood and wait until the container has ended: its name."""
    name = engine.out("run", "-d", *words, *FLOOD)
    assert engine.docker("wait", name, timeout=WITHIN).stdout.strip() == "0"
    return name


def status(engine: EngineProcess, name: str) -> dict[str, Any]:
    sink: dict[str, Any] = json.loads(engine.out("inspect", name))[0]["LogSinks"][0]
    return sink


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + WITHIN
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_a_log_kept_here_loses_nothing(engine: EngineProcess, driver: str) -> None:
    name = run(engine, "--log-driver", driver, "--log-opt", "max-size=10g",
               "--log-opt", "compress=false")  # fmt: skip
    count = subprocess.run(
        f"{' '.join(engine.command('logs', name))} | grep -cxF '{LINE}'",
        shell=True, capture_output=True, text=True, check=True, timeout=WITHIN,
    )  # fmt: skip
    assert int(count.stdout) == LINES
    engine.docker("rm", "-v", name)


@pytest.mark.parametrize("collector", SINKS, indirect=True)
def test_a_sink_loses_nothing(
    engine: EngineProcess, collector: Any, request: pytest.FixtureRequest
) -> None:
    driver = request.node.callspec.params["collector"]
    name = run(engine, *flags(driver, collector))
    until(lambda: status(engine, name)["Delivered"] == LINES)
    until(lambda: collector.count == LINES)
    assert collector.wrong == 0
    assert status(engine, name)["DroppedRecords"] == 0
    engine.docker("rm", "-v", name)


@pytest.mark.parametrize("collector", SINKS, indirect=True)
def test_what_a_sink_drops_is_counted(
    engine: EngineProcess, collector: Any, request: pytest.FixtureRequest
) -> None:
    """A collector that reads nothing for a while, and a megabyte that may wait."""
    driver = request.node.callspec.params["collector"]
    collector.silent = True
    name = run(engine, *flags(driver, collector, "mode=non-blocking", "max-buffer-size=1m"))
    collector.silent = False
    until(lambda: status(engine, name)["Waiting"] == 0)
    sink = status(engine, name)
    assert sink["DroppedRecords"] > LINES // 2
    assert sink["Delivered"] + sink["DroppedRecords"] == LINES
    until(lambda: collector.count >= sink["Delivered"])
    engine.docker("rm", "-v", name)


@pytest.mark.parametrize("collector", ["fluentd"], indirect=True)
def test_stop_keeps_its_time_with_a_black_hole(engine: EngineProcess, collector: Any) -> None:
    collector.silent = True
    script = f"trap 'exit 0' TERM; yes '{LINE}' & wait"
    name = engine.out("run", "-d", *flags("fluentd", collector), "busybox", "sh", "-c", script)
    time.sleep(3)
    began = time.monotonic()
    engine.docker("stop", "-t", "5", name)
    assert time.monotonic() - began < 5
    engine.docker("rm", "-v", name)
