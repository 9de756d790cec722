"""Kernel parameters of one interface, as an option of an endpoint.

``--network name=n,driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.x=1``: a list
with commas, in which IFNAME stands for whatever the interface is called. Clients before API 1.48
name eth0 in ``HostConfig.Sysctls`` instead, when there is no such interface yet. Words are Docker's
(moby ``daemon/container_operations.go`` and ``container_routes.go``).
"""

from __future__ import annotations

from pyengine.engine.model import EndpointSettings, HostConfig
from pyengine.errors import EngineError, InvalidParameter
from pyengine.linux import netns, sysctl

OPTION = "com.docker.network.endpoint.sysctls"
_FAMILIES = ("ipv4", "ipv6", "mpls")


def parse(settings: EndpointSettings) -> list[tuple[str, str]]:
    """(parameter with IFNAME, value) of each; ``InvalidParameter`` for anything else."""
    found = []
    for item in filter(None, (settings.driver_opts or {}).get(OPTION, "").split(",")):
        name, equals, value = item.partition("=")
        parts = name.split(".")
        if (
            len(parts) != 5
            or not equals
            or parts[0] != "net"
            or parts[1] not in _FAMILIES
            or parts[3].upper() != "IFNAME"
            or any("/" in part for part in parts)
        ):
            raise InvalidParameter(
                f"invalid endpoint settings:\nunrecognised network interface sysctl '{item}'; "
                "represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', "
                "'ipv6' or 'mpls'"
            )
        found.append((".".join((*parts[:3], "IFNAME", parts[4])), value))
    return found


def apply(settings: EndpointSettings, interface: str, namespace: int) -> None:
    """Set them for ``interface`` in the network namespace behind descriptor ``namespace``."""
    wanted = parse(settings)
    if not wanted:
        return
    with netns.inside(namespace):
        for name, value in wanted:
            path = "/".join(interface if part == "IFNAME" else part for part in name.split("."))
            try:
                if not sysctl.ensure(path, value) and sysctl.read(path) is None:
                    raise EngineError(f"/proc/sys/{path} is not a sysctl file")
            except OSError as error:
                raise EngineError(
                    f"unable to write to '/proc/sys/{path}'", (error.strerror or "").lower()
                ) from None


def migrate(
    host: HostConfig, endpoints: dict[str, EndpointSettings | None], by_itself: bool
) -> list[str]:
    """Move parameters of eth0 from ``host`` to the endpoint on its main network; warnings.

    ``by_itself`` False: such parameters are refused, as since API 1.48.
    """
    mode = host.network_mode
    if mode in ("host", "none") or mode.startswith("container:"):
        return []
    moved = {}
    for name, value in (host.sysctls or {}).items():
        parts = name.split(".", 4)
        if len(parts) != 5 or parts[0] != "net" or not parts[3].startswith("eth"):
            continue
        if not by_itself:
            raise InvalidParameter(
                f'interface specific sysctl setting "{name}" must be supplied using driver option '
                f"'{OPTION}'"
            )
        if parts[3] != "eth0":
            raise InvalidParameter(
                f"unable to determine network endpoint for sysctl {name}, use driver option "
                f"'{OPTION}' to set per-interface sysctls"
            )
        moved[name] = f"net.{parts[1]}.{parts[2]}.IFNAME.{parts[4]}={value}"
    if not moved:
        return []
    settings = endpoints.get(mode) or EndpointSettings()
    endpoints[mode] = settings
    option = ",".join(moved.values())
    own = (settings.driver_opts or {}).get(OPTION, "")
    settings.driver_opts = {
        **(settings.driver_opts or {}),
        # The later one wins: what the endpoint says itself.
        OPTION: f"{option},{own}" if own else option,
    }
    host.sysctls = {
        name: value for name, value in (host.sysctls or {}).items() if name not in moved
    }
    return [f'Migrated sysctl "{",".join(moved)}" to DriverOpts{{"{OPTION}":"{option}"}}.']
