"""kill -9 of the engine's processes while containers run and write."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from harness import EngineProcess, cgroups_named, leftovers
from surviving import (
    COUNTER,
    alive,
    assert_no_gap,
    counted,
    has_shim,
    kill,
    shim_of,
    until,
    zygote_of,
)

KILLS = ("daemon", "zygote", "daemon and zygote")


def kill_and_restart(engine: EngineProcess, what: str) -> None:
    """SIGKILL these processes at once; afterwards a daemon answers."""
    zygote = zygote_of(engine)
    victims = {"daemon": [engine.pid], "zygote": [zygote]}.get(what, [engine.pid, zygote])
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    if engine.pid in victims:
        engine.wait()
        engine.start()
    else:
        until(lambda: not alive(zygote), "the zygote's end")


@pytest.mark.parametrize("what", KILLS)
def test_a_container_goes_on_and_can_be_used(engine: EngineProcess, what: str) -> None:
    id = engine.out("run", "-d", "--name", "counter", "busybox", "sh", "-c", COUNTER)
    try:
        until(lambda: len(counted(engine.out("logs", "counter"))) > 50, "50 lines")
        before = engine.inspect("counter")
        kill_and_restart(engine, what)
        after = engine.inspect("counter")
        assert after["State"] == before["State"]
        assert after["NetworkSettings"] == before["NetworkSettings"]
        assert engine.out("ps", "-q", "--no-trunc") == id
        assert engine.out("exec", "counter", "echo", "still here") == "still here"
        seen = len(counted(engine.out("logs", "counter")))
        with subprocess.Popen(
            engine.command("logs", "-f", "counter"), stdout=subprocess.PIPE, text=True
        ) as follower:
            until(lambda: len(counted(engine.out("logs", "counter"))) > seen + 50, "50 more lines")
            engine.docker("stop", "counter")
            followed, _ = follower.communicate(timeout=10)
        assert engine.inspect("counter")["State"]["ExitCode"] == 7
        assert engine.out("wait", "counter") == "7"
        whole = engine.docker("logs", "counter").stdout
        assert followed == whole
        assert_no_gap(whole)
    finally:
        engine.docker("rm", "-f", "counter", check=False)
    # What runs next is as good as ever.
    assert engine.out("run", "--rm", "busybox", "echo", "next") == "next"
    until(lambda: not leftovers(engine), "an empty host")


@pytest.mark.parametrize("what", ["daemon", "daemon and zygote"])
def test_what_ends_while_nobody_is_there_is_known_to_the_next(
    engine: EngineProcess, what: str, tmp_path: Path
) -> None:
    def until_told(code: int) -> list[str]:
        # The marker is a bind, so that nothing of the engine is needed for the end.
        script = f"until [ -e /go/now ]; do usleep 20000; done; echo ended; exit {code}"
        return ["-v", f"{tmp_path}:/go", "busybox", "sh", "-c", script]

    plain = engine.out("run", "-d", *until_told(23))
    removed = engine.out("run", "-d", "--rm", "-v", "/anonymous", *until_told(0))
    again = engine.out(
        "run", "-d", "--restart", "on-failure:1", "-v", f"{tmp_path}:/go",
        "busybox", "sh", "-c", "until [ -e /go/now ]; do usleep 20000; done; exit 9",
    )  # fmt: skip
    killed = engine.out("run", "-d", "busybox", "sleep", "600")
    shims = [shim_of(id) for id in (plain, removed, again, killed)]
    pid = engine.inspect(killed)["State"]["Pid"]
    waiter = engine.command("wait", plain)
    kill(engine.pid, *([zygote_of(engine)] if "zygote" in what else []))
    engine.wait()
    (tmp_path / "now").touch()
    os.kill(pid, signal.SIGKILL)
    for shim in shims:
        until(lambda shim=shim: not alive(shim), "the shims' end")
    engine.start()
    done = subprocess.run(waiter, capture_output=True, text=True, timeout=10, check=True)
    assert done.stdout.strip() == "23"
    state = engine.inspect(plain)["State"]
    assert (state["Status"], state["ExitCode"], state["Error"]) == ("exited", 23, "")
    assert engine.out("logs", plain) == "ended"
    assert engine.inspect(killed)["State"]["ExitCode"] == 137
    assert engine.docker("inspect", removed, check=False).returncode == 1
    assert engine.lines("volume", "ls", "-q") == []
    until(lambda: not engine.inspect(again)["State"]["Running"], "the end of the retry")
    until(lambda: engine.inspect(again)["RestartCount"] == 1, "one retry")
    until(lambda: engine.inspect(again)["State"]["Status"] == "exited", "giving up")
    assert engine.inspect(again)["State"]["ExitCode"] == 9
    engine.docker("rm", plain, again, killed)
    until(lambda: not leftovers(engine), "an empty host")


def test_a_wait_that_lost_its_daemon_is_not_told_a_wrong_code(engine: EngineProcess) -> None:
    id = engine.out("run", "-d", "busybox", "sh", "-c", "sleep 600")
    with subprocess.Popen(
        engine.command("wait", id), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as waiter:
        time.sleep(0.2)
        engine.kill()
        out, error = waiter.communicate(timeout=10)
        assert waiter.returncode != 0
        assert out == ""
        assert error != ""
    engine.start()
    engine.docker("rm", "-f", id)


def test_a_killed_shim_ends_its_container_and_says_so(engine: EngineProcess) -> None:
    id = engine.out("run", "-d", "-p", "18080:80", "busybox", "sh", "-c", COUNTER)
    other = engine.out("run", "-d", "busybox", "sleep", "600")
    until(lambda: len(counted(engine.out("logs", id))) > 50, "50 lines")
    process = engine.inspect(id)["State"]["Pid"]
    with subprocess.Popen(engine.command("wait", id), stdout=subprocess.PIPE, text=True) as waiter:
        time.sleep(0.1)
        kill(shim_of(id))
        assert waiter.communicate(timeout=10)[0].strip() == "137"
    state = engine.inspect(id)["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 137)
    assert "shim was killed" in state["Error"]
    assert not alive(process)
    # Its log is whole up to the last line that was written.
    assert_no_gap(engine.docker("logs", id).stdout)
    assert engine.inspect(other)["State"]["Running"]
    assert engine.out("exec", other, "echo", "fine") == "fine"
    # Its port is free again, and it can be started again.
    assert engine.docker("start", id).returncode == 0
    assert engine.out("exec", id, "echo", "again") == "again"
    engine.docker("rm", "-f", id, other)
    until(lambda: not leftovers(engine), "an empty host")


def test_the_restart_policy_holds_for_a_killed_shim(engine: EngineProcess) -> None:
    id = engine.out("run", "-d", "--restart", "always", "busybox", "sleep", "600")
    first = engine.inspect(id)["State"]["Pid"]
    kill(shim_of(id))
    until(
        lambda: (s := engine.inspect(id)["State"])["Running"] and s["Pid"] not in (0, first),
        "another run",
    )
    assert engine.inspect(id)["RestartCount"] == 1
    engine.docker("rm", "-f", id)


def test_a_shim_killed_while_no_daemon_is_there(engine: EngineProcess) -> None:
    id = engine.out("run", "-d", "busybox", "sleep", "600")
    process = engine.inspect(id)["State"]["Pid"]
    shim = shim_of(id)
    engine.kill()
    kill(shim)
    engine.start()
    state = engine.inspect(id)["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 137)
    assert "shim" in state["Error"]
    until(lambda: not alive(process), "the container's end")
    engine.docker("rm", id)
    until(lambda: not leftovers(engine), "an empty host")
    assert cgroups_named(id) == []


def test_everything_killed_at_once(engine: EngineProcess) -> None:
    ids = [engine.out("run", "-d", "busybox", "sleep", "600") for _ in range(2)]
    kill(engine.pid, zygote_of(engine), *map(shim_of, ids))
    engine.wait()
    engine.start()
    assert [engine.inspect(id)["State"]["ExitCode"] for id in ids] == [137, 137]
    assert engine.lines("ps", "-q") == []
    engine.docker("rm", *ids)
    until(lambda: not leftovers(engine), "an empty host")


def test_an_exec_that_ends_while_no_daemon_is_there(engine: EngineProcess, tmp_path: Path) -> None:
    id = engine.out("run", "-d", "-v", f"{tmp_path}:/go", "busybox", "sleep", "600")
    command = ["sh", "-c", "until [ -e /go/now ]; do usleep 10000; done; exit 42"]
    made = engine.api("POST", f"/v1.45/containers/{id}/exec", {"Cmd": command})[1]["Id"]
    assert engine.api("POST", f"/v1.45/exec/{made}/start", {"Detach": True})[0] == 200
    before = engine.api("GET", f"/v1.45/exec/{made}/json")[1]
    assert before["Running"] is True
    engine.kill()
    (tmp_path / "now").touch()
    until(lambda: not alive(before["Pid"]), "the exec's end")
    engine.start()
    after = engine.api("GET", f"/v1.45/exec/{made}/json")[1]
    assert (after["Running"], after["ExitCode"]) == (False, 42)
    assert after["ProcessConfig"]["entrypoint"] == "sh"
    assert after["ProcessConfig"]["arguments"] == command[1:]
    engine.docker("rm", "-f", id)


def test_an_exec_that_lives_through_it(engine: EngineProcess) -> None:
    id = engine.out("run", "-d", "busybox", "sleep", "600")
    made = engine.api("POST", f"/v1.45/containers/{id}/exec", {"Cmd": ["sleep", "601"]})[1]["Id"]
    engine.api("POST", f"/v1.45/exec/{made}/start", {"Detach": True})
    engine.kill()
    engine.start()
    run = engine.api("GET", f"/v1.45/exec/{made}/json")[1]
    assert run["Running"] is True
    assert engine.inspect(id)["ExecIDs"] == [made]
    os.kill(run["Pid"], signal.SIGTERM)
    until(
        lambda: engine.api("GET", f"/v1.45/exec/{made}/json")[1]["ExitCode"] == 143, "its exit code"
    )
    engine.docker("rm", "-f", id)


def test_a_paused_container_is_adopted_paused(engine: EngineProcess) -> None:
    id = engine.out("run", "-d", "busybox", "sleep", "600")
    engine.docker("pause", id)
    engine.kill()
    engine.start()
    assert engine.inspect(id)["State"]["Status"] == "paused"
    engine.docker("unpause", id)
    assert engine.out("exec", id, "echo", "thawed") == "thawed"
    engine.docker("rm", "-f", id)


def test_a_run_that_was_answered_is_never_taken_back(engine: EngineProcess) -> None:
    for _ in range(5):
        id = engine.api(
            "POST", "/v1.45/containers/create", {"Image": "busybox", "Cmd": ["sleep", "600"]}
        )[1]["Id"]
        assert engine.api("POST", f"/v1.45/containers/{id}/start")[0] == 204
        engine.kill()  # at once: nothing that was only meant to be written has been
        engine.start()
        assert engine.inspect(id)["State"]["Running"]
        assert engine.out("exec", id, "ip", "-o", "-4", "addr", "show", "eth0") != ""
        engine.docker("rm", "-f", id)


def test_a_short_run_that_was_answered_is_remembered(engine: EngineProcess) -> None:
    body = {"Image": "busybox", "Cmd": ["sh", "-c", "exit 5"]}
    for _ in range(3):
        id = engine.api("POST", "/v1.45/containers/create", body)[1]["Id"]
        assert engine.api("POST", f"/v1.45/containers/{id}/start")[0] == 204
        engine.kill()
        until(lambda id=id: not has_shim(id), "its shim's end")
        engine.start()
        state = engine.inspect(id)["State"]
        assert (state["Status"], state["ExitCode"], state["Error"]) == ("exited", 5, "")
        assert state["StartedAt"] < state["FinishedAt"]
        engine.docker("rm", id)


def test_containers_are_started_and_removed_while_zygotes_die(engine: EngineProcess) -> None:
    stop = threading.Event()

    def killer() -> None:
        # Few, since a zygote that dies again and again is given more and more rest.
        for _ in range(4):
            if stop.wait(0.15):
                return
            try:
                os.kill(zygote_of(engine), signal.SIGKILL)
            except (AssertionError, ProcessLookupError):
                continue

    thread = threading.Thread(target=killer)
    thread.start()
    try:
        for number in range(12):
            done = engine.docker("run", "--rm", "busybox", "echo", str(number), check=False)
            # The zygote may die twice within one launch; that is told, and leaves nothing.
            assert done.stdout.strip() == str(number) or "zygote" in done.stderr, done.stderr
    finally:
        stop.set()
        thread.join()
    for id in engine.lines("ps", "-aq"):
        engine.docker("rm", "-f", id)
    until(lambda: not leftovers(engine), "an empty host")
