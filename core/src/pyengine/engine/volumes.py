"""Volumes: records here, contents with the volume drivers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pyengine import timestamps
from pyengine.contracts.base import Kind
from pyengine.contracts.volume import VolumeDriver, VolumeRecord
from pyengine.drivers import Drivers
from pyengine.engine.calls import DriverCalls
from pyengine.engine.containers.copyup import copy_up
from pyengine.engine.events import Events
from pyengine.engine.model import MountPoint
from pyengine.engine.names import new_id
from pyengine.engine.prune import PruneFilters, Turn
from pyengine.engine.threads import on_thread
from pyengine.errors import Conflict, EngineError, InvalidParameter, NotFound
from pyengine.state.database import Change, Database, Delete, Put

Filters = Mapping[str, Sequence[str]]
Lines = list[str]

TABLE = "volumes"
#: volumes whose records are gone and whose contents are going
REMOVALS = "volume-removals"
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
#: A label of volumes that nobody named, by which clients know them.
ANONYMOUS = "com.docker.volume.anonymous"
#: How many volumes are mounted at a time, at most half of what a driver has threads for.
MOUNTS = 4
_FLAGS = ("0", "1", "false", "true")
FILTERS = frozenset({"name", "label", "driver", "dangling"})


class Volumes:
    """The volumes service; ``users`` (volume -> container ids) is the containers service's."""

    def __init__(
        self,
        database: Database,
        drivers: Drivers,
        calls: Callable[[Kind, str], DriverCalls],
        events: Events,
    ) -> None:
        self._database = database
        self._drivers = drivers
        self._calls = calls
        self._events = events
        self._records = database.load(TABLE, VolumeRecord)
        #: for every volume: drivers are asked one thing at a time about one
        self._locks: dict[str, asyncio.Lock] = {}
        #: mounts may take long, and must leave threads for volumes that need none
        self._mounting = asyncio.Semaphore(MOUNTS)
        self._leaving: set[str] = set()
        self._pruning = Turn()
        self.users: Callable[[str], list[str]] = lambda name: []

    def __contains__(self, name: str) -> bool:
        return name in self._records

    def all(self) -> dict[str, VolumeRecord]:
        """Every record by name: a snapshot."""
        return dict(self._records)

    def list(self, filters: Filters | None = None) -> Sequence[VolumeRecord]:
        """Volumes in order of name; ``InvalidParameter`` for an unknown filter."""
        for name in filters or {}:
            if name not in FILTERS:
                raise InvalidParameter(f"invalid filter '{name}'")
        wanted = {name: values for name, values in (filters or {}).items() if values}
        dangling = wanted.get("dangling", ())
        if len(dangling) > 1 or any(v.lower() not in _FLAGS for v in dangling):
            raise InvalidParameter(f"invalid filter 'dangling=[{' '.join(sorted(dangling))}]'")
        return [
            record
            for name, record in sorted(self._records.items())
            if name not in self._leaving and self._matches(record, wanted)
        ]

    def get(self, name: str) -> VolumeRecord:
        """``NotFound`` in Docker's words if there is none."""
        record = self._records.get(name)
        if record is None:
            raise NotFound(f"get {name}: no such volume")
        return record

    def mountpoint(self, name: str) -> str:
        """Where the contents are on the host."""
        record = self.get(name)
        return str(self._driver(record.driver).path(name))

    def is_full(self, name: str) -> bool:
        """Whether a volume that is a plain directory has something in it, so that nothing goes in
        from an image. What drivers have to mount first is not looked at."""
        if self._records[name].options:
            return False
        try:
            with os.scandir(self.mountpoint(name)) as entries:
                return next(entries, None) is not None
        except OSError:
            return False

    async def create(
        self,
        name: str = "",
        driver: str = "",
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> VolumeRecord:
        """Make a volume, or return the one of that name if driver and options agree."""
        await self._drivers.use(Kind.VOLUME, driver)
        record, changes = self.prepare(name, driver, options, labels)
        if changes:
            try:
                await self._database.commit(*changes)
            except EngineError:
                self._records.pop(record.name, None)
                raise
            await self.make(record)
        return record

    def prepare(
        self,
        name: str = "",
        driver: str = "",
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> tuple[VolumeRecord, Sequence[Change]]:
        """The record of a volume, and the changes to commit if it is new; :meth:`make` follows. So
        the intent is on disk first, and a container and its volumes are one transaction."""
        anonymous = not name
        name = name or new_id()
        if len(name) == 1:
            raise InvalidParameter(
                f"create {name}: volume name is too short, names should be at least two "
                "alphanumeric characters"
            )
        if not NAME.fullmatch(name):
            raise InvalidParameter(
                f'create {name}: "{name}" includes invalid characters for a local volume name, '
                'only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host '
                "directory, use absolute path"
            )
        existing = self._records.get(name)
        if existing is not None:
            if driver and driver != existing.driver:
                raise Conflict(
                    f'create {name}: conflict: volume name "{name}" is in use by driver '
                    f'"{existing.driver}"',
                )
            if options and dict(options) != existing.options:
                raise Conflict(f'create {name}: volume "{name}" exists with other options')
            return existing, []
        driver = driver or self._drivers.default(Kind.VOLUME)
        record = VolumeRecord(
            name=name,
            driver=driver,
            options=dict(options or {}),
            labels={**(labels or {}), **({ANONYMOUS: ""} if anonymous else {})},
            created=timestamps.now(),
            anonymous=anonymous,
        )
        self._driver(driver)
        self._records[name] = record
        return record, [Put(TABLE, name, record), Delete(REMOVALS, name)]

    async def make(self, record: VolumeRecord) -> None:
        """Let the driver make a volume whose record is stored; if it cannot, the record goes."""
        try:
            async with self._lock(record.name):
                await self._calls(Kind.VOLUME, record.driver)(
                    self._driver(record.driver).create, record
                )
        except BaseException as error:
            await self.unmake([record])
            if isinstance(error, EngineError):
                brief = f"create {record.name}: {error.brief}"
                raise type(error)(brief, error.detail, error.help) from None
            raise
        self._events.emit("volume", "create", record.name, {"driver": record.driver})

    async def unmake(self, records: Sequence[VolumeRecord], *changes: Change) -> None:
        """Take back what was prepared for something that failed, with ``changes`` in the same
        commit. Goes on after errors: the disk may be full."""
        for record in records:
            self._records.pop(record.name, None)
        with contextlib.suppress(EngineError):
            await self._database.commit(*changes, *(Delete(TABLE, r.name) for r in records))
        for record in records:
            with contextlib.suppress(EngineError, OSError):
                driver = self._driver(record.driver)
                await self._calls(Kind.VOLUME, record.driver)(driver.remove, record.name)

    async def remove(self, name: str, force: bool = False) -> None:
        """``Conflict`` while a container refers to it. ``force``: absent is fine."""
        if force and name not in self._records:
            return
        record = self.get(name)
        users = self.users(name)
        if users:
            raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
        # A crash before the contents are gone leaves a record of what has still to go.
        await self._database.commit(Delete(TABLE, name), Put(REMOVALS, name, record))
        self._records.pop(name, None)
        async with self._lock(name):
            await self._delete(record)
        self._locks.pop(name, None)
        self._events.emit("volume", "destroy", name, {"driver": record.driver})

    async def _delete(self, record: VolumeRecord) -> None:
        calls = self._calls(Kind.VOLUME, record.driver)
        await calls(self._driver(record.driver).remove, record.name)
        self._database.commit_soon(Delete(REMOVALS, record.name))

    def leaves(self, name: str) -> None:
        """It goes with its container, whose removal is recorded: lists show it no more."""
        self._leaving.add(name)

    async def go(self, name: str) -> None:
        """Remove a volume that leaves; one that cannot be removed is shown again."""
        try:
            await self.remove(name, force=True)
        finally:
            self._leaving.discard(name)

    async def prune(self, filters: Filters | None = None) -> tuple[Sequence[str], int]:
        """Remove unused volumes: anonymous ones, with ``all=true`` all. Names and bytes freed."""
        wanted = PruneFilters(filters or {}, "all", until=False)
        everything = wanted.flag("all", False)
        removed = []
        freed = 0
        with self._pruning.taken():
            for record in self.list():
                if self.users(record.name) or not (everything or record.anonymous):
                    continue
                if record.options:
                    # It stands for something outside (a share, a device): nobody's to sweep.
                    continue
                if not wanted.match(record.created, record.labels):
                    continue
                size = await self.usage(record.name)
                try:
                    await self.remove(record.name)
                except EngineError:
                    continue
                removed.append(record.name)
                freed += max(size, 0)
        self._events.emit("volume", "prune", "", {"reclaimed": str(freed)})
        return removed, freed

    async def usage(self, name: str) -> int:
        """Bytes in the volume."""
        record = self.get(name)
        return await self._calls(Kind.VOLUME, record.driver).within(
            600, self._driver(record.driver).usage, name
        )

    async def mount(self, name: str, container: str, point: MountPoint, user: str = "") -> Path:
        """Make the contents present for ``container``, which has them at ``point``, or for another
        ``user`` on its behalf."""
        record = self.get(name)
        calls = self._calls(Kind.VOLUME, record.driver)
        turn = self._mounting if record.options else contextlib.nullcontext()
        async with self._lock(name), turn:
            path = await calls(self._driver(record.driver).mount, record, user or container)
        attributes = {
            "container": container,
            "destination": point.destination,
            "driver": record.driver,
            "propagation": point.propagation,
            "read/write": "true" if point.rw else "false",
        }
        self._events.emit("volume", "mount", name, attributes)
        return path

    async def fill(self, name: str, path: Path, rootfs: Path, destination: str) -> None:
        """Copy what the image has at ``destination`` into the volume mounted at ``path``, if that
        is empty."""
        # Two containers that are made at once: the second finds it full.
        async with self._lock(name):
            await on_thread("copy-up", copy_up, rootfs, destination, path)

    async def unmount(self, name: str, container: str, user: str = "") -> None:
        """``container``, or ``user`` for it, no longer needs it. Absent is fine."""
        record = self._records.get(name)
        if record is None:
            return
        calls = self._calls(Kind.VOLUME, record.driver)
        async with self._lock(name):
            await calls(self._driver(record.driver).unmount, record, user or container)
        self._events.emit(
            "volume", "unmount", name, {"container": container, "driver": record.driver}
        )

    async def reconcile(self, users: Mapping[str, set[str]]) -> Sequence[str]:
        """At start: make disk and kernel agree with the records. What was done, a sentence each."""
        done: Lines = []
        for gone in self._database.load(REMOVALS, VolumeRecord).values():
            if gone.name not in self._records:
                await self._delete(gone)
                done.append(f"volume {gone.name} was removed to the end")
        names = {record.driver for record in self._records.values()}
        if self._drivers.has(Kind.VOLUME):
            names.add(self._drivers.default(Kind.VOLUME))
        for name in names:
            known = {n: r for n, r in self._records.items() if r.driver == name}
            result = await self._calls(Kind.VOLUME, name)(
                self._driver(name).reconcile, known, users
            )
            done += result.removed + result.restored + result.failed
            for record in known.values():
                if not self._driver(name).path(record.name).exists():
                    await self._calls(Kind.VOLUME, name)(self._driver(name).create, record)
        return done

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    def _driver(self, name: str) -> VolumeDriver:
        driver = self._drivers.get(Kind.VOLUME, name)
        assert isinstance(driver, VolumeDriver)
        return driver

    def _matches(self, record: VolumeRecord, filters: Filters) -> bool:
        for name, values in filters.items():
            match name:
                case "name":
                    hit = any(value in record.name for value in values)
                case "driver":
                    hit = record.driver in values
                case "label":
                    hit = all(
                        record.labels.get(k) == v if equals else k in record.labels
                        for k, equals, v in (value.partition("=") for value in values)
                    )
                case _:
                    wanted = values[0].lower() in ("1", "true")
                    hit = wanted is (not self.users(record.name))
            if not hit:
                return False
        return True
