"""The default bridge follows daemon.json from one start to the next, is one of the operator's, or
is not there at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from harness import EngineProcess

from tests.e2e.conftest import eventually


@pytest.fixture
def engine(engine_with: Any) -> EngineProcess:
    made: EngineProcess = engine_with(live_restore=True)
    return made


def restart(engine: EngineProcess, **values: Any) -> None:
    """The next daemon, with other values; containers go on."""
    engine.stop()
    again(engine, **values)


def again(engine: EngineProcess, **values: Any) -> None:
    plain = {key.replace("_", "-"): value for key, value in values.items()}
    Path(engine.flags[engine.flags.index("--config-file") + 1]).write_text(
        json.dumps({"live-restore": True, **plain})
    )
    engine.start()


def bridge(engine: EngineProcess) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(engine.out("network", "inspect", "bridge"))[0]
    return found


def link(engine: EngineProcess, name: str) -> dict[str, Any]:
    shown = engine.in_namespace("ip", "-j", "addr", "show", name).stdout
    found: dict[str, Any] = json.loads(shown or "[{}]")[0]
    return found


def subnets(engine: EngineProcess) -> list[str]:
    return [pool["Subnet"] for pool in bridge(engine)["IPAM"]["Config"]]


RUN = ("run", "--rm", "busybox")


def test_it_is_made_anew_when_its_keys_have_changed(engine: EngineProcess) -> None:
    engine.docker("network", "create", "--subnet", "10.7.0.0/24", "own")
    before = bridge(engine)
    restart(engine)
    assert bridge(engine)["Created"] == before["Created"], "nothing has changed"

    engine.docker("create", "--name", "stopped", "busybox", "ip", "-4", "addr", "show", "eth0")
    restart(engine, bip="10.20.0.1/16", fixed_cidr="10.20.5.0/24", mtu=1300, icc=False)
    after = bridge(engine)
    assert after["Id"] == before["Id"]
    assert after["IPAM"]["Config"] == [
        {"Subnet": "10.20.0.0/16", "IPRange": "10.20.5.0/24", "Gateway": "10.20.0.1"}
    ]
    name = after["Options"]["com.docker.network.bridge.name"]
    found = link(engine, name)
    assert found["mtu"] == 1300
    assert [a["local"] for a in found["addr_info"] if a["family"] == "inet"] == ["10.20.0.1"]
    shown = engine.out("start", "-a", "stopped")
    assert "inet 10.20.5." in shown
    assert "mtu 1300" in shown

    # A subnet that somebody else has is refused, and what was there before is gone.
    restart(engine, bip="10.7.0.1/24")
    assert "the predefined network bridge cannot be made: subnet 10.7.0.0/24 overlaps" in (
        engine.tail()
    )
    restart(engine, ipv6=True, fixed_cidr_v6="fd33:1::/64")
    assert subnets(engine)[1] == "fd33:1::/64"
    assert "inet6 fd33:1::" in engine.out(*RUN, "ip", "addr", "show", "eth0")

    # Pools count for a bridge without a subnet of its own.
    restart(engine, default_address_pools=[{"base": "10.66.0.0/16", "size": 24}])
    assert subnets(engine) == ["10.66.0.0/24"]
    # A daemon that was killed leaves links and rules; the next one makes of them what it wants.
    engine.kill()
    again(engine, bip="10.21.0.1/24", ip_masq=False)
    assert subnets(engine) == ["10.21.0.0/24"]
    assert "10.66.0" not in engine.in_namespace("nft", "list", "ruleset").stdout
    engine.docker(*RUN, "ping", "-c", "1", "10.21.0.1")


def test_it_stays_while_containers_run_on_it(engine: EngineProcess) -> None:
    engine.docker("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    before = subnets(engine)
    for keys in ({"bip": "10.20.0.1/16"}, {"bridge": "none"}):
        restart(engine, **keys)
        assert subnets(engine) == before
        assert "the default bridge stays as it is: containers run on it" in engine.tail()
        engine.docker("exec", "box", "ping", "-c", "1", bridge(engine)["IPAM"]["Config"][0]
                      ["Gateway"])  # fmt: skip
    engine.docker("rm", "-f", "box")
    restart(engine, bip="10.20.0.1/16")
    assert subnets(engine) == ["10.20.0.0/16"]


def test_none_at_all(engine: EngineProcess) -> None:
    name = bridge(engine)["Options"]["com.docker.network.bridge.name"]
    engine.docker("create", "--name", "older", "busybox", "ip", "-o", "addr")
    restart(engine, bridge="none")
    assert sorted(engine.lines("network", "ls", "--format", "{{.Name}}")) == ["host", "none"]
    assert link(engine, name) == {}
    # Containers of the default network have none.
    for words in (
        ("start", "-a", "older"),
        (*RUN, "ip", "-o", "addr"),
        ("run", "--rm", "-p", "8000:80", "--network", "bridge", "busybox", "ip", "-o", "addr"),
    ):
        lines = engine.lines(*words)
        assert lines
        assert {line.split()[1] for line in lines} == {"lo"}
        assert any("127.0.0.1" in line for line in lines)
    engine.docker("network", "create", "own")
    engine.docker("run", "-d", "--name", "box", "--network", "own", "-p", "8000:80", "busybox",
                  "sleep", "1000")  # fmt: skip
    assert "8000" in engine.out("port", "box")
    engine.kill()
    again(engine, bridge="none")
    assert engine.out("exec", "box", "ip", "-o", "-4", "addr", "show", "eth0")
    engine.docker("rm", "-f", "box")
    restart(engine)
    assert "eth0" in engine.out(*RUN, "ip", "-o", "addr")


def test_a_bridge_of_the_operators(engine: EngineProcess) -> None:
    for command in (
        "ip link add mine0 type bridge",
        "ip addr add 10.44.0.1/24 dev mine0",
        "ip addr add 10.45.0.1/24 dev mine0",
    ):
        engine.in_namespace(*command.split())
    restart(engine, bridge="mine0", fixed_cidr="10.45.0.128/25")
    assert bridge(engine)["IPAM"]["Config"] == [
        {"Subnet": "10.45.0.0/24", "IPRange": "10.45.0.128/25", "Gateway": "10.45.0.1"}
    ]
    engine.docker("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    assert "master mine0" in engine.in_namespace("ip", "-o", "link").stdout
    assert int(engine.inspect("box")["NetworkSettings"]["IPAddress"].rpartition(".")[2]) >= 128
    engine.docker("exec", "box", "ping", "-c", "1", "10.45.0.1")
    engine.docker("rm", "-f", "box")
    restart(engine)
    # It has its addresses still, and goes with its owner alone.
    assert [a["local"] for a in link(engine, "mine0")["addr_info"] if a["family"] == "inet"] == [
        "10.44.0.1", "10.45.0.1",
    ]  # fmt: skip
    assert subnets(engine) != ["10.45.0.0/24"]
    engine.stop()
    Path(engine.flags[-1]).write_text('{"bridge": "nobodys0"}')
    engine.start(wait=False)
    assert engine.wait() == 1
    assert "bridge is 'nobodys0', and there is no such bridge on this host" in engine.tail()


def test_where_ports_are_published(engine: EngineProcess) -> None:
    """``ip`` is for the default bridge; a network may have an address of its own."""
    restart(engine, ip="127.0.0.1")
    address = "com.docker.network.bridge.host_binding_ipv4=127.0.0.2"
    engine.docker("network", "create", "-o", address, "bound")
    engine.docker("network", "create", "free")
    for network, seen in (("bridge", "127.0.0.1"), ("bound", "127.0.0.2"), ("free", "0.0.0.0")):
        engine.docker("run", "-d", "--name", f"on-{network}", "--network", network, "-p", "8000:80",
                      "busybox", "sleep", "1000")  # fmt: skip
        assert engine.lines("port", f"on-{network}", "80")[0] == f"{seen}:8000"
        engine.docker("rm", "-f", f"on-{network}")
        assert eventually(lambda name=network: f"on-{name}" not in engine.out("ps", "-a"))
