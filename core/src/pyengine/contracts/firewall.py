"""Firewall drivers: address translation, published ports, isolation of bridges.

Desired state in, rules out. Core tells what changed; the driver makes the kernel agree in one
transaction. All rules are in tables or chains that are recognisably this engine's.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import msgspec

from pyengine.contracts.base import Driver, Kind, Reconciled
from pyengine.errors import Unsupported


class FirewallNetwork(msgspec.Struct, frozen=True):
    """A bridge network. ``subnets`` in CIDR form, both families.

    ``masquerade``: outgoing traffic to elsewhere takes the host's address. ``icc`` False: no
    traffic between containers of the bridge but through published ports; what stays within the
    bridge passes a firewall only with br_netfilter, so the network driver isolates the ports too.
    ``internal``: no traffic to or from elsewhere at all.
    """

    id: str
    bridge: str
    subnets: list[str]
    masquerade: bool = True
    icc: bool = True
    internal: bool = False


class PublishedPort(msgspec.Struct, frozen=True):
    """``count`` consecutive ports from ``host_port`` go to as many from ``container_port``.

    ``host_ip``: empty or 0.0.0.0: every IPv4 address of the host; ``::``: every IPv6 address.
    ``protocol``: tcp, udp or sctp.
    """

    protocol: str
    host_port: int
    container_port: int
    host_ip: str = ""
    count: int = 1


class FirewallEndpoint(msgspec.Struct, frozen=True):
    """A container on a bridge: its addresses (no prefix length) and what is published to it."""

    id: str
    network_id: str
    bridge: str
    addresses: list[str]
    ports: list[PublishedPort] = []


class Change(msgspec.Struct, frozen=True):
    """What to add (or replace, by id) and what to remove (by id), all in one transaction."""

    networks: list[FirewallNetwork] = []
    endpoints: list[FirewallEndpoint] = []
    remove_networks: list[str] = []
    remove_endpoints: list[str] = []


class FirewallDriver(Driver):
    """Never flushes or edits what is not this engine's, but for one case: where a foreign chain
    drops forwarded traffic, a rule tagged with the engine id may be added to the chain that is
    meant for such rules (``DOCKER-USER``, or ``FORWARD`` of iptables' filter table)."""

    kind: ClassVar[Kind] = Kind.FIREWALL

    @abstractmethod
    def apply(self, change: Change) -> None:
        """Make the kernel agree; all or nothing. Cost does not grow with what is there already.

        The driver remembers what it has been told since ``reconcile``. Fast: on the hot path.
        Published ports answer on every host address they are bound to, on 127.0.0.1, from other
        network namespaces and from the container itself (hairpin).
        """

    @abstractmethod
    def reconcile(
        self, networks: Sequence[FirewallNetwork], endpoints: Sequence[FirewallEndpoint]
    ) -> Reconciled:
        """Build everything again from these; nothing else of this engine is left. Also called
        when somebody flushed our rules. Existing connections survive."""

    @abstractmethod
    def intact(self) -> bool:
        """False if somebody removed our rules since the last change. Cheap: one kernel call."""

    @abstractmethod
    def warnings(self) -> list[str]:
        """What on this host blocks published ports in spite of us: a sentence each, naming table,
        chain and policy, and what would help."""

    def redirect(self, netns: int, address: str, port: int, to: int) -> None:
        """In the network namespace behind descriptor ``netns``, a container's: what is sent there
        to ``address`` and ``port`` (TCP and UDP) arrives at ``to`` of the same address, and the
        answers come from ``port``. Takes the place of an earlier redirection, also for a client
        that goes on sending from the same port; ends with the namespace, and is no part of what
        ``reconcile`` and ``intact`` are about. On the hot path.

        Since contract 1.1. Raises ``Unsupported``, and so does a driver that does not override it.
        """
        raise Unsupported(f"firewall driver {self.name!r} redirects nothing inside containers")

    @abstractmethod
    def remove_all(self) -> None:
        """Leave no rule, chain or table of this engine behind (shutdown, switching drivers)."""
