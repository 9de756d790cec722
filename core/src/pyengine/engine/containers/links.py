"""``--link``: what a container is told of others on the default bridge.

A link gives lines in /etc/hosts and, as Docker has done since before networks had names, variables
about the other's ports and environment. It is kept with the other's id, so that it outlives a new
name, and ends with the other container. On networks that users made links are only names, which
the network's name server resolves, whether anybody bears them or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from pyengine.engine.model import PREDEFINED, Container, HostConfig
from pyengine.errors import Conflict, InvalidParameter, NotFound

Find = Callable[[str], Container]

DEFAULT_NETWORK = "bridge"
#: They say how the other's image was built, and nothing of what it serves.
_PRIVATE = frozenset({"HOME", "PATH"})


class Linked(NamedTuple):
    """``hosts``: addresses by the names of a line of /etc/hosts."""

    hosts: dict[str, str]
    environment: list[str]


def split(link: str) -> tuple[str, str]:
    """(name of the other, alias) of ``name:alias``; the alias is the name if none is given."""
    name, _, alias = link.partition(":")
    if ":" in alias:
        raise InvalidParameter(f"bad format for links: {link}")
    name = name.removeprefix("/")
    return name, alias.rpartition("/")[2] or name


def bind(host: HostConfig, find: Find) -> list[str] | None:
    """The links of a new container as they are kept: ``id:alias``.

    ``InvalidParameter`` in Docker's words for one that leads nowhere.
    """
    mode = host.network_mode or DEFAULT_NETWORK
    if mode not in (*PREDEFINED, "default") or not host.links:
        return host.links
    kept = []
    for link in host.links:
        name, alias = split(link)
        ref = link.partition(":")[0]
        if not name:
            raise InvalidParameter(
                f"could not get container for {ref}", 'invalid name or ID supplied: ""'
            )
        try:
            other = find(name)
            while other.host_config.network_mode.startswith("container:"):
                other = find(other.host_config.network_mode.removeprefix("container:"))
        except NotFound as error:
            # "Not found" would tell the client to pull the image.
            raise InvalidParameter(f"could not get container for {ref}", error.brief) from None
        if other.host_config.network_mode == "host":
            raise InvalidParameter(
                "conflicting options: host type networking can't be used with links. This would "
                "result in undefined behavior"
            )
        kept.append(f"{other.id}:{alias}")
    return kept


def linked(record: Container, find: Find) -> Linked:
    """What its links tell the container now. ``Conflict`` if one that it is linked to does not run;
    ``InvalidParameter`` if it is not on the default bridge."""
    found = Linked({}, [])
    for alias, other in _others(record, find) if DEFAULT_NETWORK in record.networks else ():
        if not other.state.running:
            raise Conflict(
                f"Cannot link to a non running container: /{other.name} AS /{record.name}/{alias}"
            )
        endpoint = other.networks.get(DEFAULT_NETWORK)
        if endpoint is None or not endpoint.ip_address:
            raise InvalidParameter(
                f"Cannot link to /{other.name}, as it does not belong to the default network"
            )
        address = endpoint.ip_address
        names = [alias, other.config.hostname, *([other.name] if other.name != alias else ())]
        found.hosts[" ".join(names)] = address
        found.environment.extend(_variables(f"/{record.name}/{alias}", alias, other, address))
    return found


def shown(record: Container, find: Find) -> list[str] | None:
    """``/other:/record/alias`` of every link to one that is still there, in order; None without."""
    others = _others(record, find)
    return sorted(f"/{other.name}:/{record.name}/{alias}" for alias, other in others) or None


def further_names(records: Iterable[Container], find: Find) -> dict[str, list[str]]:
    """``/record/alias`` of those that others are linked to, by their ids."""
    names: dict[str, list[str]] = {}
    for record in records:
        for alias, other in _others(record, find):
            names.setdefault(other.id, []).append(f"/{record.name}/{alias}")
    return names


def told(other: Container, records: Iterable[Container]) -> Iterator[tuple[Container, str, str]]:
    """Who has to hear of a container's new address: (running container, alias, address)."""
    endpoint = other.networks.get(DEFAULT_NETWORK)
    if endpoint is None or not endpoint.ip_address:
        return
    for record in records:
        if DEFAULT_NETWORK not in record.networks or not record.state.running:
            continue
        for link in record.host_config.links or ():
            target, alias = split(link)
            if target == other.id:
                yield record, alias, endpoint.ip_address


def _others(record: Container, find: Find) -> Iterator[tuple[str, Container]]:
    """(alias, container) of the links that have not ended."""
    if not record.host_config.links:
        return
    if record.host_config.network_mode not in (*PREDEFINED, "default", ""):
        return
    for link in record.host_config.links:
        target, alias = split(link)
        try:
            yield alias, find(target)
        except NotFound:
            continue


def _variables(path: str, alias: str, other: Container, address: str) -> Sequence[str]:
    prefix = alias.upper().replace("-", "_")
    ports = sorted(map(_port, other.config.exposed_ports or ()), key=lambda p: (p[0] != "tcp", *p))
    lines = []
    for index, (protocol, number) in enumerate(ports):
        url = f"{protocol}://{address}:{number}"
        if index == 0:
            lines.append(f"{prefix}_PORT={url}")
        port = f"{prefix}_PORT_{number}_{protocol.upper()}"
        lines += [
            f"{port}={url}",
            f"{port}_ADDR={address}",
            f"{port}_PORT={number}",
            f"{port}_PROTO={protocol}",
        ]
    # Ports that follow each other are told as a range besides.
    for _, run in groupby(enumerate(ports), key=lambda item: (item[1][0], item[1][1] - item[0])):
        members = [port for _, port in run]
        (protocol, first), (_, last) = members[0], members[-1]
        if first != last:
            port = f"{prefix}_PORT_{first}_{protocol.upper()}"
            lines += [
                f"{port}_START={protocol}://{address}:{first}",
                f"{port}_PORT_START={first}",
                f"{port}_END={protocol}://{address}:{last}",
                f"{port}_PORT_END={last}",
            ]
    lines.append(f"{prefix}_NAME={path}")
    for item in other.config.env or ():
        name, equals, value = item.partition("=")
        if equals and name not in _PRIVATE:
            lines.append(f"{prefix}_ENV_{name}={value}")
    return lines


def _port(text: str) -> tuple[str, int]:
    number, _, protocol = text.partition("/")
    return protocol or "tcp", int(number)
