"""The engines that are measured: how each is started and addressed, and which processes it has."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from bench import images, processes
from bench.peer import Peer

API_VERSION = "1.45"
"""The newest that Debian's dockerd knows; spoken to all, so that the CLI does the same work."""


class CommandFailed(RuntimeError):
    """A command of a case ended with an error; the message has its stderr."""


class Engine(ABC):
    """One engine under test. `argv` are docker's words; how they reach the engine is its matter."""

    name: str
    image = "busybox:latest"

    @abstractmethod
    def command(self, *argv: str) -> list[str]:
        """The full command line for docker's words `argv`."""

    @abstractmethod
    def processes(self) -> list[int]:
        """All processes of the engine itself, without those of containers."""

    @abstractmethod
    def shims(self) -> list[int]:
        """Those of `processes` of which there is one for each container."""

    def restart(self) -> float:
        raise NotImplementedError(f"{self.name} is not restarted")

    @abstractmethod
    def close(self) -> None:
        """Stop it if this run started it; remove what this run made."""

    def version_command(self) -> list[str]:
        return self.command("version")

    def directory(self) -> Path:
        """A directory on the filesystem that holds the engine's data."""
        raise NotImplementedError(f"{self.name} has no directory of its own")

    def run(self, *argv: str) -> str:
        """Run a command, untimed; answers what it printed."""
        done = subprocess.run(
            self.command(*argv), capture_output=True, text=True, check=False, env=_environment()
        )
        if done.returncode:
            raise CommandFailed(f"{self.name}: {' '.join(argv)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def time(self, *argv: str) -> float:
        """Milliseconds that a command takes, its output thrown away."""
        return timed(self.command(*argv))

    @contextmanager
    def containers(
        self,
        count: int,
        verb: Sequence[str] = ("run", "-d"),
        process: Sequence[str] = ("sleep", "86400"),
    ) -> Iterator[list[str]]:
        """`count` containers that sleep or do as told, made 4 at a time; removed at the end."""
        names = [f"bench-{os.getpid()}-{time.monotonic_ns()}-{n}" for n in range(count)]

        def make(name: str) -> None:
            self.run(*verb, "--name", name, "--network", "none", self.image, *process)

        try:
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(make, names))
            yield names
        finally:
            self.remove(names)

    def remove(self, names: Sequence[str]) -> None:
        if names:
            subprocess.run(self.command("rm", "-f", *names), capture_output=True, check=False)

    def load(self, name: str, write: images.Writer) -> None:
        images.load(self.command(), name, write)


class Dockerd(Engine):
    """The peer. Left running when it ran before."""

    name = "dockerd"

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self._ours = peer.pid is None
        peer.build()
        peer.start()
        self.load(self.image, images.busybox_tar)
        if others := self.run("ps", "-q").split():
            print(f"bench: {len(others)} containers of others run on dockerd", file=sys.stderr)

    def command(self, *argv: str) -> list[str]:
        return [self.peer.cli(), "-H", self.peer.url, *argv]

    def processes(self) -> list[int]:
        pid = self.peer.pid
        return processes.in_mount_namespace_of(pid) if pid else []

    def shims(self) -> list[int]:
        return [pid for pid in self.processes() if "containerd-shim" in processes.title(pid)]

    def directory(self) -> Path:
        return self.peer.root

    def close(self) -> None:
        if self._ours:
            self.peer.stop()


class Podman(Engine):
    """podman from the peer's tree; it has no daemon, so its memory is not compared."""

    name = "podman"
    # crun refuses hybrid cgroups, and without systemd there is no other cgroup manager.
    _PODMAN = ("podman", "--runtime=runc", "--cgroup-manager=cgroupfs")

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.image = "localhost/busybox:latest"
        self.load(self.image, images.busybox_tar)

    def command(self, *argv: str) -> list[str]:
        quiet = ["env", "PODMAN_IGNORE_CGROUPSV1_WARNING=1"]
        return self.peer.inside(*quiet, *self._PODMAN, *argv)

    def processes(self) -> list[int]:
        raise NotImplementedError("podman has no daemon")

    def shims(self) -> list[int]:
        raise NotImplementedError("podman has no daemon")

    def directory(self) -> Path:
        return self.peer.root

    def close(self) -> None:
        pass


class Pyengine(Engine):
    """pyengine with data and exec roots of its own, started in the peer's network namespace."""

    name = "pyengine"

    def __init__(self, peer: Peer, program: Path | None = None, flags: Sequence[str] = ()) -> None:
        self.peer = peer
        self.program = program or Path(sys.executable).with_name("pyengine")
        if not self.program.exists():
            raise CommandFailed(f"{self.program} is not installed (make install)")
        self.root = Path(tempfile.mkdtemp(prefix="pyengine-", dir=peer.root))
        self.exec_root = Path(tempfile.mkdtemp(prefix="pyengine-bench-", dir="/run"))
        self.url = f"unix://{self.exec_root}/api.sock"
        self._command = [
            *(str(self.program), "daemon", "-H", self.url, *flags),
            *("--data-root", str(self.root / "data")),
            *("--exec-root", str(self.exec_root / "x")),
        ]
        self.log = self.root / "daemon.log"
        self._daemon = self._start()
        try:
            self._wait(30)
            self.load(self.image, images.busybox_tar)
        except BaseException:
            self.close()
            raise

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self.peer.in_network(*self._command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def restart(self) -> float:
        """Kill the daemon under its containers; milliseconds from the start of the next one to its
        first answer to `ps`."""
        self._daemon.kill()
        self._daemon.wait()
        begin = time.perf_counter()
        self._daemon = self._start()
        while True:
            try:
                # Refused until it listens, which costs the client a few milliseconds.
                timed(self.command("ps"))
                break
            except CommandFailed:
                if self._daemon.poll() is not None:
                    raise
        took = (time.perf_counter() - begin) * 1000
        self.run("info")  # answered when it has put everything in order
        return took

    def command(self, *argv: str) -> list[str]:
        return [self.peer.cli(), "-H", self.url, *argv]

    def version_command(self) -> list[str]:
        return [str(self.program), "-H", self.url, "version"]

    def processes(self) -> list[int]:
        return processes.tree(self._daemon.pid)

    def shims(self) -> list[int]:
        return [pid for pid in self.processes() if "pyengine-shim" in processes.title(pid)]

    def directory(self) -> Path:
        return self.root

    def close(self) -> None:
        if self._daemon.poll() is None:
            self._stop()
        shutil.rmtree(self.exec_root, ignore_errors=True)
        below = processes.mounts_below(self.root)
        if below:
            print(f"bench: left mounted, so {self.root} is kept: {below}", file=sys.stderr)
        else:
            shutil.rmtree(self.root, ignore_errors=True)

    def _stop(self) -> None:
        remaining = self.processes()
        try:
            self.remove(self.run("ps", "-aq").split())
        except CommandFailed as error:
            print(f"bench: {error}", file=sys.stderr)
        self._daemon.send_signal(signal.SIGTERM)
        try:
            self._daemon.wait(30)
        except subprocess.TimeoutExpired:
            for pid in remaining:
                processes.kill(pid)

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._daemon.poll() is None and time.monotonic() < deadline:
            if (
                subprocess.run(self.command("version"), capture_output=True, check=False).returncode
                == 0
            ):
                return
            time.sleep(0.1)
        tail = self.log.read_text(errors="replace")[-2000:]
        raise CommandFailed(f"pyengine daemon does not answer:\n{tail}")


def timed(command: Sequence[str]) -> float:
    """Milliseconds that a command line takes; raises CommandFailed when it fails."""
    begin = time.perf_counter()
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
        close_fds=False,
        env=_environment(),
    )
    took = (time.perf_counter() - begin) * 1000
    if done.returncode:
        raise CommandFailed(f"{' '.join(command)}: {done.stderr.decode().strip()}")
    return took


def _environment() -> dict[str, str]:
    return {**os.environ, "DOCKER_API_VERSION": API_VERSION, "DOCKER_CLI_HINTS": "false"}
