"""What keys of daemon.json make of the network ``bridge``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from pyengine.config import AddressPool, Config
from pyengine.engine.networks import defaultbridge
from pyengine.engine.networks.defaultbridge import asked
from pyengine.engine.networks.records import IpamConfig, NetworkRequest
from pyengine.errors import ConfigError

NAME = "com.docker.network.bridge.name"


def made(**keys: Any) -> NetworkRequest:
    found = defaultbridge.request(Config(**keys), "own0")
    assert found is not None
    return found


def test_without_keys_the_subnet_is_anybodys_and_the_bridge_ours() -> None:
    found = made()
    assert (found.name, found.driver, found.ipam, found.ipv6) == ("bridge", "bridge", [], False)
    assert (found.options[NAME], found.interface) == ("own0", "")
    assert defaultbridge.request(Config(bridge="none"), "own0") is None


@pytest.mark.parametrize(
    ("keys", "pools"),
    [
        ({"bip": "10.1.0.5/16"}, [IpamConfig(subnet="10.1.0.0/16", gateway="10.1.0.5")]),
        ({"fixed_cidr": "10.1.2.9/24"}, [IpamConfig(subnet="10.1.2.0/24")]),
        (
            {"bip": "10.1.0.1/16", "fixed_cidr": "10.1.2.0/24", "default_gateway": "10.1.0.9"},
            [
                IpamConfig(
                    subnet="10.1.0.0/16",
                    gateway="10.1.0.1",
                    ip_range="10.1.2.0/24",
                    auxiliary_addresses={"DefaultGatewayIPv4": "10.1.0.9"},
                )
            ],
        ),
        ({"bip6": "fd00::1/64", "fixed_cidr_v6": "fd00::/80"}, []),
        (
            {"ipv6": True, "bip6": "fd00::1/64", "default_gateway_v6": "fd00::9"},
            [
                IpamConfig(
                    subnet="fd00::/64",
                    gateway="fd00::1",
                    auxiliary_addresses={"DefaultGatewayIPv6": "fd00::9"},
                )
            ],
        ),
        ({"ipv6": True, "fixed_cidr_v6": "fd00:1::/64"}, [IpamConfig(subnet="fd00:1::/64")]),
    ],
)
def test_subnets(keys: dict[str, Any], pools: list[IpamConfig]) -> None:
    assert made(**keys).ipam == pools


@pytest.mark.parametrize(
    ("part", "subnet", "gateway"),
    [
        ("", "10.1.0.0/24", "10.1.0.7"),
        ("10.2.0.128/25", "10.2.0.0/24", "10.2.0.7"),
        ("10.9.0.0/24", "10.1.0.0/24", "10.1.0.7"),
    ],
)
def test_a_bridge_of_the_operators_says_its_network_by_its_addresses(
    monkeypatch: pytest.MonkeyPatch, part: str, subnet: str, gateway: str
) -> None:
    addresses = ["fe80::1/64", "10.1.0.7/24", "10.2.0.7/24", "fd00:7::7/64"]

    def of(bridge: str) -> Sequence[str]:
        assert bridge == "mine0"
        return addresses

    monkeypatch.setattr(defaultbridge, "_addresses", of)
    found = made(bridge="mine0", fixed_cidr=part, ipv6=True)
    assert (found.options[NAME], found.interface) == ("mine0", "mine0")
    v4, v6 = found.ipam
    assert (v4.subnet, v4.gateway, v4.ip_range) == (subnet, gateway, part)
    assert (v6.subnet, v6.gateway) == ("fd00:7::/64", "fd00:7::7")


def test_one_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ConfigError, match="bridge is 'nobodys0', and there is no such bridge"):
        made(bridge="nobodys0")


def test_it_is_another_network_when_its_keys_say_something_else() -> None:
    def text(**keys: Any) -> str:
        config = Config(**keys)
        return asked(defaultbridge.request(config, "own0"), config)

    pools = [AddressPool("10.0.0.0/8", 24)]
    assert text() == text(log_level="debug", dns=["192.0.2.1"])
    different = [
        text(), text(mtu=1400), text(icc=False), text(ip="127.0.0.1"), text(ipv6=True),
        text(bip="10.1.0.1/24"), text(bip="10.1.0.2/24"), text(bridge="none"),
        text(default_address_pools=pools), text(default_gateway="10.1.0.9"),
    ]  # fmt: skip
    assert len(set(different)) == len(different)
    # Pools say nothing to a bridge that has its subnet.
    assert text(bip="10.1.0.1/24") == text(bip="10.1.0.1/24", default_address_pools=pools)
