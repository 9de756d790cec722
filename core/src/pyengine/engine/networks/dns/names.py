"""Who is called what on which network.

A name is a container's name, its short id, its host name or an alias, on each network that it is on
while it runs; ``name.network`` says which network is meant. Links add names of one container's own.
Names know no case.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable, Iterable, Sequence

from pyengine.engine.containers import links
from pyengine.engine.model import PREDEFINED, Container
from pyengine.engine.names import ID

Index = dict[str, list[Container]]


class Names:
    """Looks names up in the records; an index of each network is kept until somebody says that
    something has :meth:`changed`."""

    def __init__(self, records: Callable[[], Iterable[Container]]) -> None:
        self._records = records
        self._indexes: dict[str, Index] = {}

    def changed(self) -> None:
        """A container came, went or was renamed, or a network was joined or left."""
        self._indexes.clear()

    def addresses(self, asker: Container, name: str) -> tuple[list[str], list[str]] | None:
        """IPv4 and IPv6 addresses of ``name`` as ``asker`` sees it, each in random order; None if
        nobody has that name."""
        wanted = name.rstrip(".").lower()
        if not wanted:
            return None
        networks = self._networks(asker)
        linked = {network: self._linked(asker, network, wanted) for network in networks}
        for network, target in linked.items():
            found = self._index(network).get(target) if target else None
            if found:
                return _of(network, found)
        for network in networks:
            if linked[network]:
                continue  # there the name means somebody else
            index = self._index(network)
            found = index.get(wanted)
            if not found and wanted.endswith(f".{network.lower()}"):
                found = index.get(wanted[: -len(network) - 1])
            if found:
                return _of(network, found)
        return None

    def reverse(self, asker: Container, address: str) -> str:
        """``name.network`` of the container with ``address``; "" if there is none."""
        for network in self._networks(asker):
            for container in self._records():
                settings = container.networks.get(network)
                if settings and address in (settings.ip_address, settings.global_ipv6_address):
                    return f"{container.name}.{network}"
        return ""

    def _networks(self, asker: Container) -> Sequence[str]:
        return [name for name in sorted(asker.networks) if name not in PREDEFINED]

    def _linked(self, asker: Container, network: str, wanted: str) -> str:
        """Whom the asker's links mean by that name on the network; "" if none does. ``network
        connect --link`` is for that one network, as is ``run --link`` on one that a user made."""
        known = [*(asker.networks[network].links or ())]
        if asker.host_config.network_mode in (network, *PREDEFINED, "default", ""):
            known += asker.host_config.links or ()
        for link in known:
            target, alias = links.split(link)
            if alias.lower() == wanted:
                # On the default bridge links are by id, whose beginning is a name everywhere.
                return target[:12] if ID.fullmatch(target) else target.lower()
        return ""

    def _index(self, network: str) -> Index:
        found = self._indexes.get(network)
        if found is None:
            found = self._indexes[network] = {}
            for container in self._records():
                settings = container.networks.get(network)
                if settings is None or not (settings.ip_address or settings.global_ipv6_address):
                    continue
                own = (container.name, *(settings.dns_names or ()), *(settings.aliases or ()))
                for name in {name.lower() for name in own}:
                    found.setdefault(name, []).append(container)
        return found


def _of(network: str, containers: Iterable[Container]) -> tuple[list[str], list[str]]:
    settings = [container.networks[network] for container in containers]
    v4 = [s.ip_address for s in settings if s.ip_address]
    v6 = [s.global_ipv6_address for s in settings if s.global_ipv6_address]
    random.shuffle(v4)
    random.shuffle(v6)
    return v4, v6


def pointed_at(name: str) -> str:
    """The address that a name of ``in-addr.arpa`` or ``ip6.arpa`` stands for; "" for others."""
    labels = name.rstrip(".").lower().split(".")
    try:
        if labels[-2:] == ["in-addr", "arpa"] and len(labels) == 6:
            return str(ipaddress.IPv4Address(".".join(labels[3::-1])))
        if labels[-2:] == ["ip6", "arpa"] and len(labels) == 34:
            digits = "".join(labels[31::-1])
            return str(ipaddress.IPv6Address(bytes.fromhex(digits)))
    except ValueError:
        pass
    return ""
