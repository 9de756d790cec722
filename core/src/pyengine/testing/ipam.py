"""The conformance kit of ipam drivers.

In the test suite of a driver::

    class TestMyDriver(IpamDriverSuite):
        def factory(self, context):
            return MyDriver(context)

Needs nothing of the kernel.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from pathlib import Path

import pytest

from pyengine.contracts.base import DriverContext
from pyengine.contracts.ipam import IpamDriver, Pool, PoolRequest
from pyengine.errors import Conflict, Forbidden, InvalidParameter


class IpamDriverSuite:
    """Subclass it and define :meth:`factory`."""

    def factory(self, context: DriverContext) -> IpamDriver:
        """A new instance; called several times per test."""
        raise NotImplementedError

    def driver(self, **options: str) -> IpamDriver:
        nowhere = Path("/nonexistent")
        context = DriverContext(
            engine_id="kit", prefix="kit", root=nowhere, run=nowhere, options=options
        )
        made = self.factory(context)
        made.reconcile([], [])
        return made

    def test_default_pool_has_room_and_a_gateway(self) -> None:
        pool = self.driver().request_pool(PoolRequest())
        network = ipaddress.ip_network(pool.subnet)
        assert network.num_addresses >= 16
        assert ipaddress.ip_address(pool.gateway) == network.network_address + 1

    def test_default_ipv6_pool(self) -> None:
        driver = self.driver()
        pools = [driver.request_pool(PoolRequest(v6=True)) for _ in range(3)]
        networks = [ipaddress.ip_network(pool.subnet) for pool in pools]
        assert {network.version for network in networks} == {6}
        assert len(set(networks)) == 3
        address = driver.request_address(pools[0].id)
        assert ipaddress.ip_address(address) in networks[0]

    def test_default_pools_never_overlap_with_anything(self) -> None:
        driver = self.driver()
        avoid = ["172.17.0.0/16", "172.18.3.0/24", "10.0.0.0/8"]
        given = [
            ipaddress.ip_network(driver.request_pool(PoolRequest(avoid=avoid)).subnet)
            for _ in range(8)
        ]
        everything = [*given, *(ipaddress.ip_network(each) for each in avoid)]
        for number, one in enumerate(given):
            assert not any(one.overlaps(other) for other in everything[number + 1 :])

    def test_default_pools_run_out_with_a_conflict(self) -> None:
        driver = self.driver()
        with pytest.raises(Conflict):
            driver.request_pool(PoolRequest(avoid=["0.0.0.0/0"]))

    def test_operators_pools(self) -> None:
        text = '[{"base": "10.44.0.0/23", "size": 24}, {"base": "10.45.0.0/24", "size": 24}]'
        driver = self.driver(**{"default-address-pools": text})
        subnets = [driver.request_pool(PoolRequest()).subnet for _ in range(3)]
        assert subnets == ["10.44.0.0/24", "10.44.1.0/24", "10.45.0.0/24"]
        with pytest.raises(Conflict):
            driver.request_pool(PoolRequest())

    def test_bad_operators_pools(self) -> None:
        for text in ("{", '[{"base": "x", "size": 24}]', '[{"size": 3}]'):
            with pytest.raises(InvalidParameter):
                self.driver(**{"default-address-pools": text})

    def test_subnet_as_asked_for(self) -> None:
        request = PoolRequest(
            subnet="10.50.0.0/24",
            range="10.50.0.64/26",
            gateway="10.50.0.9",
            auxiliary={"router": "10.50.0.70"},
        )
        pool = self.driver().request_pool(request)
        assert pool.subnet == "10.50.0.0/24"
        assert pool.range == "10.50.0.64/26"
        assert pool.gateway == "10.50.0.9"
        assert pool.auxiliary == {"router": "10.50.0.70"}

    def test_overlap_is_refused_by_name(self) -> None:
        driver = self.driver()
        driver.request_pool(PoolRequest(subnet="10.50.0.0/16"))
        with pytest.raises(Forbidden) as given:
            driver.request_pool(PoolRequest(subnet="10.50.7.0/24"))
        assert "10.50.0.0/16" in str(given.value)
        with pytest.raises(Forbidden) as avoided:
            driver.request_pool(PoolRequest(subnet="10.60.0.0/16", avoid=["10.60.8.0/24"]))
        assert "10.60.8.0/24" in str(avoided.value)
        driver.request_pool(PoolRequest(subnet="10.60.0.0/16"))

    def test_what_makes_no_sense_takes_nothing(self) -> None:
        driver = self.driver()
        for request in (
            PoolRequest(subnet="10.50.0.0/33"),
            PoolRequest(subnet="nonsense"),
            PoolRequest(subnet="10.50.0.0/24", range="10.51.0.0/26"),
            PoolRequest(subnet="10.50.0.0/24", gateway="10.51.0.1"),
            PoolRequest(subnet="10.50.0.0/24", auxiliary={"a": "10.51.0.1"}),
        ):
            with pytest.raises(InvalidParameter):
                driver.request_pool(request)
        driver.request_pool(PoolRequest(subnet="10.50.0.0/24"))

    def test_released_pool_is_free_with_all_its_leases(self) -> None:
        driver = self.driver()
        pool = driver.request_pool(PoolRequest(subnet="10.50.0.0/24"))
        address = driver.request_address(pool.id, "10.50.0.77")
        for _ in range(2):
            driver.release_pool(pool.id)
        again = driver.request_pool(PoolRequest(subnet="10.50.0.0/24"))
        assert driver.request_address(again.id, address) == address

    def test_every_address_is_given_once(self) -> None:
        driver = self.driver()
        pool = driver.request_pool(
            PoolRequest(subnet="10.50.0.0/28", auxiliary={"a": "10.50.0.5", "b": "10.50.0.14"})
        )
        given = [driver.request_address(pool.id) for _ in range(11)]
        expected = {f"10.50.0.{n}" for n in range(1, 15)} - {"10.50.0.1", "10.50.0.5", "10.50.0.14"}
        assert set(given) == expected
        with pytest.raises(Conflict):
            driver.request_address(pool.id)
        driver.release_address(pool.id, "10.50.0.7")
        driver.release_address(pool.id, "10.50.0.7")
        assert driver.request_address(pool.id) == "10.50.0.7"
        with pytest.raises(Conflict):
            driver.request_address(pool.id)

    def test_the_lowest_free_address_comes_first(self) -> None:
        driver = self.driver()
        pool = driver.request_pool(PoolRequest(subnet="10.50.0.0/24"))
        given = [driver.request_address(pool.id) for _ in range(4)]
        assert given == [f"10.50.0.{n}" for n in range(2, 6)]
        for freed in (given[2], given[0]):
            driver.release_address(pool.id, freed)
        assert [driver.request_address(pool.id) for _ in range(3)] == [
            *("10.50.0.2", "10.50.0.4", "10.50.0.6"),
        ]

    def test_range_narrows_dynamic_choice_only(self) -> None:
        driver = self.driver()
        pool = driver.request_pool(PoolRequest(subnet="10.50.0.0/24", range="10.50.0.128/30"))
        dynamic = {driver.request_address(pool.id) for _ in range(4)}
        assert dynamic == {f"10.50.0.{n}" for n in range(128, 132)}
        assert driver.request_address(pool.id, "10.50.0.4") == "10.50.0.4"
        with pytest.raises(Conflict):
            driver.request_address(pool.id)

    def test_preferred_address(self) -> None:
        driver = self.driver()
        pool = driver.request_pool(PoolRequest(subnet="10.50.0.0/24"))
        assert driver.request_address(pool.id, "10.50.0.2") == "10.50.0.2"
        for taken in ("10.50.0.2", "10.50.0.1"):
            with pytest.raises(Conflict):
                driver.request_address(pool.id, taken)
        for wrong in ("10.51.0.2", "nonsense", "fd00::1"):
            with pytest.raises(InvalidParameter):
                driver.request_address(pool.id, wrong)
        for special in ("10.50.0.0", "10.50.0.255"):
            with pytest.raises((InvalidParameter, Conflict)):
                driver.request_address(pool.id, special)
        assert driver.request_address(pool.id) == "10.50.0.3"

    def test_a_big_subnet_costs_no_more_than_a_small_one(self) -> None:
        driver = self.driver()
        end = time.monotonic() + 2.0
        for subnet in ("10.0.0.0/8", "fd00::/64"):
            pool = driver.request_pool(PoolRequest(subnet=subnet))
            given = set()
            for _ in range(1000):
                given.add(driver.request_address(pool.id))
                assert time.monotonic() < end
            assert len(given) == 1000

    def test_reconcile_takes_what_it_is_told(self) -> None:
        """A second instance, as after a restart: the same pools and leases, nothing else."""
        old = self.driver()
        kept = old.request_pool(PoolRequest(subnet="10.50.0.0/28", auxiliary={"a": "10.50.0.3"}))
        lost = old.request_pool(PoolRequest(subnet="10.60.0.0/28"))
        lease = old.request_address(kept.id)
        new = self.driver()
        new.request_pool(PoolRequest(subnet="10.70.0.0/28"))
        new.reconcile([kept], [(kept.id, lease)])
        with pytest.raises(Forbidden):
            new.request_pool(PoolRequest(subnet=kept.subnet))
        assert new.request_pool(PoolRequest(subnet=lost.subnet)).subnet == lost.subnet
        assert new.request_pool(PoolRequest(subnet="10.70.0.0/28")).subnet == "10.70.0.0/28"
        for taken in (lease, kept.gateway, "10.50.0.3"):
            with pytest.raises(Conflict):
                new.request_address(kept.id, taken)
        others = {new.request_address(kept.id) for _ in range(11)}
        assert not others & {lease, kept.gateway, "10.50.0.3"}

    def test_a_pool_survives_the_journey_through_a_record(self) -> None:
        pool = self.driver().request_pool(PoolRequest(subnet="10.50.0.0/24", range="10.50.0.0/25"))
        again = Pool(pool.id, pool.subnet, pool.range, pool.gateway, dict(pool.auxiliary))
        driver = self.driver()
        driver.reconcile([again], [])
        assert driver.request_address(pool.id) == "10.50.0.2"

    def test_requests_at_the_same_time(self) -> None:
        driver = self.driver()
        pool = driver.request_pool(PoolRequest(subnet="10.50.0.0/20"))
        given: list[str] = []

        def work() -> None:
            given.extend([driver.request_address(pool.id) for _ in range(200)])

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(given)) == 1600
