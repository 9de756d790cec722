"""The ipam kit: a plain driver passes, drivers broken on purpose do not."""

from __future__ import annotations

import ipaddress
import json
import threading
from collections.abc import Sequence

import pytest

from pyengine.contracts.base import DriverContext, Probe
from pyengine.contracts.ipam import IpamDriver, Pool, PoolRequest
from pyengine.errors import Conflict, Forbidden, InvalidParameter
from pyengine.testing.ipam import IpamDriverSuite
from pyengine.testing.proof import failed_tests


class PlainIpam(IpamDriver):
    """As simple as the contract allows: sets of text, and where the lowest free address may be."""

    name = "plain"

    def __init__(self, context: DriverContext) -> None:
        super().__init__(context)
        try:
            text = context.options.get("default-address-pools", "")
            entries = json.loads(text or '[{"base": "172.16.0.0/12", "size": 16}]')
            self.bases = [(ipaddress.ip_network(e["base"]), int(e["size"])) for e in entries]
        except (ValueError, KeyError) as error:
            raise InvalidParameter(str(error)) from error
        self.bases.append((ipaddress.ip_network("fd77::/48"), 64))
        self.pools: dict[str, Pool] = {}
        self.taken: dict[str, set[str]] = {}
        self.cursor: dict[str, int] = {}
        self.lock = threading.Lock()

    @classmethod
    def probe(cls, context: DriverContext) -> Probe:
        return Probe(available=True)

    def request_pool(self, request: PoolRequest) -> Pool:
        busy = [ipaddress.ip_network(n) for n in (*self.pools, *request.avoid)]
        try:
            if request.subnet:
                network = ipaddress.ip_network(request.subnet)
                self.refuse_overlap(network, busy)
            else:
                network = self.pick(6 if request.v6 else 4, busy)
            for inner in filter(None, (request.range,)):
                if not ipaddress.ip_network(inner).subnet_of(network):  # type: ignore[arg-type]
                    raise InvalidParameter("range outside")
            for each in filter(None, (request.gateway, *request.auxiliary.values())):
                if ipaddress.ip_address(each) not in network:
                    raise InvalidParameter("address outside")
        except ValueError as error:
            raise InvalidParameter(str(error)) from error
        gateway = request.gateway or str(network.network_address + 1)
        pool = Pool(str(network), str(network), request.range, gateway, request.auxiliary)
        self.adopt(pool)
        return pool

    def refuse_overlap(self, network: object, busy: Sequence[object]) -> None:
        for other in busy:
            if network.overlaps(other):  # type: ignore[attr-defined]
                raise Forbidden(f"{network} overlaps with {other}")

    def pick(
        self, version: int, busy: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]
    ) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        for base, size in self.bases:
            if base.version == version:
                for candidate in base.subnets(new_prefix=size):
                    if not any(candidate.overlaps(other) for other in busy):
                        return candidate
        raise Conflict("used up")

    def adopt(self, pool: Pool) -> None:
        self.pools[pool.id] = pool
        self.taken[pool.id] = {pool.gateway, *pool.auxiliary.values()}
        self.cursor[pool.id] = 0

    def release_pool(self, pool_id: str) -> None:
        self.pools.pop(pool_id, None)

    def request_address(self, pool_id: str, preferred: str = "", owner: str = "") -> str:
        with self.lock:
            return self.choose(self.pools[pool_id], preferred)

    def choose(self, pool: Pool, preferred: str) -> str:
        network, taken = ipaddress.ip_network(pool.subnet), self.taken[pool.id]
        edges = {str(network.network_address), str(network.broadcast_address)}
        if preferred:
            try:
                inside = ipaddress.ip_address(preferred) in network
            except ValueError:
                inside = False
            if not inside or preferred in edges:
                raise InvalidParameter(preferred)
            if preferred in taken:
                raise Conflict(preferred)
            taken.add(preferred)
            return preferred
        space = ipaddress.ip_network(pool.range or pool.subnet)
        unusable = taken | edges
        for position in range(self.cursor[pool.id], min(space.num_addresses, 1 << 16)):
            address = str(space.network_address + position)
            if address not in unusable:
                self.cursor[pool.id] = position + 1
                taken.add(address)
                return address
        raise Conflict("no address left")

    def release_address(self, pool_id: str, address: str) -> None:
        self.taken[pool_id].discard(address)
        self.cursor[pool_id] = 0

    def reconcile(self, pools: Sequence[Pool], leases: Sequence[tuple[str, str]]) -> None:
        self.pools, self.taken = {}, {}
        for pool in pools:
            self.adopt(pool)
        for pool_id, address in leases:
            self.taken[pool_id].add(address)


class NeverGoesBack(PlainIpam):
    """The next address comes after all that were given."""

    def release_address(self, pool_id: str, address: str) -> None:
        self.taken[pool_id].discard(address)


class GivesTheGateway(PlainIpam):
    def adopt(self, pool: Pool) -> None:
        super().adopt(pool)
        self.taken[pool.id].discard(pool.gateway)


class IgnoresRoutes(PlainIpam):
    def request_pool(self, request: PoolRequest) -> Pool:
        bare = PoolRequest(
            request.subnet, request.range, request.gateway, request.auxiliary, request.v6
        )
        return super().request_pool(bare)


class ForgetsLeases(PlainIpam):
    def reconcile(self, pools: Sequence[Pool], leases: Sequence[tuple[str, str]]) -> None:
        super().reconcile(pools, [])


class KeepsOldPools(PlainIpam):
    def reconcile(self, pools: Sequence[Pool], leases: Sequence[tuple[str, str]]) -> None:
        old = list(self.pools.values())
        super().reconcile([*old, *pools], leases)


class IgnoresTheRange(PlainIpam):
    def choose(self, pool: Pool, preferred: str) -> str:
        return super().choose(
            Pool(pool.id, pool.subnet, "", pool.gateway, pool.auxiliary), preferred
        )


class ListsTheSubnet(PlainIpam):
    """Makes a list of all addresses first."""

    def choose(self, pool: Pool, preferred: str) -> str:
        network = ipaddress.ip_network(pool.subnet)
        if network.num_addresses > 1 << 20:
            list(zip(network, range(1 << 16), strict=False))
        return super().choose(pool, preferred)


def suite(driver: type[PlainIpam]) -> IpamDriverSuite:
    class Suite(IpamDriverSuite):
        def factory(self, context: DriverContext) -> IpamDriver:
            return driver(context)

    return Suite()


def test_a_plain_driver_passes() -> None:
    assert failed_tests(suite(PlainIpam)) == []


@pytest.mark.parametrize(
    ("driver", "expected"),
    [
        (NeverGoesBack, "test_the_lowest_free_address_comes_first"),
        (GivesTheGateway, "test_preferred_address"),
        (IgnoresRoutes, "test_overlap_is_refused_by_name"),
        (ForgetsLeases, "test_reconcile_takes_what_it_is_told"),
        (KeepsOldPools, "test_reconcile_takes_what_it_is_told"),
        (IgnoresTheRange, "test_range_narrows_dynamic_choice_only"),
    ],
)
def test_broken_drivers_are_found(driver: type[PlainIpam], expected: str) -> None:
    assert expected in failed_tests(suite(driver))


def test_a_driver_that_lists_big_subnets_is_found() -> None:
    with pytest.raises(AssertionError):
        suite(ListsTheSubnet).test_a_big_subnet_costs_no_more_than_a_small_one()
