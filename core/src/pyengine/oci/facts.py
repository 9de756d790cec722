"""What this host's kernel can limit, found once at start. Docker calls it SysInfo."""

from __future__ import annotations

import os

import msgspec


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of ``docker info`` are named after these. ``cpus`` and ``mems``: lists as the
    kernel writes them (``0-3``)."""

    cgroup_v2: bool = False
    memory_limit: bool = False
    swap_limit: bool = False
    memory_reservation: bool = False
    memory_swappiness: bool = False
    kernel_memory_tcp: bool = False
    oom_kill_disable: bool = False
    cpu_shares: bool = False
    cpu_cfs: bool = False
    cpu_realtime: bool = False
    cpuset: bool = False
    cpus: str = ""
    mems: str = ""
    pids_limit: bool = False
    blkio_weight: bool = False
    blkio_weight_device: bool = False
    blkio_throttle: bool = False
    cgroup_namespaces: bool = False
    cpu_count: int = 1


def detect(proc: str = "/proc") -> HostFacts:
    """Look at the cgroup mounts and their files. A controller that is not mounted limits nothing;
    mountinfo is asked, as an empty directory under /sys/fs/cgroup proves nothing."""
    mounts, unified = _cgroup_mounts(proc)
    namespaces = os.path.exists(f"{proc}/self/ns/cgroup")
    count = len(os.sched_getaffinity(0))
    if unified and not mounts:
        return _v2(unified, namespaces, count)

    def has(controller: str, *names: str) -> bool:
        root = mounts.get(controller)
        return root is not None and any(os.path.exists(f"{root}/{name}") for name in names)

    cpuset = mounts.get("cpuset", "")
    return HostFacts(
        memory_limit=has("memory", "memory.limit_in_bytes"),
        swap_limit=has("memory", "memory.memsw.limit_in_bytes"),
        memory_reservation=has("memory", "memory.soft_limit_in_bytes"),
        memory_swappiness=has("memory", "memory.swappiness"),
        kernel_memory_tcp=has("memory", "memory.kmem.tcp.limit_in_bytes"),
        oom_kill_disable=has("memory", "memory.oom_control"),
        cpu_shares=has("cpu", "cpu.shares"),
        cpu_cfs=has("cpu", "cpu.cfs_quota_us"),
        cpu_realtime=has("cpu", "cpu.rt_period_us"),
        cpuset=has("cpuset", "cpuset.cpus"),
        cpus=_read(f"{cpuset}/cpuset.cpus"),
        mems=_read(f"{cpuset}/cpuset.mems"),
        pids_limit="pids" in mounts,
        blkio_weight=has("blkio", "blkio.weight", "blkio.bfq.weight"),
        blkio_weight_device=has("blkio", "blkio.weight_device", "blkio.bfq.weight_device"),
        blkio_throttle=has("blkio", "blkio.throttle.read_bps_device"),
        cgroup_namespaces=namespaces,
        cpu_count=count,
    )


def _v2(root: str, namespaces: bool, count: int) -> HostFacts:
    controllers = _read(f"{root}/cgroup.controllers").split()
    memory, cpu, io = "memory" in controllers, "cpu" in controllers, "io" in controllers
    return HostFacts(
        cgroup_v2=True,
        memory_limit=memory,
        swap_limit=memory and os.path.exists("/proc/swaps"),
        memory_reservation=memory,
        cpu_shares=cpu,
        cpu_cfs=cpu,
        cpuset="cpuset" in controllers,
        cpus=_read(f"{root}/cpuset.cpus.effective"),
        mems=_read(f"{root}/cpuset.mems.effective"),
        pids_limit="pids" in controllers,
        blkio_weight=io,
        blkio_weight_device=io,
        blkio_throttle=io,
        cgroup_namespaces=namespaces,
        cpu_count=count,
    )


def _cgroup_mounts(proc: str) -> tuple[dict[str, str], str]:
    """Mount point by v1 controller, and the mount point of cgroup2 ("" if there is none)."""
    controllers: dict[str, str] = {}
    unified = ""
    with open(f"{proc}/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            kind, _, options = after.split(" ", 2)
            if kind == "cgroup":
                point = before.split()[4]
                for name in options.strip().split(","):
                    controllers.setdefault(name, point)
            elif kind == "cgroup2":
                unified = unified or before.split()[4]
    for flag in ("rw", "ro"):
        controllers.pop(flag, None)
    return {name: path for name, path in controllers.items() if "=" not in name}, unified


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
