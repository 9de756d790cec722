"""What a user wrote about a container's place on a network, looked at before it is taken."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from pyengine.engine.model import EndpointIPAMConfig, EndpointSettings
from pyengine.engine.networks.ipamcheck import refuse
from pyengine.engine.networks.records import Network
from pyengine.errors import InvalidParameter

_OCTET = "([0-9A-Fa-f]{2})"
#: A MAC address in any of the notations that there are (IEEE 802, 48 bits).
_MAC = re.compile(
    "|".join(
        (
            ":".join([_OCTET] * 6),
            "-".join([_OCTET] * 6),
            r"\.".join([_OCTET * 2] * 3),
        )
    )
)


def normalise_mac(settings: EndpointSettings) -> None:
    """Write the MAC address as drivers want it, in lower case with colons."""
    if not settings.mac_address:
        return
    found = _MAC.fullmatch(settings.mac_address)
    if found is None:
        raise InvalidParameter(f"invalid MAC address {settings.mac_address}")
    settings.mac_address = ":".join(octet.lower() for octet in found.groups() if octet)


def link_local(settings: EndpointSettings) -> list[str]:
    """The link-local addresses that were asked for, with prefix length."""
    asked = settings.ipam_config.link_local_ips if settings.ipam_config else None
    return [f"{text}/{64 if ':' in text else 16}" for text in asked or ()]


def check_addresses(network: Network, config: EndpointIPAMConfig) -> None:
    """``InvalidParameter`` that tells all that is wrong, in Docker's words; several as a list."""
    refuse("invalid endpoint settings:", list(_mistakes(network, config)))


def _mistakes(network: Network, config: EndpointIPAMConfig) -> Iterator[str]:
    wanted = {4: config.ipv4_address, 6: config.ipv6_address}
    if network.predefined and any(wanted.values()):
        yield "user specified IP address is supported on user defined networks only"
    for version, text in wanted.items():
        if not text:
            continue
        address = _address(text)
        if address is None or address.version != version:
            yield f"invalid IPv{version} address: {text}"
        subnets = [ipaddress.ip_network(pool.subnet, strict=False) for pool in network.pools]
        subnets = [subnet for subnet in subnets if subnet.version == version]
        if network.predefined or not subnets:
            yield (
                "user specified IP address is supported only when connecting to networks with user "
                "configured subnets"
            )
        elif not any(address is not None and address in subnet for subnet in subnets):
            yield f"no configured subnet or ip-range contain the IP address {text}"
    for text in config.link_local_ips or ():
        address = _address(text)
        if address is None or not address.is_link_local:
            yield f"invalid link-local IP address: {text}"


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
