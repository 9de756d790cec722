"""Counters of a cgroup, of version 1 and of version 2, in the units of ``RuntimeStats``.

Sources: cgroup-v1/{cpuacct,memory,blkio-controller,pids}.rst and cgroup-v2.rst of the kernel.
"""

from __future__ import annotations

import os

from pyengine.contracts.runtime import RuntimeStats
from pyengine.linux import syscalls
from pyengine.linux.cgroups import Cgroup, read, write

_IN_MODIFY = 0x2
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
#: Version 1 has no word for "no limit" but the highest multiple of the page size.
_NO_LIMIT = (1 << 63) - (1 << 20)


def read_stats(cgroup: Cgroup) -> RuntimeStats:
    """What this host counts; what it does not stays -1 or empty."""
    stats = RuntimeStats(cpu_percpu=[], memory={}, blkio_bytes=[], blkio_operations=[])
    if cgroup.layout.v2:
        _read_v2(cgroup, stats)
    else:
        _read_v1(cgroup, stats)
    pids = _read(cgroup, "pids", "pids.current")
    if pids:
        stats.pids = int(pids)
        stats.pids_limit = _limit(_read(cgroup, "pids", "pids.max"))
    stats.oom_kills = oom_kills(cgroup)
    return stats


def cpu_time(cgroup: Cgroup) -> int:
    """Processor time used here and below so far, in ns; -1 if the host does not count it."""
    if cgroup.layout.find("cpuacct") is not None:
        return int(_read(cgroup, "cpuacct", "cpuacct.usage") or -1)
    unified = cgroup.layout.unified
    if unified is None:
        return -1
    table = _table(read(cgroup.directory_in(unified) + "/cpu.stat"))
    return table["usage_usec"] * 1000 if "usage_usec" in table else -1


def _read(cgroup: Cgroup, controller: str, name: str) -> str:
    hierarchy = cgroup.layout.find(controller)
    if hierarchy is None:
        return ""
    return read(cgroup.directory_in(hierarchy) + "/" + name).strip()


def _limit(text: str) -> int:
    if text in ("", "max"):
        return 0
    value = int(text)
    return 0 if value >= _NO_LIMIT else value


def _table(text: str) -> dict[str, int]:
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def _read_v1(cgroup: Cgroup, stats: RuntimeStats) -> None:
    usage = _read(cgroup, "cpuacct", "cpuacct.usage")
    if usage:
        stats.cpu_total = int(usage)
        stats.cpu_percpu = [
            int(v) for v in _read(cgroup, "cpuacct", "cpuacct.usage_percpu").split()
        ]
        times = _table(_read(cgroup, "cpuacct", "cpuacct.stat"))
        stats.cpu_user = times.get("user", 0) * _TICK_NS
        stats.cpu_system = times.get("system", 0) * _TICK_NS
    throttled = _table(_read(cgroup, "cpu", "cpu.stat"))
    stats.throttled_periods = throttled.get("nr_periods", 0)
    stats.throttled_count = throttled.get("nr_throttled", 0)
    stats.throttled_time = throttled.get("throttled_time", 0)
    usage = _read(cgroup, "memory", "memory.usage_in_bytes")
    if usage:
        stats.memory_usage = int(usage)
        stats.memory_max_usage = int(_read(cgroup, "memory", "memory.max_usage_in_bytes") or -1)
        stats.memory_limit = _limit(_read(cgroup, "memory", "memory.limit_in_bytes"))
        stats.memory_failcnt = int(_read(cgroup, "memory", "memory.failcnt") or 0)
        stats.memory = _table(_read(cgroup, "memory", "memory.stat"))
    for name, rows in (
        ("io_service_bytes", stats.blkio_bytes),
        ("io_serviced", stats.blkio_operations),
    ):
        text = _read(cgroup, "blkio", f"blkio.throttle.{name}_recursive")
        rows += _blkio_rows(text or _read(cgroup, "blkio", f"blkio.throttle.{name}"))


def _blkio_rows(text: str) -> list[tuple[int, int, str, int]]:
    rows = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) == 3:
            major, _, minor = fields[0].partition(":")
            rows.append((int(major), int(minor), fields[1], int(fields[2])))
    return rows


def _read_v2(cgroup: Cgroup, stats: RuntimeStats) -> None:
    unified = cgroup.layout.unified
    assert unified is not None
    directory = cgroup.directory_in(unified)
    cpu = _table(read(directory + "/cpu.stat"))
    if cpu:
        stats.cpu_total = cpu.get("usage_usec", 0) * 1000
        stats.cpu_user = cpu.get("user_usec", 0) * 1000
        stats.cpu_system = cpu.get("system_usec", 0) * 1000
        stats.throttled_periods = cpu.get("nr_periods", 0)
        stats.throttled_count = cpu.get("nr_throttled", 0)
        stats.throttled_time = cpu.get("throttled_usec", 0) * 1000
    usage = read(directory + "/memory.current").strip()
    if usage:
        stats.memory_usage = int(usage)
        stats.memory_max_usage = int(read(directory + "/memory.peak").strip() or -1)
        stats.memory_limit = _limit(read(directory + "/memory.max").strip())
        stats.memory_failcnt = _table(read(directory + "/memory.events")).get("max", 0)
        stats.memory = _table(read(directory + "/memory.stat"))
    for line in read(directory + "/io.stat").splitlines():
        device, *fields = line.split()
        major, _, minor = device.partition(":")
        values = dict(f.split("=", 1) for f in fields if "=" in f)
        for key, operation in (("r", "Read"), ("w", "Write")):
            row = (int(major), int(minor), operation)
            stats.blkio_bytes.append((*row, int(values.get(key + "bytes", 0))))
            stats.blkio_operations.append((*row, int(values.get(key + "ios", 0))))


def oom_kills(cgroup: Cgroup) -> int:
    """Processes of this cgroup that the OOM killer took so far."""
    hierarchy = cgroup.layout.find("memory")
    if hierarchy is None:
        return 0
    name = "/memory.events" if hierarchy.v2 else "/memory.oom_control"
    return _table(read(cgroup.directory_in(hierarchy) + name)).get("oom_kill", 0)


def oom_descriptor(cgroup: Cgroup) -> int:
    """A descriptor that becomes readable when memory ran out here; -1 without the controller."""
    hierarchy = cgroup.layout.find("memory")
    if hierarchy is None:
        return -1
    directory = cgroup.directory_in(hierarchy)
    if hierarchy.v2:
        return syscalls.inotify(directory + "/memory.events", _IN_MODIFY)
    event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        control = os.open(directory + "/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        try:
            write(directory + "/cgroup.event_control", f"{event} {control}")
        finally:
            os.close(control)
    except BaseException:
        os.close(event)
        raise
    return event
