"""Kernel parameters of one interface."""

from __future__ import annotations

import pytest
from harness import EngineProcess

from tests.e2e.conftest import Docker

OPTION = "com.docker.network.endpoint.sysctls"
READ = "cat /proc/sys/net/ipv4/conf/{}/log_martians"


def network(name: str, sysctl: str) -> str:
    return f"name={name},driver-opt={OPTION}={sysctl}"


def test_at_start_and_at_connect(docker: Docker) -> None:
    martians = "net.ipv4.conf.IFNAME.log_martians=1"
    docker("network", "create", "quiet")
    docker("network", "create", "loud")
    try:
        name = docker.up(
            *("--network", network("quiet", "net.ipv4.conf.IFNAME.log_martians=0")),
            *("--network", network("loud", martians), "busybox", "sleep", "60"),
        )
        links = {net: place for place, net in enumerate(("quiet", "loud"))}
        assert docker.exec(name, "sh", "-c", READ.format(f"eth{links['quiet']}")) == "0"
        assert docker.exec(name, "sh", "-c", READ.format(f"eth{links['loud']}")) == "1"
        docker("network", "connect", "--driver-opt", f"{OPTION}={martians}", "bridge", name)
        assert docker.exec(name, "sh", "-c", READ.format("eth2")) == "1"
        docker("rm", "-f", name)
    finally:
        docker("network", "rm", "quiet", "loud")


@pytest.mark.parametrize(
    ("sysctl", "says"),
    [
        ("net.ipv4.conf.eth0.log_martians=1", "unrecognised network interface sysctl"),
        ("net.ipv4.conf.IFNAME.log_martians", "unrecognised network interface sysctl"),
        ("net.core.conf.IFNAME.x=1", "unrecognised network interface sysctl"),
        ("net.ipv4.conf.IFNAME.nonsense=1", "is not a sysctl file"),
        ("net.ipv4.conf.IFNAME.log_martians=many", "unable to write to"),
    ],
)
def test_what_cannot_be(docker: Docker, sysctl: str, says: str) -> None:
    docker.fails("run", "--rm", "--network", network("bridge", sysctl), "busybox", "true",
                 code=125, says=says)  # fmt: skip


def test_eth0_of_old_and_new_clients(docker: Docker, engine: EngineProcess) -> None:
    name = docker.name()
    body = {
        "Image": "busybox",
        "Cmd": ["sleep", "60"],
        "HostConfig": {"Sysctls": {"net.ipv4.conf.eth0.log_martians": "1"}},
    }
    status, answer = engine.api("POST", f"/v1.48/containers/create?name={name}", body)
    assert status == 400
    assert answer["message"] == (
        'interface specific sysctl setting "net.ipv4.conf.eth0.log_martians" must be supplied '
        f"using driver option '{OPTION}'"
    )
    status, answer = engine.api("POST", f"/v1.47/containers/create?name={name}", body)
    assert status == 201
    assert answer["Warnings"] == [
        f'Migrated sysctl "net.ipv4.conf.eth0.log_martians" to DriverOpts{{"{OPTION}":'
        '"net.ipv4.conf.IFNAME.log_martians=1"}.'
    ]
    docker("start", name)
    assert docker.exec(name, "sh", "-c", READ.format("eth0")) == "1"
    assert docker.state(name, "{{json .HostConfig.Sysctls}}") in ("{}", "null")
