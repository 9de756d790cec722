"""Network drivers whose links stand on a link of the host's: macvlan, ipvlan and their like.

Nothing is shared on the host but the parent, which is the user's: the link is created straight in
the container's namespace and dies with it, so there is nothing to sweep.
"""

from __future__ import annotations

import errno
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from pyengine.contracts.base import DriverContext, Probe, Reconciled, reject_unknown_options
from pyengine.contracts.network import (
    EndpointRecord,
    Joined,
    NetworkCapability,
    NetworkDriver,
    NetworkRecord,
)
from pyengine.errors import Conflict, DriverError, InvalidParameter, NotFound, Unsupported
from pyengine.linux.interfaces import (
    add_stacked,
    kind_missing,
    owner_tag,
    remove_stacked,
    valid_name,
)
from pyengine.linux.netlink import Link, Netlink

_PARENT, _MTU = "parent", "com.docker.network.driver.mtu"


class StackedLinks(NetworkDriver):
    """Base of such a driver. Network options: ``parent`` (a link of the host, required), the mode
    under the driver's own name, and ``com.docker.network.driver.mtu``.

    A driver sets ``name``, which is also the kind of link that the kernel knows, ``mode_option``
    and ``default_mode``, and says with :meth:`link_data` what a mode is to the kernel.
    """

    mode_option: ClassVar[str]
    default_mode: ClassVar[str]

    def __init__(self, context: DriverContext) -> None:
        super().__init__(context)
        reject_unknown_options(self.kind, self.name, context.options, frozenset())

    @abstractmethod
    def link_data(self, mode: str) -> bytes:
        """The IFLA_INFO_DATA attributes for ``mode``. ``InvalidParameter`` or ``Unsupported``
        for a mode that there is not."""

    def mac(self, endpoint: EndpointRecord) -> str:
        """The MAC address that the link shall have; empty: the kernel's choice."""
        return endpoint.mac

    @classmethod
    def probe(cls, context: DriverContext) -> Probe:
        reason = kind_missing(cls.name)
        if not reason:
            return Probe(available=True)
        return Probe(
            available=False,
            reason=f"a link of kind {cls.name} cannot be made here: {reason}",
            help=f"needs CAP_NET_ADMIN and the kernel module {cls.name} "
            f"(CONFIG_{cls.name.upper()})",
        )

    def capabilities(self) -> frozenset[NetworkCapability]:
        return frozenset(
            {
                NetworkCapability.ADDRESSES,
                NetworkCapability.HOTPLUG,
                NetworkCapability.MULTIPLE,
                NetworkCapability.IPV6,
            }
        )

    def validate(self, network: NetworkRecord) -> None:
        options = network.options
        known = frozenset({_PARENT, self.mode_option, _MTU})
        reject_unknown_options(self.kind, self.name, options, known)
        self.link_data(options.get(self.mode_option, self.default_mode))
        mtu = options.get(_MTU, "0")
        if not mtu.isdecimal() or not (int(mtu) == 0 or 68 <= int(mtu) <= 65535):
            raise InvalidParameter(f"invalid value {mtu!r} for {_MTU}", help="68 to 65535 bytes")
        if network.internal:
            raise Unsupported(
                f"network driver {self.name!r} cannot keep a network internal on its parent's wire",
                help="use the bridge driver",
            )
        with Netlink() as host:
            self._parent(host, network)

    def create_network(self, network: NetworkRecord) -> None:
        """The parent is there, or ``join`` says that it is not."""

    def delete_network(self, network: NetworkRecord) -> None:
        """The parent is the user's."""

    def join(self, network: NetworkRecord, endpoint: EndpointRecord, netns: int) -> Joined:
        with Netlink() as host:
            parent = self._parent(host, network)
        brief = f"cannot connect endpoint {endpoint.id[:12]} to network {network.name}"
        try:
            mac = add_stacked(
                netns,
                endpoint.interface,
                self.name,
                self.link_data(network.options.get(self.mode_option, self.default_mode)),
                parent=parent.index,
                tag=owner_tag(self.context.engine_id, endpoint.id),
                mtu=int(network.options.get(_MTU, "0")),
                mac=self.mac(endpoint),
                addresses=endpoint.addresses,
                gateways=endpoint.gateways,
            )
        except OSError as error:
            if error.errno == errno.EEXIST:
                raise Conflict(
                    brief, f"{endpoint.interface} exists in the container already"
                ) from error
            raise DriverError(brief, str(error)) from error
        return Joined(mac=mac)

    def leave(self, network: NetworkRecord, endpoint: EndpointRecord, netns: int | None) -> None:
        if netns is not None:
            remove_stacked(netns, owner_tag(self.context.engine_id, endpoint.id))

    def reconcile(
        self, networks: Mapping[str, NetworkRecord], endpoints: Sequence[EndpointRecord]
    ) -> Reconciled:
        done = Reconciled()
        with Netlink() as host:
            for network in networks.values():
                try:
                    self._parent(host, network)
                except NotFound as error:
                    done.failed.append(f"network {network.name}: {error.brief}")
        return done

    def _parent(self, host: Netlink, network: NetworkRecord) -> Link:
        name = network.options.get(_PARENT, "")
        if not name:
            raise InvalidParameter(
                f"network {network.name} of driver {self.name!r} needs a parent link",
                help="add -o parent=eth0",
            )
        if not valid_name(name):
            raise InvalidParameter(f"invalid value {name!r} for {_PARENT}")
        link = host.link(name)
        if link is None and "." in name:
            raise Unsupported(
                f"parent {name} does not exist, and driver {self.name!r} makes no VLAN links",
                help="make it first: ip link add link PARENT name PARENT.ID type vlan id ID",
            )
        if link is None:
            raise NotFound(f"parent link {name} of network {network.name} does not exist")
        return link
