"""From desired state to nftables commands; pure text, nothing here talks to the kernel.

One table of family inet::

    loopback     raw, prerouting     nothing enters for 127.0.0.0/8 through a bridge of ours
    prerouting   nat                 for an address of this host -> published
    output       nat                 the same for the host itself, 127.0.0.1 too
    published -> tcp_ports, ...      the maps
    forward      filter              leaving_<network>, entering_<network>
    postrouting  nat                 home_<network>, masquerade

Published ports are elements of maps, so neither look-up nor change grows with their number: per
protocol and family a hash map for ports on every address (``tcp4``) and one for ports on one
address (``tcp4_at``); spans of equal ports are one element each of ``tcp4_span`` and
``tcp4_at_span``. Only the spans need interval maps, whose changes cost more the more they hold.

Loopback destinations are translated only where they originate: a packet for 127.0.0.1 from outside
keeps its address, and the kernel discards it as a martian.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from pyengine.contracts.firewall import FirewallEndpoint, FirewallNetwork, PublishedPort
from pyengine.errors import InvalidParameter

PROTOCOLS = ("tcp", "udp", "sctp")
_FAMILIES = (("4", "ip", "ipv4_addr"), ("6", "ip6", "ipv6_addr"))
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
# What nft would take for the end of a string or for a wildcard must not come into a rule.
_BRIDGE = re.compile(r'[^\s/:"\\*]{1,15}')


class Flavour(msgspec.Struct, frozen=True):
    """What the operator wants of all rules. ``ipv6`` False: IPv6 is left alone. ``direct``: other
    hosts reach published ports at containers' own addresses too. ``mark``: packets that carry it
    reach every container, ``MARK`` or ``MARK/MASK`` in numbers.
    """

    ipv6: bool = True
    direct: bool = False
    mark: str = ""


#: (set or map, key, value; empty in a set): one bridge, subnet, published port or span.
Element = tuple[str, str, str]
#: Name of a chain and its rules.
Chains = dict[str, list[str]]

_HEADERS = {
    "loopback": "type filter hook prerouting priority raw; policy accept;",
    "prerouting": "type nat hook prerouting priority dstnat; policy accept;",
    "output": "type nat hook output priority -100; policy accept;",
    "forward": "type filter hook forward priority filter; policy accept;",
    "postrouting": "type nat hook postrouting priority srcnat; policy accept;",
}
_SETS = [
    "set bridges { type ifname; }",
    "set masquerade4 { type ipv4_addr; flags interval; }",
    "set masquerade6 { type ipv6_addr; flags interval; }",
    "set direct4 { type ipv4_addr . inet_proto . inet_service; }",
    "set direct6 { type ipv6_addr . inet_proto . inet_service; }",
    "map leaving { type ifname : verdict; }",
    "map entering { type ifname : verdict; }",
    "map home { type ifname : verdict; }",
]


def base_chains(flavour: Flavour) -> Chains:
    """The chains of the table itself."""
    chains: Chains = {}
    for protocol in PROTOCOLS:
        chains[f"{protocol}_ports"] = [
            f"dnat {family} to {key} map @{protocol}{digit}{kind}"
            for digit, family, _ in _FAMILIES
            for key, kinds in (
                (f"{family} daddr . {protocol} dport", ("_at", "_at_span")),
                (f"{protocol} dport", ("", "_span")),
            )
            for kind in kinds
        ]
    jumps = ", ".join(f"{protocol} : jump {protocol}_ports" for protocol in PROTOCOLS)
    chains["published"] = [f"meta l4proto vmap {{ {jumps} }}"]
    chains["loopback"] = ["iifname @bridges ip daddr 127.0.0.0/8 drop"]
    chains["prerouting"] = [
        "ip daddr 127.0.0.0/8 return",
        "ip6 daddr ::1 return",
        "fib daddr type local jump published",
    ]
    chains["output"] = ["ip6 daddr ::1 return", "fib daddr type local jump published"]
    chains["forward"] = ["iifname vmap @leaving", "oifname vmap @entering"]
    chains["postrouting"] = [
        "oifname @bridges ip saddr 127.0.0.0/8 masquerade",
        "oifname vmap @home",
        "ip saddr @masquerade4 masquerade",
        "ip6 saddr @masquerade6 masquerade",
    ]
    if not flavour.ipv6:
        for name in _HEADERS:
            chains[name].insert(0, "meta nfproto ipv6 return")
    return chains


def skeleton(table: str, flavour: Flavour) -> list[str]:
    """Commands that replace the table by one without networks and ports."""
    maps = []
    for protocol in PROTOCOLS:
        for digit, _, kind in _FAMILIES:
            name = protocol + digit
            maps += [
                f"map {name} {{ type inet_service : {kind} . inet_service; }}",
                f"map {name}_at {{ type {kind} . inet_service : {kind} . inet_service; }}",
                f"map {name}_span {{ type inet_service : {kind}; flags interval; }}",
                f"map {name}_at_span {{ type {kind} . inet_service : {kind}; flags interval; }}",
            ]
    chains = [_chain(name, rules) for name, rules in base_chains(flavour).items()]
    return [
        f"add table inet {table}",
        f"delete table inet {table}",
        "\n".join([f"table inet {table} {{", *_SETS, *maps, *chains, "}"]),
    ]


def network_chains(network: FirewallNetwork, flavour: Flavour) -> Chains:
    """The chains of one network; ``InvalidParameter`` for what is no name."""
    suffix, bridge = _suffix(network.id), _quoted(network.bridge)
    fence_out = [f"oifname != {bridge} drop"] if network.internal else []
    fence_in = [f"iifname != {bridge} drop"] if network.internal else []
    within = [f"iifname {bridge} accept"] if network.icc else []
    # Within the bridge addresses stay, but for a port published by the host: the answer would go
    # straight to a neighbour that never spoke to who answers.
    hairpin = [
        f"{'ip6' if net.version == 6 else 'ip'} saddr {net} ct status dnat masquerade"
        for net in _subnets(network)
    ]
    passing = ["ct state established,related accept", "ct status dnat accept"]
    if flavour.direct:
        passing += [
            f"{family} daddr . meta l4proto . th dport @direct{digit} accept"
            for digit, family, _ in _FAMILIES
        ]
    if flavour.mark:
        value, slash, mask = flavour.mark.partition("/")
        passing.append(f"meta mark {f'and {mask} ' if slash else ''}{value} accept")
    return {
        f"leaving_{suffix}": fence_out,
        f"entering_{suffix}": [*fence_in, *passing, *within, "drop"],
        f"home_{suffix}": [*hairpin, "accept"],
    }


def network_elements(network: FirewallNetwork) -> Iterator[Element]:
    suffix, bridge = _suffix(network.id), _quoted(network.bridge)
    yield "bridges", bridge, ""
    for chain in ("leaving", "entering", "home"):
        yield chain, bridge, f"jump {chain}_{suffix}"
    if network.masquerade and not network.internal:
        for net in _subnets(network):
            yield f"masquerade{net.version}", str(net), ""


def endpoint_elements(endpoint: FirewallEndpoint, flavour: Flavour) -> Iterator[Element]:
    """What an endpoint's ports are in the maps.

    A port on an address of a family in which the container has no address is left out: the small
    proxy of core serves it.
    """
    addresses: dict[int, str] = {}
    for text in endpoint.addresses:
        address = ipaddress.ip_address(text)
        addresses[address.version] = str(address)
    for port in endpoint.ports:
        yield from _port_elements(port, addresses)
        if flavour.direct:
            for version, own in addresses.items():
                for step in range(port.count):
                    key = f"{own} . {port.protocol} . {port.container_port + step}"
                    yield f"direct{version}", key, ""


def add_chains(table: str, chains: Chains) -> list[str]:
    # In one block, and with line ends where nft's grammar wants them after a chain.
    body = "\n".join(_chain(name, rules) for name, rules in chains.items())
    return [f"table inet {table} {{\n{body}\n}}"]


def delete_chains(table: str, chains: Chains) -> list[str]:
    """Commands for chains that nothing jumps to any more."""
    return [f"{verb} chain inet {table} {name}" for name in chains for verb in ("flush", "delete")]


def add_elements(table: str, chosen: Iterable[Element]) -> list[str]:
    return _by_map("add", table, chosen, lambda key, value: f"{key} : {value}" if value else key)


def delete_elements(table: str, chosen: Iterable[Element]) -> list[str]:
    return _by_map("delete", table, chosen, lambda key, _: key)


def _by_map(
    verb: str, table: str, chosen: Iterable[Element], show: Callable[[str, str], str]
) -> list[str]:
    grouped: dict[str, list[str]] = {}
    for name, key, value in chosen:
        grouped.setdefault(name, []).append(show(key, value))
    return [
        f"{verb} element inet {table} {name} {{ {', '.join(entries)} }}"
        for name, entries in grouped.items()
    ]


def _chain(name: str, rules: list[str]) -> str:
    lines = [_HEADERS[name]] if name in _HEADERS else []
    return f"chain {name} {{ {' '.join(lines + [rule + ';' for rule in rules])} }}"


def _port_elements(port: PublishedPort, addresses: Mapping[int, str]) -> Iterator[Element]:
    if port.protocol not in PROTOCOLS:
        raise InvalidParameter(
            f"invalid protocol {port.protocol!r} of a published port", help="tcp, udp or sctp"
        )
    last = max(port.host_port, port.container_port) + port.count - 1
    if min(port.host_port, port.container_port, port.count) < 1 or last > 65535:
        raise InvalidParameter(f"invalid published port {port.host_port} (count {port.count})")
    host = ipaddress.ip_address(port.host_ip or "0.0.0.0")
    target = addresses.get(host.version)
    if target is None:
        return
    at = "" if host.is_unspecified else "_at"
    prefix = "" if host.is_unspecified else f"{host} . "
    name = f"{port.protocol}{host.version}{at}"
    if port.count > 1 and port.host_port == port.container_port:
        span = f"{port.host_port}-{port.host_port + port.count - 1}"
        yield f"{name}_span", prefix + span, target
        return
    for step in range(port.count):
        key = f"{prefix}{port.host_port + step}"
        yield name, key, f"{target} . {port.container_port + step}"


def _suffix(network_id: str) -> str:
    if not _ID.fullmatch(network_id):
        raise InvalidParameter(f"invalid network id {network_id!r}")
    return network_id[:12]


def _quoted(bridge: str) -> str:
    if not _BRIDGE.fullmatch(bridge):
        raise InvalidParameter(
            f"the firewall cannot name bridge {bridge!r}",
            help='1 to 15 characters without white space and any of / : " \\ *',
        )
    return f'"{bridge}"'


def _subnets(network: FirewallNetwork) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    return [ipaddress.ip_network(subnet, strict=False) for subnet in network.subnets]


def redirection(table: str, address: str, port: int, to: int) -> str:
    """Commands for a container's own namespace: a table with nothing but this.

    Ports are written over rather than translated: a translation is remembered per client for as
    long as the client goes on trying, and would lead to a port of an earlier engine. The first
    chain comes before connection tracking and the second after it, which so sees both directions
    alike.
    """
    family, name = ("ip6" if ":" in address else "ip"), f"{table}_redirect"
    chains = ("there", "output", -300), ("back", "postrouting", 300)
    rules = []
    for protocol in ("udp", "tcp"):
        there = f"{family} daddr {address} {protocol} dport {port} {protocol} dport set {to}"
        back = f"{family} saddr {address} {protocol} sport {to} {protocol} sport set {port}"
        rules += [
            f"add rule {family} {name} there {there}",
            f"add rule {family} {name} back {back}",
        ]
    return "\n".join(
        (
            f"add table {family} {name}",
            *(
                f"add chain {family} {name} {chain} "
                f"{{ type filter hook {hook} priority {priority}; }}\n"
                f"flush chain {family} {name} {chain}"
                for chain, hook, priority in chains
            ),
            *rules,
        )
    )
