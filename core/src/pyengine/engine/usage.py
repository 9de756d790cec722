"""Sizes of writable layers and volumes, known before anybody asks: ``system df``, ``ps -s``,
``inspect -s``.

Once a second the processor time of each running container is read from its cgroup. Who used none
wrote nothing and costs nothing more; who did has its layer and its volumes measured again, on
threads of their own. What ends is measured once more, and so is what ``docker cp`` wrote to. When
nothing runs and nothing is left to measure, there is no timer.

A measure walks files, so it is kept dear on purpose: one that took ``t`` seconds, beside ``n - 1``
others, is not repeated before ``SHARE * n * t`` have passed. All together cost at most one
``SHARE``-th of a processor, and a tree of a million files is known less exactly than a small one.

Sizes are Docker's: apparent bytes, hard links once. They are stored as they change, so that the
next daemon knows them at once; it measures everything again in the background, since nobody has
seen what was written in the last second of its predecessor.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec

from pyengine import timestamps
from pyengine.contracts.base import Driver, Kind
from pyengine.contracts.storage import StorageDriver
from pyengine.contracts.volume import VolumeDriver
from pyengine.drivers import Drivers
from pyengine.engine.calls import DriverCalls
from pyengine.engine.containers.registry import Registry
from pyengine.engine.events import Event
from pyengine.engine.model import Container
from pyengine.engine.volumes import Volumes
from pyengine.errors import EngineError
from pyengine.linux.cgroup_stats import cpu_time
from pyengine.linux.cgroups import Cgroup
from pyengine.state.database import Database, Delete, Put

if TYPE_CHECKING:
    from pyengine.engine.containers.bundle import Bundles

log = logging.getLogger(__name__)

#: Seconds between two looks at the running containers.
EVERY = 1.0
#: Measuring takes at most one part in so many of one processor's time.
SHARE = 20
#: How many trees of one driver are walked at once; none waits for a large one unless two are large.
THREADS = 3
#: Seconds for one walk, and until one that failed is tried again.
DEADLINE = 3600.0
#: Seconds that who asks for sizes waits for new ones.
CATCHES_UP_WITHIN = 2.0
RETRY = 60.0

LAYERS = "usage.layers"
VOLUMES = "usage.volumes"


class Size(msgspec.Struct):
    """What was measured last, as it is stored."""

    bytes: int


class _Tree:
    """What can be measured: the writable layer of a container, by its id, or a volume by name."""

    __slots__ = ("again", "key", "measuring", "size", "table")

    def __init__(self, table: str, key: str, size: int = 0) -> None:
        self.table = table
        self.key = key
        self.size = size
        #: monotonic seconds, before which it is not measured again
        self.again = 0.0
        self.measuring: asyncio.Task[None] | None = None


class DiskUsage:
    """Look-ups take no time and never fail; what was not measured yet is 0."""

    def __init__(
        self,
        database: Database,
        registry: Registry,
        volumes: Volumes,
        drivers: Drivers,
        bundles: Bundles,
    ) -> None:
        self._database = database
        self._registry = registry
        self._volumes = volumes
        self._drivers = drivers
        self._bundles = bundles
        self._trees = {
            (table, key): _Tree(table, key, size.bytes)
            for table in (LAYERS, VOLUMES)
            for key, size in database.load(table, Size).items()
        }
        #: written to since they were last measured
        self._stale: set[_Tree] = set()
        self._cpu: dict[str, int] = {}
        self._calls: dict[tuple[Kind, str], DriverCalls] = {}
        self._watcher: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch what an earlier daemon left; containers and volumes are restored."""
        for table, key in list(self._trees):
            if not self._exists(table, key):
                self._forget(table, key)
        for record in self._registry.records():
            if record.state.started_at != timestamps.NEVER:
                self._written(record)
        self.revisit()

    async def close(self) -> None:
        """Measure no more."""
        tasks = [tree.measuring for tree in self._trees.values() if tree.measuring]
        for task in [self._watcher, *tasks]:
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    # -- look-ups ------------------------------------------------------------------------------

    def layer(self, container: str) -> int:
        """Bytes in the writable layer of the container with that id (``SizeRw``)."""
        return self._size(LAYERS, container)

    def volume(self, name: str) -> int:
        """Bytes in a volume. One with options stands for something outside, which is not ours to
        walk through: 0."""
        return self._size(VOLUMES, name)

    def references(self) -> Mapping[str, int]:
        """How many containers use each volume that is used."""
        return Counter(
            name
            for record in self._registry.records()
            for name in {point.name for point in record.mounts if point.type == "volume"}
        )

    def revisit(self) -> None:
        """Look at all volumes again: the host may write to them, too, which no container's cgroup
        tells. For those who asked; their next answer will have it."""
        self._mark((VOLUMES, record.name) for record in self._volumes.list() if not record.options)

    async def fresh(self, container: str) -> int:
        """As :meth:`layer`, measured now if there is something new to see: for figures of what is
        about to be removed."""
        tree = self._trees.get((LAYERS, container))
        if tree is not None and (tree in self._stale or tree.measuring):
            await self._measure(tree, 1)
        return self.layer(container)

    async def catch_up(self, containers: Iterable[str]) -> None:
        """Measure now the layers that are known to have changed, those whose turn is later left
        out; for who asked for sizes. Waits ``CATCHES_UP_WITHIN`` seconds at most."""
        now = time.monotonic()
        trees = [tree for id in containers if (tree := self._trees.get((LAYERS, id))) is not None]
        due = [t for t in trees if t in self._stale and t.again <= now and t.measuring is None]
        for tree in due:
            tree.measuring = asyncio.create_task(self._measure(tree, len(due)))
        measuring = [tree.measuring for tree in trees if tree.measuring is not None]
        if measuring:
            await asyncio.wait(measuring, timeout=CATCHES_UP_WITHIN)

    # -- what happens --------------------------------------------------------------------------

    def heard(self, event: Event) -> None:
        """To be told of every event. Costs next to nothing: it is on the way of every start."""
        match event.type, event.action:
            case "container", "start":
                self._watch()
            case "container", "die" | "extract-to-dir":
                if self._exists(LAYERS, event.id):
                    self._written(self._registry.live(event.id).record)
            case "container", "destroy":
                self._cpu.pop(event.id, None)
                self._forget(LAYERS, event.id)
            case "volume", "destroy":
                self._forget(VOLUMES, event.id)

    def _written(self, record: Container) -> None:
        """Something in ``record`` may have written to its layer or its volumes."""
        volumes = self._volumes.all()
        names = {point.name for point in record.mounts if point.type == "volume" and point.rw}
        plain = [name for name in names if name in volumes and not volumes[name].options]
        self._mark([(LAYERS, record.id), *((VOLUMES, name) for name in plain)])

    def _mark(self, keys: Iterable[tuple[str, str]]) -> None:
        for key in keys:
            tree = self._trees.get(key)
            if tree is None:
                tree = self._trees[key] = _Tree(*key)
            self._stale.add(tree)
        self._watch()

    def _watch(self) -> None:
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._run(), name="disk usage")

    def _forget(self, table: str, key: str) -> None:
        tree = self._trees.pop((table, key), None)
        if tree is not None:
            self._stale.discard(tree)
            if tree.size:
                self._database.commit_soon(Delete(table, key))

    # -- watching ------------------------------------------------------------------------------

    async def _run(self) -> None:
        busy = True
        while busy:
            await asyncio.sleep(EVERY)
            running = [live.record for live in self._registry if live.shim is not None]
            for record in await asyncio.to_thread(self._active, running):
                self._written(record)
            now = time.monotonic()
            due = [tree for tree in self._stale if tree.again <= now and tree.measuring is None]
            for tree in due:
                tree.measuring = asyncio.create_task(self._measure(tree, len(due)))
            busy = bool(running or self._stale)
        self._watcher = None

    def _active(self, running: Iterable[Container]) -> list[Container]:
        """Those that used the processor since the last call. Blocks: a small file each."""
        active = []
        for record in running:
            try:
                used = cpu_time(Cgroup(self._bundles.cgroup(record)))
            except (EngineError, OSError):
                used = -1
            if used < 0 or used != self._cpu.get(record.id):
                self._cpu[record.id] = used
                active.append(record)
        return active

    async def _measure(self, tree: _Tree, beside: int) -> None:
        """Walk it, one of ``beside`` trees that are walked at this time."""
        self._stale.discard(tree)
        try:
            size, took = await self._walk(tree)
        except (EngineError, OSError) as error:
            if self._exists(tree.table, tree.key):
                log.warning("cannot tell the size of %s %s: %s", tree.table, tree.key, error)
            tree.again = time.monotonic() + RETRY
            return
        finally:
            tree.measuring = None
        tree.again = time.monotonic() + SHARE * beside * took
        # It may have been removed meanwhile.
        if size != tree.size and self._exists(tree.table, tree.key):
            tree.size = size
            self._database.commit_soon(Put(tree.table, tree.key, Size(size)))

    async def _walk(self, tree: _Tree) -> tuple[int, float]:
        """(bytes, seconds it took)."""
        if tree.table == LAYERS:
            record = self._registry.live(tree.key).record
            storage = self._bundles.storage(record)
            return await self._timed(storage, lambda: storage.usage(record.layer).bytes)
        name = self._volumes.get(tree.key).driver
        driver = self._drivers.get(Kind.VOLUME, name)
        assert isinstance(driver, VolumeDriver)
        return await self._timed(driver, lambda: driver.usage(tree.key))

    async def _timed(
        self, driver: StorageDriver | VolumeDriver, walk: Callable[[], int]
    ) -> tuple[int, float]:
        def usage() -> tuple[int, float]:
            began = time.monotonic()
            return walk(), time.monotonic() - began

        return await self._calls_of(driver).within(DEADLINE, usage)

    def _calls_of(self, driver: Driver) -> DriverCalls:
        """Threads of this service's own: a long walk must not keep a container from its start."""
        key = (driver.kind, driver.name)
        if key not in self._calls:
            self._calls[key] = DriverCalls(driver, THREADS)
        return self._calls[key]

    # -- helpers -------------------------------------------------------------------------------

    def _size(self, table: str, key: str) -> int:
        tree = self._trees.get((table, key))
        return tree.size if tree is not None else 0

    def _exists(self, table: str, key: str) -> bool:
        return key in (self._registry if table == LAYERS else self._volumes)
