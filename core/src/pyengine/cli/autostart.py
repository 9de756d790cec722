"""Starting an engine for a command that needs one, so that the first ``run`` just works."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import time

from pyengine.cli.client import Client, CommandError, NoEngine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

DEADLINE = 30.0
_POLL = 0.02


def allowed() -> bool:
    """Whether this user may start an engine here and has not forbidden it."""
    return os.geteuid() == 0 and os.environ.get("PYENGINE_AUTOSTART", "1") != "0"


def _folder(wanted: str, variable: str, fallback: str) -> str:
    if os.access(wanted, os.W_OK):
        return wanted
    return os.environ.get(variable) or os.path.expanduser(fallback)


def log_path() -> str:
    """Where a started engine writes: /var/log, or the user's state folder."""
    folder = _folder("/var/log", "XDG_STATE_HOME", "~/.local/state")
    os.makedirs(folder, exist_ok=True)
    return os.path.join(folder, "pyengine.log")


def _lock_path() -> str:
    return os.path.join(_folder("/run", "XDG_RUNTIME_DIR", "/tmp"), "pyengine-autostart.lock")


def daemon_command() -> list[str]:
    """The command line of the engine: this interpreter, whatever the PATH says."""
    program = "import sys; from pyengine.cli import main; sys.exit(main())"
    return [sys.executable, "-c", program, "daemon"]


def start(client: Client, argv: list[str] | None = None, deadline: float = DEADLINE) -> None:
    """Start an engine and return when it answers; CommandError with its last words if not.

    Two commands at once start one engine: the second waits for the lock and finds it there.
    """
    with open(_lock_path(), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            client.ping()
            return
        except NoEngine:
            pass
        path = log_path()
        print(f"Starting the pyengine daemon (its log: {path})", file=sys.stderr, flush=True)
        with open(path, "ab") as log:
            begin = log.tell()
            process = _spawn(argv or daemon_command(), log)
        _await(client, process, path, begin, deadline)


def _spawn(argv: list[str], log: BinaryIO) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True
    )
    leave_cgroups(process.pid)
    return process


def session_cgroups() -> list[str]:
    """The engine's own cgroup in every hierarchy by which a login's processes are ended.

    Those are cgroup v2 and systemd's named hierarchy. The limits of v1 controllers are the
    administrator's wish for whoever runs here, so nobody leaves them.
    """
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        before, _, after = line.partition(" - ")
        kind = after.partition(" ")[0]
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in after):
            folders.append(os.path.join(before.split()[4], "pyengine-daemon"))
    return folders


def leave_cgroups(pid: int) -> None:
    """Move a process out of the caller's cgroups, so that the end of a login does not end it."""
    for folder in session_cgroups():
        with contextlib.suppress(OSError):
            os.makedirs(folder, exist_ok=True)
            with open(os.path.join(folder, "cgroup.procs"), "w", encoding="ascii") as procs:
                procs.write(str(pid))


def _await(
    client: Client, process: subprocess.Popen[bytes], path: str, begin: int, deadline: float
) -> None:
    until = time.monotonic() + deadline
    while (left := until - time.monotonic()) > 0:
        try:
            client.ping(left)
        except NoEngine:
            pass
        else:
            # It lives on without us; the destructor must not complain about that.
            process.returncode = 0
            return
        if process.poll() is not None:
            raise _failed(f"the daemon ended with status {process.returncode}", path, begin)
        time.sleep(_POLL)
    process.kill()
    process.wait()
    raise _failed(f"the daemon did not answer within {deadline:g} seconds", path, begin)


def _failed(reason: str, path: str, begin: int) -> CommandError:
    with open(path, "rb") as file:
        file.seek(begin)
        last = file.read().decode("utf-8", "replace").splitlines()[-10:]
    words = "".join(f"\n  {line}" for line in last)
    return CommandError(f"Cannot start the pyengine daemon: {reason}{words}\nSee {path}", 125)
