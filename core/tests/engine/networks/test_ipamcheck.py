"""Addresses of a new network, as users write them."""

from __future__ import annotations

from typing import Any

import pytest

from pyengine.engine.networks.ipamcheck import check
from pyengine.engine.networks.records import IpamConfig
from pyengine.errors import InvalidParameter

NET = {"subnet": "10.96.0.0/24"}


@pytest.mark.parametrize(
    "fields",
    [
        NET,
        {**NET, "ip_range": "10.96.0.128/25", "gateway": "10.96.0.9"},
        {**NET, "auxiliary_addresses": {"a": "10.96.0.3"}},
        {"subnet": "fd00::/64", "gateway": "fd00::1"},
    ],
)
def test_what_is_right(fields: dict[str, Any]) -> None:
    check([IpamConfig(**fields)], ipv6=True)
    check([], ipv6=False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "invalid subnet : invalid CIDR block notation"),
        ({"gateway": "10.96.0.1"}, "invalid subnet : invalid CIDR block notation"),
        ({"subnet": "10.96.0.0"}, "invalid subnet 10.96.0.0: invalid CIDR block notation"),
        ({"subnet": "10.96.0.0/33"}, "invalid subnet 10.96.0.0/33: invalid CIDR block notation"),
        (
            {"subnet": "10.0.0.0/255.0.0.0"},
            "invalid subnet 10.0.0.0/255.0.0.0: invalid CIDR block notation",
        ),
        ({"subnet": "10.96.0.5/24"}, "invalid subnet 10.96.0.5/24: it should be 10.96.0.0/24"),
        ({**NET, "ip_range": "x"}, "invalid ip-range x: invalid CIDR block notation"),
        (
            {**NET, "ip_range": "fd00::/64"},
            "invalid ip-range fd00::/64: parent subnet is an IPv4 block",
        ),
        (
            {**NET, "ip_range": "10.0.0.0/8"},
            "invalid ip-range 10.0.0.0/8: CIDR block is bigger than its parent subnet 10.96.0.0/24",
        ),
        (
            {**NET, "ip_range": "10.96.0.5/25"},
            "invalid ip-range 10.96.0.5/25: it should be 10.96.0.0/25",
        ),
        (
            {**NET, "ip_range": "10.98.0.0/25"},
            "invalid ip-range 10.98.0.0/25: parent subnet 10.96.0.0/24 doesn't contain ip-range",
        ),
        ({**NET, "gateway": "10.96.0.1/24"}, "invalid gateway 10.96.0.1/24: invalid address"),
        (
            {**NET, "gateway": "fd00::1"},
            "invalid gateway fd00::1: parent subnet is an IPv4 block",
        ),
        (
            {**NET, "gateway": "10.97.0.1"},
            "invalid gateway 10.97.0.1: parent subnet 10.96.0.0/24 doesn't contain this address",
        ),
        (
            {**NET, "auxiliary_addresses": {"a": "x"}},
            "invalid auxiliary address a: invalid address",
        ),
    ],
)
def test_what_is_wrong(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        check([IpamConfig(**fields)], ipv6=False)
    assert caught.value.message() == f"invalid network config:\n{message}"


def test_all_that_is_wrong_is_told_at_once() -> None:
    configs = [IpamConfig(subnet="x"), IpamConfig(**NET, gateway="y", ip_range="z")]
    with pytest.raises(InvalidParameter) as caught:
        check(configs, ipv6=False)
    assert caught.value.message().splitlines() == [
        "invalid network config:",
        "* invalid subnet x: invalid CIDR block notation",
        "* invalid ip-range z: invalid CIDR block notation",
        "* invalid gateway y: invalid address",
    ]


def test_ipv6_counts_where_it_is() -> None:
    config = IpamConfig(subnet="fd00::1/64")
    check([config], ipv6=False)
    with pytest.raises(InvalidParameter, match="it should be fd00::/64"):
        check([config], ipv6=True)
