"""``linux.resources`` of a runtime spec to cgroup files: first a plan, then the writing of it.

The plan is a list of ``Write``, made without touching the host's files, so that a resource which
this host or its cgroup version cannot honour is refused before anything exists. Version 2 takes
other units than the spec, which was made for version 1; the conversions are those that runc
applies. Sources: runtime-spec config-linux.md, the kernel's cgroup-v1 documents and cgroup-v2.rst.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from pyengine.errors import EngineError, InvalidParameter, Unsupported
from pyengine.faults import failpoint
from pyengine.linux import cgroup_devices
from pyengine.linux.cgroups import Cgroup, Layout, read, write


class Write(NamedTuple):
    """``optional``: a file that may be missing because the value is what its absence means."""

    controller: str
    file: str
    value: str
    option: str
    optional: bool = False


#: What the kernel takes into cpu.shares; others it would change without a word.
MINIMUM_SHARES, MAXIMUM_SHARES = 2, 262144

_MEMORY = frozenset(
    {
        "limit",
        "reservation",
        "swap",
        "kernel",
        "kernelTCP",
        "swappiness",
        "disableOOMKiller",
        "useHierarchy",
        "checkBeforeUpdate",
    }
)
_CPU = frozenset(
    {
        "shares",
        "quota",
        "burst",
        "period",
        "realtimeRuntime",
        "realtimePeriod",
        "cpus",
        "mems",
        "idle",
    }
)
_BLKIO = frozenset(
    {
        "weight",
        "leafWeight",
        "weightDevice",
        "throttleReadBpsDevice",
        "throttleWriteBpsDevice",
        "throttleReadIOPSDevice",
        "throttleWriteIOPSDevice",
    }
)
_GROUPS = {
    "memory": _MEMORY,
    "cpu": _CPU,
    "blockIO": _BLKIO,
    "pids": frozenset({"limit"}),
    "network": frozenset({"classID", "priorities"}),
    "unified": None,
    "devices": None,
    "hugepageLimits": None,
    "rdma": None,
}


def plan(resources: dict[str, Any], layout: Layout, *, new: bool = True) -> list[Write]:
    """What to write, in order, for ``resources`` on a host with ``layout``.

    Raises ``InvalidParameter`` for values that contradict each other and ``Unsupported`` naming the
    option for what this host cannot limit. ``new``: for a cgroup that was just made, where values
    that mean "no limit" need not be written.
    """
    _reject_unknown(resources)
    writes = (_plan_v2 if layout.v2 else _plan_v1)(resources, new)
    for item in writes:
        if layout.find(item.controller) is None and item.controller != "cgroup":
            if item.optional:
                continue
            raise Unsupported(
                f"{item.option} cannot be limited: this host has no cgroup controller "
                f"{item.controller!r}",
                help="leave the option out, or boot with the controller enabled",
            )
    return [w for w in writes if w.controller == "cgroup" or layout.find(w.controller) is not None]


def apply(cgroup: Cgroup, writes: list[Write]) -> None:
    """Write a plan. Raises ``Unsupported`` for a missing file, else ``EngineError`` with the
    file, the value and the kernel's answer."""
    if not cgroup.layout.v2:
        writes = _memory_order(cgroup, writes)
    for item in writes:
        unified = cgroup.layout.unified
        if item.controller == "cgroup" and unified is not None:
            path = cgroup.directory_in(unified) + "/" + item.file
        else:
            path = cgroup.file(item.controller, item.file)
        failpoint("cgroup.limit")
        try:
            write(path, item.value)
        except FileNotFoundError:
            if not item.optional:
                raise Unsupported(
                    f"this kernel cannot limit {item.option}",
                    f"{path} does not exist",
                    "leave the option out, or use a kernel that was built with it",
                ) from None
        except OSError as error:
            if item.optional and error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                continue
            raise EngineError(
                f"cannot set {item.option} to {item.value!r}",
                f"{path}: {os.strerror(error.errno or 0)}",
                _advice(item, error.errno),
            ) from None


def apply_devices(cgroup: Cgroup, rules: list[dict[str, Any]]) -> None:
    """Allow and deny devices as the spec's ``devices`` say; the last rule that matches wins.

    On version 2 the program stays attached to the cgroup and goes with it.
    """
    if not rules:
        return
    if cgroup.layout.find("devices") is not None:
        for rule in rules:
            name, value = cgroup_devices.v1_line(rule)
            failpoint("cgroup.devices")
            write(cgroup.file("devices", name), value)
    elif cgroup.layout.v2:
        directory = cgroup.directory()
        try:
            cgroup_devices.attach(directory, cgroup_devices.assemble(rules))
        finally:
            os.close(directory)
    else:
        raise Unsupported("devices cannot be limited: this host has no devices controller")


def _advice(item: Write, number: int | None) -> str:
    if item.file.startswith("memory") and number == errno.EBUSY:
        return "the container uses more than that now"
    if item.file.startswith("cpuset") and number in (errno.EINVAL, errno.EACCES, errno.ERANGE):
        return "name processors and memory nodes that this host has online"
    return ""


def _memory_order(cgroup: Cgroup, writes: list[Write]) -> list[Write]:
    """memory.limit must never exceed memory.memsw.limit, so the one that grows goes first."""
    names = [w.file for w in writes]
    if "memory.memsw.limit_in_bytes" not in names or "memory.limit_in_bytes" not in names:
        return writes
    limit = names.index("memory.limit_in_bytes")
    swap = names.index("memory.memsw.limit_in_bytes")
    now = read(cgroup.file("memory", "memory.memsw.limit_in_bytes")).strip()
    wanted = int(writes[swap].value)
    if now and (wanted == -1 or wanted > int(now)):
        writes = list(writes)
        writes[limit], writes[swap] = writes[swap], writes[limit]
    return writes


def _reject_unknown(resources: dict[str, Any]) -> None:
    for group, content in resources.items():
        if group not in _GROUPS:
            raise Unsupported(f"resource {group!r} of the runtime spec is not supported")
        known = _GROUPS[group]
        if known is None or not isinstance(content, dict):
            continue
        for key in content:
            if key not in known:
                raise Unsupported(f"resource {group}.{key} of the runtime spec is not supported")


class _Planner:
    def __init__(self, new: bool) -> None:
        self.new = new
        self.writes: list[Write] = []

    def add(
        self,
        file: str,
        value: Any,
        option: str,
        convert: Callable[[Any], str] = str,
        optional: bool = False,
    ) -> None:
        if value is not None:
            controller = file.partition(".")[0]
            self.writes.append(Write(controller, file, convert(value), option, optional))


def _plan_v1(resources: dict[str, Any], new: bool) -> list[Write]:
    p = _Planner(new)
    memory = resources.get("memory") or {}
    limit, swap = memory.get("limit"), memory.get("swap")
    _check_swap(limit, swap)
    if limit == -1 and not swap:
        swap = -1
    if limit and not (new and limit == -1):
        p.add("memory.limit_in_bytes", limit, "memory limit")
    if swap and not (new and swap == -1):
        p.add("memory.memsw.limit_in_bytes", swap, "memory swap", optional=swap == -1)
    p.add("memory.soft_limit_in_bytes", memory.get("reservation") or None, "memory reservation")
    p.add("memory.kmem.tcp.limit_in_bytes", memory.get("kernelTCP") or None, "kernel TCP memory")
    p.add("memory.swappiness", memory.get("swappiness"), "memory swappiness")
    if memory.get("disableOOMKiller"):
        p.add("memory.oom_control", "1", "disabling the OOM killer")

    cpu = resources.get("cpu") or {}
    shares = cpu.get("shares") or None
    if shares is not None and shares < MINIMUM_SHARES:
        raise InvalidParameter(f"the minimum allowed cpu-shares is {MINIMUM_SHARES}")
    if shares is not None and shares > MAXIMUM_SHARES:
        raise InvalidParameter(f"the maximum allowed cpu-shares is {MAXIMUM_SHARES}")
    p.add("cpu.shares", shares, "cpu shares")
    p.add("cpu.cfs_period_us", cpu.get("period") or None, "cpu period")
    quota = cpu.get("quota") or None
    p.add("cpu.cfs_quota_us", None if new and quota == -1 else quota, "cpu quota")
    p.add("cpu.cfs_burst_us", cpu.get("burst"), "cpu burst")
    p.add("cpu.rt_period_us", cpu.get("realtimePeriod") or None, "cpu realtime period")
    p.add("cpu.rt_runtime_us", cpu.get("realtimeRuntime") or None, "cpu realtime runtime")
    p.add("cpu.idle", cpu.get("idle"), "cpu idle")
    p.add("cpuset.cpus", cpu.get("cpus") or None, "cpuset cpus")
    p.add("cpuset.mems", cpu.get("mems") or None, "cpuset mems")

    _add_pids(p, resources)
    io = resources.get("blockIO") or {}
    weight = io.get("weight") or None
    p.add(_blkio_file("weight"), weight, "block IO weight")
    p.add("blkio.leaf_weight", io.get("leafWeight") or None, "block IO leaf weight")
    for entry in io.get("weightDevice") or ():
        p.add(_blkio_file("weight_device"), _rate(entry, "weight"), "block IO weight of a device")
    for key, file in _THROTTLE_V1.items():
        for entry in io.get(key) or ():
            p.add(f"blkio.throttle.{file}", _rate(entry, "rate"), f"block IO {key}")
    for huge in resources.get("hugepageLimits") or ():
        file = f"hugetlb.{huge['pageSize']}.limit_in_bytes"
        p.add(file, huge["limit"], "huge pages")
    network = resources.get("network") or {}
    p.add("net_cls.classid", network.get("classID") or None, "network class")
    for entry in network.get("priorities") or ():
        line = f"{entry['name']} {entry['priority']}"
        p.add("net_prio.ifpriomap", line, "network priority")
    if resources.get("rdma"):
        raise Unsupported("resource 'rdma' of the runtime spec is not supported")
    if resources.get("unified"):
        raise Unsupported(
            "resource 'unified' needs cgroup version 2", help="this host runs version 1"
        )
    return p.writes


_THROTTLE_V1 = {
    "throttleReadBpsDevice": "read_bps_device",
    "throttleWriteBpsDevice": "write_bps_device",
    "throttleReadIOPSDevice": "read_iops_device",
    "throttleWriteIOPSDevice": "write_iops_device",
}
_THROTTLE_V2 = {
    "throttleReadBpsDevice": "rbps",
    "throttleWriteBpsDevice": "wbps",
    "throttleReadIOPSDevice": "riops",
    "throttleWriteIOPSDevice": "wiops",
}


def _blkio_file(name: str) -> str:
    # The weight belongs to the bfq scheduler since Linux 5.0, which put its name into the file's.
    return f"blkio.bfq.{name}"


def _plan_v2(resources: dict[str, Any], new: bool) -> list[Write]:
    p = _Planner(new)
    memory = resources.get("memory") or {}
    limit, swap = memory.get("limit") or None, memory.get("swap") or None
    _check_swap(limit, swap)
    if memory.get("disableOOMKiller"):
        raise Unsupported(
            "the OOM killer cannot be disabled with cgroup version 2", help="leave the option out"
        )
    if memory.get("swappiness") is not None:
        raise Unsupported(
            "memory swappiness does not exist in cgroup version 2", help="leave the option out"
        )
    if limit == -1 and swap is None:
        swap = -1
    if swap is not None:
        own = swap if swap == -1 or limit in (None, -1) else swap - int(limit or 0)
        if swap != -1 and limit is None:
            raise InvalidParameter("a swap limit needs a memory limit")
        p.add("memory.swap.max", own, "memory swap", _maximum, optional=own in (0, -1))
    p.add("memory.max", limit, "memory limit", _maximum)
    p.add("memory.low", memory.get("reservation") or None, "memory reservation", _maximum)

    cpu = resources.get("cpu") or {}
    shares = cpu.get("shares") or None
    p.add("cpu.idle", cpu.get("idle"), "cpu idle")
    p.add("cpu.weight", shares, "cpu shares", lambda s: str(weight_of_shares(s)))
    quota, period = cpu.get("quota") or 0, cpu.get("period") or 0
    if quota or period:
        value = ("max" if quota <= 0 else str(quota)) + f" {period or 100000}"
        p.add("cpu.max", value, "cpu quota")
    p.add("cpu.max.burst", cpu.get("burst"), "cpu burst")
    if cpu.get("realtimeRuntime") or cpu.get("realtimePeriod"):
        raise Unsupported("realtime cpu limits do not exist in cgroup version 2")
    p.add("cpuset.cpus", cpu.get("cpus") or None, "cpuset cpus")
    p.add("cpuset.mems", cpu.get("mems") or None, "cpuset mems")

    _add_pids(p, resources)
    io = resources.get("blockIO") or {}
    weight = io.get("weight") or None
    p.add("io.weight", weight, "block IO weight", lambda w: f"default {weight_of_blkio(w)}")
    for entry in io.get("weightDevice") or ():
        device = f"{entry['major']}:{entry['minor']}"
        value = f"{device} {weight_of_blkio(entry['weight'])}"
        p.add("io.weight", value, "block IO weight of a device")
    for key, name in _THROTTLE_V2.items():
        for entry in io.get(key) or ():
            value = f"{entry['major']}:{entry['minor']} {name}={entry['rate'] or 'max'}"
            p.add("io.max", value, f"block IO {key}")
    for huge in resources.get("hugepageLimits") or ():
        p.add(f"hugetlb.{huge['pageSize']}.max", huge["limit"], "huge pages")
    if resources.get("rdma"):
        raise Unsupported("resource 'rdma' of the runtime spec is not supported")
    if resources.get("network"):
        raise Unsupported("network classes and priorities do not exist in cgroup version 2")
    for file, value in (resources.get("unified") or {}).items():
        if "/" in file or "." not in file:
            raise InvalidParameter(f"{file!r} is not the name of a cgroup file")
        p.add(file, value, f"unified {file}")
    return p.writes


def _add_pids(p: _Planner, resources: dict[str, Any]) -> None:
    limit = (resources.get("pids") or {}).get("limit")
    if limit and not (p.new and limit == -1):
        p.add("pids.max", limit, "pids limit", _maximum)


def _maximum(value: Any) -> str:
    return "max" if int(value) < 0 else str(value)


def _rate(entry: dict[str, Any], key: str) -> str:
    return f"{entry['major']}:{entry['minor']} {entry[key]}"


def _check_swap(limit: int | None, swap: int | None) -> None:
    if limit and swap and limit > 0 and 0 < swap < limit:
        raise InvalidParameter(
            "the memory+swap limit is lower than the memory limit",
            f"{swap} and {limit} bytes",
            "the swap limit counts both together",
        )


def weight_of_shares(shares: int) -> int:
    """cpu.weight (1..10000) of cpu.shares (2..262144), as runc computes it since 1.3: a curve in
    the logarithm through both ends and both defaults (1024 becomes 100)."""
    if shares <= MINIMUM_SHARES:
        return 1
    if shares >= MAXIMUM_SHARES:
        return 10000
    log = math.log2(shares)
    return math.ceil(10 ** ((log * log + 125 * log) / 612.0 - 7.0 / 34.0))


def weight_of_blkio(weight: int) -> int:
    """io.weight (1..10000) of a blkio weight (10..1000)."""
    return 1 + (weight - 10) * 9999 // 990
