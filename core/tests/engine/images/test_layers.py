"""Layers: unpacked side by side, shared between calls, taken over when one fails.

The driver and the workers are fakes that note what is asked and wait where a test says so; the real
ones are in the tests of the images service and of storage drivers.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pyengine.archive.compression import DiffIdMismatch
from pyengine.contracts.storage import StorageCapability, Usage
from pyengine.engine.background import Background
from pyengine.engine.calls import DriverCalls
from pyengine.engine.images.content import Content, Lease
from pyengine.engine.images.layers import Layers, LayerSource
from pyengine.engine.images.unpackers import Unpacked
from pyengine.errors import Conflict, InvalidParameter, NotFound
from pyengine.hooks.manager import Hooks
from pyengine.oci.image import chain_ids
from pyengine.state.content import ContentStore
from pyengine.state.database import Database
from pyengine.testing.plain_storage import PlainStorage
from pyengine.testing.storage import context_for


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


DIFFS = [digest(b"layer %d" % number) for number in range(4)]
CHAIN = chain_ids(DIFFS)
IDS = [chain_id[7:] for chain_id in CHAIN]


class Driver(PlainStorage):
    """Layers are names: ``disk`` maps each that is there to its parent."""

    def __init__(self, root: Path, staged: bool) -> None:
        super().__init__(context_for(root))
        self.staged = staged
        self.log: list[str] = []
        self.prepared: set[str] = set()
        self.disk: dict[str, str | None] = {}

    def capabilities(self) -> frozenset[StorageCapability]:
        return frozenset({StorageCapability.STAGED_LAYERS} if self.staged else ())

    def finish(self, id: str, parent: str | None) -> Usage:
        if id not in self.prepared or (parent is not None and parent not in self.disk):
            raise NotFound(f"{id} or {parent}")
        self.prepared.discard(id)
        self.disk[id] = parent
        self.log.append(f"finish {IDS.index(id) if id in IDS else '?'}")
        return Usage(100, 1)

    def sync(self) -> None:
        self.log.append("sync")

    def remove(self, id: str) -> None:
        if id in self.disk.values():
            raise Conflict("it has children")
        self.prepared.discard(id)
        self.disk.pop(id, None)

    def sweep(self) -> None:
        pass

    def exists(self, id: str) -> bool:
        return id in self.disk


class Workers:
    """Unpacks a blob when its gate is open; the blob's content is the tar, and its digest."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.gates: dict[str, asyncio.Event] = {}
        self.failures: dict[str, list[Exception]] = {}
        self.running: list[str] = []

    async def stage(
        self,
        id: str,
        source: int,
        *,
        diff_id: str = "",
        progress: Callable[[int], None] | None = None,
    ) -> Unpacked:
        data = os.read(source, 1 << 16)
        self.driver.log.append(f"stage {data.decode()[6:]}")
        self.running.append(data.decode())
        try:
            if data.decode() in self.gates:
                await self.gates[data.decode()].wait()
        finally:
            self.running.remove(data.decode())
        if self.failures.get(data.decode()):
            raise self.failures[data.decode()].pop(0)
        if diff_id and digest(data) != diff_id:
            raise DiffIdMismatch(diff_id, digest(data))
        if progress is not None:
            progress(len(data))
        self.driver.prepared.add(id)
        return Unpacked(digest(data), len(data), None)

    async def apply(
        self,
        id: str,
        parent: str | None,
        source: int,
        *,
        diff_id: str = "",
        progress: Callable[[int], None] | None = None,
    ) -> Unpacked:
        unpacked = await self.stage(id, source, diff_id=diff_id, progress=progress)
        return unpacked._replace(usage=self.driver.finish(id, parent))


class World:
    def __init__(self, root: Path, staged: bool = True) -> None:
        self.root = root
        self.driver = Driver(root, staged)
        self.images: set[str] = set()
        self.open()

    def open(self) -> None:
        self.database = Database(self.root / "db")
        self.content = Content(self.database, ContentStore(self.root / "content"))
        self.workers = Workers(self.driver)
        self.layers = Layers(
            self.database,
            self.driver,
            DriverCalls(self.driver),
            self.workers,  # type: ignore[arg-type]
            self.content,
            Hooks(),
            Background(),
            lambda: self.images,
        )

    async def again(self) -> None:
        self.database.close()
        self.open()
        await self.content.start()
        await self.layers.start()

    async def sources(
        self, lease: Lease, count: int = 3, ready: list[int] | None = None
    ) -> list[LayerSource]:
        found = []
        for number in range(count):
            data = b"layer %d" % number
            await self.content.add(data, "", lease)
            blob: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            blob.set_result(digest(data))
            told = (lambda number=number: ready.append(number)) if ready is not None else None
            found.append(LayerSource(DIFFS[number], blob, None, told))
        return found

    async def ensure(self, purpose: str, count: int = 3, keep: float = 0.0) -> Sequence[str]:
        """As a pull does: an image has the layers at its end."""
        async with self.content.lease(purpose, keep=keep) as lease:
            chain = await self.layers.ensure(await self.sources(lease, count), lease)
            self.images.update(chain)
            return chain

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.001)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    yield world
    world.database.close()


async def test_layers_are_staged_at_once_and_finished_in_order(world: World) -> None:
    world.workers.gates["layer 0"] = gate = asyncio.Event()
    ready: list[int] = []
    async with world.content.lease("pull") as lease:
        task = asyncio.create_task(world.layers.ensure(await world.sources(lease, 3, ready), lease))
        await world.until(lambda: len(world.driver.prepared) == 2)
        assert world.driver.disk == {}
        gate.set()
        assert await task == CHAIN[:3]
        world.images.update(CHAIN[:3])
        (blob,) = world.content.by_diff_id(DIFFS[2])
        assert blob.digest == digest(b"layer 2")
    assert world.driver.log[-4:] == ["finish 0", "finish 1", "finish 2", "sync"]
    assert ready == [0, 1, 2]
    assert world.driver.disk == {IDS[0]: None, IDS[1]: IDS[0], IDS[2]: IDS[1]}
    assert [layer.chain_id for layer in world.layers.all()] == CHAIN[:3]
    assert world.layers.size(CHAIN[:3]) == 300
    await world.again()
    assert world.layers.storage_id(CHAIN[2]) == IDS[2]
    assert world.layers.known()[IDS[2]].parent == IDS[1]
    assert await world.layers.fsck() == []


async def test_a_driver_without_staging_unpacks_in_order(tmp_path: Path) -> None:
    world = World(tmp_path, staged=False)
    await world.ensure("pull")
    assert world.driver.log == [
        *("stage 0", "finish 0", "stage 1", "finish 1", "stage 2", "finish 2", "sync")
    ]
    world.database.close()


async def test_what_is_there_is_not_unpacked_again(world: World) -> None:
    await world.ensure("first", 2)
    world.driver.log.clear()
    await world.ensure("second", 3)
    assert world.driver.log == ["stage 2", "finish 2", "sync"]
    world.driver.log.clear()
    await world.ensure("third", 3)
    assert world.driver.log == []


async def test_two_calls_share_the_work(world: World) -> None:
    world.workers.gates["layer 1"] = gate = asyncio.Event()
    tasks = [asyncio.create_task(world.ensure(f"pull {n}", 2 + n)) for n in range(2)]
    await world.until(lambda: len(world.driver.log) == 4)
    gate.set()
    await asyncio.gather(*tasks)
    stages = [line for line in world.driver.log if line.startswith("stage")]
    assert sorted(stages) == ["stage 0", "stage 1", "stage 2"]
    assert world.driver.disk.keys() == set(IDS[:3])


@pytest.mark.parametrize("how", ["cancelled", "failed"])
async def test_the_second_takes_over_when_the_first_ends_badly(world: World, how: str) -> None:
    world.workers.gates["layer 1"] = gate = asyncio.Event()
    first = asyncio.create_task(world.ensure("first"))
    await world.until(lambda: "layer 1" in world.workers.running)
    second = asyncio.create_task(world.ensure("second"))
    await asyncio.sleep(0.05)
    if how == "cancelled":
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        gate.set()
    else:
        world.workers.failures["layer 1"] = [OSError(28, "no space")]
        gate.set()
        with pytest.raises(OSError, match="no space"):
            await first
    assert await second == CHAIN[:3]
    assert world.driver.disk.keys() == set(IDS[:3])
    assert world.driver.prepared == set()
    assert await world.layers.fsck() == []


async def test_a_failure_leaves_what_was_finished_under_its_lease(world: World) -> None:
    world.workers.gates["layer 2"] = gate = asyncio.Event()
    world.workers.failures["layer 2"] = [OSError(5, "broken disk")]
    task = asyncio.create_task(world.ensure("pull", keep=3600))
    await world.until(lambda: "finish 1" in world.driver.log)
    gate.set()
    with pytest.raises(OSError, match="broken disk"):
        await task
    assert world.driver.disk.keys() == set(IDS[:2])
    await world.again()
    assert [layer.chain_id for layer in world.layers.all()] == CHAIN[:2]
    world.driver.log.clear()
    await world.ensure("pull", keep=3600)
    assert world.driver.log == ["stage 2", "finish 2", "sync"]


async def test_a_failure_without_a_lease_that_stays_leaves_nothing(world: World) -> None:
    world.workers.gates["layer 2"] = gate = asyncio.Event()
    world.workers.failures["layer 2"] = [InvalidParameter("bad")]
    task = asyncio.create_task(world.ensure("load"))
    await world.until(lambda: "finish 1" in world.driver.log)
    gate.set()
    with pytest.raises(InvalidParameter, match="bad"):
        await task
    assert world.driver.disk == {}
    assert world.driver.prepared == set()
    assert world.layers.all() == []
    assert world.content.list() == []


async def test_a_wrong_layer_is_told_by_its_number(world: World) -> None:
    async with world.content.lease("load") as lease:
        sources = await world.sources(lease)
        wrong = [sources[0], sources[1]._replace(diff_id=DIFFS[3]), sources[2]]
        with pytest.raises(InvalidParameter) as caught:
            await world.layers.ensure(wrong, lease)
    assert caught.value.message() == (
        f'invalid diffID for layer 1: expected "{DIFFS[3]}", got "{DIFFS[1]}"'
    )
    assert world.driver.disk == {}


async def test_a_blob_that_does_not_come_ends_the_call(world: World) -> None:
    async with world.content.lease("pull") as lease:
        sources = await world.sources(lease)
        never: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        failed.set_exception(NotFound("no such blob"))
        with pytest.raises(NotFound, match="no such blob"):
            await world.layers.ensure(
                [sources[0], sources[1]._replace(blob=never), sources[2]._replace(blob=failed)],
                lease,
            )
        assert never.cancelled()
    assert world.driver.disk == {}


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.003, 0.006, 0.01])
async def test_cancelled_anywhere(world: World, delay: float) -> None:
    task = asyncio.create_task(world.ensure("load", 4))
    await asyncio.sleep(delay)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        assert world.images == set()
    await world.until(lambda: not world.content._tasks)
    assert world.driver.disk.keys() == {chain_id[7:] for chain_id in world.images}
    assert world.driver.prepared == set()
    assert await world.content.fsck() == []


async def test_drop_removes_what_nobody_needs_top_first(world: World) -> None:
    await world.ensure("pull", 4)
    world.images.intersection_update(CHAIN[:2])
    async with world.content.lease("another") as lease:
        await lease.hold_layers(CHAIN[:3])
        assert await world.layers.drop(CHAIN) == [CHAIN[3]]
        world.images.clear()
    assert world.driver.disk == {}
    assert await world.layers.drop() == []


async def test_a_layer_that_something_stands_on_goes_after_it(world: World) -> None:
    await world.ensure("pull", 2)
    world.driver.disk["container"] = IDS[1]
    world.images.clear()
    assert await world.layers.drop(CHAIN) == [CHAIN[1], CHAIN[0]]
    assert world.layers.all() == []
    assert world.driver.disk.keys() == {*IDS[:2], "container"}
    # brought in again, it is not what is left any more
    await world.ensure("again", 1)
    world.driver.remove("container")
    assert await world.layers.drop([]) == []
    assert world.driver.disk == {IDS[0]: None}
    assert await world.layers.fsck() == []


async def test_a_layer_brought_in_beside_its_removal_is_there(world: World) -> None:
    for _ in range(20):
        await world.ensure("first", 2)
        world.images.clear()
        await asyncio.gather(world.layers.drop(CHAIN), world.ensure("second", 2))
        assert world.driver.disk.keys() == set(IDS[:2])
        assert world.layers.has(CHAIN[1])
        world.images.clear()
        await world.layers.drop()


async def test_a_layer_nobody_knew(world: World) -> None:
    await world.ensure("base", 1)
    source = os.memfd_create("layer")
    for _ in range(2):
        os.pwrite(source, b"layer 1", 0)
        os.lseek(source, 0, os.SEEK_SET)
        async with world.content.lease("commit") as lease:
            layer = await world.layers.add(source, CHAIN[0], lease)
            assert (layer.chain_id, layer.parent, layer.diff_id) == (CHAIN[1], CHAIN[0], DIFFS[1])
            world.images.add(CHAIN[1])
        assert len(world.driver.disk) == 2
        assert world.driver.prepared == set()
    os.close(source)


async def test_fsck(world: World) -> None:
    await world.ensure("pull", 3)
    world.driver.disk.pop(IDS[2])
    assert [(p.kind, p.what) for p in await world.layers.fsck()] == [("missing layer", CHAIN[2])]
    world.images.discard(CHAIN[1])
    assert ("unknown layer", CHAIN[1]) in [(p.kind, p.what) for p in await world.layers.fsck()]


async def test_start_forgets_what_nobody_needs(world: World) -> None:
    await world.ensure("pull", 3)
    world.images.intersection_update(CHAIN[:1])
    await world.again()
    assert list(world.layers.known()) == [IDS[0]]
