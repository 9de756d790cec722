"""Kernel parameters under /proc/sys.

Those below ``net`` belong to the network namespace of the thread that opens them.
"""

from __future__ import annotations

from pyengine.faults import failpoint


def read(name: str) -> str | None:
    """The value of ``net/ipv4/ip_forward`` (slashes: interface names may have dots); None if the
    kernel has no such parameter."""
    try:
        with open("/proc/sys/" + name) as file:
            return file.read().strip()
    except OSError:
        return None


def ensure(name: str, value: str) -> bool:
    """Set a parameter unless it has that value; True if it was changed. ``OSError`` if it cannot
    be written, False if the kernel has no such parameter."""
    now = read(name)
    if now is None or now == value:
        return False
    failpoint("sysctl." + name.rsplit("/", 1)[-1])
    with open("/proc/sys/" + name, "w") as file:
        file.write(value)
    return True
