"""Limits: from ``HostConfig`` to ``linux.resources`` and ``process.rlimits``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from pyengine.engine.model import HostConfig, ThrottleDevice, Ulimit
from pyengine.errors import InvalidParameter

#: Microseconds; what ``--cpus`` is a share of.
CPU_PERIOD = 100_000
_UNSIGNED = (1 << 64) - 1


def from_host_config(host: HostConfig) -> dict[str, Any]:
    """``linux.resources`` without the device rules; what is not limited is not in it."""
    found: dict[str, Any] = {}
    for key, section in (("memory", _memory(host)), ("cpu", _cpu(host)), ("blockIO", _block(host))):
        if section:
            found[key] = section
    if host.pids_limit is not None:
        # The API's 0 and below mean no limit, which runtimes call -1.
        found["pids"] = {"limit": host.pids_limit if host.pids_limit > 0 else -1}
    return found


def ulimits(host: HostConfig, defaults: Mapping[str, Ulimit]) -> dict[str, Ulimit]:
    """By name: the container's, then those of the engine's defaults that it does not set."""
    own = {limit.name.lower(): limit for limit in host.ulimits or ()}
    return {**own, **{name: limit for name, limit in defaults.items() if name not in own}}


def rlimits(host: HostConfig, defaults: Mapping[str, Ulimit]) -> list[dict[str, Any]]:
    """:func:`ulimits` as ``process.rlimits``."""
    return [
        {
            "type": "RLIMIT_" + name.upper(),
            "soft": limit.soft & _UNSIGNED,
            "hard": limit.hard & _UNSIGNED,
        }
        for name, limit in ulimits(host, defaults).items()
    ]


def _memory(host: HostConfig) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if host.memory > 0:
        found["limit"] = host.memory
    if host.memory_reservation > 0:
        found["reservation"] = host.memory_reservation
    if host.memory_swap > 0 or (host.memory_swap == -1 and host.memory > 0):
        found["swap"] = host.memory_swap
    if host.kernel_memory_tcp > 0:
        found["kernelTCP"] = host.kernel_memory_tcp
    if host.memory_swappiness is not None and host.memory_swappiness >= 0:
        found["swappiness"] = host.memory_swappiness
    if host.oom_kill_disable is not None:
        found["disableOOMKiller"] = host.oom_kill_disable
    return found


def _cpu(host: HostConfig) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if host.cpu_shares:
        found["shares"] = host.cpu_shares
    if host.nano_cpus > 0:
        found["period"] = CPU_PERIOD
        found["quota"] = host.nano_cpus * CPU_PERIOD // 1_000_000_000
    if host.cpu_period:
        found["period"] = host.cpu_period
    if host.cpu_quota:
        found["quota"] = host.cpu_quota
    if host.cpu_realtime_period:
        found["realtimePeriod"] = host.cpu_realtime_period
    if host.cpu_realtime_runtime:
        found["realtimeRuntime"] = host.cpu_realtime_runtime
    if host.cpuset_cpus:
        found["cpus"] = host.cpuset_cpus
    if host.cpuset_mems:
        found["mems"] = host.cpuset_mems
    return found


def _block(host: HostConfig) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if host.blkio_weight:
        found["weight"] = host.blkio_weight
    if host.blkio_weight_device:
        found["weightDevice"] = [
            {**_number(device.path), "weight": device.weight} for device in host.blkio_weight_device
        ]
    for key, devices in (
        ("throttleReadBpsDevice", host.blkio_device_read_bps),
        ("throttleWriteBpsDevice", host.blkio_device_write_bps),
        ("throttleReadIOPSDevice", host.blkio_device_read_iops),
        ("throttleWriteIOPSDevice", host.blkio_device_write_iops),
    ):
        if devices:
            found[key] = _throttles(devices)
    return found


def _throttles(devices: Sequence[ThrottleDevice]) -> list[dict[str, Any]]:
    return [{**_number(device.path), "rate": device.rate} for device in devices]


def _number(path: str) -> dict[str, int]:
    try:
        device = os.stat(path).st_rdev
    except OSError as error:
        raise InvalidParameter(f"stat {path}", (error.strerror or "").lower()) from None
    return {"major": os.major(device), "minor": os.minor(device)}
