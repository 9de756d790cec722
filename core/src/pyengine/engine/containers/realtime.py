"""The share of containers in the real-time scheduler's time (``cpu-rt-period``, ``-runtime``).

A cgroup of version 1 may have real-time processes as far as those above it leave it time, so every
one on the way to the containers gets what the operator wants (Documentation/scheduler/
sched-rt-group.rst of the kernel). Version 2 has no such thing.
"""

from __future__ import annotations

import os

from pyengine.errors import ConfigError, InvalidParameter
from pyengine.linux.cgroups import Cgroup, write
from pyengine.oci.facts import HostFacts


def check(facts: HostFacts, share: tuple[int, int]) -> None:
    """``ConfigError`` where it was asked for and this host cannot."""
    if any(share) and not facts.cpu_realtime:
        raise ConfigError(
            "cpu-rt-period or cpu-rt-runtime is set, and this kernel cannot give groups real time",
            "it has no cpu.rt_period_us in a cgroup hierarchy of version 1",
            "leave the keys out",
        )


def allow(parent: str, share: tuple[int, int]) -> None:
    """Give the cgroup ``parent`` and those above it, but for the root, so many microseconds
    (period, runtime); 0 leaves either as it is. ``InvalidParameter`` where the kernel has not that
    much left."""
    if not any(share):
        return
    names = [name for name in parent.split("/") if name]
    for depth in range(1, len(names) + 1):
        group = Cgroup("/" + "/".join(names[:depth]))
        os.makedirs(os.path.dirname(group.file("cpu", "x")), exist_ok=True)
        for name, value in zip(("cpu.rt_period_us", "cpu.rt_runtime_us"), share, strict=True):
            try:
                if value:
                    write(group.file("cpu", name), str(value))
            except OSError as error:
                raise InvalidParameter(
                    f"cgroup {group.path} cannot have the real time that daemon.json gives it",
                    f"{name} {value}: {error.strerror}",
                    "lower cpu-rt-runtime: groups beside it have a part of the host's time too",
                ) from error
