"""Where the host sends packets."""

from __future__ import annotations

import ipaddress
import socket
import struct


def host_routes(but: str = "") -> list[str]:
    """IPv4 networks that the host routes to, without the default route and those of the interface
    ``but`` (proc(5), net/route)."""
    routes = []
    with open("/proc/net/route") as table:
        for line in list(table)[1:]:
            words = line.split()
            if words[0] == but:
                continue
            destination = socket.inet_ntoa(struct.pack("<L", int(words[1], 16)))
            mask = socket.inet_ntoa(struct.pack("<L", int(words[7], 16)))
            network = ipaddress.ip_network(f"{destination}/{mask}")
            if network.prefixlen:
                routes.append(str(network))
    return routes
