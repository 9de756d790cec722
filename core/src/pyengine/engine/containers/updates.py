"""``docker update``: what a ``HostConfig`` becomes when some of its limits are given anew.

Rules and words are Docker's (moby ``daemon/container/container_unix.go``): the new values are
checked by themselves first, as at create, and then against those that stay.
"""

from __future__ import annotations

import msgspec

from pyengine.engine.model import HostConfig
from pyengine.errors import Conflict, InvalidParameter
from pyengine.oci.facts import HostFacts
from pyengine.oci.validate import check_resources, check_restart_policy


def check(body: HostConfig, given: set[str], facts: HostFacts) -> list[str]:
    """Warnings for the values of ``body`` that this host cannot set, which leave ``given``.

    Raises ``InvalidParameter`` for values that no host could set.
    """
    if "restart_policy" in given:
        check_restart_policy(body.restart_policy)
    before = {name: getattr(body, name) for name in given}
    warnings = check_resources(body, facts, update=True)
    given -= {name for name, value in before.items() if value and not getattr(body, name)}
    return warnings


def merged(id: str, host: HostConfig, body: HostConfig, given: set[str]) -> HostConfig:
    """``host`` with the fields ``given`` of ``body``. ``Conflict`` where they contradict."""

    def refuse(why: str) -> Conflict:
        return Conflict(f"Cannot update container {id}: {why}")

    for new, old, what in (
        ("nano_cpus", "cpu_period", "Nano CPUs cannot be updated as CPU Period"),
        ("nano_cpus", "cpu_quota", "Nano CPUs cannot be updated as CPU Quota"),
        ("cpu_period", "nano_cpus", "CPU Period cannot be updated as NanoCPUs"),
        ("cpu_quota", "nano_cpus", "CPU Quota cannot be updated as NanoCPUs"),
    ):
        if new in given and getattr(body, new) > 0 and getattr(host, old) > 0:
            raise refuse(f"Conflicting options: {what} has already been set")
    if "memory" in given and "memory_swap" not in given and body.memory > host.memory_swap:
        raise refuse(
            "Memory limit should be smaller than already set memoryswap limit, update the "
            "memoryswap at the same time"
        )
    if (
        "restart_policy" in given
        and host.auto_remove
        and body.restart_policy.name not in ("", "no")
    ):
        raise refuse(
            "Restart policy cannot be updated because AutoRemove is enabled for the container"
        )
    changed = msgspec.structs.replace(host, **{name: getattr(body, name) for name in given})
    if changed.memory == 0 and changed.memory_swap > 0:
        raise InvalidParameter(
            "You should always set the Memory limit when using Memoryswap limit, see usage"
        )
    return changed
