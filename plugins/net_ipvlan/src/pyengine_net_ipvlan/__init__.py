"""Ipvlan networks in L2 mode: containers share the parent link's MAC address.

Nothing is shared on the host but the parent, which is the user's: the link is created straight in
the container's namespace and dies with it, so there is nothing to sweep.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping, Sequence

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
from pyengine.linux.netlink import Link, Netlink, attribute

__all__ = ["IpvlanDriver"]

_PARENT, _MODE, _MTU = "parent", "ipvlan_mode", "com.docker.network.driver.mtu"
# Linux: linux/if_link.h, enum ipvlan_mode.
_IFLA_IPVLAN_MODE = 1
_IPVLAN_MODE_L2 = 0


class IpvlanDriver(NetworkDriver):
    """Network options: ``parent`` (a link of the host, required), ``ipvlan_mode`` (``l2``) and
    ``com.docker.network.driver.mtu``."""

    name = "ipvlan"
    priority = 60

    def __init__(self, context: DriverContext) -> None:
        super().__init__(context)
        reject_unknown_options(self.kind, self.name, context.options, frozenset())

    @classmethod
    def probe(cls, context: DriverContext) -> Probe:
        reason = kind_missing("ipvlan")
        return Probe(
            available=not reason,
            reason=f"a link of kind ipvlan cannot be made here: {reason}" if reason else "",
            help="needs CAP_NET_ADMIN and the kernel module ipvlan (CONFIG_IPVLAN)"
            if reason
            else "",
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
        reject_unknown_options(self.kind, self.name, options, frozenset({_PARENT, _MODE, _MTU}))
        mode = options.get(_MODE, "l2")
        if mode in ("l3", "l3s"):
            raise Unsupported(f"network driver 'ipvlan' has no mode {mode} yet", help="use l2")
        if mode != "l2":
            raise InvalidParameter(f"invalid value {mode!r} for {_MODE}", help="l2")
        mtu = options.get(_MTU, "0")
        if not mtu.isdecimal() or not (int(mtu) == 0 or 68 <= int(mtu) <= 65535):
            raise InvalidParameter(f"invalid value {mtu!r} for {_MTU}", help="68 to 65535 bytes")
        if network.internal:
            raise Unsupported(
                "network driver 'ipvlan' cannot keep a network internal on its parent's wire",
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
                "ipvlan",
                attribute(_IFLA_IPVLAN_MODE, struct.pack("=H", _IPVLAN_MODE_L2)),
                parent=parent.index,
                tag=owner_tag(self.context.engine_id, endpoint.id),
                mtu=int(network.options.get(_MTU, "0")),
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
            tag = owner_tag(self.context.engine_id, endpoint.id)
            remove_stacked(netns, endpoint.interface, tag)

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
                f"network {network.name} of driver 'ipvlan' needs a parent link",
                help="add -o parent=eth0",
            )
        if not valid_name(name):
            raise InvalidParameter(f"invalid value {name!r} for {_PARENT}")
        link = host.link(name)
        if link is None and "." in name:
            raise Unsupported(
                f"parent {name} does not exist, and network driver 'ipvlan' makes no VLAN links",
                help="make it first: ip link add link PARENT name PARENT.ID type vlan id ID",
            )
        if link is None:
            raise NotFound(f"parent link {name} of network {network.name} does not exist")
        return link
