"""The spec builder: Docker's defaults, and what each option changes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pyengine.engine.model import (
    Container,
    ContainerConfig,
    DeviceMapping,
    HostConfig,
    ThrottleDevice,
    Ulimit,
)
from pyengine.errors import InvalidParameter, Unavailable
from pyengine.linux.idmaps import IdMapping, IdMaps
from pyengine.oci import capabilities, defaults
from pyengine.oci.mounts import ResolvedMount
from pyengine.oci.spec import (
    HOST,
    EngineOptions,
    Namespaces,
    SpecInput,
    build,
    environment,
    process_for_exec,
)
from pyengine.oci.users import Identity

#: Docker's capability mask, as /proc/self/status shows it in a container.
DOCKER_MASK = 0x00000000A80425FB


def container(host: HostConfig | None = None, **config: Any) -> Container:
    config = {"hostname": "0123456789ab", **config}
    return Container(
        id="0" * 64,
        name="test",
        created="",
        path="sleep",
        args=["1"],
        config=ContainerConfig(**config),
        host_config=host or HostConfig(),
    )


def made(host: HostConfig | None = None, **more: Any) -> dict[str, Any]:
    config, id_maps = more.pop("config", {}), more.pop("id_maps", None)
    record = container(host, **config)
    record.id_maps = id_maps
    return build(SpecInput(container=record, rootfs="/rootfs", **more))


def mount(spec: dict[str, Any], destination: str) -> dict[str, Any]:
    (found,) = [item for item in spec["mounts"] if item["destination"] == destination]
    return dict(found)


def mask(names: list[str]) -> int:
    return sum(1 << capabilities.NAMES.index(name.removeprefix("CAP_")) for name in names)


def test_the_default_spec() -> None:
    spec = made(cgroups_path="/pyengine/0123")
    assert spec["ociVersion"] == "1.2.0"
    assert spec["hostname"] == "0123456789ab"
    assert spec["root"] == {"path": "/rootfs", "readonly": False}
    assert spec["process"]["args"] == ["sleep", "1"]
    assert spec["process"]["cwd"] == "/"
    assert spec["process"]["noNewPrivileges"] is False
    assert spec["linux"]["cgroupsPath"] == "/pyengine/0123"
    assert [item["destination"] for item in spec["mounts"]] == [
        *("/proc", "/dev", "/dev/pts", "/sys", "/sys/fs/cgroup", "/dev/mqueue", "/dev/shm")
    ]
    assert mount(spec, "/dev/shm")["options"] == [
        *("nosuid", "noexec", "nodev", "mode=1777", "size=67108864")
    ]
    assert mount(spec, "/dev")["options"] == ["nosuid", "strictatime", "mode=755", "size=65536k"]
    assert "ro" in mount(spec, "/sys")["options"]
    assert "ro" in mount(spec, "/sys/fs/cgroup")["options"]
    assert [item["type"] for item in spec["linux"]["namespaces"]] == [
        *("mount", "network", "uts", "pid", "ipc")
    ]
    assert {"/proc/kcore", "/proc/keys", "/sys/firmware"} <= set(spec["linux"]["maskedPaths"])
    assert "/proc/sys" in spec["linux"]["readonlyPaths"]
    assert spec["linux"]["resources"]["devices"][0] == {"allow": False, "access": "rwm"}
    assert msgspec.json.decode(msgspec.json.encode(spec)) == spec


def test_specs_share_nothing() -> None:
    first = made()
    first["mounts"][0]["options"].append("x")
    first["linux"]["maskedPaths"].clear()
    first["process"]["capabilities"]["bounding"].clear()
    second = made()
    assert "x" not in second["mounts"][0]["options"]
    assert second["linux"]["maskedPaths"]
    assert second["process"]["capabilities"]["bounding"]


def test_it_is_fast() -> None:
    given = SpecInput(container=container(HostConfig(memory=64 << 20)), rootfs="/rootfs")
    build(given)
    began = time.process_time()
    for _ in range(200):
        build(given)
    assert (time.process_time() - began) / 200 < 300e-6


@pytest.mark.parametrize(
    ("add", "drop", "privileged", "expected"),
    [
        (None, None, False, DOCKER_MASK),
        (["NET_ADMIN"], None, False, DOCKER_MASK | 1 << 12),
        (["cap_net_admin"], ["CHOWN"], False, (DOCKER_MASK | 1 << 12) & ~1),
        (["CHOWN"], None, False, DOCKER_MASK),
        (None, ["ALL"], False, 0),
        (["CHOWN"], ["all"], False, 1),
        (["ALL"], ["CHOWN"], False, mask(list(capabilities.available())) & ~1),
        (["ALL"], ["ALL"], False, mask(list(capabilities.available()))),
        (None, None, True, mask(list(capabilities.available()))),
    ],
)
def test_capabilities(
    add: list[str] | None, drop: list[str] | None, privileged: bool, expected: int
) -> None:
    spec = made(HostConfig(cap_add=add, cap_drop=drop, privileged=privileged))
    sets = spec["process"]["capabilities"]
    assert set(sets) == {"bounding", "effective", "permitted"}
    for names in sets.values():
        assert mask(names) == expected
        assert len(set(names)) == len(names)


def test_environment_in_dockers_order() -> None:
    one = container(env=["A=1", "PATH=/bin", "HOSTNAME", "B=x=y"])
    assert environment(one, True, links=["L=1"], overrides=["A=2", "C=3"], home="/root") == [
        *("PATH=/bin", "TERM=xterm", "L=1", "A=2", "B=x=y", "C=3", "HOME=/root")
    ]
    assert environment(container(env=["HOME=/x"]), False, home="/root") == [
        *(defaults.PATH, "HOSTNAME=0123456789ab", "HOME=/x")
    ]


def test_user_and_groups() -> None:
    spec = made(user=Identity(1000, 100, (100, 10), "/home/u"))
    assert spec["process"]["user"] == {"uid": 1000, "gid": 100, "additionalGids": [100, 10]}
    assert "HOME=/home/u" in spec["process"]["env"]


def test_a_terminal() -> None:
    spec = made(HostConfig(console_size=[40, 120]), config={"tty": True})
    assert spec["process"]["terminal"] is True
    assert spec["process"]["consoleSize"] == {"height": 40, "width": 120}
    assert "TERM=xterm" in spec["process"]["env"]


def test_namespaces() -> None:
    joined = Namespaces("/proc/1/ns/net", HOST, "/proc/1/ns/ipc", HOST, "", HOST)
    spec = made(namespaces=joined)
    assert spec["linux"]["namespaces"] == [
        {"type": "mount"},
        {"type": "network", "path": "/proc/1/ns/net"},
        {"type": "ipc", "path": "/proc/1/ns/ipc"},
        {"type": "cgroup"},
    ]
    assert "hostname" not in spec
    assert spec["linux"]["sysctl"] == {}


def test_user_namespace() -> None:
    maps = IdMaps((IdMapping(0, 100000, 65536),), (IdMapping(0, 200000, 65536),))
    volume = ResolvedMount(kind="volume", source="/v", destination="/v", id_mapped=True)
    plain = ResolvedMount(kind="bind", source="/p", destination="/p")
    spec = made(
        namespaces=Namespaces(user=""),
        id_maps=maps,
        mounts=[volume, plain],
        hosts_path="/hosts",
    )
    assert "idmap" in mount(spec, "/v")["options"]
    assert "idmap" in mount(spec, "/etc/hosts")["options"]
    assert "idmap" not in mount(spec, "/p")["options"]
    assert {"type": "user"} in spec["linux"]["namespaces"]
    assert spec["linux"]["uidMappings"] == [{"containerID": 0, "hostID": 100000, "size": 65536}]
    assert spec["linux"]["gidMappings"][0]["hostID"] == 200000
    assert "net.ipv4.ping_group_range" not in spec["linux"]["sysctl"]
    assert "ro" not in mount(spec, "/sys/fs/cgroup")["options"]
    assert mount(spec, "/dev/mqueue")["type"] == "mqueue"
    spec = made(namespaces=Namespaces(user="", ipc=HOST), id_maps=maps)
    assert mount(spec, "/dev/mqueue")["source"] == "/dev/mqueue"


def test_sysctls_of_a_private_network() -> None:
    host = HostConfig(sysctls={"net.ipv4.ip_forward": "1", "net.ipv4.ping_group_range": "1 0"})
    spec = made(host, config={"domainname": "example.org"})
    assert spec["linux"]["sysctl"] == {
        "net.ipv4.ping_group_range": "1 0",
        "net.ipv4.ip_unprivileged_port_start": "0",
        "net.ipv4.ip_forward": "1",
        "kernel.domainname": "example.org",
    }


def test_resources() -> None:
    host = HostConfig(
        memory=64 << 20,
        memory_swap=128 << 20,
        memory_reservation=32 << 20,
        memory_swappiness=10,
        oom_kill_disable=False,
        nano_cpus=1_500_000_000,
        cpu_shares=512,
        cpuset_cpus="0",
        pids_limit=50,
        blkio_weight=300,
    )
    resources = made(host)["linux"]["resources"]
    assert resources["memory"] == {
        "limit": 64 << 20,
        "reservation": 32 << 20,
        "swap": 128 << 20,
        "swappiness": 10,
        "disableOOMKiller": False,
    }
    assert resources["cpu"] == {"shares": 512, "period": 100000, "quota": 150000, "cpus": "0"}
    assert resources["pids"] == {"limit": 50}
    assert resources["blockIO"] == {"weight": 300}
    assert set(made()["linux"]["resources"]) == {"devices"}


@pytest.mark.parametrize(("given", "limit"), [(0, -1), (-1, -1), (7, 7)])
def test_pids_limit(given: int, limit: int) -> None:
    assert made(HostConfig(pids_limit=given))["linux"]["resources"]["pids"] == {"limit": limit}


def test_throttled_devices() -> None:
    host = HostConfig(blkio_device_read_bps=[ThrottleDevice(path="/dev/zero", rate=1000)])
    block = made(host)["linux"]["resources"]["blockIO"]
    assert block == {"throttleReadBpsDevice": [{"major": 1, "minor": 5, "rate": 1000}]}
    host = HostConfig(blkio_device_read_bps=[ThrottleDevice(path="/dev/no", rate=1)])
    with pytest.raises(InvalidParameter, match="stat /dev/no"):
        made(host)


def test_limits_of_container_and_engine() -> None:
    engine = EngineOptions(
        default_ulimits={
            "nofile": Ulimit(name="nofile", soft=1, hard=2),
            "core": Ulimit(name="core", soft=-1, hard=-1),
        }
    )
    host = HostConfig(ulimits=[Ulimit(name="nofile", soft=1024, hard=4096)], oom_score_adj=-5)
    process = made(host, engine=engine)["process"]
    assert process["rlimits"] == [
        {"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096},
        {"type": "RLIMIT_CORE", "soft": (1 << 64) - 1, "hard": (1 << 64) - 1},
    ]
    assert process["oomScoreAdj"] == -5
    assert "rlimits" not in made()["process"]


def test_privileged() -> None:
    spec = made(HostConfig(privileged=True))
    assert spec["linux"]["maskedPaths"] == spec["linux"]["readonlyPaths"] == []
    assert "ro" not in mount(spec, "/sys")["options"]
    assert "ro" not in mount(spec, "/sys/fs/cgroup")["options"]
    assert spec["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    paths = {device["path"]: device for device in spec["linux"]["devices"]}
    assert (paths["/dev/zero"]["major"], paths["/dev/zero"]["minor"]) == (1, 5)
    assert "/dev/console" not in paths
    assert not any(path.startswith("/dev/pts/") for path in paths)


def test_devices(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/dev/zero")
    host = HostConfig(
        devices=[
            DeviceMapping(
                path_on_host=str(link), path_in_container="/dev/z", cgroup_permissions="r"
            )
        ],
        device_cgroup_rules=["c 13:* rwm"],
    )
    linux = made(host)["linux"]
    assert linux["devices"][0]["path"] == "/dev/z"
    assert linux["resources"]["devices"][-2:] == [
        {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "r"},
        {"allow": True, "type": "c", "major": 13, "minor": -1, "access": "rwm"},
    ]
    with pytest.raises(InvalidParameter, match="error gathering device information"):
        made(HostConfig(devices=[DeviceMapping(path_on_host=str(tmp_path))]))
    with pytest.raises(InvalidParameter, match="no such file"):
        made(HostConfig(devices=[DeviceMapping(path_on_host="/dev/no")]))
    with pytest.raises(InvalidParameter, match="invalid device cgroup rule format: 'c 1 r'"):
        made(HostConfig(device_cgroup_rules=["c 1 r"]))


def test_a_directory_of_devices() -> None:
    host = HostConfig(
        devices=[DeviceMapping(path_on_host="/dev/pts", path_in_container="/dev/lines")]
    )
    devices = made(host)["linux"]["devices"]
    assert all(device["path"].startswith("/dev/lines/") for device in devices)
    assert "/dev/lines/ptmx" in {device["path"] for device in devices}


def test_mounts_replace_defaults() -> None:
    mounts = [
        ResolvedMount(kind="bind", source="/a", destination="/data/deep/er"),
        ResolvedMount(kind="bind", source="/b", destination="/data", writable=False),
        ResolvedMount(
            kind="volume", source="/v", destination="/vol", recursive=False, writable=False
        ),
        ResolvedMount(
            kind="tmpfs", destination="/dev/shm", options=["size=1m", "exec", "mode=1770"]
        ),
    ]
    spec = made(
        mounts=mounts,
        hosts_path="/h/hosts",
        hostname_path="/h/hostname",
        resolv_path="/h/resolv.conf",
    )
    assert mount(spec, "/dev/shm")["options"] == [
        *("nosuid", "nodev", "rprivate", "size=1m", "exec", "mode=1770")
    ]
    order = [item["destination"] for item in spec["mounts"]]
    assert order.index("/data") < order.index("/data/deep/er")
    assert mount(spec, "/data")["options"] == ["rbind", "rro", "rprivate"]
    assert mount(spec, "/vol")["options"] == ["bind", "ro", "rprivate"]
    assert mount(spec, "/etc/hosts")["source"] == "/h/hosts"
    assert mount(spec, "/etc/resolv.conf")["options"] == ["rbind", "rprivate"]


def test_a_mounted_dev_keeps_what_is_in_it() -> None:
    spec = made(mounts=[ResolvedMount(kind="bind", source="/dev", destination="/dev")])
    order = [item["destination"] for item in spec["mounts"]]
    assert [path for path in order if path.startswith("/dev")] == ["/dev"]


def test_own_hosts_file_wins() -> None:
    own = ResolvedMount(kind="bind", source="/mine", destination="/etc/hosts")
    assert mount(made(mounts=[own], hosts_path="/h"), "/etc/hosts")["source"] == "/mine"


def test_shared_memory() -> None:
    assert mount(made(HostConfig(shm_size=1 << 20)), "/dev/shm")["options"][-1] == "size=1048576"
    spec = made(HostConfig(ipc_mode="none"))
    assert "/dev/shm" not in [item["destination"] for item in spec["mounts"]]
    assert mount(made(HostConfig(ipc_mode="host"), shm_source="/dev/shm"), "/dev/shm") == {
        "destination": "/dev/shm",
        "type": "bind",
        "source": "/dev/shm",
        "options": ["rbind", "rprivate"],
    }


def test_read_only_root() -> None:
    spec = made(
        HostConfig(readonly_rootfs=True),
        mounts=[ResolvedMount(kind="bind", source="/a", destination="/data")],
        hosts_path="/h",
    )
    assert spec["root"]["readonly"] is True
    writable = {i["destination"] for i in spec["mounts"] if not {"ro", "rro"} & set(i["options"])}
    assert writable == {"/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/data"}


def test_init(tmp_path: Path) -> None:
    engine = EngineOptions(init=True, init_path="/usr/bin/tini-static")
    spec = made(engine=engine)
    assert spec["process"]["args"] == ["/sbin/docker-init", "--", "sleep", "1"]
    assert mount(spec, "/sbin/docker-init")["source"] == "/usr/bin/tini-static"
    assert made(HostConfig(init=False), engine=engine)["process"]["args"] == ["sleep", "1"]
    # Somebody else's process 1 is there already.
    shared = made(engine=engine, namespaces=Namespaces(pid=HOST))
    assert shared["process"]["args"] == ["sleep", "1"]
    with pytest.raises(Unavailable) as error:
        made(HostConfig(init=True))
    assert error.value.brief == 'exec: "docker-init": executable file not found in $PATH'
    assert "tini" in error.value.help
    script = tmp_path / "init"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    assert defaults.find_init(str(script)) == str(script)
    assert defaults.find_init(str(tmp_path / "none")) == ""


@pytest.mark.parametrize(
    ("options", "engine", "expected"),
    [
        ([], False, False),
        ([], True, True),
        (["no-new-privileges"], False, True),
        (["no-new-privileges=true"], False, True),
        (["no-new-privileges:false"], True, False),
        (["label=disable", "apparmor=x"], False, False),
    ],
)
def test_no_new_privileges(options: list[str], engine: bool, expected: bool) -> None:
    spec = made(HostConfig(security_opt=options), engine=EngineOptions(no_new_privileges=engine))
    assert spec["process"]["noNewPrivileges"] is expected


def test_paths() -> None:
    spec = made(HostConfig(masked_paths=["/proc/a"], readonly_paths=[]))
    assert spec["linux"]["maskedPaths"] == ["/proc/a"]
    assert spec["linux"]["readonlyPaths"] == []
    spec = made(HostConfig(security_opt=["systempaths=unconfined", "writable-cgroups=true"]))
    assert spec["linux"]["maskedPaths"] == spec["linux"]["readonlyPaths"] == []
    assert "ro" in mount(spec, "/sys")["options"]
    assert "ro" not in mount(spec, "/sys/fs/cgroup")["options"]
    with pytest.raises(InvalidParameter, match="invalid --security-opt 2"):
        made(HostConfig(security_opt=["no-new-privileges=perhaps"]))
    with pytest.raises(InvalidParameter, match="invalid --security-opt 1"):
        made(HostConfig(security_opt=["nonsense"]))


def test_annotations() -> None:
    assert made(HostConfig(annotations={"a": "b"}))["annotations"] == {"a": "b"}
    with pytest.raises(InvalidParameter, match=r"io\.pyengine\."):
        made(HostConfig(annotations={"io.pyengine.seccomp.bpf": "/etc/passwd"}))


def test_propagation(tmp_path: Path) -> None:
    bad = ResolvedMount(kind="bind", source="/", destination="/x", propagation="sideways")
    with pytest.raises(InvalidParameter, match="sideways"):
        made(mounts=[bad])
    private = ResolvedMount(kind="bind", source="/proc", destination="/x", propagation="rshared")
    with pytest.raises(InvalidParameter, match="/proc but it is not a shared mount"):
        made(mounts=[private])


def test_exec() -> None:
    one = container(env=["A=1"], working_dir="/work")
    spec = build(SpecInput(container=one, rootfs="/r", user=Identity(5, 6, (6,), "/home/five")))
    process = process_for_exec(spec["process"], one, args=["ls"], env=["A=2"])
    assert process["args"] == ["ls"]
    assert process["cwd"] == "/work"
    assert process["env"] == [*(defaults.PATH, "HOSTNAME=0123456789ab", "A=2", "HOME=/home/five")]
    assert process["user"] == spec["process"]["user"]
    assert process["capabilities"] == spec["process"]["capabilities"]
    other = process_for_exec(
        spec["process"],
        one,
        args=["sh"],
        tty=True,
        privileged=True,
        working_dir="/",
        user=Identity(0, 0, (0,), "/root"),
        console_size=[24, 80],
    )
    assert other["terminal"] is True
    assert other["consoleSize"] == {"height": 24, "width": 80}
    assert other["user"]["uid"] == 0
    assert other["env"][-1] == "HOME=/root"
    assert len(other["capabilities"]["bounding"]) == len(capabilities.available())
