"""Every field of HostConfig has an effect, a warning or a refusal: none is ignored.

One row for each field of the API: what is asked for, and what comes of it. A field without a row
fails, and so does a row that shows nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from harness import EngineProcess

from pyengine.engine.model import (
    BindOptions,
    HostConfig,
    ImageOptions,
    Mount,
    TmpfsOptions,
    VolumeOptions,
)
from tests.e2e.conftest import Docker, eventually

UNIFIED = Path("/sys/fs/cgroup/cgroup.controllers").exists()
API = "/v1.51"
#: a whole disk of this host, if there is one
DISK = next((f"/dev/{n}" for n in sorted(os.listdir("/sys/block")) if n[:2] in ("vd", "sd")), "")
DISK_NUMBER = f"{os.major(os.stat(DISK).st_rdev)}:{os.minor(os.stat(DISK).st_rdev)}" if DISK else ""


class Row(msgspec.Struct, kw_only=True):
    """``value``: of the field; ``host`` and ``config``: what else the request has. Of the rest at
    least one: ``script`` prints ``out`` inside (a pattern); ``says``: of the error at create or
    start; ``warns``: in the answer to create; ``shows``: pattern of the field in inspect, for those
    that are the client's own business; ``until``: (method, path, pattern) about the container."""

    value: Any
    host: dict[str, Any] = {}
    config: dict[str, Any] = {}
    script: str = ""
    out: str = ""
    says: str = ""
    warns: str = ""
    shows: str = ""
    ends: str = ""
    version: str = API


def limit(value: Any, v1: str, v2: str, out: str, out2: str = "", **more: Any) -> Row:
    """A limit that a file of the cgroup holds; ``v2`` with a space in it: a warning there."""
    if UNIFIED and " " in v2:
        return Row(value=value, warns=v2, **more)
    file = v2 if UNIFIED else v1
    return Row(value=value, script=f"cat /sys/fs/cgroup/{file}",
               out=out2 or out if UNIFIED else out, **more)  # fmt: skip


def namespace(kind: str) -> Row:
    return Row(value="host", script=f"readlink /proc/self/ns/{kind}",
               out=re.escape(os.readlink(f"/proc/self/ns/{kind}")))  # fmt: skip


def throttle(v1: str, v2: str) -> Row:
    if not DISK:
        return Row(value=[{"Path": "/dev/nonesuch", "Rate": 4096}], says="stat /dev/nonesuch")
    return limit([{"Path": DISK, "Rate": 1048576}], f"blkio/blkio.throttle.{v1}", "io.max",
                 f"{DISK_NUMBER} 1048576", f"{DISK_NUMBER} .*{v2}=1048576")  # fmt: skip


MB = 1 << 20
PARENT = f"/petest-{os.getpid()}"
#: all that this host gives to anybody
(CAPABILITIES,) = re.findall(r"CapBnd:\s*(\w+)", Path("/proc/self/status").read_text())
NO_WEIGHT = "Your kernel does not support Block I/O weight"
HAS_WEIGHT = UNIFIED or Path("/sys/fs/cgroup/blkio/blkio.bfq.weight").exists()

ROWS: dict[str, Row] = {
    "Binds": Row(value=["/etc:/bound:ro"], script="touch /bound/x", out="Read-only file system"),
    "ContainerIDFile": Row(value="/some/where", shows="/some/where"),
    "LogConfig": Row(value={"Type": "nonsense"}, says='plugin "nonsense" not found'),
    "NetworkMode": Row(value="none", script="ls /sys/class/net", out="^lo$"),
    "PortBindings": Row(value={"80/tcp": [{"HostPort": "28080"}]}, script="sleep 60",
                        host={"NetworkMode": "bridge"}, ends='"HostPort":"28080"'),
    "RestartPolicy": Row(value={"Name": "on-failure", "MaximumRetryCount": 1},
                         script="exit 3", ends='"RestartCount":1'),
    "AutoRemove": Row(value=True, script="true", ends="No such container"),
    "VolumeDriver": Row(value="nonsense", config={"Volumes": {"/v": {}}},
                        says="no volume driver 'nonsense'"),
    "VolumesFrom": Row(value=["donor:ro"], script="cat /donated/file; touch /donated/x",
                       out="gift\n.*Read-only file system"),
    "ConsoleSize": Row(value=[33, 77], config={"Tty": True}, script="stty size", out="33 77"),
    "Annotations": Row(value={"io.pyengine.x": "y"}, says="names that begin with io.pyengine."),
    "CapAdd": Row(value=["NET_ADMIN"], script="grep CapEff /proc/self/status", out="a80435fb"),
    "CapDrop": Row(value=["ALL"], script="grep CapEff /proc/self/status", out="0000000000000000"),
    "CgroupnsMode": Row(value="private", script="cat /proc/self/cgroup",
                        out=r"^(\d+:[^:]*:/\s*)+$"),
    "Dns": Row(value=["10.9.8.7"], script="cat /etc/resolv.conf", out="nameserver 10.9.8.7"),
    "DnsOptions": Row(value=["ndots:7"], script="cat /etc/resolv.conf", out="options .*ndots:7"),
    "DnsSearch": Row(value=["one.test"], script="cat /etc/resolv.conf", out="search one.test"),
    "ExtraHosts": Row(value=["far:10.1.2.3"], script="cat /etc/hosts", out="10.1.2.3\tfar",
                      host={"NetworkMode": "bridge"}),
    "GroupAdd": Row(value=["4242"], script="id -G", out="4242"),
    "IpcMode": namespace("ipc"),
    "Cgroup": Row(value="container:x", says="invalid cgroup: container:x"),
    "Links": Row(value=["nonesuch:x"], says="could not get container for nonesuch"),
    "OomScoreAdj": Row(value=321, script="cat /proc/self/oom_score_adj", out="321"),
    "PidMode": namespace("pid"),
    "Privileged": Row(value=True, script="grep CapBnd /proc/self/status", out=CAPABILITIES),
    "PublishAllPorts": Row(value=True, config={"ExposedPorts": {"81/tcp": {}}}, script="sleep 60",
                           host={"NetworkMode": "bridge"}, ends=r'"81/tcp":\[\{"HostIp"'),
    "ReadonlyRootfs": Row(value=True, script="touch /x", out="Read-only file system"),
    "SecurityOpt": Row(value=["no-new-privileges"], script="grep NoNewPrivs /proc/self/status",
                       out="NoNewPrivs:\t1"),
    "StorageOpt": Row(value={"nonsense": "1"}, says="Unknown option nonsense"),
    "Tmpfs": Row(value={"/t": "size=64k"}, script="grep ' /t ' /proc/mounts", out="size=64k"),
    "UTSMode": namespace("uts"),
    "UsernsMode": Row(value="nonsense", says="invalid user namespace mode: nonsense"),
    "ShmSize": Row(value=2 * MB, script="df -k /dev/shm", out=" 2048 "),
    "Sysctls": Row(value={"kernel.shmmni": "77"}, script="cat /proc/sys/kernel/shmmni", out="77"),
    "Runtime": Row(value="nonsense", says="no runtime driver 'nonsense'"),
    "Isolation": Row(value="hyperv", says='Invalid isolation: "hyperv"'),
    "MaskedPaths": Row(value=["/etc/passwd"], script="wc -c </etc/passwd", out="^0$"),
    "ReadonlyPaths": Row(value=["/etc"], script="touch /etc/x", out="Read-only file system"),
    "Init": Row(value=True, script="cat /proc/1/comm", out="init|tini|catatonit",
                says="docker-init"),
    "CgroupParent": Row(value=PARENT, script="cat /proc/self/cgroup", out=f":.*{PARENT}/[0-9a-f]",
                        host={"CgroupnsMode": "host"}),
    "CpuShares": limit(512, "cpu/cpu.shares", "cpu.weight", "^512$", "^59$"),
    "Memory": limit(64 * MB, "memory/memory.limit_in_bytes", "memory.max", f"^{64 * MB}$"),
    "MemoryReservation": limit(32 * MB, "memory/memory.soft_limit_in_bytes", "memory.low",
                               f"^{32 * MB}$"),
    "MemorySwap": limit(96 * MB, "memory/memory.memsw.limit_in_bytes", "memory.swap.max",
                        f"^{96 * MB}$", f"^{32 * MB}$", host={"Memory": 64 * MB}),
    "MemorySwappiness": limit(7, "memory/memory.swappiness", "Memory swappiness discarded.", "^7$"),
    "OomKillDisable": limit(True, "memory/memory.oom_control", "OomKillDisable discarded.",
                            "oom_kill_disable 1", host={"Memory": 64 * MB}),
    "KernelMemory": Row(value=64 * MB, version="/v1.41", warns="kernel memory limit capabilities"),
    "KernelMemoryTCP": limit(64 * MB, "memory/memory.kmem.tcp.limit_in_bytes",
                             "kernel memory TCP limit capabilities", f"^{64 * MB}$"),
    "NanoCpus": limit(500_000_000, "cpu/cpu.cfs_quota_us", "cpu.max", "^50000$", "^50000 100000$"),
    "CpuPeriod": limit(50_000, "cpu/cpu.cfs_period_us", "cpu.max", "^50000$", "^max 50000$"),
    "CpuQuota": limit(25_000, "cpu/cpu.cfs_quota_us", "cpu.max", "^25000$", "^25000 100000$"),
    "CpuRealtimePeriod": Row(value=10, host={"CpuRealtimeRuntime": 20}, says="real-time"),
    "CpuRealtimeRuntime": Row(value=1000, says="cpu.rt_runtime_us|CPU real-time scheduler",
                              script="cat /sys/fs/cgroup/cpu/cpu.rt_runtime_us", out="^1000$"),
    "CpusetCpus": limit("0", "cpuset/cpuset.cpus", "cpuset.cpus", "^0$"),
    "CpusetMems": limit("0", "cpuset/cpuset.mems", "cpuset.mems", "^0$"),
    "PidsLimit": limit(77, "pids/pids.max", "pids.max", "^77$"),
    "BlkioWeight": (
        limit(300, "blkio/blkio.bfq.weight", "io.weight", "300", "default ")
        if HAS_WEIGHT else Row(value=300, warns=NO_WEIGHT)
    ),
    "BlkioWeightDevice": (
        Row(value=[{"Path": "/dev/nonesuch", "Weight": 300}], says="stat /dev/nonesuch")
        if HAS_WEIGHT else Row(value=[{"Path": "/x", "Weight": 300}], warns=f"{NO_WEIGHT}_device")
    ),
    "BlkioDeviceReadBps": throttle("read_bps_device", "rbps"),
    "BlkioDeviceWriteBps": throttle("write_bps_device", "wbps"),
    "BlkioDeviceReadIOps": throttle("read_iops_device", "riops"),
    "BlkioDeviceWriteIOps": throttle("write_iops_device", "wiops"),
    "Devices": Row(value=[{"PathOnHost": "/dev/zero", "PathInContainer": "/dev/nought",
                           "CgroupPermissions": "r"}],
                   script="stat -c %t:%T /dev/nought", out="1:5"),
    "DeviceCgroupRules": Row(value=["c 10:229 rwm"], script="mknod /f c 10 229; : <>/f && echo yes",
                             out="yes"),
    "DeviceRequests": Row(value=[{"Driver": "nonsense", "Capabilities": [["gpu"]]}],
                          says='could not select device driver "nonsense"'),
    "Ulimits": Row(value=[{"Name": "nofile", "Soft": 100, "Hard": 200}],
                   script="ulimit -Sn; ulimit -Hn", out="100\n200"),
    "CpuCount": Row(value=1, warns="linux does not support CPU count. Count discarded."),
    "CpuPercent": Row(value=1, warns="linux does not support CPU percent. Percent discarded."),
    "IOMaximumIOps": Row(value=1, says="not support configuration of maximum IOPs"),
    "IOMaximumBandwidth": Row(value=1, says="not support configuration of maximum bandwidth"),
    "Mounts": Row(value=[{"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 65536}}],
                  script="grep ' /t ' /proc/mounts", out="size=64k"),
}  # fmt: skip

BIND = {"Type": "bind", "Source": "/etc", "Target": "/m"}
VOLUME = {"Type": "volume", "Source": "donated", "Target": "/m"}
TMPFS = {"Type": "tmpfs", "Target": "/m"}
MOUNTED = "grep ' /m ' /proc/mounts"

#: ``value``: a whole entry of Mounts
MOUNT_ROWS: dict[str, Row] = {
    "Type": Row(value={"Type": "floppy", "Target": "/m"}, says="mount type unknown"),
    "Source": Row(value=BIND, script="ls /m", out="passwd"),
    "Target": Row(value={**BIND, "Target": "m"}, says="mount path must be absolute"),
    "ReadOnly": Row(value={**BIND, "ReadOnly": True}, script="touch /m/x", out="Read-only"),
    "Consistency": Row(value={**BIND, "Consistency": "cached"}, shows="cached"),
    "ClusterOptions": Row(value={**BIND, "ClusterOptions": {}},
                          says="field ClusterOptions must not be specified"),
    "BindOptions.Propagation": Row(value={**BIND, "BindOptions": {"Propagation": "sideways"}},
                                   says="invalid propagation mode: sideways"),
    "BindOptions.NonRecursive": Row(
        value={**BIND, "Source": "/proc", "BindOptions": {"NonRecursive": True}},
        script="grep -c ' /m' /proc/mounts", out="^1$"),
    "BindOptions.CreateMountpoint": Row(
        value={**BIND, "Source": "/etc/passwd/x", "BindOptions": {"CreateMountpoint": True}},
        says="error while creating mount source path"),
    "BindOptions.ReadOnlyNonRecursive": Row(
        value={**BIND, "BindOptions": {"ReadOnlyNonRecursive": True}},
        says="mount options conflict: !ReadOnly && BindOptions.ReadOnlyNonRecursive"),
    "BindOptions.ReadOnlyForceRecursive": Row(
        value={**BIND, "BindOptions": {"ReadOnlyForceRecursive": True}},
        says="mount options conflict: !ReadOnly && BindOptions.ReadOnlyForceRecursive"),
    "VolumeOptions.NoCopy": Row(
        value={"Type": "volume", "Target": "/etc", "VolumeOptions": {"NoCopy": True}},
        script="ls /etc", out=r"^hostname\s+hosts\s+resolv.conf$"),
    "VolumeOptions.Labels": Row(
        value={"Type": "volume", "Target": "/m", "VolumeOptions": {"Labels": {"row": "yes"}}},
        script="true", ends='"row":"yes"'),
    "VolumeOptions.DriverConfig": Row(
        value={"Type": "volume", "Target": "/m",
               "VolumeOptions": {"DriverConfig": {"Name": "local", "Options": {"no": "1"}}}},
        says='invalid option: "no"'),
    "VolumeOptions.Subpath": Row(value={**VOLUME, "VolumeOptions": {"Subpath": "deep"}},
                                 script="cat /m/file", out="deeper"),
    "ImageOptions.Subpath": Row(
        value={"Type": "image", "Source": "busybox", "Target": "/m",
               "ImageOptions": {"Subpath": "../x"}},
        says="subpath must be a relative path"),
    "TmpfsOptions.SizeBytes": Row(value={**TMPFS, "TmpfsOptions": {"SizeBytes": 65536}},
                                  script=MOUNTED, out="size=64k"),
    "TmpfsOptions.Mode": Row(value={**TMPFS, "TmpfsOptions": {"Mode": 0o1750}},
                             script="stat -c %a /m", out="1750"),
    "TmpfsOptions.Options": Row(value={**TMPFS, "TmpfsOptions": {"Options": [["exec"]]}},
                                script=MOUNTED + " | grep -c noexec", out="^0$"),
}  # fmt: skip


def fields(struct: type[msgspec.Struct], prefix: str = "") -> set[str]:
    return {prefix + field.encode_name for field in msgspec.structs.fields(struct)}


def test_every_field_has_a_row() -> None:
    assert set(ROWS) == fields(HostConfig)


def test_every_field_of_a_mount_has_a_row() -> None:
    nested = {
        "BindOptions": BindOptions,
        "VolumeOptions": VolumeOptions,
        "ImageOptions": ImageOptions,
        "TmpfsOptions": TmpfsOptions,
    }
    expected = fields(Mount) - set(nested)
    for name, struct in nested.items():
        expected |= fields(struct, name + ".")
    assert set(MOUNT_ROWS) == expected


def test_every_row_shows_something() -> None:
    for name, row in (ROWS | MOUNT_ROWS).items():
        assert row.out or row.says or row.warns or row.shows or row.ends, name


@pytest.fixture(scope="module")
def donor(engine: EngineProcess) -> Iterator[None]:
    engine.docker(
        *("run", "--name", "donor", "-v", "donated:/donated", "busybox", "sh", "-c"),
        "echo gift >/donated/file; mkdir /donated/deep; echo deeper >/donated/deep/file",
    )
    yield
    engine.docker("rm", "donor")
    engine.docker("volume", "rm", "donated")
    for directory in Path("/sys/fs/cgroup").glob(f"**{PARENT}"):
        if not directory.is_symlink():
            directory.rmdir()  # a parent that was asked for is not the engine's to remove


def proves(docker: Docker, engine: EngineProcess, field: str, row: Row) -> None:
    """The row holds: asked for over the API, since the CLI would hold back some."""
    name = docker.name()
    body = {
        "Image": "busybox",
        "Cmd": ["sh", "-c", row.script or "true"],
        "HostConfig": {"NetworkMode": "none", **row.host, field: row.value},
        **row.config,
    }
    status, answer = engine.api("POST", f"{row.version}/containers/create?name={name}", body)
    message = answer.get("message", "")
    if status == 201:
        assert row.warns in "\n".join(answer["Warnings"]), answer
        if not row.warns:
            assert answer["Warnings"] == []
        assert row.shows in str(engine.api("GET", f"/containers/{name}/json")[1]["HostConfig"])
        status, started = engine.api("POST", f"/containers/{name}/start")
        message = "" if status == 204 else started["message"]
    if status >= 400:
        assert row.says, (field, message)
        assert re.search(row.says, message), message
        return
    assert row.out or not row.says, f"{field} was taken"
    if row.ends:
        assert eventually(lambda: re.search(row.ends, inspected(engine, name))), inspected(
            engine, name
        )
    if row.out:
        engine.docker("wait", name)
        found = engine.docker("logs", name)
        assert re.search(row.out, (found.stdout + found.stderr).strip()), found


def inspected(engine: EngineProcess, name: str) -> str:
    """The container, and its volumes, as text."""
    answers = [engine.api("GET", f"/containers/{name}/json")[1]]
    for mount in answers[0].get("Mounts", []):
        if mount["Type"] == "volume":
            answers.append(engine.api("GET", f"/volumes/{mount['Name']}")[1])
    return msgspec.json.encode(answers).decode()


@pytest.mark.parametrize("field", sorted(ROWS))
@pytest.mark.usefixtures("donor")
def test_a_field_does_something(docker: Docker, engine: EngineProcess, field: str) -> None:
    proves(docker, engine, field, ROWS[field])


@pytest.mark.parametrize("field", sorted(MOUNT_ROWS))
@pytest.mark.usefixtures("donor")
def test_a_field_of_a_mount_does_something(
    docker: Docker, engine: EngineProcess, field: str
) -> None:
    row = msgspec.structs.replace(MOUNT_ROWS[field], value=[MOUNT_ROWS[field].value])
    proves(docker, engine, "Mounts", row)
