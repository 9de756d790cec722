"""What the runtime kit needs of a host: a small image, a process that stands for the shim, and a
look at everything that a container could leave behind."""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
import pickle
import select
import shutil
import signal
import struct
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pyengine.contracts.base import DriverContext
from pyengine.contracts.runtime import (
    Created,
    CreateRequest,
    ExecRequest,
    Executed,
    RuntimeDriver,
    Stdio,
)
from pyengine.linux import cgroups, syscalls

BUSYBOX = "/bin/busybox"
APPLETS = (
    "awk cat chmod cp cut dd df echo env false grep head hostname id kill ln ls mkdir mknod mount "
    "ps readlink rm sed sh sleep sort stat sync tail test touch tr true tty uname umount wc"
)
DEFAULT_CAPABILITIES = [
    f"CAP_{name}"
    for name in (  # noqa: SIM905
        "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP "
        "SETGID SETPCAP SETUID SYS_CHROOT"
    ).split()
]
DEFAULT_MASK = "00000000a80425fb"
PATH = "PATH=/usr/bin:/bin"
_counter = itertools.count()


def make_image(root: Path) -> Path:
    """A root file system of busybox and a few users. Needs the package busybox-static."""
    for name in ("bin", "dev", "etc", "home/user", "proc", "root", "sys", "tmp", "usr/bin"):
        (root / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    for name in APPLETS.split():
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:\n")
    (root / "etc/group").write_text("root:x:0:\nuser:x:1000:\n")
    return root


def make_spec(root: Path, cgroup: str, args: list[str]) -> dict[str, Any]:
    """A runtime spec with what Docker gives a container by default."""
    quiet = ["nosuid", "noexec", "nodev"]
    devices = ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, -1))
    return {
        "ociVersion": "1.2.0",
        "root": {"path": os.fspath(root)},
        "hostname": "kit",
        "process": make_process(args),
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": quiet},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
            },
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*quiet, "ro"]},
            {
                "destination": "/sys/fs/cgroup",
                "type": "cgroup",
                "source": "cgroup",
                "options": [*quiet, "ro"],
            },
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": quiet},
            {
                "destination": "/dev/shm",
                "type": "tmpfs",
                "source": "shm",
                "options": [*quiet, "mode=1777", "size=65536k"],
            },
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [{"type": t} for t in ("pid", "mount", "network", "uts", "ipc")],
            "resources": {
                "devices": [
                    {"allow": False, "access": "rwm"},
                    *(
                        {"allow": True, "type": "c", "major": a, "minor": b, "access": "rwm"}
                        for a, b in devices
                    ),
                    {"allow": True, "type": "c", "access": "m"},
                    {"allow": True, "type": "b", "access": "m"},
                ]
            },
            "maskedPaths": [
                "/proc/acpi",
                "/proc/kcore",
                "/proc/keys",
                "/proc/timer_list",
                "/sys/firmware",
            ],
            "readonlyPaths": [
                "/proc/bus",
                "/proc/fs",
                "/proc/irq",
                "/proc/sys",
                "/proc/sysrq-trigger",
            ],
        },
    }


def make_process(args: list[str], **fields: Any) -> dict[str, Any]:
    """A ``process`` object: root with Docker's default capabilities."""
    sets = dict.fromkeys(("bounding", "effective", "permitted"), DEFAULT_CAPABILITIES)
    return {
        "args": args,
        "cwd": "/",
        "env": [PATH],
        "user": {"uid": 0, "gid": 0},
        "capabilities": sets,
    } | fields


def deny_program(number: int, error: int) -> bytes:
    """A seccomp program that answers one system call with ``error`` and allows all others."""
    load, jump_equal, answer = 0x20, 0x15, 0x06
    return b"".join(
        struct.pack("<HBBI", *instruction)
        for instruction in (
            (load, 0, 0, 0),
            (jump_equal, 0, 1, number),
            (answer, 0, 0, 0x00050000 | error),
            (answer, 0, 0, 0x7FFF0000),
        )
    )


class Result(NamedTuple):
    """Of a process: exit code (negative: signal) and what it wrote."""

    code: int
    output: str


class World:
    """One test's surroundings. What is in here twice, in the test and in the shim, shares the
    disk and the kernel and no memory."""

    def __init__(self, factory: Callable[[DriverContext], RuntimeDriver], base: Path) -> None:
        self.base = base
        self.image = make_image(base / "image")
        self.prefix = f"/pekit{os.getpid()}-{next(_counter)}"
        self.context = DriverContext(
            engine_id="kit", prefix="pekit", root=base / "root", run=base / "run"
        )
        self._factory = factory
        self.driver = factory(self.context)
        self.id = f"{next(_counter):x}".rjust(64, "c")
        self.trace: list[str] = []

    def second_instance(self) -> RuntimeDriver:
        """As another shim or the daemon would have it."""
        return self._factory(self.context)

    def sweep(self, known: set[str] | None = None) -> list[str]:
        return type(self.driver).sweep(self.context, self.prefix, known or set())

    @property
    def bundle(self) -> Path:
        return self.base / "bundle"

    @property
    def cgroup(self) -> cgroups.Cgroup:
        return cgroups.Cgroup(f"{self.prefix}/{self.id}")

    def spec(self, args: list[str] | str, **process: Any) -> dict[str, Any]:
        """A copy to change at will; a string is a shell's command."""
        if isinstance(args, str):
            args = ["sh", "-c", args]
        spec = copy.deepcopy(make_spec(self.image, f"{self.prefix}/{self.id}", args))
        spec["process"].update(process)
        return spec

    def create(self, spec: dict[str, Any], output: int = -1, stdin: int = -1) -> Created:
        self.bundle.mkdir(exist_ok=True)
        stdio = Stdio()
        if not spec["process"].get("terminal"):
            stdio = Stdio(stdin, output, output)
        return self.driver.create(
            CreateRequest(
                id=self.id,
                bundle=self.bundle,
                spec=spec,
                stdio=stdio,
                trace=lambda step, _began, _ended: self.trace.append(step),
            )
        )

    def run(self, spec: dict[str, Any] | str, *, stdin: bytes = b"", delete: bool = True) -> Result:
        """Create, start, wait and delete."""
        if isinstance(spec, str):
            spec = self.spec(spec)
        with pipes(stdin) as (source, sink, reader):
            created = self.create(spec, sink, source)
            self.driver.start(self.id)
            os.close(sink)
            result = self.wait(created.pid, created.console if created.console >= 0 else reader)
        if created.console >= 0:
            os.close(created.console)
        if delete:
            self.driver.delete(self.id)
        return result

    @contextlib.contextmanager
    def running(self, spec: dict[str, Any] | str = "sleep 1000") -> Iterator[Created]:
        """A started container, ended and deleted afterwards."""
        if isinstance(spec, str):
            spec = self.spec(spec)
        with pipes(b"") as (source, sink, _):
            created = self.create(spec, sink, source)
            self.driver.start(self.id)
        try:
            yield created
        finally:
            self.driver.kill(self.id, signal.SIGKILL, all=True)
            os.waitpid(created.pid, 0)
            self.driver.delete(self.id)

    def exec(self, args: list[str] | str, **process: Any) -> Result:
        """Run one more process in the container to its end."""
        with pipes(b"") as (source, sink, reader):
            executed = self.start_exec(args, sink, source, **process)
            os.close(sink)
            terminal = executed.console >= 0
            result = self.wait(executed.pid, executed.console if terminal else reader)
        if terminal:
            os.close(executed.console)
        return result

    def start_exec(
        self, args: list[str] | str, output: int, stdin: int, **process: Any
    ) -> Executed:
        if isinstance(args, str):
            args = ["sh", "-c", args]
        stdio = Stdio() if process.get("terminal") else Stdio(stdin, output, output)
        request = ExecRequest(
            id=self.id,
            exec_id="e",
            bundle=self.bundle,
            process=make_process(args, **process),
            stdio=stdio,
        )
        return self.driver.exec(request)

    @staticmethod
    def wait(pid: int, reader: int) -> Result:
        chunks = []
        with contextlib.suppress(OSError):  # a pty answers EIO at its end
            while chunk := os.read(reader, 65536):
                chunks.append(chunk)
        _, status = os.waitpid(pid, 0)
        output = b"".join(chunks).decode(errors="replace").replace("\r\n", "\n")
        return Result(os.waitstatus_to_exitcode(status), output)

    def in_shim(self, body: Callable[[], Any], *, die: bool = False, limit: float = 30.0) -> Any:
        """Run ``body`` in a process like a shim: one thread, a subreaper, started by fork.

        ``die``: being killed is what is expected of it. What it raises fails the test, as does
        taking longer than ``limit`` seconds.
        """
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            _shim(body, writer)
        os.close(writer)
        with open(reader, "rb") as file:
            late = not select.select([file], [], [], limit)[0]
            if late:
                os.kill(pid, signal.SIGKILL)
            answer = b"" if late else file.read()
        _, status = os.waitpid(pid, 0)
        if late:
            pytest.fail(f"the driver did not answer within {limit} s")
        if os.WIFSIGNALED(status) and die:
            return None
        if not answer:
            pytest.fail(f"the shim ended with {os.waitstatus_to_exitcode(status)} and no answer")
        error, value = pickle.loads(answer)
        if error:
            pytest.fail(error, pytrace=False)
        return value

    def remains(self) -> list[str]:
        """What is left of this test's containers: processes, cgroups, mounts, records."""
        found = [f"process {pid}" for pid in self._processes()]
        for hierarchy in cgroups.layout().hierarchies:
            directory = hierarchy.mount + self.prefix
            if os.path.isdir(directory):
                found += [f"cgroup {e.path}" for e in os.scandir(directory) if e.is_dir()]
        mounts = Path("/proc/self/mountinfo").read_text()
        found += [f"mount {line}" for line in mounts.splitlines() if str(self.base) in line]
        if self.context.run.is_dir():
            found += [f"record {p}" for p in self.context.run.iterdir()]
        if self.bundle.is_dir():
            found += [f"file {p}" for p in self.bundle.iterdir()]
        return found

    def _processes(self) -> list[int]:
        """Those whose root is the image."""
        image = self.image.stat()
        found = []
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                if name.isdigit():
                    root = os.stat(f"/proc/{name}/root")
                    if (root.st_dev, root.st_ino) == (image.st_dev, image.st_ino):
                        found.append(int(name))
        return found

    def assert_nothing_left(self) -> None:
        # A killed process keeps its root until its parent, or init, has seen it end.
        deadline = time.monotonic() + 2
        while self._processes() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert self.remains() == []

    def clean(self) -> None:
        """For tests that failed: end and remove what is ours."""
        for pid in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        cgroup = cgroups.Cgroup(self.prefix)
        if cgroup.exists():
            cgroup.kill()
            cgroup.remove()


def _shim(body: Callable[[], Any], writer: int) -> None:
    try:
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        try:
            answer = pickle.dumps((None, body()))
        except BaseException:
            answer = pickle.dumps((traceback.format_exc(), None))
        with open(writer, "wb") as file:
            file.write(answer)
    finally:
        os._exit(0)


@contextlib.contextmanager
def pipes(stdin: bytes) -> Iterator[tuple[int, int, int]]:
    """(end to read stdin from, end to write output to, end to read that from)."""
    source, feed = os.pipe()
    reader, sink = os.pipe()
    os.write(feed, stdin)
    os.close(feed)
    try:
        yield source, sink, reader
    finally:
        for fd in (source, sink, reader):
            with contextlib.suppress(OSError):
                os.close(fd)


@contextlib.contextmanager
def world(factory: Callable[[DriverContext], RuntimeDriver]) -> Iterator[World]:
    base = Path(tempfile.mkdtemp(prefix="pekit-"))
    base.chmod(0o755)
    try:
        made = World(factory, base)
        try:
            yield made
        finally:
            made.clean()
    finally:
        subprocess.run(["rm", "-rf", "--one-file-system", base], check=True)


def bind(source: Path, target: str, *options: str, recursive: bool = False) -> dict[str, Any]:
    """A mount of a runtime spec."""
    kind = "rbind" if recursive else "bind"
    return {
        "destination": target,
        "type": "bind",
        "source": str(source),
        "options": [kind, *options],
    }


def in_shim(body: Callable[[Any, World], None]) -> Callable[[Any], None]:
    """The test's body runs in a shim of its own; afterwards nothing may be left."""

    def test(self: Any) -> None:
        with world(self.factory) as surroundings:
            surroundings.in_shim(lambda: body(self, surroundings), limit=self.time_limit)
            surroundings.assert_nothing_left()

    test.__name__, test.__doc__, test.__qualname__ = body.__name__, body.__doc__, body.__qualname__
    return test
