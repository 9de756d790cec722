"""Ports taken on the host, seen through sock_diag."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from pyengine.linux.sockdiag import bound_sockets
from pyengine.testing.netlab import Station, stations


def _seen(station: Station, port: int) -> set[tuple[str, str]]:
    return {(s.protocol, s.address) for s in station.do(bound_sockets) if s.port == port}


@pytest.fixture
def machine() -> Iterator[Station]:
    with stations("machine") as (station,):
        yield station


def _open(station: Station, family: int, kind: int, address: str, v6only: int = 1) -> socket.socket:
    opened = station.do(socket.socket, family, kind)
    if family == socket.AF_INET6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
    opened.bind((address, 4040))
    if kind == socket.SOCK_STREAM:
        opened.listen(1)
    return opened


@pytest.mark.parametrize(
    ("family", "kind", "address", "expected"),
    [
        (socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1", {("tcp", "127.0.0.1")}),
        (socket.AF_INET, socket.SOCK_STREAM, "", {("tcp", "0.0.0.0")}),
        (socket.AF_INET, socket.SOCK_DGRAM, "127.0.0.1", {("udp", "127.0.0.1")}),
        (socket.AF_INET6, socket.SOCK_STREAM, "::1", {("tcp", "::1")}),
        (socket.AF_INET6, socket.SOCK_STREAM, "::", {("tcp", "::")}),
        (socket.AF_INET6, socket.SOCK_DGRAM, "::", {("udp", "::")}),
    ],
)
def test_a_bound_socket_is_seen(
    machine: Station, family: int, kind: int, address: str, expected: set[tuple[str, str]]
) -> None:
    assert _seen(machine, 4040) == set()
    with _open(machine, family, kind, address):
        assert _seen(machine, 4040) == expected
    assert _seen(machine, 4040) == set()


@pytest.mark.parametrize(
    ("kind", "name"), [(socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp")]
)
def test_a_socket_for_both_families_counts_for_both(machine: Station, kind: int, name: str) -> None:
    with _open(machine, socket.AF_INET6, kind, "::", v6only=0):
        assert _seen(machine, 4040) == {(name, "::"), (name, "0.0.0.0")}


def test_a_connection_is_no_listener(machine: Station) -> None:
    with _open(machine, socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1") as server:
        client = machine.do(socket.create_connection, ("127.0.0.1", 4040))
        with client, server.accept()[0]:
            server.close()
            assert _seen(machine, 4040) == set()


def test_the_inode_is_the_descriptors(machine: Station) -> None:
    with _open(machine, socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1") as server:
        (found,) = [s for s in machine.do(bound_sockets) if s.port == 4040]
        assert os.readlink(f"/proc/self/fd/{server.fileno()}") == f"socket:[{found.inode}]"


def test_more_sockets_than_one_answer_holds(machine: Station) -> None:
    opened = [machine.do(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) for _ in range(900)]
    try:
        for number, each in enumerate(opened):
            each.bind(("127.0.0.1", 20000 + number))
        ports = {s.port for s in machine.do(bound_sockets)}
        assert ports == set(range(20000, 20900))
    finally:
        for each in opened:
            each.close()
