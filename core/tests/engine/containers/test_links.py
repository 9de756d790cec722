"""What links tell a container."""

from __future__ import annotations

from typing import Any

import pytest

from pyengine.engine.containers.links import bind, further_names, linked, shown, split
from pyengine.engine.model import (
    Container,
    ContainerConfig,
    EndpointSettings,
    HostConfig,
    State,
    Status,
)
from pyengine.errors import Conflict, NotFound


def container(name: str, network: str = "bridge", **fields: Any) -> Container:
    values: dict[str, Any] = {
        "id": name * 8,
        "name": name,
        "created": "",
        "path": "sh",
        "args": [],
        "config": ContainerConfig(hostname=f"host-{name}"),
        "host_config": HostConfig(),
        "networks": {network: EndpointSettings(ip_address="172.17.0.9")},
        "state": State(status=Status.RUNNING),
    }
    return Container(**{**values, **fields})


def web(**fields: Any) -> Container:
    config = ContainerConfig(
        hostname="host-web",
        env=["FOO=1", "PATH=/bin", "HOME=/root", "BARE"],
        exposed_ports={"81/tcp": {}, "80/tcp": {}, "53/udp": {}},
    )
    return container("web", **{"config": config, **fields})


def test_names_and_aliases() -> None:
    assert split("web") == ("web", "web")
    assert split("/web:/other/db") == ("web", "db")


def test_a_link_is_to_a_container_and_not_to_its_name() -> None:
    other, me = web(), container("me")
    known = {"web": other, other.id: other}

    def find(name: str) -> Container:
        if name not in known:
            raise NotFound(name)
        return known[name]

    me.host_config.links = bind(["web:db", "/web"], find)
    assert shown(me, find) == ["/web:/me/db", "/web:/me/web"]
    del known["web"]
    other.name = "new"
    assert shown(me, find) == ["/new:/me/db", "/new:/me/web"]
    assert further_names([me, other], find) == {other.id: ["/me/db", "/me/web"]}
    assert linked(me, find).hosts.keys() == {"db host-web new", "web host-web new"}
    me.host_config.network_mode = "mine"
    assert shown(me, find) is None
    assert further_names([me], find) == {}
    me.host_config.network_mode = "bridge"
    known.clear()
    assert shown(me, find) is None


def test_hosts_and_variables_of_the_default_bridge() -> None:
    other = web()
    found = linked(
        container("me", host_config=HostConfig(links=["web:my-db"])), {"web": other}.__getitem__
    )
    assert found.hosts == {"my-db host-web web": "172.17.0.9"}
    assert found.environment == [
        "MY_DB_PORT=tcp://172.17.0.9:80",
        "MY_DB_PORT_80_TCP=tcp://172.17.0.9:80",
        "MY_DB_PORT_80_TCP_ADDR=172.17.0.9",
        "MY_DB_PORT_80_TCP_PORT=80",
        "MY_DB_PORT_80_TCP_PROTO=tcp",
        "MY_DB_PORT_81_TCP=tcp://172.17.0.9:81",
        "MY_DB_PORT_81_TCP_ADDR=172.17.0.9",
        "MY_DB_PORT_81_TCP_PORT=81",
        "MY_DB_PORT_81_TCP_PROTO=tcp",
        "MY_DB_PORT_53_UDP=udp://172.17.0.9:53",
        "MY_DB_PORT_53_UDP_ADDR=172.17.0.9",
        "MY_DB_PORT_53_UDP_PORT=53",
        "MY_DB_PORT_53_UDP_PROTO=udp",
        "MY_DB_PORT_80_TCP_START=tcp://172.17.0.9:80",
        "MY_DB_PORT_80_TCP_PORT_START=80",
        "MY_DB_PORT_80_TCP_END=tcp://172.17.0.9:81",
        "MY_DB_PORT_80_TCP_PORT_END=81",
        "MY_DB_NAME=/me/my-db",
        "MY_DB_ENV_FOO=1",
    ]


def test_no_variables_on_networks_that_users_made() -> None:
    me = container("me", "n", host_config=HostConfig(links=["web:db"]))
    found = linked(me, {"web": web(network="n")}.__getitem__)
    assert found.hosts == {"db host-web web": "172.17.0.9"}
    assert found.environment == []


def test_the_other_must_run() -> None:
    me = container("me", host_config=HostConfig(links=["web:db"]))
    stopped = web(state=State(status=Status.EXITED))
    with pytest.raises(Conflict, match="Cannot link to a non running container: /web AS /me/db"):
        linked(me, {"web": stopped}.__getitem__)
