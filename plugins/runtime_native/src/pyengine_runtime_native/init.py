"""The container's first process, from clone to execve.

Everything here runs in the child. Up to :func:`_change_root` the host's files are there, and only
descriptors that the runtime opened are used of them; behind it the image's are, and
:mod:`pyengine.linux.border` guards what may still be done.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import struct
from typing import NoReturn

from pyengine.errors import EngineError
from pyengine.faults import failpoint, set_role
from pyengine.linux import border, cgroups, mounts, syscalls
from pyengine_runtime_native import hooks, process
from pyengine_runtime_native.channel import Child, describe
from pyengine_runtime_native.plan import InitPlan, MountPlan

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
)


class Handles:
    """Descriptors that init begins with, besides those of the plan."""

    def __init__(
        self,
        sock: socket.socket,
        stdio: tuple[int, int, int],
        tasks: list[int],
        start: int,
        result: int,
    ) -> None:
        self.sock, self.stdio, self.tasks = sock, stdio, tasks
        self.start, self.result = start, result


def main(plan: InitPlan, handles: Handles, *, wait: bool) -> NoReturn:
    """Never returns: becomes the command, or reports and ends."""
    channel = Child(handles.sock)
    try:
        _main(plan, handles, channel, wait)
    except BaseException as error:
        channel.fail(error)
    os._exit(1)


def _main(plan: InitPlan, handles: Handles, channel: Child, wait: bool) -> None:
    set_role("init")
    keep = [handles.sock.fileno(), handles.start, handles.result]
    process.isolate(keep + handles.tasks + plan.descriptors(), handles.stdio)
    channel.enter("cgroup join")
    cgroups.join(handles.tasks)
    if wait:
        channel.enter("wait for identity maps")
        channel.wait()
    # Only now: a process that is not dumpable can have its maps written by nobody but real root.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    if plan.user_namespace:
        channel.enter("user namespace")
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    os.setsid()
    process.join_keyring(plan.process)
    apparmor = -1
    if plan.process.apparmor:
        apparmor = open_apparmor()
    channel.enter("namespaces")
    later = plan.new & ~plan.at_clone
    if plan.new_cgroup:
        later |= syscalls.CLONE_NEWCGROUP
    if later:
        syscalls.unshare(later)
    if plan.new & syscalls.CLONE_NEWNET:
        _loopback_up()
    if plan.hostname:
        syscalls.sethostname(plan.hostname)
    if plan.domainname:
        syscalls.setdomainname(plan.domainname)
    for path, value in plan.sysctls:
        channel.enter(f"sysctl {path}")
        _write(path, value)

    channel.enter("root")
    os.umask(0)
    root = _attach_root(plan)
    for mount in plan.mounts:
        channel.enter(f"mount {mount.target}")
        _mount(root, mount, plan)
    channel.enter("devices")
    if plan.setup_dev:
        _make_devices(root, plan)
    channel.enter("working directory")
    _make_directory(root, plan.process.cwd)
    slave = -1
    if plan.process.terminal:
        channel.enter("console")
        slave = _make_console(root, channel)
    if plan.wait_for_hooks:
        channel.enter("hooks")
        channel.send(b"M")
        channel.wait()
        state = plan.state | {"status": "creating", "pid": os.getpid()}
        hooks.run(plan.hooks_in_container, "createContainer", state)
    channel.enter("masked and read-only paths")
    _protect_paths(root, plan)
    for mount in plan.mounts:
        _finish_read_only(root, mount)

    channel.enter("pivot_root")
    _change_root(root, plan)
    channel.enter("identity")
    if slave >= 0:
        process.take_terminal(plan.process, slave)
    process.become_user(plan.process)
    channel.enter("command")
    program = process.find_program(plan.process)
    channel.enter("")
    channel.ready()
    _wait_and_execute(plan, handles, program, apparmor)


def _wait_and_execute(plan: InitPlan, handles: Handles, program: bytes, apparmor: int) -> None:
    # Whoever created us may be gone by the time we are started, so errors go to the result pipe.
    step = "start"
    try:
        os.read(handles.start, 1)
        failpoint("runtime.execve")
        if plan.hooks_at_start:
            step = "startContainer hooks"
            state = plan.state | {"status": "created", "pid": os.getpid()}
            hooks.run(plan.hooks_at_start, "startContainer", state)
        step = "execve"
        process.execute(plan.process, program, apparmor)
    except BaseException as error:
        os.write(handles.result, describe(step, error))
    os._exit(1)


def open_apparmor() -> int:
    for path in ("/proc/self/attr/apparmor/exec", "/proc/self/attr/exec"):
        try:
            return os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
    raise EngineError("this kernel has no attribute file for AppArmor")


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack_from("16xH", fcntl.ioctl(sock, _SIOCGIFFLAGS, request))[0]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


def _write(path: str, value: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.write(fd, value)
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)


def _attach_root(plan: InitPlan) -> int:
    """Lay the container's tree over our own root; returns its descriptor."""
    # Nothing that we mount may reach the host, and what the host unmounts must not stay busy here.
    syscalls.mount(None, "/", flags=syscalls.MS_REC | syscalls.MS_SLAVE)
    tree = plan.root_tree
    syscalls.mount_setattr(tree, propagation=syscalls.MS_SLAVE, recursive=True)
    # pivot_root refuses a new root that is shared; the spec's own propagation comes after it.
    host = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mounts.attach(tree, host)
    os.close(host)
    return tree


def _mount(root: int, mount: MountPlan, plan: InitPlan) -> None:
    if mount.kind == "bind":
        target = mounts.make_target(root, mount.target, directory=mount.is_directory)
        _refuse_procfs(target, mount)
        _refuse_root(root, target, mount)
        if stat.S_ISDIR(os.fstat(target).st_mode) != mount.is_directory:
            raise EngineError(
                f"error mounting {mount.source!r} to rootfs at {mount.target!r}: not a directory: "
                "Are you trying to mount a directory onto a file (or vice-versa)? Check if the "
                "specified host path exists and is the expected type"
            )
        mounts.attach(mount.tree, target)
    elif mount.kind == "cgroup":
        target = mounts.make_target(root, mount.target, directory=True)
        _mount_cgroups(target, mount, plan)
    else:
        target = _mount_new(root, mount)
    os.close(target)


def _refuse_root(root: int, target: int, mount: MountPlan) -> None:
    """A link may lead there, and the mount would hide all that is still to be done."""
    if os.path.samestat(os.fstat(root), os.fstat(target)):
        raise EngineError(f"{mount.target} cannot be mounted because it leads to the root")


def _refuse_procfs(target: int, mount: MountPlan) -> None:
    """A file of procfs must stay the kernel's: later steps and programs rely on it."""
    on_procfs = syscalls.filesystem_type(target) == syscalls.PROC_SUPER_MAGIC
    if mount.target == "/proc":
        if syscalls.filesystem_type(mount.tree) != syscalls.PROC_SUPER_MAGIC:
            raise EngineError("/proc cannot be mounted because the source is not procfs")
    elif on_procfs and not mount.target.startswith("/proc/"):
        raise EngineError(f"{mount.target} cannot be mounted because it leads into /proc")


def _mount_new(root: int, mount: MountPlan) -> int:
    options = mount.options
    covers = _is_there(root, mount.target) if mount.fstype == "tmpfs" else False
    target = mounts.make_target(root, mount.target, directory=True)
    _refuse_root(root, target, mount)
    if mount.fstype in ("proc", "sysfs"):
        _prove_ordinary(root, mount.target)
    # Devices and mount points may still have to be made in a tmpfs.
    attributes = options.set
    if mount.fstype == "tmpfs":
        attributes &= ~syscalls.MOUNT_ATTR_RDONLY
    data = options.data
    if covers and not any(key == "mode" for key, _ in data):
        # As runc has it: a directory that is covered lends its mode; else it is tmpfs's, 1777.
        data = (*data, ("mode", f"{stat.S_IMODE(os.fstat(target).st_mode):o}"))
    try:
        tree = mounts.new_filesystem(mount.fstype, mount.source or mount.fstype, data, attributes)
    except OSError as error:
        if error.errno != errno.EBUSY or mount.fstype != "mqueue":
            raise
        tree = mounts.new_filesystem(mount.fstype, "", data, attributes)
    for flag, recursive in options.propagation:
        syscalls.mount_setattr(tree, propagation=flag, recursive=recursive)
    if options.copy_up:
        below = mounts.open_in_root(root, mount.target, os.O_RDONLY | os.O_DIRECTORY)
        copy = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree)
        mounts.copy_up(below, copy)
        os.close(below)
        os.close(copy)
    mounts.attach(tree, target)
    os.close(tree)
    return target


def _is_there(root: int, path: str) -> bool:
    try:
        os.close(mounts.open_in_root(root, path))
    except FileNotFoundError:
        return False
    return True


def _prove_ordinary(root: int, path: str) -> None:
    # An image whose /proc is a link would have the kernel's files appear where it likes, and
    # /proc be its own (CVE-2019-19921).
    flags = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_SYMLINKS
    try:
        os.close(syscalls.openat2(root, path.lstrip("/"), os.O_PATH | os.O_DIRECTORY, 0, flags))
    except OSError:
        raise EngineError(f"{path} must be mounted on an ordinary directory") from None


def _mount_cgroups(target: int, mount: MountPlan, plan: InitPlan) -> None:
    options = mount.options
    version2 = [tree for label, tree, _ in mount.parts if not label]
    if not mount.parts:
        tree = mounts.new_filesystem("cgroup2", "cgroup", options.data, options.set)
    elif version2:
        tree = version2[0]
        syscalls.mount_setattr(tree, options.set, options.clear, recursive=True)
    else:
        data = (("mode", "755"),)
        attributes = options.set & ~syscalls.MOUNT_ATTR_RDONLY
        tree = mounts.new_filesystem("tmpfs", "tmpfs", data, attributes)
        mounts.attach(tree, target)
        for label, part, controllers in mount.parts:
            os.mkdir(label, 0o755, dir_fd=tree)
            if part < 0:
                wanted: tuple[tuple[str, str | None], ...] = tuple((c, None) for c in controllers)
                if controllers[0].startswith("name="):
                    wanted = (("none", None), ("name", label))
                part = mounts.new_filesystem("cgroup", "cgroup", wanted)
            place = os.open(label, os.O_PATH | os.O_CLOEXEC, dir_fd=tree)
            mounts.attach(part, place)
            os.close(place)
            for controller in controllers:
                if controller != label and not controller.startswith("name="):
                    os.symlink(label, controller, dir_fd=tree)
        syscalls.mount_setattr(tree, options.set, recursive=True)
        return
    mounts.attach(tree, target)


def _make_devices(root: int, plan: InitPlan) -> None:
    dev = mounts.make_target(root, "/dev", directory=True)
    for device in plan.devices:
        directory, _, name = device.path.rpartition("/")
        parent = dev
        if directory != "/dev":
            parent = mounts.make_target(root, directory or "/", directory=True)
        failpoint("runtime.mknod")
        try:
            if plan.user_namespace:
                raise PermissionError(errno.EPERM, "")
            os.mknod(name, device.mode, device.number, dir_fd=parent)
            if device.uid or device.gid:
                os.chown(name, device.uid, device.gid, dir_fd=parent, follow_symlinks=False)
        except FileExistsError:
            pass
        except PermissionError:
            _bind_device(root, device.path)
        if parent is not dev:
            os.close(parent)
    for name, leads_to in _LINKS:
        if name == "core" and not plan.kernel_has_kcore:
            continue
        try:
            os.symlink(leads_to, name, dir_fd=dev)
        except FileExistsError:
            continue
    try:
        os.unlink("ptmx", dir_fd=dev)
    except FileNotFoundError:
        pass
    os.symlink("pts/ptmx", "ptmx", dir_fd=dev)
    os.close(dev)


def _bind_device(root: int, path: str) -> None:
    # Where mknod is not allowed (user namespaces), the host's node is laid over an empty file.
    target = mounts.make_target(root, path, directory=False)
    tree = mounts.bind_tree(path, False)
    mounts.attach(tree, target)
    os.close(tree)
    os.close(target)


def _make_directory(root: int, path: bytes) -> None:
    # Docker's users expect a working directory that the image lacks to be made.
    try:
        os.close(mounts.make_target(root, os.fsdecode(path), directory=True))
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR):
            raise


def _make_console(root: int, channel: Child) -> int:
    """A pty of the container's own devpts: master to the runtime, slave onto /dev/console."""
    ptmx = mounts.open_in_root(root, "/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_NOFOLLOW)
    if syscalls.filesystem_type(ptmx) != syscalls.DEVPTS_SUPER_MAGIC:
        raise EngineError("a terminal needs a devpts file system on /dev/pts")
    master, slave = process.open_pty(ptmx)
    channel.send_descriptor(master)
    os.close(master)
    target = mounts.make_target(root, "/dev/console", directory=False, mode=0o620)
    if stat.S_ISLNK(os.fstat(target).st_mode):
        raise EngineError("/dev/console must not be a link")
    tree = mounts.bind_descriptor(slave)
    mounts.attach(tree, target)
    os.close(tree)
    os.close(target)
    return slave


def _protect_paths(root: int, plan: InitPlan) -> None:
    """Hide masked paths, make others read-only; what is not there needs neither."""
    if not plan.masked and not plan.read_only:
        return
    proc = _proven_procfs(root, plan)
    null = cover = -1
    for path in plan.read_only:
        target = _open_protected(root, proc, path)
        if target >= 0:
            tree = mounts.bind_descriptor(target, recursive=True)
            syscalls.mount_setattr(tree, syscalls.MOUNT_ATTR_RDONLY, recursive=True)
            mounts.attach(tree, target)
            os.close(tree)
            os.close(target)
    for path in plan.masked:
        target = _open_protected(root, proc, path)
        if target < 0:
            continue
        if stat.S_ISDIR(os.fstat(target).st_mode):
            if cover < 0:
                attributes = syscalls.MOUNT_ATTR_RDONLY
                data = (("nr_blocks", "1"), ("nr_inodes", "1"))
                cover = mounts.new_filesystem("tmpfs", "tmpfs", data, attributes)
                mounts.attach(cover, target)
            else:
                _attach_copy(cover, target)
        else:
            if null < 0:
                null = _open_null(root)
            _attach_copy(null, target)
        os.close(target)


def _attach_copy(source: int, target: int) -> None:
    tree = mounts.bind_descriptor(source)
    mounts.attach(tree, target)
    os.close(tree)


def _open_null(root: int) -> int:
    # What stands at /dev/null must be the null device, or masking would show something else
    # (CVE-2025-31133).
    null = mounts.open_in_root(root, "/dev/null", os.O_PATH | os.O_NOFOLLOW)
    info = os.fstat(null)
    if not stat.S_ISCHR(info.st_mode) or info.st_rdev != os.makedev(1, 3):
        raise EngineError("/dev/null of the container is not the null device")
    return null


def _proven_procfs(root: int, plan: InitPlan) -> int:
    """The visible /proc, if the spec mounts one there; else -1."""
    if not any(m.target == "/proc" for m in plan.mounts):
        return -1
    proc = mounts.open_in_root(root, "/proc", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
    if syscalls.filesystem_type(proc) != syscalls.PROC_SUPER_MAGIC or os.fstat(proc).st_ino != 1:
        raise EngineError("/proc of the container is not procfs")
    return proc


def _open_protected(root: int, proc: int, path: str) -> int:
    base, flags = root, syscalls.RESOLVE_IN_ROOT
    if proc >= 0 and path.startswith("/proc/"):
        base, flags = proc, syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS
        path = path.removeprefix("/proc/")
    try:
        return syscalls.openat2(base, path.lstrip("/"), os.O_PATH, 0, flags)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return -1
        raise


def _finish_read_only(root: int, mount: MountPlan) -> None:
    if mount.fstype == "tmpfs" and mount.options.set & syscalls.MOUNT_ATTR_RDONLY:
        tree = mounts.open_in_root(root, mount.target)
        syscalls.mount_setattr(tree, syscalls.MOUNT_ATTR_RDONLY)
        os.close(tree)


def _change_root(root: int, plan: InitPlan) -> None:
    border.enter_foreign_root()
    os.fchdir(root)
    syscalls.pivot_root(".", ".")
    # The old root lies over the new one now; "." is what lies on top.
    syscalls.umount(".", syscalls.MNT_DETACH)
    os.chdir("/")
    if plan.propagation:
        syscalls.mount(None, "/", flags=plan.propagation | syscalls.MS_REC)
    if plan.readonly:
        syscalls.mount_setattr(root, syscalls.MOUNT_ATTR_RDONLY)
