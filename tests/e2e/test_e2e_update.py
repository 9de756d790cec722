"""docker update, on containers that run and that do not."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Docker
from tests.e2e.test_e2e_limits import UNIFIED, cgroup


def test_every_limit_of_a_running_container(docker: Docker) -> None:
    name = docker.up("--memory", "64m", "busybox", "sleep", "60")
    docker(
        *("update", "--memory", "96m", "--memory-swap", "192m", "--memory-reservation", "32m"),
        *("--cpu-shares", "100", "--cpuset-cpus", "0", "--cpuset-mems", "0"),
        *("--pids-limit", "50", "--cpus", "0.5", name),
    )
    if UNIFIED:
        expected = {
            ("memory", "memory.max"): str(96 << 20),
            ("memory", "memory.swap.max"): str(96 << 20),
            ("memory", "memory.low"): str(32 << 20),
            ("cpu", "cpu.weight"): "17",
            ("cpu", "cpu.max"): "50000 100000",
        }
    else:
        expected = {
            ("memory", "memory.limit_in_bytes"): str(96 << 20),
            ("memory", "memory.memsw.limit_in_bytes"): str(192 << 20),
            ("memory", "memory.soft_limit_in_bytes"): str(32 << 20),
            ("cpu", "cpu.shares"): "100",
            ("cpu", "cpu.cfs_quota_us"): "50000",
            ("cpu", "cpu.cfs_period_us"): "100000",
        }
    expected |= {
        ("cpuset", "cpuset.cpus"): "0",
        ("cpuset", "cpuset.mems"): "0",
        ("pids", "pids.max"): "50",
    }
    assert {key: cgroup(docker, name, *key) for key in expected} == expected
    docker("update", "--pids-limit", "-1", name)
    assert cgroup(docker, name, "pids", "pids.max") == "max"


@pytest.mark.parametrize("running", [True, False])
def test_what_contradicts_is_refused_and_changes_nothing(docker: Docker, running: bool) -> None:
    name = docker.name()
    docker("create", "--name", name, "--cpus", "0.5", "-m", "64m", "busybox", "sleep", "60")
    if running:
        docker("start", name)
    template = "{{.HostConfig.NanoCpus}} {{.HostConfig.CpuQuota}} {{.HostConfig.Memory}}"
    before = docker.state(name, template)
    for flags, says in (
        (("--cpu-quota", "5000"), "CPU Quota cannot be updated as NanoCPUs has already been set"),
        (("--cpu-period", "5000"), "CPU Period cannot be updated as NanoCPUs has already been set"),
        (("--memory", "1m"), "Minimum memory limit allowed is 6MB"),
        (("--memory", "256m"), "update the memoryswap at the same time"),
        (("--cpuset-cpus", "4095"), "Requested CPUs are not available"),
        (("--restart", "sometimes"), "unknown policy 'sometimes'"),
    ):
        docker.fails("update", *flags, name, code=1, says=says)
    assert docker.state(name, template) == before


def test_what_the_kernel_refuses_is_not_recorded(docker: Docker) -> None:
    name = docker.up("--cpu-shares", "512", "busybox", "sleep", "60")
    if not UNIFIED:
        docker.fails("update", "--cpu-shares", "1", name, code=1, says="Cannot update container")
        assert cgroup(docker, name, "cpu", "cpu.shares") == "512"
        assert docker.state(name, "{{.HostConfig.CpuShares}}") == "512"


def test_a_restart_policy_is_not_for_one_that_removes_itself(docker: Docker) -> None:
    name = docker.name()
    docker("create", "--rm", "--name", name, "busybox")
    docker.fails(
        *("update", "--restart", "always", name),
        code=1,
        says="Restart policy cannot be updated because AutoRemove is enabled for the container",
    )
