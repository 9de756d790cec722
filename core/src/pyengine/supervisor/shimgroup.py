"""The cgroup that zygote and shims share, apart from the daemon's and the containers'."""

from __future__ import annotations

import os
from collections.abc import Iterator

from pyengine.errors import EngineError
from pyengine.faults import failpoint
from pyengine.linux import cgroups

#: Controllers of version 1 that account for processes; the others have no use for shims.
_ACCOUNTS = frozenset({"memory", "cpu", "cpuacct", "pids", "name=systemd"})


def _places(path: str) -> Iterator[tuple[str, bool]]:
    for hierarchy in cgroups.layout().hierarchies if path else ():
        if hierarchy.v2 or _ACCOUNTS.intersection(hierarchy.controllers):
            yield os.path.join(hierarchy.mount, path.strip("/")), hierarchy.v2


def join(path: str) -> list[str]:
    """Move this process into cgroup ``path``, so that all its forks are born there.

    Returns a sentence for each hierarchy that refuses; "" joins nothing. Single-threaded callers
    only: version 1 moves one thread, which is quick, where a process costs an RCU grace period.
    """
    warnings: list[str] = []
    try:
        places = list(_places(path))
    except EngineError as error:
        return [error.message()]
    for directory, v2 in places:
        try:
            failpoint("cgroup.mkdir")
            os.makedirs(directory, exist_ok=True)
            file = os.path.join(directory, "cgroup.procs" if v2 else "tasks")
            fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"0")
            finally:
                os.close(fd)
        except OSError as error:
            warnings.append(f"shims stay in the daemon's cgroup, not {directory}: {error.strerror}")
    return warnings


def remove(path: str) -> None:
    """Remove the cgroup where nobody is in it any more."""
    try:
        places = list(_places(path))
    except EngineError:
        return
    for directory, _ in places:
        try:
            failpoint("cgroup.rmdir")
            os.rmdir(directory)
        except OSError:  # shims live on in it, or it was never made
            pass
