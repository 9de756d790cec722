"""The network ``bridge``: what the operator's keys make of it.

dockerd makes it anew from its configuration at each start. Here it is made anew only if its keys
have changed since it was made and no container that runs is on it, and it keeps its id.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import msgspec

from pyengine.config import Config
from pyengine.contracts.base import Kind
from pyengine.engine.networks.records import (
    GATEWAY_V4,
    GATEWAY_V6,
    IpamConfig,
    NetworkRequest,
)
from pyengine.errors import ConfigError
from pyengine.linux.netlink import Netlink

NAME = "bridge"
#: Value of the key ``bridge`` for no default bridge at all.
NOBODY = "none"
_PREFIX = "com.docker.network"


def request(config: Config, own: str) -> NetworkRequest | None:
    """What the network shall be; None if the operator wants none. ``own``: the name of the bridge
    that we make where the key ``bridge`` names none.

    ``ConfigError`` for a bridge of the operator's that is not there.
    """
    if config.bridge == NOBODY:
        return None
    addresses = _addresses(config.bridge) if config.bridge else []
    options = {
        f"{_PREFIX}.bridge.default_bridge": "true",
        f"{_PREFIX}.bridge.enable_icc": _bool(config.icc),
        f"{_PREFIX}.bridge.enable_ip_masquerade": _bool(config.ip_masq),
        f"{_PREFIX}.bridge.host_binding_ipv4": config.ip,
        f"{_PREFIX}.bridge.name": config.bridge or own,
    }
    if config.mtu:
        options[f"{_PREFIX}.driver.mtu"] = str(config.mtu)
    bip = config.bip or _fitting(addresses, 4, config.fixed_cidr)
    pools = [_pool(bip, config.fixed_cidr, GATEWAY_V4, config.default_gateway)]
    if config.ipv6:
        bip = config.bip6 or _fitting(addresses, 6, config.fixed_cidr_v6)
        pools.append(_pool(bip, config.fixed_cidr_v6, GATEWAY_V6, config.default_gateway_v6))
    return NetworkRequest(
        name=NAME,
        driver=NAME,
        ipv6=config.ipv6,
        options=options,
        ipam=[pool for pool in pools if pool != IpamConfig()],
        interface=config.bridge,
    )


def asked(wanted: NetworkRequest | None, config: Config) -> str:
    """A text that differs where the network would be another one. Pools count where the subnet
    comes from one of them."""
    automatic = wanted is not None and not any(pool.subnet for pool in wanted.ipam)
    pools = config.choices().get(Kind.IPAM) if automatic else None
    fields = msgspec.structs.asdict(wanted).items() if wanted is not None else ()
    given = {name: value for name, value in fields if value is not None} or None
    return msgspec.json.encode([given, pools and pools.options], order="sorted").decode()


def _pool(bip: str, part: str, name: str, gateway: str) -> IpamConfig:
    """The network of ``bip``, of which containers get addresses from ``part``; each may be empty.
    Where ``part`` alone is known it is the network. ``gateway``: where containers send what goes
    elsewhere, if not to the bridge; ``name``: what that is called."""
    more = {name: gateway} if gateway else None
    if not bip:
        return IpamConfig(subnet=_network(part), auxiliary_addresses=more)
    address = ipaddress.ip_interface(bip)
    return IpamConfig(
        subnet=str(address.network),
        gateway=str(address.ip),
        ip_range=_network(part),
        auxiliary_addresses=more,
    )


def _network(cidr: str) -> str:
    return str(ipaddress.ip_network(cidr, strict=False)) if cidr else ""


def _addresses(bridge: str) -> Sequence[str]:
    """Of a bridge that the operator has made, with prefix length."""
    with Netlink() as host:
        link = host.link(bridge)
        if link is None or link.kind != "bridge":
            raise ConfigError(
                f"bridge is {bridge!r}, and there is no such bridge on this host",
                help=f"make it (ip link add {bridge} type bridge), or leave the key out and let "
                "one be made",
            )
        return host.addresses(link.index)


def _fitting(addresses: Sequence[str], version: int, part: str) -> str:
    """The address whose network holds ``part``, or else the first; "" if there is none."""
    found = [
        one
        for one in map(ipaddress.ip_interface, addresses)
        if one.version == version and not one.is_link_local
    ]
    inside = ipaddress.ip_network(part, strict=False).network_address if part else None
    best = [one for one in found if inside is not None and inside in one.network]
    return str((best or found)[0]) if found else ""


def _bool(value: bool) -> str:
    return "true" if value else "false"
