"""``make demo``: an engine in a scratch directory does the main job, step by step.

Everything it makes is below one temporary directory and in the kernel, and is gone at the end.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from pathlib import Path

PYENGINE = str(Path(sys.executable).with_name("pyengine"))
PAGE = "hello from a container\n"


def main() -> int:
    if os.geteuid() != 0:
        print("make demo needs root: sudo make demo", file=sys.stderr)
        return 1
    scratch = Path(tempfile.mkdtemp(prefix="pyengine-demo-"))
    host = f"unix://{scratch}/pyengine.sock"
    say("an engine on a scratch data root")
    daemon = subprocess.Popen(
        [PYENGINE, "daemon", "--data-root", scratch / "data", "--exec-root", scratch / "run",
         "-H", host],
        stdout=subprocess.DEVNULL,
        stderr=open(scratch / "log", "w"),  # noqa: SIM115 - the child keeps it
    )  # fmt: skip
    try:
        wait_for(scratch / "pyengine.sock", daemon)
        demonstrate(host, scratch)
        return 0
    except (subprocess.CalledProcessError, OSError, RuntimeError) as error:
        print(f"\nthe demo failed: {error}\n--- the engine's log", file=sys.stderr)
        print((scratch / "log").read_text(), file=sys.stderr)
        return 1
    finally:
        say("ending the engine: nothing is left behind")
        daemon.terminate()
        daemon.wait(30)
        shutil.rmtree(scratch, ignore_errors=True)


def demonstrate(host: str, scratch: Path) -> None:
    port = free_port()
    image(scratch / "busybox.tar")
    engine = [PYENGINE, "-H", host]
    run(*engine, "import", str(scratch / "busybox.tar"), "busybox:latest")
    say("a container with a published port")
    command = (
        f"mkdir /www; echo '{PAGE.strip()}' >/www/index.html; echo serving; httpd -fvp 80 -h /www"
    )
    run(*engine, "run", "-d", "--name", "web", "-p", f"{port}:80", "--memory", "64m",
        "busybox", "sh", "-c", command)  # fmt: skip
    answer = fetch(f"http://127.0.0.1:{port}/")
    print(f"$ curl http://127.0.0.1:{port}/\n{answer}", end="")
    if answer != PAGE:
        raise RuntimeError(f"the container answered {answer!r}")
    run(*engine, "ps")
    run(*engine, "logs", "web")
    run(*engine, "exec", "web", "sh", "-c", "echo pid 1 is: $(tr '\\0' ' ' </proc/1/cmdline)")
    say("what starting a container does")
    run(*engine, "run", "--rm", "--trace", "busybox", "true")
    say("cleaning up")
    run(*engine, "rm", "-f", "web")


def image(path: Path) -> None:
    """A root filesystem made of busybox-static."""
    applets = subprocess.run(
        ["/bin/busybox", "--list"], capture_output=True, text=True, check=True
    ).stdout.split()
    with tarfile.open(path, "w") as tar:
        for name, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        tar.add(Path("/bin/busybox").resolve(), "bin/busybox")
        for applet in applets:
            if applet != "busybox":
                entry = tarfile.TarInfo(f"bin/{applet}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(entry)


def wait_for(path: Path, daemon: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
                probe.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                if b"200" in probe.recv(64):
                    return
            except OSError:
                pass
        if daemon.poll() is not None:
            raise RuntimeError(f"the engine ended with exit code {daemon.returncode}")
        time.sleep(0.02)
    raise RuntimeError("the engine does not answer")


def fetch(url: str) -> str:
    for attempt in range(50):
        try:
            with urllib.request.urlopen(url, timeout=2) as response:
                return str(response.read().decode())
        except OSError:
            if attempt == 49:
                raise
            time.sleep(0.05)
    raise AssertionError


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(*command: str) -> None:
    print("$", " ".join(["pyengine", *command[3:]]), flush=True)
    subprocess.run(command, check=True, timeout=60)


def say(what: str) -> None:
    print(f"\n== {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
