"""The peer: a real dockerd from Debian 13, beside which pyengine is measured and compared.

It runs from a Debian tree of its own (made once with mmdebstrap), pivoted to be `/` of a mount
namespace of its own, and in a network namespace of its own, since it sets the FORWARD policy to
DROP wherever it lives. An engine that is compared with it is started in the same network namespace
(`Peer.in_network`), so both stand behind the same tables and the machine's stay untouched.

    python -m bench.peer start|stop|status [--root DIR] [--image]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from bench import images

SUITE = "trixie"
PACKAGES = (
    "docker.io",
    "docker-cli",
    "docker-buildx",
    "docker-compose",
    "containerd",
    "runc",
    "crun",
    "podman",
    "iproute2",
    "iptables",
    "nftables",
    "busybox-static",
    "ca-certificates",
    "procps",
)

# Runs in fresh mount and network namespaces; $1 is the root directory, the rest is for dockerd.
# /sys is mounted anew because sysfs shows the network namespace of whoever mounts it; /tmp is the
# host's, so that bind mounts given to both engines name the same directories.
_ENTER = r"""
set -eu
root=$1; tree=$root/tree; shift
mount --bind "$tree" "$tree"
mount --rbind /proc "$tree/proc"
mount -t sysfs sysfs "$tree/sys"
mount --rbind /sys/fs/cgroup "$tree/sys/fs/cgroup"
mount --rbind /dev "$tree/dev"
mount --bind /tmp "$tree/tmp"
mount -t tmpfs -o mode=755 run "$tree/run"
mkdir -p "$tree/run/peer" "$tree/var/lib/docker" "$root/data"
mount --bind "$root/run" "$tree/run/peer"
mount --bind "$root/data" "$tree/var/lib/docker"
ip link set lo up
cd "$tree"
pivot_root . .
busybox umount -l .
cd /
busybox mount --make-rshared /
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
exec dockerd "$@"
"""


class PeerError(RuntimeError):
    """The peer could not be built, started or stopped; the message says what to look at."""


def default_root() -> Path:
    """$PYENGINE_BENCH_DIR, else ~/.cache/pyengine/bench."""
    chosen = os.environ.get("PYENGINE_BENCH_DIR")
    return Path(chosen) if chosen else Path.home() / ".cache" / "pyengine" / "bench"


def debian_mirror() -> list[str]:
    """What to tell mmdebstrap about where packages are: the mirror and proxy that this host uses.

    Nothing when the host is not Debian; mmdebstrap then takes its own default.
    """
    wanted = "$(ORIGIN)|$(LABEL)|$(REPO_URI)"
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", wanted, "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    for line in listed.splitlines():
        origin, label, uri = line.split("|")
        if (origin, label) == ("Debian", "Debian"):
            return [uri]
    return []


def apt_options() -> list[str]:
    """The host's proxy settings, which mmdebstrap does not take over by itself."""
    dump = subprocess.run(
        ["apt-config", "dump"], capture_output=True, text=True, check=False
    ).stdout
    return [
        f"--aptopt={line}"
        for line in dump.splitlines()
        if line.startswith(("Acquire::http", "Acquire::https")) and not line.endswith('"";')
    ]


class Peer:
    """One dockerd under `root`: `tree` (its system), `data` (data-root), `run` (socket, pid, log).

    `root` must be on a disk filesystem: overlay2 does not stack on overlay or, here, tmpfs.
    As a context manager it builds what is missing, starts, and stops again.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or default_root()).absolute()
        self.tree = self.root / "tree"
        self.run = self.root / "run"
        self.socket = self.run / "docker.sock"
        self.log = self.run / "dockerd.log"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int | None:
        """dockerd's process id as this host sees it, None when it does not run."""
        try:
            pid = int((self.run / "docker.pid").read_text())
            name = Path(f"/proc/{pid}/comm").read_text().strip()
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None
        return pid if name == "dockerd" else None

    def build(self) -> None:
        """Make the Debian tree; nothing to do when it is there. Takes about half a minute."""
        if (self.tree / "usr/sbin/dockerd").exists():
            return
        if shutil.which("mmdebstrap") is None:
            raise PeerError("mmdebstrap is not installed (apt install mmdebstrap)")
        self.root.mkdir(parents=True, exist_ok=True)
        partial = self.root / f"tree.{os.getpid()}"
        command = ["mmdebstrap", "--variant=minbase", "--format=directory"]
        command += [f"--include={','.join(PACKAGES)}", *apt_options()]
        command += [SUITE, str(partial), *debian_mirror()]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.rmtree(partial, ignore_errors=True)
            raise PeerError(f"mmdebstrap failed:\n{done.stderr[-2000:]}")
        partial.rename(self.tree)

    def start(self, timeout: float = 60) -> None:
        """Start dockerd and wait until it answers; nothing to do when it runs."""
        if self.pid is not None:
            return
        if os.geteuid() != 0:
            raise PeerError("the peer needs root: it mounts, and runs containers")
        self.run.mkdir(parents=True, exist_ok=True)
        for stale in (self.socket, self.run / "docker.pid"):
            stale.unlink(missing_ok=True)
        command = ["unshare", "--mount", "--net", "--propagation", "private"]
        command += ["sh", "-c", _ENTER, "sh", str(self.root)]
        command += ["-H", "unix:///run/peer/docker.sock", "--pidfile", "/run/peer/docker.pid"]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise PeerError(f"dockerd ended with {process.returncode}:\n{self._log_tail()}")
            if self.socket.exists() and self.docker("version", check=False).returncode == 0:
                return
            time.sleep(0.1)
        self.stop()
        raise PeerError(f"dockerd does not answer:\n{self._log_tail()}")

    def stop(self, timeout: float = 30) -> None:
        """SIGTERM, so that its containers are stopped; what then remains of it is killed by pid."""
        pid = self.pid
        if pid is None:
            return
        mounts = os.readlink(f"/proc/{pid}/ns/mnt")
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and self.pid is not None:
            _reap(pid)
            time.sleep(0.05)
        for other in _in_mount_namespace(mounts):
            os.kill(other, signal.SIGKILL)
            _reap(other)

    def __enter__(self) -> Peer:
        self.build()
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def inside(self, *argv: str) -> list[str]:
        """`argv` as a command line that runs in the peer's tree and network (podman, iptables)."""
        return ["nsenter", f"--target={self._running()}", "--mount", "--net", "--wdns=/", *argv]

    def in_network(self, *argv: str) -> list[str]:
        """`argv` as a command line that runs on this host's files but in the peer's network."""
        return ["nsenter", f"--net=/proc/{self._running()}/ns/net", *argv]

    def docker(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.cli(), "-H", self.url, *argv], capture_output=True, text=True, check=check
        )

    def cli(self) -> str:
        """The docker CLI: the one in PATH, else the tree's (which needs only a libc)."""
        return shutil.which("docker") or str(self.tree / "usr/bin/docker")

    def _running(self) -> int:
        pid = self.pid
        if pid is None:
            raise PeerError("the peer does not run")
        return pid

    def _log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass


def _in_mount_namespace(wanted: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.readlink(entry / "ns/mnt") == wanted:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.peer", description=__doc__)
    parser.add_argument("action", choices=["start", "stop", "status"])
    parser.add_argument("--root", type=Path, help="work directory (default: $PYENGINE_BENCH_DIR)")
    parser.add_argument("--image", action="store_true", help="import busybox:latest after start")
    given = parser.parse_args(argv)
    peer = Peer(given.root)
    try:
        if given.action == "start":
            peer.build()
            peer.start()
            if given.image:
                images.load([peer.cli(), "-H", peer.url], "busybox:latest", images.busybox_tar)
        elif given.action == "stop":
            peer.stop()
    except PeerError as error:
        print(f"bench.peer: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"pid": peer.pid, "host": peer.url, "root": str(peer.root)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
