"""A container's addresses on a network, as users write them."""

from __future__ import annotations

from typing import Any

import pytest

from pyengine.contracts.ipam import Pool
from pyengine.engine.model import EndpointIPAMConfig, EndpointSettings
from pyengine.engine.networks.endpointcheck import check_addresses, normalise_mac
from pyengine.engine.networks.records import Network
from pyengine.errors import InvalidParameter


def network(*subnets: str, predefined: bool = False) -> Network:
    pools = [Pool(id=subnet, subnet=subnet) for subnet in subnets]
    return Network(
        id="n" * 64, name="n", driver="bridge", created="", pools=pools, predefined=predefined
    )


BOTH = network("10.97.0.0/24", "fd00::/64")
V4 = network("10.97.0.0/24")


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"ipv4_address": "10.97.0.9"},
        {"ipv4_address": "10.97.0.9", "ipv6_address": "fd00::9"},
        {"link_local_ips": ["169.254.1.1", "fe80::1"]},
    ],
)
def test_what_is_right(config: dict[str, Any]) -> None:
    check_addresses(BOTH, EndpointIPAMConfig(**config))


@pytest.mark.parametrize(
    ("net", "config", "mistakes"),
    [
        (
            V4,
            {"ipv4_address": "10.98.0.9"},
            ["no configured subnet or ip-range contain the IP address 10.98.0.9"],
        ),
        (
            V4,
            {"ipv4_address": "x"},
            [
                "* invalid IPv4 address: x",
                "* no configured subnet or ip-range contain the IP address x",
            ],
        ),
        (
            V4,
            {"ipv6_address": "fd00::9"},
            [
                "user specified IP address is supported only when connecting to networks with user "
                "configured subnets"
            ],
        ),
        (V4, {"link_local_ips": ["x"]}, ["invalid link-local IP address: x"]),
        (
            network("172.17.0.0/16", predefined=True),
            {"ipv4_address": "172.17.0.9"},
            [
                "* user specified IP address is supported on user defined networks only",
                "* user specified IP address is supported only when connecting to networks with "
                "user configured subnets",
            ],
        ),
    ],
)
def test_what_is_wrong(net: Network, config: dict[str, Any], mistakes: list[str]) -> None:
    with pytest.raises(InvalidParameter) as caught:
        check_addresses(net, EndpointIPAMConfig(**config))
    assert caught.value.message().splitlines() == ["invalid endpoint settings:", *mistakes]


@pytest.mark.parametrize("text", ["02:42:AC:11:00:99", "02-42-ac-11-00-99", "0242.ac11.0099"])
def test_a_mac_address_in_any_notation(text: str) -> None:
    settings = EndpointSettings(mac_address=text)
    normalise_mac(settings)
    assert settings.mac_address == "02:42:ac:11:00:99"


@pytest.mark.parametrize("text", ["x", "02:42:ac:11:00", "02:42-ac:11:00:99", "0242.ac11.00990"])
def test_what_is_no_mac_address(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid MAC address"):
        normalise_mac(EndpointSettings(mac_address=text))


def test_no_mac_address_at_all() -> None:
    settings = EndpointSettings()
    normalise_mac(settings)
    assert settings.mac_address == ""
