"""Resources become the files that Docker's users find; plans need no kernel."""

from __future__ import annotations

from typing import Any

import pytest

from pyengine.errors import InvalidParameter, Unsupported
from pyengine.linux import cgroup_limits
from pyengine.linux.cgroups import Hierarchy, Layout

V2 = Layout((Hierarchy("/sys/fs/cgroup", ("cpu", "cpuset", "io", "memory", "pids"), True),))
V1 = Layout(
    (
        Hierarchy("/sys/fs/cgroup/cpu,cpuacct", ("cpu", "cpuacct"), False),
        Hierarchy("/sys/fs/cgroup/memory", ("memory",), False),
        Hierarchy("/sys/fs/cgroup/pids", ("pids",), False),
        Hierarchy("/sys/fs/cgroup/blkio", ("blkio",), False),
        Hierarchy("/sys/fs/cgroup/unified", (), True),
    )
)
MIB = 1 << 20


def files(layout: Layout, resources: dict[str, Any], *, new: bool = True) -> list[tuple[str, str]]:
    return [(w.file, w.value) for w in cgroup_limits.plan(resources, layout, new=new)]


def test_version_2_memory() -> None:
    """--memory 512m --memory-swap 1g --memory-reservation 256m."""
    memory = {"limit": 512 * MIB, "swap": 1024 * MIB, "reservation": 256 * MIB}
    assert files(V2, {"memory": memory}) == [
        ("memory.swap.max", "536870912"),
        ("memory.max", "536870912"),
        ("memory.low", "268435456"),
    ]
    assert files(V2, {"memory": {"limit": 512 * MIB, "swap": -1}})[0] == ("memory.swap.max", "max")


def test_version_2_cpu_and_pids() -> None:
    """--cpus 1.5 --cpu-shares 1024 --pids-limit 50 --cpuset-cpus 0."""
    resources = {
        "cpu": {"quota": 150000, "period": 100000, "shares": 1024, "cpus": "0"},
        "pids": {"limit": 50},
    }
    assert files(V2, resources) == [
        ("cpu.weight", "100"),
        ("cpu.max", "150000 100000"),
        ("cpuset.cpus", "0"),
        ("pids.max", "50"),
    ]
    assert files(V2, {"cpu": {"quota": -1}}) == [("cpu.max", "max 100000")]


def test_version_2_io() -> None:
    device = {"major": 8, "minor": 0, "rate": 1048576}
    resources = {
        "blockIO": {"throttleReadBpsDevice": [device], "throttleWriteIOPSDevice": [device]}
    }
    assert files(V2, resources) == [
        ("io.max", "8:0 rbps=1048576"),
        ("io.max", "8:0 wiops=1048576"),
    ]
    assert files(V2, {"blockIO": {"weight": 500}}) == [("io.weight", "default 4950")]


@pytest.mark.parametrize(
    ("shares", "weight"), [(2, 1), (512, 59), (1024, 100), (2048, 174), (262144, 10000)]
)
def test_weight_keeps_both_ends_and_the_default(shares: int, weight: int) -> None:
    assert cgroup_limits.weight_of_shares(shares) == weight


def test_version_1() -> None:
    resources = {
        "memory": {"limit": 64 * MIB, "swap": 128 * MIB, "swappiness": 0},
        "cpu": {"shares": 512, "quota": 50000, "period": 100000},
        "pids": {"limit": 0},
    }
    assert files(V1, resources) == [
        ("memory.limit_in_bytes", "67108864"),
        ("memory.memsw.limit_in_bytes", "134217728"),
        ("memory.swappiness", "0"),
        ("cpu.shares", "512"),
        ("cpu.cfs_period_us", "100000"),
        ("cpu.cfs_quota_us", "50000"),
    ]


def test_no_limit_is_written_only_to_lift_one() -> None:
    resources = {"memory": {"limit": -1}, "pids": {"limit": -1}}
    assert files(V1, resources) == []
    assert files(V1, resources, new=False) == [
        ("memory.limit_in_bytes", "-1"),
        ("memory.memsw.limit_in_bytes", "-1"),
        ("pids.max", "max"),
    ]


def test_what_cannot_be_honoured_is_refused() -> None:
    with pytest.raises(Unsupported, match="no cgroup controller 'cpuset'"):
        files(V1, {"cpu": {"cpus": "0"}})
    with pytest.raises(Unsupported, match="swappiness"):
        files(V2, {"memory": {"swappiness": 10}})
    with pytest.raises(Unsupported, match="unified"):
        files(V1, {"unified": {"memory.high": "1"}})
    with pytest.raises(Unsupported, match="rdma"):
        files(V2, {"rdma": {"mlx5_1": {"hcaHandles": 3}}})
    with pytest.raises(Unsupported, match=r"memory\.colour"):
        files(V2, {"memory": {"colour": 1}})
    with pytest.raises(InvalidParameter, match="lower than"):
        files(V2, {"memory": {"limit": 2 * MIB, "swap": MIB}})
    with pytest.raises(InvalidParameter, match="not the name"):
        files(V2, {"unified": {"../memory.max": "1"}})
