"""The whole engine on cgroup v2 with AppArmor, driven by Debian's docker CLI in the guest."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.vm.engine import IMPORT, Docker
from tests.vm.machine import Machine

pytestmark = [pytest.mark.vm, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def docker(guest: Machine) -> Iterator[Docker]:
    """An engine with busybox; nothing of a container may be left at the end."""
    docker = Docker(guest)
    docker.start()
    docker.shell(IMPORT)
    docker("run --rm -p 8079:80 busybox true")  # what the engine keeps for all: bridge, parents
    before = _left(docker)
    yield docker
    docker.shell("docker ps -aq | xargs -r docker rm -f")
    deadline = time.monotonic() + 10
    while _left(docker) != before and time.monotonic() < deadline:
        time.sleep(0.5)  # layers are swept after the answer
    assert _left(docker) == before
    docker.kill("TERM")


def _left(docker: Docker) -> list[str]:
    """What containers are made of: mounts, cgroups, links, as the guest's own host sees them."""
    return docker.shell(
        "(cut -d' ' -f2 /proc/self/mounts; find /sys/fs/cgroup -type d; "
        "ip -brief link | cut -d' ' -f1) | sort"
    ).splitlines()


def test_a_container_runs_and_its_status_comes_back(docker: Docker) -> None:
    assert docker("run --rm busybox echo hi") == "hi"
    assert docker.shell("docker run --rm busybox sh -c 'exit 9'; echo $?") == "9"


@pytest.fixture
def limited(docker: Docker) -> Iterator[str]:
    docker(
        "run -d --name limited --memory 64m --memory-swap 128m --memory-reservation 32m "
        "--cpus 0.5 --cpu-shares 512 --cpuset-cpus 0 --pids-limit 50 busybox sleep 1000"
    )
    yield "limited"
    docker("rm -f limited")


@pytest.mark.parametrize(
    ("file", "value"),
    [
        ("memory.max", "67108864"),
        ("memory.swap.max", "67108864"),
        ("memory.low", "33554432"),
        ("cpu.max", "50000 100000"),
        ("cpu.weight", "59"),
        ("cpuset.cpus", "0"),
        ("pids.max", "50"),
    ],
)
def test_a_limit_is_in_the_file_of_cgroup_2(
    docker: Docker, limited: str, file: str, value: str
) -> None:
    assert docker.shell(f"cat {docker.cgroup(limited)}/{file}") == value


def test_the_container_sees_its_own_cgroup_as_the_root(docker: Docker, limited: str) -> None:
    assert docker(f"exec {limited} cat /proc/self/cgroup") == "0::/"
    assert docker(f"exec {limited} cat /sys/fs/cgroup/memory.max") == "67108864"


def test_pause_freezes_the_cgroup(docker: Docker, limited: str) -> None:
    docker(f"pause {limited}")
    assert "frozen 1" in docker.shell(f"cat {docker.cgroup(limited)}/cgroup.events")
    docker(f"unpause {limited}")
    assert "frozen 0" in docker.shell(f"cat {docker.cgroup(limited)}/cgroup.events")


def test_a_process_that_takes_too_much_memory_is_reported_as_such(docker: Docker) -> None:
    docker.shell("docker run --name greedy --memory 16m busybox tail /dev/zero; echo $?")
    asked = "{{.State.OOMKilled}} {{.State.ExitCode}}"
    assert docker(f"inspect -f '{asked}' greedy") == "true 137"
    docker("rm greedy")


def test_the_event_of_a_kill_says_when_it_was_the_hosts_memory(docker: Docker) -> None:
    began = docker.shell("date +%s")
    eat = "dd if=/dev/zero of=/dev/null bs=900M count=1 & "
    docker.shell(f"docker run -d --name glutton busybox sh -c '{eat * 3} wait; sleep 1000'")
    asked = f"events --since {began} --until $(date +%s) --filter event=oom --filter container="
    fields = "{{.Actor.Attributes.oomLimit}} {{.Actor.Attributes.oomProcess}}"
    docker.shell(
        f"for _ in $(seq 100); do docker {asked}glutton | grep -q . && break; sleep 1; done"
    )
    assert set(docker(f"{asked}glutton --format '{fields}'").splitlines()) == {"host dd"}
    assert docker("inspect -f '{{.State.Status}} {{.State.OOMKilled}}' glutton") == "running true"
    docker("rm -f glutton")


def test_devices_outside_the_list_are_denied(docker: Docker) -> None:
    script = "mknod /d b 254 0 && cat /d >/dev/null; echo $?"
    assert "Operation not permitted" in docker.shell(
        f"docker run --rm busybox sh -c '{script}' 2>&1"
    )


def test_containers_are_confined_by_apparmor(docker: Docker) -> None:
    current = "cat /proc/self/attr/current"
    assert docker(f"run --rm busybox {current}") == "pyengine-default (enforce)"
    assert docker(f"run --rm --security-opt apparmor=unconfined busybox {current}") == "unconfined"
    docker("run -d --name confined busybox sleep 1000")
    assert docker(f"exec confined {current}") == "pyengine-default (enforce)"
    assert "apparmor" in docker("info -f '{{.SecurityOptions}}'")
    docker("rm -f confined")


def test_a_published_port_answers(docker: Docker) -> None:
    docker("run -d --name web -p 8080:80 busybox httpd -f -p 80 -h /etc")
    assert "root:x:0:0" in docker.shell("busybox wget -qO- http://127.0.0.1:8080/passwd")
    docker("rm -f web")


def test_a_killed_daemon_leaves_containers_to_the_next(docker: Docker) -> None:
    docker("run -d --name survivor busybox sh -c 'while :; do date; sleep 1; done'")
    pid = docker("inspect -f '{{.State.Pid}}' survivor")
    docker.kill("KILL")
    assert docker.shell(f"cat /proc/{pid}/comm") == "sh"
    docker.start()
    assert docker("inspect -f '{{.State.Status}} {{.State.Pid}}' survivor") == f"running {pid}"
    docker("stop -t 1 survivor")
    assert docker("inspect -f '{{.State.ExitCode}}' survivor") == "137"
    docker("rm survivor")
