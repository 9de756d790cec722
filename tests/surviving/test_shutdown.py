"""SIGTERM: containers are stopped in good order, or left running with live-restore."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import EngineProcess, cgroups_named, leftovers, mounts_below, processes_of
from surviving import COUNTER, alive, assert_no_gap, counted, until

Make = Callable[..., EngineProcess]


@pytest.fixture
def make(tmp_path: Path, docker_binary: str, busybox: Path) -> Iterator[Make]:
    """Makes an engine with these flags."""
    made: list[EngineProcess] = []

    def make(*flags: str) -> EngineProcess:
        engine = EngineProcess(tmp_path / str(len(made)), docker_binary, *flags)
        made.append(engine)
        engine.root.mkdir()
        engine.start()
        engine.docker("import", str(busybox), "busybox")
        return engine

    yield make
    for engine in made:
        engine.dispose()


def test_containers_end_in_their_own_way_or_are_killed(make: Make) -> None:
    engine = make("--shutdown-timeout", "2")
    polite = engine.out("run", "-d", "busybox", "sh", "-c", COUNTER)
    stubborn = engine.out("run", "-d", "busybox", "sh", "-c", "trap '' TERM; sleep 600")
    endless = engine.out(
        "run", "-d", "--stop-timeout", "-1", "busybox", "sh", "-c", "trap '' TERM; sleep 600"
    )
    paused = engine.out("run", "-d", "--network", "none", "busybox", "sleep", "600")
    until(lambda: len(counted(engine.out("logs", polite))) > 20, "20 lines")
    engine.docker("pause", paused)
    began = time.monotonic()
    assert engine.stop() == 0
    assert 2 <= time.monotonic() - began < 5
    engine.start()
    ids = (polite, stubborn, endless, paused)
    assert [engine.inspect(id)["State"]["Status"] for id in ids] == ["exited"] * 4
    assert [engine.inspect(id)["State"]["ExitCode"] for id in ids] == [7, 137, 137, 137]
    assert_no_gap(engine.docker("logs", polite).stdout)
    engine.docker("rm", *ids)


def test_nothing_is_left_after_a_clean_stop(make: Make) -> None:
    engine = make("--shutdown-timeout", "2")
    prefix = "pe" + (engine.data / "engine-id").read_text().replace("-", "")[:6]
    engine.docker("network", "create", "mine")
    engine.docker("run", "-d", "-p", "18083:80", "-v", "kept:/kept", "busybox", "sh", "-c", COUNTER)
    engine.docker("run", "-d", "--network", "mine", "busybox", "sh", "-c", COUNTER)
    assert engine.in_namespace("nft", "list", "tables").stdout != ""
    assert engine.stop() == 0
    assert leftovers(engine) == [
        f"directory {path.name}" for path in (engine.data / "containers").iterdir()
    ]
    links = engine.in_namespace("ip", "-o", "link").stdout.splitlines()
    assert [line.split()[1] for line in links] == ["lo:"]
    assert engine.in_namespace("nft", "list", "tables").stdout == ""
    assert cgroups_named(prefix) == []
    assert mounts_below(engine.root) == []
    assert processes_of(engine.root) == []
    assert sorted(p.name for p in engine.root.iterdir()) == ["daemon.log", "data", "run"]


def test_live_restore_leaves_them_running(make: Make) -> None:
    engine = make("--live-restore")
    id = engine.out("run", "-d", "-p", "18084:80", "busybox", "sh", "-c", COUNTER)
    pid = engine.inspect(id)["State"]["Pid"]
    began = time.monotonic()
    assert engine.stop() == 0
    assert time.monotonic() - began < 2
    assert alive(pid)
    time.sleep(0.3)
    engine.start()
    assert engine.inspect(id)["State"]["Pid"] == pid
    engine.docker("stop", id)
    assert engine.inspect(id)["State"]["ExitCode"] == 7
    assert_no_gap(engine.docker("logs", id).stdout)


def test_clients_that_wait_and_follow_are_let_go(make: Make) -> None:
    engine = make()
    id = engine.out(
        "run", "-d", "busybox", "sh", "-c", "trap 'exit 5' TERM; while :; do sleep 1; done"
    )
    clients = [
        subprocess.Popen(engine.command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for words in (("logs", "-f", id), ("events",), ("wait", id), ("attach", id))
    ]
    try:
        time.sleep(0.5)
        began = time.monotonic()
        assert engine.stop() == 0
        assert time.monotonic() - began < 4
    finally:
        for client in clients:
            client.communicate(timeout=10)


def test_restart_policies_across_daemons(make: Make) -> None:
    engine = make("--shutdown-timeout", "2")
    policies = ("no", "always", "unless-stopped", "on-failure:2")
    for policy in policies:
        for suffix in ("", ".stopped"):
            name = policy.replace(":", "-") + suffix
            engine.docker(
                "run", "-d", "--name", name, "--restart", policy,
                "busybox", "sh", "-c", "trap 'exit 3' TERM; while :; do usleep 50000; done",
            )  # fmt: skip
            if suffix:
                engine.docker("stop", name)
    assert engine.stop() == 0
    engine.start()
    # It answers more than a look at the records when they have been started.
    for name in ("always", "always.stopped", "unless-stopped"):
        assert engine.inspect(name)["State"]["Status"] == "running", name
    time.sleep(0.3)
    running = sorted(engine.lines("ps", "--format", "{{.Names}}"))
    assert running == ["always", "always.stopped", "unless-stopped"]
    # A failure under on-failure:2 is tried twice, and no more after another daemon came.
    engine.docker("run", "-d", "--name", "fails", "--restart", "on-failure:2", "busybox", "false")
    until(lambda: engine.inspect("fails")["RestartCount"] == 2, "two tries")
    until(lambda: engine.inspect("fails")["State"]["Status"] == "exited", "giving up")
    engine.kill()
    engine.start()
    time.sleep(0.3)
    assert engine.inspect("fails")["State"]["Status"] == "exited"
    assert engine.inspect("fails")["RestartCount"] == 2
