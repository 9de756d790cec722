"""What there is of blobs, and who needs them: records, leases, garbage collection.

A blob stays while an image names it or a *lease* does. A lease is a record of what somebody brings
in and no image has yet: blobs, ingests that are to become blobs, and layers. So the rule for who
brings something in is: hold it first, then look whether it is there. What neither an image nor a
lease names is garbage, whenever the collection runs; it never waits for a pull to end.
"""

from __future__ import annotations

import asyncio
import builtins
import errno
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from pyengine.errors import (
    Conflict,
    EngineError,
    Forbidden,
    InvalidParameter,
    NotFound,
    Unsupported,
)
from pyengine.state.content import ContentStore, Ingest
from pyengine.state.database import Change, Database, Delete, Put

T = TypeVar("T")

log = logging.getLogger(__name__)

BLOBS = "blobs"
LEASES = "leases"

#: Who needs which blobs: a name for messages, and digests.
Owners = Callable[[], Iterable[tuple[str, Iterable[str]]]]


class Blob(msgspec.Struct, kw_only=True):
    """A blob that is in the content store. ``diff_id``: of the layer that it unpacks to, once that
    is known. ``sources``: ``registry.host:port/repository`` where it is known to be, too."""

    digest: str
    size: int
    media_type: str
    diff_id: str = ""
    sources: list[str] = []


class LeaseRecord(msgspec.Struct, kw_only=True):
    """``keep``: seconds that it outlives a failure; ``expires``: when (seconds since the epoch), 0
    while it is held. ``layers``: chain ids."""

    purpose: str
    keep: float = 0.0
    expires: float = 0.0
    digests: set[str] = set()
    layers: set[str] = set()


class Collected(msgspec.Struct):
    """What a collection removed; ``bytes`` of blobs and ingests, ``ingests`` their number."""

    removed: list[Blob] = []
    bytes: int = 0
    ingests: int = 0


class Problem(msgspec.Struct):
    """What ``fsck`` found. ``kind``: damaged, missing, unreferenced, stale ingest, missing layer or
    unknown layer; ``what``: a digest or the name of a file or layer."""

    kind: str
    what: str
    detail: str = ""


class LayerKeeper(Protocol):
    """The layers of one storage driver, as the collection sees them."""

    async def drop(self, chain_ids: Collection[str] | None = None) -> Sequence[str]:
        """Remove those of ``chain_ids`` (None: of all) that neither an image nor a lease names."""

    async def fsck(self) -> list[Problem]: ...


class Lease:
    """Names what must not be collected; obtained from :meth:`Content.lease`."""

    def __init__(self, content: Content, record: LeaseRecord) -> None:
        self._content = content
        self._record = record

    async def hold(self, digests: Iterable[str]) -> None:
        """Keep these blobs, and ingests that are to become them. On disk when this returns."""
        await self._content._hold(self._record, set(digests), set())

    async def hold_layers(self, chain_ids: Iterable[str]) -> None:
        """Keep these layers, in every storage driver."""
        await self._content._hold(self._record, set(), set(chain_ids))


class Content:
    """``owners`` and ``layers`` are set by the services that own images and layers."""

    def __init__(
        self, database: Database, store: ContentStore, clock: Callable[[], float] = time.time
    ) -> None:
        self.store = store
        self.owners: Owners = lambda: ()
        self.layers: list[LayerKeeper] = []
        self._database = database
        self._clock = clock
        self._blobs = database.load(BLOBS, Blob)
        self._diffs: dict[str, set[str]] = {}
        for blob in self._blobs.values():
            self._index(blob)
        self._leases = database.load(LEASES, LeaseRecord)
        self._holders: Counter[str] = Counter()
        self._going: dict[str, asyncio.Future[None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._threads = ThreadPoolExecutor(16, "content")

    async def start(self) -> Collected:
        """Make records and disk agree after a crash, then collect. Before anything else runs."""
        on_disk = await self.on_thread(self.store.blobs)
        changes: list[Change] = []
        for digest in [digest for digest in self._blobs if digest not in on_disk]:
            log.error("content %s has vanished from the disk", digest)
            self._forget(digest)
            changes.append(Delete(BLOBS, digest))
        for lease in [*self._leases.values()]:
            if not lease.expires and lease.keep:
                lease.expires = self._clock() + lease.keep
                changes.append(Put(LEASES, lease.purpose, lease))
            elif not lease.expires:
                del self._leases[lease.purpose]
                changes.append(Delete(LEASES, lease.purpose))
        if changes:
            await self._database.commit(*changes)
        leased = self._leased()
        for digest in on_disk:
            # Published, and the crash came before the record: whoever resumes it finds it whole.
            if digest in leased and digest not in self._blobs:
                await self.on_thread(self.store.demote, digest)
        return await self.collect()

    # -- reading -----------------------------------------------------------------------------

    def get(self, digest: str) -> Blob | None:
        return self._blobs.get(digest)

    def has(self, digest: str) -> bool:
        """Only what is held stays: see :meth:`Lease.hold`."""
        return digest in self._blobs

    def list(self) -> Sequence[Blob]:
        """All blobs, by digest."""
        return sorted(self._blobs.values(), key=lambda blob: blob.digest)

    def read(self, digest: str) -> bytes:
        """The whole of a small blob (blocking, briefly); ``NotFound``."""
        return self.store.read(digest)

    def path(self, digest: str) -> Path:
        return self.store.path(digest)

    def by_diff_id(self, diff_id: str) -> Sequence[Blob]:
        """Blobs that are known to unpack to that layer."""
        return [self._blobs[digest] for digest in sorted(self._diffs.get(diff_id, ()))]

    def users(self, digest: str) -> Sequence[str]:
        """Names of the images and leases that need the blob."""
        return [name for name, digests in self.named().items() if digest in digests]

    def named(self) -> dict[str, set[str]]:
        """What each image and lease needs, by its name in messages."""
        found: dict[str, set[str]] = {}
        for name, digests in self.owners():
            found.setdefault(name, set()).update(digests)
        for lease in self._leases.values():
            found.setdefault(lease.purpose, set()).update(lease.digests)
        return found

    def leased_layers(self) -> set[str]:
        """Chain ids of layers that leases hold."""
        return {chain_id for lease in self._leases.values() for chain_id in lease.layers}

    # -- leases ------------------------------------------------------------------------------

    @asynccontextmanager
    async def lease(self, purpose: str, *, keep: float = 0.0) -> AsyncIterator[Lease]:
        """A lease for the length of a block.

        The same purpose again, at the same time or after a failure, is the same lease. When its
        last holder ends well it is deleted, and what nobody else names goes. After an exception it
        stays for ``keep`` seconds, so that another attempt finds what this one has done; the same
        holds if the daemon is killed. It does not stay if another attempt would fail like this one,
        or for want of room.
        """
        record = self._leases.get(purpose)
        if record is None:
            record = self._leases[purpose] = LeaseRecord(purpose=purpose, keep=keep)
        self._holders[purpose] += 1
        try:
            if record.expires:
                record.expires, record.keep = 0.0, keep
                await self._database.commit(Put(LEASES, purpose, record))
            yield Lease(self, record)
        except BaseException as error:
            await self._carry_through(self._leave(record, resumable=not _final(error)))
            raise
        await self._carry_through(self._leave(record, resumable=False))

    async def _leave(self, record: LeaseRecord, resumable: bool) -> None:
        self._holders[record.purpose] -= 1
        if self._holders[record.purpose] > 0:
            return
        del self._holders[record.purpose]
        try:
            if resumable and record.keep:
                record.expires = self._clock() + record.keep
                await self._database.commit(Put(LEASES, record.purpose, record))
            else:
                await self._end([record])
        except (EngineError, OSError) as error:
            # Whatever stays is found by the next collection.
            log.warning("while ending the lease of %s: %s", record.purpose, error)

    async def _end(self, records: Sequence[LeaseRecord]) -> None:
        for record in records:
            del self._leases[record.purpose]
        await self._database.commit(*(Delete(LEASES, record.purpose) for record in records))
        for record in records:
            await self.release(record.digests, record.layers)

    async def _hold(self, record: LeaseRecord, digests: set[str], layers: set[str]) -> None:
        if digests <= record.digests and layers <= record.layers:
            return
        record.digests |= digests
        record.layers |= layers
        # A removal that began before this has to be over, or it would take what comes next.
        while going := [self._going[digest] for digest in digests if digest in self._going]:
            await asyncio.wait(going)
        await self._database.commit(Put(LEASES, record.purpose, record))

    # -- bringing in -------------------------------------------------------------------------

    async def ingest(self, expected: str = "") -> Ingest:
        """:meth:`ContentStore.ingest`, which may have to read what is there, off the loop."""
        return await self.on_thread(self.store.ingest, expected)

    async def add(self, data: bytes, media_type: str, lease: Lease) -> Blob:
        """Keep ``data``."""
        ingest = await self.ingest()
        try:
            await self.on_thread(ingest.write, data)
            return await self.commit(ingest, "", len(data), media_type, lease)
        finally:
            await self.on_thread(ingest.close)

    async def commit(
        self,
        ingest: Ingest,
        expected: str,
        size: int,
        media_type: str,
        lease: Lease,
        diff_id: str = "",
        source: str = "",
    ) -> Blob:
        """Verify what was written, make it durable and record it. ``expected`` may be empty and
        ``size`` -1 where nobody said. ``InvalidParameter`` as :meth:`Ingest.commit`."""
        digest = expected or ingest.digest
        await lease.hold([digest])
        await self.on_thread(ingest.commit, digest, size)
        blob = Blob(digest=digest, size=ingest.size, media_type=media_type)
        blob = msgspec.structs.replace(self._blobs.get(digest, blob))
        blob.diff_id = diff_id or blob.diff_id
        if source and source not in blob.sources:
            blob.sources = [*blob.sources, source]
        await self._save(blob)
        return blob

    async def add_source(self, digest: str, source: str) -> None:
        """The blob is known to be at ``source`` as well. Nothing if the blob is not here."""
        blob = self._blobs.get(digest)
        if blob is not None and source not in blob.sources:
            await self._save(msgspec.structs.replace(blob, sources=[*blob.sources, source]))

    async def set_diff_id(self, digest: str, diff_id: str) -> None:
        """The blob unpacks to the layer ``diff_id``: somebody unpacked it and saw."""
        for change in self.learned(digest, diff_id):
            await self._database.commit(change)

    def learned(self, digest: str, diff_id: str) -> Sequence[Change]:
        """As :meth:`set_diff_id`; what to commit is the caller's to commit."""
        blob = self._blobs.get(digest)
        if blob is None or blob.diff_id == diff_id:
            return []
        self._forget(digest)
        blob = self._blobs[digest] = msgspec.structs.replace(blob, diff_id=diff_id)
        self._index(blob)
        return [Put(BLOBS, digest, blob)]

    async def _save(self, blob: Blob) -> None:
        old = self._blobs.get(blob.digest)
        self._forget(blob.digest)
        self._blobs[blob.digest] = blob
        self._index(blob)
        try:
            await self._database.commit(Put(BLOBS, blob.digest, blob))
        except EngineError:
            self._forget(blob.digest)
            if old is not None:
                self._blobs[blob.digest] = old
                self._index(old)
            raise

    def _index(self, blob: Blob) -> None:
        if blob.diff_id:
            self._diffs.setdefault(blob.diff_id, set()).add(blob.digest)

    def _forget(self, digest: str) -> Blob | None:
        blob = self._blobs.pop(digest, None)
        if blob is not None and blob.diff_id:
            self._diffs[blob.diff_id].discard(digest)
        return blob

    # -- removing ----------------------------------------------------------------------------

    async def remove(self, digest: str) -> Blob:
        """Remove a blob that nobody needs; ``Conflict`` says who does, ``NotFound``."""
        blob = self._blobs.get(digest)
        if blob is None:
            raise NotFound(f"no such content: {digest}")
        if users := self.users(digest):
            raise Conflict(f"unable to delete content {digest}", f"it is used by {users[0]}")
        await self._remove([digest])
        return blob

    async def release(self, digests: Collection[str], layers: Collection[str] = ()) -> Collected:
        """Remove those blobs, ingests and layers that nobody names any more."""
        if layers:
            for keeper in [*self.layers]:
                await keeper.drop(layers)
        collected = await self._remove(digests)
        leased = self._leased()
        await self._drop_ingests(lambda expected: expected in digests, leased, collected)
        return collected

    async def collect(self) -> Collected:
        """Mark and sweep, now: expired leases, blobs, ingests and layers that nobody names."""
        now = self._clock()
        expired = [
            lease
            for lease in self._leases.values()
            if lease.expires and lease.expires <= now and not self._holders[lease.purpose]
        ]
        before = {blob.digest: blob for blob in self._blobs.values()}
        if expired:
            await self._carry_through(self._end(expired))
        for keeper in [*self.layers]:
            await keeper.drop()
        await self._remove({*self._blobs, *await self.on_thread(self.store.blobs)})
        collected = Collected([before[digest] for digest in before if digest not in self._blobs])
        collected.bytes = sum(blob.size for blob in collected.removed)
        await self._drop_ingests(lambda expected: True, self._leased(), collected)
        return collected

    async def _remove(self, digests: Collection[str]) -> Collected:
        named = self._named()
        doomed = [one for one in digests if one not in named and one not in self._going]
        if not doomed:
            return Collected()
        blobs = [blob for blob in map(self._forget, doomed) if blob is not None]
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._going |= dict.fromkeys(doomed, gone)

        async def remove() -> None:
            try:
                await self._database.commit(*(Delete(BLOBS, digest) for digest in doomed))
                await self.on_thread(self.store.remove, *doomed)
            finally:
                for digest in doomed:
                    del self._going[digest]
                gone.set_result(None)

        await self._carry_through(remove())
        return Collected(removed=blobs, bytes=sum(blob.size for blob in blobs))

    async def _drop_ingests(
        self, wanted: Callable[[str], bool], leased: Collection[str], collected: Collected
    ) -> None:
        for partial in await self.on_thread(self.store.partial):
            unwanted = wanted(partial.expected) and partial.expected not in leased
            if unwanted and await self.on_thread(self.store.drop, partial):
                collected.ingests += 1
                collected.bytes += partial.size

    def _leased(self) -> set[str]:
        return {digest for lease in self._leases.values() for digest in lease.digests}

    def _named(self) -> set[str]:
        return set().union(*self.named().values())

    # -- checking ----------------------------------------------------------------------------

    async def fsck(self, quick: bool = False) -> builtins.list[Problem]:
        """Compare records, disk, images and layers; unless ``quick``, read every blob again."""
        problems: builtins.list[Problem] = []
        on_disk = await self.on_thread(self.store.blobs)
        for blob in self.list():
            size = on_disk.get(blob.digest)
            if size is None:
                if self.has(blob.digest):
                    problems.append(Problem("missing", blob.digest, "its file is gone"))
            elif size != blob.size:
                detail = f"{size} bytes long instead of {blob.size}"
                problems.append(Problem("damaged", blob.digest, detail))
            elif not quick:
                try:
                    if not await self.on_thread(self.store.intact, blob.digest):
                        problems.append(Problem("damaged", blob.digest, "its digest is another"))
                except NotFound:
                    continue  # removed meanwhile
                except OSError as error:
                    problems.append(Problem("damaged", blob.digest, str(error)))
        for name, digests in self.owners():
            problems += [
                Problem("missing", digest, f"{name} needs it")
                for digest in digests
                if not self.has(digest)
            ]
        named = self._named()
        for digest, size in on_disk.items():
            if digest not in named and digest not in self._going:
                problems.append(Problem("unreferenced", digest, f"{size} bytes"))
        leased = self._leased()
        for partial in await self.on_thread(self.store.partial):
            if partial.expected not in leased:
                problems.append(Problem("stale ingest", partial.name, f"{partial.size} bytes"))
        for keeper in [*self.layers]:
            problems += await keeper.fsck()
        return problems

    # -- threads -----------------------------------------------------------------------------

    async def on_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run what blocks on a disk. A caller that is cancelled waits until it is over, so that
        what follows never runs beside it."""
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._threads, lambda: function(*arguments))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            while not future.done():
                await asyncio.wait([future])
            future.exception()
            raise

    async def _carry_through(self, work: Any) -> None:
        """Do ``work`` to its end though the caller may be cancelled."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)


def _final(error: BaseException) -> bool:
    """Whether it is no use to go on later from where this ended."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, (InvalidParameter, NotFound, Unsupported, Forbidden))
