"""Capabilities of a container: Docker's fourteen, what is added and what is dropped."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from pyengine.errors import InvalidParameter

#: By number, capabilities(7).
NAMES = (
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"),
    *("SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW"),
    *("IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT"),
    *("SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD"),
    *("LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG"),
    *("WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE"),
)

#: In Docker's order, which ``docker inspect`` of an exec and the spec show.
DEFAULT = tuple(
    "CAP_" + name
    for name in (
        *("CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID"),
        *("SETFCAP", "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE"),
    )
)


@cache
def available() -> tuple[str, ...]:
    """All that this process's bounding set holds, so all that it can hand on, by number."""
    mask = (1 << len(NAMES)) - 1
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("CapBnd:"):
                mask = int(line.split()[1], 16)
    return tuple("CAP_" + name for bit, name in enumerate(NAMES) if mask >> bit & 1)


def normalise(names: Sequence[str]) -> list[str]:
    """``net_admin`` -> ``CAP_NET_ADMIN``; ``ALL`` stays. ``InvalidParameter`` if unknown."""
    found = []
    for given in names:
        name = given.upper()
        if name != "ALL":
            name = name if name.startswith("CAP_") else "CAP_" + name
            if name[4:] not in NAMES:
                raise InvalidParameter(f'unknown capability: "{name}"')
            if name not in available():
                raise InvalidParameter(
                    "capability not supported by your kernel or not available in the current "
                    f'environment: "{name}"'
                )
        found.append(name)
    return found


def effective(
    add: Sequence[str] | None, drop: Sequence[str] | None, privileged: bool
) -> Sequence[str]:
    """The set a container's process starts with. ``ALL`` in ``add`` goes before one in ``drop``."""
    if privileged:
        return available()
    if not add and not drop:
        return DEFAULT
    added, dropped = normalise(add or ()), normalise(drop or ())
    if "ALL" in added:
        return [name for name in available() if name not in dropped]
    if "ALL" in dropped:
        return added
    return [name for name in DEFAULT if name not in dropped] + [
        name for name in added if name not in DEFAULT or name in dropped
    ]


def as_oci(names: Sequence[str]) -> dict[str, Any]:
    """The three sets that are filled; inheritable and ambient stay empty (CVE-2022-24769)."""
    return {"bounding": list(names), "effective": list(names), "permitted": list(names)}
