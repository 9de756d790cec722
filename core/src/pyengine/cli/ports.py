"""Published ports: the notation of ``-p`` and ``--expose``, and how ``ps`` shows them."""

from __future__ import annotations

import ipaddress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PROTOCOLS = ("tcp", "udp", "sctp")


def _range(text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    bounds = [first, last if dash else first]
    if not all(part.isdecimal() and int(part) <= 65535 for part in bounds):
        raise ValueError(text)
    low, high = int(bounds[0]), int(bounds[1])
    if high < low:
        raise ValueError(text)
    return low, high


def parse_publish(text: str) -> list[tuple[str, dict[str, str]]]:
    """``[[ip:]host:]container[/proto]``, ranges too, as (``80/tcp``, binding) pairs.

    Also ``published=8080,target=80``. ValueError in Docker's words.
    """
    if "=" in text:
        text = _from_long(text)
    host, _, container = text.rpartition(":")
    ip, _, host_port = host.rpartition(":")
    container, _, protocol = container.partition("/")
    ip = ip.removeprefix("[").removesuffix("]")
    if ip:
        try:
            ipaddress.ip_address(ip.partition("%")[0])
        except ValueError:
            raise ValueError(f"invalid IP address: {ip}")
    if not container:
        raise ValueError(f"no port specified: {text}<empty>")
    try:
        first, last = _range(container)
    except ValueError:
        raise ValueError(f"invalid containerPort: {container}")
    try:
        host_first, host_last = _range(host_port) if host_port else (0, 0)
    except ValueError:
        raise ValueError(f"invalid hostPort: {host_port}")
    if host_port and last - first != host_last - host_first and first != last:
        raise ValueError(
            f"invalid ranges specified for container and host Ports: {container} and {host_port}"
        )
    protocol = protocol.lower() or "tcp"
    if protocol not in _PROTOCOLS:
        raise ValueError(f"invalid proto: {protocol}")
    out = []
    for offset in range(last - first + 1):
        shown = str(host_first + offset) if host_port else ""
        if first == last and host_first != host_last:
            shown = f"{host_first}-{host_last}"
        out.append((f"{first + offset}/{protocol}", {"HostIp": ip, "HostPort": shown}))
    return out


def _from_long(text: str) -> str:
    values = {"protocol": "tcp"}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise ValueError(f"invalid publish opts format (should be name=value but got '{part}')")
        values[key] = value
    return f"{values.get('published', '')}:{values.get('target', '')}/{values['protocol']}"


def parse_expose(text: str) -> list[str]:
    """``80``, ``80/udp``, ``8000-8010`` as port keys; ValueError."""
    if ":" in text:
        raise ValueError(f"invalid port format for --expose: {text}")
    ports, _, protocol = text.partition("/")
    try:
        first, last = _range(ports)
    except ValueError:
        words = f'strconv.ParseUint: parsing "{ports}": invalid syntax'
        raise ValueError(f"invalid range format for --expose: {text}, error: {words}")
    return [f"{port}/{protocol or 'tcp'}" for port in range(first, last + 1)]


def bracketed(ip: str, port: object) -> str:
    """An address and port, IPv6 in brackets."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def displayable(ports: list[dict[str, Any]]) -> str:
    """The PORTS column: ``0.0.0.0:8080->80/tcp, 443/tcp``, runs of equal ports joined."""

    def order(port: dict[str, Any]) -> tuple[int, str, int, str]:
        return port["PrivatePort"], port.get("IP", ""), port.get("PublicPort", 0), port["Type"]

    groups: dict[str, list[int]] = {}
    done: list[str] = []
    mapped: list[str] = []
    for port in sorted(ports, key=order):
        private, ip, kind = port["PrivatePort"], port.get("IP", ""), port["Type"]
        key = kind
        if ip:
            if port.get("PublicPort") != private:
                mapped.append(f"{bracketed(ip, port.get('PublicPort', 0))}->{private}/{kind}")
                continue
            key = f"{ip}/{kind}"
        group = groups.get(key)
        if group is not None and private == group[1] + 1:
            group[1] = private
            continue
        if group is not None:
            done.append(_group(key, group))
        groups[key] = [private, private]
    return ", ".join([*done, *(_group(key, group) for key, group in groups.items()), *mapped])


def _group(key: str, group: list[int]) -> str:
    ip, _, kind = key.rpartition("/")
    shown = str(group[0]) if group[0] == group[1] else f"{group[0]}-{group[1]}"
    return f"{bracketed(ip, shown)}->{shown}/{kind}" if ip else f"{shown}/{kind}"
