"""System calls that Python's ``os`` lacks (in 3.11), one function each.

Every failure is an ``OSError`` with the errno, its text, and the call with its main argument as
``filename``. No function here keeps state, imports anything later, or decodes through a codec that
is not built in, so all may be used after a fork and inside a foreign root. Numbers are x86_64's and
aarch64's (they share all those used here above 424; the rest come from tables).
"""

from __future__ import annotations

import ctypes
import os
import platform

from pyengine.faults import failpoint

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

_X86 = platform.machine() == "x86_64"
SYS_PIVOT_ROOT = 155 if _X86 else 41
SYS_SECCOMP = 317 if _X86 else 277
SYS_BPF = 321 if _X86 else 280
SYS_KEYCTL = 250 if _X86 else 219
SYS_OPEN_TREE = 428
SYS_MOVE_MOUNT = 429
SYS_PIDFD_OPEN = 434
SYS_CLOSE_RANGE = 436
SYS_OPENAT2 = 437
SYS_MOUNT_SETATTR = 442

CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_SYNCHRONOUS = 0x10
MS_REMOUNT = 0x20
MS_DIRSYNC = 0x80
MS_NOATIME = 0x400
MS_NODIRATIME = 0x800
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_SILENT = 0x8000
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_STRICTATIME = 1 << 24

MNT_FORCE = 1
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
AT_RECURSIVE = 0x8000
AT_EMPTY_PATH = 0x1000
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47


def _fail(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), call)


def _path(path: str | bytes | os.PathLike[str] | None) -> bytes | None:
    return None if path is None else os.fsencode(path)


def mount(
    source: str | bytes | os.PathLike[str] | None,
    target: str | bytes | os.PathLike[str],
    fstype: str | None = None,
    flags: int = 0,
    data: str | bytes | None = None,
) -> None:
    """mount(2)."""
    failpoint("mount")
    options = data.encode() if isinstance(data, str) else data
    if _libc.mount(
        _path(source),
        _path(target),
        None if fstype is None else fstype.encode(),
        ctypes.c_ulong(flags),
        options,
    ):
        raise _fail(f"mount {os.fsdecode(target)}")


def umount(target: str | bytes | os.PathLike[str], flags: int = 0) -> None:
    """umount2(2)."""
    failpoint("umount")
    if _libc.umount2(_path(target), flags):
        raise _fail(f"umount {os.fsdecode(target)}")


def unshare(flags: int) -> None:
    """unshare(2)."""
    failpoint("unshare")
    if _libc.unshare(flags):
        raise _fail(f"unshare {flags:#x}")


def setns(fd: int, flags: int = 0) -> None:
    """setns(2)."""
    if _libc.setns(fd, flags):
        raise _fail(f"setns {flags:#x}")


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    if _syscall(SYS_PIVOT_ROOT, _path(new_root), _path(put_old)):
        raise _fail(f"pivot_root {new_root}")


def prctl(option: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> int:
    """prctl(2) with integer arguments."""
    result = _libc.prctl(
        option, ctypes.c_ulong(a), ctypes.c_ulong(b), ctypes.c_ulong(c), ctypes.c_ulong(d)
    )
    if result < 0:
        raise _fail(f"prctl {option}")
    return int(result)


def sethostname(name: str) -> None:
    """sethostname(2)."""
    raw = name.encode()
    if _libc.sethostname(raw, len(raw)):
        raise _fail("sethostname")


def setdomainname(name: str) -> None:
    """setdomainname(2)."""
    raw = name.encode()
    if _libc.setdomainname(raw, len(raw)):
        raise _fail("setdomainname")


def pidfd_open(pid: int, flags: int = 0) -> int:
    """pidfd_open(2)."""
    fd = _syscall(SYS_PIDFD_OPEN, pid, flags)
    if fd < 0:
        raise _fail(f"pidfd_open {pid}")
    return int(fd)


def close_range(first: int, last: int = 0xFFFFFFFF, flags: int = 0) -> None:
    """close_range(2)."""
    if _syscall(SYS_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(last), flags):
        raise _fail("close_range")


class _OpenHow(ctypes.Structure):
    _fields_ = [
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    ]


def openat2(
    dirfd: int, path: str | bytes, flags: int, mode: int = 0, resolve: int = RESOLVE_IN_ROOT
) -> int:
    """openat2(2); by default ``dirfd`` is taken as the root of every look-up."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    while True:
        fd = _syscall(SYS_OPENAT2, dirfd, _path(path), ctypes.byref(how), ctypes.sizeof(how))
        if fd >= 0:
            return int(fd)
        # EAGAIN: somebody renamed meanwhile and the kernel could not prove the path stays inside.
        if ctypes.get_errno() not in (4, 11):
            raise _fail(f"openat2 {os.fsdecode(path)}")


def open_tree(dirfd: int, path: str, flags: int = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC) -> int:
    """open_tree(2): a descriptor of a detached copy of the mount at ``path``."""
    failpoint("open_tree")
    fd = _syscall(SYS_OPEN_TREE, dirfd, _path(path), ctypes.c_uint(flags))
    if fd < 0:
        raise _fail(f"open_tree {path}")
    return int(fd)


def move_mount(
    from_fd: int, from_path: str, to_fd: int, to_path: str, flags: int = MOVE_MOUNT_F_EMPTY_PATH
) -> None:
    """move_mount(2)."""
    failpoint("move_mount")
    if _syscall(SYS_MOVE_MOUNT, from_fd, _path(from_path), to_fd, _path(to_path), flags):
        raise _fail(f"move_mount {to_path}")
