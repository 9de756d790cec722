"""``pyengine stats``."""

from __future__ import annotations

import json
import sys

from pyengine.cli import table, units
from pyengine.cli.client import ApiError, Client, CommandError, quote
from pyengine.cli.flags import Flag, Options, command
from pyengine.cli.govalues import Row
from pyengine.cli.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_TABLE = (
    "table {{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}"
    "\t{{.PIDs}}"
)


class StatsRow(Row):
    """One container's usage as ``--format`` sees it; computed from one sample of the API."""

    HEADERS = {
        "Container": "CONTAINER",
        "Name": "NAME",
        "ID": "CONTAINER ID",
        "CPUPerc": "CPU %",
        "MemUsage": "MEM USAGE / LIMIT",
        "MemPerc": "MEM %",
        "NetIO": "NET I/O",
        "BlockIO": "BLOCK I/O",
        "PIDs": "PIDS",
    }
    type_name = "*container.statsContext"

    def __init__(self, asked: str, sample: dict[str, Any], trunc: bool) -> None:
        self._asked, self._s, self._trunc = asked, sample, trunc

    def Container(self) -> str:
        return self._asked

    def Name(self) -> str:
        return str(self._s.get("name") or "")[1:] or "--"

    def ID(self) -> str:
        identity = str(self._s.get("id") or "")
        return table.short_id(identity) if self._trunc else identity

    def CPUPerc(self) -> str:
        now, before = self._s.get("cpu_stats") or {}, self._s.get("precpu_stats") or {}
        usage = now.get("cpu_usage") or {}
        cpu = usage.get("total_usage", 0) - (before.get("cpu_usage") or {}).get("total_usage", 0)
        system = now.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
        cpus = now.get("online_cpus") or len(usage.get("percpu_usage") or [])
        percent = cpu / system * cpus * 100 if system > 0 and cpu > 0 else 0.0
        return f"{percent:.2f}%"

    def _memory(self) -> tuple[int, int]:
        memory = self._s.get("memory_stats") or {}
        used, details = memory.get("usage", 0), memory.get("stats") or {}
        # The cache that the kernel can drop at once is no use of the container's.
        for name in ("total_inactive_file", "inactive_file"):
            if name in details and details[name] < used:
                used -= details[name]
                break
        return used, memory.get("limit", 0)

    def MemUsage(self) -> str:
        used, limit = self._memory()
        return f"{units.binary_size(used)} / {units.binary_size(limit)}"

    def MemPerc(self) -> str:
        used, limit = self._memory()
        return f"{used / limit * 100 if limit else 0:.2f}%"

    def NetIO(self) -> str:
        networks = (self._s.get("networks") or {}).values()
        received = sum(network.get("rx_bytes", 0) for network in networks)
        sent = sum(network.get("tx_bytes", 0) for network in networks)
        return f"{units.human_size(received, 3)} / {units.human_size(sent, 3)}"

    def BlockIO(self) -> str:
        entries = (self._s.get("blkio_stats") or {}).get("io_service_bytes_recursive") or []
        totals = {"r": 0, "w": 0}
        for entry in entries:
            first = str(entry.get("op") or " ")[0].lower()
            if first in totals:
                totals[first] += entry["value"]
        return f"{units.human_size(totals['r'], 3)} / {units.human_size(totals['w'], 3)}"

    def PIDs(self) -> str:
        return str((self._s.get("pids_stats") or {}).get("current", 0))


def _sample(client: Client, name: str) -> dict[str, Any]:
    sample: dict[str, Any] = client.get(f"/containers/{quote(name)}/stats", {"stream": "false"})
    return sample


def _listed(client: Client, names: list[str], all_: bool) -> list[str]:
    if names:
        return names
    found = client.get("/containers/json", {"all": all_})
    return [container["Id"][:12] for container in found]


def _rounds(client: Client, options: Options, names: list[str]) -> Iterator[list[StatsRow]]:
    from concurrent.futures import ThreadPoolExecutor

    trunc = not options["no-trunc"]
    while True:
        wanted = _listed(client, names, options["all"])
        with ThreadPoolExecutor(max(1, min(len(wanted), 50))) as pool:

            def sample(name: str) -> StatsRow | None:
                try:
                    return StatsRow(name, _sample(client.separate(), name), trunc)
                except ApiError:
                    if names:
                        raise
                    # It went away since it was listed.
                    return None

            yield [row for row in pool.map(sample, wanted) if row is not None]


@command(
    "[OPTIONS] [CONTAINER...]",
    "Display a live stream of container(s) resource usage statistics",
    [
        Flag("all", "a", "bool", "Show all containers (default shows just running)"),
        Flag("format", "", "string", table.FORMAT_HELP),
        Flag("no-stream", "", "bool", "Disable streaming stats and only pull the first result"),
        Flag("no-trunc", "", "bool", "Do not truncate output"),
    ],
)
def stats(session: Session, options: Options, names: list[str]) -> None:
    format = table.choose_format(options["format"], _TABLE, False)
    try:
        for rows in _rounds(session.client, options, names):
            text = table.render(format, rows, StatsRow.HEADERS)
            if options["no-stream"]:
                sys.stdout.write(text)
                return
            erased = "".join(f"{line} \x1b[K\n" for line in text.split("\n"))
            sys.stdout.write(f"\x1b[H{erased}\x1b[J")
            sys.stdout.flush()
    except json.JSONDecodeError:
        raise CommandError("unexpected EOF")
