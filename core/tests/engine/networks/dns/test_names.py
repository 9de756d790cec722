"""Who is called what on which network."""

from __future__ import annotations

from typing import Any

import pytest

from pyengine.engine.model import Container, ContainerConfig, EndpointSettings, HostConfig
from pyengine.engine.networks.dns.names import Names, pointed_at


def container(name: str, *endpoints: tuple[str, str], **fields: Any) -> Container:
    networks = {
        network: EndpointSettings(ip_address=address, dns_names=[name, f"{name}-id"])
        for network, address in endpoints
    }
    return Container(
        id=f"{name}-id", name=name, created="", path="", args=[], config=ContainerConfig(),
        host_config=HostConfig(), networks=networks, **fields,
    )  # fmt: skip


def first(found: tuple[list[str], list[str]] | None) -> list[str] | None:
    return None if found is None else sorted(found[0])


def test_names_ids_and_aliases_in_any_case() -> None:
    me = container("me", ("n", "10.0.0.2"))
    web = container("Web_1", ("n", "10.0.0.3"))
    web.networks["n"].aliases = ["also"]
    names = Names(lambda: [me, web])
    for name in ("web_1", "WEB_1.", "Web_1-id", "ALSO", "also.n", "Web_1.N."):
        assert first(names.addresses(me, name)) == ["10.0.0.3"], name
    for name in ("nobody", "also.m", "", ".", "n"):
        assert names.addresses(me, name) is None, name


def test_one_sees_only_the_networks_that_one_is_on() -> None:
    me = container("me", ("a", "10.0.0.2"), ("bridge", "172.17.0.2"))
    names = Names(
        lambda: [
            me,
            container("near", ("a", "10.0.0.3"), ("b", "10.1.0.3")),
            container("far", ("b", "10.1.0.4")),
            container("plain", ("bridge", "172.17.0.3")),
        ]
    )
    assert first(names.addresses(me, "near")) == ["10.0.0.3"]
    assert names.addresses(me, "near.b") is None
    assert names.addresses(me, "far") is None
    assert names.addresses(me, "plain") is None, "the default bridge has no names"


def test_an_alias_may_have_many_addresses() -> None:
    me = container("me", ("n", "10.0.0.2"))
    others = [container(f"c{i}", ("n", f"10.0.0.{i}")) for i in (3, 4, 5)]
    for other in others:
        other.networks["n"].aliases = ["service"]
    names = Names(lambda: [me, *others])
    seen = {tuple(names.addresses(me, "service")[0]) for _ in range(100)}  # type: ignore[index]
    assert {tuple(sorted(order)) for order in seen} == {("10.0.0.3", "10.0.0.4", "10.0.0.5")}
    assert len(seen) > 1, "not always in one order"


def test_both_families() -> None:
    me = container("me", ("n", "10.0.0.2"))
    dual = container("dual", ("n", "10.0.0.3"))
    dual.networks["n"].global_ipv6_address = "fd00::3"
    names = Names(lambda: [me, dual])
    assert names.addresses(me, "dual") == (["10.0.0.3"], ["fd00::3"])
    assert names.addresses(me, "me") == (["10.0.0.2"], [])
    assert names.reverse(me, "fd00::3") == "dual.n"


def test_links_are_ones_own() -> None:
    me = container("me", ("n", "10.0.0.2"))
    me.host_config.links = ["web:db"]
    you = container("you", ("n", "10.0.0.4"))
    you.networks["n"].links = ["web:store"]
    names = Names(lambda: [me, you, container("web", ("n", "10.0.0.3"))])
    assert first(names.addresses(me, "DB")) == ["10.0.0.3"]
    assert names.addresses(you, "db") is None
    assert first(names.addresses(you, "store")) == ["10.0.0.3"]


def test_links_are_of_one_network() -> None:
    me = container("me", ("a", "10.0.0.2"), ("b", "10.1.0.2"))
    me.host_config.network_mode, me.host_config.links = "a", ["web:db"]
    me.networks["b"].links = ["web:web"]
    web = container("web", ("a", "10.0.0.3"), ("b", "10.1.0.3"))
    db = container("db", ("b", "10.1.0.4"))
    names = Names(lambda: [me, web, db])
    assert first(names.addresses(me, "db")) == ["10.0.0.3"]
    assert first(names.addresses(me, "web")) == ["10.1.0.3"]
    web.networks.pop("a")
    names.changed()
    assert first(names.addresses(me, "db")) == ["10.1.0.4"], "a link is nothing elsewhere"


def test_changes_count_once_they_are_told() -> None:
    me, web = container("me", ("n", "10.0.0.2")), container("web", ("n", "10.0.0.3"))
    records = [me]
    names = Names(lambda: records)
    assert names.addresses(me, "web") is None
    records.append(web)
    names.changed()
    assert first(names.addresses(me, "web")) == ["10.0.0.3"]
    web.networks["n"].ip_address = ""
    names.changed()
    assert names.addresses(me, "web") is None, "what does not run has no address"


def test_reverse() -> None:
    me, web = container("me", ("n", "10.0.0.2")), container("web", ("n", "10.0.0.3"))
    names = Names(lambda: [me, web, container("far", ("m", "10.1.0.3"))])
    assert names.reverse(me, "10.0.0.3") == "web.n"
    assert names.reverse(me, "10.1.0.3") == ""


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("3.0.0.10.in-addr.arpa.", "10.0.0.3"),
        ("3.0.0.10.IN-ADDR.ARPA", "10.0.0.3"),
        ("0.0.10.in-addr.arpa", ""),
        ("300.0.0.10.in-addr.arpa", ""),
        ("3." + "0." * 27 + "0.0.d.f.ip6.arpa", "fd00::3"),
        ("x." + "0." * 27 + "0.0.d.f.ip6.arpa", ""),
        ("example.org", ""),
    ],
)
def test_pointed_at(name: str, address: str) -> None:
    assert pointed_at(name) == address
