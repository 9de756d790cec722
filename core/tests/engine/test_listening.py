"""At which addresses the daemon listens."""

from __future__ import annotations

import pytest

from pyengine.config import DEFAULT_SOCKET, Config
from pyengine.engine.listening import addresses


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        ([], [DEFAULT_SOCKET]),
        (["unix:///x", "unix:///x"], ["unix:///x"]),
        (["127.0.0.1:1", "tcp://127.0.0.1:1"], ["tcp://127.0.0.1:1"]),
        (["localhost", "tcp://"], ["tcp://localhost:2375", "tcp://127.0.0.1:2375"]),
        (["[::1]", ":7", "fd://"], ["tcp://[::1]:2375", "tcp://127.0.0.1:7", "fd://"]),
    ],
)
def test_addresses(hosts: list[str], expected: list[str]) -> None:
    assert addresses(Config(hosts=hosts)) == expected


def test_the_port_of_tls() -> None:
    assert addresses(Config(hosts=["host"], tlsverify=True)) == ["tcp://host:2376"]
