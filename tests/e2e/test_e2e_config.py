"""What keys of daemon.json do, seen with the docker CLI."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from harness import EngineProcess


def forwards(engine: EngineProcess) -> bool:
    return engine.in_namespace("cat", "/proc/sys/net/ipv4/ip_forward").stdout.strip() == "1"


def test_networks_and_names(engine_with: Any) -> None:
    engine: EngineProcess = engine_with(
        ipv6=True, fixed_cidr_v6="fd11:22::/64", bip="10.123.0.1/24", mtu=1400,
        host_gateway_ip="192.0.2.99", dns=["192.0.2.1"], dns_search=["x.example"],
        dns_opts=["timeout:1"], userland_proxy=False,
        default_network_opts={"bridge": {"com.docker.network.driver.mtu": "1350"}},
        default_address_pools=[{"base": "10.77.0.0/16", "size": 24}],
    )  # fmt: skip
    run = ("run", "--rm", "busybox")
    address = engine.out(*run, "ip", "addr", "show", "eth0")
    assert "inet 10.123.0." in address
    assert "inet6 fd11:22::" in address
    assert "mtu 1400" in address
    assert "192.0.2.99\tx" in engine.out("run", "--rm", "--add-host", "x:host-gateway", "busybox",
                                         "cat", "/etc/hosts")  # fmt: skip
    resolv = engine.out(*run, "cat", "/etc/resolv.conf").split()
    assert resolv == ["nameserver", "192.0.2.1", "search", "x.example", "options", "timeout:1"]
    hosts = ("run", "--rm", "--network", "host", "busybox", "cat", "/etc/resolv.conf")
    assert engine.out(*hosts).split() == resolv
    engine.docker("network", "create", "n")
    shown = engine.out("run", "--rm", "--network", "n", "busybox", "ip", "addr", "show", "eth0")
    assert "mtu 1350" in shown
    assert "inet 10.77." in shown
    engine.docker("network", "create", "-o", "com.docker.network.driver.mtu=1300", "m")
    shown = engine.out("run", "--rm", "--network", "m", "busybox", "ip", "addr", "show", "eth0")
    assert "mtu 1300" in shown
    assert forwards(engine)
    # Without the proxy nothing listens on the host's IPv6 loopback.
    engine.docker("run", "-d", "--name", "published", "-p", "8000:80", "busybox", "sleep", "1000")
    listening = engine.in_namespace("ss", "-Hltn").stdout
    assert "8000" not in listening


def test_containers(engine_with: Any) -> None:
    engine: EngineProcess = engine_with(
        default_ulimits={"nofile": {"Name": "nofile", "Soft": 100, "Hard": 200}},
        default_shm_size="32m", no_new_privileges=True, default_ipc_mode="shareable",
        log_driver="json-file", log_opts={"max-size": "2m"}, oom_score_adjust=10,
        exec_opts=["native.cgroupdriver=cgroupfs"], labels=["a=b"], cgroup_parent="/pecfg",
        builder={"gc": {"enabled": True}},
    )  # fmt: skip
    shown = engine.out("run", "--rm", "busybox", "sh", "-c",
                       "ulimit -n; ulimit -Hn; df -k /dev/shm | tail -1; grep NoNewPrivs "
                       "/proc/self/status; cat /proc/self/cgroup")  # fmt: skip
    assert shown.split()[:2] == ["100", "200"]
    assert "32768" in shown
    assert "NoNewPrivs:\t1" in shown
    assert "/pecfg/" in shown
    engine.docker("create", "--name", "made", "busybox")
    inspected = engine.inspect("made")["HostConfig"]
    assert inspected["IpcMode"] == "shareable"
    assert inspected["Ulimits"] == [{"Name": "nofile", "Hard": 200, "Soft": 100}]
    assert Path(f"/proc/{engine.pid}/oom_score_adj").read_text().strip() == "10"
    info = json.loads(engine.out("info", "-f", "json"))
    assert (info["Labels"], info["CgroupDriver"]) == (["a=b"], "cgroupfs")
    assert "'builder' changes nothing" in engine.log.read_text()


def test_without_firewall(engine_with: Any) -> None:
    engine: EngineProcess = engine_with(iptables=False, ip_forward=False)
    engine.docker("network", "create", "n")
    engine.docker("run", "-d", "--name", "web", "--network", "n", "busybox", "sleep", "1000")
    assert "pe" not in engine.in_namespace("nft", "list", "tables").stdout
    assert not forwards(engine)
    done = engine.docker("create", "-p", "80:80", "busybox")
    assert "iptables is false in the configuration: no port is published" in done.stderr
    # The name server listens at its port itself where nobody can redirect.
    assert "web" in engine.out("run", "--rm", "--network", "n", "busybox", "nslookup", "web")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"storage-drivr": "vfs", "debug": 3}, ["'storage-driver'", "'debug'"]),
        ({"storage-driver": "nonsense"}, ["no storage driver 'nonsense' is installed"]),
        ({"log-level": "loud"}, ["'loud' is none of trace"]),
        ({"pidfile": "PIDFILE"}, ["process with PID", "is still running"]),
    ],
)
def test_a_bad_file_is_refused_whole(
    tmp_path: Path, docker_binary: str, values: dict[str, Any], words: list[str]
) -> None:
    file, pidfile = tmp_path / "daemon.json", tmp_path / "pid"
    pidfile.write_text(f"{os.getpid()}\n")
    file.write_text(json.dumps(values).replace("PIDFILE", str(pidfile)))
    engine = EngineProcess(tmp_path / "e", docker_binary, "--config-file", str(file))
    engine.root.mkdir()
    try:
        engine.start(wait=False)
        assert engine.wait() == 1
        for word in words:
            assert word in engine.tail()
    finally:
        subprocess.run(["ip", "netns", "del", engine.namespace], check=False)


def test_all_that_drivers_refuse_is_said_before_anything_starts(tmp_path: Path) -> None:
    """By ``--validate`` and by a start; a profile that cannot be read is the plugin's to find."""
    file = tmp_path / "daemon.json"
    (tmp_path / "profile.json").write_text("{]")
    values = {
        "log-driver": "json-file,nowhere",
        "log-opts": {"max-sise": "1m"},
        "storage-opts": ["overlay2.colour=red"],
        "storage-driver": "overlay2",
        "default-address-pools": [{"base": "here", "size": 24}],
        "seccomp-profile": str(tmp_path / "profile.json"),
        "default-runtime": "nonsuch",
        "drivers": {"network": {"allow": ["bridge", "brigde"]}, "storge": "vfs"},
        "default-network-opts": {"brige": {"com.docker.network.driver.mtu": "1400"}},
        "bridge": "nobodys0",
        "tls": True,
        "tlscert": str(file),
        "tlskey": str(file),
        "features": {"teleport": True},
        "labels": ["x"],
        "data-root": str(tmp_path / "data"),
        "exec-root": str(tmp_path / "run"),
    }
    file.write_text(json.dumps(values))
    command = [sys.executable, "-m", "pyengine", "daemon", "--config-file", str(file)]
    for flags in ([], ["--validate"]):
        done = subprocess.run(
            [*command, *flags], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 1
        for line in (
            "'labels': bad attribute format: 'x'",
            "log-opts: unknown log opt 'max-sise' for json-file, nowhere log driver",
            "log-driver: no logging driver 'nowhere' is installed",
            "storage-opts: unknown option 'overlay2.colour' for storage driver 'overlay2'",
            "default-address-pools: invalid default-address-pools for ipam driver 'default': "
            "'here' does not appear",
            f"seccomp-profile: the seccomp profile {tmp_path}/profile.json is invalid",
            "default-runtime: no runtime driver 'nonsuch' is installed",
            "drivers.network.allow: no network driver 'brigde' is installed",
            "drivers: unknown kind 'storge' (did you mean 'storage'?)",
            "default-network-opts: no network driver 'brige' is installed",
            "bridge is 'nobodys0', and there is no such bridge on this host",
            f'could not load X509 key pair (cert: "{file}", key: "{file}")',
        ):
            assert line in done.stderr
    assert not (tmp_path / "data").exists()
