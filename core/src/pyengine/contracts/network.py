"""Network drivers: the links between a container's network namespace and the rest.

Core keeps networks and endpoints in the database, asks an ipam driver for addresses, tells the
firewall driver about masquerade, isolation and published ports, and writes hosts and resolv.conf.
A network driver makes links, addresses and routes and nothing else::

    create_network(network)                      kernel objects all endpoints share (a bridge)
      join(endpoint, netns) -> Joined            links, addresses, routes inside the namespace
      leave(endpoint, netns)
    delete_network(network)
"""

from __future__ import annotations

import enum
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import msgspec

from pyengine.contracts.base import Driver, Kind, Reconciled


class NetworkCapability(enum.StrEnum):
    """What a driver's networks can; the members say what core does with it."""

    #: Endpoints have addresses that core must lease.
    ADDRESSES = "addresses"
    #: Ports can be published (the firewall driver is told about endpoints).
    PORTS = "ports"
    #: Containers stay in the host's namespace: there is no sandbox (host).
    HOST_NAMESPACE = "host-namespace"
    #: Containers can join and leave while running.
    HOTPLUG = "hotplug"
    #: More than one network of this driver may exist.
    MULTIPLE = "multiple"
    IPV6 = "ipv6"
    INTERNAL = "internal"


class Subnet(msgspec.Struct, frozen=True):
    """``subnet`` in CIDR form; ``gateway`` without prefix length, or empty."""

    subnet: str
    gateway: str = ""


class NetworkRecord(msgspec.Struct, frozen=True):
    """A network as core knows it. ``options`` are Docker's (``com.docker.network.bridge.name``).

    ``predefined``: the network that core made itself (``bridge``, ``host``, ``none``).
    """

    id: str
    name: str
    driver: str
    subnets: list[Subnet] = []
    internal: bool = False
    ipv6: bool = False
    predefined: bool = False
    options: dict[str, str] = {}


class EndpointRecord(msgspec.Struct, frozen=True):
    """One container's (sandbox's) attachment to one network.

    ``addresses``: with prefix length, at most one per family. ``gateways``: the default gateways
    this endpoint provides, empty unless it was chosen to (one endpoint of a container is).
    ``interface``: the wanted name inside (``eth0``). ``mac``: empty: the driver derives one.
    """

    id: str
    network_id: str
    sandbox_id: str
    interface: str
    addresses: list[str] = []
    gateways: list[str] = []
    mac: str = ""
    options: dict[str, str] = {}


class Joined(msgspec.Struct, frozen=True):
    """What ``join`` made: the MAC in force and the host side's link name (empty if none)."""

    mac: str = ""
    host_interface: str = ""


class BridgeInfo(msgspec.Struct, frozen=True):
    """What the firewall needs to know of a network; see ``NetworkDriver.firewall_view``."""

    bridge: str
    masquerade: bool = True
    icc: bool = True
    host_binding: str = ""


class NetworkDriver(Driver):
    """Makes links. Every link carries the engine: its name begins with a prefix derived from
    ``context.prefix`` or its alias (IFLA_IFALIAS) is ``pyengine:<engine id>:<owner id>``."""

    kind: ClassVar[Kind] = Kind.NETWORK

    @abstractmethod
    def capabilities(self) -> frozenset[NetworkCapability]:
        """What networks of this driver can; core refuses what is not among it. Constant."""

    @abstractmethod
    def validate(self, network: NetworkRecord) -> None:
        """Refuse what this driver cannot do, before anything is made or stored.

        ``InvalidParameter`` for unknown or bad options, ``Unsupported`` for features, ``Conflict``
        for a link name that exists and is not ours.
        """

    @abstractmethod
    def create_network(self, network: NetworkRecord) -> None:
        """Make what all endpoints share. Idempotent; mends what is half made or changed."""

    @abstractmethod
    def delete_network(self, network: NetworkRecord) -> None:
        """Remove it. Core has seen to it that no endpoint is left."""

    @abstractmethod
    def join(self, network: NetworkRecord, endpoint: EndpointRecord, netns: int) -> Joined:
        """Connect the namespace behind descriptor ``netns`` (not kept after return).

        On return the interface inside is named, addressed, up, and routes are set; ``lo`` is up.
        After an exception nothing is left. Fast: on the hot path; a few milliseconds.
        """

    @abstractmethod
    def leave(self, network: NetworkRecord, endpoint: EndpointRecord, netns: int | None) -> None:
        """Undo ``join``. ``netns`` is None when the namespace is gone already."""

    def firewall_view(self, network: NetworkRecord) -> BridgeInfo | None:
        """What the firewall has to do for this network; None: nothing (no bridge of ours).

        Published ports answer on 127.0.0.1 and to the container itself only if the bridge has
        ``route_localnet`` and, where br_netfilter is on, its ports are in hairpin mode: both are
        this driver's to set.
        """
        return None

    @abstractmethod
    def reconcile(
        self, networks: Mapping[str, NetworkRecord], endpoints: Sequence[EndpointRecord]
    ) -> Reconciled:
        """Remove links of this engine and driver that no record owns; make missing networks again.

        ``endpoints`` are those whose containers run; their links inside cannot be made again here.
        """
