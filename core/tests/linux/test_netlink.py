"""Our netlink messages, judged by pyroute2."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

import pytest
from pyroute2 import IPRoute

from pyengine.linux import sysctl
from pyengine.linux.interfaces import (
    dress,
    kind_missing,
    mac_for,
    owner_tag,
    tagged_owner,
    valid_name,
)
from pyengine.linux.netlink import (
    Netlink,
    Request,
    add_address,
    add_link,
    add_route,
    add_veth,
    bridge_port,
    change_link,
    delete_address,
    delete_link,
    mac_bytes,
)
from pyengine.testing.netlab import Station, stations


@pytest.fixture
def pair() -> Iterator[list[Station]]:
    with stations("here", "there") as made:
        yield made


def run(station: Station, *requests: Request) -> None:
    def act() -> None:
        with Netlink() as netlink:
            netlink.run(requests)

    station.do(act)


def index(station: Station, name: str) -> int:
    found = station.links()[name]["index"]
    assert isinstance(found, int)
    return found


def test_veth_is_made_whole_in_one_batch(pair: list[Station]) -> None:
    here, there = pair
    run(here, add_link("br0", "bridge", mac="02:42:00:00:00:01"), change_link("br0", up=True))
    run(
        here,
        add_veth(
            "v0",
            "eth0",
            peer_netns=there.netns,
            master=index(here, "br0"),
            mtu=1400,
            peer_mac="02:42:0a:00:00:02",
        ),
        change_link("v0", alias="some:tag"),
        bridge_port("v0", hairpin=True, isolated=True),
        change_link("v0", up=True),
    )
    outer, inner = here.links()["v0"], there.links()["eth0"]
    assert (outer["up"], outer["mtu"], outer["alias"]) == (True, 1400, "some:tag")
    assert (inner["mtu"], inner["mac"]) == (1400, "02:42:0a:00:00:02")

    def port() -> tuple[int, int, int]:
        with IPRoute() as route:
            link = route.get_links(ifname="v0")[0]
            data = link.get_nested("IFLA_LINKINFO", "IFLA_INFO_SLAVE_DATA")
            return (
                link.get_attr("IFLA_MASTER"),
                data.get_attr("IFLA_BRPORT_MODE"),
                data.get_attr("IFLA_BRPORT_ISOLATED"),
            )

    assert here.do(port) == (index(here, "br0"), 1, 1)


def test_dressed_interface(pair: list[Station]) -> None:
    here, there = pair
    run(here, add_veth("v0", "eth0", peer_netns=there.netns))
    run(here, change_link("v0", up=True))
    addresses = ["10.1.2.3/24", "fd00::3/64"]
    mac = here.do(dress, there.netns, "eth0", addresses, ["10.1.2.1", "fd00::1"])
    inside = there.links()["eth0"]
    assert inside["up"]
    assert mac == inside["mac"]
    assert set(addresses) <= set(inside["addresses"])
    assert there.default_routes() == {"10.1.2.1", "fd00::1"}


def test_ipv4_only_has_no_ipv6_at_all(pair: list[Station]) -> None:
    here, there = pair
    run(here, add_veth("v0", "eth0", peer_netns=there.netns), change_link("v0", up=True))
    here.do(dress, there.netns, "eth0", ["10.1.2.3/24"], [])
    assert there.links()["eth0"]["addresses"] == ["10.1.2.3/24"]
    assert there.do(sysctl.read, "net/ipv6/conf/eth0/disable_ipv6") == "1"


def test_dumps_agree_with_pyroute2(pair: list[Station]) -> None:
    here, _ = pair
    for name in ("a", "b"):
        run(
            here,
            add_link(name, "bridge", mtu=1300),
            change_link(name, up=True, alias=f"tag-{name}"),
        )
    run(
        here,
        add_address(index(here, "a"), "10.7.0.1/16"),
        add_address(index(here, "a"), "fd07::1/64"),
    )
    run(here, add_route(index(here, "a"), "10.7.0.9", "10.8.0.0/16"))
    run(here, add_route(index(here, "b"), destination="10.9.0.0/24"))

    def ours() -> tuple[dict[str, dict[str, Any]], list[str], list[tuple[str, int]]]:
        with Netlink() as netlink:
            links: dict[str, dict[str, Any]] = {
                link.name: {
                    "index": link.index,
                    "up": link.up,
                    "mac": link.mac,
                    "mtu": link.mtu,
                    "kind": link.kind,
                    "alias": link.alias,
                }
                for link in netlink.links()
            }
            return links, netlink.addresses(links["a"]["index"]), netlink.routes()

    links, addresses, routes = here.do(ours)
    theirs = here.links()
    for name, link in theirs.items():
        assert links[name] == {key: value for key, value in link.items() if key != "addresses"}
    assert set(addresses) == set(theirs["a"]["addresses"])
    a, b = theirs["a"]["index"], theirs["b"]["index"]
    assert {("10.7.0.0/16", a), ("10.8.0.0/16", a), ("10.9.0.0/24", b)} <= set(routes)


def test_more_links_than_one_answer_holds(pair: list[Station]) -> None:
    here, _ = pair
    run(here, *(add_link(f"link{n}", "bridge") for n in range(60)))

    def names() -> set[str]:
        with Netlink() as netlink:
            return {link.name for link in netlink.links()}

    assert here.do(names) == {"lo", *(f"link{n}" for n in range(60))}


def test_first_failure_is_raised_with_the_kernels_words(pair: list[Station]) -> None:
    here, _ = pair
    with pytest.raises(OSError, match="Unknown device type") as caught:
        run(
            here,
            add_link("x", "nonsense"),
            change_link("missing", up=True),
            add_link("y", "bridge"),
        )
    assert caught.value.errno == errno.EOPNOTSUPP
    assert caught.value.filename == "netlink add-nonsense x"
    assert "y" in here.links(), "the rest of a batch is carried out"


def test_what_is_gone_or_there_already_is_fine(pair: list[Station]) -> None:
    here, _ = pair
    run(here, add_link("b", "bridge"))
    for request in (add_address(index(here, "b"), "10.7.0.1/16"),) * 2:
        run(here, request)
    for request in (delete_address(index(here, "b"), "10.7.0.1/16"),) * 2:
        run(here, request)
    for _ in range(2):
        run(here, delete_link("b"))
    assert set(here.links()) == {"lo"}


def test_missing_link_is_none(pair: list[Station]) -> None:
    def look() -> object:
        with Netlink() as netlink:
            return netlink.link("nobody")

    assert pair[0].do(look) is None


def test_kinds_are_tried_without_a_trace(pair: list[Station]) -> None:
    here, _ = pair
    before = here.links()
    assert here.do(kind_missing, "nonsense") == "Operation not supported (Unknown device type)"
    assert here.do(kind_missing, "macvlan") == ""
    assert here.links() == before


def test_names_tags_and_macs() -> None:
    assert valid_name("eth0.10")
    for bad in ("", ".", "..", "a b", "a/b", "a:b", "x" * 16):
        assert not valid_name(bad)
    assert tagged_owner("e1", owner_tag("e1", "net")) == "net"
    assert tagged_owner("e1", owner_tag("e12", "net")) is None
    assert tagged_owner("e1", "") is None
    assert mac_for(["172.17.0.2/16", "fd00::1/64"]) == "02:42:ac:11:00:02"
    assert mac_for(["fd00::a:b/64"]) == "02:42:00:0a:00:0b"
    assert mac_for([]) == ""
    assert mac_bytes("02:42:ac:11:00:02") == b"\x02\x42\xac\x11\x00\x02"
    with pytest.raises(ValueError, match="not a MAC address"):
        mac_bytes("02:42")
