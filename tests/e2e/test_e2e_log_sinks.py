"""Containers whose lines go to a collector, whatever becomes of it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import processes_of

from pyengine_log_fluentd.testing import Fluentd
from tests.e2e.conftest import Docker, eventually
from tests.e2e.test_e2e_life import following


@pytest.fixture
def fluentd(tmp_path: Path) -> Iterator[Fluentd]:
    server = Fluentd(path=tmp_path / "fluentd.sock")
    yield server
    server.stop()


def to(path: Path, *more: str) -> tuple[str, ...]:
    flags = ["--log-driver", "fluentd", "--log-opt", f"fluentd-address=unix://{path}/fluentd.sock"]
    for option in more:
        flags += ["--log-opt", option]
    return tuple(flags)


def sinks(docker: Docker, name: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(docker.out("inspect", name))[0]["LogSinks"]
    return found


def test_fields_and_docker_logs(docker: Docker, fluentd: Fluentd, tmp_path: Path) -> None:
    flags = to(tmp_path, "tag=web.{{.Name}}", "labels=color", "env-regex=^SHOP_")
    name = docker.up(
        *flags, "--label", "color=red", "-e", "SHOP_ID=7", "-e", "OTHER=x", "busybox",
        "sh", "-c", "echo out; echo; echo err >&2; printf end",
    )  # fmt: skip
    assert eventually(lambda: len(fluentd.entries) == 4)
    assert fluentd.lines("stdout") == ["out", "", "end"]
    assert fluentd.lines("stderr") == ["err"]
    tag, when, record = fluentd.entries[0]
    assert tag == f"web.{name}"
    assert abs(when - time.time()) < 20
    assert record == {
        "container_id": docker.state(name, "{{.Id}}"),
        "container_name": f"/{name}",
        "source": "stdout",
        "log": "out",
        "color": "red",
        "SHOP_ID": "7",
    }
    assert docker("logs", name).stdout == "out\n\nend"
    assert docker.state(name, "{{.HostConfig.LogConfig.Type}}{{.LogPath}}") == "fluentd"
    assert eventually(lambda: sinks(docker, name)[0]["Waiting"] == 0)
    assert sinks(docker, name)[0]["Delivered"] == 4


def test_lines_arrive_while_it_runs_and_outlive_it(
    docker: Docker, fluentd: Fluentd, tmp_path: Path
) -> None:
    name = docker.up(*to(tmp_path), "busybox", "sh", "-c", "echo one; sleep 60")
    assert eventually(lambda: fluentd.lines() == ["one"])
    docker("rm", "-f", name)
    docker("run", "--rm", *to(tmp_path), "busybox", "echo", "two")
    assert eventually(lambda: fluentd.lines() == ["one", "two"])
    spools = docker.engine.data / "log-sinks" / "fluentd"
    assert eventually(lambda: not list(spools.iterdir())), "delivered, so it goes"


def test_a_line_of_many_pieces(docker: Docker, fluentd: Fluentd, tmp_path: Path) -> None:
    docker(
        "run",
        "--rm",
        *to(tmp_path),
        "busybox",
        "sh",
        "-c",
        "yes ab | head -c 60000 | tr -d '\n'; echo",
    )
    assert eventually(lambda: fluentd.entries and fluentd.entries[-1][2]["partial_last"] == "true")
    assert "".join(fluentd.lines()) == "ab" * 20000
    records = [record for _, _, record in fluentd.entries]
    assert [record["partial_ordinal"] for record in records] == ["1", "2", "3"]
    assert len({record["partial_id"] for record in records}) == 1


def test_a_collector_that_comes_later(docker: Docker, tmp_path: Path) -> None:
    name = docker.name()
    filters = ("--filter", f"container={name}", "--filter", "event=log_failed")
    with following(docker, "events", *filters, "--format", "{{.Actor.Attributes.error}}") as events:
        time.sleep(0.3)
        docker("run", "--name", name, *to(tmp_path), "busybox", "seq", "1000")
        assert events.stdout is not None
        assert "No such file" in events.stdout.readline()
    assert docker.state(name) == "exited"
    assert "No such file" in str(sinks(docker, name)[0]["Error"])
    assert sinks(docker, name)[0]["Delivered"] == 0
    server = Fluentd(path=tmp_path / "fluentd.sock")
    try:
        assert eventually(lambda: len(server.entries) == 1000, 20)
        assert server.lines() == [str(number) for number in range(1, 1001)]
        assert eventually(lambda: sinks(docker, name)[0]["Error"] == "")
    finally:
        server.stop()


def test_a_black_hole_holds_up_nobody(docker: Docker, tmp_path: Path) -> None:
    server = Fluentd(path=tmp_path / "fluentd.sock", silent=True)
    try:
        script = "trap 'exit 0' TERM; i=0; while :; do i=$((i+1)); echo line $i; done"
        name = docker.up(*to(tmp_path), "busybox", "sh", "-c", script)
        time.sleep(1)
        began = time.monotonic()
        docker("stop", "-t", "5", name)
        assert time.monotonic() - began < 3
        assert docker.state(name, "{{.State.ExitCode}}") == "0"
        assert int(str(sinks(docker, name)[0]["Waiting"])) > 10_000
        docker("rm", name)
    finally:
        server.stop()


def test_only_so_much_waits_and_the_rest_is_counted(docker: Docker, tmp_path: Path) -> None:
    """Delivered and dropped are together what it wrote, by record."""
    wrote = 60_000
    flags = to(tmp_path, "mode=non-blocking", "max-buffer-size=128k")
    name = docker.up(*flags, "busybox", "sh", "-c", f"seq {wrote}; sleep 60")
    assert eventually(lambda: docker.out("logs", "--tail", "1", name) == str(wrote))
    id = docker.state(name, "{{.Id}}")
    spool = docker.engine.data / "log-sinks" / "fluentd" / id / "spool"
    assert sum(file.stat().st_size for file in spool.iterdir()) <= 128 * 1024 + 70_000
    server = Fluentd(path=tmp_path / "fluentd.sock")
    try:
        assert eventually(lambda: str(wrote) in server.lines()[-1:], 20)
        assert eventually(lambda: sinks(docker, name)[0]["Waiting"] == 0)
        status = sinks(docker, name)[0]
        assert status["Delivered"] == len(server.entries)
        assert int(str(status["DroppedRecords"])) > 0
        assert int(str(status["DroppedRecords"])) + len(server.entries) == wrote
        assert server.lines()[-100:] == [str(n) for n in range(wrote - 99, wrote + 1)]
    finally:
        server.stop()
    span = ("--since", docker.state(name, "{{.Created}}"), "--until", str(int(time.time()) + 1))
    filters = ("--filter", "event=log_dropped", "--filter", f"container={name}")
    shown = docker.out("events", *span, *filters, "--format", "{{.Actor.Attributes.records}}")
    assert sum(map(int, shown.split())) == status["DroppedRecords"]


def test_a_sink_that_dies_goes_on(docker: Docker, fluentd: Fluentd, tmp_path: Path) -> None:
    script = "i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo $i; usleep 5000; done"
    docker.up(*to(tmp_path, "fluentd-request-ack=true"), "busybox", "sh", "-c", script)
    assert eventually(lambda: len(fluentd.entries) > 50)
    killed = 0
    for pid in processes_of(docker.engine.root):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue  # one of the container's, which come and go
        if b"pyengine.logs.process" in command:
            os.kill(pid, signal.SIGKILL)
            killed += 1
    assert killed, "there is one for each driver that was in use"
    assert eventually(lambda: "400" in fluentd.lines(), 20)
    lines = fluentd.lines()
    assert sorted(set(map(int, lines))) == list(range(1, 401)), "nothing is missing"
    assert len(lines) < 450, "and little came twice"


def test_two_places_at_once(docker: Docker, fluentd: Fluentd, tmp_path: Path) -> None:
    address = f"fluentd-address=unix://{tmp_path}/fluentd.sock"
    name = docker.up(
        "--log-driver", "json-file,fluentd", "--log-opt", "max-size=1m", "--log-opt", address,
        "--log-opt", "fluentd.tag=there", "busybox", "echo", "both",
    )  # fmt: skip
    assert eventually(lambda: fluentd.lines() == ["both"])
    assert fluentd.entries[0][0] == "there"
    assert docker.out("logs", name) == "both"
    docker.fails(
        "create", "--log-driver", "json-file,none", "busybox", code=1, says="both keep the log"
    )
    docker.fails(
        "create", "--log-driver", "json-file,fluentd", "--log-opt", "nonsense=1", "busybox",
        code=1, says="unknown log opt 'nonsense' for json-file, fluentd log driver",
    )  # fmt: skip


def test_several_drivers_for_all_containers(
    engine_with: Any, fluentd: Fluentd, tmp_path: Path
) -> None:
    address = f"unix://{tmp_path}/fluentd.sock"
    engine = engine_with(
        log_driver="local, fluentd",
        log_opts={"fluentd-address": address, "max-size": "1m", "tag": "all"},
    )
    engine.docker("run", "--name", "both", "busybox", "echo", "hi")
    assert eventually(lambda: fluentd.lines() == ["hi"])
    assert fluentd.entries[0][0] == "all"
    assert engine.out("logs", "both") == "hi"
    config = engine.inspect("both")["HostConfig"]["LogConfig"]
    assert config["Type"] == "local, fluentd"
    assert config["Config"]["fluentd-address"] == address
    engine.docker("run", "--name", "one", "--log-driver", "json-file", "busybox", "echo", "own")
    assert engine.inspect("one")["HostConfig"]["LogConfig"]["Config"] == {}
    assert fluentd.lines() == ["hi"]
    assert engine.out("info", "-f", "{{.LoggingDriver}}") == "local"


def test_options_that_are_wrong(docker: Docker) -> None:
    for option, says in (
        ("nonsense=1", "unknown log opt 'nonsense' for fluentd log driver"),
        ("fluentd-address=gopher://x", "unsupported scheme 'gopher'"),
        ("fluentd-address=tcp://h:99999", "the port is not from 1 to 65535"),
        ("fluentd-request-ack=maybe", "neither true nor false: 'maybe'"),
        ("mode=sometimes", "logger: logging mode not supported: sometimes"),
        ("max-buffer-size=2m", "only supported with 'mode=non-blocking'"),
        ("tag={{.Nonsense}}", "asks for .Nonsense"),
    ):
        words = ("create", "--log-driver", "fluentd", "--log-opt", option, "busybox")
        docker.fails(*words, code=1, says=says)


def test_without_a_log_here(docker: Docker, fluentd: Fluentd, tmp_path: Path) -> None:
    name = docker.up(*to(tmp_path, "cache-disabled=true"), "busybox", "echo", "there")
    assert eventually(lambda: fluentd.lines() == ["there"])
    says = "configured logging driver does not support reading"
    docker.fails("logs", name, code=1, says=says)
