"""Options of macvlan networks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyengine.contracts.base import DriverContext
from pyengine.contracts.network import EndpointRecord, NetworkRecord, Subnet
from pyengine.errors import EngineError, InvalidParameter, NotFound, Unsupported
from pyengine.testing.netlab import Station, bridge, stations
from pyengine_net_macvlan import MacvlanDriver


def network(internal: bool = False, **options: str) -> NetworkRecord:
    subnets = [Subnet("10.40.0.0/16", "10.40.0.1")]
    return NetworkRecord("ab" * 32, "mine", "macvlan", subnets, internal, options=options)


def endpoint(number: int) -> EndpointRecord:
    address = f"10.40.0.{number}/16"
    return EndpointRecord(f"{number:02x}" * 32, "ab" * 32, "s", "eth0", [address], ["10.40.0.1"])


@pytest.fixture
def host() -> Iterator[Station]:
    with stations("host") as (made,):
        bridge(made, "wire0", "10.40.0.1/16")
        yield made


@pytest.fixture
def driver() -> MacvlanDriver:
    nowhere = Path("/nonexistent")
    return MacvlanDriver(DriverContext("e" * 16, "pyengine", nowhere, nowhere))


@pytest.mark.parametrize(
    ("record", "error", "word"),
    [
        (network(), InvalidParameter, "parent"),
        (network(parent="nobody0"), NotFound, "nobody0"),
        (network(parent="wire0.10"), Unsupported, "VLAN"),
        (network(parent="wire0", macvlan_mode="odd"), InvalidParameter, "passthru"),
        (network(parent="wire0", colour="red"), InvalidParameter, "colour"),
        (network(True, parent="wire0"), Unsupported, "internal"),
    ],
)
def test_refused(
    host: Station,
    driver: MacvlanDriver,
    record: NetworkRecord,
    error: type[EngineError],
    word: str,
) -> None:
    with pytest.raises(error, match=word):
        host.do(driver.validate, record)


@pytest.mark.parametrize(("mode", "talking"), [("bridge", True), ("private", False)])
def test_modes(host: Station, driver: MacvlanDriver, mode: str, talking: bool) -> None:
    record = network(parent="wire0", macvlan_mode=mode)
    host.do(driver.validate, record)
    with stations("one", "two") as (one, two):
        host.do(driver.join, record, endpoint(2), one.netns)
        host.do(driver.join, record, endpoint(3), two.netns)
        one.serve(80)
        assert two.deaf("10.40.0.2", 80) is not talking


def test_the_host_keeps_no_link(host: Station, driver: MacvlanDriver) -> None:
    before = set(host.links())
    with stations("one") as (one,):
        joined = host.do(driver.join, network(parent="wire0"), endpoint(2), one.netns)
        assert joined.host_interface == ""
        assert joined.mac == "02:42:0a:28:00:02"
        assert set(host.links()) == before


def test_a_missing_parent_is_reported_by_reconcile(host: Station, driver: MacvlanDriver) -> None:
    record = network(parent="gone0")
    done = host.do(driver.reconcile, {record.id: record}, [])
    assert done.failed == ["network mine: parent link gone0 of network mine does not exist"]
