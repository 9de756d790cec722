"""What every network driver does alike: dress an interface inside a container's namespace."""

from __future__ import annotations

import ipaddress
import re
import threading
from collections.abc import Sequence

from pyengine.linux import syscalls, sysctl
from pyengine.linux.netlink import (
    Netlink,
    add_address,
    add_link,
    add_route,
    change_link,
    delete_link,
)
from pyengine.linux.netns import inside

_LOOPBACK = 1
_NAME = re.compile(r"[^\s/:]{1,15}")


def valid_name(name: str) -> bool:
    """True if the kernel takes ``name`` for a link (dev_valid_name)."""
    return bool(_NAME.fullmatch(name)) and name not in (".", "..")


def owner_tag(engine_id: str, owner_id: str) -> str:
    """The alias (IFLA_IFALIAS) of a link: which engine made it, for which network or endpoint."""
    return f"pyengine:{engine_id}:{owner_id}"


def tagged_owner(engine_id: str, alias: str) -> str | None:
    """The owner that :func:`owner_tag` wrote; None if the link is not this engine's."""
    prefix = owner_tag(engine_id, "")
    return alias[len(prefix) :] if alias.startswith(prefix) else None


def mac_for(addresses: Sequence[str]) -> str:
    """A locally administered MAC derived from the first address, as Docker does: ``02:42`` and the
    four bytes of the IPv4 address (the last four of an IPv6 one); empty without address."""
    for cidr in addresses:
        return "02:42:" + ipaddress.ip_interface(cidr).packed[-4:].hex(":")
    return ""


def bring_up_loopback(netns: int) -> None:
    """``lo`` up inside ``netns``."""
    with inside(netns), Netlink() as guest:
        guest.run([change_link(_LOOPBACK, up=True)])


def dress(netns: int, name: str, addresses: Sequence[str], gateways: Sequence[str]) -> str:
    """Give link ``name`` inside ``netns`` its addresses (with prefix length) and default routes,
    bring it and ``lo`` up; returns its MAC. ``OSError`` from netlink(7) as it is."""
    with inside(netns), Netlink() as guest:
        link = guest.link(name)
        if link is None:
            raise FileNotFoundError(19, "no such interface", name)
        requests = [change_link(_LOOPBACK, up=True)]
        if any(":" in address for address in addresses):
            for parameter in ("accept_dad", "accept_ra"):
                sysctl.ensure(f"net/ipv6/conf/{name}/{parameter}", "0")
            sysctl.ensure(f"net/ipv6/conf/{name}/disable_ipv6", "0")
        else:
            # No link-local address either, and nobody inside adds one by accident.
            sysctl.ensure(f"net/ipv6/conf/{name}/disable_ipv6", "1")
        requests.append(change_link(link.index, up=True))
        requests += [add_address(link.index, address) for address in addresses]
        requests += [add_route(link.index, gateway) for gateway in gateways]
        guest.run(requests)
        return link.mac


def set_gateways(netns: int, gateways: Sequence[str]) -> None:
    """Send what goes elsewhere through ``gateways``, one per family, whatever it went through
    before. The links that they are reached by are there already. ``OSError`` otherwise."""
    with inside(netns), Netlink() as guest:
        guest.run([add_route(0, gateway) for gateway in gateways])


def add_stacked(
    netns: int,
    name: str,
    kind: str,
    data: bytes,
    *,
    parent: int,
    tag: str,
    mtu: int = 0,
    mac: str = "",
    addresses: Sequence[str] = (),
    gateways: Sequence[str] = (),
) -> str:
    """Create a link of ``kind`` (macvlan, ipvlan) on the link with index ``parent`` of the calling
    thread's namespace, inside ``netns``, and dress it; returns its MAC. A link there with the same
    ``tag`` is replaced. After an ``OSError`` nothing is left."""
    remove_stacked(netns, tag)
    with Netlink() as host:
        host.run([add_link(name, kind, data, parent=parent, mtu=mtu, mac=mac, netns=netns)])
    try:
        with inside(netns), Netlink() as guest:
            guest.run([change_link(name, alias=tag)])
        return dress(netns, name, addresses, gateways)
    except BaseException:
        with inside(netns), Netlink() as guest:
            guest.run([delete_link(name)])
        raise


def remove_stacked(netns: int, tag: str) -> None:
    """Remove the link inside ``netns`` that carries ``tag``, whatever it is called by now."""
    with inside(netns), Netlink() as guest:
        for link in guest.links():
            if link.alias == tag:
                guest.run([delete_link(link.name)])


def kind_missing(kind: str) -> str:
    """Why a link of ``kind`` cannot be stacked on another here; empty if it can.

    Tried on a bridge in a scratch namespace that ends with the thread it belongs to, so
    the caller's namespace never sees a link."""
    answer: list[str] = []

    def attempt() -> None:
        try:
            syscalls.unshare(syscalls.CLONE_NEWNET)
            with Netlink() as scratch:
                scratch.run([add_link("lower", "bridge")])
                lower = scratch.link("lower")
                scratch.run([add_link("upper", kind, parent=lower.index if lower else 0)])
        except OSError as error:
            answer.append(error.strerror or str(error))

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return answer[0] if answer else ""
