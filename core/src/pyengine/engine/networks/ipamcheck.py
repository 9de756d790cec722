"""What a user wrote about the addresses of a new network, looked at before any driver sees it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence

from pyengine.engine.networks.records import IpamConfig
from pyengine.errors import InvalidParameter

Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network


def check(configs: Sequence[IpamConfig], *, ipv6: bool) -> None:
    """``InvalidParameter`` that tells all that is wrong, in Docker's words; several as a list.

    What is said of IPv6 counts only on a network that has it.
    """
    refuse("invalid network config:", [m for config in configs for m in _mistakes(config, ipv6)])


def refuse(title: str, mistakes: Sequence[str]) -> None:
    """``InvalidParameter`` with all ``mistakes`` below ``title``; nothing if there are none."""
    if len(mistakes) > 1:
        mistakes = [f"* {mistake}" for mistake in mistakes]
    if mistakes:
        raise InvalidParameter("\n".join([title, *mistakes]))


def _mistakes(config: IpamConfig, ipv6: bool) -> Iterator[str]:
    subnet = _block(config.subnet)
    if subnet is None:
        yield f"invalid subnet {config.subnet}: invalid CIDR block notation"
        return
    if subnet.version == 6 and not ipv6:
        return
    if not _is_exact(config.subnet, subnet):
        yield f"invalid subnet {config.subnet}: it should be {subnet}"
    for why in _range(config.ip_range, subnet):
        yield f"invalid ip-range {config.ip_range}: {why}"
    for why in _address(config.gateway, subnet):
        yield f"invalid gateway {config.gateway}: {why}"
    for name, address in (config.auxiliary_addresses or {}).items():
        for why in _address(address, subnet):
            yield f"invalid auxiliary address {name}: {why}"


def _range(text: str, subnet: Subnet) -> Iterable[str]:
    if not text:
        return ()
    block = _block(text)
    if block is None:
        return ("invalid CIDR block notation",)
    if block.version != subnet.version:
        return (f"parent subnet is an IPv{subnet.version} block",)
    if block.prefixlen < subnet.prefixlen:
        return (f"CIDR block is bigger than its parent subnet {subnet}",)
    mistakes = []
    if not _is_exact(text, block):
        mistakes.append(f"it should be {block}")
    if not subnet.overlaps(block):
        mistakes.append(f"parent subnet {subnet} doesn't contain ip-range")
    return mistakes


def _address(text: str, subnet: Subnet) -> Iterable[str]:
    if not text:
        return ()
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return ("invalid address",)
    if address.version != subnet.version:
        return (f"parent subnet is an IPv{subnet.version} block",)
    return () if address in subnet else (f"parent subnet {subnet} doesn't contain this address",)


def _block(text: str) -> Subnet | None:
    address, slash, length = text.partition("/")
    try:
        # not a netmask, which Python would take too
        return ipaddress.ip_network(f"{address}/{int(length)}", strict=False) if slash else None
    except ValueError:
        return None


def _is_exact(text: str, block: Subnet) -> bool:
    """Whether no bit of ``text`` is beyond the length of the block."""
    return ipaddress.ip_address(text.partition("/")[0]) == block.network_address
