"""The containers there are: their records, and what the daemon holds about each while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pyengine.engine.containers.links import split
from pyengine.engine.model import Container, Exec, Status
from pyengine.engine.names import resolve
from pyengine.errors import Conflict
from pyengine.state.database import Database, Delete, Put

if TYPE_CHECKING:
    from pyengine.engine.containers.attachments import PendingAttachment
    from pyengine.supervisor.client import Shim
    from pyengine.supervisor.records import ExitRecord, Step

TABLE = "containers"
#: Of how many removed containers the trace is kept.
TRACES = 32


class Live:
    """A container and this daemon's hold on it.

    ``lock`` serialises what changes the container; reads take none. After an exit ``cleanup`` puts
    away the network and ``settling`` what may take longer: a start waits for both, a removal for
    the first.
    """

    def __init__(self, record: Container) -> None:
        self.record = record
        self.lock = asyncio.Lock()
        self.shim: Shim | None = None
        self.exited = asyncio.Event()
        self.exited.set()
        self.early_exit: ExitRecord | None = None
        self.cleanup: asyncio.Task[None] | None = None
        self.settling: asyncio.Task[None] | None = None
        self.restart: asyncio.Task[None] | None = None
        self.pending: list[PendingAttachment] = []
        self.execs: dict[str, Exec] = {}
        #: of execs whose end somebody waits for
        self.exec_ends: dict[str, asyncio.Future[int]] = {}
        #: the ``process`` of the spec it runs with; execs are derived from it
        self.process: dict[str, Any] | None = None
        self.waiters: dict[str, list[asyncio.Future[tuple[int, str]]]] = {}
        self.steps: list[Step] = []
        self.backoff = 0.0
        self.removed = False
        #: it is being restarted: not even ``--rm`` takes it away
        self.kept = False

    @property
    def id(self) -> str:
        return self.record.id

    def running(self) -> Shim:
        """Its shim; ``Conflict`` in Docker's words unless it runs."""
        if self.record.state.status is Status.RESTARTING:
            raise Conflict(
                f"Container {self.id} is restarting, wait until the container is running"
            )
        if self.shim is None or not self.record.state.running:
            raise Conflict(f"container {self.id} is not running")
        return self.shim

    def wake(self, condition: str, code: int, error: str = "") -> None:
        """Answer everybody who waits for ``condition``."""
        for future in self.waiters.pop(condition, []):
            if not future.done():
                future.set_result((code, error))


class Registry:
    """All containers, by id and name; the only place where their records are written."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._live = {id: Live(record) for id, record in database.load(TABLE, Container).items()}
        self._names = {live.record.name: id for id, live in self._live.items()}
        self._traces: dict[str, list[Step]] = {}

    def __iter__(self) -> Iterator[Live]:
        return iter(list(self._live.values()))

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, id: str) -> bool:
        return id in self._live

    def trace(self, ref: str) -> list[Step]:
        """The steps of a container's last start. One that was removed, as ``--rm`` does before its
        client can ask, is remembered for a while, by its id."""
        return self._traces[ref] if ref in self._traces else self.live(ref).steps

    def records(self) -> list[Container]:
        return [live.record for live in self._live.values()]

    def live(self, ref: str) -> Live:
        """By id, name or unambiguous beginning of an id; ``NotFound`` in Docker's words."""
        return resolve(ref, self._live, self._by_name, "container")

    def record(self, ref: str) -> Container:
        return self.live(ref).record

    def named(self, name: str) -> bool:
        return name in self._names

    def reserve(self, name: str, id: str) -> None:
        """Take ``name``; ``Conflict`` in Docker's words if it is taken."""
        holder = self._names.get(name)
        if holder is not None:
            raise Conflict(
                f'Conflict. The container name "/{name}" is already in use by container '
                f'"{holder}". You have to remove (or rename) that container to be able to reuse '
                "that name."
            )
        self._names[name] = id

    def release(self, name: str) -> None:
        self._names.pop(name, None)

    def add(self, record: Container) -> Live:
        live = Live(record)
        self._live[record.id] = live
        self._names[record.name] = record.id
        return live

    def forget(self, live: Live) -> None:
        """The record is gone from the database."""
        self._live.pop(live.id, None)
        self._traces[live.id] = live.steps
        while len(self._traces) > TRACES:
            del self._traces[next(iter(self._traces))]
        if self._names.get(live.record.name) == live.id:
            del self._names[live.record.name]

    async def save(self, live: Live) -> None:
        """Write the record; on disk when this returns."""
        await self.database.commit(Put(TABLE, live.id, live.record))

    def save_soon(self, live: Live) -> None:
        """Write the record without waiting: for what the next start would find out by itself."""
        if not live.removed:
            self.database.commit_soon(Put(TABLE, live.id, live.record))

    def deletion(self, live: Live) -> Delete:
        return Delete(TABLE, live.id)

    def _by_name(self, name: str) -> Live | None:
        name = name.removeprefix("/")
        id = self._names.get(name)
        parent, slash, alias = name.partition("/")
        if id is None and slash and parent in self._names:
            # The name of a link: of whom it is to.
            asked = self._live[self._names[parent]].record.host_config.links or ()
            id = next((other for other, known in map(split, asked) if known == alias), None)
        return self._live.get(id) if id else None
