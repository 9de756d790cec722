"""``pyengine system df``."""

from __future__ import annotations

import sys
import time

from pyengine.cli import table, units
from pyengine.cli.client import CommandError
from pyengine.cli.commands.images import ImageRow, familiar
from pyengine.cli.commands.ps import ContainerRow
from pyengine.cli.commands.volumes import VolumeRow
from pyengine.cli.flags import Flag, Options, command
from pyengine.cli.gotemplate import TemplateError
from pyengine.cli.govalues import Row, Struct
from pyengine.cli.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TABLE = "table {{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}"
_RAW = (
    "type: {{.Type}}\ntotal: {{.TotalCount}}\nactive: {{.Active}}\nsize: {{.Size}}\n"
    "reclaimable: {{.Reclaimable}}\n"
)
_IMAGES = (
    "table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}"
    "\t{{.UniqueSize}}\t{{.Containers}}"
)
_CONTAINERS = (
    "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}"
    "\t{{.Status}}\t{{.Names}}"
)
_VOLUMES = "table {{.Name}}\t{{.Links}}\t{{.Size}}"
_CACHE = (
    "table {{.ID}}\t{{.CacheType}}\t{{.Size}}\t{{.CreatedSince}}\t{{.LastUsedSince}}"
    "\t{{.UsageCount}}\t{{.Shared}}"
)
_ACTIVE = ("running", "paused", "restarting")


class UsageRow(Row):
    """One kind of object as ``--format`` sees it."""

    HEADERS = {
        "Type": "TYPE",
        "TotalCount": "TOTAL",
        "Active": "ACTIVE",
        "Size": "SIZE",
        "Reclaimable": "RECLAIMABLE",
    }
    type_name = "*formatter.diskUsageImagesContext"

    def __init__(
        self, type: str, total: int, active: int, size: int, reclaimable: int, share: bool = True
    ) -> None:
        self._type, self._total, self._active = type, total, active
        self._size, self._reclaimable = size, reclaimable
        self._share = share and size > 0

    def Type(self) -> str:
        return self._type

    def TotalCount(self) -> str:
        return str(self._total)

    def Active(self) -> str:
        return str(self._active)

    def Size(self) -> str:
        return units.human_size(self._size)

    def Reclaimable(self) -> str:
        text = units.human_size(self._reclaimable)
        return f"{text} ({self._reclaimable * 100 // self._size}%)" if self._share else text


class CacheRow(Row):
    """A record of the build cache as ``--format`` sees it."""

    HEADERS = {
        "ID": "CACHE ID",
        "Parent": "PARENT",
        "CacheType": "CACHE TYPE",
        "Size": "SIZE",
        "CreatedSince": "CREATED",
        "LastUsedSince": "LAST USED",
        "UsageCount": "USAGE",
        "InUse": "IN USE",
        "Shared": "SHARED",
        "Description": "DESCRIPTION",
    }
    type_name = "*formatter.buildCacheContext"

    def __init__(self, record: dict[str, Any], trunc: bool) -> None:
        self._r, self._trunc = record, trunc

    def _short(self, text: str) -> str:
        return table.short_id(text) if self._trunc else text

    def ID(self) -> str:
        return self._short(str(self._r["ID"])) + ("*" if self._r.get("InUse") else "")

    def Parent(self) -> str:
        parents = self._r.get("Parents")
        return self._short(", ".join(parents) if parents else str(self._r.get("Parent") or ""))

    def CacheType(self) -> str:
        return str(self._r.get("Type") or "")

    def Size(self) -> str:
        return units.human_size(self._r.get("Size") or 0, 3)

    def CreatedSince(self) -> str:
        return _since(self._r.get("CreatedAt"))

    def LastUsedSince(self) -> str:
        return _since(self._r.get("LastUsedAt"))

    def UsageCount(self) -> str:
        return str(self._r.get("UsageCount") or 0)

    def InUse(self) -> str:
        return str(bool(self._r.get("InUse"))).lower()

    def Shared(self) -> str:
        return str(bool(self._r.get("Shared"))).lower()

    def Description(self) -> str:
        return str(self._r.get("Description") or "")


def _since(moment: str | None) -> str:
    from pyengine import timestamps

    if not moment:
        return ""
    return units.human_duration(time.time() - timestamps.parse(moment) / 1e9) + " ago"


def _summary(usage: dict[str, Any]) -> list[Row]:
    images, containers = usage.get("Images") or [], usage.get("Containers") or []
    volumes, cache = usage.get("Volumes") or [], usage.get("BuildCache") or []
    layers = usage.get("LayersSize") or 0
    used = sum(
        image["Size"] - image["SharedSize"]
        for image in images
        if image["Containers"] != 0 and -1 not in (image["Size"], image["SharedSize"])
    )
    going = [container for container in containers if container["State"] in _ACTIVE]
    rest = [container for container in containers if container["State"] not in _ACTIVE]
    known = [volume["UsageData"] for volume in volumes if volume["UsageData"]["Size"] != -1]
    built = usage.get("BuilderSize") or sum(record["Size"] for record in cache)
    in_use = sum(record["Size"] for record in cache if record["InUse"] and not record["Shared"])
    return [
        UsageRow(
            "Images",
            len(images),
            sum(image["Containers"] > 0 for image in images),
            layers,
            layers - used,
        ),
        UsageRow("Containers", len(containers), len(going), _sizes(containers), _sizes(rest)),
        UsageRow(
            "Local Volumes",
            len(volumes),
            sum(volume["UsageData"]["RefCount"] > 0 for volume in volumes),
            sum(volume["Size"] for volume in known),
            sum(volume["Size"] for volume in known if volume["RefCount"] == 0),
        ),
        UsageRow(
            "Build Cache",
            len(cache),
            sum(record["InUse"] for record in cache),
            built,
            built - in_use,
            share=False,
        ),
    ]


def _sizes(containers: list[dict[str, Any]]) -> int:
    return sum(container.get("SizeRw") or 0 for container in containers)


def _image_row(image: dict[str, Any], trunc: bool) -> ImageRow:
    """Only the first of its tags is shown."""
    tags = [tag for tag in image.get("RepoTags") or [] if tag != "<none>:<none>"]
    name, _, tag = tags[0].rpartition(":") if tags else ("<none>", "", "<none>")
    return ImageRow(image, familiar(name), tag, "", trunc)


def _details(usage: dict[str, Any], trunc: bool) -> dict[str, list[Row]]:
    now = time.time()
    containers = [{**one, "SizeRootFs": 0} for one in usage.get("Containers") or []]
    cache = sorted(
        usage.get("BuildCache") or [],
        key=lambda record: (str(record.get("LastUsedAt") or ""), str(record["ID"])),
    )
    return {
        "Images": [_image_row(image, trunc) for image in usage.get("Images") or []],
        "Containers": [ContainerRow(container, trunc, now) for container in containers],
        "Volumes": [VolumeRow(volume) for volume in usage.get("Volumes") or []],
        "BuildCache": [CacheRow(record, trunc) for record in cache],
    }


def _show_details(usage: dict[str, Any]) -> None:
    found = _details(usage, trunc=True)
    size = units.human_size(usage.get("BuilderSize") or 0)
    sections: tuple[tuple[str, str, str, dict[str, str]], ...] = (
        ("Images space usage:", _IMAGES, "Images", ImageRow.HEADERS),
        ("\nContainers space usage:", _CONTAINERS, "Containers", ContainerRow.HEADERS),
        ("\nLocal Volumes space usage:", _VOLUMES, "Volumes", VolumeRow.HEADERS),
        (f"\nBuild cache usage: {size}", _CACHE, "BuildCache", CacheRow.HEADERS),
    )
    for heading, format, name, headers in sections:
        sys.stdout.write(f"{heading}\n\n{table.render(format, found[name], headers)}")


@command(
    "[OPTIONS]",
    "Show pyengine disk usage",
    [
        Flag("format", "", "string", table.FORMAT_HELP),
        Flag("verbose", "v", "bool", "Show detailed information on space usage"),
    ],
    at_most=0,
)
def df(session: Session, options: Options, _: list[str]) -> None:
    usage = session.client.get("/system/df")
    format = table.choose_format(options["format"], _TABLE, quiet=False)
    if not options["verbose"]:
        format = _RAW if format == "raw" else format
        table.show(format, _summary(usage), UsageRow.HEADERS)
    elif format == _TABLE:
        _show_details(usage)
    else:
        template = table.parse_format(format)
        try:
            sys.stdout.write(template.execute(Struct(_details(usage, trunc=False))))
        except TemplateError as error:
            raise CommandError(f"template parsing error: {error}")
