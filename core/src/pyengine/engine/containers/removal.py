"""Removing containers: the record first, the bytes later.

One transaction takes the container's record away and leaves a *removal*, which says what has still
to go: then the caller is answered. A daemon that dies before it is done finishes at its next start.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable

import msgspec

from pyengine.contracts.base import Kind
from pyengine.contracts.storage import StorageDriver
from pyengine.drivers import Drivers
from pyengine.engine.background import Background
from pyengine.engine.calls import DriverCalls
from pyengine.engine.containers.bundle import Bundles
from pyengine.engine.containers.registry import Live, Registry
from pyengine.engine.events import Events
from pyengine.engine.logsinks import LogSinks
from pyengine.engine.model import Container
from pyengine.engine.volumes import Volumes
from pyengine.errors import EngineError
from pyengine.faults import failpoint
from pyengine.hooks.manager import Hooks
from pyengine.state.database import Database, Delete, Put

log = logging.getLogger(__name__)

TABLE = "removals"


class Removal(msgspec.Struct):
    """What is left of a container: its record as it was, and the volumes that go with it."""

    container: Container
    volumes: list[str]


class Removals:
    """Ends the records of containers that do not run."""

    def __init__(
        self,
        database: Database,
        registry: Registry,
        bundles: Bundles,
        volumes: Volumes,
        drivers: Drivers,
        calls: Callable[[Kind, str], DriverCalls],
        events: Events,
        hooks: Hooks,
        background: Background,
        leave_layers: Callable[[Container], Awaitable[None]],
        log_sinks: LogSinks,
    ) -> None:
        self._database = database
        self._registry = registry
        self._bundles = bundles
        self._volumes = volumes
        self._drivers = drivers
        self._calls = calls
        self._events = events
        self._hooks = hooks
        self.background = background
        self._leave_layers = leave_layers
        self._log_sinks = log_sinks

    def pending(self) -> dict[str, Removal]:
        """What an earlier daemon did not finish, by container id. For the start only."""
        return self._database.load(TABLE, Removal)

    async def remove(self, live: Live, *, volumes: bool) -> None:
        """Take the record away and answer who waits; the rest goes on in the background.

        The container has ended and left its networks. ``volumes``: anonymous ones go too.
        """
        if live.removed:
            return
        record = live.record
        live.removed = True
        going = [
            p.name for p in record.mounts if p.type == "volume" and volumes and self._own(p.name)
        ]
        removal = Removal(record, going)
        await self._database.commit(self._registry.deletion(live), Put(TABLE, live.id, removal))
        for name in going:
            self._volumes.leaves(name)
        self._registry.forget(live)
        self._events.emit(
            "container",
            "destroy",
            live.id,
            {**(record.config.labels or {}), "image": record.config.image, "name": record.name},
        )
        live.wake("next-exit", record.state.exit_code)
        live.wake("not-running", record.state.exit_code)
        live.wake("removed", record.state.exit_code)
        volumes_gone = asyncio.Event()
        self.background.run(
            self._after(live, removal, volumes_gone), f"removing container {live.id[:12]}"
        )
        if going:
            # Who asked for their removal may look for their directories next.
            await volumes_gone.wait()

    async def finish(self, removal: Removal, volumes_gone: asyncio.Event | None = None) -> None:
        """Delete what a removed container left. May be repeated."""
        record = removal.container
        try:
            await self._remove_volumes(removal)
        finally:
            if volumes_gone is not None:
                volumes_gone.set()
        storage = self._drivers.get(Kind.STORAGE, record.drivers.get("storage", ""))
        assert isinstance(storage, StorageDriver)
        calls = self._calls(Kind.STORAGE, storage.name)
        for layer in record.layers:
            await calls.within(120, storage.remove, layer)
        self._hooks.storage_snapshot_removed(record.layer)
        await self._leave_layers(record)
        self._log_sinks.removed(record)
        failpoint("removal.directory")
        shutil.rmtree(self._bundles.files(record).directory, ignore_errors=True)
        await self._database.commit(Delete(TABLE, record.id))
        await calls.within(600, storage.sweep)

    async def _after(self, live: Live, removal: Removal, volumes_gone: asyncio.Event) -> None:
        if live.settling is not None:
            await live.settling
        await self.finish(removal, volumes_gone)

    async def _remove_volumes(self, removal: Removal) -> None:
        for name in removal.volumes:
            try:
                await self._volumes.go(name)
            except EngineError as error:
                log.warning("volume %s stays: %s", name, error)

    def _own(self, name: str) -> bool:
        return name in self._volumes.all() and self._volumes.get(name).anonymous
