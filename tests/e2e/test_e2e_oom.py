"""What an oom event says: the process that was killed, and the limit that had been reached."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import EngineProcess

from pyengine.linux.cgroups import Cgroup, layout, write
from tests.e2e.conftest import Docker, eventually

MB = 1 << 20
MEMORY = layout().find("memory")
SWAP = not Path("/proc/meminfo").read_text().partition("SwapTotal:")[2].lstrip().startswith("0 ")
PRIVATE = Path("/proc/sys/kernel/dmesg_restrict").read_text().strip() == "1"

Event = dict[str, str]


def ooms(docker: Docker, name: str, since: float, least: int = 1) -> list[Event]:
    """The attributes of the container's oom events, once there are as many."""
    flags = ("--filter", f"container={name}", "--filter", "event=oom", "--format", "json")

    def ask() -> list[Event]:
        lines = docker.out("events", "--since", f"{since}", "--until", f"{time.time()}", *flags)
        return [json.loads(line)["Actor"]["Attributes"] for line in lines.splitlines()]

    assert eventually(lambda: len(ask()) >= least), docker.engine.tail()
    return ask()


def told(attempt: Callable[[], list[Event]]) -> list[Event]:
    """The kernel reports ten kills in five seconds, of all that there are on the host: others may
    have had them, and then it takes another attempt."""
    found = attempt()
    if all("oomPid" in event for event in found):
        return found
    time.sleep(5)
    return attempt()


@pytest.fixture
def parent() -> Iterator[str]:
    """A cgroup of 24 MiB, which is not the engine's."""
    assert MEMORY is not None
    group = Cgroup(f"/petest-parent{os.getpid()}")
    group.create()
    file = "/memory.max" if MEMORY.v2 else "/memory.limit_in_bytes"
    write(group.directory_in(MEMORY) + file, str(24 * MB))
    yield group.path
    eventually(group.remove_empty)


EAT = "tail /dev/zero; echo survived $?; sleep 100"
UP = ("--network", "none", "busybox", "sh", "-c")


@pytest.mark.skipif(SWAP, reason="swap would be filled first")
def test_a_child_and_the_containers_own_limit(docker: Docker) -> None:
    def attempt() -> list[Event]:
        began = time.time()
        names.append(docker.up("--memory", "32m", *UP, EAT))
        return ooms(docker, names[-1], began)

    names: list[str] = []
    (event,) = told(attempt)
    assert (event["oomLimit"], event["oomLimitBytes"]) == ("memory", str(32 * MB))
    assert event["oomProcess"] == "tail"
    assert event["oomPid"] != docker.state(names[-1], "{{.State.Pid}}")
    assert event["memoryLimit"] == str(32 * MB)
    assert "oomCgroup" not in event
    assert docker.state(names[-1]) == "running"
    assert (
        f"out of memory at the memory limit of {32 * MB} bytes of the container, the kernel killed "
        f"'tail' (pid {event['oomPid']})"
    ) in docker.engine.log.read_text()


def test_the_first_process_and_memory_with_swap(docker: Docker) -> None:
    def attempt() -> list[Event]:
        began = time.time()
        name = docker.up("--memory", "16m", "--memory-swap", "16m", "--network", "none",
                         "busybox", "tail", "/dev/zero")  # fmt: skip
        found = ooms(docker, name, began)
        docker("wait", name)
        asked = "{{.State.OOMKilled}} {{.State.ExitCode}} {{.State.Error}}"
        assert docker.state(name, asked) == "true 137"
        return found

    (event,) = told(attempt)
    assert (event["oomLimit"], event["oomLimitBytes"]) == ("memory+swap", str(16 * MB))
    assert (event["oomProcess"], event["oomContainerPid"]) == ("tail", "1")
    assert (
        f"killed its main process 'tail' (pid {event['oomPid']})" in docker.engine.log.read_text()
    )


@pytest.mark.skipif(SWAP, reason="swap would be filled first")
def test_the_limit_of_a_parent(docker: Docker, parent: str) -> None:
    def attempt() -> list[Event]:
        began = time.time()
        return ooms(docker, docker.up("--cgroup-parent", parent, "--memory", "1g", *UP, EAT), began)

    (event,) = told(attempt)
    docker.clean()
    assert (event["oomLimit"], event["oomLimitBytes"]) == ("memory", str(24 * MB))
    assert (event["oomCgroup"], event["oomProcess"]) == (parent, "tail")
    assert event["memoryLimit"] == str(1 << 30)


def test_each_kill_has_an_event(docker: Docker) -> None:
    script = "for i in 1 2 3; do tail /dev/zero; done; sleep 100"

    def attempt() -> list[Event]:
        began = time.time()
        name = docker.up("--memory", "16m", "--memory-swap", "16m", *UP, script)
        found = ooms(docker, name, began, least=3)
        assert docker.state(name) == "running"
        return found

    found = told(attempt)
    assert len({event["oomPid"] for event in found}) == len(found) == 3
    assert {event["oomProcess"] for event in found} == {"tail"}


def test_the_process_is_an_exec(docker: Docker) -> None:
    name = docker.up("--memory", "16m", "--memory-swap", "16m", *UP, "sleep 100")

    def attempt() -> list[Event]:
        began = time.time()
        docker.fails("exec", name, "tail", "/dev/zero", code=137, says="")
        return ooms(docker, name, began)

    (event,) = told(attempt)
    assert event["oomProcess"] == "tail"
    assert len(event["execID"]) == 64


@pytest.mark.skipif(not PRIVATE, reason="kernel.dmesg_restrict is 0: everybody may read the log")
def test_an_engine_that_may_not_read_the_kernels_log(
    new_engine: EngineProcess, tmp_path: Path, parent: str
) -> None:
    """The counters of cgroups say which limit it was; nobody says which process."""
    unprivileged = tmp_path / "python"
    unprivileged.write_text(
        f'#!/bin/sh\nexec setpriv --bounding-set=-syslog "{new_engine.python}" "$@"\n'
    )
    unprivileged.chmod(0o755)
    new_engine.stop()
    new_engine.python = str(unprivileged)
    new_engine.start()
    assert "OOM kills will not name the process" in new_engine.log.read_text()
    docker = Docker(new_engine)
    try:
        for flags, expected in (
            (("--memory", "16m", "--memory-swap", "16m"), {"oomLimit": "memory+swap"}),
            (("--cgroup-parent", parent), {"oomLimit": "memory", "oomCgroup": parent}),
        ):
            began = time.time()
            (event,) = ooms(docker, docker.up(*flags, *UP, EAT), began)
            assert expected.items() <= event.items()
            assert event["oomLimitBytes"] == str((24 if "oomCgroup" in expected else 16) * MB)
            assert "oomPid" not in event
    finally:
        docker.clean()
