"""Host ports: from what was asked for to what is published, without taking a port twice.

A port is taken if a lease says so (ours) or a socket of the host is bound to it (anybody's).
Nothing is bound here: the firewall translates packets before a socket would see them.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, NamedTuple

import msgspec

from pyengine.contracts.firewall import PublishedPort
from pyengine.engine.model import PortBinding
from pyengine.errors import Conflict, EngineError, InvalidParameter
from pyengine.linux import sysctl
from pyengine.linux.sockdiag import BoundSocket, bound_sockets

PROTOCOLS = ("tcp", "udp", "sctp")
#: Docker's, where the kernel does not say (IANA's dynamic ports without the first).
_FALLBACK = range(49153, 65536)
_ANY = {4: "0.0.0.0", 6: "::"}

Bindings = dict[str, list[PortBinding] | None]


class Grant(msgspec.Struct):
    """``published``: for the firewall and the proxy, merged into spans. ``bindings``: what Docker
    shows as NetworkSettings.Ports."""

    published: list[PublishedPort] = []
    bindings: Bindings = {}


class _Wish(NamedTuple):
    """One binding: a port of the container and where it shall be on the host."""

    key: str
    protocol: str
    container_port: int
    addresses: list[str]
    ports: range


class PortAllocator:
    """All methods may be called from any thread.

    ``own_sockets``: inodes of sockets that the engine itself holds for published ports.
    ``ipv6``: whether ``[::]`` is bound beside ``0.0.0.0``; None: if this host has IPv6.
    """

    def __init__(
        self,
        own_sockets: Callable[[], set[int]] = set,
        sockets: Callable[[], Sequence[BoundSocket]] = bound_sockets,
        ipv6: bool | None = None,
    ) -> None:
        self._own_sockets = own_sockets
        self._sockets = sockets
        self._ipv6 = _host_has_ipv6() if ipv6 is None else ipv6
        self._lock = threading.Lock()
        self._leases: dict[tuple[str, int, int], dict[str, str]] = {}
        self._held: dict[str, list[tuple[str, str, int]]] = {}
        self._dynamic = _dynamic_ports()
        self._reserved = _reserved_ports()
        self._latest: dict[tuple[str, range], int] = {}

    def allocate(
        self,
        owner: str,
        name: str,
        endpoint_id: str,
        container_address: str,
        bindings: Mapping[str, Sequence[PortBinding] | None],
        exposed: Iterable[str] = (),
        publish_all: bool = False,
        default_address: str = "",
    ) -> Grant:
        """Lease host ports for container ``owner``; all or none.

        Raises ``InvalidParameter`` for a specification that is none, and ``EngineError`` in
        Docker's words for a port that is taken; ``name``, ``endpoint_id`` and
        ``container_address`` are for these words. ``default_address``: the network's
        (``host_binding_ipv4``), for bindings that name none; empty: all addresses. A container
        with no address but one of IPv6 has nothing published on those of IPv4.
        """
        wishes = list(self._wishes(bindings, exposed, publish_all, default_address))
        if ":" in container_address:
            wishes = [
                wish._replace(addresses=[one for one in wish.addresses if ":" in one])
                for wish in wishes
            ]
            wishes = [wish for wish in wishes if wish.addresses]
        if not wishes:
            return Grant()
        foreign = _by_port(self._sockets())
        grant = Grant()
        single: list[PublishedPort] = []
        with self._lock:
            try:
                # Who can choose chooses last, and leaves alone what another binding names.
                order = sorted(range(len(wishes)), key=lambda n: len(wishes[n].ports) or 1 << 16)
                taken = {
                    number: self._take(owner, wishes[number], foreign, container_address)
                    for number in order
                }
                for number, wish in enumerate(wishes):
                    port = taken[number]
                    shown = grant.bindings.setdefault(wish.key, []) or []
                    for address in wish.addresses:
                        shown.append(PortBinding(host_ip=address, host_port=str(port)))
                        single.append(
                            PublishedPort(wish.protocol, port, wish.container_port, address)
                        )
                    grant.bindings[wish.key] = shown
            except Conflict as error:
                self._release(owner)
                raise EngineError(
                    "driver failed programming external connectivity on endpoint "
                    f"{name.removeprefix('/')} ({endpoint_id})",
                    error.brief,
                ) from error
        grant.published = merge(single)
        return grant

    def restore(self, owner: str, published: Iterable[PublishedPort]) -> None:
        """Take over the leases of a container that runs already."""
        with self._lock:
            for port in published:
                address = port.host_ip or _ANY[4]
                for step in range(port.count):
                    self._note(owner, port.protocol, address, port.host_port + step)

    def release(self, owner: str) -> None:
        """Give back all ports of a container."""
        with self._lock:
            self._release(owner)

    def _wishes(
        self,
        bindings: Mapping[str, Sequence[PortBinding] | None],
        exposed: Iterable[str],
        publish_all: bool,
        default: str,
    ) -> Iterator[_Wish]:
        wanted: dict[str, Sequence[PortBinding]] = {k: v or [] for k, v in bindings.items()}
        if publish_all:
            wanted = {key: [] for key in exposed} | wanted
            wanted = {key: value or [PortBinding()] for key, value in wanted.items()}
        for key in sorted(wanted, key=_order):
            port, protocol = parse_port(key)
            for binding in wanted[key]:
                yield _Wish(
                    f"{port}/{protocol}",
                    protocol,
                    port,
                    self._addresses(binding.host_ip or default),
                    host_ports(binding.host_port),
                )

    def _addresses(self, text: str) -> list[str]:
        if not text:
            return [_ANY[4], _ANY[6]] if self._ipv6 else [_ANY[4]]
        try:
            return [str(ip_address(text.strip("[]")))]
        except ValueError:
            raise InvalidParameter(f"invalid IP address: {text}") from None

    def _take(
        self,
        owner: str,
        wish: _Wish,
        foreign: Mapping[tuple[str, int], list[BoundSocket]],
        container_address: str,
    ) -> int:
        problem = Conflict("all ports are allocated")
        for port in self._candidates(wish):
            try:
                self._refuse_taken(wish, port, foreign, container_address)
            except Conflict as error:
                # Who asked for one port wants to know about it; of many, that none was free.
                if len(wish.ports) == 1:
                    problem = error
                continue
            for address in wish.addresses:
                self._note(owner, wish.protocol, address, port)
            if len(wish.ports) != 1:
                self._latest[wish.protocol, wish.ports or self._dynamic] = port
            return port
        raise problem

    def _candidates(self, wish: _Wish) -> Iterator[int]:
        """Ports to try: those asked for, or dynamic ones after the last one given, going round."""
        ports = wish.ports or self._dynamic
        start = self._latest.get((wish.protocol, ports), ports[-1]) + 1
        skip = set() if wish.ports else self._reserved
        for offset in range(len(ports)):
            port = ports[(start - ports[0] + offset) % len(ports)]
            if port not in skip:
                yield port

    def _refuse_taken(
        self,
        wish: _Wish,
        port: int,
        foreign: Mapping[tuple[str, int], list[BoundSocket]],
        container_address: str,
    ) -> None:
        for address in wish.addresses:
            held = self._leases.get((wish.protocol, _version(address), port), {})
            holder = _clash(address, held)
            if holder:
                raise Conflict(f"Bind for {holder}:{port} failed: port is already allocated")
        for address in wish.addresses:
            version = _version(address)
            rivals = [
                each
                for each in foreign.get((wish.protocol, port), [])
                if _version(each.address) == version and _clash(address, (each.address,))
            ]
            if rivals and not {each.inode for each in rivals} <= self._own_sockets():
                host = f"[{address}]" if version == 6 else address
                inner = f"[{container_address}]" if ":" in container_address else container_address
                raise Conflict(
                    f"failed to bind host port for {host}:{port}:{inner}:"
                    f"{wish.container_port}/{wish.protocol}: address already in use"
                )

    def _note(self, owner: str, protocol: str, address: str, port: int) -> None:
        self._leases.setdefault((protocol, _version(address), port), {})[address] = owner
        self._held.setdefault(owner, []).append((protocol, address, port))

    def _release(self, owner: str) -> None:
        for protocol, address, port in self._held.pop(owner, []):
            key = protocol, _version(address), port
            held = self._leases.get(key, {})
            held.pop(address, None)
            if not held:
                self._leases.pop(key, None)


def unpublished(*asked: Iterable[str]) -> Bindings:
    """Every port that is exposed or asked for, as Docker shows one that has no port of the host.

    Ports and ranges of ports; an image may expose what is neither, which is not shown.
    """
    found: Bindings = {}
    for key in itertools.chain(*asked):
        text, _, protocol = key.partition("/")
        with contextlib.suppress(InvalidParameter):
            for port in parse_range(text):
                found[f"{port}/{protocol.lower() or 'tcp'}"] = None
    return found


def parse_port(key: str) -> tuple[int, str]:
    """``80/tcp`` or ``80``; ``InvalidParameter`` in Docker's words."""
    text, _, protocol = key.partition("/")
    protocol = protocol.lower() or "tcp"
    if protocol not in PROTOCOLS:
        raise InvalidParameter(f"invalid proto: {protocol}")
    ports = parse_range(text)
    if len(ports) != 1:
        raise InvalidParameter(f'invalid port specification: "{text}"')
    return ports[0], protocol


def parse_range(text: str) -> range:
    """``8080`` or ``8000-8010``; ``InvalidParameter`` in Docker's words."""
    first, dash, last = text.partition("-")
    numbers = (first, last) if dash else (first, first)
    if all(n.isascii() and n.isdecimal() and 1 <= int(n) <= 65535 for n in numbers):
        found = range(int(numbers[0]), int(numbers[1]) + 1)
        if found:
            return found
    raise InvalidParameter(f'invalid port specification: "{text}"')


def host_ports(text: str) -> range:
    """``HostPort`` of a binding: the ports to choose from, none for any that is free (Docker has
    "0" for that, too)."""
    return range(0) if text in ("", "0") else parse_range(text)


def merge(ports: Iterable[PublishedPort]) -> list[PublishedPort]:
    """Join neighbours: consecutive host ports that go to as many consecutive container ports."""
    merged: list[PublishedPort] = []
    for port in sorted(
        ports, key=lambda p: (p.host_ip, p.protocol, p.host_port - p.container_port, p.host_port)
    ):
        last = merged[-1] if merged else None
        if (
            last is not None
            and (last.host_ip, last.protocol) == (port.host_ip, port.protocol)
            and last.host_port + last.count == port.host_port
            and last.container_port + last.count == port.container_port
        ):
            merged[-1] = msgspec.structs.replace(last, count=last.count + port.count)
        else:
            merged.append(port)
    return sorted(merged, key=lambda p: (p.protocol, p.host_port, p.host_ip))


def _clash(address: str, held: Iterable[str]) -> str:
    """Which of ``held`` (same family) has ``address``'s packets too; empty: none."""
    for other in held:
        if other == address or address in _ANY.values() or other in _ANY.values():
            return other
    return ""


def _by_port(sockets: Iterable[BoundSocket]) -> dict[tuple[str, int], list[BoundSocket]]:
    found: dict[tuple[str, int], list[BoundSocket]] = {}
    for each in sockets:
        found.setdefault((each.protocol, each.port), []).append(each)
    return found


def _version(address: str) -> int:
    return 6 if ":" in address else 4


def _order(key: str) -> tuple[Any, ...]:
    port, protocol = parse_port(key)
    return protocol, port


def _dynamic_ports() -> range:
    words = (sysctl.read("net/ipv4/ip_local_port_range") or "").split()
    if len(words) == 2 and all(word.isdecimal() for word in words):
        return range(int(words[0]), int(words[1]) + 1) or _FALLBACK
    return _FALLBACK


def _reserved_ports() -> set[int]:
    """Ports that the kernel itself must not give away (ip_local_reserved_ports)."""
    text = sysctl.read("net/ipv4/ip_local_reserved_ports") or ""
    return {port for part in text.split(",") if part for port in parse_range(part)}


def _host_has_ipv6() -> bool:
    """True if loopback has its IPv6 address."""
    try:
        with open("/proc/thread-self/net/if_inet6") as file:
            return any(line.split()[0] == "0" * 31 + "1" for line in file)
    except OSError:
        return False
