"""Transfers that are shared and limited, and what their clients are told."""

from __future__ import annotations

import asyncio

import pytest

from pyengine.engine.images.progress import Line, Meter, Progress
from pyengine.engine.images.transfers import Say, Transfers
from pyengine.errors import Unavailable
from pyengine.registry.slots import Slots


async def lines(progress: Progress) -> list[Line]:
    progress.close()
    return [line async for batch in progress.batches() for line in batch]


# -- progress ------------------------------------------------------------------------------------


async def test_a_slow_reader_gets_the_newest_count_of_each_bar() -> None:
    progress = Progress()
    progress.step("a", "Pulling fs layer")
    for count in range(1, 1000):
        progress.step("a", "Downloading", count, 1000)
        progress.step("b", "Downloading", count, 2000)
    progress.message("Digest: x")
    assert await lines(progress) == [
        Line("Pulling fs layer", "a", True),
        Line("Downloading", "a", True, 999, 1000),
        Line("Downloading", "b", True, 999, 2000),
        Line("Digest: x"),
    ]


async def test_a_count_never_overtakes_what_was_said_after_it() -> None:
    progress = Progress()
    progress.step("a", "Downloading", 900, 1000)
    progress.step("a", "Retrying in 1 second")
    progress.step("a", "Downloading", 100, 1000)
    progress.step("a", "Downloading", 200, 1000)
    assert [(line.status, line.current) for line in await lines(progress)] == [
        ("Downloading", 900),
        ("Retrying in 1 second", 0),
        ("Downloading", 200),
    ]


async def test_a_reader_gets_lines_as_they_come_until_the_end() -> None:
    progress = Progress()
    seen: list[str] = []

    async def read() -> None:
        async for batch in progress.batches():
            seen.extend(line.status for line in batch)

    reader = asyncio.create_task(read())
    progress.message("one")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert seen == ["one"]
    progress.message("two")
    progress.close()
    await asyncio.wait_for(reader, 5)
    assert seen == ["one", "two"]


def test_a_meter_tells_the_first_and_the_last_count() -> None:
    said: list[Line] = []
    meter = Meter(said.append, "a", "Downloading", 5000)
    for count in range(5001):
        meter(count)
    assert said[0] == Line("Downloading", "a", True, 0, 5000)
    assert said[-1] == Line("Downloading", "a", True, 5000, 5000)
    assert len(said) < 50


# -- transfers -----------------------------------------------------------------------------------


class Job:
    """A transfer that ends when it is told to."""

    def __init__(self, result: str = "done") -> None:
        self.result = result
        self.started = 0
        self.cancelled = 0
        self.error: Exception | None = None
        self.go = asyncio.Event()

    async def __call__(self, say: Say) -> str:
        self.started += 1
        say(Line("Downloading", "id", True, 1, 2))
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            self.cancelled += 1
            raise
        if self.error:
            raise self.error
        say(Line("Download complete", "id", True))
        return self.result


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_two_who_want_the_same_share_one_transfer() -> None:
    transfers: Transfers[str] = Transfers(Slots(3))
    job, first, second = Job(), Progress(), Progress()
    one = asyncio.create_task(transfers.share("k", "id", "r", first, job))
    await settle()
    two = asyncio.create_task(transfers.share("k", "id", "other", second, job))
    await settle()
    job.go.set()
    assert await asyncio.gather(one, two) == ["done", "done"]
    assert job.started == 1
    expected = [Line("Downloading", "id", True, 1, 2), Line("Download complete", "id", True)]
    assert await lines(first) == expected
    assert await lines(second) == expected


async def test_one_who_leaves_disturbs_nobody_and_the_last_one_ends_it() -> None:
    transfers: Transfers[str] = Transfers(Slots(3))
    job = Job()
    tasks = [
        asyncio.create_task(transfers.share("k", "id", "r", Progress(), job)) for _ in range(2)
    ]
    await settle()
    tasks[0].cancel()
    await asyncio.wait([tasks[0]])
    assert job.cancelled == 0
    tasks[1].cancel()
    await asyncio.wait([tasks[1]])
    assert job.cancelled == 1, "it has ended when the last one has left"


async def test_who_comes_while_a_transfer_is_being_ended_gets_a_new_one() -> None:
    transfers: Transfers[str] = Transfers(Slots(3))
    job, next_job = Job(), Job("again")
    task = asyncio.create_task(transfers.share("k", "id", "r", Progress(), job))
    await settle()
    task.cancel()
    await asyncio.sleep(0)
    next_job.go.set()
    assert await transfers.share("k", "id", "r", Progress(), next_job) == "again"
    assert job.cancelled == 1
    assert next_job.started == 1


async def test_a_failure_is_shared_by_those_of_one_origin_and_retried_by_others() -> None:
    transfers: Transfers[str] = Transfers(Slots(3))
    bad, good = Job(), Job("good")
    bad.error = Unavailable("no")
    mine = asyncio.create_task(transfers.share("k", "id", "a", Progress(), bad))
    await settle()
    same = asyncio.create_task(transfers.share("k", "id", "a", Progress(), good))
    other = asyncio.create_task(transfers.share("k", "id", "b", Progress(), good))
    await settle()
    good.go.set()
    bad.go.set()
    with pytest.raises(Unavailable):
        await mine
    with pytest.raises(Unavailable):
        await same
    assert await other == "good"
    assert good.started == 1


async def test_transfers_beyond_the_limit_wait_and_say_so() -> None:
    transfers: Transfers[str] = Transfers(Slots(1))
    first, second, progress = Job(), Job(), Progress()
    one = asyncio.create_task(transfers.share("1", "one", "r", Progress(), first))
    await settle()
    two = asyncio.create_task(transfers.share("2", "two", "r", progress, second))
    await settle()
    assert second.started == 0
    first.go.set()
    second.go.set()
    await asyncio.gather(one, two)
    assert (await lines(progress))[0] == Line("Waiting", "two", True)


async def test_one_that_is_ended_while_it_waits_leaves_its_place() -> None:
    slots = Slots(1)
    transfers: Transfers[str] = Transfers(slots)
    first, never, last = Job(), Job(), Job()
    one = asyncio.create_task(transfers.share("1", "one", "r", Progress(), first))
    await settle()
    two = asyncio.create_task(transfers.share("2", "two", "r", Progress(), never))
    three = asyncio.create_task(transfers.share("3", "three", "r", Progress(), last))
    await settle()
    two.cancel()
    first.go.set()
    last.go.set()
    assert await asyncio.gather(one, three) == ["done", "done"]
    assert never.started == 0
    assert not slots.full
