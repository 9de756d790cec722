"""What tests across packages share: an engine as a process, the docker CLI, an image, leftovers."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STARTS_WITHIN = 30.0
ENDS_WITHIN = 30.0


class Failed(Exception):
    """A command ended with another exit code than was expected."""


class EngineProcess:
    """A daemon with roots below ``root``, in a network namespace made for it.

    ``kill`` and ``start`` again give the next daemon on the same data.
    """

    def __init__(
        self,
        root: Path,
        docker: str,
        *flags: str,
        env: dict[str, str] | None = None,
        python: str = sys.executable,
    ) -> None:
        self.python = python
        self.root = root
        self.data = root / "data"
        self.run = root / "run"
        self.socket = root / "s.sock"
        self.log = root / "daemon.log"
        #: a command that the daemon is started by, with the daemon's as its arguments
        self.wrapper: list[str] = []
        #: False: a daemon.json says where it lives, so no flags do.
        self.placed = True
        self.flags = list(flags)
        self.env = dict(env or {})
        self.namespace = f"petest{os.getpid()}-{id(self) & 0xFFFFFF:x}"
        self._docker = docker
        self._process: subprocess.Popen[bytes] | None = None
        _command("ip", "netns", "add", self.namespace)
        _command("ip", "-n", self.namespace, "link", "set", "lo", "up")

    # -- the daemon --------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *flags: str, wait: bool = True) -> None:
        """Start a daemon and wait until it answers."""
        command = [
            "nsenter", f"--net=/run/netns/{self.namespace}", "--",
            *self.wrapper, self.python, "-m", "pyengine", "daemon",
        ]  # fmt: skip
        if self.placed:
            command += ["--data-root", str(self.data), "--exec-root", str(self.run),
                        "-H", f"unix://{self.socket}"]  # fmt: skip
        command += [*self.flags, *flags]
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **self.env},
            )
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        deadline = time.monotonic() + STARTS_WITHIN
        while True:
            with contextlib.suppress(OSError):
                # Not a ping, which is answered before the host has been put in order.
                if self.api("GET", "/info")[0] == 200:
                    return
            if self._process is not None and self._process.poll() is not None:
                raise Failed(f"the daemon ended with {self._process.returncode}:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise Failed(f"the daemon does not answer:\n{self.tail()}")
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL the daemon alone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(ENDS_WITHIN)

    def wait(self, timeout: float = ENDS_WITHIN) -> int:
        assert self._process is not None
        return self._process.wait(timeout)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def tail(self, lines: int = 40) -> str:
        """The end of the daemon's log."""
        with contextlib.suppress(FileNotFoundError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""

    def dispose(self) -> None:
        """End everything of this engine, whatever state it is in."""
        with contextlib.suppress(Exception):
            if not self.alive:
                self.start()
            for id in self.lines("ps", "-aq"):
                self.docker("rm", "-f", id, check=False)
        if self.alive:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop()
        if self.alive:
            self.kill()
        for pid in processes_of(self.root):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for target in reversed(mounts_below(self.root)):
            subprocess.run(["umount", "-l", target], check=False, capture_output=True)
        _command("ip", "netns", "del", self.namespace)
        shutil.rmtree(self.root, ignore_errors=True)

    # -- talking to it -----------------------------------------------------------------------------

    def command(self, *arguments: str) -> list[str]:
        return [self._docker, "-H", f"unix://{self.socket}", *arguments]

    def docker(
        self,
        *arguments: str,
        check: bool = True,
        timeout: float = 60,
        input: str | bytes | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run the docker CLI against this engine; ``Failed`` on an exit code but 0 if ``check``."""
        text = input.decode() if isinstance(input, bytes) else input
        done = subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            timeout=timeout,
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            check=False,
        )
        if check and done.returncode != 0:
            raise Failed(
                f"docker {' '.join(arguments)}: exit {done.returncode}\n"
                f"{done.stdout}{done.stderr}\n--- daemon\n{self.tail()}"
            )
        return done

    def out(self, *arguments: str) -> str:
        """What a docker command prints, stripped."""
        return self.docker(*arguments).stdout.strip()

    def lines(self, *arguments: str) -> list[str]:
        return self.out(*arguments).splitlines()

    def inspect(self, ref: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out("inspect", ref))[0]
        return found

    def connect(self, timeout: float = 30) -> http.client.HTTPConnection:
        """A connection to its socket, for requests that :meth:`api` is too simple for."""
        return _UnixConnection(str(self.socket), timeout)

    def api(self, method: str, path: str, body: Any = None, timeout: float = 30) -> tuple[int, Any]:
        """(status, body) of one request; JSON bodies are decoded."""
        connection = self.connect(timeout)
        try:
            headers = {"Host": "docker"}
            data = None
            if body is not None:
                data = json.dumps(body)
                headers["Content-Type"] = "application/json"
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            raw = response.read()
            kind = response.getheader("Content-Type", "")
            if "json" in kind and raw:
                return response.status, json.loads(raw.splitlines()[-1])
            return response.status, raw
        finally:
            connection.close()

    def in_namespace(self, *command: str, timeout: float = 20) -> subprocess.CompletedProcess[str]:
        """Run a program in the engine's network namespace (its host, as far as networks go)."""
        return subprocess.run(
            ["nsenter", f"--net=/run/netns/{self.namespace}", "--", *command],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("docker", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def docker_cli() -> str:
    """Path of a docker CLI: the one on PATH, else Debian's, unpacked into the user's cache."""
    found = shutil.which("docker")
    if found:
        return found
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pyengine" / "docker"
    binary = cache / "usr/bin/docker"
    if not binary.exists():
        cache.mkdir(parents=True, exist_ok=True)
        for package in ("docker-cli", "docker.io"):
            done = subprocess.run(
                ["apt-get", "download", package], cwd=cache, capture_output=True, check=False
            )
            if done.returncode == 0:
                _command("dpkg", "-x", str(next(cache.glob(f"{package}_*.deb"))), str(cache))
                break
    return str(binary)


def busybox_tar(path: Path) -> Path:
    """Write a root filesystem of busybox-static with its applets, /etc and /tmp."""
    busybox = Path("/bin/busybox")
    applets = subprocess.run(
        [str(busybox), "--list"], capture_output=True, text=True, check=True
    ).stdout.split()
    files = {
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        "etc/group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    }
    with tarfile.open(path, "w") as tar:
        for directory, mode in (
            ("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777), ("var", 0o755),
        ):  # fmt: skip
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        tar.add(busybox.resolve(), "bin/busybox")
        for applet in applets:
            if applet != "busybox":
                entry = tarfile.TarInfo(f"bin/{applet}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(entry)
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return path


# -- what an engine may leave behind ---------------------------------------------------------------


def processes_of(root: Path) -> list[int]:
    """Pids of processes that name ``root`` on their command line, and of those below them."""
    parents: dict[int, int] = {}
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError):
            pid = int(entry.name)
            parents[pid] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if str(root) in (entry / "cmdline").read_bytes().decode(errors="replace"):
                found.add(pid)
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        grown = bool(more)
        found |= more
    return sorted(found - {os.getpid()})


def mounts_below(root: Path) -> list[str]:
    with open("/proc/self/mounts") as mounts:
        return [line.split()[1] for line in mounts if line.split()[1].startswith(str(root))]


def cgroups_named(part: str) -> list[str]:
    """Cgroups in any hierarchy whose name holds ``part``."""
    found = []
    with open("/proc/self/mountinfo") as mounts:
        points = [line.split()[4] for line in mounts if " - cgroup" in line]
    for point in points:
        for directory, names, _ in os.walk(point):
            found += [os.path.join(directory, name) for name in names if part in name]
    return found


def leftovers(engine: EngineProcess, containers: Sequence[str] = ()) -> list[str]:
    """What is in the kernel and on disk of containers that ought to be gone (all, or these)."""
    left = [f"mount {m}" for m in mounts_below(engine.root)]
    links = engine.in_namespace("ip", "-o", "link").stdout
    left += [f"link {line.split()[1]}" for line in links.splitlines() if "veth" in line]
    left += [f"netns {path.name}" for path in (engine.run / "netns").glob("*")]
    left += [f"bundle {path.name}" for path in (engine.run / "b").glob("*")]
    left += [f"socket {p.name}" for p in (engine.run / "s").glob("*") if len(p.name) == 12]
    left += [f"directory {path.name}" for path in (engine.data / "containers").glob("*")]
    with contextlib.suppress(FileNotFoundError):
        prefix = "pe" + (engine.data / "engine-id").read_text().replace("-", "")[:6]
        for cgroup in cgroups_named(prefix):
            for directory, names, _ in os.walk(cgroup):
                left += [f"cgroup {directory}/{name}" for name in names if len(name) == 64]
    rules = engine.in_namespace("nft", "list", "ruleset").stdout
    # Published ports are elements of maps: "8080 : 172.17.0.2 . 80".
    elements = re.findall(r"elements = \{([^}]*)\}", rules)
    left += [
        f"rule {e.strip()}"
        for text in elements
        for e in text.split(",")
        if " : " in e and "jump" not in e
    ]
    return left


def _command(*arguments: str) -> None:
    subprocess.run(arguments, check=True, capture_output=True)
