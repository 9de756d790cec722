"""Names on networks that users made, asked from inside with busybox's nslookup and ping."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import EngineProcess

from tests.e2e.conftest import Docker, eventually

pytestmark = pytest.mark.usefixtures("tidied")

#: A name server of the test's own, in the engine's namespace: it knows one name.
UPSTREAM = """
import socket, struct, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[1], 53))
print("ready", flush=True)
while True:
    query, client = sock.recvfrom(512)
    end = query.index(0, 12) + 5
    if query[12:end].startswith(b"\\x08upstream\\x04test"):
        answer = b"\\xc0\\x0c\\0\\1\\0\\1" + struct.pack(">IH", 60, 4) + bytes((192, 0, 2, 7))
        head = b"\\x81\\x80\\0\\1\\0\\1\\0\\0\\0\\0"
    else:
        head, answer = b"\\x81\\x83\\0\\1\\0\\0\\0\\0\\0\\0", b""
    sock.sendto(query[:2] + head + query[12:end] + answer, client)
"""


@pytest.fixture
def network(docker: Docker) -> str:
    if docker("network", "inspect", "names", check=False).returncode == 0:
        return "names"
    docker("network", "create", "names")
    docker("run", "-d", "--name", "web", "--network", "names", "--network-alias", "service",
           "busybox", "sleep", "1000")  # fmt: skip
    return "names"


def address(docker: Docker, name: str, network: str = "names") -> str:
    form = f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}'
    return docker.out("inspect", "-f", form, name)


def look_up(docker: Docker, name: str, *flags: str, network: str = "names") -> str:
    if "--dns" not in flags:
        flags = (*flags, "--dns", "127.0.0.1")  # nobody: what we do not know is not found at once
    words = ["nslookup", *(["-type=PTR"] if name.endswith("arpa") else []), name]
    done = docker("run", "--rm", "--network", network, *flags, "busybox", *words, check=False)
    # The first address is the server's.
    return done.stdout.partition("\n\n")[2]


def test_names_aliases_and_ids(docker: Docker, network: str) -> None:
    web = address(docker, "web")
    short = docker.out("inspect", "-f", "{{.Id}}", "web")[:12]
    for name in ("web", "WEB", "service", short, "web.names"):
        assert f"Address: {web}" in look_up(docker, name), name
    reverse = ".".join(reversed(web.split("."))) + ".in-addr.arpa"
    assert "web.names" in look_up(docker, reverse)
    assert web not in look_up(docker, "nobody")


def test_host_names(docker: Docker, network: str) -> None:
    name = docker.up("--network", "names", "--hostname", "Known", "busybox", "sleep", "60")
    assert f"Address: {address(docker, name)}" in look_up(docker, "known")
    names = docker.state(name, "{{json .NetworkSettings.Networks.names.DNSNames}}")
    assert json.loads(names) == [name, docker.state(name, "{{.Id}}")[:12], "Known"]


def test_resolv_conf(docker: Docker, network: str) -> None:
    flags = ("--dns", "192.0.2.1", "--dns-search", "a.example", "--dns-opt", "timeout:3")
    shown = ("busybox", "cat", "/etc/resolv.conf")
    text = docker.out("run", "--rm", "--network", "names", *flags, *shown)
    assert text.split() == [
        "nameserver", "127.0.0.11", "search", "a.example", "options", "timeout:3", "ndots:0",
    ]  # fmt: skip
    plain = docker.out("run", "--rm", "--dns", "192.0.2.1", *shown)
    assert "127.0.0.11" not in plain


def test_several_containers_of_one_name(docker: Docker, network: str) -> None:
    for number in (1, 2, 3):
        docker("run", "-d", "--name", f"many{number}", "--network", "names", "--network-alias",
               "many", "busybox", "sleep", "1000")  # fmt: skip
    found = set(re.findall(r"Address: ([\d.]+)", look_up(docker, "many")))
    assert found == {address(docker, f"many{number}") for number in (1, 2, 3)}
    docker("rm", "-f", "many2")
    found = set(re.findall(r"Address: ([\d.]+)", look_up(docker, "many")))
    assert found == {address(docker, "many1"), address(docker, "many3")}


def test_links(docker: Docker, network: str) -> None:
    web = address(docker, "web")
    assert f"Address: {web}" in look_up(docker, "db", "--link", "web:db")
    assert web not in look_up(docker, "db")


def test_joining_leaving_and_renaming_count_at_once(docker: Docker, network: str) -> None:
    docker("run", "-d", "--name", "mover", "busybox", "sleep", "1000")
    assert "127.0.0.11" not in docker.out("exec", "mover", "cat", "/etc/resolv.conf")
    docker("network", "connect", "--alias", "moved", "names", "mover")
    assert docker("exec", "mover", "ping", "-c1", "-W2", "web").returncode == 0
    mover = address(docker, "mover")
    assert f"Address: {mover}" in look_up(docker, "moved")
    docker("rename", "mover", "shaker")
    assert f"Address: {mover}" in look_up(docker, "shaker")
    docker("network", "disconnect", "names", "shaker")
    assert mover not in look_up(docker, "moved")


def test_a_container_may_serve_dns_itself(docker: Docker, network: str) -> None:
    script = "nc -l -p 53 & pid=$!; sleep 0.2; kill $pid && nslookup web"
    done = docker("run", "--rm", "--network", "names", "busybox", "sh", "-c", script)
    assert address(docker, "web") in done.stdout


@contextlib.contextmanager
def upstream(engine: EngineProcess, at: str) -> Iterator[None]:
    engine.in_namespace("ip", "addr", "add", f"{at}/32", "dev", "lo")
    process = subprocess.Popen(
        ["nsenter", f"--net=/run/netns/{engine.namespace}", "--",
         sys.executable, "-c", UPSTREAM, at],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield
    finally:
        process.kill()
        process.wait()


def test_other_names_are_asked_upstream(docker: Docker, network: str) -> None:
    with upstream(docker.engine, "192.0.2.53"):
        shown = look_up(docker, "upstream.test", "--dns", "192.0.2.53")
        assert "Address: 192.0.2.7" in shown
        shown = look_up(docker, "web", "--dns", "192.0.2.53")
        assert f"Address: {address(docker, 'web')}" in shown
        docker("network", "create", "--internal", "closed")
        shown = look_up(docker, "upstream.test", "--dns", "192.0.2.53", network="closed")
        assert "192.0.2.7" not in shown


def test_a_server_that_asks_itself_is_not_asked(docker: Docker, network: str) -> None:
    words = ["busybox", "nslookup", "nobody.test"]
    done = docker("run", "--rm", "--network", network, "--dns", "127.0.0.11", *words, check=False)
    assert "SERVFAIL" in done.stdout


def test_names_are_back_with_the_next_daemon(new_engine: EngineProcess) -> None:
    engine = new_engine
    engine.docker("network", "create", "names")
    for name in ("one", "two"):
        engine.docker("run", "-d", "--name", name, "--network", "names", "busybox",
                      "sleep", "1000")  # fmt: skip
    engine.kill()
    engine.start()
    for _ in range(2):
        assert engine.docker("exec", "one", "ping", "-c1", "-W2", "two").returncode == 0
    before = len(_sockets(engine))
    engine.docker("rm", "-f", "one", "two")
    assert eventually(lambda: len(_sockets(engine)) < before)


def _sockets(engine: EngineProcess) -> list[str]:
    links = []
    for path in Path(f"/proc/{engine.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(path))
    return [link for link in links if link.startswith(("socket:", "net:"))]
