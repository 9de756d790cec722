"""From a record to everything a shim needs: root mounted, volumes present, files written, spec.

The steps are undone in reverse by :meth:`Bundles.release`; both may be repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import posixpath
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pyengine.contracts.base import Kind
from pyengine.contracts.logging import LoggingDriver, record_attributes
from pyengine.contracts.storage import StorageCapability, StorageDriver
from pyengine.drivers import Drivers, Places
from pyengine.engine import remap
from pyengine.engine.calls import DriverCalls
from pyengine.engine.containers import mounts, realtime
from pyengine.engine.containers.links import Linked, told
from pyengine.engine.containers.registry import Live, Registry
from pyengine.engine.containers.resolv import (
    amend_hosts,
    readdress,
    write_network_files,
    write_resolv,
)
from pyengine.engine.logsinks import LogSinks
from pyengine.engine.model import Container, EndpointSettings, HostConfig, MountPoint
from pyengine.engine.threads import on_thread
from pyengine.engine.volumes import Volumes
from pyengine.errors import Conflict, EngineError, InvalidParameter, NotFound
from pyengine.faults import failpoint
from pyengine.hooks.manager import Hooks
from pyengine.linux import idmaps, syscalls, systemd
from pyengine.linux.idmaps import IdMaps
from pyengine.oci import devicerequests, users
from pyengine.oci.cdi import Devices
from pyengine.oci.mounts import ResolvedMount, tmpfs_options
from pyengine.oci.spec import HOST, EngineOptions, Namespaces, SpecInput, build
from pyengine.supervisor.records import Launch

log = logging.getLogger(__name__)


class Files(msgspec.Struct, frozen=True):
    """Where the parts of one container are."""

    directory: Path
    bundle: Path
    socket: Path
    netns: Path
    #: where hosts, hostname and resolv.conf are: who shares another's network has its files
    names: Path

    @property
    def process(self) -> Path:
        """The spec's process, for a later daemon that is asked for an exec."""
        return self.bundle / "process.json"

    @property
    def hosts(self) -> Path:
        return self.names / "hosts"

    @property
    def hostname(self) -> Path:
        return self.names / "hostname"

    @property
    def resolv(self) -> Path:
        return self.names / "resolv.conf"

    def mounted(self) -> Sequence[tuple[Path, str]]:
        """The files that every container has mounted, and where."""
        return (
            (self.hosts, "/etc/hosts"),
            (self.hostname, "/etc/hostname"),
            (self.resolv, "/etc/resolv.conf"),
        )

    @property
    def shm(self) -> Path:
        return self.directory / "mounts" / "shm"

    @property
    def exit(self) -> Path:
        return self.directory / "exit.json"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemon's configuration says about bundles."""

    engine: EngineOptions
    cgroup_parent: str
    shim_cgroup: str
    #: what the names of systemd's scopes begin with; empty: cgroups are directories of our own
    scopes: str = ""
    dns: Sequence[str] = ()
    dns_search: Sequence[str] = ()
    dns_options: Sequence[str] = ()
    cgroupns: str = "host"
    #: period and runtime of the cgroups above containers, in microseconds; 0: as they are
    realtime: tuple[int, int] = (0, 0)
    #: what ``host-gateway`` means in ``--add-host``; empty: the container's gateway
    host_gateways: Sequence[str] = ()
    devices: Devices = msgspec.field(default_factory=Devices)
    #: of ``userns-remap``; None: containers have no user namespaces
    id_maps: IdMaps | None = None


class Bundles:
    """Prepares containers for their start, and puts away what the start needed."""

    def __init__(
        self,
        places: Places,
        settings: Settings,
        drivers: Drivers,
        calls: Callable[[Kind, str], DriverCalls],
        hooks: Hooks,
        registry: Registry,
        volumes: Volumes,
        log_sinks: LogSinks,
    ) -> None:
        self._places = places
        run = places.exec_root
        self._rooms = places.data_root / "containers", run / "b", run / "s", run / "netns"
        self._settings = settings
        self._drivers = drivers
        self.calls = calls
        self._hooks = hooks
        self._registry = registry
        self._volumes = volumes
        self._log_sinks = log_sinks
        #: how often each container's tree is in use beside the container's own run
        self._uses: Counter[str] = Counter()
        #: descriptors that are sources of mounts, until these are made
        self._sources: dict[str, list[int]] = {}
        self._mappable = idmaps.Mappable()

    @property
    def id_maps(self) -> IdMaps | None:
        """Of ``userns-remap``."""
        return self._settings.id_maps

    @property
    def data_root(self) -> str:
        return str(self._places.data_root)

    def files(self, container: Container) -> Files:
        short = container.id[:12]
        directories, bundles, sockets, namespaces = self._rooms
        return Files(
            directory=directories / container.id,
            bundle=bundles / container.id,
            socket=sockets / short,
            netns=namespaces / short,
            names=directories / self._named_by(container).id,
        )

    def process(self, live: Live) -> dict[str, Any]:
        """What a running container's spec says of its process; ``EngineError`` if that is lost."""
        if live.process is None:
            try:
                live.process = msgspec.json.decode(self.files(live.record).process.read_bytes())
            except (OSError, msgspec.DecodeError) as error:
                raise EngineError(
                    f"container {live.id} cannot be entered: its spec is not known",
                    str(error),
                    "restart the container",
                ) from error
        assert live.process is not None
        return live.process

    def write_resolv(self, container: Container) -> None:
        """Write a running container's resolv.conf anew, in place."""
        write_resolv(container, self.files(container), self._settings)

    def amend_hosts(
        self,
        container: Container,
        *,
        come: EndpointSettings | None = None,
        gone: EndpointSettings | None = None,
    ) -> None:
        """A running container joins a network, or leaves one."""
        if not container.host_config.network_mode.startswith("container:"):
            amend_hosts(container, self.files(container), come=come, gone=gone)

    def update_links(self, container: Container) -> None:
        """Tell running containers that are linked to it the address that it has now."""
        for record, alias, address in told(container, self._registry.records()):
            try:
                readdress(self.files(record).hosts, alias, address)
            except OSError as error:  # which is no reason not to start this one
                log.warning("container %s: its hosts file stays: %s", record.id[:12], error)

    def storage(self, container: Container) -> StorageDriver:
        driver = self._drivers.get(Kind.STORAGE, container.drivers.get("storage", ""))
        assert isinstance(driver, StorageDriver)
        return driver

    def logging(self, container: Container) -> LoggingDriver:
        driver = self._drivers.get(Kind.LOGGING, container.drivers["logging"])
        assert isinstance(driver, LoggingDriver)
        return driver

    def log_file(self, container: Container) -> Path:
        """Where the container's logging driver writes."""
        name = self.logging(container).public_name or "container.log"
        return self.files(container).directory / name.format(id=container.id)

    async def prepare(self, live: Live, linked: Linked) -> Launch:
        """Make everything present for a start. ``linked``: what it is told of other
        containers. Leaves what it made for :meth:`release` when it fails."""
        container = live.record
        files = self.files(container)
        storage = self.storage(container)
        container.id_maps = self._maps(container)
        volatile = (
            container.host_config.auto_remove
            and StorageCapability.VOLATILE in storage.capabilities()
        )
        rootfs, resolved = await asyncio.gather(
            self._mount(container, container.layer, volatile=volatile),
            self.resolve_mounts(container),
        )
        realtime.allow(os.path.dirname(self.cgroup(container)), self._settings.realtime)
        return self._launch(live, files, rootfs, resolved, linked)

    def launched(self, user: str) -> None:
        """The mounts are made of what :meth:`resolve_mounts` found for container or ``user``."""
        for fd in self._sources.pop(user, ()):
            os.close(fd)

    async def release(self, container: Container) -> None:
        """Undo :meth:`prepare`: the root is unmounted, volumes let go. Collects what fails."""
        self.launched(container.id)
        files = self.files(container)
        problems: list[str] = []
        storage = self.storage(container)
        calls = self.calls(Kind.STORAGE, storage.name)
        for point in container.mounts:
            if point.type == "volume":
                try:
                    await self._volumes.unmount(point.name, container.id)
                except (EngineError, OSError) as error:
                    problems.append(str(error))
        if not self._uses[container.id]:
            for layer in container.layers:
                try:
                    await calls(storage.unmount, layer)
                except (EngineError, OSError) as error:
                    problems.append(str(error))
        if files.shm.is_mount():
            syscalls.umount(files.shm, syscalls.MNT_DETACH)
        shutil.rmtree(files.bundle, ignore_errors=True)
        files.socket.unlink(missing_ok=True)
        if problems:
            raise EngineError("a container was not put away whole", "; ".join(problems))

    @contextlib.asynccontextmanager
    async def mounted(self, live: Live) -> AsyncIterator[Path]:
        """The container's layer mounted for as long as the block runs, whatever the container does
        meanwhile. ``NotFound`` if it was just removed."""
        container = live.record
        async with live.lock:
            if live.settling is not None:
                # It has just ended: its unmounting must not come between.
                await asyncio.shield(live.settling)
            if live.removed:
                raise NotFound(f"No such container: {container.id}")
            if live.shim is None:
                container.id_maps = self._maps(container)
            path = await self._mount(container, container.layer)
            self._uses[container.id] += 1
        try:
            yield path
        finally:
            await asyncio.shield(self._put_back(live))

    async def _put_back(self, live: Live) -> None:
        storage = self.storage(live.record)
        self._uses[live.id] -= 1
        if not self._uses[live.id]:
            del self._uses[live.id]
        async with live.lock:
            if not (self._uses[live.id] or live.shim is not None or live.removed):
                for layer in live.record.layers:
                    await self.calls(Kind.STORAGE, storage.name)(storage.unmount, layer)

    def cgroup(self, container: Container) -> str:
        """Path of its cgroup, as the hierarchies' roots see it."""
        location = self._location(container)
        scope = systemd.Scope.parse(location)
        return scope.path if scope else location

    def check_cgroup_parent(self, parent: str) -> None:
        """Raises ``InvalidParameter`` for what is no slice where cgroups are systemd's."""
        if parent and self._settings.scopes:
            systemd.slice_path(parent)

    def _location(self, container: Container) -> str:
        """``cgroupsPath`` of its spec."""
        parent = container.host_config.cgroup_parent or self._settings.cgroup_parent
        # No slice: it was made before cgroups were systemd's, and stays where it is.
        if self._settings.scopes and parent.endswith(".slice"):
            return str(systemd.Scope(parent, self._settings.scopes, container.id))
        # Whatever it says, it is below the root.
        return posixpath.normpath(f"/{parent.strip('/')}/{container.id}".replace("//", "/"))

    def root(self, container: Container) -> int:
        """Descriptor of the mounted root, for look-ups inside; the caller closes it."""
        merged = self.storage(container).metadata(container.layer).get("MergedDir", "")
        if not merged:
            raise EngineError(f"container {container.id} has no mounted root")
        return os.open(merged, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    # -- inside --------------------------------------------------------------------------------

    async def _mount(self, container: Container, layer: str, *, volatile: bool = False) -> Path:
        storage = self.storage(container)
        calls, label = self.calls(Kind.STORAGE, storage.name), container.mount_label
        if container.id_maps is None:
            # A driver of contract 1.0 does not know of maps.
            return await calls(storage.mount, layer, label=label, volatile=volatile)
        return await calls(
            storage.mount, layer, label=label, volatile=volatile, id_maps=container.id_maps
        )

    def _named_by(self, container: Container) -> Container:
        """The container whose network it is in, and whose names it has: most often itself."""
        seen = {container.id}
        while container.host_config.network_mode.startswith("container:"):
            ref = container.host_config.network_mode.removeprefix("container:")
            try:
                other = self._registry.record(ref)
            except NotFound:
                break
            if other.id in seen:
                break
            seen.add(other.id)
            container = other
        return container

    def _launch(
        self,
        live: Live,
        files: Files,
        rootfs: Path,
        resolved: list[ResolvedMount],
        linked: Linked,
    ) -> Launch:
        container = live.record
        config, host = container.config, container.host_config
        namer = self._named_by(container).config
        config.hostname, config.domainname = namer.hostname, namer.domainname
        root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            identity = users.resolve(root, config.user, host.group_add or ())
        finally:
            os.close(root)
        failpoint("bundle.files")
        files.bundle.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.exit.unlink(missing_ok=True)
        if files.names == files.directory:
            write_network_files(container, files, self._settings, linked.hosts)
        spec = build(
            SpecInput(
                container=container,
                rootfs=str(rootfs),
                user=identity,
                mounts=resolved,
                environment=linked.environment,
                hosts_path=str(files.hosts),
                hostname_path=str(files.hostname),
                resolv_path=str(files.resolv),
                shm_source=self._shm(container, files),
                cgroups_path=self._location(container),
                namespaces=self._namespaces(container),
                engine=self._settings.engine,
            )
        )
        devicerequests.inject(spec, host.device_requests or (), self._settings.devices)
        self._hooks.runtime_amend_spec(container, spec)
        self._hooks.security_contribute(container, spec)
        container.apparmor_profile = spec["process"].get("apparmorProfile", "")
        live.process = spec["process"]
        files.process.write_bytes(msgspec.json.encode(spec["process"]))
        options = dict(container.log_options)
        self._hooks.logging_opened(container, container.drivers["logging"], options)
        width, height = (host.console_size[1], host.console_size[0]) if config.tty else (0, 0)
        return Launch(
            id=container.id,
            name=container.name,
            runtime=container.drivers["runtime"],
            logging=container.drivers["logging"],
            spec=spec,
            bundle=str(files.bundle),
            state_dir=str(files.directory),
            socket=str(files.socket),
            log_path=str(self.log_file(container)),
            log_options=options,
            log_attributes=record_attributes(container, options),
            spools=self._log_sinks.open(container),
            terminal=config.tty,
            open_stdin=config.open_stdin,
            stdin_once=config.stdin_once,
            console_size=(width, height),
            shim_cgroup=self._settings.shim_cgroup,
        )

    async def resolve_mounts(self, container: Container, user: str = "") -> list[ResolvedMount]:
        """The container's mounts with their sources present, in the order of its record.

        ``user``: for whom volumes are mounted, if not for the container's own run; whoever it is
        unmounts them. Sources may be descriptors of ours until :meth:`launched` is called.
        """
        tmpfs = container.host_config.tmpfs or {}
        covered = {os.path.normpath(destination) for destination in tmpfs}
        points = [p for p in container.mounts if p.type == "tmpfs" or p.destination not in covered]
        mounts.check_sources(points)
        resolved = [await self.resolve_mount(container, point, user) for point in points]
        for destination, text in tmpfs.items():
            resolved.append(
                ResolvedMount(kind="tmpfs", destination=destination, options=text.split(","))
            )
        return resolved

    async def resolve_mount(
        self, container: Container, point: MountPoint, user: str = ""
    ) -> ResolvedMount:
        """As :meth:`resolve_mounts`, for one of them."""
        if point.type == "tmpfs":
            given = point.spec.tmpfs_options if point.spec else None
            return ResolvedMount(
                kind="tmpfs",
                destination=point.destination,
                writable=point.rw,
                options=mounts.tmpfs_options(given),
            )
        if point.type == "volume":
            path = await self._volumes.mount(point.name, container.id, point, user)
            subpath = ""
            if point.spec and point.spec.volume_options:
                subpath = point.spec.volume_options.subpath
            return ResolvedMount(
                kind="volume",
                destination=point.destination,
                source=self._inside(path, subpath, user or container.id) if subpath else str(path),
                writable=point.rw,
                # Not here: the volume's server may not answer.
                id_mapped=container.id_maps is not None
                and await on_thread("volume", self._mappable, path, container.id_maps),
            )
        if point.type == "image":
            path = await self._mount(container, point.layer)
            image = point.spec.image_options if point.spec else None
            return ResolvedMount(
                kind="bind",
                destination=point.destination,
                source=self._inside(path, image.subpath, user or container.id)
                if image and image.subpath
                else str(path),
                writable=False,
            )
        options = point.spec.bind_options if point.spec else None
        return ResolvedMount(
            kind="bind",
            destination=point.destination,
            source=point.source,
            writable=point.rw,
            propagation=point.propagation if point.propagation != "rprivate" else "",
            propagation_asked=bool(options and options.propagation),
            recursive=not (options and options.non_recursive),
            read_only_recursive=not (options and options.read_only_non_recursive),
        )

    def _inside(self, root: Path, subpath: str, user: str) -> str:
        """A path below ``root`` that no link leads out of, as one of our descriptors: whoever else
        has the volume may put a link there before the mount is made."""
        inside = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_MAGICLINKS
        try:
            fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                found = syscalls.openat2(fd, subpath, os.O_PATH, resolve=inside)
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise InvalidParameter(
                    "path concatenation escapes the base directory",
                    f"base: {root}, subpath: {subpath}",
                ) from error
            raise NotFound(
                f"cannot access path {root}/{subpath}",
                f"lstat {root}/{subpath}: {(error.strerror or str(error)).lower()}",
            ) from error
        self._sources.setdefault(user, []).append(found)
        return f"/proc/{os.getpid()}/fd/{found}"

    def _namespaces(self, container: Container) -> Namespaces:
        host = container.host_config
        network = host.network_mode
        if network == "host":
            net = HOST
        elif network.startswith("container:"):
            if self._registry.record(network.removeprefix("container:")) is container:
                raise InvalidParameter("cannot join own network namespace")
            net = self._of_other(network, "net")
        else:
            net = ""
        cgroupns = host.cgroupns_mode or self._settings.cgroupns
        lender = remap.shared_with(container, self._joined(host))
        user = HOST if container.id_maps is None else ""
        return Namespaces(
            network=net,
            pid=self._mode(host.pid_mode, "pid"),
            ipc="" if host.ipc_mode in ("none", "shareable") else self._mode(host.ipc_mode, "ipc"),
            uts=HOST if host.uts_mode == "host" else "",
            cgroup="" if cgroupns == "private" else HOST,
            user=f"/proc/{lender.state.pid}/ns/user" if lender else user,
        )

    def _mode(self, mode: str, kind: str) -> str:
        if mode in ("", "private"):
            return ""
        return HOST if mode == "host" else self._of_other(mode, kind)

    def _maps(self, container: Container) -> IdMaps | None:
        """Of the user namespace that it will have when it is started."""
        host = container.host_config
        if host.userns_mode == "host" or self._settings.id_maps is None:
            return None
        for other in self._joined(host):
            if other.id_maps is not None:
                return other.id_maps
        return self._settings.id_maps

    def _joined(self, host: HostConfig) -> list[Container]:
        """The containers whose namespaces it joins; those that are gone are left out."""
        found = []
        for mode in (host.network_mode, host.pid_mode, host.ipc_mode):
            if mode.startswith("container:"):
                with contextlib.suppress(EngineError):
                    found.append(self._registry.live(mode.removeprefix("container:")).record)
        return found

    def _of_other(self, mode: str, kind: str) -> str:
        other = self._registry.live(mode.removeprefix("container:")).record
        if other.state.running:
            return f"/proc/{other.state.pid}/ns/{kind}"
        if kind == "net":
            raise Conflict(f"cannot join network of a non running container: {other.id}")
        failure = EngineError if kind == "pid" else Conflict  # dockerd's statuses
        raise failure(
            f"failed to join {kind.upper()} namespace", f"container {other.id} is not running"
        )

    def _shm(self, container: Container, files: Files) -> str:
        mode = container.host_config.ipc_mode
        if mode == "host":
            return "/dev/shm"
        if mode.startswith("container:"):
            self._of_other(mode, "ipc")
            other = self._registry.live(mode.removeprefix("container:")).record
            if other.host_config.ipc_mode not in ("shareable", "host"):
                raise Conflict(
                    f"cannot join IPC of container {other.id}: "
                    f"non-shareable IPC (hint: use IpcMode:shareable for the donor container)"
                )
            return self._shm(other, self.files(other))
        if mode == "shareable":
            files.shm.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not files.shm.is_mount():
                size = container.host_config.shm_size or self._settings.engine.shm_size
                flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
                syscalls.mount("shm", files.shm, "tmpfs", flags, f"mode=1777,size={size}")
                if container.id_maps is not None:
                    os.chown(files.shm, *container.id_maps.root)
            return str(files.shm)
        return ""


def check_tmpfs(container: Container) -> None:
    """Refuse bad ``--tmpfs`` options at create rather than at start."""
    for text in (container.host_config.tmpfs or {}).values():
        tmpfs_options(text.split(","))
