"""Addresses, subnets and places to listen at: what is wrong with their text, or nothing."""

from __future__ import annotations

import ipaddress

from pyengine.config.words import nearest

SCHEMES = ("unix", "tcp", "fd")


def address(text: str) -> str:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return f"{text!r} is no IP address"
    return ""


def address_v4(text: str) -> str:
    """Empty for none."""
    good = not text or (not address(text) and ":" not in text)
    return "" if good else f"{text!r} is no IPv4 address"


def address_v6(text: str) -> str:
    """Empty for none."""
    good = not text or (not address(text) and ":" in text)
    return "" if good else f"{text!r} is no IPv6 address"


def endpoint(text: str) -> str:
    """``HOST:PORT``; empty for none."""
    _, colon, port = text.rpartition(":")
    return "" if not text or (colon and _is_port(port)) else _wants_port(text)


def host(text: str) -> str:
    """What ``-H`` takes: ``unix://PATH``, ``tcp://[HOST][:PORT]``, ``fd://[N]``, and ``HOST:PORT``
    for the second."""
    scheme, separator, rest = with_scheme(text).partition("://")
    if not separator or scheme not in SCHEMES:
        known = ", ".join(f"{one}://" for one in SCHEMES)
        return f"{text!r} begins with none of {known}{nearest(scheme, SCHEMES)}"
    if scheme == "unix" and not rest.startswith("/"):
        return f"{text!r}: unix:// and an absolute path is wanted"
    if scheme == "fd" and rest and not rest.isdecimal():
        return f"{text!r}: fd:// and the number of a descriptor, or fd:// alone, is wanted"
    name, colon, port = rest.rpartition(":")
    if scheme == "tcp" and colon and "]" not in port and port and not _is_port(port):
        return _wants_port(text)
    return "" if scheme != "tcp" or "/" not in name + port else f"{text!r} has a path"


def with_scheme(text: str) -> str:
    """``tcp://`` before what names a host without saying how it is spoken to, as for dockerd."""
    bare = text and "/" not in text and text.partition(":")[0] not in SCHEMES
    return f"tcp://{text}" if bare else text


def bridge_address(text: str) -> str:
    """``bip``: an IPv4 address of a host, with the length of its network."""
    return _interface(text, 4, "172.20.0.1/16")


def bridge_address_v6(text: str) -> str:
    """``bip6``."""
    return _interface(text, 6, "fd00:1::1/64")


def subnet(text: str) -> str:
    """``fixed-cidr``; Docker lets it have bits of a host."""
    return _subnet(text, 4)


def subnet_v6(text: str) -> str:
    """``fixed-cidr-v6``."""
    return _subnet(text, 6)


def _interface(text: str, version: int, example: str) -> str:
    if not text:
        return ""
    try:
        found = ipaddress.ip_interface(text)
    except ValueError:
        found = None
    if found and found.version == version and "/" in text:
        network = found.network
        none = {network.network_address} | ({network.broadcast_address} if version == 4 else set())
        if found.ip not in none or network.prefixlen >= network.max_prefixlen - 1:
            return ""
    return (
        f"{text!r} is no IPv{version} address of a host with the length of its network, as in "
        f"{example}"
    )


def _subnet(text: str, version: int) -> str:
    if not text:
        return ""
    try:
        found = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        return f"{text!r} is no IPv{version} subnet: {error}"
    if found.version != version or "/" not in text:
        return f"{text!r} is no IPv{version} subnet"
    return f"{text!r} is for multicast" if found.is_multicast else ""


def _is_port(text: str) -> bool:
    return text.isdecimal() and 0 < int(text) < 1 << 16


def _wants_port(text: str) -> str:
    return f"invalid address {text!r}: host:port is wanted"
