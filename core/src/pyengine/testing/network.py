"""The conformance kit of network drivers.

In the test suite of a driver::

    class TestMyDriver(NetworkDriverSuite):
        def factory(self, context):
            return MyDriver(context)

Each test has a machine of its own (a network namespace standing for the host) and two containers;
the driver acts on a thread of that machine. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pyengine import faults
from pyengine.contracts.base import DriverContext
from pyengine.contracts.network import (
    EndpointRecord,
    Joined,
    NetworkCapability,
    NetworkDriver,
    NetworkRecord,
    Subnet,
)
from pyengine.errors import EngineError, InvalidParameter
from pyengine.linux import syscalls
from pyengine.testing.netlab import Station, stations

_PORT = 7000


class NetworkDriverSuite:
    """Subclass it, define :meth:`factory`, and :meth:`prepare` if networks need something."""

    def factory(self, context: DriverContext) -> NetworkDriver:
        """A new instance; called several times per test."""
        raise NotImplementedError

    def prepare(self, host: Station) -> dict[str, str]:
        """Get the host ready (a parent link); returns options that every network gets."""
        return {}

    @contextlib.contextmanager
    def lab(self) -> Iterator[Lab]:
        with stations("host", "one", "two") as (host, one, two), tempfile.TemporaryDirectory() as d:
            yield Lab(self, host, one, two, Path(d))

    def test_probe_leaves_nothing(self) -> None:
        with self.lab() as lab:
            before = lab.host.links()
            assert lab.driver.probe(lab.driver.context).available
            assert lab.host.do(type(lab.driver).probe, lab.driver.context).available
            assert lab.host.links() == before

    def test_joined_interface_is_complete(self) -> None:
        """Named, up, addressed, routed, with the MAC that was reported; loopback up."""
        with self.lab() as lab:
            network = lab.network()
            endpoint = lab.endpoint(network, 1)
            joined = lab.join(network, endpoint, lab.one)
            links = lab.one.links()
            assert links["lo"]["up"]
            if not lab.has(NetworkCapability.ADDRESSES):
                assert set(links) == {"lo"}
                return
            inside = links[endpoint.interface]
            assert inside["up"]
            assert set(endpoint.addresses) <= set(inside["addresses"])
            assert joined.mac == inside["mac"] != ""
            assert lab.one.default_routes() == set(endpoint.gateways)

    def test_interface_name_and_mac_are_those_asked_for(self) -> None:
        with self.lab() as lab:
            if not lab.has(NetworkCapability.ADDRESSES):
                return
            network = lab.network()
            endpoint = lab.endpoint(network, 1, interface="web7", mac="02:42:0a:63:00:63")
            joined = lab.join(network, endpoint, lab.one)
            shown = lab.one.links()["web7"]["mac"]
            assert joined.mac == shown
            assert shown == endpoint.mac or lab.driver.name == "ipvlan"

    def test_containers_reach_each_other(self) -> None:
        with self.lab() as lab:
            network = lab.network()
            pair = lab.join_both(network)
            if not lab.has(NetworkCapability.ADDRESSES):
                return
            lab.assert_talking(pair)

    def test_ipv6(self) -> None:
        with self.lab() as lab:
            if not lab.has(NetworkCapability.IPV6) or not lab.has(NetworkCapability.ADDRESSES):
                return
            pair = lab.join_both(lab.network(ipv6=True))
            assert lab.one.links()[pair[0].interface]["up"]
            lab.assert_talking(pair, family=6)

    def test_join_again_is_the_same(self) -> None:
        with self.lab() as lab:
            network = lab.network()
            pair = lab.join_both(network)
            host = set(lab.host.links())
            lab.join(network, pair[0], lab.one)
            assert set(lab.host.links()) == host
            if lab.has(NetworkCapability.ADDRESSES):
                lab.assert_talking(pair)

    def test_failed_join_leaves_nothing(self) -> None:
        """The interface name is taken inside the container; the gateway is not on the network."""
        with self.lab() as lab:
            if not lab.has(NetworkCapability.ADDRESSES):
                return
            network = lab.network()
            before = set(lab.host.links())
            for endpoint in (
                lab.endpoint(network, 1, interface="lo"),
                msgspec.structs.replace(lab.endpoint(network, 1), gateways=["203.0.113.9"]),
            ):
                with pytest.raises(EngineError):
                    lab.join(network, endpoint, lab.one)
                assert set(lab.host.links()) == before
                assert set(lab.one.links()) == {"lo"}

    def test_leave_undoes_join(self) -> None:
        with self.lab() as lab:
            network = lab.network()
            before = set(lab.host.links())
            endpoint = lab.endpoint(network, 1)
            lab.join(network, endpoint, lab.one)
            for _ in range(2):
                lab.host.do(lab.driver.leave, network, endpoint, lab.one.netns)
                assert set(lab.host.links()) == before
                assert set(lab.one.links()) == {"lo"}

    def test_leave_when_the_namespace_is_gone(self) -> None:
        with self.lab() as lab:
            network = lab.network()
            before = set(lab.host.links())
            with stations("short") as (short,):
                endpoint = lab.endpoint(network, 9)
                lab.join(network, endpoint, short)
            lab.host.do(lab.driver.leave, network, endpoint, None)
            assert set(lab.host.links()) == before

    def test_network_can_be_made_twice_and_deleted_twice(self) -> None:
        with self.lab() as lab:
            before = set(lab.host.links())
            network = lab.network()
            made = set(lab.host.links())
            lab.host.do(lab.driver.create_network, network)
            assert set(lab.host.links()) == made
            for _ in range(2):
                lab.host.do(lab.driver.delete_network, network)
                assert set(lab.host.links()) == before

    def test_unknown_docker_option_is_refused(self) -> None:
        with self.lab() as lab:
            options = {**lab.options, "com.docker.network.nonsense": "1"}
            with pytest.raises(InvalidParameter) as caught:
                lab.host.do(lab.driver.validate, lab.record("odd", 5, options=options))
            assert "com.docker.network.nonsense" in str(caught.value)

    def test_a_link_of_somebody_else_is_respected(self) -> None:
        """Another engine's links survive this engine's reconcile with nothing in its records."""
        with self.lab() as lab:
            other = lab.second_engine()
            network = lab.network(driver=other, number=3)
            endpoint = lab.endpoint(network, 1)
            lab.host.do(other.join, network, endpoint, lab.one.netns)
            before = lab.host.links()
            lab.host.do(lab.driver.reconcile, {}, [])
            assert lab.host.links() == before

    def test_reconcile_by_a_second_instance_sweeps_what_nobody_owns(self) -> None:
        with self.lab() as lab:
            before = set(lab.host.links())
            lab.join_both(lab.network())
            again = lab.again()
            done = lab.host.do(again.reconcile, {}, [])
            assert set(lab.host.links()) == before
            assert not done.failed
            assert set(lab.one.links()) == {"lo"} or not done.removed

    def test_reconcile_keeps_what_is_owned(self) -> None:
        with self.lab() as lab:
            network = lab.network()
            pair = lab.join_both(network)
            before = set(lab.host.links())
            done = lab.host.do(lab.again().reconcile, {network.id: network}, pair)
            assert not done.removed
            assert not done.failed
            assert set(lab.host.links()) == before
            if lab.has(NetworkCapability.ADDRESSES):
                lab.assert_talking(pair)

    def test_reconcile_makes_a_missing_network_again(self) -> None:
        with self.lab() as lab:
            network = lab.network()
            pair = lab.join_both(network)
            view = lab.driver.firewall_view(network)
            if view is None:
                return
            lab.delete_link(view.bridge)
            again = lab.again()
            done = lab.host.do(again.reconcile, {network.id: network}, pair)
            assert done.restored
            lab.assert_talking(pair)

    def test_joins_at_the_same_time(self) -> None:
        with self.lab() as lab, stations("a", "b", "c", "d") as others:
            network = lab.network()
            failures: list[BaseException] = []

            def work(number: int, station: Station) -> None:
                try:
                    lab.enter_host()
                    endpoint = lab.endpoint(network, 20 + number)
                    lab.driver.join(network, endpoint, station.netns)
                except BaseException as error:
                    failures.append(error)

            threads = [threading.Thread(target=work, args=each) for each in enumerate(others)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            assert failures == []
            if lab.has(NetworkCapability.ADDRESSES):
                others[0].serve(_PORT)
                first = lab.endpoint(network, 20).addresses[0].partition("/")[0]
                assert [each.hears(first, _PORT) for each in others[1:]] == ["a"] * 3

    def test_killed_at_any_step_reconcile_leaves_nothing(self) -> None:
        """The driver dies before its first, second... step of create_network and join; a new
        instance with empty records leaves the host as it was."""
        with self.lab() as lab:
            before = set(lab.host.links())
            network = lab.record("dying", 6)
            endpoint = lab.endpoint(network, 1)

            for step in range(1, 40):
                with stations("victim") as (victim,):

                    def life(netns: int = victim.netns) -> None:
                        lab.driver.create_network(network)
                        lab.driver.join(network, endpoint, netns)

                    finished = lab.die_at(step, life)
                    lab.host.do(lab.again().reconcile, {}, [])
                    assert set(lab.host.links()) == before, f"after a kill at step {step}"
                if finished:
                    return
            raise AssertionError("a join takes fewer than 40 steps")


class Lab:
    """A host with the driver under test, and two containers not joined yet."""

    def __init__(
        self, suite: NetworkDriverSuite, host: Station, one: Station, two: Station, root: Path
    ) -> None:
        self.suite, self.host, self.one, self.two, self.root = suite, host, one, two, root
        self.options = suite.prepare(host)
        self.driver = self.again()
        probe = host.do(type(self.driver).probe, self.driver.context)
        if not probe.available:
            pytest.skip(f"{self.driver.name}: {probe.reason}")

    def again(self) -> NetworkDriver:
        """A new instance of the same engine, as after a restart."""
        return self.suite.factory(self._context("e" * 16, "kit"))

    def second_engine(self) -> NetworkDriver:
        return self.suite.factory(self._context("f" * 16, "kitb"))

    def has(self, capability: NetworkCapability) -> bool:
        return capability in self.driver.capabilities()

    def record(
        self, name: str, number: int, *, ipv6: bool = False, options: dict[str, str] | None = None
    ) -> NetworkRecord:
        subnets = [Subnet(f"10.99.{number}.0/24", f"10.99.{number}.254")]
        if ipv6:
            subnets.append(Subnet(f"fd99:{number}::/64", f"fd99:{number}::fe"))
        return NetworkRecord(
            id=f"{number:x}" * 64,
            name=name,
            driver=self.driver.name,
            subnets=subnets if self.has(NetworkCapability.ADDRESSES) else [],
            ipv6=ipv6,
            options=dict(self.options) if options is None else options,
        )

    def network(
        self, *, ipv6: bool = False, driver: NetworkDriver | None = None, number: int = 1
    ) -> NetworkRecord:
        """A network that was validated and made."""
        record = self.record(f"net{number}", number, ipv6=ipv6)
        for step in ((driver or self.driver).validate, (driver or self.driver).create_network):
            self.host.do(step, record)
        return record

    def endpoint(
        self, network: NetworkRecord, number: int, *, interface: str = "eth0", mac: str = ""
    ) -> EndpointRecord:
        addresses, gateways = [], []
        for subnet in network.subnets:
            head = subnet.subnet.partition("/")[0]
            plain = head[:-1] if head.endswith(".0") else head
            addresses.append(f"{plain}{number}/{subnet.subnet.partition('/')[2]}")
            gateways.append(subnet.gateway)
        return EndpointRecord(
            id=f"{number:02x}{network.id[:1]}" * 20,
            network_id=network.id,
            sandbox_id=f"sandbox{number}",
            interface=interface,
            addresses=addresses,
            gateways=gateways,
            mac=mac,
        )

    def join(self, network: NetworkRecord, endpoint: EndpointRecord, guest: Station) -> Joined:
        return self.host.do(self.driver.join, network, endpoint, guest.netns)

    def join_both(self, network: NetworkRecord) -> list[EndpointRecord]:
        pair = [self.endpoint(network, 1), self.endpoint(network, 2)]
        self.join(network, pair[0], self.one)
        self.join(network, pair[1], self.two)
        return pair

    def assert_talking(self, pair: list[EndpointRecord], family: int = 4) -> None:
        addresses = [
            next(a.partition("/")[0] for a in each.addresses if (":" in a) == (family == 6))
            for each in pair
        ]
        any_address = "::" if family == 6 else ""
        self.one.serve(_PORT + family, address=any_address)
        self.two.serve(_PORT + family, address=any_address)
        assert self.one.ask(addresses[1], _PORT + family) == ("two", addresses[0])
        assert self.two.ask(addresses[0], _PORT + family) == ("one", addresses[1])

    def delete_link(self, name: str) -> None:
        from pyroute2 import IPRoute

        def delete() -> None:
            with IPRoute() as route:
                route.link("del", ifname=name)

        self.host.do(delete)

    def enter_host(self) -> None:
        """The calling thread moves to the host for good."""
        syscalls.setns(self.host.netns, syscalls.CLONE_NEWNET)

    def die_at(self, step: int, life: Callable[[], Any]) -> bool:
        """Run ``life`` on the host in a process that dies at its ``step``-th failpoint; True if it
        lived to the end."""
        directory = self.root / "faults"
        directory.mkdir(exist_ok=True)
        (directory / "kill").write_text(f"daemon {step}")

        def fork() -> int:
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    faults._directory = str(directory)
                    faults.set_role("daemon")
                    life()
                    code = 0
                finally:
                    os._exit(code)
            return os.waitpid(child, 0)[1]

        status = self.host.do(fork)
        assert status == 0 or os.WIFSIGNALED(status), "the driver raised instead of dying"
        assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL
        return status == 0

    def _context(self, engine_id: str, prefix: str) -> DriverContext:
        return DriverContext(
            engine_id=engine_id,
            prefix=prefix,
            root=self.root / prefix,
            run=self.root / f"{prefix}-run",
        )
