"""System calls that Python's ``os`` lacks (in 3.11), one function each.

Every failure is an ``OSError`` with the errno, its text, and the call with its main argument as
``filename``. No function here keeps state, imports anything later, or decodes through a codec that
is not built in, so all may be used after a fork and inside a foreign root. Numbers are x86_64's and
aarch64's (they share all those used here above 424; the rest come from tables).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform

from pyengine.faults import failpoint

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

_X86 = platform.machine() == "x86_64"
SYS_PIVOT_ROOT = 155 if _X86 else 41
SYS_RT_SIGACTION = 13 if _X86 else 134
SYS_SECCOMP = 317 if _X86 else 277
SYS_BPF = 321 if _X86 else 280
SYS_KEYCTL = 250 if _X86 else 219
SYS_OPEN_TREE = 428
SYS_MOVE_MOUNT = 429
SYS_PIDFD_OPEN = 434
SYS_CLOSE_RANGE = 436
SYS_OPENAT2 = 437
SYS_MOUNT_SETATTR = 442
SYS_QUOTACTL_FD = 443

CLONE_NEWTIME = 0x00000080
CLONE_FS = 0x00000200
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


def default_disposition(signal: int) -> None:
    """rt_sigaction(2) to the default action, also for the signals that the C library keeps for
    itself (32, 33) and that :mod:`signal` therefore refuses."""
    nothing = ctypes.create_string_buffer(32)  # SIG_DFL, no flags, no restorer, an empty mask
    if _syscall(SYS_RT_SIGACTION, signal, nothing, None, ctypes.c_size_t(8)):
        raise _fail(f"rt_sigaction {signal}")


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


# The mount API of Linux 5.2 and later. A mount made this way has no place yet: it is set up
# through its descriptor and then attached onto another descriptor, so no path is looked up twice.

SYS_FSOPEN = 430
SYS_FSCONFIG = 431
SYS_FSMOUNT = 432
SYS_CLONE3 = 435

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_ATIME_MASK = 0x70
MOUNT_ATTR_RELATIME = 0x0
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

CLONE_PARENT = 0x8000
CLONE_INTO_CGROUP = 0x200000000


def fsopen(fstype: str) -> int:
    """fsopen(2): a descriptor of a file system being configured."""
    fd = _syscall(SYS_FSOPEN, fstype.encode(), 1)
    if fd < 0:
        raise _fail(f"fsopen {fstype}")
    return int(fd)


def fsconfig(fd: int, key: str | None = None, value: str | None = None) -> None:
    """fsconfig(2): set ``key`` to ``value``, or as a flag; without a key make the superblock."""
    command = 6 if key is None else 0 if value is None else 1
    raw = None if key is None else key.encode()
    if _syscall(SYS_FSCONFIG, fd, command, raw, None if value is None else value.encode(), 0):
        raise _fail(f"fsconfig {key or 'create'}")


def fsmount(fd: int, attributes: int = 0) -> int:
    """fsmount(2): a descriptor of a detached mount of what ``fd`` was configured to."""
    failpoint("fsmount")
    mount_fd = _syscall(SYS_FSMOUNT, fd, 1, attributes)
    if mount_fd < 0:
        raise _fail("fsmount")
    return int(mount_fd)


class _MountAttr(ctypes.Structure):
    _fields_ = [
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    ]


def mount_setattr(
    fd: int,
    set: int = 0,
    clear: int = 0,
    propagation: int = 0,
    *,
    recursive: bool = False,
    user_namespace: int = 0,
) -> None:
    """mount_setattr(2) on the mount behind ``fd``; ``set`` and ``clear`` are MOUNT_ATTR_*.
    ``user_namespace``: descriptor, for MOUNT_ATTR_IDMAP."""
    attributes = _MountAttr(set, clear, propagation, user_namespace)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    if _syscall(SYS_MOUNT_SETATTR, fd, b"", flags, ctypes.byref(attributes), size):
        raise _fail("mount_setattr")


class _CloneArgs(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    ]


# Without the GIL dance of CDLL: in the child nobody else could give it back.
_raw_syscall = ctypes.PyDLL(None, use_errno=True).syscall
_raw_syscall.restype = ctypes.c_long
_before_fork = ctypes.pythonapi.PyOS_BeforeFork
_after_fork_child = ctypes.pythonapi.PyOS_AfterFork_Child
_after_fork_parent = ctypes.pythonapi.PyOS_AfterFork_Parent


def clone(flags: int, cgroup: int = -1) -> int:
    """clone3(2) used as fork(2): 0 in the child, its pid in the parent.

    ``cgroup``: descriptor of a cgroup v2 directory in which the child begins its life, which spares
    the move (a move from outside waits for an RCU grace period, 5 to 20 ms). Only for processes
    with one thread: unlike fork(2) of the C library it runs none of its handlers.
    """
    failpoint("clone")
    args = _CloneArgs()
    args.flags = flags | (CLONE_INTO_CGROUP if cgroup >= 0 else 0)
    args.cgroup = max(cgroup, 0)
    args.exit_signal = 0 if flags & CLONE_PARENT else 17
    _before_fork()
    pid = int(_raw_syscall(SYS_CLONE3, ctypes.byref(args), ctypes.sizeof(args)))
    if pid == 0:
        _after_fork_child()
        return 0
    number = ctypes.get_errno()
    _after_fork_parent()
    if pid < 0:
        raise OSError(number, os.strerror(number), f"clone3 {flags:#x}")
    return pid


class _StatFs(ctypes.Structure):
    _fields_ = [("f_type", ctypes.c_long), ("rest", ctypes.c_long * 31)]


def filesystem_type(fd: int) -> int:
    """The magic number of the file system behind ``fd`` (fstatfs(2))."""
    result = _StatFs()
    if _libc.fstatfs(fd, ctypes.byref(result)):
        raise _fail("fstatfs")
    return int(result.f_type)


PROC_SUPER_MAGIC = 0x9FA0
DEVPTS_SUPER_MAGIC = 0x1CD1
CGROUP2_SUPER_MAGIC = 0x63677270


def keyctl(operation: int, *args: int | bytes) -> int:
    """keyctl(2)."""
    result = int(_syscall(SYS_KEYCTL, operation, *args))
    if result < 0:
        raise _fail(f"keyctl {operation}")
    return result


def inotify(path: str, mask: int) -> int:
    """A non-blocking inotify(7) descriptor that watches ``path``."""
    fd = int(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
    if fd < 0:
        raise _fail("inotify_init1")
    if _libc.inotify_add_watch(fd, _path(path), ctypes.c_uint32(mask)) < 0:
        error = _fail(f"inotify_add_watch {path}")
        os.close(fd)
        raise error
    return fd


def bpf(command: int, attributes: bytes) -> int:
    """bpf(2) with the union ``bpf_attr`` as bytes."""
    return bpf_in_place(command, ctypes.create_string_buffer(attributes, len(attributes)))


def bpf_in_place(command: int, buffer: ctypes.Array[ctypes.c_char]) -> int:
    """bpf(2) for commands that answer in ``buffer``."""
    result = int(_syscall(SYS_BPF, command, buffer, ctypes.c_uint(len(buffer))))
    if result < 0:
        raise _fail(f"bpf {command}")
    return result


class _SockFprog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def seccomp_filter(program: bytes, flags: int = 0) -> None:
    """seccomp(2) SECCOMP_SET_MODE_FILTER with ``program``, an array of ``struct sock_filter``."""
    argument = _SockFprog(len(program) // 8, program)
    if _syscall(SYS_SECCOMP, 1, flags, ctypes.byref(argument)):
        raise _fail("seccomp")


class _CapHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


def capget() -> tuple[int, int, int]:
    """Effective, permitted and inheritable capabilities of this thread as bit sets."""
    header = _CapHeader(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    if _libc.capget(ctypes.byref(header), data):
        raise _fail("capget")
    return (data[0] | data[3] << 32, data[1] | data[4] << 32, data[2] | data[5] << 32)


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2) for this thread."""
    header = _CapHeader(0x20080522, 0)
    low = 0xFFFFFFFF
    data = (ctypes.c_uint32 * 6)(
        effective & low,
        permitted & low,
        inheritable & low,
        effective >> 32,
        permitted >> 32,
        inheritable >> 32,
    )
    if _libc.capset(ctypes.byref(header), data):
        raise _fail("capset")


def setfsid(uid: int, gid: int) -> None:
    """setfsuid(2) and setfsgid(2) for this thread. ``PermissionError`` if it may not."""
    _libc.setfsgid(ctypes.c_uint(gid))
    _libc.setfsuid(ctypes.c_uint(uid))
    # They never fail; an id that none can be only asks.
    nobody = ctypes.c_uint(0xFFFFFFFF)
    now = (_libc.setfsuid(nobody) & 0xFFFFFFFF, _libc.setfsgid(nobody) & 0xFFFFFFFF)
    if now != (uid, gid):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), f"setfsuid {uid}:{gid}")


def syncfs(path: str | bytes | os.PathLike[str]) -> None:
    """syncfs(2) of the filesystem that holds directory ``path``."""
    failpoint("syncfs")
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(fd):
            raise _fail(f"syncfs {os.fsdecode(path)}")
    finally:
        os.close(fd)


def quotactl_fd(fd: int, command: int, id: int, buffer: ctypes.Array[ctypes.c_char]) -> None:
    """quotactl_fd(2) (Linux 5.14) on the filesystem that holds ``fd``; ``buffer`` is in and out."""
    if _syscall(SYS_QUOTACTL_FD, fd, ctypes.c_uint(command), ctypes.c_uint(id), buffer):
        raise _fail(f"quotactl {command:#x}")
