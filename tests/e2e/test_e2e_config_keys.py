"""What keys of daemon.json do: the daemon itself, the default bridge, defaults of containers."""

from __future__ import annotations

import grp
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import EngineProcess

from tests.e2e.conftest import eventually, namespace

HTTP = ("busybox", "sh", "-c", "echo answer >/tmp/index.html; exec httpd -f -p 80 -h /tmp")
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 1)"
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


def reaches(outside: str, host: str, port: int = 80) -> bool:
    """Whether a connection from that namespace is taken."""
    command = ["nsenter", f"--net=/run/netns/{outside}", sys.executable, "-c", CONNECT, host]
    return subprocess.run([*command, str(port)], check=False, capture_output=True).returncode == 0


def address(engine: EngineProcess, name: str) -> str:
    return str(engine.inspect(name)["NetworkSettings"]["IPAddress"])


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
    assert found["HostConfig"]["LogConfig"] == {
        "Type": "json-file", "Config": {"max-size": "1k", "max-file": "2"},
    }  # fmt: skip
    assert found["HostConfig"]["Runtime"] == "native"
    assert namespace(found["State"]["Pid"], "cgroup") != namespace("self", "cgroup")
    assert eventually(lambda: engine.lines("logs", "box")[-1:] == ["98"])
    log = Path(found["LogPath"])
    assert sorted(path.name for path in log.parent.glob("*json.log*")) == [
        log.name, f"{log.name}.1",
    ]  # fmt: skip
    assert "0" not in engine.lines("logs", "box")
    engine.docker("create", "--name", "own", "--log-opt", "max-file=3", "busybox")
    engine.docker("create", "--name", "other", "--log-driver", "none", "busybox")
    configs = [engine.inspect(name)["HostConfig"]["LogConfig"]["Config"] for name in ("own",
               "other")]  # fmt: skip
    assert configs == [{"max-size": "1k", "max-file": "3"}, {}]


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


def test_gateways_stop_timeout_and_api_version(engine_with: Any) -> None:
    engine: EngineProcess = engine_with(
        bip="10.123.0.1/24", default_gateway="10.123.0.254", ipv6=True, bip6="fd44:5::1/64",
        fixed_cidr_v6="fd44:5::/80", default_gateway_v6="fd44:5::fe",
        host_gateway_ips=["192.0.2.99", "2001:db8::99"], default_stop_timeout=1,
        min_api_version="1.30",
    )  # fmt: skip
    run = ("run", "--rm", "busybox")
    assert "default via 10.123.0.254 dev eth0" in engine.out(*run, "ip", "route")
    assert "default via fd44:5::fe dev eth0" in engine.out(*run, "ip", "-6", "route")
    assert "fd44:5::1/64" in engine.in_namespace("ip", "-6", "addr").stdout
    hosts = engine.out("run", "--rm", "--add-host", "x:host-gateway", "busybox", "cat",
                       "/etc/hosts")  # fmt: skip
    assert "192.0.2.99\tx\n2001:db8::99\tx\n" in hosts
    # Another network has its own bridge as ever, or the gateway that its auxiliary address names.
    engine.docker("network", "create", "--subnet", "10.9.0.0/24", "own")
    engine.docker("network", "create", "--subnet", "10.8.0.0/24", "--aux-address",
                  "DefaultGatewayIPv4=10.8.0.9", "named")  # fmt: skip
    for network, gateway in (("own", "10.9.0.1"), ("named", "10.8.0.9")):
        shown = engine.out("run", "--rm", "--network", network, "busybox", "ip", "route")
        assert f"default via {gateway} dev" in shown

    engine.docker("run", "-d", "--name", "box", "busybox", "sh", "-c", "trap '' TERM; while :; do "
                  "sleep 0.1; done")  # fmt: skip
    began = time.monotonic()
    engine.docker("stop", "box")
    assert 1 <= time.monotonic() - began < 4
    assert engine.inspect("box")["State"]["ExitCode"] == 137
    assert engine.api("GET", "/v1.29/info")[0] == 400
    assert engine.api("GET", "/v1.30/info")[0] == 200
    assert engine.api("GET", "/version")[1]["MinAPIVersion"] == "1.30"


def test_direct_routing_and_marks(engine_with: Any, beside: Any) -> None:
    """Another host that has a route to the containers: it reaches what is published, and with the
    mark everything."""
    engine: EngineProcess = engine_with(allow_direct_routing=True, bridge_accept_fwmark="0x5/0xff")
    outside = beside(engine)
    engine.docker("run", "-d", "--name", "box", "-p", "8000:80", *HTTP)
    engine.docker("run", "-d", "--name", "hidden", *HTTP)
    published, hidden = (address(engine, name) for name in ("box", "hidden"))
    assert eventually(lambda: reaches(outside, published))
    assert not reaches(outside, hidden)
    marking = "add table ip m; add chain ip m p { type filter hook prerouting priority -200; }; " \
              "add rule ip m p iifname beside0 meta mark set 0x105"  # fmt: skip
    assert engine.in_namespace("nft", marking).returncode == 0
    assert reaches(outside, hidden)


def test_without_direct_routing_only_the_hosts_ports_answer(engine_with: Any, beside: Any) -> None:
    engine: EngineProcess = engine_with(ip6tables=False, ipv6=True, fixed_cidr_v6="fd44:6::/64")
    outside = beside(engine)
    engine.docker("run", "-d", "--name", "box", "-p", "8000:80", *HTTP)
    assert eventually(lambda: reaches(outside, "192.0.2.1", 8000))
    assert not reaches(outside, address(engine, "box"))
    # IPv6 is left alone: nothing keeps other hosts away, and the proxy serves the host's port.
    own = engine.inspect("box")["NetworkSettings"]["GlobalIPv6Address"]
    for command in (
        f"ip -n {engine.namespace} addr add 2001:db8::1/64 dev beside0 nodad",
        f"ip -n {outside} addr add 2001:db8::2/64 dev in0 nodad",
        f"ip -n {outside} route add fd44:6::/64 via 2001:db8::1",
    ):
        subprocess.run(command.split(), check=True)
    engine.docker("exec", "box", "ip", "-6", "route")
    assert eventually(lambda: reaches(outside, "2001:db8::1", 8000))
    assert eventually(lambda: reaches(outside, own))
    engine.docker("run", "--rm", "busybox", "ping", "-6", "-c", "1", "-W", "2", own)


def test_the_share_of_the_real_time_scheduler(engine_with: Any) -> None:
    cgroup = Path("/sys/fs/cgroup/cpu")
    if not (cgroup / "cpu.rt_runtime_us").exists():
        pytest.skip("this kernel gives groups no real time")
    engine: EngineProcess = engine_with(
        cgroup_parent="/pekeysrt/in", cpu_rt_period=500000, cpu_rt_runtime=50000
    )
    run = ("run", "--rm", "--network", "none")
    engine.docker(*run, "busybox", "true")
    for group in ("pekeysrt", "pekeysrt/in"):
        assert (cgroup / group / "cpu.rt_period_us").read_text() == "500000\n"
        assert (cgroup / group / "cpu.rt_runtime_us").read_text() == "50000\n"
    # What is above it has its share, so a container can have a part of that, and no more.
    engine.docker("run", "-d", "--name", "box", "--network", "none", "--cpu-rt-runtime",
                  "20000", "busybox", "sleep", "1000")  # fmt: skip
    found = engine.inspect("box")
    own = cgroup / "pekeysrt/in" / found["Id"] / "cpu.rt_runtime_us"
    assert own.read_text() == "20000\n"
    os.sched_setscheduler(found["State"]["Pid"], os.SCHED_FIFO, os.sched_param(5))
    engine.docker("rm", "-f", "box")
    done = engine.docker(*run, "--cpu-rt-runtime", "200000", "busybox", "true", check=False)
    assert done.returncode != 0
