"""Starting Python in a form that nothing can write to.

A container that finds a way to /proc/<pid>/exe of a process that joins it must not reach the
host's interpreter (CVE-2019-5736). So the zygote, and everything forked from it, runs from a sealed
copy in memory; where the system forbids executable memfds, from a detached read-only mount.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import sys
import sysconfig

from pyengine.linux import syscalls

_MFD_EXEC = 0x10
_SEALS = 0x1 | 0x2 | 0x4 | 0x8  # F_SEAL_SEAL, SHRINK, GROW, WRITE
_MOUNT_ATTR_RDONLY = 0x1


class _MountAttr(ctypes.Structure):
    _fields_ = [
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    ]


def sealed(path: str) -> int:
    """A descriptor from which the program at ``path`` can be executed but not changed."""
    try:
        return _copy(path)
    except PermissionError:  # vm.memfd_noexec=2
        return _mounted(path)


def _copy(path: str) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create("pyengine-python", flags | _MFD_EXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        fd = os.memfd_create("pyengine-python", flags)  # before Linux 6.3, always executable
    with open(path, "rb") as source:
        while os.sendfile(fd, source.fileno(), None, 1 << 30):
            pass
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd


def _mounted(path: str) -> int:
    fd = syscalls.open_tree(-100, path)
    attributes = _MountAttr(attr_set=_MOUNT_ATTR_RDONLY)
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.syscall(
        syscalls.SYS_MOUNT_SETATTR,
        fd,
        b"",
        syscalls.AT_EMPTY_PATH,
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )
    if failed:
        number = ctypes.get_errno()
        os.close(fd)
        raise OSError(number, os.strerror(number), f"mount_setattr {path}")
    return fd


def spawn(arguments: list[str], socket_fd: int) -> int:
    """Run this environment's Python with ``arguments``; ``socket_fd`` becomes its descriptor 3.

    ``argv[0]`` is the environment's own python, from which the interpreter finds its prefixes
    (pyvenv.cfg); the file executed is the sealed one. Returns the pid, a child of this process.
    """
    program = sealed(os.path.realpath(sys.executable))
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    if sysconfig.get_config_var("Py_ENABLE_SHARED"):
        # A run path of $ORIGIN means nothing for a file in memory.
        environment["LD_LIBRARY_PATH"] = str(sysconfig.get_config_var("LIBDIR"))
    if "PYENGINE_FAULTS" in os.environ:
        environment["PYENGINE_FAULTS"] = os.environ["PYENGINE_FAULTS"]
    try:
        return os.posix_spawn(
            f"/proc/self/fd/{program}",
            [sys.executable, "-I", "-X", "utf8", *arguments],
            environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, socket_fd, 3),
            ],
            setsigmask=[],
            setsigdef=set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP},
        )
    finally:
        os.close(program)
