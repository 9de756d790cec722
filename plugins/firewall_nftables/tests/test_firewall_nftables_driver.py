"""What is this driver's own: maps, spans, cost, words, and the host's firewall respected."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyengine.contracts.base import DriverContext
from pyengine.contracts.firewall import (
    Change,
    FirewallEndpoint,
    FirewallNetwork,
    PublishedPort,
)
from pyengine.errors import Conflict, InvalidParameter
from pyengine.testing.netlab import Station, stations
from pyengine_firewall_nftables import NftablesFirewall

NET = FirewallNetwork("ab" * 32, "web0", ["10.40.0.0/16", "fd40::/64"])


def make(engine: str = "e" * 16, prefix: str = "pyengine", **options: str) -> NftablesFirewall:
    nowhere = Path("/nonexistent")
    named = {key.replace("_", "-"): value for key, value in options.items()}
    return NftablesFirewall(DriverContext(engine, prefix, nowhere, nowhere, named))


def endpoint(*ports: PublishedPort, owner: str = "web") -> FirewallEndpoint:
    return FirewallEndpoint(owner, NET.id, NET.bridge, ["10.40.0.2", "fd40::2"], list(ports))


class Bench:
    """A host of its own with the driver and one network."""

    def __init__(self, host: Station) -> None:
        self.host = host
        self.driver = make()
        host.do(self.driver.reconcile, [], [])
        self.apply(networks=[NET])

    def apply(self, **change: Any) -> float:
        start = time.process_time()
        self.host.do(self.driver.apply, Change(**change))
        return time.process_time() - start

    def sh(self, *command: str) -> str:
        done = self.host.do(subprocess.run, command, capture_output=True, text=True, check=True)
        return str(done.stdout)

    def elements(self, name: str) -> list[Any]:
        answer = json.loads(self.sh("nft", "-j", "list", "map", "inet", "pyengine", name))
        (found,) = [entry["map"] for entry in answer["nftables"] if "map" in entry]
        return list(found.get("elem", []))


@pytest.fixture
def bench() -> Iterator[Bench]:
    with stations("host") as (host,):
        yield Bench(host)


def test_ports_are_map_elements(bench: Bench) -> None:
    bench.apply(
        endpoints=[
            endpoint(
                PublishedPort("tcp", 8080, 80),
                PublishedPort("udp", 53, 53, "192.0.2.1"),
                PublishedPort("tcp", 8080, 80, "::"),
            )
        ]
    )
    assert bench.elements("tcp4") == [[8080, {"concat": ["10.40.0.2", 80]}]]
    assert bench.elements("tcp6") == [[8080, {"concat": ["fd40::2", 80]}]]
    assert bench.elements("udp4_at") == [
        [{"concat": ["192.0.2.1", 53]}, {"concat": ["10.40.0.2", 53]}]
    ]


def test_ten_thousand_equal_ports_are_one_element(bench: Bench) -> None:
    bench.apply(endpoints=[endpoint(PublishedPort("tcp", 20000, 20000, count=10000))])
    assert bench.elements("tcp4_span") == [[{"range": [20000, 29999]}, "10.40.0.2"]]
    assert bench.elements("tcp4") == []
    bench.apply(remove_endpoints=["web"])
    assert bench.elements("tcp4_span") == []


def test_a_family_the_container_lacks_is_left_to_the_proxy(bench: Bench) -> None:
    bare = FirewallEndpoint(
        "web", NET.id, NET.bridge, ["10.40.0.2"], [PublishedPort("tcp", 1, 1, "::")]
    )
    bench.apply(endpoints=[bare])
    assert bench.elements("tcp6") == []


def test_cost(bench: Bench) -> None:
    """One port: 0.3 ms on a quiet machine, also with ten thousand there; ten thousand: 100 ms. The
    bounds leave room for a busy one."""

    def one_port(first: int) -> float:
        return min(
            bench.apply(endpoints=[endpoint(PublishedPort("tcp", first + n, 80), owner=f"o{n}")])
            for n in range(20)
        )

    assert one_port(100) < 0.01
    many = [PublishedPort("tcp", 20000 + n, 80) for n in range(10000)]
    assert bench.apply(endpoints=[endpoint(*many)]) < 1.0
    assert one_port(200) < 0.01
    start = time.process_time()
    for _ in range(100):
        assert bench.host.do(bench.driver.intact)
    assert time.process_time() - start < 0.1


def test_intact_counts_what_is_there(bench: Bench) -> None:
    bench.apply(endpoints=[endpoint(PublishedPort("tcp", 8080, 80))])
    assert bench.host.do(bench.driver.intact)
    bench.sh("nft", "add", "table", "inet", "stranger")
    assert bench.host.do(bench.driver.intact), "somebody else's change"
    bench.sh("nft", "delete", "element", "inet", "pyengine", "tcp4", "{ 8080 }")
    assert not bench.host.do(bench.driver.intact)
    bench.host.do(bench.driver.reconcile, [NET], [endpoint(PublishedPort("tcp", 8080, 80))])
    assert bench.host.do(bench.driver.intact)
    bench.sh("nft", "flush", "chain", "inet", "pyengine", "forward")
    assert not bench.host.do(bench.driver.intact)


def test_conflict_names_both(bench: Bench) -> None:
    port = PublishedPort("tcp", 8080, 80)
    bench.apply(endpoints=[endpoint(port)])
    with pytest.raises(Conflict, match=r"8080.*other.*web"):
        bench.apply(endpoints=[endpoint(port, owner="other")])
    bench.apply(endpoints=[endpoint(port, owner="other")], remove_endpoints=["web"])
    with pytest.raises(Conflict):
        bench.apply(endpoints=[endpoint(port)])


@pytest.mark.parametrize(
    "change",
    [
        {"networks": [FirewallNetwork("x", 'a"b', [])]},
        {"networks": [FirewallNetwork("x", "eth*", [])]},
        {"networks": [FirewallNetwork("x; flush ruleset", "b0", [])]},
        {"endpoints": [endpoint(PublishedPort("icmp", 1, 1))]},
        {"endpoints": [endpoint(PublishedPort("tcp", 0, 1))]},
        {"endpoints": [endpoint(PublishedPort("tcp", 65535, 1, count=2))]},
    ],
)
def test_nonsense_changes_nothing(bench: Bench, change: dict[str, Any]) -> None:
    before = bench.sh("nft", "list", "ruleset")
    with pytest.raises(InvalidParameter):
        bench.apply(**change)
    assert bench.sh("nft", "list", "ruleset") == before


def test_respected_host_firewall_is_warned_of() -> None:
    with stations("host") as (host,):

        def sh(*command: str) -> str:
            return str(host.do(subprocess.run, command, capture_output=True, text=True).stdout)

        sh("iptables", "-P", "FORWARD", "DROP")
        before = sh("iptables", "-S")
        driver = make(respect_host_firewall="true")
        host.do(driver.reconcile, [NET], [])
        assert sh("iptables", "-S") == before
        (warning,) = host.do(driver.warnings)
        for word in ("filter", "FORWARD", "drop", "respect-host-firewall", "-i web0"):
            assert word in warning


def test_tagged_rules_follow_the_networks() -> None:
    with stations("host") as (host,):

        def forward() -> list[str]:
            done = host.do(
                subprocess.run, ["iptables", "-S", "FORWARD"], capture_output=True, text=True
            )
            return sorted(done.stdout.splitlines())

        host.do(subprocess.run, ["iptables", "-P", "FORWARD", "DROP"])
        host.do(subprocess.run, ["iptables", "-A", "FORWARD", "-i", "theirs0", "-j", "ACCEPT"])
        theirs = forward()
        driver = make()
        host.do(driver.reconcile, [NET], [])
        tag = '-m comment --comment "pyengine:eeeeeeeeeeeeeeee" -j ACCEPT'
        ours = [f"-A FORWARD -i web0 {tag}", f"-A FORWARD -o web0 {tag}"]
        assert forward() == sorted([*theirs, *ours])
        host.do(make().reconcile, [NET], [])
        assert forward() == sorted([*theirs, *ours]), "not added twice"
        host.do(driver.apply, Change(remove_networks=[NET.id]))
        assert forward() == theirs


def test_bad_options() -> None:
    with pytest.raises(InvalidParameter, match="respect-host-firewall"):
        make(respect_host_firewall="perhaps")
    with pytest.raises(InvalidParameter, match="nonsense"):
        make(nonsense="1")


@pytest.mark.parametrize(
    ("options", "rules"),
    [
        ({"ip6tables": "false"}, ["meta nfproto ipv6 return"]),
        ({"allow_direct_routing": "true"}, ["@direct4 accept", "@direct6 accept"]),
        ({"bridge_accept_fwmark": "7"}, ["meta mark 0x00000007 accept"]),
        ({"bridge_accept_fwmark": "0x1/0x3"}, ["meta mark & 0x00000003 == 0x00000001 accept"]),
    ],
)
def test_keys_of_daemon_json_change_rules_that_the_driver_knows_again(
    bench: Bench, options: dict[str, str], rules: list[str]
) -> None:
    bench.driver = make(**options)
    published = endpoint(PublishedPort("tcp", 8080, 80), PublishedPort("udp", 90, 90, count=3))
    bench.host.do(bench.driver.reconcile, [NET], [published])
    more = FirewallEndpoint(
        "more", NET.id, NET.bridge, ["10.40.0.3"], [PublishedPort("tcp", 1, 80)]
    )
    bench.apply(endpoints=[more])
    listing = bench.sh("nft", "list", "table", "inet", "pyengine")
    for rule in rules:
        assert rule in listing
    assert bench.host.do(bench.driver.intact)
    direct = [entry for entry in listing.split("set direct4")[1].split("}")[:2] if "elem" in entry]
    assert bool(direct) is ("allow_direct_routing" in options)
    bench.apply(remove_endpoints=["web", "more"], remove_networks=[NET.id])
    assert bench.host.do(bench.driver.intact)
    # Counted anew, not only known to be the work of nobody else.
    bench.sh("nft", "add", "table", "inet", "foreign")
    assert bench.host.do(bench.driver.intact)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("ip6tables", "no"),
        ("allow_direct_routing", "1"),
        ("bridge_accept_fwmark", "red"),
        ("bridge_accept_fwmark", "1/"),
    ],
)
def test_values_of_keys_that_are_wrong(option: str, value: str) -> None:
    with pytest.raises(InvalidParameter, match=option.replace("_", "-")):
        make(**{option: value})
