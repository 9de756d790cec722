"""``--link``: what a container is told of others on the default bridge.

A link gives lines in /etc/hosts and, as Docker has done since before networks had names, variables
about the other's ports and environment. On networks that users made the names are resolved there
and the variables are left out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from pyengine.engine.model import Container
from pyengine.errors import Conflict, NotFound

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
    name = name.removeprefix("/")
    return name, alias.rpartition("/")[2] or name


def bind(links: Sequence[str] | None, find: Find) -> list[str] | None:
    """``links`` by the ids of the others, which keep them when they get another name."""
    if links is None:
        return None
    pairs = [(find(name), alias) for name, alias in map(split, links)]
    return [f"{other.id}:{alias}" for other, alias in pairs]


def shown(record: Container, find: Find) -> list[str] | None:
    """``/other:/record/alias`` of every link to one that is still there, in order; None without."""
    found = []
    for name, alias in _of_default_network(record):
        with contextlib.suppress(NotFound):
            found.append(f"/{find(name).name}:/{record.name}/{alias}")
    return sorted(found) or None


def further_names(records: Iterable[Container], find: Find) -> dict[str, list[str]]:
    """``/record/alias`` of those that others are linked to, by their ids."""
    names: dict[str, list[str]] = {}
    for record in records:
        for name, alias in _of_default_network(record):
            with contextlib.suppress(NotFound):
                names.setdefault(find(name).id, []).append(f"/{record.name}/{alias}")
    return names


def _of_default_network(record: Container) -> list[tuple[str, str]]:
    """Elsewhere links are names on a network and nothing besides."""
    default = record.host_config.network_mode in ("", "default", DEFAULT_NETWORK)
    return list(map(split, record.host_config.links or ())) if default else []


def linked(record: Container, find: Find) -> Linked:
    """What its links tell the container now. ``Conflict`` if one that it is linked to on the
    default bridge does not run; ``NotFound`` if it is no more."""
    found = Linked({}, [])
    for link in record.host_config.links or ():
        name, alias = split(link)
        other = find(name)
        if DEFAULT_NETWORK in record.networks and not other.state.running:
            raise Conflict(
                f"Cannot link to a non running container: /{other.name} AS /{record.name}/{alias}"
            )
        shared = [n for n in other.networks if n in record.networks] or list(other.networks)
        address = next((a for n in shared if (a := other.networks[n].ip_address)), "")
        if not address:
            continue
        names = [alias, other.config.hostname, *([other.name] if other.name != alias else ())]
        found.hosts[" ".join(names)] = address
        if DEFAULT_NETWORK in record.networks:
            found.environment.extend(_variables(f"/{record.name}/{alias}", alias, other, address))
    return found


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
