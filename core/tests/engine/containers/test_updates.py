from __future__ import annotations

from typing import Any

import pytest

from pyengine.engine.containers.updates import check, merged
from pyengine.engine.model import HostConfig, RestartPolicy
from pyengine.errors import Conflict, InvalidParameter
from pyengine.oci.facts import HostFacts

EVERYTHING = HostFacts(
    memory_limit=True, swap_limit=True, memory_reservation=True, cpu_shares=True, cpu_cfs=True,
    cpuset=True, cpus="0-1", mems="0", pids_limit=True, blkio_weight=True, cpu_count=2,
)  # fmt: skip


def update(host: HostConfig, **fields: Any) -> HostConfig:
    return merged("c0ffee", host, HostConfig(**fields), set(fields))


def test_what_is_given_replaces_and_the_rest_stays() -> None:
    changed = update(HostConfig(cpu_shares=5, memory=8 << 20, memory_swap=-1), cpu_shares=7)
    assert (changed.cpu_shares, changed.memory, changed.memory_swap) == (7, 8 << 20, -1)


@pytest.mark.parametrize(
    ("host", "fields", "says"),
    [
        (HostConfig(cpu_period=50000), {"nano_cpus": 1}, "CPU Period has already been set"),
        (HostConfig(cpu_quota=50000), {"nano_cpus": 1}, "CPU Quota has already been set"),
        (HostConfig(nano_cpus=1), {"cpu_period": 1000}, "NanoCPUs has already been set"),
        (HostConfig(nano_cpus=1), {"cpu_quota": 1000}, "NanoCPUs has already been set"),
        (HostConfig(memory=8 << 20, memory_swap=9 << 20), {"memory": 10 << 20},
         "update the memoryswap at the same time"),
        (HostConfig(auto_remove=True), {"restart_policy": RestartPolicy(name="always")},
         "Restart policy cannot be updated because AutoRemove is enabled"),
    ],
)  # fmt: skip
def test_contradictions(host: HostConfig, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(Conflict, match=f"Cannot update container c0ffee: .*{says}"):
        update(host, **fields)


def test_memory_and_swap_together() -> None:
    changed = update(HostConfig(memory=8 << 20, memory_swap=9 << 20), memory=10 << 20,
                     memory_swap=20 << 20)  # fmt: skip
    assert (changed.memory, changed.memory_swap) == (10 << 20, 20 << 20)
    with pytest.raises(InvalidParameter, match="always set the Memory limit"):
        update(HostConfig(), memory_swap=20 << 20)


def test_what_the_host_cannot_limit_stays_as_it_was() -> None:
    given = {"blkio_weight", "cpu_shares"}
    body = HostConfig(blkio_weight=500, cpu_shares=7)
    (warning,) = check(body, given, HostFacts(cpu_shares=True))
    assert "Weight discarded" in warning
    assert given == {"cpu_shares"}


@pytest.mark.parametrize(
    "body",
    [
        HostConfig(memory=1),
        HostConfig(cpuset_cpus="7"),
        HostConfig(nano_cpus=3_000_000_000),
        HostConfig(restart_policy=RestartPolicy(name="sometimes")),
    ],
)
def test_values_that_no_host_could_set(body: HostConfig) -> None:
    with pytest.raises(InvalidParameter):
        check(body, {"memory", "cpuset_cpus", "nano_cpus", "restart_policy"}, EVERYTHING)
