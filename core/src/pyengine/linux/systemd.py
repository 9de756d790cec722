"""Containers as transient scopes of systemd, on cgroup version 2.

There a cgroup belongs to systemd: one made behind its back may be moved or forgotten by it. A scope
is a unit of processes that systemd did not start; it makes the cgroup and hands it over
(``Delegate``), so everything below :mod:`pyengine.linux.cgroups` works in it as in one of our own.

A limit is written to the file *and* given to systemd as a property: at any ``daemon-reload`` it
writes the files of its units again, as it thinks they are. Sources: org.freedesktop.systemd1(5),
systemd.resource-control(5), sd_booted(3), and "Control Group APIs and Delegation" of systemd.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from pyengine.errors import Conflict, EngineError, InvalidParameter, NotFound
from pyengine.linux import dbus
from pyengine.linux.cgroup_limits import Write

BOOTED = "/run/systemd/system"
UNIFIED = "/sys/fs/cgroup/cgroup.controllers"
#: The bus, and systemd's own socket for where there is none (any more).
SOCKETS = (("/run/dbus/system_bus_socket", True), ("/run/systemd/private", False))
DEFAULT_SLICE = "system.slice"

_NAME = "org.freedesktop.systemd1"
_PATH = "/org/freedesktop/systemd1"
_MANAGER = _NAME + ".Manager"
_INFINITY = (1 << 64) - 1

#: (name, (signature, value)) as the D-Bus calls take it.
Property = tuple[str, tuple[str, Any]]


def missing() -> str:
    """Why this host's containers cannot be scopes; empty where they can."""
    if not os.path.isdir(BOOTED):
        return "systemd is not process 1 of this host"
    if not os.path.exists(UNIFIED):
        return "systemd has cgroups of version 1 here, and scopes are made in version 2 alone"
    return ""


class Scope(NamedTuple):
    """``slice:prefix:name``, as ``cgroupsPath`` of a runtime spec has it."""

    slice: str
    prefix: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Scope | None:
        """None: a path. Raises ``InvalidParameter`` for what is neither."""
        if ":" not in text or text.startswith("/"):
            return None
        parts = text.split(":")
        if len(parts) != 3:
            raise InvalidParameter(f"cgroupsPath {text!r} is not slice:prefix:name")
        scope = cls(parts[0] or DEFAULT_SLICE, *parts[1:])
        slice_path(scope.slice)
        return scope

    def __str__(self) -> str:
        return ":".join(self)

    @property
    def unit(self) -> str:
        return "-".join(filter(None, (self.prefix, self.name))) + ".scope"

    @property
    def path(self) -> str:
        """Of its cgroup."""
        return f"{slice_path(self.slice).rstrip('/')}/{self.unit}"


def slice_path(name: str) -> str:
    """``/a.slice/a-b.slice`` of ``a-b.slice``: a slice's name says all slices that it is in."""
    if name == "-.slice":
        return "/"
    stem = name.removesuffix(".slice")
    parts = stem.split("-")
    if stem == name or "/" in name or not all(parts):
        raise InvalidParameter(
            f"{name!r} is not the name of a slice",
            help="with systemd's cgroups a parent is a slice, as in my.slice or my-sub.slice",
        )
    return "".join(f"/{'-'.join(parts[: n + 1])}.slice" for n in range(len(parts)))


# -- calls -----------------------------------------------------------------------------------------


def connect() -> dbus.Connection:
    """To systemd. Raises ``EngineError`` where it cannot be reached."""
    problems = []
    for path, bus in SOCKETS:
        try:
            return dbus.Connection(path, bus=bus)
        except (OSError, EngineError) as error:
            problems.append(f"{path}: {error}")
    raise EngineError("systemd cannot be reached", "; ".join(problems))


def start(scope: Scope, pid: int, properties: list[Property]) -> None:
    """Make the scope with process ``pid`` in it. Raises ``Conflict`` if there is one already."""
    settings: list[Property] = [
        ("Description", ("s", f"container {scope.name}")),
        ("Slice", ("s", scope.slice)),
        ("Delegate", ("b", True)),
        ("DefaultDependencies", ("b", False)),
        # What has failed goes as what has ended: nobody is told of it but by us.
        ("CollectMode", ("s", "inactive-or-failed")),
        ("PIDs", ("au", [pid])),
        *_unlimited(properties),
        *properties,
    ]
    with connect() as systemd:
        try:
            _job(systemd, scope.unit, "StartTransientUnit", "ssa(sv)a(sa(sv))",
                 scope.unit, "fail", settings, [])  # fmt: skip
        except dbus.CallFailed as error:
            if error.name.endswith(".UnitExists"):
                raise Conflict(f"unit {scope.unit} exists already", error.text) from None
            raise


def set_properties(unit: str, properties: list[Property]) -> None:
    """Change a running unit, until the host is started again."""
    with connect() as systemd:
        _manager(systemd, "SetUnitProperties", "sba(sv)", unit, True, properties)


def stop(unit: str) -> None:
    """End the unit, of which nothing may be left; a failed one is forgotten."""
    with connect() as systemd:
        try:
            _job(systemd, unit, "StopUnit", "ss", unit, "replace")
        except NotFound:
            pass
        try:
            _manager(systemd, "ResetFailedUnit", "s", unit)
        except NotFound:
            pass


def _job(systemd: dbus.Connection, unit: str, member: str, signature: str, *given: Any) -> None:
    """Call what answers with a job, and wait for the job's end."""
    systemd.listen(_MANAGER, "JobRemoved")
    _manager(systemd, "Subscribe")
    (job,) = _manager(systemd, member, signature, *given)
    while True:
        signal = systemd.signal()
        if signal.member == "JobRemoved" and signal.body[1] == job:
            break
    result = signal.body[3]
    if result not in ("done", "skipped"):
        raise EngineError(f"systemd could not do {member} for {unit}", f"its job is {result}")


def _manager(systemd: dbus.Connection, member: str, signature: str = "", *given: Any) -> Any:
    try:
        return systemd.call(_NAME, _PATH, _MANAGER, member, signature, *given)
    except dbus.CallFailed as error:
        if error.name.endswith(".NoSuchUnit"):
            raise NotFound(error.text) from None
        raise


# -- limits ----------------------------------------------------------------------------------------


def properties(writes: list[Write]) -> list[Property]:
    """Of what is written to files of version 2, that which systemd has a property for.

    Without: limits of single devices, which systemd leaves alone where it knows of none, and what
    it never writes (huge pages, ``memory.oom.group``).
    """
    found: list[Property] = []
    for item in writes:
        if item.file in _AMOUNTS:
            found.append((_AMOUNTS[item.file], ("t", _amount(item.value))))
        elif item.file in _SETS:
            found.append((_SETS[item.file], ("ay", bit_mask(item.value))))
        elif item.file == "io.weight" and item.value.startswith("default "):
            found.append(("IOWeight", ("t", int(item.value.split()[1]))))
        elif item.file == "cpu.max":
            quota, period = item.value.split()
            # Microseconds of a second; the file has those of a period.
            share = _INFINITY if quota == "max" else int(quota) * 1_000_000 // int(period)
            found.append(("CPUQuotaPerSecUSec", ("t", share)))
            found.append(("CPUQuotaPeriodUSec", ("t", int(period))))
    return found


_AMOUNTS = {
    "memory.max": "MemoryMax",
    "memory.high": "MemoryHigh",
    "memory.low": "MemoryLow",
    "memory.min": "MemoryMin",
    "memory.swap.max": "MemorySwapMax",
    "cpu.weight": "CPUWeight",
    "pids.max": "TasksMax",
}
_SETS = {"cpuset.cpus": "AllowedCPUs", "cpuset.mems": "AllowedMemoryNodes"}


def _unlimited(properties: list[Property]) -> list[Property]:
    # systemd.conf(5): without a word, a unit may have only so many tasks.
    if any(name == "TasksMax" for name, _ in properties):
        return []
    return [("TasksMax", ("t", _INFINITY))]


def _amount(text: str) -> int:
    return _INFINITY if text == "max" else int(text)


def bit_mask(text: str) -> bytes:
    """``0-2,9`` as systemd takes it: bit n of byte m is number 8 m + n."""
    mask = 0
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        for number in range(int(first), int(last or first) + 1):
            mask |= 1 << number
    return mask.to_bytes((mask.bit_length() + 7) // 8, "little")
