"""Capabilities by name and number (capabilities(7)), and giving them up."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from pyengine.errors import InvalidParameter
from pyengine.linux import syscalls

NAMES = tuple(
    "CAP_" + name
    for name in [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
        "AUDIT_READ",
        "PERFMON",
        "BPF",
        "CHECKPOINT_RESTORE",
    ]
)
NUMBERS = {name: number for number, name in enumerate(NAMES)}
SYS_ADMIN = 1 << NUMBERS["CAP_SYS_ADMIN"]


class CapabilitySets(NamedTuple):
    """Bit sets, bit n for capability n."""

    bounding: int
    effective: int
    permitted: int
    inheritable: int
    ambient: int


def mask(names: Iterable[str]) -> int:
    """Names (``CAP_CHOWN``) to a bit set; raises ``InvalidParameter`` for one that is unknown."""
    bits = 0
    for name in names:
        number = NUMBERS.get(name)
        if number is None:
            raise InvalidParameter(f"unknown capability {name!r}", help="see capabilities(7)")
        bits |= 1 << number
    return bits


def names(bits: int) -> list[str]:
    return [name for number, name in enumerate(NAMES) if bits >> number & 1]


def last() -> int:
    """Number of the kernel's highest capability."""
    fd = os.open("/proc/sys/kernel/cap_last_cap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int(os.read(fd, 16))
    finally:
        os.close(fd)


def limit_bounding(bounding: int, highest: int) -> None:
    """Drop everything outside ``bounding`` from this thread's bounding set."""
    for number in range(highest + 1):
        if not bounding >> number & 1:
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)


def set_ambient(ambient: int) -> None:
    """Make ``ambient`` (within permitted and inheritable) this thread's ambient set."""
    syscalls.prctl(syscalls.PR_CAP_AMBIENT, 4)
    for number in range(ambient.bit_length()):
        if ambient >> number & 1:
            syscalls.prctl(syscalls.PR_CAP_AMBIENT, 2, number)
