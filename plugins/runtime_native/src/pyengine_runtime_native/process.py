"""From our process to the container's command: identity, rights, directory, program, execve.

:func:`plan_process` runs in the runtime and takes the spec apart. The rest runs in the new process
inside the container's root, so it is system calls on prepared values (see
:mod:`pyengine.linux.border`).
"""

from __future__ import annotations

# signal wraps each number into an enum, which costs more than the system call.
import _signal  # type: ignore[import-not-found]
import errno
import fcntl
import os
import resource
import signal
import stat
import struct
import termios
from typing import Any

import msgspec

from pyengine.errors import InvalidParameter, StartError, Unsupported
from pyengine.linux import capabilities, syscalls
from pyengine.linux.capabilities import CapabilitySets
from pyengine_runtime_native import seccomp

_RLIMITS = {
    name: getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")
} | {"RLIMIT_LOCKS": 10}
_RLIM_INFINITY = 2**64 - 1
#: It refuses to hand these out, and posix_spawn(3) may have left them ignored.
_OF_THE_C_LIBRARY = (32, 33)
_TIOCSPTLCK, _TIOCGPTPEER = 0x40045431, 0x5441
_JOIN_SESSION_KEYRING, _SETPERM = 1, 5
ALL_SIGNALS = sorted(int(s) for s in signal.valid_signals())
#: All for whoever possesses it; its owner may see, read, search and link it (for a later exec).
_KEYRING_PERMISSIONS = 0x3F1B0000
_KNOWN = frozenset(
    {
        "terminal",
        "consoleSize",
        "user",
        "args",
        "commandLine",
        "env",
        "cwd",
        "capabilities",
        "rlimits",
        "noNewPrivileges",
        "apparmorProfile",
        "oomScoreAdj",
        "selinuxLabel",
    }
)


class ProcessPlan(msgspec.Struct):
    """A ``process`` object, encoded and checked. ``rlimits``: (resource, soft, hard)."""

    args: list[bytes]
    env: dict[bytes, bytes]
    cwd: bytes
    uid: int
    gid: int
    groups: list[int]
    umask: int
    capabilities: CapabilitySets
    highest_capability: int
    rlimits: list[tuple[int, int, int]]
    raised_limits: list[tuple[int, int, int]]
    no_new_privileges: bool
    filter: bytes
    oom_score_adj: int | None
    apparmor: str
    terminal: bool
    console_size: tuple[int, int]
    ignored: list[int]
    keyring: bytes


def plan_process(
    process: dict[str, Any],
    *,
    id: str,
    filter: bytes = b"",
    new_user_namespace: bool = False,
) -> ProcessPlan:
    """Check and encode ``process``. Raises ``InvalidParameter`` for what makes no sense and
    ``Unsupported`` naming what this runtime or kernel cannot do."""
    for key, value in process.items():
        if key not in _KNOWN and value:
            raise Unsupported(f"process.{key} of the runtime spec is not supported")
    if process.get("selinuxLabel"):
        raise Unsupported(
            "SELinux labels are not supported", help="use --security-opt label=disable"
        )
    args = process.get("args") or []
    if not args:
        raise InvalidParameter("the container has no command", help="process.args is empty")
    cwd = process.get("cwd") or "/"
    if not cwd.startswith("/"):
        raise InvalidParameter(f"working directory {cwd!r} is not an absolute path")
    env: dict[bytes, bytes] = {}
    for entry in process.get("env") or ():
        name, equals, value = entry.partition("=")
        if "\0" in entry or not name:
            raise InvalidParameter(f"environment variable {entry!r} is not valid")
        if equals:
            env[os.fsencode(name)] = os.fsencode(value)
    user = process.get("user") or {}
    limits = [_rlimit(entry) for entry in process.get("rlimits") or ()]
    raised = [
        (kind, soft, hard)
        for kind, soft, hard in limits
        if _above(hard, resource.getrlimit(kind)[1])
    ]
    apparmor = process.get("apparmorProfile") or ""
    if apparmor and not os.path.exists("/sys/kernel/security/apparmor"):
        raise Unsupported(
            f"AppArmor profile {apparmor!r} cannot be applied: this kernel has no AppArmor",
            help="use --security-opt apparmor=unconfined, or boot with apparmor=1",
        )
    highest = capabilities.last()
    size = process.get("consoleSize") or {}
    return ProcessPlan(
        args=[os.fsencode(a) for a in args],
        env=env,
        cwd=os.fsencode(cwd),
        uid=int(user.get("uid", 0)),
        gid=int(user.get("gid", 0)),
        groups=[int(g) for g in user.get("additionalGids") or ()],
        umask=int(user.get("umask", 0o022)),
        capabilities=_capabilities(process, highest, new_user_namespace),
        highest_capability=highest,
        rlimits=limits,
        raised_limits=raised,
        no_new_privileges=bool(process.get("noNewPrivileges")),
        filter=filter,
        oom_score_adj=process.get("oomScoreAdj"),
        apparmor=apparmor,
        terminal=bool(process.get("terminal")),
        console_size=(int(size.get("height", 0)), int(size.get("width", 0))),
        ignored=[s for s in ALL_SIGNALS if _signal.getsignal(s) == _signal.SIG_IGN],
        keyring=b"_ses." + id.encode()[:200],
    )


def _capabilities(process: dict[str, Any], highest: int, everything: bool) -> CapabilitySets:
    # What cannot be granted is left out, as the runtime spec says; in a user namespace of the
    # container's own all can be.
    granted = process.get("capabilities") or {}
    own = (1 << (highest + 1)) - 1
    if not everything:
        own &= syscalls.capget()[1]
    sets = CapabilitySets(
        *(
            capabilities.mask(granted.get(name) or ()) & own
            for name in ("bounding", "effective", "permitted", "inheritable", "ambient")
        )
    )
    return sets._replace(
        effective=sets.effective & sets.permitted,
        ambient=sets.ambient & sets.permitted & sets.inheritable,
    )


def _rlimit(entry: dict[str, Any]) -> tuple[int, int, int]:
    kind = _RLIMITS.get(entry["type"])
    if kind is None:
        raise InvalidParameter(f"unknown resource limit {entry['type']!r}")
    soft, hard = (_signed(int(entry[k])) for k in ("soft", "hard"))
    if _above(soft, hard):
        raise InvalidParameter(f"soft limit of {entry['type']} is above the hard limit")
    return kind, soft, hard


def _signed(value: int) -> int:
    return resource.RLIM_INFINITY if value in (-1, _RLIM_INFINITY) else value


def _above(value: int, bound: int) -> bool:
    if bound == resource.RLIM_INFINITY:
        return False
    return value == resource.RLIM_INFINITY or value > bound


def block_signals() -> None:
    """Around a clone: a signal for the runtime must not be handled in the child."""
    _signal.pthread_sigmask(_signal.SIG_BLOCK, ALL_SIGNALS)


def unblock_signals() -> None:
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, ALL_SIGNALS)


def raise_limits(pid: int, process: ProcessPlan) -> None:
    """In the runtime: lift a new process's hard limits, which it can only lower itself."""
    for kind, _, hard in process.raised_limits:
        try:
            resource.prlimit(pid, kind, (resource.getrlimit(kind)[0], hard))
        except (PermissionError, ValueError):
            raise Unsupported(
                f"resource limit {_limit_name(kind)} cannot be raised to {hard}",
                f"the engine's own hard limit is {resource.getrlimit(kind)[1]}",
                "start the engine with a higher limit or with CAP_SYS_RESOURCE",
            ) from None


def _limit_name(kind: int) -> str:
    return next(name for name, number in _RLIMITS.items() if number == kind)


def set_oom_score(pid: int, score: int) -> None:
    """In the runtime: write oom_score_adj of a new process."""
    fd = os.open(f"/proc/{pid}/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, str(score).encode())
    except PermissionError:
        raise Unsupported(
            f"the OOM score of the container cannot be lowered to {score}",
            help="the engine lacks CAP_SYS_RESOURCE",
        ) from None
    finally:
        os.close(fd)


# From here on: in the new process.


def isolate(keep: list[int], stdio: tuple[int, int, int]) -> None:
    """First thing after the fork: our descriptors are ``keep`` and stdio, and signals ours alone.

    Early, because this process may wait for long, and would hold the shim's sockets open.
    """
    signal.set_wakeup_fd(-1)
    if stdio[0] >= 0:
        copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in stdio]
        for number, fd in enumerate(copies):
            os.dup2(fd, number)
    first = 3
    for fd in sorted(keep):
        if fd > first:
            syscalls.close_range(first, fd - 1)
        first = max(first, fd + 1)
    syscalls.close_range(first)


def become_user(process: ProcessPlan) -> None:
    """Take on the command's identity and rights, and its working directory.

    Where a seccomp filter is loaded without no_new_privs, CAP_SYS_ADMIN stays until execve, which
    takes it: what a process has afterwards follows from its bounding, inheritable and ambient sets
    alone.
    """
    for kind, soft, hard in process.rlimits:
        resource.setrlimit(kind, (soft, hard))
    denied = _change_directory(process.cwd)
    if not process.terminal:
        _own_stdio(process.uid)
    sets = process.capabilities
    capabilities.limit_bounding(sets.bounding, process.highest_capability)
    os.setgroups(process.groups)
    os.setresgid(process.gid, process.gid, process.gid)
    if process.uid:
        syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
    os.setresuid(process.uid, process.uid, process.uid)
    extra = 0
    if process.filter and not process.no_new_privileges:
        extra = capabilities.SYS_ADMIN
    syscalls.capset(sets.effective | extra, sets.permitted | extra, sets.inheritable)
    capabilities.set_ambient(sets.ambient)
    # Changing identity made us dumpable or not by the kernel's own rules.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    if denied and _change_directory(process.cwd):
        text = os.fsdecode(process.cwd)
        raise StartError(f'chdir to cwd ("{text}") failed: permission denied', exit_code=126)
    _prove_directory(process.cwd)
    if not process.env.get(b"HOME"):
        process.env[b"HOME"] = _home(process.uid)
    os.umask(process.umask)


def _change_directory(path: bytes) -> bool:
    """True if it is not allowed (yet): some directories only the user itself may enter."""
    try:
        os.chdir(path)
    except PermissionError:
        return True
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        code = 127 if error.errno == errno.ENOENT else 126
        text = os.fsdecode(path)
        raise StartError(f'chdir to cwd ("{text}") failed: {reason}', exit_code=code) from None
    return False


def _prove_directory(wanted: bytes) -> None:
    # A directory that a leaked descriptor leads to has no path from our root (CVE-2024-21626).
    try:
        inside = os.getcwdb().startswith(b"/")
    except OSError:
        inside = False
    if not inside:
        raise StartError(
            f"working directory {os.fsdecode(wanted)!r} is outside of the container", exit_code=126
        )


def lend_stdio(pid: int, stdio: tuple[int, int, int]) -> None:
    """Give ``stdio`` to the root of the user namespace of process ``pid``, who can open it again
    then, or give it on. For whoever is root of the host: nobody inside may take it."""
    owner = [_host_root(f"/proc/{pid}/{name}") for name in ("uid_map", "gid_map")]
    for fd in set(stdio):
        if fd < 0:
            continue
        info = os.fstat(fd)
        if stat.S_ISFIFO(info.st_mode) or stat.S_ISSOCK(info.st_mode):
            os.fchown(fd, *owner)


def _host_root(path: str) -> int:
    """Which id of the host root is in a map; -1 if it is none."""
    with open(path) as file:
        for line in file:
            container, host, _ = line.split()
            if container == "0":
                return int(host)
    return -1


def _own_stdio(uid: int) -> None:
    # So that the user can open /dev/stdout again; a shared /dev/null stays whose it is.
    for fd in (0, 1, 2):
        info = os.fstat(fd)
        if info.st_uid == uid or (stat.S_ISCHR(info.st_mode) and info.st_rdev == 0x103):
            continue
        try:
            os.fchown(fd, uid, -1)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EPERM, errno.EROFS, errno.ENOSYS):
                raise


def _home(uid: int) -> bytes:
    """The user's home as the container's own /etc/passwd says, read without any name service."""
    try:
        fd = syscalls.openat2(
            -100, b"/etc/passwd", os.O_RDONLY | os.O_NONBLOCK, 0, syscalls.RESOLVE_NO_MAGICLINKS
        )
    except OSError:
        return b"/"
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return b"/"
        content = os.read(fd, 1 << 20)
    finally:
        os.close(fd)
    number = b"%d" % uid
    for line in content.split(b"\n"):
        fields = line.split(b":")
        if len(fields) >= 6 and fields[2] == number:
            return fields[5] or b"/"
    return b"/"


def find_program(process: ProcessPlan) -> bytes:
    """The path of ``args[0]``; raises ``StartError`` in the words that Docker's users know."""
    name = process.args[0]
    shown = os.fsdecode(name).replace("\\", "\\\\").replace('"', '\\"')
    if b"/" in name:
        problem = _not_executable(name)
        if problem == errno.ENOENT or problem == errno.ENOTDIR:
            text = os.strerror(problem).lower()
            raise StartError(f'exec: "{shown}": stat {os.fsdecode(name)}: {text}')
        if problem:
            text = os.strerror(problem).lower()
            if problem == errno.EISDIR:
                # Docker adds this: clients have always known by it that 126 is meant.
                text += ": " + os.strerror(errno.EACCES).lower()
            raise StartError(f'exec: "{shown}": {text}', exit_code=126)
        return name
    denied = False
    for directory in process.env.get(b"PATH", b"").split(b":"):
        path = (directory or b".") + b"/" + name
        problem = _not_executable(path)
        if not problem:
            return path
        denied = denied or problem == errno.EACCES
    # Like Go's LookPath, which runc uses: whatever was wrong with each of them.
    raise StartError(f'exec: "{shown}": executable file not found in $PATH')


def _not_executable(path: bytes) -> int:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return error.errno or errno.ENOENT
    if stat.S_ISDIR(mode):
        return errno.EISDIR
    # access(2) asks for the real user, which is the effective one here.
    return 0 if mode & 0o111 and os.access(path, os.X_OK) else errno.EACCES


def join_keyring(process: ProcessPlan) -> None:
    """A session keyring of the container's own: keyrings know no namespaces (keyrings(7))."""
    try:
        serial = syscalls.keyctl(_JOIN_SESSION_KEYRING, process.keyring)
        syscalls.keyctl(_SETPERM, serial, _KEYRING_PERMISSIONS)
    except OSError as error:
        # A kernel without keyrings, or a quota that is used up, keeps nobody from running.
        if error.errno not in (errno.ENOSYS, errno.EDQUOT, errno.EACCES, errno.EPERM):
            raise


def take_terminal(process: ProcessPlan, slave: int) -> None:
    """Make the pty's slave stdin, stdout, stderr and the controlling terminal of this session."""
    rows, columns = process.console_size
    if rows or columns:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    for number in (0, 1, 2):
        os.dup2(slave, number)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    try:
        os.fchown(0, process.uid, -1)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EPERM):
            raise


def open_pty(ptmx: int) -> tuple[int, int]:
    """Master and slave from an open ptmx of a devpts; the slave comes by ioctl, not by path."""
    fcntl.ioctl(ptmx, _TIOCSPTLCK, b"\0" * 4)
    return ptmx, fcntl.ioctl(ptmx, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)


def execute(process: ProcessPlan, program: bytes, apparmor: int) -> None:
    """The last steps; returns never, raises ``StartError`` if execve refuses."""
    for number in process.ignored:
        _signal.signal(number, _signal.SIG_DFL)
    for number in _OF_THE_C_LIBRARY:
        syscalls.default_disposition(number)
    syscalls.close_range(3, flags=4)  # CLOSE_RANGE_CLOEXEC: also what we did not open ourselves
    if apparmor >= 0:
        os.write(apparmor, b"exec " + process.apparmor.encode())
    if process.no_new_privileges:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    if process.filter:
        seccomp.load(process.filter)
    try:
        os.execve(program, process.args, process.env)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        code = 127 if error.errno == errno.ENOENT else 126
        raise StartError(f"exec {os.fsdecode(program)}: {reason}", exit_code=code) from None
