"""``pyengine ps``."""

from __future__ import annotations

import time

from pyengine.cli import table, units
from pyengine.cli.client import CommandError, filters
from pyengine.cli.flags import Flag, Options, command
from pyengine.cli.gofunctions import quote
from pyengine.cli.gotemplate import TemplateError
from pyengine.cli.govalues import Row
from pyengine.cli.ports import displayable
from pyengine.cli.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TABLE = (
    "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}"
)
_RAW = (
    "container_id: {{.ID}}\nimage: {{.Image}}\ncommand: {{.Command}}\ncreated_at: {{.CreatedAt}}\n"
    "state: {{- pad .State 1 0}}\nstatus: {{- pad .Status 1 0}}\nnames: {{.Names}}\n"
    "labels: {{- pad .Labels 1 0}}\nports: {{- pad .Ports 1 0}}\n"
)


class ContainerRow(Row):
    """A container as ``--format`` sees it."""

    HEADERS = {
        "ID": "CONTAINER ID",
        "Names": "NAMES",
        "Image": "IMAGE",
        "Command": "COMMAND",
        "CreatedAt": "CREATED AT",
        "RunningFor": "CREATED",
        "Ports": "PORTS",
        "State": "STATE",
        "Status": "STATUS",
        "Size": "SIZE",
        "Labels": "LABELS",
        "Mounts": "MOUNTS",
        "LocalVolumes": "LOCAL VOLUMES",
        "Networks": "NETWORKS",
        "Platform": "PLATFORM",
    }
    METHODS = ("Label",)
    type_name = "*formatter.ContainerContext"

    def __init__(self, container: dict[str, Any], trunc: bool, now: float) -> None:
        self._c, self._trunc, self._now = container, trunc, now

    def ID(self) -> str:
        return table.short_id(self._c["Id"]) if self._trunc else str(self._c["Id"])

    def Names(self) -> str:
        names = [name.removeprefix("/") for name in self._c.get("Names") or []]
        if not self._trunc:
            return ",".join(names)
        return next((name for name in names if "/" not in name), "")

    def Image(self) -> str:
        image = str(self._c.get("Image") or "")
        if not image:
            return "<no image>"
        if not self._trunc:
            return image
        short = table.short_id(self._c.get("ImageID") or "")
        if short == table.short_id(image):
            return short
        image = image.partition("@")[0]
        return image.removeprefix("docker.io/").removeprefix("library/")

    def Command(self) -> str:
        command = str(self._c.get("Command") or "")
        return quote(table.ellipsis(command, 20) if self._trunc else command)

    def CreatedAt(self) -> str:
        return units.go_time(self._c["Created"])

    def RunningFor(self) -> str:
        return units.human_duration(self._now - self._c["Created"]) + " ago"

    def Ports(self) -> str:
        return displayable(self._c.get("Ports") or [])

    def State(self) -> str:
        return str(self._c.get("State") or "")

    def Status(self) -> str:
        return str(self._c.get("Status") or "")

    def Size(self) -> str:
        own = units.human_size(self._c.get("SizeRw") or 0, 3)
        whole = self._c.get("SizeRootFs") or 0
        return f"{own} (virtual {units.human_size(whole, 3)})" if whole > 0 else own

    def Labels(self) -> str:
        return table.labels_text(self._c.get("Labels"))

    def Label(self, name: str) -> str:
        return str((self._c.get("Labels") or {}).get(name, ""))

    def Mounts(self) -> str:
        names = [
            mount.get("Name") or mount.get("Source", "") for mount in self._c.get("Mounts") or []
        ]
        return ",".join(table.ellipsis(name, 15) if self._trunc else name for name in names)

    def LocalVolumes(self) -> str:
        return str(sum(mount.get("Driver") == "local" for mount in self._c.get("Mounts") or []))

    def Networks(self) -> str:
        settings = self._c.get("NetworkSettings") or {}
        return ",".join(settings.get("Networks") or {})

    def Platform(self) -> str | None:
        platform = (self._c.get("ImageManifestDescriptor") or {}).get("platform")
        if not platform:
            return None
        parts = (platform.get("os"), platform.get("architecture"), platform.get("variant"))
        return "/".join(part for part in parts if part)


def _check(format: str) -> None:
    """Refuse a bad format before asking the engine, in the words that ``ps`` alone has."""
    try:
        template = table.parse_format(format)
    except CommandError as error:
        raise CommandError(str(error).replace("template parsing error", "failed to parse template"))
    empty = {"Id": "", "Created": 0, "ImageID": "-"}
    try:
        template.execute(ContainerRow(empty, True, 0))
    except TemplateError as error:
        raise CommandError(f"failed to execute template: {error}")


@command(
    "[OPTIONS]",
    "List containers",
    [
        Flag("all", "a", "bool", "Show all containers (default shows just running)"),
        Flag("filter", "f", "filter", "Filter output based on conditions provided"),
        Flag("format", "", "string", table.FORMAT_HELP),
        Flag(
            "last", "n", "int", "Show n last created containers (includes all states)", default=-1
        ),
        Flag("latest", "l", "bool", "Show the latest created container (includes all states)"),
        Flag("no-trunc", "", "bool", "Don't truncate output"),
        Flag("quiet", "q", "bool", "Only display container IDs"),
        Flag("size", "s", "bool", "Display total file sizes"),
    ],
    at_most=0,
)
def ps(session: Session, options: Options, _: list[str]) -> None:
    default = _TABLE + ("\t{{.Size}}" if options["size"] else "")
    given = options["format"] or str(session.config().get("psFormat") or "")
    if given == "raw":
        given = _RAW + ("size: {{.Size}}\n" if options["size"] else "")
    if options["quiet"]:
        given = ""
    format = table.choose_format(given, default, options["quiet"])
    _check(format)
    limit = 1 if options["latest"] and options["last"] == -1 else options["last"]
    query = {
        "all": options["all"],
        "limit": limit if limit > 0 else None,
        "size": options["size"] or ".Size" in given,
        "filters": filters(options["filter"]),
    }
    containers = session.client.get("/containers/json", query)
    now, trunc = time.time(), not options["no-trunc"]
    rows = [ContainerRow(container, trunc, now) for container in containers]
    table.show(format, rows, ContainerRow.HEADERS)
