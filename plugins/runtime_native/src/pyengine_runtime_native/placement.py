"""Where a container's cgroup comes from: directories of our own, or a scope of systemd."""

from __future__ import annotations

import os
import signal
from typing import Any, NoReturn

from pyengine.linux import cgroup_limits, cgroups, syscalls, systemd
from pyengine_runtime_native.records import Record


class Placement:
    """``location``: ``cgroupsPath``, a path or a scope's ``slice:prefix:name``.

    systemd makes no scope without a process, and lets one go that has none left. So a holder is in
    it until :meth:`settle` is told that the container's init is.
    """

    def __init__(self, location: str, resources: dict[str, Any]) -> None:
        self._scope = systemd.Scope.parse(location)
        self.cgroup = cgroups.Cgroup(self._scope.path if self._scope else location)
        self._writes = cgroup_limits.plan(resources, self.cgroup.layout)
        self._holder = 0

    @property
    def unit(self) -> str:
        return self._scope.unit if self._scope else ""

    def make(self) -> None:
        """The cgroup with its limits."""
        if self._scope is None:
            self.cgroup.create()
            cgroup_limits.apply(self.cgroup, self._writes)
            return
        self._holder = _hold()
        systemd.start(self._scope, self._holder, systemd.properties(self._writes))
        self.cgroup.enable_controllers()  # there are more than systemd knows
        # The holder is one too many, where one is all that there may be.
        room = [w._replace(value="max") if w.file == "pids.max" else w for w in self._writes]
        cgroup_limits.apply(self.cgroup, room)

    def settle(self) -> None:
        """The container's own process is in the cgroup."""
        if self._holder:
            self._release()
            late = [w for w in self._writes if w.file == "pids.max"]
            cgroup_limits.apply(self.cgroup, late)

    def undo(self) -> None:
        if self._holder:
            self._release()
        remove(self.cgroup, self.unit)

    def _release(self) -> None:
        holder, self._holder = self._holder, 0
        cgroups.signal_process(holder, signal.SIGKILL)
        os.waitpid(holder, 0)


def remove(cgroup: cgroups.Cgroup, unit: str) -> None:
    """End what lives in it and take it away."""
    cgroup.kill()
    if unit:
        systemd.stop(unit)
    cgroup.remove()


def update(record: Record, resources: dict[str, Any]) -> None:
    """Change the limits of a container."""
    cgroup = cgroups.Cgroup(record.cgroup)
    writes = cgroup_limits.plan(resources, cgroup.layout, new=False)
    properties = systemd.properties(writes) if record.unit else []
    if properties:
        systemd.set_properties(record.unit, properties)
    cgroup_limits.apply(cgroup, writes)
    cgroup_limits.apply_devices(cgroup, resources.get("devices") or [])


def sweep(prefix: str, known: set[str]) -> list[str]:
    """Remove cgroups and scopes below ``prefix`` whose container is not in ``known``; what was
    done. ``prefix``: a cgroup's path, or ``slice:prefix:``."""
    among = systemd.Scope.parse(prefix)
    parent = systemd.slice_path(among.slice).rstrip("/") if among else cgroups.Cgroup(prefix).path
    begin, end = (f"{among.prefix}-", ".scope") if among else ("", "")
    names = {
        name
        for hierarchy in cgroups.layout().hierarchies
        for name in _directories(hierarchy.mount + parent)
    }
    done: list[str] = []
    # Records come before cgroups, so what has none was left by a lost run directory. Only names
    # that are container ids: the engine's own groups live here too.
    for name in sorted(names):
        id = name.removeprefix(begin).removesuffix(end)
        is_id = len(id) == 64 and not id.strip("0123456789abcdef")
        if is_id and name == begin + id + end and id not in known:
            remove(cgroups.Cgroup(f"{parent}/{name}"), name if among else "")
            done.append(f"cgroup {parent}/{name}, which belongs to no container, is removed")
    return done


def _directories(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [e.name for e in entries if e.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _hold() -> int:
    """A process that does nothing, for as long as this one lives."""
    maker = os.getpid()
    pid = syscalls.clone(0)
    if pid == 0:
        _wait(maker)
    return pid


def _wait(maker: int) -> NoReturn:
    try:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        while os.getppid() == maker:
            signal.pause()
    finally:
        os._exit(0)
