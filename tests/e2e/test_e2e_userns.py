"""``userns-remap``: root of a container is nobody on the host, and nobody notices inside."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import EngineProcess, Failed, leftovers

from tests.e2e.conftest import eventually

#: Begins the daemon with a copy of /etc, since users and their ranges stand there.
OWN_ETC = 'mount --bind "$0" /etc && exec "$@"'
RANGES = "daemon:200000:70000\n"


def engine_with_etc(root: Path, docker: str, *flags: str, ranges: str) -> EngineProcess:
    process = EngineProcess(root / "engine", docker, *flags)
    process.root.mkdir()
    shutil.copytree("/etc", root / "etc", symlinks=True)
    for name in ("subuid", "subgid"):
        (root / "etc" / name).write_text(ranges)
    process.wrapper = ["unshare", "--mount", "sh", "-c", OWN_ETC, str(root / "etc")]
    return process


@pytest.fixture(scope="module")
def engine(
    tmp_path_factory: pytest.TempPathFactory, docker_binary: str, busybox: Path
) -> Iterator[EngineProcess]:
    root = Path(tmp_path_factory.mktemp("userns"))
    process = engine_with_etc(root, docker_binary, "--userns-remap", "daemon", ranges=RANGES)
    try:
        process.start()
        process.docker("import", "-c", "CMD sh", str(busybox), "busybox:latest")
        yield process
        eventually(lambda: not leftovers(process))
    finally:
        process.dispose()


@pytest.fixture
def running(engine: EngineProcess) -> Iterator[str]:
    name = "remapped"
    engine.docker("run", "-d", "--name", name, "-v", "shared:/data", "busybox", "sleep", "1000")
    yield name
    engine.docker("rm", "-f", name)
    engine.docker("volume", "rm", "shared")


def inside(engine: EngineProcess, name: str, script: str) -> str:
    return engine.out("exec", name, "sh", "-c", script)


def host_owner(engine: EngineProcess, name: str) -> int:
    pid = engine.inspect(name)["State"]["Pid"]
    return os.stat(f"/proc/{pid}").st_uid


def test_root_inside_is_nobody_outside(engine: EngineProcess, running: str) -> None:
    assert host_owner(engine, running) == 200000
    script = (
        "cat /proc/self/uid_map; id -u; touch /made; "
        "stat -c %u:%g / /bin/busybox /made /etc/hosts /etc/resolv.conf /dev/shm /data"
    )
    lines = inside(engine, running, script).splitlines()
    assert lines[0].split() == ["0", "200000", "70000"]
    assert lines[1] == "0"
    assert set(lines[2:]) == {"0:0"}
    assert "name=userns" in json.loads(engine.out("info", "-f", "{{json .SecurityOptions}}"))
    top = engine.lines("top", running)
    assert top[1].split()[0] == "200000"


def test_what_is_the_engines_is_out_of_reach(engine: EngineProcess) -> None:
    """Not by mounting its directory, either."""
    output = engine.docker(
        "run", "--rm", "-v", f"{engine.root}:/host", "busybox", "sh", "-c",
        "ls /host/data; echo x > /host/new; cat /proc/1/root/etc/shadow", check=False,
    )  # fmt: skip
    assert output.returncode != 0
    assert not (engine.root / "new").exists()
    assert "Permission denied" in output.stderr


def test_files_go_in_and_out_with_the_owners_inside(engine: EngineProcess, running: str) -> None:
    inside(engine, running, "mkdir /d; echo 1 > /d/f; chown 5:6 /d/f; echo 2 > /data/f")
    for path in ("/d", "/data"):
        stream = subprocess.run(
            engine.command("cp", f"{running}:{path}", "-"), capture_output=True, check=True
        ).stdout
        with tarfile.open(fileobj=io.BytesIO(stream)) as archive:
            owners = {entry.name: (entry.uid, entry.gid) for entry in archive}
        assert owners[f"{path[1:]}/f"] == ((5, 6) if path == "/d" else (0, 0))
        assert owners[path[1:]] == (0, 0)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, owner in (("theirs", 7), ("roots", 0)):
            entry = tarfile.TarInfo(name)
            entry.uid, entry.gid = owner, owner
            archive.addfile(entry)
    for place in ("/d", "/data"):
        subprocess.run(
            engine.command("cp", "-a", "-", f"{running}:{place}"), input=out.getvalue(), check=True
        )
        listed = inside(engine, running, f"stat -c '%u:%g' {place}/theirs {place}/roots")
        assert listed.split() == ["7:7", "0:0"]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo("nobodys")
        entry.uid = 70001
        archive.addfile(entry)
    refused = subprocess.run(
        engine.command("cp", "-a", "-", f"{running}:/d"),
        input=out.getvalue(), capture_output=True, check=False,
    )  # fmt: skip
    assert b"Container ID 70001 cannot be mapped to a host ID" in refused.stderr


def test_a_stopped_container_is_the_same(
    engine: EngineProcess, running: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    inside(engine, running, "echo 1 > /before; chown 3:4 /before")
    engine.docker("stop", "-t", "0", running)
    engine.docker("cp", str(tmp_path / "file"), f"{running}:/while")
    exported = subprocess.run(
        engine.command("export", running), capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(exported)) as archive:
        owners = {entry.name: (entry.uid, entry.gid) for entry in archive}
    assert owners["before"] == (3, 4)
    assert owners["bin/busybox"] == owners["while"] == (0, 0)
    engine.docker("start", running)
    assert inside(engine, running, "stat -c %u:%g /before /while").split() == ["3:4", "0:0"]


def test_images_and_volumes_are_of_both_worlds(engine: EngineProcess, running: str) -> None:
    """What a container with the map leaves has its owners as they are inside of it."""
    inside(engine, running, "echo 1 > /kept; echo 2 > /data/kept; chown 5:6 /kept /data/kept")
    engine.docker("commit", running, "kept:latest")
    look = ("sh", "-c", "cat /proc/self/uid_map; stat -c %u:%g /kept /data/kept")
    for flags in ((), ("--userns=host",)):
        lines = engine.lines("run", "--rm", *flags, "-v", "shared:/data", "kept", *look)
        assert lines[1:] == ["5:6", "5:6"]
        assert lines[0].split()[1] == ("0" if flags else "200000")
    engine.docker("rmi", "kept:latest")
    assert "A /kept" in engine.lines("diff", running)


def test_output_and_terminals(engine: EngineProcess, running: str) -> None:
    """Whoever runs inside can open its own output again, as nginx does."""
    again = "id -u; echo again > /dev/stdout"
    for user in ("0", "33"):
        assert engine.lines("run", "--rm", "-u", user, "busybox", "sh", "-c", again) == [
            user,
            "again",
        ]
        assert engine.lines("exec", "-u", user, running, "sh", "-c", again) == [user, "again"]
        assert "/dev/pts/0" in engine.out("exec", "-t", "-u", user, running, "tty")
    assert "/dev/pts/0" in engine.out("run", "--rm", "-t", "busybox", "tty")


def test_limits_networks_and_file_systems(engine: EngineProcess, running: str) -> None:
    script = (
        "ulimit -n; cat /proc/sys/net/ipv4/ip_forward; touch /t/x /dev/shm/y && echo made; "
        "ping -c1 -w3 $(ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p') >/dev/null && "
        "echo reached; cat /dev/zero | head -c 3 | wc -c; touch /ro/x || echo read-only"
    )
    lines = engine.lines(
        "run", "--rm", "--memory", "50m", "--pids-limit", "50", "--ulimit", "nofile=2000:3000",
        "--sysctl", "net.ipv4.ip_forward=1", "--device", "/dev/zero", "--tmpfs", "/t",
        "-v", "shared:/ro:ro", "-p", "127.0.0.1:0:80", "busybox", "sh", "-c", script,
    )  # fmt: skip
    assert lines == ["2000", "1", "made", "reached", "3", "read-only"]


def test_namespaces_of_others(engine: EngineProcess, running: str) -> None:
    """They belong to a user namespace, which is shared with them."""
    namespaces = "ls -l /proc/self/ns | sed -n 's/.*-> //p' | grep -E '^(net|ipc|user)'"
    theirs = inside(engine, running, namespaces).split()
    ours = engine.out(
        "run", "--rm", "--network", f"container:{running}", "--pid", f"container:{running}",
        "busybox", "sh", "-c", f"{namespaces}; ls /sys/class/net; ps | grep -c 'sleep 1000'",
    ).split()  # fmt: skip
    assert {item for item in ours if item.startswith(("net", "user"))} == {
        item for item in theirs if item.startswith(("net", "user"))
    }
    assert "eth0" in ours
    engine.docker("run", "-d", "--name", "host", "--userns=host", "busybox", "sleep", "1000")
    try:
        with pytest.raises(Failed, match="has no user namespace"):
            engine.docker("run", "--rm", "--network", "container:host", "busybox", "true")
        joined = ("--userns=host", "--network", f"container:{running}")
        assert "eth0" in engine.out("run", "--rm", *joined, "busybox", "ls", "/sys/class/net")
    finally:
        engine.docker("rm", "-f", "host")
    for kind in ("ipc", "uts"):
        engine.docker("run", "--rm", f"--{kind}", "host", "busybox", "true")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--privileged",), "privileged mode is incompatible with user namespaces"),
        (("--network", "host"), "cannot share the host's network namespace when user namespaces"),
        (("--pid", "host"), "cannot share the host PID namespace when user namespaces are enabled"),
    ],
)
def test_what_cannot_be_had(engine: EngineProcess, flags: tuple[str, ...], says: str) -> None:
    with pytest.raises(Failed, match=says):
        engine.docker("run", "--rm", *flags, "busybox", "true")
    engine.docker("run", "--rm", "--userns=host", *flags, "busybox", "true")


def test_the_next_daemon_knows(engine: EngineProcess, running: str, tmp_path: Path) -> None:
    """Also one that gives containers no map: those that have one keep it as long as they run."""
    (tmp_path / "file").write_text("x")
    engine.kill()
    flags, engine.flags = engine.flags, []
    engine.start()
    try:
        engine.docker("cp", str(tmp_path / "file"), f"{running}:/copied")
        assert inside(engine, running, "stat -c %u:%g /copied; id -u").split() == ["0:0", "0"]
        engine.docker("stop", "-t", "0", running)
        engine.docker("start", running)
        assert host_owner(engine, running) == 0
        assert inside(engine, running, "stat -c %u:%g /copied").split() == ["0:0"]
    finally:
        engine.stop()
        engine.flags = flags
        engine.start()
    engine.docker("restart", "-t", "0", running)
    assert host_owner(engine, running) == 200000


def test_the_default_user_is_made(tmp_path: Path, docker_binary: str, busybox: Path) -> None:
    """With ranges behind everybody else's; here over another storage driver."""
    flags = ("--userns-remap", "default", "--storage-driver", "vfs")
    engine = engine_with_etc(tmp_path, docker_binary, *flags, ranges="daemon:100000:100\n")
    try:
        engine.start()
        engine.docker("import", "-c", "CMD sh", str(busybox), "busybox:latest")
        script = "cat /proc/self/uid_map; touch /made; stat -c %u:%g /made /bin/busybox"
        lines = engine.lines("run", "--rm", "busybox", "sh", "-c", script)
        assert lines[0].split() == ["0", "100100", "65536"]
        assert lines[1:] == ["0:0", "0:0"]
        etc = tmp_path / "etc"
        assert (etc / "subgid").read_text() == "daemon:100000:100\ndockremap:100100:65536\n"
        assert re.search(r"^dockremap:.*nologin$", (etc / "passwd").read_text(), re.MULTILINE)
        eventually(lambda: not leftovers(engine))
    finally:
        engine.dispose()
