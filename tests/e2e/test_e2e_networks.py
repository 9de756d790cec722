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


def routes(docker: Docker, name: str) -> list[str]:
    """The default routes inside, IPv4's first: gateway and link."""
    shown = docker.exec(name, "sh", "-c", "ip -4 route show default; ip -6 route show default")
    return [" ".join(line.split()[2:5:2]) for line in shown.splitlines()]


def test_the_way_out_follows_the_networks(docker: Docker, network: Any) -> None:
    """By priority, whenever a network comes or goes, and never through an internal one."""
    inside = network("--internal")
    low, high = (network("--ipv6", "--subnet", f"10.77.{n}.0/24",
                         "--subnet", f"fd77:{n}::/64") for n in (1, 2))  # fmt: skip
    name = docker.up("--network", inside, "busybox", "sleep", "60")
    assert routes(docker, name) == []
    docker("network", "connect", low, name)
    assert routes(docker, name) == ["10.77.1.1 eth1", "fd77:1::1 eth1"]
    wish = {"Container": name, "EndpointConfig": {"GwPriority": 5}}
    assert docker.engine.api("POST", f"/networks/{high}/connect", wish)[0] == 200
    assert routes(docker, name) == ["10.77.2.1 eth2", "fd77:2::1 eth2"]
    docker("network", "disconnect", high, name)
    assert routes(docker, name) == ["10.77.1.1 eth1", "fd77:1::1 eth1"]
    docker("network", "disconnect", low, name)
    assert routes(docker, name) == []


def test_each_family_has_its_own_way_out(docker: Docker, network: Any) -> None:
    four = network("--subnet", "10.78.1.0/24")
    six = network(
        *("-o", "com.docker.network.enable_ipv4=false", "--ipv6", "--subnet", "fd78:1::/64")
    )
    name = docker.up("--network", four, "busybox", "sleep", "60")
    docker("network", "connect", six, name)
    assert routes(docker, name) == ["10.78.1.1 eth0", "fd78:1::1 eth1"]
    docker("restart", "-t", "0", name)
    assert [line.split()[0] for line in routes(docker, name)] == ["10.78.1.1", "fd78:1::1"]


def test_networks_that_are_listed_are_all(docker: Docker, network: Any) -> None:
    """A client that lists networks and leaves the mode out does not mean the default bridge too."""
    name, container = network(), docker.name()
    body = {"Image": "busybox", "NetworkingConfig": {"EndpointsConfig": {name: {}}}}
    assert docker.engine.api("POST", f"/containers/create?name={container}", body)[0] == 201
    docker("start", container)
    assert (
        docker.state(container, "{{range $n, $_ := .NetworkSettings.Networks}}{{$n}} {{end}}")
        == name
    )


def test_the_hosts_file_follows_the_networks(docker: Docker, network: Any) -> None:
    """And keeps what the container has written into it."""
    first, second = (network("--ipv6", "--subnet", f"10.79.{n}.0/24",
                             "--subnet", f"fd79:{n}::/64") for n in (1, 2))  # fmt: skip
    container = docker.up("--network", first, "--hostname", "me", "busybox", "sleep", "60")
    docker.exec(container, "sh", "-c", "printf '192.0.2.1 own' >>/etc/hosts")

    def lines() -> list[str]:
        return docker.exec(container, "sed", "1,/ff02::2/d", "/etc/hosts").split("\n")

    mine, other = (["10.79.1.2\tme", "fd79:1::2\tme"], ["10.79.2.2\tme", "fd79:2::2\tme"])
    docker("network", "connect", second, container)
    assert lines() == [*mine, "192.0.2.1 own", *other]
    docker("network", "disconnect", first, container)
    assert lines() == ["192.0.2.1 own", *other]
    docker("network", "disconnect", second, container)
    assert lines() == ["192.0.2.1 own"]


def test_a_mac_address_is_kept_from_start_to_start(docker: Docker, network: Any) -> None:
    name, other, mac = network(), network(), "02:42:ac:11:00:42"
    container = docker.up("--network", f"name={name},mac-address={mac}", "busybox", "sleep", "60")
    docker("network", "connect", other, container)
    for _ in range(2):
        assert docker.exec(container, "cat", "/sys/class/net/eth0/address") == mac
        assert docker.exec(container, "cat", "/sys/class/net/eth1/address") != mac
        assert docker.state(container, "{{.Config.MacAddress}}") == mac
        docker("restart", "-t", "0", container)
    docker("network", "disconnect", name, container)
    docker("network", "connect", name, container)
    assert docker.exec(container, "cat", "/sys/class/net/eth0/address") != mac


def test_a_container_without_ipv6(docker: Docker, network: Any) -> None:
    """On a network with it, too."""
    name = network("--ipv6")
    off = ("--sysctl", "net.ipv6.conf.all.disable_ipv6=1")
    container = docker.up("--network", name, *off, "busybox", "sleep", "60")
    assert "inet6" not in docker.exec(container, "ip", "address")
    assert ":" not in docker.exec(container, "cat", "/etc/hosts")
    shown = docker.state(
        container, f'{{{{(index .NetworkSettings.Networks "{name}").GlobalIPv6Address}}}}'
    )
    assert shown == ""
    docker("network", "connect", network("--ipv6"), container)
    assert "inet6" not in docker.exec(container, "ip", "address")


def test_what_a_container_is_made_like_is_not_asked_for(docker: Docker, network: Any) -> None:
    """Clients that make a container anew, or one like another, send back all of its endpoints."""
    name = network("--ipv6", "-o", "com.docker.network.enable_ipv4=false")
    first, second = docker.up("--network", name, "busybox", "sleep", "60"), docker.name()
    (shown,) = json.loads(docker.out("inspect", first))
    endpoint = shown["NetworkSettings"]["Networks"][name] | {"MacAddress": ""}
    endpoint |= {"IPAddress": "192.0.2.9", "IPPrefixLen": 24, "Gateway": "192.0.2.1"}
    body = {
        "Image": "busybox",
        "Cmd": ["sleep", "60"],
        "HostConfig": {"NetworkMode": name},
        "NetworkingConfig": {"EndpointsConfig": {name: endpoint}},
    }
    assert docker.engine.api("POST", f"/containers/create?name={second}", body)[0] == 201
    docker("start", second)
    (other,) = json.loads(docker.out("inspect", second))
    found = other["NetworkSettings"]["Networks"][name]
    assert (found["IPAddress"], found["Gateway"]) == ("", "")
    assert found["EndpointID"] != endpoint["EndpointID"]
    assert found["GlobalIPv6Address"] != endpoint["GlobalIPv6Address"]
    assert "192.0.2" not in docker.exec(second, "ip", "address")


def test_names_of_links(docker: Docker, network: Any) -> None:
    """An endpoint names its own; the others get the lowest number that is free."""
    plain, own = network(), network("-o", "com.docker.network.container_iface_prefix=lan")
    option = "driver-opt=com.docker.network.endpoint.ifname"
    name = docker.up("--network", f"name={plain},{option}=eth1", "busybox", "sleep", "60")

    def links() -> set[str]:
        return set(docker.exec(name, "ls", "/sys/class/net").split()) - {"lo"}

    assert links() == {"eth1"}
    docker("network", "connect", own, name)
    docker("network", "connect", "bridge", name)
    assert links() == {"eth1", "lan0", "eth0"}
    docker("network", "disconnect", "bridge", name)
    docker("network", "connect", "bridge", name)
    assert links() == {"eth1", "lan0", "eth0"}
    docker.fails(
        *("run", "--rm", "--network", f"name={plain},{option}=a/b", "busybox", "true"),
        code=125,
        says="invalid interface name 'a/b'",
    )


def test_what_does_not_run_may_be_connected_anew(docker: Docker, network: Any) -> None:
    """Its place on the network is then as the last request says."""
    net, name = network(), docker.name()
    docker("create", "--name", name, "--network", net, "busybox", "sleep", "1000")
    docker("network", "connect", "--alias", "first", net, name)
    docker("network", "connect", "--alias", "second", net, name)
    docker("start", name)
    shown = json.loads(docker.out("inspect", name))[0]["NetworkSettings"]["Networks"][net]
    assert "second" in shown["Aliases"]
    assert "first" not in shown["Aliases"]
    done = docker("network", "connect", net, name, check=False)
    assert f"endpoint with name {name} already exists in network {net}" in done.stderr


def test_an_address_that_no_network_card_has(docker: Docker, network: Any) -> None:
    net, name = network(), docker.name()
    body: dict[str, Any] = {"Image": "busybox", "MacAddress": "02:42:ac"}
    status, answer = docker.engine.api("POST", "/v1.45/containers/create", body)
    words = "invalid config for network bridge: invalid MAC address 02:42:ac"
    assert (status, answer["message"]) == (400, words)
    docker("create", "--name", name, "busybox", "true")
    body = {"Container": name, "EndpointConfig": {"MacAddress": "x"}}
    status, answer = docker.engine.api("POST", f"/networks/{net}/connect", body)
    assert (status, answer["message"]) == (400, "invalid MAC address x")


def test_who_shares_a_network_has_its_names(docker: Docker, network: Any) -> None:
    owner = docker.up("--network", network(), "-h", "owner", "busybox", "sleep", "1000")
    docker("exec", owner, "sh", "-c", "echo 10.9.9.9 mine >>/etc/hosts")
    files = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"]
    guest = docker.up("--network", f"container:{owner}", "busybox", "sleep", "1000")
    assert docker.exec(guest, "cat", *files) == docker.exec(owner, "cat", *files)
    assert "127.0.0.11" in docker.exec(guest, "cat", "/etc/resolv.conf")
    assert docker.exec(guest, "hostname") == "owner"
    paths = "{{.HostsPath}} {{.HostnamePath}} {{.ResolvConfPath}} {{.Config.Hostname}}"
    assert docker.state(guest, paths) == docker.state(owner, paths)
    own = docker.name()
    says = "cannot join own network namespace"
    docker.fails(
        "run", "--name", own, "--network", f"container:{own}", "busybox", code=125, says=says
    )


def test_a_restart_keeps_address_and_mac(docker: Docker, network: Any) -> None:
    mac = "02:42:00:00:00:99"
    name = network("--ipv6", "--subnet", "fd00:9::/64", "--subnet", "10.212.0.0/24")
    field = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.GlobalIPv6Address}} "
    field += "{{.MacAddress}}{{end}}"
    other = docker.up("--network", name, "busybox", "sleep", "1000")
    kept = docker.up("--network", name, "--mac-address", mac, "busybox", "sleep", "1000")
    before = docker.state(kept, field)
    assert before.endswith(mac)
    docker("stop", "-t", "0", kept, other)
    docker("start", kept)
    assert docker.state(kept, field) == before
    assert mac in docker.exec(kept, "ip", "link", "show", "eth0")
    # Who is not asked for takes another one when somebody has it.
    docker("stop", "-t", "0", kept)
    docker.up("--network", name, "--ip", before.split()[0], "busybox", "sleep", "1000")
    docker("start", kept)
    assert docker.state(kept, field).split()[0] != before.split()[0]


def test_networks_that_do_not_go_together(docker: Docker, network: Any) -> None:
    name = network()
    alone = docker.up("--network", "none", "busybox", "sleep", "1000")
    says = "container cannot be connected to multiple networks with one of the networks in private"
    docker.fails("network", "connect", name, alone, code=1, says=says)
    other = docker.up("--network", name, "busybox", "sleep", "1000")
    docker.fails("network", "connect", "none", other, code=1, says=says)
    says = "cannot connect container to host network - container must be created in host network"
    docker.fails("network", "connect", "host", other, code=1, says=says)
    hosted = docker.up("--network", "host", "busybox", "sleep", "1000")
    says = "cannot disconnect container from host network - container was created in host network"
    docker.fails("network", "disconnect", "host", hosted, code=1, says=says)
    says = "cannot be connected to any other network"
    docker.fails("network", "connect", name, hosted, code=1, says=says)
    says = "network-scoped alias is supported only for containers in user defined networks"
    docker.fails("network", "connect", "--alias", "x", "bridge", other, code=1, says=says)
    says = "operation is not permitted on predefined default network"
    docker.fails("network", "create", "default", code=1, says=says)


def test_a_stop_is_answered_when_the_networks_are_left(docker: Docker, network: Any) -> None:
    first, second = network(), network()
    name = docker.up("--network", first, "busybox", "sleep", "1000")
    docker("network", "connect", second, name)
    since = docker.out("info", "-f", "{{.SystemTime}}")
    docker("stop", "-t", "0", name)
    until = docker.out("info", "-f", "{{.SystemTime}}")
    told = docker.out("events", "--since", since, "--until", until, "-f", "type=network",
                      "--format", "{{.Action}} {{.Actor.Attributes.name}}")  # fmt: skip
    assert sorted(told.splitlines()) == sorted(f"disconnect {one}" for one in (first, second))


def test_networks_change_right_after_a_stop(docker: Docker, network: Any) -> None:
    first, second = network(), network()
    name = docker.up("--network", first, "busybox", "sleep", "1000")
    for _ in range(5):
        docker("stop", "-t", "0", name)
        docker("network", "disconnect", first, name)
        docker("network", "connect", second, name)
        docker("start", name)
        first, second = second, first


def test_link_local_addresses(docker: Docker, network: Any) -> None:
    name = docker.up("--network", network("--ipv6", "--subnet", "fd00:8::/64"),
                     "--link-local-ip", "169.254.7.7", "--link-local-ip", "fe80::77",
                     "busybox", "sleep", "1000")  # fmt: skip
    shown = docker.exec(name, "ip", "addr", "show", "eth0")
    assert "169.254.7.7/16" in shown
    assert "fe80::77/64" in shown
    docker("restart", "-t", "0", name)
    assert "169.254.7.7/16" in docker.exec(name, "ip", "addr", "show", "eth0")
    says = "invalid link-local IP address: 169.253.5.5"
    docker.fails("create", "--link-local-ip", "169.253.5.5", "busybox", code=1, says=says)


def test_subnets_are_shown_ipv4_first(docker: Docker, network: Any) -> None:
    name = network("--ipv6", "--subnet", "fd00:7::/64", "--subnet", "10.211.0.0/16",
                   "--ip-range", "10.211.5.0/24", "--gateway", "10.211.5.254")  # fmt: skip
    shown = json.loads(docker.out("network", "inspect", "-f", "{{json .IPAM.Config}}", name))
    assert [config["Subnet"] for config in shown] == ["10.211.0.0/16", "fd00:7::/64"]
    assert (shown[0]["IPRange"], shown[0]["Gateway"]) == ("10.211.5.0/24", "10.211.5.254")


def test_ports_are_not_published_on_internal_networks(docker: Docker, network: Any) -> None:
    inside, outside = network("--internal"), network()
    name = docker.up("--network", inside, "-p", "18471:80", "busybox", "sleep", "1000")
    ports = "{{json .NetworkSettings.Ports}}"
    assert json.loads(docker.state(name, ports)).get("80/tcp") is None
    docker("network", "connect", outside, name)
    assert docker.out("port", name, "80").splitlines()[0] == "0.0.0.0:18471"
