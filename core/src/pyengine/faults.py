"""Failpoints: the places where the fault tests kill a process of the engine.

``failpoint(label)`` stands before every step that changes something outside the process: driver
calls, commits, mounts, clones, netlink requests. With ``PYENGINE_FAULTS`` unset it does nothing.
Set, it names a directory; each process appends ``<role> <label>`` to ``trace`` there, and when
``kill`` there holds ``<role> <n>``, that role's n-th step from then on is its last (and the file
becomes ``killed``).
"""

from __future__ import annotations

import os
import signal

_directory = os.environ.get("PYENGINE_FAULTS", "")
_role = "daemon"
_count = 0
_armed = ""
_directory_fd = -1


def set_role(role: str) -> None:
    """Say what this process is: daemon, zygote, shim or init. A fork starts counting anew."""
    global _role, _count, _armed
    _role, _count, _armed = role, 0, ""


def failpoint(label: str) -> None:
    """Count one step, and die here (SIGKILL) if this is the one the test asked for."""
    if _directory:
        _hit(label)


def _hit(label: str) -> None:
    global _count, _armed, _directory_fd
    try:
        # Kept open and inherited, since a container's init leaves the host's tree behind; but the
        # runtime closes what it does not know.
        if _directory_fd < 0 or not os.path.exists(f"/proc/self/fd/{_directory_fd}"):
            _directory_fd = os.open(_directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        trace = os.open(
            "trace", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, dir_fd=_directory_fd
        )
        os.write(trace, f"{_role} {label}\n".encode())
        os.close(trace)
        kill = os.open("kill", os.O_RDONLY | os.O_CLOEXEC, dir_fd=_directory_fd)
        wanted = os.read(kill, 64).decode().strip()
        os.close(kill)
    except OSError:
        return
    if wanted != _armed:
        _armed, _count = wanted, 0
    role, _, number = wanted.partition(" ")
    if role != _role:
        return
    _count += 1
    if number.isdigit() and _count == int(number):
        # Once is enough: what takes this process's place shall live.
        os.rename("kill", "killed", src_dir_fd=_directory_fd, dst_dir_fd=_directory_fd)
        os.kill(os.getpid(), signal.SIGKILL)
