"""``pyengine update``."""

from __future__ import annotations

import sys

from pyengine.cli.client import CommandError, quote
from pyengine.cli.containerconfig import restart_policy
from pyengine.cli.flags import Flag, Options, command
from pyengine.cli.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FIELDS = {
    "blkio-weight": "BlkioWeight",
    "cpu-period": "CpuPeriod",
    "cpu-quota": "CpuQuota",
    "cpu-rt-period": "CpuRealtimePeriod",
    "cpu-rt-runtime": "CpuRealtimeRuntime",
    "cpu-shares": "CpuShares",
    "cpus": "NanoCpus",
    "cpuset-cpus": "CpusetCpus",
    "cpuset-mems": "CpusetMems",
    "memory": "Memory",
    "memory-reservation": "MemoryReservation",
    "memory-swap": "MemorySwap",
    "pids-limit": "PidsLimit",
}


@command(
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Update configuration of one or more containers",
    [
        Flag("blkio-weight", "", "uint16", "Block IO (relative weight), between 10 and 1000"),
        Flag("cpu-period", "", "int", "Limit CPU CFS (Completely Fair Scheduler) period"),
        Flag("cpu-quota", "", "int", "Limit CPU CFS (Completely Fair Scheduler) quota"),
        Flag("cpu-rt-period", "", "int", "Limit the CPU real-time period in microseconds"),
        Flag("cpu-rt-runtime", "", "int", "Limit the CPU real-time runtime in microseconds"),
        Flag("cpu-shares", "c", "int", "CPU shares (relative weight)"),
        Flag("cpus", "", "decimal", "Number of CPUs"),
        Flag("cpuset-cpus", "", "string", "CPUs in which to allow execution (0-3, 0,1)"),
        Flag("cpuset-mems", "", "string", "MEMs in which to allow execution (0-3, 0,1)"),
        Flag("memory", "m", "bytes", "Memory limit"),
        Flag("memory-reservation", "", "bytes", "Memory soft limit"),
        Flag("memory-swap", "", "swap", "Swap limit equal to memory plus swap: -1 for unlimited"),
        Flag("pids-limit", "", "int", "Tune container pids limit (set -1 for unlimited)"),
        Flag("restart", "", "string", "Restart policy to apply when a container exits"),
    ],
    at_least=1,
)
def update(session: Session, options: Options, names: list[str]) -> None:
    if not options.changed:
        raise CommandError("you must provide one or more flags when using this command")
    body: dict[str, Any] = {
        key: options[flag] for flag, key in _FIELDS.items() if flag in options.changed
    }
    if options["restart"]:
        try:
            body["RestartPolicy"] = restart_policy(options["restart"])
        except ValueError as error:
            raise CommandError(str(error))
    warnings: list[str] = []
    errors: list[str] = []
    for name in names:
        try:
            answer = session.client.post(f"/containers/{quote(name)}/update", body=body)
        except CommandError as error:
            errors.append(str(error))
        else:
            print(name)
            warnings += (answer or {}).get("Warnings") or []
    sys.stdout.flush()
    for warning in warnings:
        print(warning, file=sys.stderr)
    if errors:
        raise CommandError("\n".join(errors))
