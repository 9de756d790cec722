"""``userns-remap`` on cgroup v2, with AppArmor, on the kernel of a distribution."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vm.engine import IMPORT, Docker
from tests.vm.machine import Machine

pytestmark = [pytest.mark.vm, pytest.mark.timeout(400)]

RANGES = "for file in subuid subgid; do echo daemon:200000:65536 >>/etc/$file; done"


@pytest.fixture(scope="module")
def docker(guest: Machine) -> Iterator[Docker]:
    guest.check(f"cp /etc/subuid /etc/subgid /root/ && {RANGES}")
    docker = Docker(guest, "userns", "/var/lib/pyengine-userns")
    docker.start("--userns-remap daemon")
    try:
        docker.shell(IMPORT)
        yield docker
    finally:
        docker.shell("docker ps -aq | xargs -r docker rm -f -v")
        docker.kill("TERM")
        left = guest.check("grep pyengine-userns /proc/self/mounts || true").strip()
        guest.check(f"rm -r {docker.data_root}; mv /root/subuid /root/subgid /etc/")
    assert left == ""


def test_root_inside_is_nobody_outside(docker: Docker) -> None:
    docker("run -d --name mapped -v data:/data busybox sleep 1000")
    pid = docker("inspect -f '{{.State.Pid}}' mapped")
    assert docker.shell(f"stat -c %u /proc/{pid}") == "200000"
    look = "touch /made /data/made; stat -c %u:%g / /made /data/made /etc/hosts; id -u"
    assert docker(f'exec mapped sh -c "{look}"').split() == [*["0:0"] * 4, "0"]
    docker("run --rm --userns=host -v data:/data busybox stat -c %u:%g /data/made")
    assert docker("export mapped | tar tvf - made").split()[1] == "0/0"


def test_limits_and_profiles_are_the_same(docker: Docker) -> None:
    run = "run --rm --memory 64m --cgroupns {} busybox sh -c '{}'"
    for mode in ("private", "host"):
        docker(run.format(mode, "test -d /sys/fs/cgroup"))
    assert docker(run.format("private", "cat /sys/fs/cgroup/memory.max")) == "67108864"
    refused = docker(run.format("private", "echo max > /sys/fs/cgroup/memory.max || echo refused"))
    assert "refused" in refused
    assert docker("run --rm busybox cat /proc/self/attr/current") == "pyengine-default (enforce)"


def test_the_next_daemon_knows(docker: Docker) -> None:
    docker.kill("KILL")
    docker.start("--userns-remap daemon")
    assert docker("exec mapped id -u") == "0"
    docker.shell("echo x >/tmp/file; docker cp /tmp/file mapped:/copied")
    assert docker("exec mapped stat -c %u:%g /copied") == "0:0"
    docker("restart -t 0 mapped")
    assert docker("exec mapped stat -c %u:%g /copied") == "0:0"
