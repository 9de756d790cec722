"""Where subnets come from."""

from __future__ import annotations

import ipaddress
import time
from pathlib import Path
from typing import Any

import pytest

from pyengine.contracts.base import DriverContext
from pyengine.contracts.ipam import PoolRequest
from pyengine.errors import InvalidParameter
from pyengine_ipam_default import DefaultIpam
from pyengine_ipam_default.pools import AddressPool, default_pools, first_free


def driver(**options: str) -> DefaultIpam:
    nowhere = Path("/nonexistent")
    return DefaultIpam(DriverContext("id", "pyengine", nowhere, nowhere, options))


def test_dockers_order() -> None:
    ipam = driver()
    subnets = [ipam.request_pool(PoolRequest()).subnet for _ in range(17)]
    assert subnets[:15] == [f"172.{n}.0.0/16" for n in range(17, 32)]
    assert subnets[15:] == ["192.168.0.0/20", "192.168.16.0/20"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gateway": "10.9.0.0"}, "gateway (10.9.0.0)"),
        ({"gateway": "10.9.0.255"}, "gateway (10.9.0.255)"),
        ({"auxiliary": {"a": "10.9.0.1"}}, "secondary ip address (a:10.9.0.1)"),
        (
            {"auxiliary": {"a": "10.9.0.2", "b": "10.9.0.2"}},
            "secondary ip address (b:10.9.0.2)",
        ),
    ],
)
def test_addresses_that_are_there_already(fields: dict[str, Any], message: str) -> None:
    ipam = driver()
    with pytest.raises(InvalidParameter) as caught:
        ipam.request_pool(PoolRequest(subnet="10.9.0.0/24", **fields))
    assert caught.value.message() == f"failed to allocate {message}: Address already in use"
    assert ipam.request_pool(PoolRequest(subnet="10.9.0.0/24")).gateway == "10.9.0.1"


def test_thirty_one_networks_are_all() -> None:
    pools = default_pools("id")
    taken: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
    while (found := first_free(pools, 4, taken)) is not None:
        taken.append(ipaddress.ip_network(found))
    assert len(taken) == 31


def test_the_ipv6_prefix_is_the_engines_own() -> None:
    one, two = (default_pools(engine)[-1].network() for engine in ("one", "two"))
    assert one.subnet_of(ipaddress.IPv6Network("fd00::/8"))  # type: ignore[arg-type]
    assert one != two
    assert one == default_pools("one")[-1].network()


def test_a_gap_between_routes_is_found() -> None:
    pools = [AddressPool("10.0.0.0/8", 16)]
    taken = [ipaddress.ip_network(n) for n in ("10.0.0.0/15", "10.2.3.0/24", "10.4.0.0/16")]
    assert first_free(pools, 4, taken) == "10.3.0.0/16"
    assert first_free(pools, 4, [ipaddress.ip_network("0.0.0.0/0")]) is None


def test_an_operators_ipv6_list_leaves_ipv4_alone() -> None:
    ipam = driver(**{"default-address-pools": '[{"base": "fd12::/48", "size": 64}]'})
    assert ipam.request_pool(PoolRequest()).subnet == "172.17.0.0/16"
    assert ipam.request_pool(PoolRequest(v6=True)).subnet == "fd12::/64"


def test_a_full_slash_8_is_leapt_over() -> None:
    taken = [ipaddress.ip_network(f"10.{a}.{b}.0/24") for a in range(64) for b in range(256)]
    start = time.monotonic()
    assert first_free([AddressPool("10.0.0.0/8", 24)], 4, list(taken)) == "10.64.0.0/24"
    assert time.monotonic() - start < 1.0


def test_point_to_point_subnets() -> None:
    ipam = driver()
    pool = ipam.request_pool(PoolRequest(subnet="10.9.0.0/31"))
    assert (pool.gateway, ipam.request_address(pool.id)) == ("10.9.0.0", "10.9.0.1")
