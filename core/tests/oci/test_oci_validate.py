"""HostConfig at create: what is filled in, what is refused and with which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from pyengine.engine.model import ContainerConfig, HostConfig, RestartPolicy, ThrottleDevice, Ulimit
from pyengine.errors import InvalidParameter
from pyengine.oci.defaults import MASKED_PATHS
from pyengine.oci.facts import HostFacts, detect
from pyengine.oci.spec import EngineOptions
from pyengine.oci.validate import adapt, check_resources, check_settings

MEGA = 1 << 20
_CONTROLS = [name for name, kind in HostFacts.__annotations__.items() if kind == "bool"]
ALL = msgspec.convert(
    {**dict.fromkeys(_CONTROLS, True), "cgroup_v2": False, "cpus": "0-3", "mems": "0"}
    | {"cpu_count": 4},
    HostFacts,
)
NOTHING = HostFacts(cpu_count=4)


def test_the_working_directory_is_clean() -> None:
    config = ContainerConfig(working_dir="//srv/./x/../y/")
    check_settings(config, HostConfig())
    assert config.working_dir == "/srv/y"


def test_defaults_are_filled_in() -> None:
    host = HostConfig(memory=64 * MEGA)
    adapt(host, ALL, EngineOptions())
    assert host.memory_swap == 128 * MEGA
    assert host.shm_size == 64 * MEGA
    assert host.ipc_mode == "private"
    assert host.cgroupns_mode == "host"
    assert host.oom_kill_disable is False
    assert host.masked_paths == MASKED_PATHS
    on_v2 = msgspec.structs.replace(ALL, cgroup_v2=True)
    for facts, privileged, expected in ((ALL, True, "host"), (on_v2, True, "private")):
        host = HostConfig(privileged=privileged)
        adapt(host, facts, EngineOptions(), ipc_mode="shareable", cgroupns_mode="private")
        assert host.cgroupns_mode == expected
        assert host.ipc_mode == "shareable"
        assert host.masked_paths is None
    host = HostConfig(security_opt=["systempaths=unconfined"], memory_swap=-1, memory=8 * MEGA)
    adapt(host, ALL, EngineOptions())
    assert host.masked_paths == host.readonly_paths == []
    assert host.memory_swap == -1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"memory": 5 * MEGA}, "Minimum memory limit allowed is 6MB"),
        ({"memory": -1}, "Minimum memory limit allowed is 6MB"),
        (
            {"memory": 8 * MEGA, "memory_swap": 7 * MEGA},
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        ),
        (
            {"memory_swap": 8 * MEGA},
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        ),
        (
            {"memory_swappiness": 101},
            "Invalid value: 101, valid memory swappiness range is 0-100",
        ),
        ({"memory_reservation": MEGA}, "Minimum memory reservation allowed is 6MB"),
        (
            {"memory": 8 * MEGA, "memory_reservation": 9 * MEGA},
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        ),
        (
            {"nano_cpus": 1, "cpu_period": 1000},
            "Conflicting options: Nano CPUs and CPU Period cannot both be set",
        ),
        (
            {"nano_cpus": 1, "cpu_quota": 1000},
            "Conflicting options: Nano CPUs and CPU Quota cannot both be set",
        ),
        (
            {"nano_cpus": 5_000_000_000},
            "Range of CPUs is from 0.01 to 4.00, as there are only 4 CPUs available",
        ),
        ({"cpu_shares": -1}, "invalid CPU shares (-1): value must be a positive integer"),
        (
            {"cpu_period": 999},
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ),
        ({"cpu_quota": 999}, "CPU cfs quota can not be less than 1ms (i.e. 1000)"),
        ({"cpuset_cpus": "0-x"}, "Invalid value 0-x for cpuset cpus: invalid format: 0-x"),
        (
            {"cpuset_cpus": "0,9"},
            "Requested CPUs are not available - requested 0,9, available: 0-3",
        ),
        (
            {"cpuset_mems": "1"},
            "Requested memory nodes are not available - requested 1, available: 0",
        ),
        ({"blkio_weight": 9}, "Range of blkio weight is from 10 to 1000"),
        (
            {"io_maximum_iops": 1},
            "Invalid QoS settings: linux does not support configuration of maximum IOPs",
        ),
        (
            {"cpu_realtime_period": 1, "cpu_realtime_runtime": 2},
            "cpu real-time runtime cannot be higher than cpu real-time period",
        ),
    ],
)
def test_limits_that_make_no_sense(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidParameter) as error:
        check_resources(HostConfig(**fields), ALL)
    assert error.value.message() == message
    assert error.value.status == 400


def test_good_limits() -> None:
    host = HostConfig(
        memory=6 * MEGA, memory_swap=-1, nano_cpus=500_000_000, cpuset_cpus="0-1,3", pids_limit=5
    )
    before = msgspec.to_builtins(host)
    assert check_resources(host, ALL) == []
    assert msgspec.to_builtins(host) == before
    # An update may set the swap limit of a container that has a memory limit already.
    assert check_resources(HostConfig(memory_swap=8 * MEGA), ALL, update=True) == []


def test_what_the_host_cannot_do_is_taken_away_and_told() -> None:
    host = HostConfig(
        memory=64 * MEGA,
        memory_reservation=8 * MEGA,
        memory_swappiness=5,
        oom_kill_disable=True,
        pids_limit=5,
        cpu_shares=5,
        cpu_quota=5000,
        cpuset_cpus="0",
        blkio_weight=100,
        blkio_device_read_bps=[ThrottleDevice(path="/dev/sda", rate=1)],
    )
    warnings = check_resources(host, NOTHING)
    assert len(warnings) == 10
    assert warnings[0] == (
        "Your kernel does not support memory limit capabilities or the cgroup is not mounted. "
        "Limitation discarded."
    )
    assert (host.memory, host.memory_swap, host.pids_limit, host.cpu_shares) == (0, -1, None, 0)
    assert (host.cpuset_cpus, host.blkio_weight, host.blkio_device_read_bps) == ("", 0, [])
    with pytest.raises(InvalidParameter, match="NanoCPUs can not be set"):
        check_resources(HostConfig(nano_cpus=1), NOTHING)


@pytest.mark.parametrize(
    ("config", "host", "message"),
    [
        ({"hostname": "x" * 65}, {}, "is too long (maximum 64 bytes)"),
        ({"working_dir": "work"}, {}, "the working directory 'work' is invalid, it needs to be"),
        ({"env": ["=x"]}, {}, "invalid environment variable: =x"),
        ({}, {"cap_add": ["NOPE"]}, 'invalid CapAdd: unknown capability: "CAP_NOPE"'),
        ({}, {"ipc_mode": "weird"}, "invalid IPC mode: weird"),
        ({}, {"ipc_mode": "container:"}, "invalid IPC mode: container:"),
        ({}, {"pid_mode": "weird"}, "invalid PID mode: weird"),
        ({}, {"uts_mode": "weird"}, "invalid UTS mode: weird"),
        ({}, {"cgroupns_mode": "weird"}, "invalid cgroup namespace mode: weird"),
        ({"hostname": "a"}, {"uts_mode": "host"}, "conflicting options: hostname and the UTS mode"),
        (
            {"hostname": "a"},
            {"network_mode": "container:b"},
            "conflicting options: hostname and the network mode",
        ),
        ({}, {"network_mode": "container:"}, "invalid container format container:<name|id>"),
        (
            {},
            {"network_mode": "container:b", "publish_all_ports": True},
            "conflicting options: port publishing and the container type network mode",
        ),
        ({}, {"shm_size": -1}, "SHM size can not be less than 0"),
        ({}, {"oom_score_adj": 1001}, "range for oom score adj is [-1000, 1000]"),
        ({}, {"tmpfs": {"tmp": ""}}, "mount path must be absolute"),
        ({}, {"tmpfs": {"//": ""}}, "destination can't be '/'"),
        ({}, {"tmpfs": {"/tmp": "sise=1m"}}, 'invalid tmpfs option "sise"'),
        ({}, {"security_opt": ["weird"]}, 'invalid --security-opt 1: "weird"'),
        ({}, {"annotations": {"": "x"}}, "the empty string is not permitted"),
        ({}, {"annotations": {"io.pyengine.x": "x"}}, "the engine's own"),
        ({}, {"device_cgroup_rules": ["x"]}, "invalid device cgroup rule format: 'x'"),
        ({}, {"ulimits": [Ulimit(name="files", soft=1, hard=1)]}, "invalid ulimit type: files"),
        (
            {},
            {"ulimits": [Ulimit(name="nofile", soft=2, hard=1)]},
            "ulimit soft limit must be less than or equal to hard limit: 2 > 1",
        ),
        (
            {},
            {"auto_remove": True, "restart_policy": RestartPolicy(name="always")},
            "can't create 'AutoRemove' container with restart policy",
        ),
        ({}, {"isolation": "hyperv"}, "linux only supports 'default'"),
    ],
)
def test_settings_that_are_wrong(
    config: dict[str, Any], host: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidParameter) as error:
        check_settings(ContainerConfig(**config), HostConfig(**host))
    assert message in error.value.message()


def test_good_settings() -> None:
    check_settings(
        ContainerConfig(hostname="a", working_dir="/w", env=["A=", "B"]),
        HostConfig(
            ipc_mode="container:x",
            cap_add=["all", "net_admin"],
            tmpfs={"/run": "size=1m,mode=755,exec", "/tmp": ""},
            security_opt=["seccomp=unconfined", "label=disable", "no-new-privileges"],
            ulimits=[Ulimit(name="nofile", soft=5, hard=-1)],
        ),
    )


def test_facts_of_this_host() -> None:
    facts = detect()
    assert facts.cpu_count >= 1
    mounted = Path("/proc/self/mountinfo").read_text()
    assert facts.pids_limit == (",pids" in mounted or "pids" in mounted or facts.cgroup_v2)


def test_facts_of_a_v1_host(tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    memory.mkdir()
    for name in ("memory.limit_in_bytes", "memory.oom_control"):
        (memory / name).write_text("")
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/mountinfo").write_text(
        f"30 24 0:26 / {memory} rw,nosuid - cgroup cgroup rw,memory\n"
        "31 24 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
        "32 24 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    )
    facts = detect(str(tmp_path))
    assert (facts.memory_limit, facts.oom_kill_disable) == (True, True)
    assert (facts.swap_limit, facts.cpu_cfs, facts.pids_limit, facts.cgroup_v2) == (
        *(False, False, False, False),
    )


def test_facts_of_a_v2_host(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    root.mkdir()
    (root / "cgroup.controllers").write_text("cpuset cpu memory pids\n")
    (root / "cpuset.cpus.effective").write_text("0-7\n")
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text(f"30 24 0:26 / {root} rw - cgroup2 cgroup2 rw\n")
    facts = detect(str(tmp_path))
    assert facts.cgroup_v2
    assert (facts.memory_limit, facts.pids_limit, facts.cpus) == (True, True, "0-7")
    assert (facts.blkio_weight, facts.oom_kill_disable) == (False, False)
