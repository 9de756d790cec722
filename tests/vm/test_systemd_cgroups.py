"""Containers as scopes of systemd, which is process 1 of this guest."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.vm import image, payload
from tests.vm.engine import IMPORT, Docker
from tests.vm.machine import Machine

pytestmark = [pytest.mark.vm, pytest.mark.timeout(400)]

OPTIONS = "--exec-opt native.cgroupdriver=systemd"


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    built = image.build()
    work = tmp_path_factory.mktemp("vm-systemd")
    with Machine(built, payload.build(built, work), systemd=True) as machine:
        yield machine
    shutil.rmtree(work)


@pytest.fixture(scope="module")
def docker(booted: Machine) -> Iterator[Docker]:
    """An engine with busybox; no scope and no cgroup may be left at the end."""
    docker = Docker(booted)
    docker.start(OPTIONS)
    docker.shell(IMPORT)
    yield docker
    docker.shell("docker ps -aq | xargs -r docker rm -f")
    assert scopes(docker) == []
    assert docker.shell("find /sys/fs/cgroup -name 'pyengine-*.scope'") == ""
    docker.kill("TERM")


def scopes(docker: Docker) -> list[str]:
    """All that systemd knows of, whatever their state."""
    found = docker.shell("systemctl list-units --all --plain --no-legend 'pyengine-*'")
    return [line.split()[0] for line in found.splitlines()]


def unit(docker: Docker, name: str) -> str:
    id = docker(f"inspect -f '{{{{.Id}}}}' {name}")
    return f"pyengine-{id}.scope"


def files(docker: Docker, name: str, *names: str) -> list[str]:
    directory = docker.cgroup(name)
    return [docker.shell(f"cat {directory}/{one}") for one in names]


@pytest.fixture
def limited(docker: Docker) -> Iterator[str]:
    docker(
        "run -d --name limited --memory 64m --memory-swap 128m --memory-reservation 32m "
        "--cpus 0.5 --cpu-shares 512 --cpuset-cpus 0 --pids-limit 50 busybox sleep 1000"
    )
    yield "limited"
    docker("rm -f limited")


def test_the_driver_is_said(docker: Docker) -> None:
    assert docker("info -f '{{.CgroupDriver}} {{.CgroupVersion}}'") == "systemd 2"


def test_a_container_is_a_scope(docker: Docker, limited: str) -> None:
    name = unit(docker, limited)
    assert docker.cgroup(limited) == f"/sys/fs/cgroup/system.slice/{name}"
    assert scopes(docker) == [name]
    asked = "ActiveState,Slice,Delegate,ControlGroup,MemoryMax,TasksMax"
    said = docker.shell(f"systemctl show -p {asked} {name}").splitlines()
    assert sorted(said) == [
        "ActiveState=active",
        f"ControlGroup=/system.slice/{name}",
        "Delegate=yes",
        "MemoryMax=67108864",
        "Slice=system.slice",
        "TasksMax=50",
    ]
    # Nothing is in it but the container.
    pid = docker(f"inspect -f '{{{{.State.Pid}}}}' {limited}")
    assert files(docker, limited, "cgroup.procs") == [pid]


LIMITS = [
    ("memory.max", "67108864"),
    ("memory.swap.max", "67108864"),
    ("memory.low", "33554432"),
    ("cpu.max", "50000 100000"),
    ("cpu.weight", "59"),
    ("cpuset.cpus", "0"),
    ("pids.max", "50"),
]


def test_limits_stay_when_systemd_writes_its_own(docker: Docker, limited: str) -> None:
    names, values = zip(*LIMITS, strict=True)
    assert files(docker, limited, *names) == list(values)
    docker.shell("systemctl daemon-reload")
    assert files(docker, limited, *names) == list(values)


def test_an_update_stays_too(docker: Docker, limited: str) -> None:
    docker("update --memory 96m --memory-swap 200m --cpus 0.7 --pids-limit -1 limited")
    docker.shell("systemctl daemon-reload")
    names = ["memory.max", "memory.swap.max", "cpu.max", "pids.max"]
    assert files(docker, limited, *names) == ["100663296", "109051904", "70000 100000", "max"]


def test_without_a_limit_there_is_none(docker: Docker) -> None:
    docker("run -d --name free busybox sleep 1000")
    assert files(docker, "free", "pids.max", "memory.max") == ["max", "max"]
    docker("rm -f free")


def test_one_process_may_be_all(docker: Docker) -> None:
    assert docker("run --rm --pids-limit 1 busybox cat /sys/fs/cgroup/pids.max") == "1"


def test_exec_stats_top_and_pause(docker: Docker, limited: str) -> None:
    assert docker(f"exec {limited} cat /proc/self/cgroup") == "0::/"
    said = docker(f"stats --no-stream --format '{{{{.MemUsage}}}} {{{{.PIDs}}}}' {limited}")
    assert said.endswith("/ 64MiB 1")
    assert [line.split()[1] for line in docker(f"top {limited} -o pid,comm").splitlines()] == [
        "COMMAND",
        "sleep",
    ]
    docker(f"pause {limited}")
    assert "frozen 1" in files(docker, limited, "cgroup.events")[0]
    docker(f"unpause {limited}")


def test_devices_outside_the_list_are_denied(docker: Docker) -> None:
    docker("run -d --name denied busybox sleep 1000")
    script = "mknod /d b 254 0 && cat /d >/dev/null; echo $?"
    for _ in range(2):
        answer = docker.shell(f"docker exec denied sh -c 'rm -f /d; {script}' 2>&1")
        assert "Operation not permitted" in answer
        docker.shell("systemctl daemon-reload")
    docker("rm -f denied")


def test_a_process_that_takes_too_much_memory_is_reported_as_such(docker: Docker) -> None:
    for _ in range(3):  # systemd takes the cgroup away at once
        docker.shell("docker run --name greedy --memory 16m busybox tail /dev/zero; echo $?")
        asked = "{{.State.OOMKilled}} {{.State.ExitCode}}"
        assert docker(f"inspect -f '{asked}' greedy") == "true 137"
        docker("rm greedy")


def test_a_parent_is_a_slice(docker: Docker) -> None:
    told = docker(
        "run --rm --cgroupns host --cgroup-parent my-sub.slice busybox cat /proc/self/cgroup"
    )
    assert told.startswith("0::/my.slice/my-sub.slice/pyengine-")
    assert "'/foo' is not the name of a slice" in docker.fails(
        "create --cgroup-parent /foo busybox true"
    )


def test_a_start_that_fails_leaves_no_scope(docker: Docker) -> None:
    assert "executable file not found" in docker.fails("run --rm busybox nosuchprogram")
    assert scopes(docker) == []


def test_restarts_use_the_same_name(docker: Docker, limited: str) -> None:
    for _ in range(3):
        docker(f"restart -t 0 {limited}")
        assert scopes(docker) == [unit(docker, limited)]


def test_containers_are_found_again_and_strays_removed(docker: Docker, limited: str) -> None:
    pid = docker(f"inspect -f '{{{{.State.Pid}}}}' {limited}")
    docker.kill("KILL")
    stray = f"pyengine-{'ab' * 32}"
    docker.shell(f"systemd-run --scope --unit={stray} sleep 1000 >/dev/null 2>&1 &")
    docker.shell(f"until systemctl -q is-active {stray}.scope; do sleep 0.1; done")
    docker.start(OPTIONS)
    assert docker(f"inspect -f '{{{{.State.Pid}}}}' {limited}") == pid
    docker.shell(f"for _ in $(seq 100); do systemctl -q is-active {stray}.scope || exit 0; "
                 "sleep 0.1; done; exit 1")  # fmt: skip
    assert scopes(docker) == [unit(docker, limited)]


def test_over_the_system_bus(docker: Docker) -> None:
    docker.shell("systemctl start dbus")
    assert docker("run --rm --memory 32m busybox cat /sys/fs/cgroup/memory.max") == "33554432"
    docker.shell("systemctl stop dbus.socket dbus.service")
    assert docker("run --rm busybox echo without") == "without"
