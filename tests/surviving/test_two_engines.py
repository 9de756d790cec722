"""Daemons beside each other: on one data root never, on two in peace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import EngineProcess, leftovers
from surviving import COUNTER, assert_no_gap, kill, until, zygote_of

#: Tells who it is on port 80, as a file.
SERVER = ("busybox", "httpd", "-f", "-p", "80", "-h", "/etc")


@pytest.fixture
def neighbour(
    engine: EngineProcess, tmp_path: Path, docker_binary: str, busybox: Path
) -> Iterator[EngineProcess]:
    """A second engine with roots of its own in the first one's network namespace."""
    second = EngineProcess(tmp_path, docker_binary)
    own, second.namespace = second.namespace, engine.namespace
    try:
        second.start()
        second.docker("import", str(busybox), "busybox")
        yield second
    finally:
        if second.alive:
            for id in second.lines("ps", "-aq"):
                second.docker("rm", "-f", id, check=False)
            second.stop()
        second.namespace = own
        second.dispose()


@pytest.mark.parametrize("shared", ["data", "run", "socket"])
def test_a_second_daemon_refuses(
    engine: EngineProcess, shared: str, tmp_path: Path, docker_binary: str
) -> None:
    id = engine.out("run", "-d", "busybox", "sleep", "600")
    second = EngineProcess(tmp_path, docker_binary)
    try:
        setattr(second, shared, getattr(engine, shared))
        second.start(wait=False)
        assert second.wait() == 1
        errors = [
            line for line in second.log.read_text().splitlines() if "pyengine daemon:" in line
        ]
        assert len(errors) == 1, second.tail()
        assert "Traceback" not in second.log.read_text()
        if shared == "data":
            assert f"another engine runs on {engine.data}" in errors[0]
        elif shared == "run":
            assert f"another engine uses {engine.run}" in errors[0]
        else:
            assert f"somebody listens on {engine.socket}" in errors[0]
        if shared != "socket":
            assert f"process {engine.pid}" in errors[0]
        # The first one has not noticed.
        assert engine.out("exec", id, "echo", "undisturbed") == "undisturbed"
    finally:
        second.data, second.run = tmp_path / "data", tmp_path / "run"
        second.socket = tmp_path / "s.sock"
        second.dispose()
        engine.docker("rm", "-f", id)


def reach(engine: EngineProcess, port: int) -> str:
    request = f"printf 'GET /hostname HTTP/1.0\\r\\n\\r\\n' | nc -w 2 127.0.0.1 {port} | tail -n 1"
    done = engine.in_namespace("sh", "-c", request)
    return done.stdout.strip()


def test_two_engines_do_not_disturb_each_other(
    engine: EngineProcess, neighbour: EngineProcess
) -> None:
    both = ((engine, "first", 18085), (neighbour, "second", 18086))
    for one, name, port in both:
        one.docker("run", "-d", "--name", "web", "-h", name, "-p", f"{port}:80", *SERVER)
        one.docker("run", "-d", "--name", "counter", "busybox", "sh", "-c", COUNTER)

    def fine() -> None:
        for one, name, port in both:
            until(lambda p=port, o=one, n=name: reach(o, p) == n, f"an answer of {name}", 5)
            assert one.out("exec", "counter", "echo", name) == name
            assert sorted(one.lines("ps", "--format", "{{.Names}}")) == ["counter", "web"]

    fine()
    kill(engine.pid, zygote_of(engine))
    engine.wait()
    assert neighbour.out("run", "--rm", "busybox", "echo", "beside") == "beside"
    until(lambda: reach(neighbour, 18086) == "second", "an answer of the second", 5)
    engine.start()
    fine()
    # A port of the one is taken for the other.
    taken = engine.docker("run", "--rm", "-p", "18086:80", "busybox", "true", check=False)
    assert taken.returncode == 125
    assert "18086" in taken.stderr
    assert "address already in use" in taken.stderr
    neighbour.kill()
    neighbour.start()
    fine()
    for one, _, _ in both:
        one.docker("stop", "counter")
        assert_no_gap(one.docker("logs", "counter").stdout)
    neighbour.docker("rm", "-f", "web", "counter")
    assert neighbour.stop() == 0
    # The second has taken away what is its own, and nothing else.
    until(lambda: reach(engine, 18085) == "first", "an answer of the first", 5)
    assert engine.out("exec", "web", "hostname") == "first"
    engine.docker("rm", "-f", "web", "counter")
    until(lambda: not leftovers(engine), "an empty host")


def test_a_flush_of_the_rules_is_healed(engine: EngineProcess) -> None:
    id = engine.out("run", "-d", "-h", "healed", "-p", "18087:80", *SERVER)
    until(lambda: reach(engine, 18087) == "healed", "an answer", 5)
    pid = engine.inspect(id)["State"]["Pid"]
    for command in (("flush", "ruleset"), ("delete", "table", *_table(engine))):
        done = engine.in_namespace("nft", *command)
        assert done.returncode == 0, done.stderr
        assert reach(engine, 18087) != "healed"
        until(lambda: reach(engine, 18087) == "healed", "an answer after the flush", 10)
        assert engine.inspect(id)["State"]["Pid"] == pid
        inside = engine.docker("exec", id, "ip", "route")
        assert "default" in inside.stdout
    engine.docker("rm", "-f", id)


def _table(engine: EngineProcess) -> list[str]:
    """Family and name of the engine's table."""
    prefix = "pe" + (engine.data / "engine-id").read_text().replace("-", "")[:6]
    tables = engine.in_namespace("nft", "list", "tables").stdout.splitlines()
    return next(line.split()[1:] for line in tables if prefix in line or "pyengine" in line)
