"""What links tell a container."""

from __future__ import annotations

from typing import Any

import pytest

from pyengine.engine.containers.links import (
    bind,
    further_names,
    linked,
    shown,
    split,
    told,
)
from pyengine.engine.model import (
    Container,
    ContainerConfig,
    EndpointSettings,
    HostConfig,
    State,
    Status,
)
from pyengine.errors import Conflict, InvalidParameter, NotFound


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
    with pytest.raises(InvalidParameter, match="bad format for links: a:b:c"):
        split("a:b:c")


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


def test_nothing_of_it_on_networks_that_users_made() -> None:
    me = container("me", "n", host_config=HostConfig(network_mode="n", links=["web:db"]))
    find = {"web": web(network="n")}.__getitem__
    assert linked(me, find) == ({}, [])
    assert shown(me, find) is None
    assert bind(me.host_config, find) == ["web:db"]


class Known:
    """Containers by name or id."""

    def __init__(self, *containers: Container) -> None:
        self.all = containers

    def __call__(self, ref: str) -> Container:
        for one in self.all:
            if ref in (one.id, one.name):
                return one
        raise NotFound(f"No such container: {ref}")


def test_it_is_kept_by_id_and_outlives_a_new_name() -> None:
    other = web()
    find = Known(other)
    host = HostConfig(links=["web", "/web:alias"])
    host.links = bind(host, find)
    me = container("me", host_config=host)
    other.name = "new"
    assert shown(me, find) == ["/new:/me/alias", "/new:/me/web"]
    assert further_names([me, other], find) == {other.id: ["/me/web", "/me/alias"]}
    assert sorted(linked(me, find).hosts) == ["alias host-web new", "web host-web new"]


def test_it_ends_with_the_other() -> None:
    me = container("me", host_config=HostConfig(links=["web:db"]))
    assert shown(me, Known()) is None
    assert linked(me, Known()) == ({}, [])


def test_it_leads_to_whose_network_the_other_shares() -> None:
    owner = web()
    guest = container("guest", host_config=HostConfig(network_mode=f"container:{owner.id}"))
    links = bind(HostConfig(links=["guest:g"]), Known(owner, guest))
    assert links == [f"{owner.id}:g"]


@pytest.mark.parametrize(
    ("link", "words"),
    [
        ("none:x", "could not get container for none: No such container: none"),
        (":x", 'could not get container for : invalid name or ID supplied: ""'),
        ("hosted", "host type networking can't be used with links"),
    ],
)
def test_a_link_that_leads_nowhere(link: str, words: str) -> None:
    find = Known(container("hosted", "host", host_config=HostConfig(network_mode="host")))
    with pytest.raises(InvalidParameter, match=words):
        bind(HostConfig(links=[link]), find)


def test_the_other_must_be_on_the_default_bridge() -> None:
    me = container("me", host_config=HostConfig(links=["web:db"]))
    with pytest.raises(InvalidParameter, match="/web, as it does not belong to the default netw"):
        linked(me, Known(web(networks={"n": EndpointSettings(ip_address="10.0.0.1")})))


def test_who_runs_hears_of_a_new_address() -> None:
    other = web()
    me = container("me", host_config=HostConfig(links=[f"{other.id}:db"]))
    ended = container("e", host_config=me.host_config, state=State(status=Status.EXITED))
    assert list(told(other, [me, other, ended])) == [(me, "db", "172.17.0.9")]
    other.networks = {}
    assert list(told(other, [me])) == []


def test_the_other_must_run() -> None:
    me = container("me", host_config=HostConfig(links=["web:db"]))
    stopped = web(state=State(status=Status.EXITED))
    with pytest.raises(Conflict, match="Cannot link to a non running container: /web AS /me/db"):
        linked(me, {"web": stopped}.__getitem__)
