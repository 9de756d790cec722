"""What keys of daemon.json do: the daemon itself, the default bridge, defaults of containers."""

from __future__ import annotations

import grp
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import EngineProcess

from tests.e2e.conftest import eventually, namespace

#: Prints where the first connection comes from.
LISTENER = """
import socket
server = socket.create_server(("", 5000))
print("ready", flush=True)
server.settimeout(10)
print(server.accept()[1][0])
"""
#: What ``docker-init -- PROGRAM...`` has to do at the least.
INIT = """
#include <sys/wait.h>
#include <unistd.h>
int main(int count, char **words) {
    int status;
    pid_t child = fork();
    if (!child) { execvp(words[2], words + 2); _exit(127); }
    while (waitpid(-1, &status, 0) != child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
"""


@pytest.fixture
def beside(engine_with: Any) -> Iterator[Any]:
    """Wires a namespace of its own to an engine: 192.0.2.2 there, 192.0.2.1 in the engine's."""
    name = f"pebeside{os.getpid()}"

    def wire(engine: EngineProcess) -> str:
        inside = engine.namespace
        for command in (
            f"ip netns add {name}",
            f"ip -n {inside} link add beside0 type veth peer name in0 netns {name}",
            f"ip -n {inside} addr add 192.0.2.1/24 dev beside0",
            f"ip -n {inside} link set beside0 up",
            f"ip -n {name} addr add 192.0.2.2/24 dev in0",
            f"ip -n {name} link set in0 up",
            f"ip -n {name} route add default via 192.0.2.1",
        ):
            subprocess.run(command.split(), check=True)
        return name

    yield wire
    subprocess.run(["ip", "netns", "del", name], check=False)


def seen_from(engine: EngineProcess, outside: str) -> str:
    """The address that a connection of a container on the default bridge comes from."""
    command = ["nsenter", f"--net=/run/netns/{outside}", sys.executable, "-c", LISTENER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "ready\n"
        engine.docker("run", "--rm", "busybox", "nc", "-w", "2", "192.0.2.2", "5000")
        return listener.stdout.readline().strip()


def test_the_daemon_itself(engine_with: Any, tmp_path: Path) -> None:
    data, run, sock = tmp_path / "e0/data", tmp_path / "e0/run", tmp_path / "e0/s.sock"
    group, pidfile = grp.getgrgid(1), tmp_path / "engine.pid"
    engine: EngineProcess = engine_with(
        data_root=str(data), exec_root=str(run), hosts=[f"unix://{sock}", "tcp://127.0.0.1:2399"],
        pidfile=str(pidfile), group=group.gr_name, log_level="warn", log_format="json",
        debug=False, storage_driver="vfs", features={"buildkit": False, "cdi": False},
    )  # fmt: skip
    info = json.loads(engine.out("info", "-f", "json"))
    assert (info["DockerRootDir"], info["Driver"]) == (str(data), "vfs")
    assert info["CDISpecDirs"] == []
    engine.docker("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    assert engine.inspect("box")["NetworkSettings"]["SandboxKey"].startswith(f"{run}/netns/")
    ping = engine.in_namespace("curl", "-si", "http://127.0.0.1:2399/_ping").stdout
    assert "\nBuilder-Version: 1" in ping
    assert pidfile.read_text() == f"{engine.pid}\n"
    status = sock.stat()
    assert (status.st_gid, status.st_mode & 0o777) == (group.gr_gid, 0o660)
    told = [json.loads(line) for line in engine.log.read_text().splitlines()]
    assert any("anybody who reaches this port is root" in line["msg"] for line in told)
    assert {line["level"] for line in told} <= {"warning", "error"}
    engine.docker("rm", "-f", "box")
    engine.stop()
    assert not pidfile.exists()


def test_the_default_bridge(engine_with: Any, beside: Any) -> None:
    engine: EngineProcess = engine_with(
        bip="10.123.0.1/24", fixed_cidr="10.123.0.64/27", ip="127.0.0.1", ip_masq=False, icc=False,
        firewall_backend="nftables",
    )  # fmt: skip
    engine.docker("run", "-d", "--name", "one", "-p", "8000:80", "busybox", "sleep", "1000")
    networks = engine.inspect("one")["NetworkSettings"]
    assert networks["Gateway"] == "10.123.0.1"
    assert 64 <= int(networks["IPAddress"].rpartition(".")[2]) < 96
    assert networks["IPPrefixLen"] == 24
    assert engine.out("port", "one", "80") == "127.0.0.1:8000"
    ping = ("ping", "-c", "1", "-W", "1")
    assert engine.docker("exec", "one", *ping, "10.123.0.1").returncode == 0
    done = engine.docker("run", "--rm", "busybox", *ping, networks["IPAddress"], check=False)
    assert "100% packet loss" in done.stdout
    assert seen_from(engine, beside(engine)).startswith("10.123.0.")
    assert json.loads(engine.out("info", "-f", "{{json .FirewallBackend}}")) == {
        "Driver": "nftables"
    }


def test_without_these_keys_they_reach_each_other_and_are_masqueraded(
    engine_with: Any, beside: Any
) -> None:
    """What the test above denies does work where nothing is configured."""
    engine: EngineProcess = engine_with()
    engine.docker("run", "-d", "--name", "one", "-p", "8000:80", "busybox", "sleep", "1000")
    address = engine.inspect("one")["NetworkSettings"]["IPAddress"]
    engine.docker("run", "--rm", "busybox", "ping", "-c", "1", "-W", "1", address)
    assert engine.lines("port", "one", "80")[0] == "0.0.0.0:8000"
    assert seen_from(engine, beside(engine)) == "192.0.2.1"


def test_defaults_of_containers(engine_with: Any, tmp_path: Path) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}],
    }
    (tmp_path / "seccomp.json").write_text(json.dumps(profile))
    engine: EngineProcess = engine_with(
        default_cgroupns_mode="private", seccomp_profile=str(tmp_path / "seccomp.json"),
        log_driver="json-file", log_opts={"max-size": "1k", "max-file": "2"},
        default_runtime="native", storage_opts=["overlay2.override_kernel_check=true"],
    )  # fmt: skip
    run = ("run", "--rm", "--network", "none", "busybox")
    assert f"profile={tmp_path}/seccomp.json" in engine.out("info", "-f", "{{.SecurityOptions}}")
    assert "Permission denied" in engine.docker(*run, "mkdir", "/x", check=False).stderr
    assert engine.out(*run, "cat", "/proc/self/cgroup").endswith(":/")
    script = "i=0; while [ $i -lt 99 ]; do echo $i; i=$((i+1)); done; exec sleep 1000"
    engine.docker("run", "-d", "--name", "box", "--network", "none", "busybox", "sh", "-c", script)
    found = engine.inspect("box")
    assert found["HostConfig"]["CgroupnsMode"] == "private"
    assert found["HostConfig"]["Runtime"] == "native"
    assert namespace(found["State"]["Pid"], "cgroup") != namespace("self", "cgroup")
    assert eventually(lambda: engine.lines("logs", "box")[-1:] == ["98"])
    log = Path(found["LogPath"])
    assert sorted(path.name for path in log.parent.glob("*json.log*")) == [
        log.name, f"{log.name}.1",
    ]  # fmt: skip
    assert "0" not in engine.lines("logs", "box")


def test_an_init_and_drivers_of_the_operators(engine_with: Any, tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("a static init has to be compiled")
    source, binary = tmp_path / "init.c", tmp_path / "own-init"
    source.write_text(INIT)
    subprocess.run(["gcc", "-static", "-o", str(binary), str(source)], check=True)
    engine: EngineProcess = engine_with(
        init=True, init_path=str(binary), log_driver="none",
        drivers={"storage": "vfs", "security": ["seccomp"],
                 "network": {"default": "bridge", "allow": ["bridge"]}},
    )  # fmt: skip
    assert engine.out("info", "-f", "{{.Driver}}") == "vfs"
    done = engine.docker("network", "create", "-d", "macvlan", "mine", check=False)
    assert "network driver 'macvlan' is not allowed here" in done.stderr
    run = ("run", "--rm", "--network", "none")
    script = "cat /proc/1/comm; sha256sum /proc/1/exe"
    name, digest, _ = engine.out(*run, "busybox", "sh", "-c", script).split()
    assert name == "docker-init"
    assert digest == subprocess.run(
        ["sha256sum", str(binary)], capture_output=True, text=True, check=True
    ).stdout.split()[0]  # fmt: skip
    assert engine.out(*run, "--init=false", "busybox", "cat", "/proc/1/comm") == "cat"
    engine.docker("run", "-d", "--name", "box", "--network", "none", "busybox", "sleep", "1000")
    assert engine.inspect("box")["HostConfig"]["LogConfig"]["Type"] == "none"
    done = engine.docker("logs", "box", check=False)
    assert "configured logging driver does not support reading" in done.stderr
