"""Networks that users make: families, options, names of links, and when they may go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import Docker


@pytest.fixture
def network(docker: Docker) -> Iterator[Any]:
    """Makes networks, by the words of ``network create``; their names."""
    made: list[str] = []

    def make(*words: str) -> str:
        made.append(f"net-{docker.name()}")
        docker("network", "create", *words, made[-1])
        return made[-1]

    yield make
    docker.clean()
    for name in made:
        docker("network", "rm", "-f", name)


def test_it_may_go_as_soon_as_its_last_container_has_ended(docker: Docker) -> None:
    for _ in range(8):
        first, second, name = docker.name(), docker.name(), docker.name()
        docker("network", "create", first)
        docker("network", "create", second)
        docker("create", "--name", name, "--network", first, "busybox", "true")
        docker("network", "connect", second, name)
        docker("start", "-a", name)
        docker("network", "rm", first, second)


def test_without_ipv4(docker: Docker, network: Any) -> None:
    """Addresses, names and the way out are IPv6's alone."""
    name = network("-o", "com.docker.network.enable_ipv4=false", "--ipv6")
    (shown,) = json.loads(docker.out("network", "inspect", name))
    assert (shown["EnableIPv4"], shown["EnableIPv6"]) == (False, True)
    (pool,) = shown["IPAM"]["Config"]
    assert ":" in pool["Subnet"]
    server = docker.up("--network", name, "busybox", "sh", "-c", "echo up; sleep 60")
    script = (
        f"ip -4 -o addr show dev eth0; ip -6 route show default; cat /etc/hosts;"
        f"ping -c1 -W3 {server} >/dev/null && echo reached"
    )
    seen = docker.out("run", "--rm", "--network", name, "busybox", "sh", "-c", script)
    assert " inet " not in seen
    assert f"default via {pool['Gateway'].split('/')[0]} dev eth0" in seen
    assert seen.endswith("reached")
    endpoint = json.loads(
        docker.state(server, f'{{{{json (index .NetworkSettings.Networks "{name}")}}}}')
    )
    assert (endpoint["IPAddress"], endpoint["Gateway"]) == ("", "")
    assert endpoint["GlobalIPv6Address"]


def test_options_say_which_families(docker: Docker, network: Any) -> None:
    name = network("-o", "com.docker.network.enable_ipv6=true")
    (shown,) = json.loads(docker.out("network", "inspect", name))
    assert shown["EnableIPv6"] is True
    assert shown["Options"] == {"com.docker.network.enable_ipv6": "true"}
    docker.fails(
        *("network", "create", "-o", "com.docker.network.enable_ipv4=false", "none-at-all"),
        code=1,
        says="IPv4 or IPv6 must be enabled",
    )
    docker.fails(
        *("network", "create", "-o", "com.docker.network.enable_ipv6=perhaps", "wrong"),
        code=1,
        says="invalid value 'perhaps'",
    )
