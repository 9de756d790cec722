"""``docker stats``: the counters of a container's cgroup in Docker's shape.

Formulas and field names: the Engine's API description, "Get container stats based on resource
usage"; /proc/stat and /proc/PID/net/dev: proc(5).
"""

from __future__ import annotations

import os
import time
from typing import Any

from pyengine import timestamps
from pyengine.contracts.runtime import RuntimeStats
from pyengine.engine.model import Container

Body = dict[str, Any]

_TICK = 10**9 // os.sysconf("SC_CLK_TCK")
_NO_CPU: Body = {
    "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
    "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
}
_BLKIO = (
    "io_service_bytes_recursive",
    "io_serviced_recursive",
    "io_queue_recursive",
    "io_service_time_recursive",
    "io_wait_time_recursive",
    "io_merged_recursive",
    "io_time_recursive",
    "sectors_recursive",
)


def nothing(container: Container) -> Body:
    """What a container that does not run uses."""
    return {
        "read": timestamps.NEVER,
        "preread": timestamps.NEVER,
        "pids_stats": {},
        "blkio_stats": dict.fromkeys(_BLKIO),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _NO_CPU,
        "precpu_stats": _NO_CPU,
        "memory_stats": {},
        "name": "/" + container.name.removeprefix("/"),
        "id": container.id,
    }


def sample(container: Container, stats: RuntimeStats, before: Body | None) -> Body:
    """One reading; ``before`` is the previous one, for ``precpu_stats``."""
    body: Body = {
        "read": timestamps.render(time.time_ns()),
        "preread": before["read"] if before else timestamps.NEVER,
        "pids_stats": _known(current=stats.pids, limit=stats.pids_limit or -1),
        "blkio_stats": {
            **{name: [] for name in _BLKIO},
            "io_service_bytes_recursive": _blkio(stats.blkio_bytes),
            "io_serviced_recursive": _blkio(stats.blkio_operations),
        },
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _cpu(stats),
        "precpu_stats": before["cpu_stats"] if before else _NO_CPU,
        "memory_stats": _memory(stats),
        "name": "/" + container.name.removeprefix("/"),
        "id": container.id,
    }
    interfaces = _interfaces(container.state.pid)
    if interfaces:
        body["networks"] = interfaces
    return body


def _known(**values: int) -> Body:
    return {name: value for name, value in values.items() if value >= 0}


def _blkio(rows: list[tuple[int, int, str, int]]) -> list[Body]:
    return [{"major": a, "minor": b, "op": op, "value": value} for a, b, op, value in rows]


def _cpu(stats: RuntimeStats) -> Body:
    usage: Body = {"total_usage": max(stats.cpu_total, 0)}
    if stats.cpu_percpu:
        usage["percpu_usage"] = stats.cpu_percpu
    usage["usage_in_kernelmode"] = max(stats.cpu_system, 0)
    usage["usage_in_usermode"] = max(stats.cpu_user, 0)
    busy, processors = _system()
    return {
        "cpu_usage": usage,
        "system_cpu_usage": busy,
        "online_cpus": processors,
        "throttling_data": {
            "periods": stats.throttled_periods,
            "throttled_periods": stats.throttled_count,
            "throttled_time": stats.throttled_time,
        },
    }


def _memory(stats: RuntimeStats) -> Body:
    body = _known(usage=stats.memory_usage)
    if stats.memory_max_usage > 0:
        body["max_usage"] = stats.memory_max_usage
    body["stats"] = stats.memory
    if stats.memory_failcnt:
        body["failcnt"] = stats.memory_failcnt
    body["limit"] = stats.memory_limit or _host_memory()
    return body


def _system() -> tuple[int, int]:
    """CPU time of the whole host in ns (user, nice, system, idle, iowait, irq, softirq, and no
    guest time, which user includes), and the number of processors."""
    with open("/proc/stat") as file:
        ticks = sum(map(int, file.readline().split()[1:8]))
        processors = sum(1 for line in file if line.startswith("cpu"))
    return ticks * _TICK, processors


def _host_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _interfaces(pid: int) -> Body:
    if not pid:
        return {}
    try:
        with open(f"/proc/{pid}/net/dev") as file:
            lines = file.readlines()[2:]
    except OSError:
        return {}
    interfaces = {}
    for line in lines:
        name, _, rest = line.partition(":")
        name = name.strip()
        if name == "lo":
            continue
        fields = list(map(int, rest.split()))
        interfaces[name] = {
            "rx_bytes": fields[0],
            "rx_packets": fields[1],
            "rx_errors": fields[2],
            "rx_dropped": fields[3],
            "tx_bytes": fields[8],
            "tx_packets": fields[9],
            "tx_errors": fields[10],
            "tx_dropped": fields[11],
        }
    return interfaces
