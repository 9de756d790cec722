"""From a container's record to an OCI runtime spec.

On the hot path: a spec takes well under 0.3 ms. What the builder needs of the world (users,
volumes, paths, namespaces) comes resolved in :class:`SpecInput`; it looks nothing up but devices,
and only when the container names some. Rules are Docker's (moby ``daemon/oci_linux.go``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pyengine.engine.model import Container, HostConfig, Ulimit
from pyengine.errors import InvalidParameter
from pyengine.linux.idmaps import IdMapping
from pyengine.oci import capabilities, devices, resources, security
from pyengine.oci.defaults import (
    INIT_TARGET,
    PATH,
    SHM_SIZE,
    default_spec,
    default_sysctls,
    missing_init,
)
from pyengine.oci.mounts import ResolvedMount, assemble
from pyengine.oci.users import Identity

#: In :class:`Namespaces`: stay in the host's.
HOST = "host"

#: Annotations with this prefix are the engine's own; a user's are refused.
RESERVED_ANNOTATIONS = "io.pyengine."


class Namespaces(msgspec.Struct, frozen=True):
    """For each kind: "" a new one, ``host`` the engine's own, otherwise a path to join."""

    network: str = ""
    pid: str = ""
    ipc: str = ""
    uts: str = ""
    cgroup: str = HOST
    user: str = HOST


class EngineOptions(msgspec.Struct, kw_only=True):
    """What the daemon's configuration says about every container. Made once; some of it changes
    when the daemon reads its configuration again.

    ``init_path``: of the host, "" if none was found (see ``defaults.find_init``).
    """

    default_ulimits: Mapping[str, Ulimit] = {}
    shm_size: int = SHM_SIZE
    no_new_privileges: bool = False
    init: bool = False
    init_path: str = ""


class SpecInput(msgspec.Struct, kw_only=True):
    """A container with all that was resolved for this start.

    ``rootfs``: absolute path of its mounted root. ``mounts``: binds, volumes and tmpfs (those of
    ``HostConfig.Tmpfs`` included) in the user's order. ``hosts_path``, ``hostname_path``,
    ``resolv_path``: files of the host that become /etc/hosts and so on, "" for none.
    ``shm_source``: directory of the host to be /dev/shm (ipc mode host, shareable or container);
    "" for a tmpfs of its own. ``environment``: from links, between Docker's own and the user's.
    """

    container: Container
    rootfs: str
    user: Identity = Identity()
    mounts: Sequence[ResolvedMount] = ()
    hosts_path: str = ""
    hostname_path: str = ""
    resolv_path: str = ""
    shm_source: str = ""
    cgroups_path: str = ""
    namespaces: Namespaces = Namespaces()
    environment: Sequence[str] = ()
    engine: EngineOptions = msgspec.field(default_factory=EngineOptions)


def build(given: SpecInput) -> dict[str, Any]:
    """The spec, a fresh dictionary. Security plugins have not seen it yet.

    Raises ``InvalidParameter`` (a device that is none, a mount that cannot propagate) and
    ``Unavailable`` (``--init`` without an init on this host).
    """
    container = given.container
    config, host, engine = container.config, container.host_config, given.engine
    options = security.parse(host.security_opt, engine.no_new_privileges)
    spec = default_spec()
    process, linux = spec["process"], spec["linux"]

    spec["root"] = {"path": given.rootfs, "readonly": host.readonly_rootfs}
    process["args"] = [container.path, *container.args]
    process["cwd"] = config.working_dir or "/"
    process["env"] = environment(container, config.tty, given.environment, (), given.user.home)
    process["terminal"] = config.tty
    if config.tty and len(host.console_size) == 2 and any(host.console_size):
        process["consoleSize"] = _box(host.console_size)
    process["user"] = given.user.as_oci()
    process["capabilities"] = capabilities.as_oci(
        capabilities.effective(host.cap_add, host.cap_drop, host.privileged)
    )
    process["noNewPrivileges"] = options.no_new_privileges
    process["oomScoreAdj"] = host.oom_score_adj
    if host.ulimits or engine.default_ulimits:
        process["rlimits"] = resources.rlimits(host, engine.default_ulimits)

    linux["cgroupsPath"] = given.cgroups_path
    linux["resources"].update(resources.from_host_config(host))
    _namespaces(spec, given)
    if given.namespaces.user != HOST and given.namespaces.ipc == HOST:
        _lend_queues(spec)
    _devices(linux, host)
    assemble(
        spec,
        [*given.mounts, *_files(given)],
        given.shm_source,
        host.shm_size or engine.shm_size,
        host.ipc_mode,
    )
    wants_init = engine.init if host.init is None else host.init
    if wants_init and given.namespaces.pid == "":
        _init(spec, engine.init_path)
    _paths(spec, host, options, remapped=given.namespaces.user != HOST)
    if host.annotations:
        spec["annotations"] = _annotations(host.annotations)
    return spec


def process_for_exec(
    process: Mapping[str, Any],
    container: Container,
    *,
    args: Sequence[str],
    env: Sequence[str] = (),
    working_dir: str = "",
    tty: bool = False,
    privileged: bool = False,
    user: Identity | None = None,
    console_size: Sequence[int] = (),
    links: Sequence[str] = (),
) -> dict[str, Any]:
    """An OCI process object for an exec in ``container``, whose own one is ``process``.

    ``user`` None: the container's. Capabilities, limits, no-new-privileges and security fields are
    the container's; ``privileged`` gives all capabilities. ``links``: as ``SpecInput.environment``.
    """
    if user:
        identity, home = user.as_oci(), user.home
    else:
        identity, home = dict(process["user"]), _value(process["env"], "HOME")
    made = {
        **process,
        "args": list(args),
        "env": environment(container, tty, links, env, home),
        "cwd": working_dir or container.config.working_dir or "/",
        "terminal": tty,
        "user": identity,
    }
    made.pop("consoleSize", None)
    if tty and len(console_size) == 2 and any(console_size):
        made["consoleSize"] = _box(console_size)
    if privileged:
        made["capabilities"] = capabilities.as_oci(capabilities.available())
    else:
        made["capabilities"] = {key: list(names) for key, names in made["capabilities"].items()}
    return made


def environment(
    container: Container,
    tty: bool,
    links: Sequence[str] = (),
    overrides: Sequence[str] = (),
    home: str = "",
) -> list[str]:
    """Docker's order: PATH, HOSTNAME, TERM with a terminal, links, then the container's own, which
    replace in place; a name without ``=`` takes that variable away. HOME comes last, from the
    user's passwd entry, where nobody set it to something."""
    merged = {"PATH": PATH, "HOSTNAME": "HOSTNAME=" + container.config.hostname}
    if tty:
        merged["TERM"] = "TERM=xterm"
    for entries in (links, container.config.env or (), overrides):
        for entry in entries:
            name, equals, _ = entry.partition("=")
            if equals:
                merged[name] = entry
            else:
                merged.pop(name, None)
    if merged.get("HOME", "HOME=") == "HOME=":
        merged["HOME"] = "HOME=" + (home or "/")
    return list(merged.values())


def _namespaces(spec: dict[str, Any], given: SpecInput) -> None:
    linux, host = spec["linux"], given.container.host_config
    wanted = given.namespaces
    listed: list[dict[str, str]] = [{"type": "mount"}]
    for kind in ("network", "uts", "pid", "ipc", "cgroup", "user"):
        where = getattr(wanted, kind)
        if where == "":
            listed.append({"type": kind})
        elif where != HOST:
            listed.append({"type": kind, "path": where})
    linux["namespaces"] = listed
    if wanted.user == "":
        maps = given.container.id_maps
        assert maps is not None, "a new user namespace has maps"
        linux["uidMappings"] = [_mapping(item) for item in maps.uids]
        linux["gidMappings"] = [_mapping(item) for item in maps.gids]

    sysctl = linux["sysctl"]
    if wanted.uts == "":
        spec["hostname"] = given.container.config.hostname
        if given.container.config.domainname:
            # The runtime specification has a field for this since 1.1; older runtimes know only
            # the sysctl, which comes to the same.
            sysctl["kernel.domainname"] = given.container.config.domainname
    else:
        del spec["hostname"]
    if wanted.network == "":
        sysctl.update(_network_sysctls(wanted.user != HOST))
    if host.sysctls:
        sysctl.update(host.sysctls)


_sysctl_cache: dict[bool, dict[str, str]] = {}


def _network_sysctls(user_namespace: bool) -> dict[str, str]:
    found = _sysctl_cache.get(user_namespace)
    if found is None:
        found = _sysctl_cache[user_namespace] = default_sysctls(user_namespace)
    return found


def _devices(linux: dict[str, Any], host: HostConfig) -> None:
    rules = linux["resources"]["devices"]
    if host.privileged:
        rules[:] = [{"allow": True, "access": "rwm"}]
        linux["devices"] = devices.of_host()
    for mapping in host.devices or ():
        target = mapping.path_in_container or mapping.path_on_host
        if host.privileged and target == mapping.path_on_host:
            continue
        found, allowed = devices.from_path(mapping.path_on_host, target, mapping.cgroup_permissions)
        linux["devices"] += found
        if not host.privileged:
            rules += allowed
    if not host.privileged:
        rules += [devices.parse_rule(rule) for rule in host.device_cgroup_rules or ()]


def _files(given: SpecInput) -> list[ResolvedMount]:
    """hosts, hostname and resolv.conf, unless the user mounts something there himself."""
    own = {mount.destination for mount in given.mounts}
    writable = not given.container.host_config.readonly_rootfs
    mapped = given.container.id_maps is not None
    return [
        ResolvedMount(
            kind="bind",
            source=source,
            destination=destination,
            writable=writable,
            id_mapped=mapped,
        )
        for source, destination in (
            (given.resolv_path, "/etc/resolv.conf"),
            (given.hostname_path, "/etc/hostname"),
            (given.hosts_path, "/etc/hosts"),
        )
        if source and destination not in own
    ]


def _lend_queues(spec: dict[str, Any]) -> None:
    """A user namespace cannot mount the message queues of another's IPC namespace anew."""
    for mount in spec["mounts"]:
        if mount["type"] == "mqueue":
            mount |= {"type": "bind", "source": "/dev/mqueue", "options": ["rbind", "rprivate"]}


def _init(spec: dict[str, Any], init_path: str) -> None:
    if not init_path:
        raise missing_init()
    spec["process"]["args"][:0] = [INIT_TARGET, "--"]
    spec["mounts"].append(
        {
            "destination": INIT_TARGET,
            "type": "bind",
            "source": init_path,
            "options": ["bind", "ro"],
        }
    )


def _paths(
    spec: dict[str, Any], host: HostConfig, options: security.SecurityOptions, remapped: bool
) -> None:
    """Masks, read-only paths, and whether /sys and the cgroups can be written."""
    linux = spec["linux"]
    if host.privileged or options.unconfined_paths:
        linux["maskedPaths"], linux["readonlyPaths"] = [], []
    if host.masked_paths is not None:
        linux["maskedPaths"] = list(host.masked_paths)
    if host.readonly_paths is not None:
        linux["readonlyPaths"] = list(host.readonly_paths)
    writable = host.privileged if options.writable_cgroups is None else options.writable_cgroups
    for mount in spec["mounts"]:
        if (mount["type"] == "sysfs" and host.privileged) or (
            # In a user namespace the flag could not be changed again by the runtime's remount.
            mount["type"] == "cgroup" and (writable or remapped)
        ):
            mount["options"] = [option for option in mount["options"] if option != "ro"]


def _annotations(given: Mapping[str, str]) -> dict[str, str]:
    for name in given:
        if name.startswith(RESERVED_ANNOTATIONS):
            raise InvalidParameter(
                f"invalid Annotations: {name!r}",
                f"names that begin with {RESERVED_ANNOTATIONS} are the engine's own",
            )
    return dict(given)


def _mapping(item: IdMapping) -> dict[str, int]:
    return {"containerID": item.container, "hostID": item.host, "size": item.size}


def _box(size: Sequence[int]) -> dict[str, int]:
    return {"height": size[0], "width": size[1]}


def _value(env: Sequence[str], name: str) -> str:
    for entry in env:
        if entry.startswith(name + "="):
            return entry[len(name) + 1 :]
    return ""
