"""Subnets to choose from: Docker's defaults, the operator's list, and what is free of them."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Sequence

import msgspec

from pyengine.errors import InvalidParameter

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Docker's pools for bridge networks, in its order: (base, prefix length of each subnet).
DOCKER_POOLS = [
    *((f"172.{second}.0.0/16", 16) for second in range(17, 32)),
    ("192.168.0.0/16", 20),
]


class AddressPool(msgspec.Struct, frozen=True):
    """An entry of ``default-address-pools``: subnets of ``/size`` cut from ``base``."""

    base: str
    size: int

    def network(self) -> Network:
        return ipaddress.ip_network(self.base)


def read_pools(text: str) -> list[AddressPool]:
    """Parse the option (JSON as in daemon.json); ``InvalidParameter`` says what is wrong."""
    try:
        pools = msgspec.json.decode(text, type=list[AddressPool])
        for pool in pools:
            network = pool.network()
            if not network.prefixlen <= pool.size <= network.max_prefixlen:
                raise ValueError(f"size {pool.size} does not fit into {pool.base}")
    except (ValueError, msgspec.ValidationError) as error:
        raise InvalidParameter(
            "invalid default-address-pools for ipam driver 'default'",
            str(error),
            'a list such as [{"base": "10.10.0.0/16", "size": 24}]',
        ) from None
    return pools


def default_pools(engine_id: str) -> list[AddressPool]:
    """Docker's IPv4 pools, and a unique local IPv6 /48 (RFC 4193) that is the engine's own: the
    40 bits that should be random come from its id, so they are the same after a restart."""
    unique = hashlib.sha256(engine_id.encode()).digest()[:5]
    prefix = ipaddress.IPv6Network((b"\xfd" + unique + bytes(10), 48))
    return [AddressPool(*pool) for pool in DOCKER_POOLS] + [AddressPool(str(prefix), 64)]


def overlapping(network: Network, others: Iterable[Network]) -> Network | None:
    """One of ``others`` that shares addresses with ``network``, or None."""
    for other in others:
        if other.version == network.version and _touches(network, other):
            return other
    return None


def first_free(pools: Sequence[AddressPool], version: int, taken: Sequence[Network]) -> str | None:
    """The first subnet of ``pools`` that overlaps nothing in ``taken``; None if there is none.

    Leaps over what is taken, so a /8 full of /24 costs as much as ``taken`` is long."""
    busy = sorted(
        (int(network.network_address), int(network.broadcast_address))
        for network in taken
        if network.version == version
    )
    for pool in pools:
        base = pool.network()
        if base.version != version:
            continue
        step = 1 << (base.max_prefixlen - pool.size)
        start = int(base.network_address)
        for low, high in busy:
            if low < start + step and high >= start:
                start = (high // step + 1) * step
        if start + step - 1 <= int(base.broadcast_address):
            return f"{ipaddress.ip_address(start.to_bytes(base.max_prefixlen // 8))}/{pool.size}"
    return None


def _touches(one: Network, other: Network) -> bool:
    return int(one.network_address) <= int(other.broadcast_address) and int(
        other.network_address
    ) <= int(one.broadcast_address)
