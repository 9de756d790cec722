"""Sizes kept by the background measurer: when it walks, and when it does not."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pyengine.contracts.base import Kind
from pyengine.engine import usage as module
from pyengine.engine.events import Event
from pyengine.engine.model import Container, ContainerConfig, HostConfig
from pyengine.engine.usage import LAYERS, DiskUsage, Size
from pyengine.errors import NotFound
from pyengine.state.database import Database, Put

WALK = 0.05


class Storage:
    """A storage driver whose walks take time, and are counted by layer."""

    kind, name = Kind.STORAGE, "slow"

    def __init__(self) -> None:
        self.walks: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self.takes: dict[str, float] = {}

    def usage(self, layer: str) -> Any:
        self.walks[layer] = self.walks.get(layer, 0) + 1
        time.sleep(self.takes.get(layer, 0.0))
        if layer not in self.sizes:
            raise NotFound(f"no such layer: {layer}")
        return SimpleNamespace(bytes=self.sizes[layer])


class Containers:
    """A registry; those in ``busy`` use the processor all the time."""

    def __init__(self) -> None:
        self.lives: dict[str, Any] = {}
        self.busy: set[str] = set()

    def add(self, id: str, *, running: bool = True) -> None:
        record = Container(id=id, name=id, created="", path="", args=[], layer=id,
                           config=ContainerConfig(), host_config=HostConfig())  # fmt: skip
        self.lives[id] = SimpleNamespace(record=record, shim=object() if running else None)

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self.lives.values()))

    def __contains__(self, id: str) -> bool:
        return id in self.lives

    def live(self, id: str) -> Any:
        return self.lives[id]

    def records(self) -> list[Container]:
        return [live.record for live in self]


class World:
    def __init__(self, path: Path) -> None:
        self.storage, self.containers = Storage(), Containers()
        self.database = Database(path / "engine.db")
        volumes: Any = SimpleNamespace(list=list, all=dict)
        bundles: Any = SimpleNamespace(
            storage=lambda record: self.storage, cgroup=lambda record: f"/test/{record.id}"
        )
        containers: Any = self.containers
        drivers: Any = None
        self.usage = DiskUsage(self.database, containers, volumes, drivers, bundles)

    def event(self, action: str, id: str) -> None:
        self.usage.heard(Event(1, "container", action, id, {}, 0))

    async def eventually(self, id: str, size: int) -> None:
        async with asyncio.timeout(5):
            while self.usage.layer(id) != size:
                await asyncio.sleep(0.005)


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    made = World(tmp_path)
    ticks = itertools.count()
    monkeypatch.setattr(module, "EVERY", 0.01)
    monkeypatch.setattr(
        module,
        "cpu_time",
        lambda cgroup: next(ticks) if cgroup.path[6:] in made.containers.busy else 7,
    )
    yield made
    await made.usage.close()
    made.database.close()


async def test_who_uses_no_processor_time_is_measured_once(world: World) -> None:
    world.containers.add("a")
    world.storage.sizes["a"] = 5
    world.event("start", "a")
    await world.eventually("a", 5)
    await asyncio.sleep(0.2)
    assert world.storage.walks == {"a": 1}
    world.containers.busy.add("a")
    world.storage.sizes["a"] = 6
    await world.eventually("a", 6)


async def test_a_walk_is_repeated_the_later_the_longer_it_took(world: World) -> None:
    world.containers.add("a")
    world.containers.busy.add("a")
    world.storage.sizes["a"], world.storage.takes["a"] = 1, WALK
    world.event("start", "a")
    await asyncio.sleep(module.SHARE * WALK * 0.9)
    assert world.storage.walks == {"a": 1}
    async with asyncio.timeout(10):
        while world.storage.walks == {"a": 1}:
            await asyncio.sleep(0.01)


async def test_many_together_take_no_more_than_one(world: World) -> None:
    for name in "abcd":
        world.containers.add(name)
        world.containers.busy.add(name)
        world.storage.sizes[name], world.storage.takes[name] = 1, WALK / 4
    world.event("start", "a")
    await asyncio.sleep(module.SHARE * WALK * 0.9)
    assert world.storage.walks == dict.fromkeys("abcd", 1)


async def test_a_long_walk_does_not_keep_others_from_theirs(world: World) -> None:
    for name in "ab":
        world.containers.add(name)
        world.storage.sizes[name] = 3
    world.storage.takes["a"] = 2.0
    world.event("start", "a")
    began = time.monotonic()
    await world.eventually("b", 3)
    assert time.monotonic() - began < 1.9
    assert world.usage.layer("a") == 0


async def test_it_rests_when_nothing_runs(world: World) -> None:
    world.containers.add("a", running=False)
    world.storage.sizes["a"] = 4
    world.event("die", "a")
    await world.eventually("a", 4)
    await asyncio.sleep(0.1)
    assert [task.get_name() for task in asyncio.all_tasks()].count("disk usage") == 0
    assert world.storage.walks == {"a": 1}


async def test_who_asks_for_sizes_gets_new_ones(world: World) -> None:
    for name in "ab":
        world.containers.add(name, running=False)
        world.storage.sizes[name] = 9
    world.event("die", "a")
    await world.usage.catch_up(["a", "b", "none"])
    assert world.usage.layer("a") == 9
    await world.usage.catch_up(["a", "b"])
    assert world.storage.walks == {"a": 1}


async def test_who_asks_for_sizes_does_not_wait_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CATCHES_UP_WITHIN", 0.1)
    world.containers.add("a", running=False)
    world.storage.takes["a"] = 1.0
    world.event("die", "a")
    began = time.monotonic()
    await world.usage.catch_up(["a"])
    assert time.monotonic() - began < 0.8


async def test_what_is_about_to_go_is_measured_now(world: World) -> None:
    world.containers.add("a", running=False)
    world.storage.sizes["a"] = 9
    world.event("die", "a")
    assert world.usage.layer("a") == 0
    assert await world.usage.fresh("a") == 9
    assert await world.usage.fresh("a") == 9
    assert world.storage.walks == {"a": 1}


async def test_removed_while_it_was_walked(world: World) -> None:
    world.containers.add("a", running=False)
    world.storage.sizes["a"], world.storage.takes["a"] = 9, 0.1
    world.event("die", "a")
    async with asyncio.timeout(5):
        while "a" not in world.storage.walks:
            await asyncio.sleep(0.005)
    del world.containers.lives["a"]
    world.event("destroy", "a")
    await asyncio.sleep(0.2)
    assert world.usage.layer("a") == 0
    await world.database.commit()
    assert world.database.load(LAYERS, Size) == {}


async def test_a_walk_that_fails_leaves_what_was_known(world: World) -> None:
    world.containers.add("a", running=False)
    world.storage.sizes["a"] = 9
    world.event("die", "a")
    await world.eventually("a", 9)
    del world.storage.sizes["a"]
    world.event("extract-to-dir", "a")
    await asyncio.sleep(0.1)
    assert world.usage.layer("a") == 9


async def test_sizes_are_kept_and_strangers_forgotten(tmp_path: Path) -> None:
    first = World(tmp_path)
    await first.database.commit(Put(LAYERS, "a", Size(11)), Put(LAYERS, "gone", Size(12)))
    first.database.close()
    second = World(tmp_path)
    second.containers.add("a", running=False)
    second.usage.start()
    assert second.usage.layer("a") == 11
    assert second.usage.layer("gone") == 0
    await second.usage.close()
    await second.database.commit()
    assert set(second.database.load(LAYERS, Size)) == {"a"}
    second.database.close()
