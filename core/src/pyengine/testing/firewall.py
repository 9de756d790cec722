"""The conformance kit of firewall drivers.

In the test suite of a driver::

    class TestMyDriver(FirewallDriverSuite):
        def factory(self, context):
            return MyDriver(context)

Every test has a small world of its own, all of it network namespaces, and real connections::

    outside (192.0.2.2) --- host (192.0.2.1, 2001:db8::1) --- front0 10.88.0.0/24  web .2, peer .3
                                                          `-- back0  10.89.0.0/24  other .2

Needs root; iptables for the tests with a foreign drop policy.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pyengine.contracts.base import DriverContext
from pyengine.contracts.firewall import (
    Change,
    FirewallDriver,
    FirewallEndpoint,
    FirewallNetwork,
    PublishedPort,
)
from pyengine.errors import EngineError
from pyengine.linux import sysctl
from pyengine.testing import netlab
from pyengine.testing.netlab import SILENCE, Station, bridge, cable, stations

T = TypeVar("T")

HOST, OUTSIDE = "192.0.2.1", "192.0.2.2"
HOST6, OUTSIDE6 = "2001:db8::1", "2001:db8::2"
WEB, PEER, OTHER = "10.88.0.2", "10.88.0.3", "10.89.0.2"
WEB6 = "fd88::2"
FRONT = FirewallNetwork("a" * 64, "front0", ["10.88.0.0/24", "fd88::/64"])
BACK = FirewallNetwork("b" * 64, "back0", ["10.89.0.0/24"])
#: Where servers listen inside containers and outside.
SERVICE = 80


def published(*ports: PublishedPort, owner: str = "w" * 64) -> FirewallEndpoint:
    """The container ``web`` with these ports."""
    return FirewallEndpoint(owner, FRONT.id, FRONT.bridge, [WEB, WEB6], list(ports))


TCP = PublishedPort("tcp", 8080, SERVICE)
UDP = PublishedPort("udp", 8080, SERVICE)
TCP6 = PublishedPort("tcp", 8080, SERVICE, "::")


class FirewallDriverSuite:
    """Subclass it and define :meth:`factory`."""

    def factory(self, context: DriverContext) -> FirewallDriver:
        """A new instance; called several times per test."""
        raise NotImplementedError

    @contextlib.contextmanager
    def world(self, *before: str) -> Iterator[World]:
        """The world with nothing known to the driver, after commands run on its host."""
        with stations("host", "outside", "web", "peer", "other") as made:
            yield World(self, made, before)

    def test_probe_leaves_nothing(self) -> None:
        with self.world() as world:
            before = world.rules()
            assert world.do(type(world.driver).probe, world.context()).available
            assert world.rules() == before

    def test_published_port_answers_from_everywhere(self) -> None:
        with self.world() as world:
            world.set_up(published(TCP, UDP))
            world.assert_published()

    def test_published_port_answers_without_bridge_filter(self) -> None:
        """As on a host whose bridges do not call iptables (no br_netfilter)."""
        with self.world() as world:
            for name in ("iptables", "ip6tables"):
                world.host.sysctl(f"net/bridge/bridge-nf-call-{name}", "0")
            world.set_up(published(TCP, UDP))
            world.assert_published()

    def test_published_port_answers_over_ipv6(self) -> None:
        with self.world() as world:
            world.set_up(published(TCP6))
            assert world.outside.hears(HOST6, 8080) == "web"
            assert world.host.hears(HOST6, 8080) == "web"
            assert world.outside.deaf(HOST, 8080), "only [::] was published"

    def test_one_address_of_the_host_is_not_the_others(self) -> None:
        with self.world() as world:
            ports = [
                PublishedPort("tcp", 8081, SERVICE, "127.0.0.1"),
                PublishedPort("tcp", 8082, SERVICE, HOST),
            ]
            world.set_up(published(*ports))
            assert world.host.hears("127.0.0.1", 8081) == "web"
            assert world.host.deaf(HOST, 8081)
            assert world.outside.deaf(HOST, 8081)
            assert world.outside.hears(HOST, 8082) == "web"
            assert world.host.deaf("127.0.0.1", 8082)

    def test_loopback_is_not_reached_from_outside(self) -> None:
        """Neither a port on 127.0.0.1 nor a service of the host there, by packets with that
        destination, from the wire or from a container."""
        with self.world() as world:
            world.set_up(published(PublishedPort("tcp", 8081, SERVICE, "127.0.0.1"), TCP))
            world.host.serve(9999, address="127.0.0.1")
            for station, gateway in ((world.outside, HOST), (world.web, "10.88.0.1")):
                station.sysctl("net/ipv4/conf/all/route_localnet", "1")
                world.reroute_loopback(station, gateway)
                assert station.deaf("127.0.0.1", 8081)
                assert station.deaf("127.0.0.1", 8080)
                assert station.deaf("127.0.0.1", 9999)

    def test_range(self) -> None:
        with self.world() as world:
            ports = [
                PublishedPort("tcp", 8000, 8000, count=11),
                PublishedPort("tcp", 9000, 8000, count=11),
            ]
            world.set_up(published(*ports))
            world.web.serve(8000)
            world.web.serve(8010)
            for port in (8000, 8010, 9000, 9010):
                assert world.outside.hears(HOST, port) == "web"
            assert world.outside.deaf(HOST, 9011)

    def test_unpublished_is_not_reached_from_outside(self) -> None:
        """Not even by who routes straight to the container."""
        with self.world() as world:
            world.set_up(published(TCP))
            assert world.outside.deaf(WEB, SERVICE)
            assert world.outside.deaf(HOST, SERVICE)
            assert world.host.hears(WEB, SERVICE) == "web", "the host itself may"

    def test_neighbours_talk_and_bridges_do_not(self) -> None:
        with self.world() as world:
            world.set_up(published(TCP))
            assert world.peer.ask(WEB, SERVICE) == ("web", PEER)
            assert world.other.deaf(WEB, SERVICE)
            assert world.web.deaf(OTHER, SERVICE)

    def test_without_icc_only_published_ports(self) -> None:
        with self.world() as world:
            world.set_up(published(TCP), front=_with(FRONT, icc=False))
            world.isolate_where_bridges_are_not_filtered()
            assert world.peer.deaf(WEB, SERVICE)
            assert world.peer.hears("10.88.0.1", 8080) == "web"
            assert world.outside.hears(HOST, 8080) == "web"
            assert world.web.hears(OUTSIDE, SERVICE) == "outside"

    def test_internal_knows_no_elsewhere(self) -> None:
        with self.world() as world:
            world.set_up(published(TCP), front=_with(FRONT, internal=True))
            assert world.peer.hears(WEB, SERVICE) == "web"
            assert world.web.deaf(OUTSIDE, SERVICE)
            assert world.outside.deaf(HOST, 8080)
            assert world.web.deaf(OTHER, SERVICE)

    def test_masquerade_and_its_absence(self) -> None:
        with self.world() as world:
            world.set_up()
            assert world.web.ask(OUTSIDE, SERVICE) == ("outside", HOST)
            world.do(world.driver.apply, Change(networks=[_with(FRONT, masquerade=False)]))
            assert world.web.ask(OUTSIDE, SERVICE) == ("outside", WEB)

    def test_source_address_is_kept_for_outside_callers(self) -> None:
        with self.world() as world:
            world.set_up(published(TCP))
            assert world.outside.ask(HOST, 8080) == ("web", OUTSIDE)

    def test_replaced_and_removed_endpoint(self) -> None:
        with self.world() as world:
            world.set_up(published(TCP))
            moved = PublishedPort("tcp", 8090, SERVICE)
            for _ in range(2):
                world.do(world.driver.apply, Change(endpoints=[published(moved)]))
            assert world.outside.hears(HOST, 8090) == "web"
            assert world.outside.deaf(HOST, 8080)
            for _ in range(2):
                world.do(world.driver.apply, Change(remove_endpoints=["w" * 64]))
            assert world.outside.deaf(HOST, 8090)
            assert world.do(world.driver.intact)

    def test_change_is_all_or_nothing(self) -> None:
        """Two containers cannot have one port; a change that says so changes nothing."""
        with self.world() as world:
            world.set_up(published(TCP))
            rival = FirewallEndpoint("r" * 64, FRONT.id, FRONT.bridge, [PEER], [TCP])
            innocent = PublishedPort("tcp", 8099, SERVICE)
            first = FirewallEndpoint("i" * 64, FRONT.id, FRONT.bridge, [PEER], [innocent])
            with pytest.raises(EngineError):
                world.do(world.driver.apply, Change(endpoints=[first, rival]))
            assert world.outside.hears(HOST, 8080) == "web"
            assert world.outside.deaf(HOST, 8099)
            assert world.do(world.driver.intact)

    def test_removed_network_is_forgotten(self) -> None:
        with self.world() as world:
            world.set_up(published(TCP))
            gone = Change(remove_endpoints=["w" * 64], remove_networks=[FRONT.id])
            for _ in range(2):
                world.do(world.driver.apply, gone)
            assert world.do(world.driver.intact)
            world.do(world.driver.apply, Change(networks=[FRONT], endpoints=[published(TCP)]))
            assert world.outside.hears(HOST, 8080) == "web"

    def test_a_client_that_keeps_sending_follows_the_port(self) -> None:
        """A udp client whose flow is older than the port, and older than its move."""
        with self.world() as world:
            world.set_up()
            with world.outside.do(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(SILENCE)
                client.bind((OUTSIDE, 5353))

                def answer() -> str:
                    client.sendto(b"?", (HOST, 8080))
                    try:
                        return client.recv(100).decode().partition(" ")[0]
                    except (TimeoutError, ConnectionRefusedError):
                        return ""

                def found(name: str) -> bool:
                    """A driver may take a moment: datagrams are sent again."""
                    end = time.monotonic() + netlab.PATIENCE
                    while (answered := answer()) != name and time.monotonic() < end:
                        time.sleep(0.02)
                    return answered == name

                assert answer() == ""
                world.do(world.driver.apply, Change(endpoints=[published(UDP)]))
                assert found("web")
                moved = FirewallEndpoint("p" * 64, FRONT.id, FRONT.bridge, [PEER], [UDP])
                move = Change(endpoints=[moved], remove_endpoints=["w" * 64])
                world.do(world.driver.apply, move)
                assert found("peer")

    def test_flush_is_noticed_and_reconcile_mends(self) -> None:
        with self.world() as world:
            world.set_up(published(TCP, UDP))
            assert world.do(world.driver.intact)
            world.flush()
            assert not world.do(world.driver.intact)
            assert world.outside.deaf(HOST, 8080)
            done = world.do(world.driver.reconcile, [FRONT, BACK], [published(TCP, UDP)])
            assert done.restored
            assert world.do(world.driver.intact)
            world.assert_published()

    def test_apply_after_a_flush_loses_nothing(self) -> None:
        with self.world() as world:
            world.set_up(published(TCP))
            world.flush()
            second = PublishedPort("tcp", 8090, SERVICE)
            late = FirewallEndpoint("p" * 64, FRONT.id, FRONT.bridge, [PEER], [second])
            world.do(world.driver.apply, Change(endpoints=[late]))
            assert world.outside.hears(HOST, 8090) == "peer"
            assert world.outside.hears(HOST, 8080) == "web"

    def test_foreign_rules_are_left_alone(self) -> None:
        with self.world() as world:
            world.sh("nft add table inet foreign")
            world.sh("nft add chain inet foreign keep")
            world.sh("nft add rule inet foreign keep counter")
            before = world.rules()
            world.set_up(published(TCP))
            world.do(world.driver.remove_all)
            assert world.rules() == before

    def test_second_instance_takes_over(self) -> None:
        """A new instance of the same engine with fewer records: what it was not told is gone, and
        a connection that was open stays so."""
        with self.world() as world:
            world.set_up(published(TCP, UDP))
            again = world.again()
            world.do(again.reconcile, [FRONT], [published(UDP)])
            assert world.outside.hears(HOST, 8080, "udp") == "web"
            assert world.outside.deaf(HOST, 8080)
            assert world.do(again.intact)
            again.close()

    def test_two_engines(self) -> None:
        with self.world() as world:
            world.set_up(published(TCP))
            other = world.again(engine="f" * 16, prefix="kitb")
            world.do(other.reconcile, [BACK], [])
            world.do(other.remove_all)
            other.close()
            assert world.do(world.driver.intact)
            assert world.outside.hears(HOST, 8080) == "web"

    def test_remove_all_leaves_nothing(self) -> None:
        with self.world("iptables -P FORWARD DROP") as world:
            before = world.rules()
            world.set_up(published(TCP, UDP))
            for _ in range(2):
                world.do(world.driver.remove_all)
                assert world.rules() == before

    def test_a_port_inside_a_container_is_redirected(self) -> None:
        with self.world() as world:
            server, redirect = "127.0.0.11", world.driver.redirect
            for port in (5300, 5301):
                for protocol in ("tcp", "udp"):
                    world.web.serve(port, protocol, server)
            # What serves that port at the container's other addresses is not touched.
            for protocol in ("tcp", "udp"):
                world.peer.serve(53, protocol, PEER)
            before = world.rules()
            for port in (5300, 5301, 5301):
                world.do(redirect, world.web.netns, server, 53, port)
                for protocol in ("tcp", "udp"):
                    assert world.web.hears(server, 53, protocol) == "web"
            assert world.web.hears(PEER, 53) == "peer"
            assert world.rules() == before, "the host's own rules are not changed for it"

    def test_a_client_that_keeps_sending_follows_the_redirection(self) -> None:
        with self.world() as world, contextlib.ExitStack() as stack:
            server, redirect = "127.0.0.11", world.driver.redirect

            def datagrams() -> socket.socket:
                sock = world.web.do(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
                sock.settimeout(netlab.PATIENCE)
                return stack.enter_context(sock)

            client = datagrams()
            client.connect((server, 53))
            for port in (5310, 5311):
                # The earlier engine is gone without having closed anything in order.
                listener = datagrams()
                listener.bind((server, port))
                world.do(redirect, world.web.netns, server, 53, port)
                client.send(b"?")
                try:
                    _, caller = listener.recvfrom(200)
                    listener.sendto(b"!", caller)
                    assert client.recv(200) == b"!"
                except TimeoutError:
                    pytest.fail(f"the client is not heard at port {port}")

    def test_everything_answers_in_spite_of_forward_drop(self) -> None:
        with self.world("iptables -P FORWARD DROP", "ip6tables -P FORWARD DROP") as world:
            world.set_up(published(TCP, UDP, TCP6))
            assert world.do(world.driver.warnings) == []
            world.assert_published()
            assert world.outside.hears(HOST6, 8080) == "web"
            assert world.web.hears(OUTSIDE, SERVICE) == "outside"
            assert world.outside.deaf(WEB, SERVICE), "unpublished stays so"
            assert world.other.deaf(WEB, SERVICE), "bridges stay apart"
            assert "-P FORWARD DROP" in world.sh("iptables -S FORWARD")

    def test_everything_answers_in_spite_of_legacy_forward_drop(self) -> None:
        with self.world() as world:
            if not world.has("iptables-legacy -P FORWARD DROP"):
                pytest.skip("this kernel or host has no legacy iptables")
            world.set_up(published(TCP, UDP))
            world.assert_published()
            world.do(world.driver.remove_all)
            assert world.sh("iptables-legacy -S").splitlines() == [
                "-P INPUT ACCEPT",
                "-P FORWARD DROP",
                "-P OUTPUT ACCEPT",
            ]

    def test_docker_user_is_the_place_where_it_exists(self) -> None:
        docker = (
            "iptables -P FORWARD DROP",
            "iptables -N DOCKER-USER",
            "iptables -A DOCKER-USER -j RETURN",
            "iptables -A FORWARD -j DOCKER-USER",
        )
        with self.world(*docker) as world:
            world.set_up(published(TCP, UDP))
            world.assert_published()
            assert "front0" in world.sh("iptables -S DOCKER-USER")
            assert "front0" not in world.sh("iptables -S FORWARD")

    def test_a_chain_without_a_place_is_warned_of(self) -> None:
        with self.world(
            "nft add table inet strict",
            "nft add chain inet strict gate { type filter hook forward priority 0; policy drop; }",
        ) as world:
            before = world.sh("nft list table inet strict")
            world.set_up(published(TCP))
            warnings = world.do(world.driver.warnings)
            assert len(warnings) == 1
            for word in ("strict", "gate", "drop"):
                assert word in warnings[0]
            assert world.sh("nft list table inet strict") == before


class World:
    """The stations, and the driver under test acting on the host."""

    def __init__(
        self, suite: FirewallDriverSuite, made: list[Station], before: tuple[str, ...]
    ) -> None:
        self.suite = suite
        self.host, self.outside, self.web, self.peer, self.other = made
        self._wire()
        for command in before:
            self.sh(command)
        self.driver = self.again()
        probe = self.do(type(self.driver).probe, self.context())
        if not probe.available:
            pytest.skip(f"{self.driver.name}: {probe.reason}")

    def do(self, function: Callable[..., T], *arguments: Any) -> T:
        """On the host."""
        return self.host.do(function, *arguments)

    def context(self, engine: str = "e" * 16, prefix: str = "kit") -> DriverContext:
        nowhere = Path("/nonexistent")
        return DriverContext(engine_id=engine, prefix=prefix, root=nowhere, run=nowhere)

    def again(self, engine: str = "e" * 16, prefix: str = "kit") -> FirewallDriver:
        return self.suite.factory(self.context(engine, prefix))

    def set_up(self, *endpoints: FirewallEndpoint, front: FirewallNetwork = FRONT) -> None:
        """As the engine does: reconcile with nothing, networks, then endpoints."""
        self.do(self.driver.reconcile, [], [])
        self.do(self.driver.apply, Change(networks=[front, BACK]))
        if endpoints:
            self.do(self.driver.apply, Change(endpoints=list(endpoints)))
        for station in (self.outside, self.web, self.peer, self.other):
            station.serve(SERVICE, address="::")
            station.serve(SERVICE, "udp", address="::")

    def assert_published(self) -> None:
        """Port 8080 of the host is ``web``, by tcp and udp, from everywhere."""
        ways = {
            "outside": (self.outside, HOST),
            "host": (self.host, HOST),
            "loopback": (self.host, "127.0.0.1"),
            "gateway": (self.host, "10.88.0.1"),
            "itself": (self.web, HOST),
            "neighbour": (self.peer, HOST),
            "other bridge": (self.other, HOST),
        }
        silent: list[str] = []
        for protocol in ("tcp", "udp"):
            for name, (station, address) in ways.items():
                # Once it is lost, it is only about how much is.
                answer = station.ask(address, 8080, protocol, SILENCE if silent else None)
                if answer is None or answer[0] != "web":
                    silent.append(f"{name} by {protocol}")
        assert silent == [], "no answer for these"

    def isolate_where_bridges_are_not_filtered(self) -> None:
        """Without br_netfilter what stays within a bridge is the network driver's business."""
        if self.do(sysctl.read, "net/bridge/bridge-nf-call-iptables") != "1":
            for name in ("vweb", "vpeer"):
                self.sh(f"ip link set {name} type bridge_slave isolated on")

    def rules(self) -> list[str]:
        """All rule sets of the host, without counters."""
        lines = self.sh("nft -s list ruleset").splitlines()
        return [line for line in lines if line.strip()]

    def flush(self) -> None:
        self.sh("nft flush ruleset")

    def reroute_loopback(self, station: Station, gateway: str) -> None:
        """``station`` sends what is for 127.0.0.1 to ``gateway`` instead of itself."""
        self.sh("ip rule add pref 1 lookup local", station)
        self.sh("ip rule del pref 0", station)
        self.sh(f"ip route add 127.0.0.1/32 via {gateway} dev eth0 table 100", station)
        self.sh("ip rule add pref 0 to 127.0.0.1 lookup 100", station)

    def has(self, command: str) -> bool:
        try:
            self.sh(command)
        except AssertionError:
            return False
        return True

    def sh(self, command: str, station: Station | None = None) -> str:
        """Run a command on the host (or another station); its output."""
        words = command.split()

        def run() -> subprocess.CompletedProcess[str]:
            return subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)

        try:
            done = (station or self.host).do(run)
        except FileNotFoundError as error:
            raise AssertionError(f"{command}: {error}") from error
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def _wire(self) -> None:
        host = self.host
        bridge(host, "front0", "10.88.0.1/24", "fd88::1/64")
        bridge(host, "back0", "10.89.0.1/24")
        cable(
            host,
            "wan0",
            self.outside,
            "eth0",
            (f"{HOST}/24", f"{HOST6}/64"),
            (f"{OUTSIDE}/24", f"{OUTSIDE6}/64"),
            gateways=(HOST, HOST6),
        )
        for station, name, address, gateways in (
            (self.web, "front0", (f"{WEB}/24", f"{WEB6}/64"), ("10.88.0.1", "fd88::1")),
            (self.peer, "front0", (f"{PEER}/24",), ("10.88.0.1",)),
            (self.other, "back0", (f"{OTHER}/24",), ("10.89.0.1",)),
        ):
            cable(
                host,
                f"v{station.name}",
                station,
                "eth0",
                (),
                address,
                master=name,
                gateways=gateways,
            )
        host.sysctl("net/ipv4/ip_forward", "1")
        host.sysctl("net/ipv6/conf/all/forwarding", "1")
        for name in ("front0", "back0"):
            host.sysctl(f"net/ipv4/conf/{name}/route_localnet", "1")


def _with(network: FirewallNetwork, **changed: bool) -> FirewallNetwork:
    settings = {
        "masquerade": network.masquerade,
        "icc": network.icc,
        "internal": network.internal,
        **changed,
    }
    return FirewallNetwork(network.id, network.bridge, network.subnets, **settings)
