"""The engine: all services, put together, started and ended in the right order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyengine import config as configuration
from pyengine import drivers as driver_module
from pyengine.config import DEFAULT_FILE, Config
from pyengine.contracts.base import Driver, DriverContext, Kind
from pyengine.contracts.frontend import Frontend, Listener
from pyengine.contracts.logsink import LogSinkDriver
from pyengine.contracts.security import SecurityPlugin
from pyengine.contracts.storage import StorageDriver
from pyengine.drivers import Catalog, Drivers, Places
from pyengine.engine import remap
from pyengine.engine.background import Background
from pyengine.engine.calls import DriverCalls
from pyengine.engine.containers import realtime
from pyengine.engine.containers.bundle import Bundles, Settings
from pyengine.engine.containers.copying import Copying
from pyengine.engine.containers.execs import Execs
from pyengine.engine.containers.healthchecks import HealthChecks
from pyengine.engine.containers.lifecycle import Lifecycle, attributes
from pyengine.engine.containers.logchoice import LogChoices
from pyengine.engine.containers.oom import OutOfMemory
from pyengine.engine.containers.planning import Defaults, Planner
from pyengine.engine.containers.registry import Registry
from pyengine.engine.containers.removal import Removals
from pyengine.engine.containers.runtimes import Runtimes
from pyengine.engine.containers.sandbox import Sandboxes
from pyengine.engine.containers.service import Containers
from pyengine.engine.events import Events
from pyengine.engine.images import layers as layers_module
from pyengine.engine.images.commit import Commits
from pyengine.engine.images.content import Content
from pyengine.engine.images.layers import Layers
from pyengine.engine.images.service import Images
from pyengine.engine.images.unpackers import Unpackers
from pyengine.engine.logsinks import LogSinks
from pyengine.engine.model import Container, Ulimit
from pyengine.engine.networks import defaultbridge
from pyengine.engine.networks.dns.names import Names
from pyengine.engine.networks.portproxy import PublishedProxy
from pyengine.engine.networks.ports import PortAllocator
from pyengine.engine.networks.service import Networks
from pyengine.engine.restore import Restore
from pyengine.engine.system import System
from pyengine.engine.units import parse_size
from pyengine.engine.usage import DiskUsage
from pyengine.engine.volumes import Volumes
from pyengine.errors import ConfigError, DriverUnavailable, EngineError, Unavailable
from pyengine.hooks.manager import Hooks
from pyengine.linux import systemd
from pyengine.linux.cgroups import Cgroup
from pyengine.oci import facts
from pyengine.oci.cdi import Devices
from pyengine.oci.defaults import find_init
from pyengine.oci.spec import EngineOptions
from pyengine.state.content import ContentStore
from pyengine.state.database import Database
from pyengine.supervisor.client import Supervisor

if TYPE_CHECKING:
    from pyengine.engine.images.pull import Puller
    from pyengine.engine.images.push import Pusher
    from pyengine.registry.client import Registries

log = logging.getLogger(__name__)

#: Without these there is no container; without the others only what needs them.
REQUIRED = (Kind.STORAGE, Kind.RUNTIME, Kind.LOGGING)
OPTIONAL = (Kind.NETWORK, Kind.IPAM, Kind.FIREWALL, Kind.VOLUME)

#: How often the firewall's rules are looked at, in seconds.
HEAL_EVERY = 5.0


class Engine:
    """One engine on one data root.

    ``open`` starts the zygote and loads the rest, ``start`` restores and serves, ``close`` ends.
    """

    config: Config
    places: Places
    drivers: Drivers
    hooks: Hooks
    events: Events
    content: Content
    images: Images
    commits: Commits
    volumes: Volumes
    usage: DiskUsage
    networks: Networks
    registries: Registries
    puller: Puller
    pusher: Pusher
    containers: Containers
    execs: Execs
    health: HealthChecks
    copying: Copying
    system: System

    def __init__(
        self,
        config: Config,
        places: Places,
        directory: Path = DEFAULT_FILE.parent,
        catalog: Catalog | None = None,
    ) -> None:
        """``places``: a root that is ours (:func:`root.take`). ``directory``: that of daemon.json.
        ``catalog``: what is installed, if it is known."""
        self.config = config
        self.places = places
        self._catalog = catalog or Catalog()
        self._directory = directory
        self.hooks = Hooks()
        self._calls: dict[tuple[Kind, str], DriverCalls] = {}
        self._layers: dict[str, Layers] = {}
        self._unpackers: list[Unpackers] = []
        self._frontends: list[Frontend] = []
        self._background = Background()
        self._healer: asyncio.Task[None] | None = None
        self._warnings: list[str] = []
        self._restored = asyncio.Event()

    # -- open: nothing is served yet ---------------------------------------------------------------

    async def open(self) -> None:
        """Load the chosen drivers, start the zygote, read the database. Raises the errors of
        drivers."""
        config = self.config
        self.drivers = Drivers(
            self._catalog, self.places, config.choices(), config.for_plugins(), config.absent()
        )
        for kind in REQUIRED + OPTIONAL:
            if kind in OPTIONAL and not self.drivers.has(kind):
                log.info("no %s driver is installed: what needs one will say so", kind.value)
                continue
            driver = self.drivers.get(kind)
            log.info("%s driver: %s", kind.value, driver.name)
        self._load_security()
        default = systemd.DEFAULT_SLICE if config.systemd_cgroups() else f"/{self.places.prefix}"
        self._cgroup_parent = config.cgroup_parent or default
        self.supervisor = Supervisor(
            exec_root=self.places.exec_root,
            runtimes=self._contexts(Kind.RUNTIME),
            loggers=self._contexts(Kind.LOGGING),
            shim_cgroup=f"/{self.places.prefix}-shims",
            on_zygote_restart=lambda: log.warning("the zygote had died; there is a new one"),
            catalog=self._catalog,
        )
        self._zygote = asyncio.create_task(self.supervisor.start())
        # It is under way now, and takes another processor's time while this one loads the rest.
        await asyncio.sleep(0)
        self._assemble()
        self._load_frontends()
        self._check_keys()

    async def start(self, listeners: Sequence[Listener]) -> None:
        """Serve on ``listeners``, and make the host agree with the records.

        What only reads is answered as soon as it is known which containers live; what changes
        anything waits (:meth:`restored`) until the rest has been put right.
        """
        await self._restore.adopt()
        for live in self._registry:
            self.execs.restore(live)
            if live.shim is not None:
                self.health.watch(live)
        for frontend in self._frontends:
            await frontend.start(list(listeners) if frontend.protocol == "http" else [])
        await self._zygote
        await self._restore.reconcile()
        await self.portproxy.update()
        self.usage.start()
        self.log_sinks.restore({live.id for live in self._registry})
        self._healer = asyncio.create_task(self._heal())
        self._restored.set()

    async def restored(self) -> None:
        """Wait until the host agrees with the records."""
        await self._restored.wait()

    def reload(self, new: Config) -> list[str]:
        """Let the keys that can change in a running engine be as in ``new``, and tell who listens
        to events; the keys that have to wait for the next start."""
        taken = self.drivers.reconfigure(new.for_plugins())
        waiting = [
            key
            for key in configuration.changes(self.config, new)
            if key not in configuration.RELOADABLE | taken
        ]
        configuration.adopt(self.config, new, taken)
        for plugin in self.drivers.loaded(Kind.SECURITY):
            if taken.intersection(plugin.keys):
                self.hooks.renew(plugin, f"security.{plugin.name}")
        self.registries.reload(self.config)
        self._adopt_defaults()
        self.events.emit("daemon", "reload", self.places.engine_id, self.system.settings())
        return waiting

    def _adopt_defaults(self) -> None:
        """What new containers get that say nothing, as the configuration has it now."""
        config = self.config
        self._options.shm_size = parse_size(config.default_shm_size)
        self._defaults.ipc_mode = config.default_ipc_mode
        self._defaults.cgroupns_mode = config.default_cgroupns_mode
        self._defaults.devices.directories = config.cdi_directories()
        self._runtimes.reload(config.runtimes, config.default_runtime)
        self.lifecycle.stop_timeout = config.default_stop_timeout

    async def close(self, *, stop_containers: bool) -> None:
        """End within ``shutdown-timeout`` seconds: containers in good order, or left running."""
        self.lifecycle.closing = True
        self.health.close()
        if self._healer is not None:
            self._healer.cancel()
        # First: a request that unpacks layers ends when its workers do.
        for unpackers in self._unpackers:
            await unpackers.close()
        for frontend in self._frontends:
            await frontend.stop(0.3)
        running = [live for live in self._registry if live.shim is not None]
        if stop_containers and running:
            timeout = self.config.shutdown_timeout
            stops = [self._stop_for_shutdown(live.id, timeout) for live in running]
            await asyncio.wait(map(asyncio.ensure_future, stops), timeout=timeout + 5)
        self.name_servers.close_all()
        await self._background.drain(2.0 if running else 0.2)
        if stop_containers and all(live.shim is None for live in self._registry):
            try:
                await asyncio.wait_for(self.networks.shutdown(), 5)
                await self.portproxy.close()
            except (EngineError, OSError, TimeoutError) as error:
                log.warning("while taking down networks: %s", error)
            if not (self.config.cgroup_parent or self.config.systemd_cgroups()):
                Cgroup(self._cgroup_parent).remove_empty()
        await self.usage.close()
        await self.log_sinks.close()
        await self.registries.close()
        self.events.close()
        self._out_of_memory.close()
        await self.supervisor.close(keep_shims=True)
        self.database.close()
        await asyncio.to_thread(self.hooks.engine_closing)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(self.drivers.close), 2)

    # -- inside ------------------------------------------------------------------------------------

    def calls(self, kind: Kind, name: str) -> DriverCalls:
        """The way to call that driver; one pool of threads and one state of health each."""
        found = self._calls.get((kind, name))
        if found is None:
            found = self._calls[kind, name] = DriverCalls(self.drivers.get(kind, name))
        return found

    def driver_calls(self) -> list[DriverCalls]:
        """Of each driver that was called so far."""
        return list(self._calls.values())

    def layers(self, name: str) -> Layers:
        """The layers of images in that storage driver."""
        found = self._layers.get(name)
        if found is None:
            driver = self.drivers.get(Kind.STORAGE, name)
            assert isinstance(driver, StorageDriver)
            calls = self.calls(Kind.STORAGE, driver.name)
            unpackers = Unpackers(driver, calls)
            found = self._layers[name] = Layers(
                self.database,
                driver,
                calls,
                unpackers,
                self.content,
                self.hooks,
                self._background,
                self._needed_layers,
            )
            self._unpackers.append(unpackers)
        return found

    def unpacked(self) -> Mapping[str, Layers]:
        """The layers of images in each storage driver that has some."""
        return self._layers

    def _all_layers(self) -> Mapping[str, Layers]:
        """Of every driver that has some, as far as it is still installed."""
        for table in self.database.tables(layers_module.PREFIX):
            name = table.removeprefix(layers_module.PREFIX)
            try:
                self.layers(name)
            except EngineError as error:
                log.warning("the layers in storage driver %s are left alone: %s", name, error)
        return self._layers

    def _load_security(self) -> None:
        names = self.config.security()
        chosen = self.drivers.catalog.names(Kind.SECURITY) if names is None else names
        for name in chosen:
            try:
                plugin = self.drivers.get(Kind.SECURITY, name)
            except DriverUnavailable as error:
                if names is not None:
                    raise
                # It still says what it cannot do, instead of leaving its options unclaimed.
                log.info("security plugin %s: %s", name, error.detail)
                plugin = self.drivers.unavailable(Kind.SECURITY, name)
            assert isinstance(plugin, SecurityPlugin)
            self.hooks.register(plugin, f"security.{name}")
        for name, hooks in driver_module.load_hooks(self._catalog):
            self.hooks.register(hooks, name)

    def _load_frontends(self) -> None:
        for entry in self._catalog.entries("pyengine.api"):
            self._frontends.append(entry.load()(self))
        if not self._frontends:
            raise Unavailable(
                "no API frontend is installed", help="pip install pyengine-api-docker"
            )

    def _check_keys(self) -> None:
        """Every key that is a plugin's has one that honours it."""
        honoured: set[str] = set()
        for kind in Kind:
            for driver in self.drivers.loaded(kind):
                honoured.update(driver.keys)
        for frontend in self._frontends:
            honoured.update(frontend.keys)
        left = sorted(set(self.config.for_plugins()) - honoured)
        if left:
            raise ConfigError(
                f"{left[0]} is set and no plugin that is enabled honours it",
                help="install or enable the one that does (pyengine drivers), or leave the key out",
            )

    def _contexts(self, kind: Kind) -> dict[str, DriverContext]:
        """Contexts of all drivers of a kind that work here: what the zygote preloads. Sinks have
        processes of their own."""
        contexts = {}
        for name in self.drivers.catalog.names(kind):
            try:
                driver: Driver = self.drivers.get(kind, name)
            except EngineError as error:
                log.info("%s driver %s is left out: %s", kind.value, name, error)
                continue
            if not isinstance(driver, LogSinkDriver):
                contexts[name] = driver.context
        return contexts

    def _assemble(self) -> None:
        # Loaded beside the zygote's start: the registries' HTTP client takes a quarter of a second.
        import pyengine.registry.aio  # noqa: F401 - before anything that brings aiohttp
        from pyengine.engine.images.pull import Puller
        from pyengine.engine.images.push import Pusher
        from pyengine.engine.networks.dns.servers import NameServers
        from pyengine.registry.client import Registries

        config, places = self.config, self.places
        host = facts.detect()
        share = (config.cpu_rt_period, config.cpu_rt_runtime)
        realtime.check(host, share)
        init_path = find_init(config.init_path)
        self._options = options = EngineOptions(
            default_ulimits={
                name: Ulimit(name=name, hard=limit.hard, soft=limit.soft)
                for name, limit in config.default_ulimits.items()
            },
            shm_size=parse_size(config.default_shm_size),
            no_new_privileges=config.no_new_privileges,
            init=config.init,
            init_path=init_path,
        )
        id_maps = remap.resolve(config.userns_remap, make=True)
        devices = Devices(config.cdi_directories())
        self.database = Database(places.data_root / "engine.db")
        self.events = Events(self.database, self.hooks.engine_event)
        self.registries = Registries(config, self._directory)
        self._registry = Registry(self.database)
        self.volumes = Volumes(self.database, self.drivers, self.calls, self.events)
        bridge = defaultbridge.request(config, f"{places.prefix}0")
        self.networks = Networks(
            self.database,
            self.drivers,
            self.calls,
            self.events,
            self.hooks,
            bridge,
            defaultbridge.asked(bridge, config),
            config.allowed(Kind.NETWORK),
            config.default_network_opts,
        )
        self.networks.containers = self._registry.records
        self.volumes.users = self._volume_users
        storage = self.drivers.get(Kind.STORAGE)
        assert isinstance(storage, StorageDriver)
        if id_maps is not None:
            remap.check_host(id_maps, places.data_root, storage)
        self.content = Content(self.database, ContentStore(places.data_root / "content"))
        self.images = Images(
            self.database,
            self.content,
            self.layers(storage.name),
            self.layers,
            self.events.emit,
            self.hooks,
            self._image_users,
        )
        self.puller = Puller(self.images, self.registries, self.events.emit)
        self.pusher = Pusher(self.images, self.registries, self.events.emit)
        self.log_sinks = LogSinks(
            places.data_root / "log-sinks", self.drivers, self.hooks, self._log_news
        )
        bundles = Bundles(
            places,
            Settings(
                engine=options,
                cgroup_parent=self._cgroup_parent,
                scopes=places.prefix if config.systemd_cgroups() else "",
                shim_cgroup=f"/{places.prefix}-shims",
                dns=config.dns,
                dns_search=config.dns_search,
                dns_options=config.dns_opts,
                devices=devices,
                host_gateways=config.host_gateways(),
                id_maps=id_maps,
                realtime=share,
            ),
            self.drivers,
            self.calls,
            self.hooks,
            self._registry,
            self.volumes,
            self.log_sinks,
        )
        self.portproxy = PublishedProxy(
            places.exec_root,
            self._registry.records if config.userland_proxy else lambda: (),
            translated_v6=config.ip6tables,
        )
        allocator = PortAllocator(own_sockets=self.portproxy.inodes)
        names = Names(self._registry.records)
        self.events.inform(lambda event: names.changed() if event.action == "rename" else None)
        self.name_servers = NameServers(
            names, self.networks.firewall.redirect, config.dns, self.networks.internal_only
        )
        sandboxes = Sandboxes(
            self.networks, bundles, allocator, self.portproxy.update, names, self.name_servers
        )
        removals = Removals(self.database, self._registry, bundles, self.volumes, self.drivers,
                            self.calls, self.events, self.hooks, self._background,
                            self._leave_layers, self.log_sinks)  # fmt: skip
        self._out_of_memory = OutOfMemory()
        self.lifecycle = Lifecycle(
            self._registry, self.supervisor, bundles, sandboxes, removals, self.events, self.hooks,
            self._out_of_memory,
        )  # fmt: skip
        self.lifecycle.stop_timeout = config.default_stop_timeout
        self.networks.left = self.lifecycle.left
        self.usage = DiskUsage(self.database, self._registry, self.volumes, self.drivers, bundles)
        self.events.inform(self.usage.heard)
        self._runtimes = runtimes = Runtimes(self.drivers, config.runtimes, config.default_runtime)
        self._defaults = Defaults(config.default_ipc_mode, config.default_cgroupns_mode, devices)
        default_log = config.log_drivers() or self.drivers.default(Kind.LOGGING)
        logs = LogChoices(self.drivers, default_log, config.log_opts)
        logs.plan("", {})  # what is wrong with the default is wrong with the engine
        planner = Planner(
            self._registry, bundles, sandboxes, self.volumes, self.drivers, self.hooks, host,
            options, self._defaults, runtimes, logs,
        )  # fmt: skip
        self.containers = Containers(
            self._registry, self.lifecycle, removals, bundles, sandboxes, self.images,
            self.volumes, self.usage, self.drivers, self.calls, self.events, self.hooks, host,
            options, planner,
        )  # fmt: skip
        self.commits = Commits(
            self._registry, self.lifecycle, bundles, self.images, self.calls, self.events
        )
        self.execs = Execs(self.containers, bundles, self.events, self.hooks)
        self.health = HealthChecks(
            self._registry, self.execs, self.events, self.lifecycle.restart, self.lifecycle.stop
        )
        self.lifecycle.running, self.lifecycle.ended = self.health.begin, self.health.end
        self.lifecycle.resumed, self.lifecycle.paused = self.health.resume, self.health.end
        self.copying = Copying(self._registry, bundles, self.volumes, self.events)
        self.system = System(
            config, places, host, self._registry, self.images, self.networks, self.drivers,
            self.hooks, init_path, lambda: self._warnings, self.registries, runtimes,
            devices, remapped=id_maps is not None,
        )  # fmt: skip
        self._restore = Restore(
            places, self._registry, self.supervisor, self.lifecycle, removals, bundles, sandboxes,
            self.networks, self.volumes, self.drivers, self.calls, self.content, self._all_layers,
            f"{self._cgroup_parent}:{places.prefix}:" * config.systemd_cgroups()
            or self._cgroup_parent,
        )  # fmt: skip

    def _log_news(self, id: str, driver: str, news: dict[str, Any]) -> None:
        """A log sink lost records, cannot reach its collector, or can again."""
        if id not in self._registry:
            return
        about = {**attributes(self._registry.record(id)), "driver": driver}
        if "dropped" in news:
            counted = {"records": str(news["dropped"]), "bytes": str(news["bytes"])}
            self.events.emit("container", "log_dropped", id, about | counted)
        elif news.get("error"):
            log.warning("container %s: log driver %s: %s", id[:12], driver, news["error"])
            self.events.emit("container", "log_failed", id, about | {"error": news["error"]})
        elif "error" in news:
            log.info("container %s: log driver %s delivers again", id[:12], driver)
            self.events.emit("container", "log_delivers", id, about)

    def _volume_users(self, name: str) -> list[str]:
        return [
            record.id
            for record in self._registry.records()
            if any(p.type == "volume" and p.name == name for p in record.mounts)
        ]

    def _needed_layers(self) -> set[str]:
        """Of images, and of containers whose image was removed by force."""
        needed = self.images.chains()
        for record in self._registry.records():
            for base in record.bases:
                if base not in needed:
                    needed.update(self.layers(record.drivers["storage"]).below(base))
        return needed

    async def _leave_layers(self, record: Container) -> None:
        """A container is gone; so may be the image that it was made from."""
        for base in record.bases:
            layers = self.layers(record.drivers["storage"])
            await layers.drop(layers.below(base))

    def _image_users(self, image: str) -> list[tuple[str, bool]]:
        return [
            (record.id, record.state.running)
            for record in self._registry.records()
            if image in record.images
        ]

    async def _stop_for_shutdown(self, id: str, timeout: int) -> None:
        live = self.containers.live(id)
        try:
            manually = live.record.manually_stopped
            wanted = live.record.config.stop_timeout
            if wanted is None:
                wanted = self.lifecycle.stop_timeout
            # -1 is to wait for ever, which the end of the engine does not.
            await self.lifecycle.stop(live, min(wanted, timeout) if wanted >= 0 else timeout)
            # The operator stopped the engine, not this container: its policy still holds.
            live.record.manually_stopped = manually
            if not live.removed:
                await self._registry.save(live)
        except EngineError as error:
            log.warning("container %s at shutdown: %s", id[:12], error)

    async def _heal(self) -> None:
        while True:
            await asyncio.sleep(HEAL_EVERY)
            try:
                await self.networks.heal(
                    [
                        (live.record, live.record.published)
                        for live in self._registry
                        if live.shim is not None
                    ]
                )
            except (EngineError, OSError) as error:
                log.warning("the firewall cannot be looked at: %s", error)
