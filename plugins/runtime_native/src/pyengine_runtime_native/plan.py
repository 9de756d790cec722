"""A runtime spec taken apart: what init will do, checked and prepared before anything is done.

:func:`plan_init` reads and refuses; it changes nothing. Opening what init needs of the host (bind
sources, namespaces to join) comes after, in :meth:`InitPlan.open`.
"""

from __future__ import annotations

import os
import stat
from typing import Any

import msgspec

from pyengine.errors import EngineError, InvalidParameter, NotFound, Unsupported
from pyengine.linux import cgroups, mounts, syscalls
from pyengine_runtime_native import seccomp
from pyengine_runtime_native.process import ProcessPlan, plan_process

FLAGS = {
    "user": syscalls.CLONE_NEWUSER,
    "mount": syscalls.CLONE_NEWNS,
    "pid": syscalls.CLONE_NEWPID,
    "network": syscalls.CLONE_NEWNET,
    "uts": syscalls.CLONE_NEWUTS,
    "ipc": syscalls.CLONE_NEWIPC,
    "cgroup": syscalls.CLONE_NEWCGROUP,
}
_LINUX_KNOWN = frozenset(
    {
        "namespaces",
        "uidMappings",
        "gidMappings",
        "devices",
        "cgroupsPath",
        "resources",
        "rootfsPropagation",
        "seccomp",
        "sysctl",
        "maskedPaths",
        "readonlyPaths",
        "mountLabel",
    }
)
#: What may be mounted over a file of procfs; everything else there is the kernel's.
_PROC_TARGETS = frozenset(
    f"/proc/{name}"
    for name in (
        "cpuinfo",
        "diskstats",
        "meminfo",
        "stat",
        "swaps",
        "uptime",
        "loadavg",
        "slabinfo",
        "net/dev",
        "sys/kernel/ns_last_pid",
        "sys/crypto/fips_enabled",
    )
)
_DEFAULT_DEVICES = (
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
)


class MountPlan(msgspec.Struct):
    """``tree``: descriptor of the detached source of a bind; -1 until opened, or for a new file
    system. ``parts``: for cgroup version 1, (directory name, tree or -1, controllers)."""

    kind: str
    target: str
    fstype: str
    source: str
    options: mounts.Options
    is_directory: bool = True
    tree: int = -1
    parts: list[tuple[str, int, tuple[str, ...]]] = []
    inside_proc: bool = False


class Device(msgspec.Struct):
    path: str
    mode: int
    number: int
    uid: int
    gid: int


class InitPlan(msgspec.Struct):
    """``new``: flags for clone; ``joins``: (flag, path) of namespaces of others."""

    process: ProcessPlan
    new: int
    new_cgroup: bool
    joins: list[tuple[int, str]]
    uid_map: bytes
    gid_map: bytes
    root: str
    readonly: bool
    propagation: int
    mounts: list[MountPlan]
    devices: list[Device]
    setup_dev: bool
    kernel_has_kcore: bool
    masked: list[str]
    read_only: list[str]
    sysctls: list[tuple[str, bytes]]
    hostname: str
    domainname: str
    hooks_in_container: list[dict[str, Any]]
    hooks_at_start: list[dict[str, Any]]
    wait_for_hooks: bool
    state: dict[str, Any]
    root_tree: int = -1
    join_fds: list[int] = []

    @property
    def user_namespace(self) -> bool:
        joined = any(flag == syscalls.CLONE_NEWUSER for flag, _ in self.joins)
        return joined or bool(self.new & syscalls.CLONE_NEWUSER)

    @property
    def at_clone(self) -> int:
        """Flags of ``new`` that clone gets. In a user namespace the IPC namespace comes later: the
        root directory of its mqueue belongs to whoever makes it, who must be mapped by then."""
        return self.new & ~syscalls.CLONE_NEWIPC if self.user_namespace else self.new

    def descriptors(self) -> list[int]:
        found = [self.root_tree, *self.join_fds]
        for mount in self.mounts:
            found.append(mount.tree)
            found += [tree for _, tree, _ in mount.parts]
        return [fd for fd in found if fd >= 0]

    def open(self, cgroup: cgroups.Cgroup) -> None:
        """Open what comes from the host; :meth:`close` lets go of it."""
        try:
            self.root_tree = mounts.bind_tree(self.root, True)
        except FileNotFoundError:
            raise NotFound(f"root file system {self.root} does not exist") from None
        for _, path in self.joins:
            try:
                self.join_fds.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            except OSError as error:
                raise EngineError(
                    f"namespace {path} cannot be joined", os.strerror(error.errno or 0)
                ) from None
        for mount in self.mounts:
            if mount.kind == "bind":
                self._open_bind(mount)
            elif mount.kind == "cgroup":
                mount.parts = _cgroup_parts(cgroup, own_namespace=self.new_cgroup)

    def _open_bind(self, mount: MountPlan) -> None:
        try:
            mount.tree = mounts.bind_tree(mount.source, mount.options.recursive)
        except FileNotFoundError:
            raise InvalidParameter(
                f"bind source path does not exist: {mount.source}",
                help=f"it is to be mounted on {mount.target}",
            ) from None
        mount.is_directory = stat.S_ISDIR(os.fstat(mount.tree).st_mode)
        # Shared would carry what happens inside back to the host.
        mounts.adorn(mount.tree, mount.options, self.propagation or syscalls.MS_SLAVE)

    def show_mapped(self, pid: int) -> None:
        """Show what is to be id-mapped as the user namespace of process ``pid`` has it."""
        mapped = [mount for mount in self.mounts if mount.options.id_map]
        if not mapped:
            return
        namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        try:
            for mount in mapped:
                _show_mapped(mount, namespace)
        finally:
            os.close(namespace)

    def close(self) -> None:
        for fd in self.descriptors():
            os.close(fd)
        self.root_tree, self.join_fds = -1, []
        for mount in self.mounts:
            mount.tree, mount.parts = -1, []


def _show_mapped(mount: MountPlan, namespace: int) -> None:
    try:
        syscalls.mount_setattr(
            mount.tree,
            syscalls.MOUNT_ATTR_IDMAP,
            recursive=mount.options.id_map_tree,
            user_namespace=namespace,
        )
    except OSError as error:
        raise EngineError(
            f"{mount.source} cannot be shown through the container's map of ids",
            os.strerror(error.errno or 0),
            "its filesystem may lack id-mapped mounts: mount it without idmap",
        ) from None


def _cgroup_parts(
    cgroup: cgroups.Cgroup, *, own_namespace: bool
) -> list[tuple[str, int, tuple[str, ...]]]:
    parts: list[tuple[str, int, tuple[str, ...]]] = []
    for hierarchy in cgroup.layout.hierarchies:
        if not hierarchy.v2:
            tree = -1
            if not own_namespace:
                tree = mounts.bind_tree(cgroup.directory_in(hierarchy), False)
            parts.append((hierarchy.label, tree, hierarchy.controllers))
        elif cgroup.layout.v2 and not own_namespace:
            parts.append(("", mounts.bind_tree(hierarchy.mount, True), ()))
    return parts


def plan_init(id: str, spec: dict[str, Any], bundle: str) -> InitPlan:
    """Raises ``InvalidParameter`` and ``Unsupported`` as :func:`plan_process` does."""
    linux = spec.get("linux") or {}
    for key, value in linux.items():
        if key not in _LINUX_KNOWN and value:
            raise Unsupported(f"linux.{key} of the runtime spec is not supported")
    if linux.get("mountLabel"):
        raise Unsupported("SELinux labels are not supported")
    for key in ("windows", "solaris", "vm", "zos"):
        if spec.get(key):
            raise Unsupported(f"{key} of the runtime spec is not for this runtime")
    new, new_cgroup, joins = _namespaces(linux)
    root = spec.get("root") or {}
    if not root.get("path"):
        raise InvalidParameter("the runtime spec has no root.path")
    process = plan_process(
        spec.get("process") or {},
        id=id,
        filter=seccomp.program(spec),
        new_user_namespace=bool(new & syscalls.CLONE_NEWUSER),
    )
    propagation = linux.get("rootfsPropagation") or ""
    if propagation and propagation not in mounts.PROPAGATION:
        raise InvalidParameter(f"unknown rootfsPropagation {propagation!r}")
    planned = [_mount(m, linux) for m in spec.get("mounts") or ()]
    hooks = spec.get("hooks") or {}
    _need_namespace(spec, new, joins)
    return InitPlan(
        process=process,
        new=new,
        new_cgroup=new_cgroup,
        joins=joins,
        uid_map=_identity_map(linux.get("uidMappings")),
        gid_map=_identity_map(linux.get("gidMappings")),
        root=os.path.join(bundle, root["path"]),
        readonly=bool(root.get("readonly")),
        propagation=mounts.PROPAGATION[propagation][0] if propagation else 0,
        mounts=planned,
        devices=_devices(linux),
        setup_dev=not any(m.kind == "bind" and m.target == "/dev" for m in planned),
        kernel_has_kcore=os.path.exists("/proc/kcore"),
        masked=list(linux.get("maskedPaths") or ()),
        read_only=list(linux.get("readonlyPaths") or ()),
        sysctls=_sysctls(linux, new, joins),
        hostname=spec.get("hostname") or "",
        domainname=spec.get("domainname") or "",
        hooks_in_container=list(hooks.get("createContainer") or ()),
        hooks_at_start=list(hooks.get("startContainer") or ()),
        wait_for_hooks=any(hooks.get(h) for h in ("prestart", "createRuntime", "createContainer")),
        state={
            "ociVersion": spec.get("ociVersion") or "1.2.0",
            "id": id,
            "bundle": bundle,
            "annotations": spec.get("annotations") or {},
        },
    )


def _namespaces(linux: dict[str, Any]) -> tuple[int, bool, list[tuple[int, str]]]:
    new, joins = 0, []
    seen: set[str] = set()
    for entry in linux.get("namespaces") or ():
        kind, path = entry["type"], entry.get("path") or ""
        if kind not in FLAGS:
            raise Unsupported(f"namespace {kind!r} is not supported")
        if kind in seen:
            raise InvalidParameter(f"namespace {kind!r} is named twice")
        seen.add(kind)
        if not path:
            new |= FLAGS[kind]
        elif kind == "mount":
            raise Unsupported("a mount namespace of others cannot be joined by a new container")
        else:
            joins.append((FLAGS[kind], path))
    if not new & syscalls.CLONE_NEWNS:
        raise Unsupported("a container without a mount namespace of its own is not supported")
    if new & syscalls.CLONE_NEWUSER and not (linux.get("uidMappings") and linux.get("gidMappings")):
        raise InvalidParameter("a new user namespace needs uidMappings and gidMappings")
    # The user namespace is joined last: before that we have the rights to join the others.
    joins.sort(key=lambda join: join[0] == syscalls.CLONE_NEWUSER)
    new_cgroup = bool(new & syscalls.CLONE_NEWCGROUP)
    return new & ~syscalls.CLONE_NEWCGROUP, new_cgroup, joins


def _need_namespace(spec: dict[str, Any], new: int, joins: list[tuple[int, str]]) -> None:
    for key in ("hostname", "domainname"):
        if spec.get(key) and not _has(syscalls.CLONE_NEWUTS, new, joins):
            raise InvalidParameter(f"{key} cannot be set without a UTS namespace")


def _has(flag: int, new: int, joins: list[tuple[int, str]]) -> bool:
    return bool(new & flag) or any(flag == f for f, _ in joins)


def _identity_map(entries: list[dict[str, int]] | None) -> bytes:
    lines = (f"{e['containerID']} {e['hostID']} {e['size']}\n" for e in entries or ())
    return "".join(lines).encode()


def _mount(entry: dict[str, Any], linux: dict[str, Any]) -> MountPlan:
    target = os.path.normpath("/" + (entry.get("destination") or ""))
    target = "/" + target.lstrip("/")
    if target == "/":
        raise InvalidParameter("a mount cannot replace the container's root")
    options = mounts.parse_options(list(entry.get("options") or ()))
    fstype = entry.get("type") or ""
    options = _id_mapped(entry, options, target, linux)
    if options.bind or fstype == "bind":
        kind = "bind"
        if not entry.get("source"):
            raise InvalidParameter(f"bind mount on {target} has no source")
    elif fstype in ("cgroup", "cgroup2"):
        kind = "cgroup"
    elif fstype:
        kind = "new"
    else:
        raise InvalidParameter(f"mount on {target} has no type")
    inside_proc = target.startswith("/proc/") and target not in _PROC_TARGETS
    if inside_proc:
        raise InvalidParameter(f"{target} cannot be mounted because it is inside /proc")
    return MountPlan(kind, target, fstype, entry.get("source") or "", options)


def _id_mapped(
    entry: dict[str, Any], options: mounts.Options, target: str, linux: dict[str, Any]
) -> mounts.Options:
    """A mount's own maps mean the option, as long as they are the container's."""
    own = {key: entry[key] for key in ("uidMappings", "gidMappings") if entry.get(key)}
    for key, mappings in own.items():
        if mappings != linux.get(key):
            raise Unsupported(
                f"the mount on {target} has other {key} than the container",
                help="leave them out: idmap alone means the container's",
            )
    if own and not options.id_map:
        options = options._replace(id_map=True)
    if options.id_map and not any(n["type"] == "user" for n in linux.get("namespaces") or ()):
        raise InvalidParameter(f"the id-mapped mount on {target} needs a user namespace")
    if options.id_map and not (options.bind or entry.get("type") == "bind"):
        raise Unsupported(f"the mount on {target} is no bind, and cannot be id-mapped")
    return options


def _devices(linux: dict[str, Any]) -> list[Device]:
    devices = {
        f"/dev/{name}": Device(f"/dev/{name}", stat.S_IFCHR | 0o666, os.makedev(major, minor), 0, 0)
        for name, major, minor in _DEFAULT_DEVICES
    }
    kinds = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
    for entry in linux.get("devices") or ():
        kind = kinds.get(entry.get("type", ""))
        if kind is None:
            raise InvalidParameter(f"device {entry.get('path')} has no type b, c, u or p")
        path = os.path.normpath(entry["path"])
        if path == "/" or not path.startswith("/"):
            raise InvalidParameter(f"device path {entry['path']!r} is not absolute")
        mode = entry.get("fileMode")
        devices[path] = Device(
            path,
            kind | (0o666 if mode is None else mode & 0o7777),
            os.makedev(entry.get("major") or 0, entry.get("minor") or 0),
            int(entry.get("uid") or 0),
            int(entry.get("gid") or 0),
        )
    return list(devices.values())


_IPC_SYSCTLS = (
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
)


def _sysctls(
    linux: dict[str, Any], new: int, joins: list[tuple[int, str]]
) -> list[tuple[str, bytes]]:
    planned = []
    for key, value in (linux.get("sysctl") or {}).items():
        # As in sysctl(8): the first separator says which of the two separates.
        first = next((c for c in key if c in "./"), ".")
        name = key if first == "." else key.translate(str.maketrans("./", "/."))
        if name in _IPC_SYSCTLS or name.startswith("fs.mqueue."):
            needed, where = syscalls.CLONE_NEWIPC, "the hosts ipc namespace"
        elif name.startswith("net."):
            needed, where = syscalls.CLONE_NEWNET, "host network namespace"
        elif name in ("kernel.domainname", "kernel.hostname"):
            needed, where = syscalls.CLONE_NEWUTS, "the hosts uts namespace"
        else:
            raise InvalidParameter(f'sysctl "{key}" is not in a separate kernel namespace')
        if not _has(needed, new, joins):
            raise InvalidParameter(
                f'sysctl "{key}" not allowed in {where}',
                help="it would change the host: give the container a namespace of its own for it",
            )
        path = "/proc/sys/" + name.translate(str.maketrans("./", "/."))
        if "/../" in path or path.endswith("/.."):
            raise InvalidParameter(f'sysctl "{key}" is not valid')
        planned.append((path, os.fsencode(str(value))))
    return planned
