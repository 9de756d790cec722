"""The containers service: what the API's container verbs mean."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pyengine import timestamps
from pyengine.archive import Whiteouts, pack
from pyengine.contracts.base import Kind
from pyengine.contracts.logging import LogChunk, LogQuery
from pyengine.contracts.runtime import RuntimeStats
from pyengine.contracts.storage import Change, StorageDriver
from pyengine.contracts.volume import VolumeRecord
from pyengine.drivers import Drivers
from pyengine.engine import names
from pyengine.engine.calls import DriverCalls
from pyengine.engine.containers import imagemounts, links, mounts, updates
from pyengine.engine.containers.attachments import PendingAttachment
from pyengine.engine.containers.bundle import Bundles
from pyengine.engine.containers.lifecycle import Lifecycle, attributes, signal_number
from pyengine.engine.containers.logchoice import names_of
from pyengine.engine.containers.logs import follow_log
from pyengine.engine.containers.merging import merge_image
from pyengine.engine.containers.planning import Planner, volume_driver
from pyengine.engine.containers.populate import populate
from pyengine.engine.containers.processes import top
from pyengine.engine.containers.registry import TABLE, Live, Registry
from pyengine.engine.containers.removal import Removals
from pyengine.engine.containers.sandbox import Sandboxes
from pyengine.engine.events import Events
from pyengine.engine.filters import Filters, select
from pyengine.engine.images.records import Image
from pyengine.engine.model import (
    Container,
    ContainerConfig,
    EndpointSettings,
    HostConfig,
    NetworkingConfig,
    Status,
    Ulimit,
)
from pyengine.engine.prune import PruneFilters, Turn
from pyengine.engine.threads import on_thread
from pyengine.engine.timings import CONTAINER_ACTIONS, timed
from pyengine.engine.usage import DiskUsage
from pyengine.engine.volumes import Volumes
from pyengine.errors import (
    Conflict,
    EngineError,
    InvalidParameter,
    NotFound,
    Unsupported,
)
from pyengine.hooks.manager import Hooks
from pyengine.oci import platforms
from pyengine.oci.facts import HostFacts
from pyengine.oci.image import Platform, parse_platform
from pyengine.oci.resources import from_host_config, ulimits
from pyengine.oci.spec import EngineOptions
from pyengine.state.database import Delete, Put
from pyengine.supervisor.records import Step

if TYPE_CHECKING:
    from pyengine.engine.images.service import Images
    from pyengine.supervisor.client import Attachment


WAIT_CONDITIONS = frozenset({"not-running", "next-exit", "removed"})


class Containers:
    """All verbs take a *ref*: a name, an id, or an unambiguous beginning of one."""

    def __init__(
        self,
        registry: Registry,
        lifecycle: Lifecycle,
        removals: Removals,
        bundles: Bundles,
        sandboxes: Sandboxes,
        images: Images,
        volumes: Volumes,
        usage: DiskUsage,
        drivers: Drivers,
        calls: Callable[[Kind, str], DriverCalls],
        events: Events,
        hooks: Hooks,
        facts: HostFacts,
        options: EngineOptions,
        planner: Planner,
    ) -> None:
        self._registry = registry
        self._lifecycle = lifecycle
        self._removals = removals
        self._bundles = bundles
        self._sandboxes = sandboxes
        self._images = images
        self._volumes = volumes
        self._usage = usage
        self._pruning = Turn()
        self._drivers = drivers
        self._calls = calls
        self._events = events
        self._hooks = hooks
        self._facts = facts
        self._options = options
        self._planner = planner

    # -- look-ups ------------------------------------------------------------------------------

    def list(
        self, *, all: bool = False, limit: int = -1, filters: Filters | None = None
    ) -> Sequence[Container]:
        """Newest first; running ones only unless ``all``, a limit or a status filter says more."""
        return select(self._registry.records(), filters or {}, all=all, limit=limit,
                      images_of=self._images.descendants, find=self.get)  # fmt: skip

    def get(self, ref: str) -> Container:
        return self._registry.record(ref)

    def link_names(self) -> Mapping[str, Sequence[str]]:
        """Further names of containers, by their ids: where others have links to them."""
        return links.further_names(self._registry.records(), self.get)

    def links(self, ref: str) -> Sequence[str] | None:
        """``HostConfig.Links`` of inspect."""
        return links.shown(self.get(ref), self.get)

    def live(self, ref: str) -> Live:
        """For other services of the engine."""
        return self._registry.live(ref)

    def graph(self, ref: str) -> dict[str, Any]:
        """``GraphDriver`` of inspect."""
        record = self.get(ref)
        storage = self._storage(record)
        return {"Name": storage.name, "Data": storage.metadata(record.layer)}

    def log_path(self, ref: str) -> str:
        """Where others find the log in a format of Docker's; empty: nowhere, or not yet."""
        record = self.get(ref)
        try:
            public = self._bundles.logging(record).public_name
        except EngineError:
            # Its package is gone, and only who asks for the log need know.
            return ""
        # Beside sinks alone it is kept for ``docker logs``, and nobody was told of it.
        asked = record.drivers["logging"] in names_of(record.host_config.log_config.type)
        started = record.state.started_at != timestamps.NEVER
        return str(self._bundles.log_file(record)) if public and asked and started else ""

    def trace(self, ref: str) -> Sequence[Step]:
        """What the last start did and how long each step took, in order of beginning."""
        return sorted(self._registry.trace(ref), key=lambda step: step.start)

    def cgroups(self) -> Sequence[tuple[Container, str]]:
        """Those that run, and the paths of their cgroups."""
        running = (live.record for live in self._registry if live.shim is not None)
        return [(record, self._bundles.cgroup(record)) for record in running]

    def ulimits(self, ref: str) -> Sequence[Ulimit] | None:
        """``HostConfig.Ulimits`` of inspect: with the engine's defaults."""
        host, defaults = self.get(ref).host_config, self._options.default_ulimits
        return [*ulimits(host, defaults).values()] if defaults else host.ulimits

    def names_directory(self, ref: str) -> Path:
        """Where the container's hosts, hostname and resolv.conf are."""
        return self._bundles.files(self.get(ref)).names

    def exec_ids(self, ref: str) -> Sequence[str]:
        """Ids of running execs."""
        return [run.id for run in self._registry.live(ref).execs.values() if run.running]

    def size(self, ref: str) -> tuple[int, int]:
        """(bytes of the writable layer, bytes of it and the image), as of a moment ago."""
        record = self.get(ref)
        written = self._usage.layer(record.id)
        try:
            image = self._images.get(record.image).size
        except EngineError:
            image = 0
        return written, written + image

    async def catch_up(self, refs: Iterable[str]) -> None:
        """Look anew at the layers of those that wrote something and have ended; at the others it is
        looked often enough."""
        records = map(self.get, refs)
        await self._usage.catch_up([one.id for one in records if not one.state.running])

    # -- create, rename, remove ----------------------------------------------------------------

    @timed(CONTAINER_ACTIONS, "create")
    async def create(
        self,
        name: str,
        config: ContainerConfig,
        host: HostConfig,
        networking: NetworkingConfig,
        platform: str = "",
        *,
        recursive_read_only: bool = True,
    ) -> tuple[str, Sequence[str]]:
        """Make a container that does not run: (id, warnings). ``recursive_read_only``: as
        :func:`mounts.resolve` has it.

        ``NotFound`` for an unknown image, ``Conflict`` for a name taken, ``InvalidParameter`` in
        Docker's words for anything wrong in the bodies.
        """
        name = names.check_name(name) if name else ""
        if not (config.image or config.entrypoint or config.cmd):
            raise InvalidParameter("no command specified")
        image = self._images.runnable(config.image)
        if platform:
            _check_platform(config.image, image, parse_platform(platform))
        self._hooks.security_admit_image(config.image, image.id)
        merge_image(config, image.config)
        warnings = self._planner.check(config, host)
        record = self._planner.record(name, config, host, image)
        record.networks = self._sandboxes.plan(record, networking.endpoints_config or {})
        record.mounts = mounts.resolve(
            config,
            host,
            self.get,
            data_root=self._bundles.data_root,
            recursive_read_only=recursive_read_only,
        )
        self._registry.reserve(record.name, record.id)
        storage = self._storage(record)
        calls = self._calls(Kind.STORAGE, storage.name)
        made: list[VolumeRecord] = []
        try:
            mounts.check_sources([p for p in record.mounts if not _creates(p)])
            for point in record.mounts:
                await self._drivers.use(Kind.VOLUME, volume_driver(point))
            changes = self._planner.volumes(record, made)
            if changes:
                # Anonymous volumes are nobody's without the container: a crash takes both.
                record.phase = "creating"
                await self._registry.database.commit(Put(TABLE, record.id, record), *changes)
                for volume in made:
                    await self._volumes.make(volume)
            options = {k: v for k, v in (host.storage_opt or {}).items() if k != "driver"}
            with self._images.using(image.id):
                parent = await self._images.layer(image.id, storage.name)
                await calls(storage.prepare, record.layer, parent, options, mountpoints=True)
            self._hooks.storage_snapshot_prepared(record.layer, parent or "", record.id)
            await imagemounts.prepare(record, self._images, storage, calls)
            own = config.working_dir if config.working_dir != image.config.working_dir else ""
            await populate(record, self._bundles, self._volumes, own.rstrip("/"))
            files = self._bundles.files(record)
            files.directory.mkdir(mode=0o710, parents=True, exist_ok=True)
            record.phase = ""
            live = self._registry.add(record)
            await self._registry.save(live)
        except BaseException:
            self._registry.release(record.name)
            for layer in record.layers:
                with contextlib.suppress(EngineError, OSError):
                    await calls(storage.remove, layer)
            if made:
                await self._volumes.unmake(made, Delete(TABLE, record.id))
            raise
        self._events.emit("container", "create", record.id, attributes(record))
        return record.id, warnings

    async def rename(self, ref: str, new: str) -> None:
        new = new.removeprefix("/")
        if not new:
            raise InvalidParameter("Neither old nor new names may be empty")
        live = self._registry.live(ref)
        async with live.lock:
            old = live.record.name
            if old == new:
                raise InvalidParameter(
                    "Renaming a container with the same name as its current name"
                )
            try:
                names.check_name(f"/{new}")
            except InvalidParameter as error:
                raise InvalidParameter(f"Error when allocating new name: {error}") from None
            try:
                self._registry.reserve(new, live.id)
            except Conflict as error:
                raise Conflict(f"Error when allocating new name: {error}") from None
            live.record.name = new
            try:
                await self._registry.save(live)
            except EngineError:
                live.record.name = old
                self._registry.release(new)
                raise
            self._registry.release(old)
        self._events.emit(
            "container", "rename", live.id, attributes(live.record) | {"oldName": f"/{old}"}
        )

    @timed(CONTAINER_ACTIONS, "delete")
    async def remove(
        self, ref: str, *, force: bool = False, volumes: bool = False, link: bool = False
    ) -> None:
        """``Conflict`` in Docker's words if it runs and ``force`` is not set."""
        if link:
            await self._unlink(ref)
            return
        live = self._registry.live(ref)
        status = live.record.state.status
        if status in (Status.RUNNING, Status.PAUSED, Status.RESTARTING) and not force:
            what = status.value
            advice = (
                " and must be unpaused first"
                if status is Status.PAUSED
                else ": stop the container before removing or force remove"
            )
            raise Conflict(
                f'cannot remove container "/{live.record.name}": container is {what}{advice}'
            )
        async with live.lock:
            if live.removed:
                return
            await self._lifecycle.end(live)
            await self._removals.remove(live, volumes=volumes)

    async def _unlink(self, path: str) -> None:
        """``path``: the name of the container that was linked, and the alias."""
        parent, _, alias = path.removeprefix("/").rpartition("/")
        if not parent:
            self._registry.live(path)
            raise Conflict("Conflict, cannot remove the default link name of the container")
        live = self._registry.live(parent)
        async with live.lock:
            host = live.record.host_config
            kept = [item for item in host.links or () if links.split(item)[1] != alias]
            if len(kept) == len(host.links or ()):
                raise NotFound(f"No such link: /{parent}/{alias}")
            host.links = kept
            await self._registry.save(live)

    async def prune(self, filters: Filters | None = None) -> tuple[Sequence[str], int]:
        """Remove all that do not run: (ids, bytes freed)."""
        wanted = PruneFilters(filters or {})
        removed, freed = [], 0
        with self._pruning.taken():
            for record in self.list(all=True, filters={"status": ["created", "exited", "dead"]}):
                if not wanted.match(record.created, record.config.labels):
                    continue
                with contextlib.suppress(EngineError):
                    size = await self._usage.fresh(record.id)
                    await self.remove(record.id)
                    removed.append(record.id)
                    freed += size
        self._events.emit("container", "prune", "", {"reclaimed": str(freed)})
        return removed, freed

    # -- life ----------------------------------------------------------------------------------

    @timed(CONTAINER_ACTIONS, "start")
    async def start(self, ref: str, console_size: Sequence[int] | None = None) -> None:
        live = self._registry.live(ref)
        if console_size is not None:
            live.record.host_config.console_size = [*console_size]
        await self._lifecycle.start(live)

    async def stop(self, ref: str, timeout: int | None = None, signal: str = "") -> None:
        await self._lifecycle.stop(self._registry.live(ref), timeout, signal)

    async def restart(self, ref: str, timeout: int | None = None, signal: str = "") -> None:
        await self._lifecycle.restart(self._registry.live(ref), timeout, signal)

    async def kill(self, ref: str, signal: str = "") -> None:
        signal_number(signal or "SIGKILL")
        await self._lifecycle.kill(self._registry.live(ref), signal)

    async def pause(self, ref: str) -> None:
        await self._lifecycle.pause(self._registry.live(ref))

    async def unpause(self, ref: str) -> None:
        await self._lifecycle.unpause(self._registry.live(ref))

    def wait(self, ref: str, condition: str = "") -> Awaitable[tuple[int, str]]:
        """(exit code, error) once ``condition`` holds; counted from the call, not the await."""
        condition = condition or "not-running"
        if condition not in WAIT_CONDITIONS:
            raise InvalidParameter(f'invalid condition: "{condition}"')
        live = self._registry.live(ref)
        future: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        state = live.record.state
        # One that is about to run again is waited for, as dockerd does.
        if condition == "not-running" and not (state.running or state.status is Status.RESTARTING):
            future.set_result((live.record.state.exit_code, live.record.state.error))
        else:
            live.waiters.setdefault(condition, []).append(future)
        return future

    async def update(self, ref: str, body: HostConfig, given: set[str]) -> Sequence[str]:
        """Change limits and the restart policy; ``given``: the fields that the body has."""
        live = self._registry.live(ref)
        warnings = updates.check(body, given, self._facts)
        async with live.lock:
            changed = updates.merged(live.id, live.record.host_config, body, given)
            if live.shim is not None and given - {"restart_policy"}:
                try:
                    await live.shim.update(from_host_config(changed))
                except EngineError as error:
                    brief = f"Cannot update container {live.id}: {error.brief}"
                    raise type(error)(brief, error.detail, error.help) from None
            live.record.host_config = changed
            await self._registry.save(live)
        self._events.emit("container", "update", live.id, attributes(live.record))
        return warnings

    async def connect(self, ref: str, network: str, settings: EndpointSettings) -> None:
        """Put the container on a further network: now if it runs, else from its next start on."""
        live = self._registry.live(ref)
        async with live.lock:
            await self._lifecycle.left([live.id])
            netns = self._netns(live)
            try:
                await self._sandboxes.connect(live.record, network, settings, netns)
            finally:
                if netns is not None:
                    os.close(netns)
            await self._registry.save(live)

    async def disconnect(self, ref: str, network: str, force: bool = False) -> None:
        """Undo :meth:`connect`; ``force``: a container that is gone is no error."""
        try:
            live = self._registry.live(ref)
        except NotFound:
            if force:
                return
            raise
        async with live.lock:
            await self._lifecycle.left([live.id])
            netns = self._netns(live)
            try:
                await self._sandboxes.disconnect(live.record, network, netns)
            finally:
                if netns is not None:
                    os.close(netns)
            await self._registry.save(live)

    # -- streams -------------------------------------------------------------------------------

    async def attach(
        self, ref: str, *, stdin: bool, stdout: bool, stderr: bool
    ) -> Attachment | PendingAttachment:
        """The streams of the command, from now on; before a start: from its first byte on."""
        live = self._registry.live(ref)
        if live.record.state.paused:
            raise Conflict(f"container {ref} is paused, unpause the container before attach")
        stdin = stdin and live.record.config.open_stdin
        if live.shim is not None:
            attachment = await live.shim.attach(stdin=stdin, stdout=stdout, stderr=stderr)
            self._events.emit("container", "attach", live.id, attributes(live.record))
            return attachment
        if live.record.state.status is Status.RESTARTING:
            raise Conflict(
                f"container {live.id} is restarting, wait until the container is running"
            )
        pending = PendingAttachment(stdin=stdin, stdout=stdout, stderr=stderr)
        live.pending.append(pending)
        self._events.emit("container", "attach", live.id, attributes(live.record))
        return pending

    def ending(self, ref: str) -> Callable[[], Awaitable[None]]:
        """A function that waits until the command has ended that runs now or is started next."""
        live = self._registry.live(ref)
        before = live.record.state.finished_at

        async def ended() -> None:
            if live.record.state.finished_at == before:
                await live.exited.wait()

        return ended

    def logs(self, ref: str, query: LogQuery, follow: bool) -> AsyncIterator[LogChunk]:
        """What the command wrote. ``follow``: go on until it ends."""
        live = self._registry.live(ref)
        driver = self._bundles.logging(live.record)
        if not driver.readable:
            raise Unsupported("configured logging driver does not support reading")
        path = self._bundles.log_file(live.record)
        reader = driver.reader(path, live.record.log_options, query)
        redact = None
        if self._hooks.has_redaction():
            redact = lambda data: self._hooks.logging_redact(live.record, data)  # noqa: E731
        return follow_log(reader, path, live.exited if follow else None, redact)

    async def resize(self, ref: str, width: int, height: int) -> None:
        live = self._registry.live(ref)
        if live.shim is None:
            raise Conflict(f"container {live.id} is not running")
        await live.shim.resize(width, height)
        size = {"height": str(height), "width": str(width)}
        self._events.emit("container", "resize", live.id, attributes(live.record) | size)

    # -- looking inside ------------------------------------------------------------------------

    async def top(self, ref: str, ps_args: str) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """(titles, a row per process), as the host's ``ps`` has them."""
        return await top(await self._registry.live(ref).running().ps(), ps_args)

    async def stats(self, ref: str) -> RuntimeStats:
        """Counters of a running container; of one that does not run: all unknown."""
        live = self._registry.live(ref)
        return await live.shim.stats() if live.shim is not None else RuntimeStats()

    @timed(CONTAINER_ACTIONS, "changes")
    async def changes(self, ref: str) -> Sequence[Change]:
        record = self.get(ref)
        storage = self._storage(record)
        return await self._calls(Kind.STORAGE, storage.name).within(
            300, storage.changes, record.layer
        )

    async def export(self, ref: str, out: BinaryIO) -> None:
        """Write the root as one tar to ``out``; what is mounted in it is not part of it."""
        live = self._registry.live(ref)
        async with self._bundles.mounted(live) as path:
            await on_thread("export", pack, path, out, Whiteouts.PLAIN, live.record.id_maps)
        self._events.emit("container", "export", live.id, attributes(live.record))

    # -- inside --------------------------------------------------------------------------------

    def _netns(self, live: Live) -> int | None:
        return self._sandboxes.open_netns(live.record) if live.shim is not None else None

    def _storage(self, record: Container) -> StorageDriver:
        return self._bundles.storage(record)


def _check_platform(ref: str, image: Image, wanted: Platform) -> None:
    """``NotFound``, so that clients pull the one that is wanted."""
    if not platforms.runs(image.platform, wanted):
        raise NotFound(
            f"image with reference {ref} was found but does not match the specified platform: "
            f"wanted {wanted}, actual: {image.platform}"
        )


def _creates(point: Any) -> bool:
    """A bind of ``-v``: its source is made when the container starts, if it is missing then."""
    options = point.spec.bind_options if point.spec else None
    return bool(options and options.create_mountpoint)
