"""The network kit: a plain driver passes, drivers broken on purpose do not."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from pyengine.contracts.base import DriverContext, Probe, Reconciled
from pyengine.contracts.network import (
    BridgeInfo,
    EndpointRecord,
    Joined,
    NetworkCapability,
    NetworkDriver,
    NetworkRecord,
)
from pyengine.errors import DriverError, InvalidParameter
from pyengine.faults import failpoint
from pyengine.linux.netns import inside
from pyengine.testing.network import NetworkDriverSuite
from pyengine.testing.proof import failed_tests


class PlainBridge(NetworkDriver):
    """Bridges and veth pairs, one pyroute2 call after the other; names begin with the prefix."""

    name = "plain"

    @classmethod
    def probe(cls, context: DriverContext) -> Probe:
        return Probe(available=True)

    def capabilities(self) -> frozenset[NetworkCapability]:
        return frozenset(NetworkCapability) - {NetworkCapability.HOST_NAMESPACE}

    def bridge(self, network: NetworkRecord) -> str:
        return f"{self.context.prefix}-b{network.id[:6]}"

    def veth(self, endpoint: EndpointRecord) -> str:
        return f"{self.context.prefix}-v{endpoint.id[:6]}"

    def validate(self, network: NetworkRecord) -> None:
        for key in network.options:
            if key.startswith("com.docker."):
                raise InvalidParameter(f"unknown option {key}")

    def create_network(self, network: NetworkRecord) -> None:
        self.make(network)

    def make(self, network: NetworkRecord) -> bool:
        name = self.bridge(network)
        with IPRoute() as route:
            fresh = not route.link_lookup(ifname=name)
            if fresh:
                failpoint("plain.bridge")
                route.link("add", ifname=name, kind="bridge")
            index = route.link_lookup(ifname=name)[0]
            for subnet in network.subnets:
                length = int(subnet.subnet.partition("/")[2])
                with contextlib.suppress(NetlinkError):
                    route.addr("add", index=index, address=subnet.gateway, prefixlen=length)
            route.link("set", index=index, state="up")
        return fresh

    def delete_network(self, network: NetworkRecord) -> None:
        self.delete(self.bridge(network))

    def delete(self, name: str) -> None:
        with IPRoute() as route:
            for index in route.link_lookup(ifname=name):
                route.link("del", index=index)

    def join(self, network: NetworkRecord, endpoint: EndpointRecord, netns: int) -> Joined:
        self.delete(self.veth(endpoint))
        try:
            with IPRoute() as route:
                failpoint("plain.veth")
                peer: dict[str, Any] = {"ifname": endpoint.interface, "net_ns_fd": netns}
                if endpoint.mac:
                    peer["address"] = endpoint.mac
                route.link("add", ifname=self.veth(endpoint), kind="veth", peer=peer)
                failpoint("plain.master")
                index = route.link_lookup(ifname=self.veth(endpoint))[0]
                master = route.link_lookup(ifname=self.bridge(network))[0]
                route.link("set", index=index, master=master, state="up")
            return Joined(mac=self.dress(endpoint, netns), host_interface=self.veth(endpoint))
        except NetlinkError as error:
            self.undo(endpoint)
            raise DriverError("cannot join", str(error)) from error

    def undo(self, endpoint: EndpointRecord) -> None:
        self.delete(self.veth(endpoint))

    def dress(self, endpoint: EndpointRecord, netns: int) -> str:
        with inside(netns), IPRoute() as route:
            route.link("set", index=1, state="up")
            index = route.link_lookup(ifname=endpoint.interface)[0]
            for cidr in endpoint.addresses:
                address, _, length = cidr.partition("/")
                more = {"flags": 2} if ":" in address else {}
                route.addr("add", index=index, address=address, prefixlen=int(length), **more)
            route.link("set", index=index, state="up")
            for gateway in endpoint.gateways:
                default = "::/0" if ":" in gateway else "default"
                route.route("add", gateway=gateway, dst=default)
            return str(route.get_links(index)[0].get_attr("IFLA_ADDRESS"))

    def leave(self, network: NetworkRecord, endpoint: EndpointRecord, netns: int | None) -> None:
        self.delete(self.veth(endpoint))

    def firewall_view(self, network: NetworkRecord) -> BridgeInfo | None:
        return BridgeInfo(self.bridge(network))

    def reconcile(
        self, networks: Mapping[str, NetworkRecord], endpoints: Sequence[EndpointRecord]
    ) -> Reconciled:
        done = Reconciled()
        wanted = {self.veth(e) for e in endpoints} | {self.bridge(n) for n in networks.values()}
        with IPRoute() as route:
            for link in route.get_links():
                name = link.get_attr("IFLA_IFNAME")
                if self.ours(name) and name not in wanted:
                    route.link("del", index=link["index"])
                    done.removed.append(name)
        for network in networks.values():
            if self.make(network):
                done.restored.append(network.name)
        with IPRoute() as route:
            for endpoint in endpoints:
                master = route.link_lookup(ifname=self.bridge(networks[endpoint.network_id]))[0]
                for index in route.link_lookup(ifname=self.veth(endpoint)):
                    route.link("set", index=index, master=master)
        return done

    def ours(self, name: str) -> bool:
        return name.startswith(self.context.prefix + "-")


class ForgetsLoopback(PlainBridge):
    def dress(self, endpoint: EndpointRecord, netns: int) -> str:
        mac = super().dress(endpoint, netns)
        with inside(netns), IPRoute() as route:
            route.link("set", index=1, state="down")
        return mac


class IgnoresTheMac(PlainBridge):
    def join(self, network: NetworkRecord, endpoint: EndpointRecord, netns: int) -> Joined:
        bare = EndpointRecord(
            endpoint.id,
            endpoint.network_id,
            endpoint.sandbox_id,
            endpoint.interface,
            endpoint.addresses,
            endpoint.gateways,
        )
        return super().join(network, bare, netns)


class NeverUndoes(PlainBridge):
    def undo(self, endpoint: EndpointRecord) -> None:
        """Leaves the pair when dressing it fails."""


class NeedsTheNamespace(PlainBridge):
    """Removes the pair from the container's side only."""

    def leave(self, network: NetworkRecord, endpoint: EndpointRecord, netns: int | None) -> None:
        if netns is None:
            raise DriverError("where is it?")
        super().leave(network, endpoint, netns)


class SweepsStrangers(PlainBridge):
    def ours(self, name: str) -> bool:
        return "-" in name


class SweepsNothing(PlainBridge):
    def ours(self, name: str) -> bool:
        return False


class SweepsTheLiving(PlainBridge):
    def reconcile(
        self, networks: Mapping[str, NetworkRecord], endpoints: Sequence[EndpointRecord]
    ) -> Reconciled:
        return super().reconcile(networks, [])


class NeverRemakes(PlainBridge):
    def reconcile(
        self, networks: Mapping[str, NetworkRecord], endpoints: Sequence[EndpointRecord]
    ) -> Reconciled:
        with contextlib.suppress(IndexError):
            return super().reconcile({}, [])
        return Reconciled()


class TakesAnyOption(PlainBridge):
    def validate(self, network: NetworkRecord) -> None:
        """Whatever."""


def suite(driver: type[PlainBridge]) -> NetworkDriverSuite:
    class Suite(NetworkDriverSuite):
        def factory(self, context: DriverContext) -> NetworkDriver:
            return driver(context)

    return Suite()


def test_a_plain_driver_passes() -> None:
    assert failed_tests(suite(PlainBridge)) == []


@pytest.mark.parametrize(
    ("driver", "test"),
    [
        (ForgetsLoopback, "test_joined_interface_is_complete"),
        (IgnoresTheMac, "test_interface_name_and_mac_are_those_asked_for"),
        (NeverUndoes, "test_failed_join_leaves_nothing"),
        (NeedsTheNamespace, "test_leave_when_the_namespace_is_gone"),
        (SweepsStrangers, "test_a_link_of_somebody_else_is_respected"),
        (SweepsNothing, "test_reconcile_by_a_second_instance_sweeps_what_nobody_owns"),
        (SweepsNothing, "test_killed_at_any_step_reconcile_leaves_nothing"),
        (SweepsTheLiving, "test_reconcile_keeps_what_is_owned"),
        (NeverRemakes, "test_reconcile_makes_a_missing_network_again"),
        (TakesAnyOption, "test_unknown_docker_option_is_refused"),
    ],
)
def test_broken_drivers_are_found(driver: type[PlainBridge], test: str) -> None:
    with pytest.raises((Exception, pytest.fail.Exception)):
        getattr(suite(driver), test)()
