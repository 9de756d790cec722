"""Published ports: from the host, its loopbacks, another namespace, a container, itself."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from harness import EngineProcess, leftovers

from tests.e2e.conftest import Docker, eventually, pid_of

_ports = itertools.count(20100, 20)

#: Sends a datagram or connects, prints what comes back or the error.
CLIENT = """
import socket, sys
family, kind, host, port = sys.argv[1:]
s = socket.socket(getattr(socket, family), getattr(socket, kind))
s.settimeout(2)
try:
    s.connect((host, int(port)))
    s.send(b"hello\\n")
    print(s.recv(100).decode().strip())
except OSError as error:
    print(type(error).__name__, error)
"""
FETCH = """
import sys, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=2).read().decode())
except OSError as error:
    print(type(error).__name__, error)
"""
UDP = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", 5000))
while True:
    server.sendto(b"answer", server.recvfrom(100)[1])
"""
HTTP = ("busybox", "sh", "-c", "echo answer >/tmp/index.html; exec httpd -f -p 80 -h /tmp")


@pytest.fixture(scope="module")
def outside(engine: EngineProcess) -> Iterator[str]:
    """A network namespace beside the engine's, wired to it: 192.0.2.1 is the engine's host."""
    name = f"petout{os.getpid()}"
    inside = engine.namespace
    run(f"ip netns add {name}")
    try:
        run(f"ip -n {inside} link add out0 type veth peer name in0 netns {name}")
        run(f"ip -n {inside} addr add 192.0.2.1/24 dev out0")
        run(f"ip -n {inside} link set out0 up")
        run(f"ip -n {name} addr add 192.0.2.2/24 dev in0")
        run(f"ip -n {name} link set in0 up")
        yield name
    finally:
        subprocess.run(["ip", "-n", inside, "link", "del", "out0"], check=False)
        run(f"ip netns del {name}")


def run(command: str) -> None:
    subprocess.run(command.split(), check=True, capture_output=True)


def ask(namespace: str, host: str, port: int, kind: str = "SOCK_STREAM") -> str:
    family = "AF_INET6" if ":" in host else "AF_INET"
    done = subprocess.run(
        [
            "nsenter",
            f"--net=/run/netns/{namespace}",
            sys.executable,
            "-c",
            CLIENT,
            family,
            kind,
            host,
            str(port),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    return done.stdout.strip()


def get(namespace: str, host: str, port: int | str) -> str:
    shown = f"[{host}]" if ":" in host else host
    done = subprocess.run(
        [
            "nsenter",
            f"--net=/run/netns/{namespace}",
            sys.executable,
            "-c",
            FETCH,
            f"http://{shown}:{port}/",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    return done.stdout.strip()


def test_tcp_from_everywhere(docker: Docker, outside: str) -> None:
    port = next(_ports)
    name = docker.up("-p", f"{port}:80", *HTTP)
    host = docker.engine.namespace
    assert eventually(lambda: get(host, "127.0.0.1", port) == "answer")
    for where, address in ((host, "192.0.2.1"), (host, "::1"), (outside, "192.0.2.1")):
        assert get(where, address, port) == "answer", address
    gateway = docker.state(name, "{{.NetworkSettings.Gateway}}")
    hairpin = ("sh", "-c", f"echo 'GET / HTTP/1.0' | nc -w 3 {gateway} {port} | tail -1")
    assert docker.exec(name, *hairpin) == "answer", "from itself"
    assert docker.out("run", "--rm", "busybox", *hairpin) == "answer", "from another container"
    assert docker.out("port", name, "80").splitlines() == [f"0.0.0.0:{port}", f"[::]:{port}"]


def test_ports_follow_the_networks(docker: Docker, outside: str) -> None:
    """Whichever gives the default route, the published ports lead there; on ::1 the proxy's do."""
    port, first, second = next(_ports), docker.name(), docker.name()
    host = docker.engine.namespace

    def answers() -> bool:
        return all(
            get(where, address, port) == "answer"
            for where, address in ((host, "127.0.0.1"), (host, "::1"), (outside, "192.0.2.1"))
        )

    for name in (first, second):
        docker("network", "create", name)
    name = docker.up("--network", first, "-p", f"{port}:80", *HTTP)
    try:
        assert eventually(answers)
        docker("network", "connect", second, name)
        docker("network", "disconnect", first, name)
        assert answers()
        docker.engine.kill()
        docker.engine.start()
        assert answers(), "the next daemon knows where they lead"
        docker("network", "disconnect", second, name)
        assert not answers()
        docker("network", "connect", first, name)
        assert answers()
    finally:
        docker("rm", "-f", name)
        docker("network", "rm", first, second)


def test_a_container_without_ipv4(docker: Docker, outside: str) -> None:
    port, network = next(_ports), docker.name()
    docker("network", "create", "--ipv6", "-o", "com.docker.network.enable_ipv4=false", network)
    http = (*HTTP[:-1], HTTP[-1].replace("-p 80", "-p [::]:80"))
    name = docker.up("--network", network, "-p", f"{port}:80", *http)
    host = docker.engine.namespace
    try:
        gateway = docker.out(
            "network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", network
        )
        assert docker.out("port", name, "80").splitlines() == [f"[::]:{port}"]
        for address in ("::1", gateway):
            assert eventually(lambda address=address: get(host, address, port) == "answer"), address
        assert get(host, "127.0.0.1", port) != "answer"
    finally:
        docker("rm", "-f", name)
        docker("network", "rm", network)


def test_udp(docker: Docker, outside: str) -> None:
    port = next(_ports)
    name = docker.up("-p", f"{port}:5000/udp", "busybox", "sleep", "60")
    server = subprocess.Popen(
        ["nsenter", f"--net=/proc/{pid_of(name, docker)}/ns/net", sys.executable, "-c", UDP]
    )
    try:
        host = docker.engine.namespace
        for where, address in ((host, "127.0.0.1"), (host, "::1"), (outside, "192.0.2.1")):
            assert eventually(
                lambda where=where, to=address: ask(where, to, port, "SOCK_DGRAM") == "answer"
            ), address
    finally:
        server.kill()
        server.wait()
    assert docker.out("port", name) == f"5000/udp -> 0.0.0.0:{port}\n5000/udp -> [::]:{port}"


def test_one_address_only(docker: Docker, outside: str) -> None:
    port = next(_ports)
    docker.up("-p", f"127.0.0.1:{port}:80", *HTTP)
    host = docker.engine.namespace
    assert eventually(lambda: get(host, "127.0.0.1", port) == "answer")
    assert get(host, "192.0.2.1", port) != "answer"
    assert get(outside, "192.0.2.1", port) != "answer"


def test_ranges(docker: Docker, outside: str) -> None:
    port = next(_ports)
    script = "".join(f"httpd -p {n} -h /tmp; " for n in (80, 81, 82))
    name = docker.up(
        "-p",
        f"{port}-{port + 2}:80-82",
        "busybox",
        "sh",
        "-c",
        f"echo answer >/tmp/index.html; {script} exec sleep 60",
    )
    host = docker.engine.namespace
    for number in range(port, port + 3):
        assert eventually(lambda number=number: get(host, "127.0.0.1", number) == "answer")
        assert get(outside, "192.0.2.1", number) == "answer"
    assert f"81/tcp -> 0.0.0.0:{port + 1}" in docker.out("port", name)


def test_random_ports_and_publish_all(docker: Docker) -> None:
    name = docker.up("-p", "80", "--expose", "81", "-P", *HTTP)
    ports = dict(
        line.split(" -> 0.0.0.0:")
        for line in docker.out("port", name).splitlines()
        if "0.0.0.0" in line
    )
    assert set(ports) == {"80/tcp", "81/tcp"}
    assert eventually(
        lambda: get(docker.engine.namespace, "127.0.0.1", ports["80/tcp"]) == "answer"
    )
    # The range of one port picks any that is free of it.
    port = next(_ports)
    taken = docker.up("-p", f"{port}:80", *HTTP)
    other = docker.up("-p", f"{port}-{port + 5}:80", *HTTP)
    assert docker.out("port", taken, "80").splitlines()[0] == f"0.0.0.0:{port}"
    assert docker.out("port", other, "80").splitlines()[0] == f"0.0.0.0:{port + 1}"


def test_a_port_in_use_by_a_container_leaves_nothing_half_made(docker: Docker) -> None:
    port = next(_ports)
    docker.up("-p", f"{port}:80", *HTTP)
    before = leftovers(docker.engine)
    name = docker.name()
    text = docker.fails(
        "run",
        "-d",
        "--name",
        name,
        "-p",
        f"{port}:80",
        *HTTP,
        code=125,
        says="port is already allocated",
    )
    assert f"Bind for 0.0.0.0:{port} failed" in text
    assert docker.state(name) == "created"
    assert docker.state(name, "{{.NetworkSettings.IPAddress}}") == ""
    extra = set(leftovers(docker.engine)) - set(before)
    assert {line for line in extra if not line.startswith("directory")} == set()
    docker("rm", name)


def test_a_port_in_use_by_the_host(docker: Docker) -> None:
    port = next(_ports)
    listener = subprocess.Popen(
        [
            "nsenter",
            f"--net=/run/netns/{docker.engine.namespace}",
            "busybox",
            "nc",
            "-l",
            "-p",
            str(port),
        ],
    )
    try:
        taken = f"{port:04X}"
        assert eventually(
            lambda: (
                f":{taken} "
                in docker.engine.in_namespace("cat", "/proc/net/tcp", "/proc/net/tcp6").stdout
            )
        )
        docker.fails(
            "run",
            "--rm",
            "-p",
            f"{port}:80",
            "busybox",
            "true",
            code=125,
            says="address already in use",
        )
    finally:
        listener.kill()
        listener.wait()


def test_a_port_is_free_again_after_the_end(docker: Docker) -> None:
    port = next(_ports)
    for _ in range(3):
        assert docker.out("run", "--rm", "-p", f"{port}:80", "busybox", "echo", "x") == "x"


def test_exposed_ports_are_shown(engine: EngineProcess, docker: Docker) -> None:
    port = next(_ports)
    expose = ("--expose", "99", "--expose", "53/udp")
    name = docker.up(*expose, "-p", f"127.0.0.1:{port}:80", "busybox", "sleep", "60")
    shown = {
        "53/udp": None,
        "80/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(port)}],
        "99/tcp": None,
    }
    assert engine.inspect(name)["NetworkSettings"]["Ports"] == shown
    listed = docker.out("ps", "--filter", f"name={name}", "--format", "{{.Ports}}")
    assert listed == f"53/udp, 99/tcp, 127.0.0.1:{port}->80/tcp"
    # what `docker port` tells is published ports
    assert docker.out("port", name) == f"80/tcp -> 127.0.0.1:{port}"
    docker("stop", "-t", "0", name)
    assert engine.inspect(name)["NetworkSettings"]["Ports"] == {}
    docker("start", name)
    assert engine.inspect(name)["NetworkSettings"]["Ports"] == shown
    for network in ("none", "host"):
        name = docker.up("--network", network, *expose, "busybox", "sleep", "60")
        assert engine.inspect(name)["NetworkSettings"]["Ports"] == {}


def test_no_ports_on_none_and_host(docker: Docker) -> None:
    name = docker.up("--network", "none", "busybox", "sleep", "60")
    assert docker.out("port", name) == ""
    assert docker.exec(name, "ip", "-o", "link").count("\n") == 0


def test_outgoing_traffic_has_the_address_of_the_host(docker: Docker, outside: str) -> None:
    server = subprocess.Popen(
        [
            "nsenter",
            f"--net=/run/netns/{outside}",
            sys.executable,
            "-c",
            "import socket; s = socket.create_server(('192.0.2.2', 7000)); print('up', flush=True);"
            "print(s.accept()[1][0])",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "up\n"
        docker("run", "--rm", "busybox", "sh", "-c", "echo | nc -w 2 192.0.2.2 7000")
        assert server.communicate(timeout=10)[0].strip() == "192.0.2.1"
    finally:
        server.kill()
        server.wait()
