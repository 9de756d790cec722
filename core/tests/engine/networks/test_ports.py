"""Host ports: leases, conflicts in Docker's words, spans."""

from __future__ import annotations

from typing import Any

import pytest

from pyengine.contracts.firewall import PublishedPort
from pyengine.engine.model import PortBinding
from pyengine.engine.networks.ports import (
    Grant,
    PortAllocator,
    merge,
    parse_port,
    parse_range,
    unpublished,
)
from pyengine.errors import EngineError, InvalidParameter
from pyengine.linux.sockdiag import BoundSocket


def allocator(
    *sockets: BoundSocket, own: set[int] | None = None, ipv6: bool = False
) -> PortAllocator:
    return PortAllocator(lambda: own or set(), lambda: sockets, ipv6)


def bind(port: str = "", ip: str = "") -> list[PortBinding]:
    return [PortBinding(host_ip=ip, host_port=port)]


def ask(
    ports: PortAllocator, owner: str, bindings: dict[str, list[PortBinding]], **more: Any
) -> Grant:
    return ports.allocate(owner, f"/{owner}", "ep1", "172.17.0.2", bindings, **more)


def shown(grant: Grant) -> dict[str, list[tuple[str, str]]]:
    return {k: [(b.host_ip, b.host_port) for b in v or []] for k, v in grant.bindings.items()}


def test_both_families_are_bound_and_shown() -> None:
    grant = ask(allocator(ipv6=True), "web", {"80/tcp": bind("8080")})
    assert shown(grant) == {"80/tcp": [("0.0.0.0", "8080"), ("::", "8080")]}
    assert grant.published == [
        PublishedPort("tcp", 8080, 80, "0.0.0.0"),
        PublishedPort("tcp", 8080, 80, "::"),
    ]


def test_an_address_that_is_named_is_the_only_one() -> None:
    grant = ask(allocator(ipv6=True), "web", {"80": bind("8080", "127.0.0.1")})
    assert shown(grant) == {"80/tcp": [("127.0.0.1", "8080")]}
    bindings = {"80": bind("8080")}
    grant = ask(allocator(ipv6=True), "web", bindings, default_address="10.0.0.1")
    assert shown(grant) == {"80/tcp": [("10.0.0.1", "8080")]}


def test_conflict_with_a_lease_has_dockers_words_and_takes_nothing() -> None:
    ports = allocator()
    ask(ports, "web", {"80/tcp": bind("8080")})
    with pytest.raises(EngineError) as caught:
        ask(ports, "late", {"443/tcp": bind("8443"), "80/tcp": bind("8080", "127.0.0.1")})
    assert caught.value.message() == (
        "driver failed programming external connectivity on endpoint late (ep1): "
        "Bind for 0.0.0.0:8080 failed: port is already allocated"
    )
    assert caught.value.status == 500
    assert ask(ports, "third", {"80/tcp": bind("8443")}).published
    ports.release("web")
    assert ask(ports, "late", {"80/tcp": bind("8080", "127.0.0.1")}).published


def test_addresses_and_protocols_keep_apart() -> None:
    ports = allocator()
    ask(ports, "one", {"80/tcp": bind("8080", "127.0.0.1")})
    ask(ports, "two", {"80/tcp": bind("8080", "127.0.0.2")})
    ask(ports, "three", {"80/udp": bind("8080")})
    with pytest.raises(EngineError):
        ask(ports, "four", {"80/tcp": bind("8080")})


def test_conflict_with_a_socket_of_the_host() -> None:
    ports = allocator(BoundSocket("tcp", "127.0.0.1", 8080, 5))
    with pytest.raises(EngineError) as caught:
        ask(ports, "web", {"80/tcp": bind("8080")})
    assert caught.value.message().endswith(
        "failed to bind host port for 0.0.0.0:8080:172.17.0.2:80/tcp: address already in use"
    )
    assert ask(ports, "web", {"80/tcp": bind("8080", "10.0.0.1")}).published
    assert ask(ports, "udp", {"80/udp": bind("8080")}).published


def test_the_engines_own_socket_is_no_conflict() -> None:
    ports = allocator(BoundSocket("tcp", "::", 8080, 5), own={5, 6}, ipv6=True)
    assert ask(ports, "web", {"80/tcp": bind("8080")}).published


def test_dynamic_ports_rotate_and_skip_what_is_taken() -> None:
    ports = allocator()
    first = ask(ports, "a", {"80/tcp": bind()}).published[0].host_port
    second = ask(ports, "b", {"80/tcp": bind()}).published[0].host_port
    ports.release("a")
    third = ask(ports, "c", {"80/tcp": bind()}).published[0].host_port
    assert [second, third] == [first + 1, first + 2]
    assert ask(ports, "d", {"80/tcp": bind("0")}).published[0].host_port == first + 3
    busy = allocator(BoundSocket("tcp", "0.0.0.0", first, 1))
    assert ask(busy, "a", {"80/tcp": bind()}).published[0].host_port == first + 1


def test_a_range_gives_its_free_ports_then_none() -> None:
    ports = allocator()
    wanted = {"80/tcp": bind("9000-9001")}
    got = [ask(ports, owner, wanted).published[0].host_port for owner in ("a", "b")]
    assert got == [9000, 9001]
    with pytest.raises(EngineError, match="all ports are allocated"):
        ask(ports, "c", wanted)


def test_what_can_be_chosen_leaves_alone_what_is_named() -> None:
    first = ask(allocator(), "first", {"80": bind()}).bindings["80/tcp"]
    assert first is not None
    dynamic = first[0].host_port
    bindings = {"80": bind(), "81": bind(f"{dynamic}-65000"), "90": bind(dynamic)}
    grant = shown(ask(allocator(), "web", bindings))
    assert list(grant) == ["80/tcp", "81/tcp", "90/tcp"]
    assert grant["90/tcp"] == [("0.0.0.0", dynamic)]
    assert len({port for row in grant.values() for _, port in row}) == 3


def test_publish_all_takes_exposed_ports() -> None:
    grant = ask(allocator(), "a", {"80/tcp": bind("80")}, exposed={"53/udp": {}}, publish_all=True)
    assert set(grant.bindings) == {"80/tcp", "53/udp"}
    assert ask(allocator(), "b", {"80/tcp": []}, exposed={"53/udp": {}}).bindings == {}


def test_consecutive_ports_become_one_span() -> None:
    bindings = {f"{port}/tcp": bind(str(port)) for port in range(8000, 8100)}
    assert ask(allocator(), "a", bindings).published == [
        PublishedPort("tcp", 8000, 8000, "0.0.0.0", 100)
    ]
    apart = [PublishedPort("tcp", 80, 80), PublishedPort("tcp", 81, 82)]
    assert merge(apart) == apart


def test_restored_leases_hold() -> None:
    ports = allocator()
    ports.restore("web", [PublishedPort("tcp", 8000, 80, count=3)])
    with pytest.raises(EngineError, match="already allocated"):
        ask(ports, "late", {"80/tcp": bind("8002")})


@pytest.mark.parametrize("text", ["", "0", "65536", "x", "9-8", "1-70000", "-", "1-", "٣"])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid port specification"):
        parse_range(text)


def test_keys() -> None:
    assert parse_port("80/TCP") == (80, "tcp")
    assert parse_port("80") == (80, "tcp")
    with pytest.raises(InvalidParameter, match="invalid proto"):
        parse_port("80/icmp")
    with pytest.raises(InvalidParameter):
        parse_port("80-81/tcp")


def test_bad_address() -> None:
    with pytest.raises(InvalidParameter, match="invalid IP address: nonsense"):
        ask(allocator(), "a", {"80/tcp": bind("80", "nonsense")})


def test_ports_that_are_exposed_alone() -> None:
    assert unpublished({"99": {}, "53/UDP": {}, "8000-8001/tcp": {}}, ["99/tcp", "http"]) == {
        "99/tcp": None,
        "53/udp": None,
        "8000/tcp": None,
        "8001/tcp": None,
    }
