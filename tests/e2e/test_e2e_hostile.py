"""An image that lays traps for whoever looks something up in it: nothing of it runs outside."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import EngineProcess, processes_of

from tests.e2e.conftest import Docker, eventually

NAME = "hostile"
#: What a library writes that is loaded where it must not be; {marker} is a path on the host.
LIBRARY = """
#include <fcntl.h>
#include <unistd.h>
__attribute__((constructor)) static void trap(void) {{
    int fd = open("{marker}", O_WRONLY | O_CREAT | O_APPEND, 0666);
    if (fd >= 0) {{ write(fd, "library\\n", 8); close(fd); }}
}}
"""
MODULE = "open({marker!r}, 'a').write('python\\n')\nraise SystemExit(99)\n"
SCRIPT = "#!/bin/sh\necho script >>{marker}\n"
LIBRARIES = (
    *(f"libnss_{name}.so.2" for name in ("files", "compat", "dns", "evil", "systemd")),
    "libc.so.6",
    "libnftables.so.1",
    "libseccomp.so.2",
    "evil.so",
)
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(scope="module")
def marker(engine: EngineProcess) -> Path:
    """What no trap may ever write. Outside of every root, so it can only be made on the host."""
    return engine.root / "trapped"


@pytest.fixture(scope="module")
def hostile(
    engine: EngineProcess, marker: Path, busybox: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    place = tmp_path_factory.mktemp("hostile")
    library = place / "evil.so"
    source = place / "evil.c"
    source.write_text(LIBRARY.format(marker=marker))
    compiled = subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", str(library), str(source)],
        capture_output=True,
        check=False,
    )
    if compiled.returncode:  # without a compiler: what does not load is a trap that is seen in maps
        library.write_bytes(b"\x7fELF" + bytes(4096))
    tar = place / "hostile.tar"
    with tarfile.open(busybox) as base, tarfile.open(tar, "w") as out:
        for member in base:
            out.addfile(member, base.extractfile(member) if member.isfile() else None)

        def add(path: str, data: bytes, mode: int = 0o755) -> None:
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(data), mode
            out.addfile(entry, io.BytesIO(data))

        evil = library.read_bytes()
        for directory in (
            "lib",
            "usr/lib",
            "lib64",
            "usr/lib64",
            "lib/x86_64-linux-gnu",
            "usr/lib/x86_64-linux-gnu",
            "lib/aarch64-linux-gnu",
        ):
            for name in LIBRARIES:
                add(f"{directory}/{name}", evil)
            add(f"{directory}/gconv/gconv-modules", b"module UTF-8// INTERNAL evil 1\n")
            add(f"{directory}/gconv/evil.so", evil)
        module = MODULE.format(marker=str(marker)).encode()
        for root in (f"usr/lib/{PYTHON}", f"usr/local/lib/{PYTHON}", "", "root"):
            for name in (
                "encodings/__init__",
                "encodings/idna",
                "pwd",
                "grp",
                "sitecustomize",
                "usercustomize",
                "stringprep",
                "traceback",
            ):
                add(f"{root}/{name}.py".lstrip("/"), module, 0o644)
        script = SCRIPT.format(marker=marker).encode()
        for directory in ("sbin", "usr/sbin", "usr/bin", "usr/local/bin", "usr/local/sbin"):
            for name in ("ldconfig", "ps", "nft", "modprobe", "gcc", "ip", "getent", "tar"):
                add(f"{directory}/{name}", script)
        add("bin/ldconfig", script)
        add("etc/nsswitch.conf", b"passwd: evil files\ngroup: evil\nhosts: evil dns\n", 0o644)
        add("etc/ld.so.preload", b"/lib/evil.so\n", 0o644)
        add("etc/ld.so.conf", b"/lib\n", 0o644)
        add("etc/passwd", b"root:x:0:0::/root:/bin/sh\nuser:x:5:5::/tmp:/bin/sh\n", 0o644)
        add("etc/localtime", b"TZif" + bytes(100), 0o644)
    engine.docker("import", "-c", "CMD sh", str(tar), NAME)
    return NAME


class Watch:
    """Looks again and again at what the engine's processes have mapped and open."""

    def __init__(self, engine: EngineProcess) -> None:
        self.engine = engine
        self.bad: set[str] = set()
        self.looked: set[str] = set()
        self._roots = (f"{engine.data}/overlay2/", f"{engine.data}/vfs/")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.look()
            self._stop.wait(0.02)

    def look(self) -> None:
        ours = os.stat("/proc/self/ns/mnt").st_ino
        for pid in processes_of(self.engine.root):
            try:
                if os.stat(f"/proc/{pid}/ns/mnt").st_ino != ours:
                    continue  # a container's
                title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                maps = Path(f"/proc/{pid}/maps").read_text()
            except OSError:
                continue
            if "pyengine" not in title:
                continue
            self.looked.add(
                "shim" if "shim" in title else "zygote" if "zygote" in title else "daemon"
            )
            for line in maps.splitlines():
                path = line.split(None, 5)[5] if len(line.split(None, 5)) == 6 else ""
                if path.startswith(self._roots) or "evil" in path:
                    self.bad.add(f"{title.split()[0]}: {path}")


@pytest.fixture
def watch(engine: EngineProcess, marker: Path) -> Iterator[Watch]:
    with Watch(engine) as found:
        yield found
    assert found.bad == set()
    assert not marker.exists(), marker.read_text()


def test_the_traps_work(hostile: str, tmp_path: Path, marker: Path) -> None:
    """A script among them, run here, does write the marker."""
    script = tmp_path / "ldconfig"
    script.write_text(SCRIPT.format(marker=marker))
    subprocess.run(["sh", str(script)], check=True)
    assert marker.read_text() == "script\n"
    marker.unlink()


def test_through_everything(docker: Docker, hostile: str, watch: Watch, tmp_path: Path) -> None:
    name = docker.up(
        "-u",
        "user",
        "--add-host",
        "x:host-gateway",
        "-p",
        "127.0.0.1::80",
        hostile,
        "sh",
        "-c",
        "echo started; sleep 60",
    )
    assert docker.exec(name, "id", "-u") == "5"
    assert docker.out("exec", "-u", "root", name, "id", "-u") == "0"
    assert docker.out("exec", "-u", "user", "-w", "/tmp", name, "pwd") == "/tmp"
    assert docker("exec", "-u", "ghost", name, "id", check=False).returncode == 126
    assert docker.out("logs", name) == "started"
    assert "sleep 60" in docker.out("top", name)
    docker.out("exec", "-u", "root", name, "sh", "-c", "echo x >/new; rm -r /encodings")
    assert "A /new" in docker.out("diff", name).splitlines()
    assert "D /encodings" in docker.out("diff", name).splitlines()
    docker("export", "-o", str(tmp_path / "out.tar"), name)
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert "etc/ld.so.preload" in tar.getnames()
    docker("stats", "--no-stream", name)
    docker("ps", "-s")
    docker("pause", name)
    docker("unpause", name)
    docker("restart", "-t", "0", name)
    assert eventually(lambda: watch.looked == {"daemon", "zygote", "shim"}), watch.looked
    docker("rm", "-f", "-v", name)


def test_copied_committed_and_unpacked(
    docker: Docker, hostile: str, watch: Watch, tmp_path: Path
) -> None:
    """Both ways, running and stopped, by the container's user's name, and as layers."""
    name = docker.up("--network", "none", "-u", "user", "-v", "/encodings", hostile, "sleep", "99")
    (tmp_path / "new").write_text("x")
    for state in ("running", "stopped"):
        for path in ("/etc", "/lib", "/encodings/.", "/sbin/ldconfig", "/root/"):
            docker("cp", f"{name}:{path}", str(tmp_path / f"{state}{len(path)}"))
        # -a: what is copied belongs to the container's user, who has to be looked up.
        for target in ("/tmp", "/encodings", "/lib/new", "/etc/nsswitch.conf"):
            docker("cp", "-a", str(tmp_path / "new"), f"{name}:{target}")
        docker("diff", name)
        docker("export", "-o", str(tmp_path / "export.tar"), name)
        docker("commit", "-m", state, name, f"{hostile}:{state}")
        if state == "running":
            assert docker.exec(name, "stat", "-c", "%u:%g", "/tmp/new") == "5:5"
            docker("stop", "-t", "0", name)
    docker("save", "-o", str(tmp_path / "saved.tar"), f"{hostile}:stopped")
    docker("rmi", f"{hostile}:stopped", f"{hostile}:running")
    docker("load", "-i", str(tmp_path / "saved.tar"))
    assert docker.out("run", "--rm", f"{hostile}:stopped", "cat", "/lib/new") == "x"
    docker("rmi", f"{hostile}:stopped")


def test_a_volume_filled_from_it(docker: Docker, hostile: str, watch: Watch) -> None:
    out = docker.out("run", "--rm", "-v", "/lib", "-v", "/encodings", hostile, "ls", "/encodings")
    assert out.split() == ["__init__.py", "idna.py"]


def test_commands_of_the_host_come_from_the_host(
    docker: Docker, hostile: str, watch: Watch
) -> None:
    """ps of docker top is the host's, also where the image has its own earlier on every path."""
    name = docker.up("--pid", "host", hostile, "sh", "-c", "exec sleep 61")
    assert "sleep 61" in docker.out("top", name)


def test_a_privileged_one_and_a_failing_one(docker: Docker, hostile: str, watch: Watch) -> None:
    assert docker.out("run", "--rm", "--privileged", hostile, "echo", "x") == "x"
    docker.fails("run", "--rm", hostile, "nonesuch", code=127, says="not found")
    docker.fails("run", "--rm", "-u", "ghost:ghost", hostile, code=125, says="ghost")
    docker.fails("run", "--rm", "--group-add", "ghost", hostile, code=125, says="ghost")


def test_users_of_the_host_cannot_run_what_containers_leave(
    docker_binary: str, busybox: Path
) -> None:
    """A program with set-id bits in a layer or a volume would make them root (CVE-2021-41091)."""
    root = Path(tempfile.mkdtemp(dir="/tmp"))
    root.chmod(0o755)
    process = EngineProcess(root, docker_binary)
    try:
        process.start()
        process.docker("import", str(busybox), "busybox:latest")
        script = "cp /bin/busybox /v/su; chmod 4755 /v/su; cp /bin/busybox /su; chmod 4755 /su"
        process.docker("run", "--name", "box", "-v", "left:/v", "busybox", "sh", "-c", script)
        volume = Path(process.out("volume", "inspect", "-f", "{{.Mountpoint}}", "left")) / "su"
        layer = Path(process.inspect("box")["GraphDriver"]["Data"]["UpperDir"]) / "su"
        for path in (volume, layer):
            assert path.stat().st_mode & 0o4001 == 0o4001
            with pytest.raises(PermissionError):
                subprocess.run([path, "id", "-u"], user=65534, group=65534, check=True)
        assert subprocess.run(["ls", root], user=65534, group=65534, check=True).returncode == 0
    finally:
        process.dispose()
