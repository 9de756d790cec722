"""docker cp, export and diff while the container swaps directories and links under them.

Whatever it does, nothing outside of its root is read or written. A host's directory, the canary,
stands for everything outside; the container has one of the same name, with other contents.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import itertools
import os
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import EngineProcess

from tests.e2e.conftest import Docker, pid_of

SECRET = b"this is the host's"
#: How long each direction is under attack, and how often at least it was done then.
SECONDS = 4.0
LEAST = 40
#: What the container's loop does, in a process of ours for its speed: exchange names (renameat2
#: with RENAME_EXCHANGE) in a directory and in two of its own, which are opened before: the loop
#: itself follows no link.
SWAPPER = """
import ctypes, os, sys
exchange = ctypes.CDLL(None).renameat2
top = os.open(sys.argv[1], os.O_PATH)
fds = {"": top, "dir": os.open("dir", os.O_PATH, dir_fd=top)}
fds["sub"] = os.open("sub", os.O_PATH, dir_fd=fds["dir"])
pairs = []
for number in range(int(sys.argv[2])):
    pairs.append((fds[""], b"dir", fds[""], b"link%d" % number))
    for place in ("dir", "sub"):
        pairs.append((fds[place], b"node", fds[place], b"node%d" % number))
    pairs.append((fds["dir"], b"sub", fds[""], b"link%d" % number))
print("ready", flush=True)
while os.getppid() == int(sys.argv[3]):
    for pair in pairs:
        exchange(*pair, 2)
"""
#: A build that looks names up as they are, for the proof that these tests can fail.
NAIVE = """
import os
from pyengine.linux import syscalls

opened = os.open

def open_(path, flags, mode=0o777, *, dir_fd=None):
    return opened(path, flags & ~os.O_NOFOLLOW, mode, dir_fd=dir_fd)

def openat2(dirfd, path, flags, mode=0, resolve=0):
    path = path.encode() if isinstance(path, str) else path
    return opened(path.lstrip(b"/") or b".", flags & ~os.O_NOFOLLOW, mode, dir_fd=dirfd)

os.open = open_
syscalls.openat2 = openat2
"""


class Canary:
    """A directory of the host that must stay as it is, and whose contents must not be seen."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "sub").mkdir(parents=True)
        for name in ("f", "node", "sub/f"):
            (path / name).write_bytes(SECRET)
            (path / name).chmod(0o600)
        self._before = self._look()

    def _look(self) -> dict[str, object]:
        found: dict[str, object] = {}
        for path in (self.path, *sorted(self.path.rglob("*"))):
            info = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(info.st_mode) else b""
            found[str(path)] = (info.st_mode, info.st_uid, info.st_nlink, info.st_mtime_ns, content)
        return found

    @property
    def touched(self) -> bool:
        return self._look() != self._before


class Attack:
    """One container with the swapping going on in ``place``, seen from the host."""

    def __init__(self, engine: EngineProcess, name: str, canary: Canary) -> None:
        self.engine = engine
        self.name = name
        self.canary = canary
        self.leaked = 0
        self.statuses: dict[int, int] = {}

    def request(self, method: str, query: str, body: bytes | None = None) -> bytes:
        """An archive request; what it answered, which may end early."""
        connection = self.engine.connect()
        try:
            connection.request(method, f"/containers/{self.name}/{query}", body)
            answer = connection.getresponse()
            self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
            try:
                data = answer.read()
            except http.client.IncompleteRead as error:
                data = error.partial
        finally:
            connection.close()
        self.leaked += SECRET in data
        return data

    def read(self) -> None:
        for path in ("/a/dir", "/a/dir/", "/a/dir/f", "/a/dir/sub/.", "/a", "/vol", "/vol/dir/f"):
            self.request("HEAD", f"archive?path={path}")
            self.request("GET", f"archive?path={path}")
        self.request("GET", "export")
        self.request("GET", "changes")

    def write(self) -> None:
        for path in ("/a", "/a/dir", "/a/dir/sub", "/vol", "/vol/dir/"):
            for archive in (UPLOAD, UPLOAD_BELOW):
                self.request("PUT", f"archive?path={path}", archive)
                self.request("PUT", f"archive?noOverwriteDirNonDir=1&path={path}", archive)


def upload(prefix: str) -> bytes:
    """A tar with a member of every kind below ``prefix``, none of which the canary may get."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, kind, link in (
            ("", tarfile.DIRTYPE, ""),
            ("sub", tarfile.DIRTYPE, ""),
            ("f", tarfile.REGTYPE, ""),
            ("sub/f", tarfile.REGTYPE, ""),
            ("new", tarfile.REGTYPE, ""),
            ("hard", tarfile.LNKTYPE, prefix + "sub/f"),
            ("soft", tarfile.SYMTYPE, "f"),
            ("node", tarfile.FIFOTYPE, ""),
            ("sub/node", tarfile.FIFOTYPE, ""),
        ):
            if not prefix + name:
                continue
            entry = tarfile.TarInfo(prefix + name)
            entry.type, entry.linkname, entry.mode, entry.uid = kind, link, 0o777, 77
            entry.size = 4 if kind == tarfile.REGTYPE else 0
            archive.addfile(entry, io.BytesIO(b"evil"))
    return out.getvalue()


UPLOAD = upload("dir/")
UPLOAD_BELOW = upload("")


def links_to(canary: Path) -> list[str]:
    """Every way that a link may lead to it."""
    return [
        str(canary),
        f"{'../' * 30}{canary}",
        f"/proc/1/root{canary}",
        f"/proc/self/root{canary}",
        f"/proc/thread-self/cwd/..{canary}",
    ]


LINKS = len(links_to(Path("/")))


def prepare(docker: Docker, canary: Canary, *flags: str) -> str:
    """A container with /a and a volume /vol, where ``dir`` is a directory and each ``linkN`` leads
    to the canary's path."""
    name = docker.up("--network", "none", "-v", "/vol", *flags, "busybox", "sleep", "1000")
    script = [f"mkdir -p {canary.path}/sub; echo inside >{canary.path}/f"]
    for place in ("/a", "/vol"):
        script.append(f"mkdir -p {place}/dir/sub; cd {place}; echo x >dir/f; echo x >dir/sub/f")
        for number, link in enumerate(links_to(canary.path)):
            script.append(f"ln -s {link} link{number}; ln -s {link}/f dir/node{number}")
            script.append(f"ln -s {link}/f dir/sub/node{number}")
    docker.out("exec", name, "sh", "-c", "; ".join(script))
    return name


@contextlib.contextmanager
def swapping(*places: str) -> Iterator[None]:
    processes = []
    try:
        for place in places:
            command = [sys.executable, "-c", SWAPPER, place, str(LINKS), str(os.getpid())]
            process = subprocess.Popen(command, stdout=subprocess.PIPE)
            processes.append(process)
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        yield
        assert all(process.poll() is None for process in processes)
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def repeat(work: Callable[[], None], until: Callable[[], bool] = lambda: False) -> int:
    """Do it for a while, or until; how often it was done."""
    deadline = time.monotonic() + SECONDS
    for number in itertools.count():
        if time.monotonic() > deadline or until():
            return number
        work()
    raise AssertionError


@pytest.fixture
def canary(tmp_path: Path) -> Canary:
    return Canary(tmp_path / "canary")


def places(docker: Docker, name: str) -> tuple[str, str]:
    volume = docker.state(name, "{{(index .Mounts 0).Source}}")
    return f"/proc/{pid_of(name, docker)}/root/a", volume


@pytest.mark.parametrize("direction", ["read", "write"])
def test_a_running_container(docker: Docker, canary: Canary, direction: str) -> None:
    name = prepare(docker, canary)
    attack = Attack(docker.engine, name, canary)
    with swapping(*places(docker, name)):
        work = attack.read if direction == "read" else attack.write
        rounds = repeat(work)
    assert (attack.leaked, canary.touched) == (0, False)
    assert sum(attack.statuses.values()) >= LEAST, (rounds, attack.statuses)
    assert attack.statuses.get(200, 0) > 0, attack.statuses
    # What could be served was: the engine has no error of its own.
    assert "Traceback" not in docker.engine.tail(400)
    docker.out("exec", name, "true")


def test_a_stopped_container_whose_volume_another_swaps(docker: Docker, canary: Canary) -> None:
    name = prepare(docker, canary)
    _, volume = places(docker, name)
    docker("stop", "-t", "0", name)
    attack = Attack(docker.engine, name, canary)
    with swapping(volume):
        repeat(lambda: (attack.read(), attack.write())[0])
    assert (attack.leaked, canary.touched) == (0, False)
    assert sum(attack.statuses.values()) >= LEAST, attack.statuses


def test_a_subpath_of_a_volume(docker: Docker, canary: Canary) -> None:
    """Looked up by the engine, mounted later by the runtime: in between it may become a link."""
    name = prepare(docker, canary)
    volume = docker.state(name, "{{(index .Mounts 0).Name}}")
    flags = ("--network", "none", "--mount", f"src={volume},dst=/m,volume-subpath=dir")
    started = 0

    def start() -> None:
        nonlocal started
        done = docker("run", "--rm", *flags, "busybox", "cat", "/m/f", check=False)
        assert SECRET.decode() not in done.stdout
        started += done.returncode == 0

    with swapping(places(docker, name)[1]):
        repeat(start)
    assert started > 0


def test_with_the_stock_client(docker: Docker, canary: Canary, tmp_path: Path) -> None:
    name = prepare(docker, canary)
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub/f").write_text("evil")
    (source / "f").write_text("evil")
    target = tmp_path / "target"
    target.mkdir()

    def both_ways() -> None:
        docker("cp", f"{name}:/a/dir", str(target), check=False)
        docker("cp", "-L", f"{name}:/a/dir/f", str(target / "f"), check=False)
        docker("cp", f"{source}/.", f"{name}:/a/dir", check=False)
        docker("cp", "-a", str(source / "f"), f"{name}:/a/dir/f", check=False)

    with swapping(*places(docker, name)):
        repeat(both_ways)
    assert not canary.touched
    for path in target.rglob("*"):
        # A link is not followed: one that came may lead through another process's /proc.
        if not path.is_symlink() and path.is_file():
            assert SECRET not in path.read_bytes()


def test_these_attacks_work_on_a_naive_engine(
    tmp_path: Path, docker_binary: str, busybox: Path, canary: Canary
) -> None:
    """The same engine, but for links that are followed as the host has them."""
    for name in ("naive", "e"):
        (tmp_path / name).mkdir()
    (tmp_path / "naive/sitecustomize.py").write_text(NAIVE)
    path = os.pathsep.join([str(tmp_path / "naive"), *filter(None, [os.getenv("PYTHONPATH")])])
    engine = EngineProcess(tmp_path / "e", docker_binary, env={"PYTHONPATH": path})
    try:
        engine.start()
        engine.docker("import", "-c", "CMD sh", str(busybox), "busybox:latest")
        docker = Docker(engine)
        name = prepare(docker, canary)
        attack = Attack(engine, name, canary)
        with swapping(*places(docker, name)):
            repeat(attack.read, lambda: attack.leaked > 0)
            repeat(attack.write, lambda: canary.touched)
        assert attack.leaked, attack.statuses
        assert canary.touched, attack.statuses
    finally:
        engine.dispose()
