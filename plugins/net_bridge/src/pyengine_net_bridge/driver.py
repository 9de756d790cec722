"""Bridge networks: a Linux bridge per network, a veth pair per endpoint.

Names on the host: the bridge as its options say, the pair's host side ``veth`` and seven digits of
the endpoint's id. Both carry the engine and their owner in their alias, which is set in the same
system call that creates them, so a sweep finds every one of them.
"""

from __future__ import annotations

import errno
import hashlib
import logging
from collections.abc import Mapping, Sequence
from ipaddress import ip_interface, ip_network

from pyengine.contracts.base import DriverContext, Probe, Reconciled, reject_unknown_options
from pyengine.contracts.network import (
    BridgeInfo,
    EndpointRecord,
    Joined,
    NetworkCapability,
    NetworkDriver,
    NetworkRecord,
)
from pyengine.errors import Conflict, DriverError, EngineError, InvalidParameter
from pyengine.linux import sysctl
from pyengine.linux.interfaces import dress, mac_for, owner_tag, tagged_owner
from pyengine.linux.netlink import (
    Link,
    Netlink,
    Request,
    add_address,
    add_link,
    add_veth,
    bridge_port,
    change_link,
    delete_address,
    delete_link,
    no_link_local,
)
from pyengine_net_bridge.options import BridgeOptions, read_options

log = logging.getLogger(__name__)

_BRIDGE_FILTER = "net/bridge/bridge-nf-call-iptables"


class BridgeDriver(NetworkDriver):
    """Option ``ip-forward`` (``true``): whether forwarding may be switched on in this host."""

    name = "bridge"
    priority = 100
    keys = {"ip-forward": "ip-forward"}

    def __init__(self, context: DriverContext) -> None:
        super().__init__(context)
        reject_unknown_options(self.kind, self.name, context.options, frozenset({"ip-forward"}))
        forward = context.options.get("ip-forward", "true")
        if forward not in ("true", "false"):
            raise InvalidParameter(
                f"invalid value {forward!r} for option ip-forward of network driver 'bridge'",
                help="true or false",
            )
        self._forward = forward == "true"

    @classmethod
    def probe(cls, context: DriverContext) -> Probe:
        name = f"{context.prefix}probe"[:15]
        try:
            with Netlink() as host:
                host.run([add_link(name, "bridge"), delete_link(name)])
        except OSError as error:
            return Probe(
                available=False,
                reason=f"a bridge cannot be made here: {error.strerror}",
                help="needs CAP_NET_ADMIN and the kernel modules bridge and veth",
            )
        return Probe(available=True)

    def capabilities(self) -> frozenset[NetworkCapability]:
        return frozenset(NetworkCapability) - {NetworkCapability.HOST_NAMESPACE}

    def validate(self, network: NetworkRecord) -> None:
        options = read_options(network, self.context.prefix)
        with Netlink() as host:
            self._own_bridge(host, network, options)

    def create_network(self, network: NetworkRecord) -> None:
        self._ensure(network)

    def delete_network(self, network: NetworkRecord) -> None:
        options = read_options(network, self.context.prefix)
        with Netlink() as host:
            link = host.link(options.bridge)
            if link and self._owner(link) == network.id and not options.given:
                host.run([delete_link(link.name)])

    def join(self, network: NetworkRecord, endpoint: EndpointRecord, netns: int) -> Joined:
        options = read_options(network, self.context.prefix)
        name = _veth(endpoint)
        with Netlink() as host:
            bridge = host.link(options.bridge)
            if bridge is None or not (options.given or self._owner(bridge) == network.id):
                self._ensure(network)
                bridge = host.link(options.bridge)
                assert bridge is not None
            old = host.link(name)
            if old is not None:
                self._refuse_foreign(old, endpoint.id)
                host.run([delete_link(name)])
            requests = [
                add_veth(
                    name,
                    endpoint.interface,
                    peer_netns=netns,
                    master=bridge.index,
                    mtu=options.mtu,
                    peer_mac=endpoint.mac or mac_for(endpoint.addresses),
                ),
                change_link(name, alias=owner_tag(self.context.engine_id, endpoint.id)),
                no_link_local(name),
                change_link(name, up=True),
            ]
            # With br_netfilter what the firewall translated does not leave the bridge, so a
            # container that calls its own published port is answered through the port it came by.
            hairpin = sysctl.read(_BRIDGE_FILTER) == "1"
            if hairpin or not options.icc:
                requests.insert(-1, bridge_port(name, hairpin=hairpin, isolated=not options.icc))
            try:
                host.run(requests)
                mac = dress(netns, endpoint.interface, endpoint.addresses, endpoint.gateways)
            except BaseException as error:
                host.run([delete_link(name)])
                if isinstance(error, OSError):
                    raise _failed(network, endpoint, error) from error
                raise
        return Joined(mac=mac, host_interface=name)

    def leave(self, network: NetworkRecord, endpoint: EndpointRecord, netns: int | None) -> None:
        # Removing one end removes the other, wherever it is.
        with Netlink() as host:
            link = host.link(_veth(endpoint))
            if link and self._owner(link) == endpoint.id:
                host.run([delete_link(link.name)])

    def firewall_view(self, network: NetworkRecord) -> BridgeInfo | None:
        options = read_options(network, self.context.prefix)
        return BridgeInfo(options.bridge, options.masquerade, options.icc, options.host_binding)

    def reconcile(
        self, networks: Mapping[str, NetworkRecord], endpoints: Sequence[EndpointRecord]
    ) -> Reconciled:
        done = Reconciled()
        wanted = {endpoint.id for endpoint in endpoints}
        with Netlink() as host:
            for link in host.links():
                owner = self._owner(link)
                if owner is None or link.kind not in ("bridge", "veth"):
                    continue
                if owner in (networks if link.kind == "bridge" else wanted):
                    continue
                try:
                    host.run([delete_link(link.name)])
                    done.removed.append(f"{link.kind} {link.name} of {owner[:12]}")
                except OSError as error:
                    done.failed.append(f"{link.kind} {link.name}: {error}")
        for network in networks.values():
            try:
                if self._ensure(network):
                    done.restored.append(f"bridge of network {network.name}")
            except EngineError as error:
                done.failed.append(f"bridge of network {network.name}: {error}")
        with Netlink() as host:
            links = {link.name: link for link in host.links()}
            for endpoint in endpoints:
                self._reattach(host, links, networks, endpoint, done)
        return done

    def _reattach(
        self,
        host: Netlink,
        links: dict[str, Link],
        networks: Mapping[str, NetworkRecord],
        endpoint: EndpointRecord,
        done: Reconciled,
    ) -> None:
        """A bridge that was deleted lets go of its ports; those of living containers come back."""
        network = networks.get(endpoint.network_id)
        if network is None:
            return
        bridge = links.get(read_options(network, self.context.prefix).bridge)
        link = links.get(_veth(endpoint))
        if link is None or self._owner(link) != endpoint.id:
            done.failed.append(f"endpoint {endpoint.id[:12]}: its link {_veth(endpoint)} is gone")
        elif bridge is not None and link.master != bridge.index:
            host.run([change_link(link.name, master=bridge.index, up=True)])
            done.restored.append(f"veth {link.name} on bridge {bridge.name}")

    def _ensure(self, network: NetworkRecord) -> bool:
        """Make the bridge as its record says; True if anything had to be done."""
        options = read_options(network, self.context.prefix)
        try:
            with Netlink() as host:
                link = self._own_bridge(host, network, options)
                created = link is None
                if link is None:
                    link = self._make_bridge(host, network, options)
                requests = _address_changes(network, options, host.addresses(link.index), link)
                if not link.up:
                    requests.append(change_link(link.index, up=True))
                if requests:
                    host.run(requests)
            return self._set_parameters(network, options) or bool(requests) or created
        except OSError as error:
            raise DriverError(
                f"cannot set up bridge {options.bridge} of network {network.name}", str(error)
            ) from error

    def _make_bridge(self, host: Netlink, network: NetworkRecord, options: BridgeOptions) -> Link:
        # Without an address of its own a bridge takes its lowest port's, which changes as
        # containers come and go, and neighbours would have to learn it anew each time.
        mac = "02:42:" + hashlib.sha256(network.id.encode()).digest()[:4].hex(":")
        requests = [
            add_link(options.bridge, "bridge", mac=mac, mtu=options.mtu),
            change_link(options.bridge, alias=owner_tag(self.context.engine_id, network.id)),
        ]
        if not network.ipv6:
            requests.append(no_link_local(options.bridge))
        host.run(requests)
        link = host.link(options.bridge)
        assert link is not None
        return link

    def _set_parameters(self, network: NetworkRecord, options: BridgeOptions) -> bool:
        changed = False
        # Lets replies to what was sent from 127.0.0.1 to a published port come back in; the
        # firewall keeps anything else for 127.0.0.0/8 from entering by this bridge.
        changed |= sysctl.ensure(f"net/ipv4/conf/{options.bridge}/route_localnet", "1")
        if network.ipv6:
            changed |= sysctl.ensure(f"net/ipv6/conf/{options.bridge}/disable_ipv6", "0")
            changed |= sysctl.ensure(f"net/ipv6/conf/{options.bridge}/accept_ra", "0")
        if self._forward and not network.internal:
            names = ["net/ipv4/ip_forward"]
            if network.ipv6:
                names += ["net/ipv6/conf/default/forwarding", "net/ipv6/conf/all/forwarding"]
            for name in names:
                if sysctl.ensure(name, "1"):
                    log.info("switched on %s for network %s", name.replace("/", "."), network.name)
                    changed = True
        return changed

    def _own_bridge(
        self, host: Netlink, network: NetworkRecord, options: BridgeOptions
    ) -> Link | None:
        link = host.link(options.bridge)
        if options.given:
            if link is None or link.kind != "bridge":
                raise DriverError(
                    f"there is no bridge {options.bridge} for network {network.name}",
                    help=f"ip link add {options.bridge} type bridge",
                )
        elif link is not None:
            self._refuse_foreign(link, network.id)
        return link

    def _refuse_foreign(self, link: Link, owner: str) -> None:
        if self._owner(link) != owner:
            raise Conflict(
                f"interface {link.name} exists and belongs to somebody else",
                f"kind {link.kind or 'unknown'}, alias {link.alias!r}",
                "remove it or choose another name (com.docker.network.bridge.name)",
            )

    def _owner(self, link: Link) -> str | None:
        return tagged_owner(self.context.engine_id, link.alias)


def _veth(endpoint: EndpointRecord) -> str:
    return "veth" + endpoint.id[:7]


def _address_changes(
    network: NetworkRecord, options: BridgeOptions, present: Sequence[str], link: Link
) -> list[Request]:
    wanted = set()
    for subnet in network.subnets:
        parsed = ip_network(subnet.subnet, strict=False)
        if subnet.gateway and not (parsed.version == 4 and options.inhibit_ipv4):
            wanted.add(str(ip_interface(f"{subnet.gateway}/{parsed.prefixlen}")))
    stale = {cidr for cidr in present if not ip_interface(cidr).is_link_local} - wanted
    if options.given:
        stale = set()
    return [delete_address(link.index, cidr) for cidr in sorted(stale)] + [
        add_address(link.index, cidr) for cidr in sorted(wanted - set(present))
    ]


def _failed(network: NetworkRecord, endpoint: EndpointRecord, error: OSError) -> EngineError:
    brief = f"cannot connect endpoint {endpoint.id[:12]} to network {network.name}"
    if error.errno == errno.EEXIST:
        return Conflict(brief, f"{endpoint.interface} exists in the container already")
    return DriverError(brief, str(error))
