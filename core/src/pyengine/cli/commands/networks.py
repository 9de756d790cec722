"""``pyengine network``: ls, create, rm, connect, disconnect."""

from __future__ import annotations

import sys

from pyengine.cli import table, units
from pyengine.cli.client import ApiError, CommandError, filters, quote
from pyengine.cli.containerconfig import pairs
from pyengine.cli.flags import Flag, Options, command
from pyengine.cli.govalues import Row
from pyengine.cli.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network
    from typing import Any


class NetworkRow(Row):
    """A network as ``--format`` sees it."""

    HEADERS = {
        "ID": "NETWORK ID",
        "Name": "NAME",
        "Driver": "DRIVER",
        "Scope": "SCOPE",
        "IPv4": "IPV4",
        "IPv6": "IPV6",
        "Internal": "INTERNAL",
        "Labels": "LABELS",
        "CreatedAt": "CREATED AT",
    }
    METHODS = ("Label",)
    type_name = "*network.networkContext"

    def __init__(self, network: dict[str, Any], trunc: bool) -> None:
        self._n, self._trunc = network, trunc

    def ID(self) -> str:
        return table.short_id(self._n["Id"]) if self._trunc else str(self._n["Id"])

    def Name(self) -> str:
        return str(self._n["Name"])

    def Driver(self) -> str:
        return str(self._n["Driver"])

    def Scope(self) -> str:
        return str(self._n["Scope"])

    def IPv4(self) -> str:
        return "true" if self._n.get("EnableIPv4") else "false"

    def IPv6(self) -> str:
        return "true" if self._n.get("EnableIPv6") else "false"

    def Internal(self) -> str:
        return "true" if self._n.get("Internal") else "false"

    def Labels(self) -> str:
        return table.labels_text(self._n.get("Labels"))

    def Label(self, name: str) -> str:
        return str((self._n.get("Labels") or {}).get(name, ""))

    def CreatedAt(self) -> str:
        created = str(self._n.get("Created") or "0001-01-01T00:00:00Z")
        if created.startswith("0001-"):
            return "0001-01-01 00:00:00 +0000 UTC"
        moment, zone = created[:-1].replace("T", " "), " +0000 UTC"
        if not created.endswith("Z"):
            return units.go_time(units.epoch(created))
        return moment.rstrip("0").rstrip(".") + zone if "." in moment else moment + zone


@command(
    "[OPTIONS]",
    "List networks",
    [
        Flag("filter", "f", "filter", 'Provide filter values (e.g. "driver=bridge")'),
        Flag("format", "", "string", table.FORMAT_HELP),
        Flag("no-trunc", "", "bool", "Do not truncate the output"),
        Flag("quiet", "q", "bool", "Only display network IDs"),
    ],
    at_most=0,
)
def ls(session: Session, options: Options, _: list[str]) -> None:
    given = options["format"] or str(session.config().get("networksFormat") or "")
    default = "table {{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}"
    format = table.choose_format(given, default, options["quiet"])
    found = session.client.get("/networks", {"filters": filters(options["filter"])})
    rows = [
        NetworkRow(network, not options["no-trunc"])
        for network in sorted(found, key=lambda network: str(network["Name"]))
    ]
    table.show(format, rows, NetworkRow.HEADERS)


def _network(text: str) -> IPv4Network | IPv6Network | None:
    import ipaddress

    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def ipam_pools(options: Options) -> list[dict[str, Any]]:
    """Subnets with the range, gateway and auxiliary addresses that lie in each; CommandError."""
    import ipaddress

    # What is no subnet at all the engine refuses, in its own words.
    subnets = [_network(text) for text in options["subnet"]]
    pools: list[dict[str, Any]] = [{"Subnet": text} for text in options["subnet"]]
    for first, one in enumerate(subnets):
        for other in subnets[first + 1 :]:
            if one and other and one.version == other.version and one.overlaps(other):
                raise CommandError("multiple overlapping subnet configuration is not supported")

    def pool_of(address: str, words: str) -> dict[str, Any]:
        try:
            found = ipaddress.ip_address(address.partition("/")[0])
        except ValueError:
            raise CommandError(f"invalid {words}: {address}")
        for subnet, pool in zip(subnets, pools, strict=True):
            if subnet and found in subnet:
                return pool
        raise CommandError(f"no matching subnet for {words} {address}")

    for text in options["ip-range"]:
        pool_of(text, "range")["IPRange"] = text
    for text in options["gateway"]:
        pool = pool_of(text, "gateway")
        if "Gateway" in pool:
            raise CommandError(f"gateway {text} for subnet {pool['Subnet']} is duplicated")
        pool["Gateway"] = text
    for name, address in pairs(options["aux-address"]).items():
        pool_of(address, "aux-address").setdefault("AuxiliaryAddresses", {})[name] = address
    return pools


@command(
    "[OPTIONS] NETWORK",
    "Create a network",
    [
        Flag("attachable", "", "bool", "Enable manual container attachment"),
        Flag("aux-address", "", "map", "Auxiliary IPv4 or IPv6 addresses used by Network driver"),
        Flag("config-from", "", "string", "The network from which to copy the configuration"),
        Flag("config-only", "", "bool", "Create a configuration only network"),
        Flag("driver", "d", "string", "Driver to manage the Network", default="bridge"),
        Flag("gateway", "", "strings", "IPv4 or IPv6 Gateway for the master subnet"),
        Flag("ingress", "", "bool", "Create swarm routing-mesh network"),
        Flag("internal", "", "bool", "Restrict external access to the network"),
        Flag("ip-range", "", "strings", "Allocate container ip from a sub-range"),
        Flag("ipam-driver", "", "string", "IP Address Management Driver", default="default"),
        Flag("ipam-opt", "", "map", "Set IPAM driver specific options"),
        Flag("ipv4", "", "bool", "Enable or disable IPv4 address assignment", default=True),
        Flag("ipv6", "", "bool", "Enable or disable IPv6 address assignment"),
        Flag("label", "", "list", "Set metadata on a network"),
        Flag("opt", "o", "map", "Set driver specific options"),
        Flag("scope", "", "string", "Control the network's scope"),
        Flag("subnet", "", "strings", "Subnet in CIDR format that represents a network segment"),
    ],
    at_least=1,
    at_most=1,
    creates=True,
)
def create(session: Session, options: Options, arguments: list[str]) -> None:
    body: dict[str, Any] = {
        "Name": arguments[0],
        "Driver": options["driver"],
        "Scope": options["scope"],
        "Internal": options["internal"],
        "Attachable": options["attachable"],
        "Ingress": options["ingress"],
        "ConfigOnly": options["config-only"],
        "Options": pairs(options["opt"]),
        "Labels": pairs(options["label"]),
        "IPAM": {
            "Driver": options["ipam-driver"],
            "Options": pairs(options["ipam-opt"]),
            "Config": ipam_pools(options),
        },
    }
    for flag, key in (("ipv4", "EnableIPv4"), ("ipv6", "EnableIPv6")):
        if flag in options.changed:
            body[key] = options[flag]
    if options["config-from"]:
        body["ConfigFrom"] = {"Network": options["config-from"]}
    answer = session.client.post("/networks/create", body=body)
    if answer.get("Warning"):
        print("WARNING:", answer["Warning"], file=sys.stderr)
    print(answer["Id"])


@command(
    "NETWORK [NETWORK...]",
    "Remove one or more networks",
    [Flag("force", "f", "bool", "Do not error if the network does not exist")],
    at_least=1,
)
def rm(session: Session, options: Options, names: list[str]) -> None:
    failed = False
    for name in names:
        try:
            session.client.delete(f"/networks/{quote(name)}")
        except CommandError as error:
            if options["force"] and isinstance(error, ApiError) and error.status == 404:
                continue
            print(error, file=sys.stderr)
            failed = True
        else:
            print(name)
    if failed:
        raise CommandError()


@command(
    "[OPTIONS] NETWORK CONTAINER",
    "Connect a container to a network",
    [
        Flag("alias", "", "strings", "Add network-scoped alias for the container"),
        Flag("driver-opt", "", "strings", "driver options for the network"),
        Flag("gw-priority", "", "int", "Highest gw-priority provides the default gateway"),
        Flag("ip", "", "string", 'IPv4 address (e.g., "172.30.100.104")'),
        Flag("ip6", "", "string", 'IPv6 address (e.g., "2001:db8::33")'),
        Flag("link", "", "list", "Add link to another container"),
        Flag("link-local-ip", "", "strings", "Add a link-local address for the container"),
    ],
    at_least=2,
    at_most=2,
)
def connect(session: Session, options: Options, arguments: list[str]) -> None:
    endpoint = {
        "IPAMConfig": {
            "IPv4Address": options["ip"],
            "IPv6Address": options["ip6"],
            "LinkLocalIPs": options["link-local-ip"],
        },
        "Links": options["link"],
        "Aliases": options["alias"],
        "DriverOpts": pairs(options["driver-opt"]),
        "GwPriority": options["gw-priority"],
    }
    body = {"Container": arguments[1], "EndpointConfig": endpoint}
    session.client.post(f"/networks/{quote(arguments[0])}/connect", body=body)


@command(
    "[OPTIONS] NETWORK CONTAINER",
    "Disconnect a container from a network",
    [Flag("force", "f", "bool", "Force the container to disconnect from a network")],
    at_least=2,
    at_most=2,
)
def disconnect(session: Session, options: Options, arguments: list[str]) -> None:
    body = {"Container": arguments[1], "Force": options["force"]}
    session.client.post(f"/networks/{quote(arguments[0])}/disconnect", body=body)
