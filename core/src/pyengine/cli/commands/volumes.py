"""``pyengine volume``: ls, create, rm."""

from __future__ import annotations

from pyengine.cli import table, units
from pyengine.cli.client import ApiError, CommandError, filters, quote
from pyengine.cli.containerconfig import pairs
from pyengine.cli.flags import Flag, Options, command
from pyengine.cli.govalues import Row
from pyengine.cli.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class VolumeRow(Row):
    """A volume as ``--format`` sees it."""

    HEADERS = {
        "Name": "VOLUME NAME",
        "Driver": "DRIVER",
        "Scope": "SCOPE",
        "Mountpoint": "MOUNTPOINT",
        "Labels": "LABELS",
        "Links": "LINKS",
        "Size": "SIZE",
        "Group": "GROUP",
        "Availability": "AVAILABILITY",
        "Status": "STATUS",
    }
    METHODS = ("Label",)
    type_name = "*formatter.volumeContext"

    def __init__(self, volume: dict[str, Any]) -> None:
        self._v = volume

    def Name(self) -> str:
        return str(self._v["Name"])

    def Driver(self) -> str:
        return str(self._v["Driver"])

    def Scope(self) -> str:
        return str(self._v["Scope"])

    def Mountpoint(self) -> str:
        return str(self._v["Mountpoint"])

    def Labels(self) -> str:
        return table.labels_text(self._v.get("Labels"))

    def Label(self, name: str) -> str:
        return str((self._v.get("Labels") or {}).get(name, ""))

    def Links(self) -> str:
        usage = self._v.get("UsageData")
        return str(usage["RefCount"]) if usage else "N/A"

    def Size(self) -> str:
        usage = self._v.get("UsageData")
        return units.human_size(usage["Size"]) if usage else "N/A"

    def Group(self) -> str:
        return "N/A"

    def Availability(self) -> str:
        return "N/A"

    def Status(self) -> str:
        return "N/A"


#: Volumes that a Swarm makes where a task needs them. There is none here, and the engine says so.
_AVAILABILITY = Flag(
    "availability",
    "",
    "string",
    'Cluster volume availability ("active", "pause", "drain")',
    default="active",
)
_CLUSTER = [
    _AVAILABILITY,
    Flag("group", "", "string", "Cluster volume group"),
    Flag("limit-bytes", "", "bytes", "Largest size of the cluster volume"),
    Flag("required-bytes", "", "bytes", "Smallest size of the cluster volume"),
    Flag("scope", "", "string", 'Cluster volume scope ("single", "multi")', default="single"),
    Flag("secret", "", "map", "Cluster volume secrets"),
    Flag(
        "sharing",
        "",
        "string",
        'Cluster volume sharing ("none", "readonly", "onewriter", "all")',
        default="none",
    ),
    Flag("topology-preferred", "", "list", "Where the cluster volume had better be"),
    Flag("topology-required", "", "list", "Where the cluster volume must be"),
    Flag("type", "", "string", 'Cluster volume type ("mount", "block")', default="block"),
]
_CLUSTER_TABLE = "table {{.Name}}\t{{.Group}}\t{{.Driver}}\t{{.Availability}}\t{{.Status}}"


@command(
    "[OPTIONS]",
    "List volumes",
    [
        Flag("cluster", "", "bool", "Display only cluster volumes"),
        Flag("filter", "f", "filter", 'Provide filter values (e.g. "dangling=true")'),
        Flag("format", "", "string", table.FORMAT_HELP),
        Flag("quiet", "q", "bool", "Only display volume names"),
    ],
    at_most=0,
)
def ls(session: Session, options: Options, _: list[str]) -> None:
    given = options["format"] or str(session.config().get("volumesFormat") or "")
    default = _CLUSTER_TABLE if options["cluster"] else "table {{.Driver}}\t{{.Name}}"
    format = table.choose_format(given, default, options["quiet"], "{{.Name}}")
    answer = session.client.get("/volumes", {"filters": filters(options["filter"])})
    volumes = sorted(answer.get("Volumes") or [], key=lambda volume: table.natural(volume["Name"]))
    if options["cluster"]:
        volumes = [volume for volume in volumes if volume.get("ClusterVolume")]
    table.show(format, [VolumeRow(volume) for volume in volumes], VolumeRow.HEADERS)


@command(
    "[OPTIONS] [VOLUME]",
    "Create a volume",
    [
        *_CLUSTER,
        Flag("driver", "d", "string", "Specify volume driver name", default="local"),
        Flag("label", "", "list", "Set metadata for a volume"),
        Flag("name", "", "string", "Specify volume name", hidden=True),
        Flag("opt", "o", "map", "Set driver specific options"),
    ],
    at_most=1,
    creates=True,
)
def create(session: Session, options: Options, arguments: list[str]) -> None:
    if arguments and options["name"]:
        raise CommandError(
            "conflicting options: cannot specify a volume-name through both --name and as a "
            "positional arg"
        )
    body = {
        "Name": arguments[0] if arguments else options["name"],
        "Driver": options["driver"],
        "DriverOpts": pairs(options["opt"]),
        "Labels": pairs(options["label"]),
    }
    if any(flag.name in options.changed for flag in _CLUSTER):
        # For the engine to refuse, in its own words: there is no cluster.
        body["ClusterVolumeSpec"] = {"Group": options["group"]}
    print(session.client.post("/volumes/create", body=body)["Name"])


@command(
    "[OPTIONS] [VOLUME]",
    "Update a volume (cluster volumes only)",
    [_AVAILABILITY],
    at_least=1,
    at_most=1,
)
def update(session: Session, _: Options, arguments: list[str]) -> None:
    volume = session.client.get(f"/volumes/{quote(arguments[0])}")
    if not volume.get("ClusterVolume"):
        raise CommandError("can only update cluster volumes")
    raise CommandError("the volumes of a cluster are updated with docker's own command")


@command(
    "[OPTIONS] VOLUME [VOLUME...]",
    "Remove one or more volumes",
    [Flag("force", "f", "bool", "Force the removal of one or more volumes")],
    at_least=1,
)
def rm(session: Session, options: Options, names: list[str]) -> None:
    errors = []
    for name in names:
        try:
            session.client.delete(f"/volumes/{quote(name)}", {"force": options["force"]})
        except ApiError as error:
            errors.append(str(error))
        else:
            print(name, flush=True)
    if errors:
        raise CommandError("\n".join(errors))
