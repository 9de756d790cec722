"""Blobs, leases and garbage collection over a real database and content store."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Collection
from pathlib import Path

import pytest

from pyengine.engine.images.content import Blob, Content, Problem
from pyengine.errors import Conflict, InvalidParameter, NotFound
from pyengine.state.content import ContentStore
from pyengine.state.database import Database

DAY = 86400.0


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Layers:
    """Notes what it is asked to drop."""

    def __init__(self) -> None:
        self.dropped: list[set[str] | None] = []

    async def drop(self, chain_ids: Collection[str] | None = None) -> list[str]:
        self.dropped.append(None if chain_ids is None else set(chain_ids))
        return []

    async def fsck(self) -> list[Problem]:
        return [Problem("missing layer", "abc")]


class World:
    """Content below one directory, with a clock; ``again`` is the next daemon."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = 1000.0
        self.images: dict[str, set[str]] = {}
        self.open()

    def open(self) -> None:
        self.database = Database(self.root / "db")
        self.store = ContentStore(self.root / "content")
        self.content = Content(self.database, self.store, lambda: self.now)
        self.content.owners = self.images.items

    async def again(self) -> None:
        self.database.close()
        self.open()
        await self.content.start()

    def ingests(self) -> list[str]:
        return sorted(path.name[:10] for path in (self.root / "content/ingest").iterdir())


async def interrupted(content: Content) -> Blob:
    """A pull that ended with one blob and half of another."""

    async def pull() -> None:
        async with content.lease("pull app", keep=DAY) as lease:
            await content.add(b"whole", "", lease)
            await lease.hold([digest(b"half")])
            with await content.ingest(digest(b"half")) as ingest:
                ingest.write(b"ha")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await pull()
    blob = content.get(digest(b"whole"))
    assert blob is not None
    return blob


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    yield world
    world.database.close()


async def test_add_and_look_up(world: World) -> None:
    content = world.content
    async with content.lease("test") as lease:
        blob = await content.add(b"data", "text/plain", lease)
        assert (blob.digest, blob.size, blob.media_type) == (digest(b"data"), 4, "text/plain")
        await content.set_diff_id(blob.digest, "sha256:d")
        await content.add_source(blob.digest, "registry:5000/app")
        await content.add_source(blob.digest, "registry:5000/app")
        await content.add_source(digest(b"nothing"), "registry:5000/app")
        assert content.has(blob.digest)
        assert content.read(blob.digest) == b"data"
        assert content.path(blob.digest).read_bytes() == b"data"
        assert content.users(blob.digest) == ["test"]
        world.images["image app"] = {blob.digest}
    await world.again()
    (again,) = world.content.by_diff_id("sha256:d")
    assert again == world.content.get(blob.digest)
    assert again.sources == ["registry:5000/app"]
    assert world.content.list() == [again]
    assert world.content.by_diff_id("sha256:e") == []


async def test_commit_verifies(world: World) -> None:
    content = world.content
    async with content.lease("test") as lease:
        with await content.ingest() as ingest:
            ingest.write(b"data")
            with pytest.raises(InvalidParameter):
                await content.commit(ingest, digest(b"other"), 4, "", lease)
        assert not content.has(digest(b"other"))
        with await content.ingest(digest(b"data")) as ingest:
            ingest.write(b"data")
            blob = await content.commit(
                ingest, digest(b"data"), 4, "", lease, diff_id="sha256:d", source="host/repo"
            )
        assert (blob.diff_id, blob.sources) == ("sha256:d", ["host/repo"])


async def test_what_only_a_lease_held_goes_with_it(world: World) -> None:
    content = world.content
    layers = Layers()
    content.layers.append(layers)
    async with content.lease("load") as lease:
        kept = await content.add(b"kept", "", lease)
        gone = await content.add(b"gone", "", lease)
        await lease.hold_layers(["sha256:1", "sha256:2"])
        assert content.leased_layers() == {"sha256:1", "sha256:2"}
        assert (await content.collect()).removed == []
        world.images["image a"] = {kept.digest}
    assert content.list() == [kept]
    assert not world.store.has(gone.digest)
    assert layers.dropped == [None, {"sha256:1", "sha256:2"}]
    assert content.leased_layers() == set()


async def test_a_failed_lease_with_time_is_taken_up_again(world: World) -> None:
    content = world.content
    half = digest(b"half")
    whole = await interrupted(content)
    assert (await content.collect()).removed == []
    await world.again()
    content = world.content
    assert content.has(whole.digest)
    async with content.lease("pull app", keep=DAY) as lease:
        world.now += 2 * DAY  # a long pull outlives any time
        assert (await content.collect()).removed == []
        with await content.ingest(half) as ingest:
            assert ingest.size == 2
            ingest.write(b"lf")
            await content.commit(ingest, half, 4, "", lease)
        world.images["image app"] = {half}
    assert [blob.digest for blob in content.list()] == [half]


async def test_an_expired_lease_is_collected(world: World) -> None:
    content = world.content
    blob = await interrupted(content)
    world.now += DAY - 1
    assert (await content.collect()).removed == []
    world.now += 1
    collected = await content.collect()
    assert collected.removed == [blob]
    assert collected.bytes == 5
    assert world.ingests() == []


async def test_killed_while_a_lease_was_held(world: World) -> None:
    """The records of the killed daemon: one lease that may wait, one that may not."""
    content = world.content
    blobs = {}
    for purpose, keep in (("pull", DAY), ("load", 0.0)):
        # entered and never left, as after a kill
        lease = await content.lease(purpose, keep=keep).__aenter__()
        blobs[purpose] = await content.add(purpose.encode(), "", lease)
    published = digest(b"published")
    await lease.hold([published])
    world.store.write(b"published")  # and killed before its record
    pull = await content.lease("pull", keep=DAY).__aenter__()
    resumed = world.store.write(b"resumed")
    await pull.hold([resumed])
    await world.again()
    assert world.content.list() == [blobs["pull"]]
    assert set(world.store.blobs()) == {blobs["pull"].digest}
    with await world.content.ingest(resumed) as ingest:
        assert ingest.size == len(b"resumed")
    world.now += DAY
    assert [blob.digest for blob in (await world.content.collect()).removed] == [
        blobs["pull"].digest
    ]


async def test_two_holders_of_one_purpose(world: World) -> None:
    content = world.content
    first, second = content.lease("pull app"), content.lease("pull app")
    one = await first.__aenter__()
    await second.__aenter__()
    blob = await content.add(b"x", "", one)
    await first.__aexit__(None, None, None)
    assert content.has(blob.digest)
    await second.__aexit__(None, None, None)
    assert not content.has(blob.digest)


async def test_release_takes_what_nobody_names(world: World) -> None:
    content = world.content
    async with content.lease("load") as lease:
        shared = await content.add(b"shared", "", lease)
        own = await content.add(b"own", "", lease)
        world.images |= {"image a": {shared.digest, own.digest}, "image b": {shared.digest}}
    del world.images["image a"]
    collected = await content.release([shared.digest, own.digest])
    assert collected.removed == [own]
    assert collected.bytes == 3
    assert content.list() == [shared]


async def test_a_blob_in_use_cannot_be_removed(world: World) -> None:
    content = world.content
    async with content.lease("load") as lease:
        blob = await content.add(b"x", "", lease)
        with pytest.raises(Conflict, match="it is used by load"):
            await content.remove(blob.digest)
        world.images["image app:1"] = {blob.digest}
    with pytest.raises(Conflict, match="it is used by image app:1"):
        await content.remove(blob.digest)
    world.images.clear()
    assert await content.remove(blob.digest) == blob
    with pytest.raises(NotFound):
        await content.remove(blob.digest)


async def test_a_removal_under_way_is_over_before_a_hold_returns(world: World) -> None:
    """Else the unlink would take the blob that was brought in again meanwhile."""
    content = world.content
    for number in range(20):
        data = f"blob {number}".encode()
        async with content.lease("first") as lease:
            await content.add(data, "", lease)
            world.images["image"] = {digest(data)}
        world.images.clear()

        async def again(data: bytes = data) -> None:
            async with content.lease("second") as lease:
                await lease.hold([digest(data)])
                if not content.has(digest(data)):
                    await content.add(data, "", lease)
                world.images["image"] = {digest(data)}

        await asyncio.gather(content.release([digest(data)]), again())
        assert content.has(digest(data))
        assert world.store.read(digest(data)) == data


async def test_a_cancelled_commit_leaves_nothing_behind(world: World) -> None:
    content = world.content
    for delay in (0, 0.0005, 0.001, 0.002, 0.004):

        async def load() -> None:
            async with content.lease("load") as lease:
                for number in range(100):
                    await content.add(b"%d" % number, "", lease)

        task = asyncio.create_task(load())
        await asyncio.sleep(delay)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while content._tasks:
            await asyncio.wait(content._tasks)
        assert content.list() == []
        assert world.store.blobs() == {}
        assert await content.fsck() == []


async def test_fsck(world: World) -> None:
    content = world.content
    async with content.lease("load") as lease:
        blobs = [await content.add(data, "", lease) for data in (b"ok", b"cut", b"bad", b"gone")]
        world.images["image app"] = {blob.digest for blob in blobs} | {digest(b"never")}
    assert [problem.kind for problem in await content.fsck()] == ["missing"]
    _, cut, bad, gone = (blob.digest for blob in blobs)
    world.store.path(cut).write_bytes(b"c")
    world.store.path(bad).write_bytes(b"BAD")
    world.store.path(gone).unlink()
    stray = world.store.write(b"stray")
    (world.root / "content/ingest/0123").write_bytes(b"half")
    content.layers.append(Layers())
    found = {(problem.kind, problem.what) for problem in await content.fsck()}
    assert found == {
        ("damaged", cut),
        ("damaged", bad),
        ("missing", gone),
        ("missing", digest(b"never")),
        ("unreferenced", stray),
        ("stale ingest", "0123"),
        ("missing layer", "abc"),
    }
    quick = {(problem.kind, problem.what) for problem in await content.fsck(quick=True)}
    assert found - quick == {("damaged", bad)}
    await world.again()
    assert not world.content.has(gone)
    assert world.ingests() == []
    assert not world.store.has(stray)
