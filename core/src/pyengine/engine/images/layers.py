"""The layers of images in one storage driver: unpacked once, shared, removed when not needed.

A layer is known by its chain id, which names it together with those beneath. The layers of an image
are unpacked all at once, each as soon as its blob is there, and put on top of each other in order;
then they are made durable together and recorded in one transaction. What a crash leaves without a
record is not :meth:`Layers.known`, and goes with the driver's ``reconcile``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from weakref import WeakValueDictionary

from pyengine.archive.compression import DiffIdMismatch
from pyengine.contracts.storage import LayerRecord, StorageCapability, StorageDriver, Usage
from pyengine.engine.background import Background
from pyengine.engine.images.content import Content, Lease, Problem
from pyengine.engine.images.records import Layer
from pyengine.errors import Conflict, EngineError, InvalidParameter, NotFound
from pyengine.oci.image import chain_id as chain_id_of
from pyengine.oci.image import chain_ids
from pyengine.state.database import Change, Database, Delete, Put

if TYPE_CHECKING:
    from pyengine.engine.calls import DriverCalls
    from pyengine.engine.images.unpackers import Unpackers
    from pyengine.hooks.manager import Hooks

T = TypeVar("T")

log = logging.getLogger(__name__)

#: Seconds for the steps that may have to wait for a disk.
FINISH_DEADLINE = 300.0
SYNC_DEADLINE = 1800.0
SWEEP_DEADLINE = 600.0

PREFIX = "layers."


class LayerSource(NamedTuple):
    """A layer that shall be there, and where it comes from.

    ``blob`` resolves to the digest of its blob in the content store; it is awaited only if the
    layer has to be unpacked, and cancelled with whoever waits. ``progress`` is told how many bytes
    of the blob were unpacked; ``ready`` is called when the layer is in place, whoever put it there.
    """

    diff_id: str
    blob: Awaitable[str]
    progress: Callable[[int], None] | None = None
    ready: Callable[[], None] | None = None


class Layers:
    """``users``: the chain ids of all images' layers."""

    def __init__(
        self,
        database: Database,
        driver: StorageDriver,
        calls: DriverCalls,
        unpackers: Unpackers,
        content: Content,
        hooks: Hooks,
        background: Background,
        users: Callable[[], Collection[str]],
    ) -> None:
        self.driver = driver
        self._database = database
        self._calls = calls
        self._unpackers = unpackers
        self._content = content
        self._hooks = hooks
        self._background = background
        self._users = users
        self._table = PREFIX + driver.name
        self._layers = database.load(self._table, Layer)
        #: in place and not recorded yet, with the digest of the blob each came from
        self._finished: dict[str, tuple[Layer, str]] = {}
        #: the driver's names of layers without a record, on which something still stood
        self._left: list[str] = []
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._littered = False
        self._sweeping: asyncio.Task[None] | None = None
        content.layers.append(self)

    async def start(self) -> None:
        """Forget what nobody needs; call it before the driver's ``reconcile``, which deletes it."""
        stray = self._unused(self._layers)
        if stray:
            await self._database.commit(*(Delete(self._table, id) for id in stray))
            for chain_id in stray:
                del self._layers[chain_id]

    def known(self) -> dict[str, LayerRecord]:
        """For the driver's ``reconcile``."""
        return {
            layer.storage_id: LayerRecord(
                id=layer.storage_id, parent=self.storage_id(layer.parent), writable=False
            )
            for layer in self._layers.values()
        }

    # -- reading -----------------------------------------------------------------------------

    def get(self, chain_id: str) -> Layer | None:
        return self._layers.get(chain_id)

    def has(self, chain_id: str) -> bool:
        """Only what is held stays: see :meth:`Lease.hold_layers`."""
        return chain_id in self._layers

    def all(self) -> Sequence[Layer]:
        """All layers, parents before children."""
        return [self._layers[chain_id] for chain_id in reversed(self._children_first(self._layers))]

    def size(self, chain: Iterable[str]) -> int:
        """Bytes of these layers, which are there."""
        return sum(self._layers[chain_id].size for chain_id in chain)

    def below(self, chain_id: str) -> Sequence[str]:
        """``chain_id`` and those beneath it, upper ones first, as far as they are here."""
        found = []
        while chain_id in self._layers:
            found.append(chain_id)
            chain_id = self._layers[chain_id].parent
        return found

    def storage_id(self, chain_id: str) -> str | None:
        """The driver's name for a layer that is there; None for no layer (an empty chain id)."""
        if not chain_id:
            return None
        layer = self._layers.get(chain_id)
        return layer.storage_id if layer is not None else self._finished[chain_id][0].storage_id

    # -- bringing in -------------------------------------------------------------------------

    async def ensure(self, sources: Sequence[LayerSource], lease: Lease) -> Sequence[str]:
        """Have all of ``sources``, lowest first, in place and recorded; their chain ids.

        Calls for the same layers share the work: the second waits for the first, and does it itself
        if the first fails or is given up. What was finished when this fails stays as long as
        ``lease``. Raises what the blobs raise, ``InvalidParameter`` in Docker's words for a layer
        that is not what its ``diff_id`` says, and the errors of unpacking.
        """
        chain = chain_ids([source.diff_id for source in sources])
        await lease.hold_layers(chain)
        tasks: list[asyncio.Task[None]] = []
        for number, source in enumerate(sources):
            below = tasks[-1] if tasks else None
            layer = Layer(
                chain_id=chain[number],
                diff_id=source.diff_id,
                parent=chain[number - 1] if number else "",
                storage_id=chain[number].removeprefix("sha256:"),
                size=0,
            )
            tasks.append(asyncio.create_task(self._bring(number, layer, source, below)))
        try:
            await _all(tasks)
        except BaseException:
            try:
                await self._to_the_end(self._record(chain))
            except (EngineError, OSError) as error:
                log.warning("layers could not be recorded: %s", error)
            raise
        await self._to_the_end(self._record(chain))
        return chain

    async def add(
        self,
        source: int,
        parent: str,
        lease: Lease,
        progress: Callable[[int], None] | None = None,
    ) -> Layer:
        """A layer that nobody knows yet, from descriptor ``source`` (a pipe, say), on top of chain
        id ``parent`` (empty: none), which the caller holds."""
        # Its name is known when its last byte was read; until then any will do.
        storage_id = secrets.token_hex(32)
        usage: Usage | None = None
        if self._staged:
            unpacked = await self._unpackers.stage(storage_id, source, progress=progress)
        else:
            unpacked = await self._unpackers.apply(
                storage_id, self.storage_id(parent), source, progress=progress
            )
            usage = unpacked.usage
        try:
            chain_id = chain_id_of(parent, unpacked.diff_id)
            await lease.hold_layers([chain_id])
            layer = Layer(
                chain_id=chain_id, diff_id=unpacked.diff_id, parent=parent,
                storage_id=storage_id, size=0,
            )  # fmt: skip
            async with self._lock(chain_id):
                if self._there(chain_id):
                    await self._discard(storage_id)
                else:
                    await self._to_the_end(self._finish(layer, usage))
        except BaseException:
            if not any(layer.storage_id == storage_id for layer, _ in self._finished.values()):
                await self._to_the_end(self._discard(storage_id))
            raise
        await self._to_the_end(self._record([chain_id]))
        return self._layers[chain_id]

    async def _bring(
        self, number: int, layer: Layer, source: LayerSource, below: asyncio.Task[None] | None
    ) -> None:
        async with self._lock(layer.chain_id):
            if not self._there(layer.chain_id):
                digest = await source.blob
                fd = os.open(self._content.path(digest), os.O_RDONLY | os.O_CLOEXEC)
                try:
                    await self._make(layer, digest, fd, source, below)
                except DiffIdMismatch as error:
                    raise InvalidParameter(
                        f"invalid diffID for layer {number}: "
                        f'expected "{error.expected}", got "{error.got}"'
                    ) from None
                finally:
                    os.close(fd)
        if source.ready is not None:
            source.ready()

    async def _make(
        self,
        layer: Layer,
        digest: str,
        fd: int,
        source: LayerSource,
        below: asyncio.Task[None] | None,
    ) -> None:
        if not self._staged:
            await _after(below)
            unpacked = await self._unpackers.apply(
                layer.storage_id, self.storage_id(layer.parent), fd,
                diff_id=layer.diff_id, progress=source.progress,
            )  # fmt: skip
            await self._finish(layer, unpacked.usage, digest)
            return
        await self._unpackers.stage(
            layer.storage_id, fd, diff_id=layer.diff_id, progress=source.progress
        )
        try:
            await _after(below)
            await self._to_the_end(self._finish(layer, None, digest))
        except BaseException:
            if layer.chain_id not in self._finished:
                await self._to_the_end(self._discard(layer.storage_id))
            raise

    async def _finish(self, layer: Layer, usage: Usage | None, digest: str = "") -> None:
        if usage is None:
            usage = await self._calls.within(
                FINISH_DEADLINE,
                self.driver.finish,
                layer.storage_id,
                self.storage_id(layer.parent),
            )
        layer.size = usage.bytes
        if layer.storage_id in self._left:
            self._left.remove(layer.storage_id)
        self._finished[layer.chain_id] = layer, digest

    async def _record(self, chain: Sequence[str]) -> None:
        """Make what is finished of ``chain`` durable, and known."""
        new = [self._finished[chain_id] for chain_id in chain if chain_id in self._finished]
        if not new:
            return
        await self._calls.within(SYNC_DEADLINE, self.driver.sync)
        changes: list[Change] = [Put(self._table, layer.chain_id, layer) for layer, _ in new]
        for layer, digest in new:
            changes += self._content.learned(digest, layer.diff_id)
        await self._database.commit(*changes)
        for layer, _ in new:
            # Another call, which shared the layer, may have been here first.
            if self._finished.pop(layer.chain_id, None) is not None:
                self._layers[layer.chain_id] = layer
                self._hooks.storage_layer_applied(layer.storage_id, layer.diff_id, layer.size)

    @property
    def _staged(self) -> bool:
        return StorageCapability.STAGED_LAYERS in self.driver.capabilities()

    def _there(self, chain_id: str) -> bool:
        return chain_id in self._layers or chain_id in self._finished

    def _lock(self, chain_id: str) -> asyncio.Lock:
        return self._locks.setdefault(chain_id, asyncio.Lock())

    # -- removing ----------------------------------------------------------------------------

    async def drop(self, chain_ids: Collection[str] | None = None) -> Sequence[str]:
        """Remove those of ``chain_ids`` (None: of all) that nobody needs; what was removed, upper
        layers first."""
        candidates = [*self._layers, *self._finished] if chain_ids is None else chain_ids
        # One whose lock is taken is being brought in again.
        doomed = [
            chain_id
            for chain_id in self._unused(candidates)
            if self._there(chain_id) and not self._lock(chain_id).locked()
        ]
        if doomed or self._left:
            doomed = self._children_first(doomed)
            await self._to_the_end(self._remove(doomed))
        return doomed

    async def _remove(self, doomed: Sequence[str]) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for chain_id in doomed:
                await stack.enter_async_context(self._lock(chain_id))
            ids = [self.storage_id(chain_id) or "" for chain_id in doomed]
            for chain_id in doomed:
                self._finished.pop(chain_id, None)
                self._layers.pop(chain_id, None)
            if doomed:
                await self._database.commit(*(Delete(self._table, id) for id in doomed))
            left, self._left = self._left, []
            await self._discard(*ids, *left)

    async def _discard(self, *storage_ids: str) -> None:
        for storage_id in storage_ids:
            try:
                await self._calls(self.driver.remove, storage_id)
            except Conflict:
                # A container's layer is on its way out; whoever removes that drops again.
                self._left.append(storage_id)
            except (EngineError, OSError) as error:
                # It has no record, so the next start's reconcile takes it away.
                log.warning("layer %s could not be removed: %s", storage_id, error)
        # One sweep at a time: many would keep the driver from everything else.
        self._littered = True
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = self._background.run(self._sweep(), "sweeping layers")

    async def _sweep(self) -> None:
        while self._littered:
            self._littered = False
            await self._calls.within(SWEEP_DEADLINE, self.driver.sweep)

    def _unused(self, chain_ids: Iterable[str]) -> list[str]:
        used = {*self._users(), *self._content.leased_layers()}
        return [chain_id for chain_id in chain_ids if chain_id not in used]

    def _children_first(self, chain_ids: Iterable[str]) -> list[str]:
        def depth(chain_id: str) -> int:
            steps = 0
            while chain_id:
                layer = self._layers.get(chain_id) or self._finished.get(chain_id, (None,))[0]
                chain_id = layer.parent if layer is not None else ""
                steps += 1
            return steps

        return sorted(chain_ids, key=depth, reverse=True)

    # -- checking ----------------------------------------------------------------------------

    async def fsck(self) -> list[Problem]:
        """Layers that are recorded and not there, or there and needed by nobody."""
        problems = []
        unused = set(self._unused(self._layers))
        for layer in self.all():
            where = f"storage driver {self.driver.name}"
            if not await self._calls(self.driver.exists, layer.storage_id):
                if self.has(layer.chain_id):
                    problems.append(Problem("missing layer", layer.chain_id, where))
            elif layer.chain_id in unused:
                problems.append(Problem("unknown layer", layer.chain_id, where))
        return problems

    # -- tasks -------------------------------------------------------------------------------

    async def _to_the_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Do ``work`` though the caller may be cancelled, who then waits until it is over."""
        task = asyncio.ensure_future(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            while not task.done():
                await asyncio.wait([task])
            if not task.cancelled():
                task.exception()
            raise


async def _after(below: asyncio.Task[None] | None) -> None:
    """Until the layer beneath is in place. Its failure is told by its own task."""
    if below is None:
        return
    await asyncio.wait([below])
    if below.cancelled() or below.exception() is not None:
        raise NotFound("the layer beneath is not there")


async def _all(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait for all; the first that fails ends the others, which are over on return."""
    if not tasks:
        return
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        # A second cancellation must not leave any of them behind.
        while left := [task for task in tasks if not task.done()]:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait(left)
    for task in tasks:
        if not task.cancelled():
            task.result()
