"""What a container's network links are called inside it.

``com.docker.network.endpoint.ifname``, an option of an endpoint, names one. All others are called
by the prefix of their network (its option ``com.docker.network.container_iface_prefix``, or eth)
and the lowest number that is free.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

from pyengine.engine.model import EndpointSettings
from pyengine.errors import InvalidParameter
from pyengine.linux import netns
from pyengine.linux.interfaces import valid_name
from pyengine.linux.netlink import Netlink

OPTION = "com.docker.network.endpoint.ifname"
PREFIX_OPTION = "com.docker.network.container_iface_prefix"
DEFAULT_PREFIX = "eth"


def parse(settings: EndpointSettings) -> str:
    """The name that was asked for, or "". ``InvalidParameter`` for one that no link can have."""
    name = (settings.driver_opts or {}).get(OPTION, "")
    if name and not valid_name(name):
        raise InvalidParameter(
            f"invalid interface name {name!r} for {OPTION}",
            help="1 to 15 characters, without white space, slash or colon",
        )
    return name


def choose(
    endpoints: Sequence[tuple[EndpointSettings, str]], taken: Collection[str] = ()
) -> list[str]:
    """Names for ``endpoints``, each with the prefix of its network, beside those ``taken``."""
    names = [parse(settings) for settings, _ in endpoints]
    used = {*taken, *names}
    for at, (_, prefix) in enumerate(endpoints):
        if not names[at]:
            numbered = (f"{prefix or DEFAULT_PREFIX}{number}" for number in itertools.count())
            names[at] = next(name for name in numbered if name not in used)
            used.add(names[at])
    return names


def present(namespace: int) -> set[str]:
    """The names of all links in the network namespace behind descriptor ``namespace``."""
    with netns.inside(namespace), Netlink() as links:
        return {link.name for link in links.links()}
