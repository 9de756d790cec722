"""Driver calls with deadlines, the journal of events, following a log, the volumes service."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pyengine.contracts.base import DriverContext, Kind, Probe, Reconciled
from pyengine.contracts.logging import LogChunk, LogReader
from pyengine.contracts.volume import VolumeDriver, VolumeRecord
from pyengine.engine import calls as calls_module
from pyengine.engine import events as events_module
from pyengine.engine.calls import DriverCalls
from pyengine.engine.containers.logs import follow_log
from pyengine.engine.events import Events
from pyengine.engine.model import MountPoint
from pyengine.engine.volumes import MOUNTS, Volumes
from pyengine.errors import Conflict, DriverBroken, DriverWedged, InvalidParameter, NotFound
from pyengine.state.database import Database


class Fake(VolumeDriver):
    """Volumes as directories; ``stuck`` makes calls wait, ``raises`` makes them fail."""

    name = "fake"
    answers = True

    def __init__(self, context: DriverContext) -> None:
        super().__init__(context)
        self.stuck = threading.Event()
        self.stuck.set()
        self.asked: list[str] = []

    @classmethod
    def probe(cls, context: DriverContext) -> Probe:
        return Probe(cls.answers)

    def create(self, volume: VolumeRecord) -> None:
        self.path(volume.name).mkdir(parents=True, exist_ok=True)

    def remove(self, name: str) -> None:
        self.path(name).rmdir()

    def path(self, name: str) -> Path:
        return self.context.root / name

    def mount(self, volume: VolumeRecord, user: str) -> Path:
        if volume.options:
            self.asked.append(volume.name)
            self.stuck.wait(20)
        return self.path(volume.name)

    def unmount(self, volume: VolumeRecord, user: str) -> None: ...

    def usage(self, name: str) -> int:
        self.stuck.wait(20)
        return 7

    def reconcile(self, known: Any, users: Any) -> Reconciled:
        return Reconciled(restored=sorted(known))


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Fake]:
    found = Fake(DriverContext("id", "petest", tmp_path / "root", tmp_path / "run"))
    yield found
    found.stuck.set()


# -- calls -----------------------------------------------------------------------------------------


async def test_a_call_runs_on_another_thread_and_answers(driver: Fake) -> None:
    calls = DriverCalls(driver)
    assert await calls(driver.usage, "x") == 7
    thread = await calls(threading.current_thread)
    assert thread is not threading.current_thread()
    assert thread.daemon


async def test_what_a_driver_raises(driver: Fake) -> None:
    def fail(error: BaseException) -> None:
        raise error

    calls = DriverCalls(driver)
    with pytest.raises(Conflict, match="busy"):
        await calls(fail, Conflict("busy"))
    with pytest.raises(FileNotFoundError):
        await calls(fail, FileNotFoundError(2, "gone"))
    with pytest.raises(TimeoutError):
        await calls(fail, TimeoutError("its own"))
    assert not calls.wedged_since
    with pytest.raises(DriverBroken, match="volume driver 'fake' failed in fail: KeyError: 'x'"):
        await calls(fail, KeyError("x"))
    with pytest.raises(DriverBroken, match="StopIteration"):
        await calls(fail, StopIteration())


async def test_a_missed_deadline_wedges_the_driver_until_a_probe_answers(
    driver: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls_module, "PROBE_FIRST", 0.05)
    calls = DriverCalls(driver)
    driver.stuck.clear()
    with pytest.raises(
        DriverWedged, match=r"'fake' does not answer: usage: no answer within 0.1 s"
    ):
        await calls.within(0.1, driver.usage, "x")
    began = time.monotonic()
    with pytest.raises(DriverWedged, match="it stopped answering 0 s ago"):
        await calls(driver.path, "x")
    assert time.monotonic() - began < 0.5, "later calls fail at once"
    await asyncio.sleep(0.2)
    assert calls.wedged_since, "a call is stuck still, whatever the probe says"
    driver.stuck.set()
    for _ in range(100):
        if not calls.wedged_since:
            break
        await asyncio.sleep(0.05)
    assert await calls(driver.usage, "x") == 7


async def test_forty_stuck_calls_take_no_other_driver_with_them(
    driver: Fake, tmp_path: Path
) -> None:
    other = Fake(DriverContext("id", "petest", tmp_path / "o", tmp_path / "r"))
    stuck, free = DriverCalls(driver), DriverCalls(other)
    driver.stuck.clear()
    waiting = [asyncio.ensure_future(stuck.within(5, driver.usage, "x")) for _ in range(40)]
    await asyncio.sleep(0.05)
    began = time.monotonic()
    assert await free(other.usage, "x") == 7
    assert time.monotonic() - began < 1.0
    assert sum(t.name.startswith("volume.fake") for t in threading.enumerate()) <= 2 * 8
    driver.stuck.set()
    assert await asyncio.gather(*waiting) == [7] * 40


async def test_a_call_costs_little(driver: Fake) -> None:
    calls = DriverCalls(driver)
    await calls(driver.path, "x")
    began = time.process_time()
    for _ in range(200):
        await calls(driver.path, "x")
    assert (time.process_time() - began) / 200 < 0.005


# -- events ----------------------------------------------------------------------------------------


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    found = Database(tmp_path / "db")
    yield found
    found.close()


async def gather(events: Events, count: int, **how: Any) -> list[dict[str, Any]]:
    got: list[dict[str, Any]] = []
    stream = events.subscribe(**how)
    async with asyncio.timeout(5):
        async for message in stream:
            got.append(message)
            if len(got) == count:
                break
    await stream.aclose()  # type: ignore[attr-defined]
    return got


async def test_past_events_then_new_ones(database: Database) -> None:
    told: list[dict[str, Any]] = []
    events = Events(database, told.append)
    before = time.time()
    events.emit("container", "create", "c1", {"image": "busybox", "name": "web"})
    events.emit("network", "connect", "n1", {"container": "c1"})
    later = asyncio.create_task(gather(events, 3, since=before))
    await asyncio.sleep(0.05)
    events.emit("container", "start", "c1", {"name": "web"})
    got = await later
    assert [m["Action"] for m in got] == ["create", "connect", "start"]
    first = got[0]
    assert (first["status"], first["id"], first["from"]) == ("create", "c1", "busybox")
    assert first["Actor"] == {"ID": "c1", "Attributes": {"image": "busybox", "name": "web"}}
    assert first["scope"] == "local"
    assert first["timeNano"] // 10**9 == first["time"]
    assert "status" not in got[1]
    assert told == got


async def test_until_ends_the_stream(database: Database) -> None:
    events = Events(database, lambda _: None)
    events.emit("container", "create", "c1")
    now = time.time()
    assert len(await gather(events, 99, since=now - 1, until=now)) == 1
    assert await gather(events, 99, since=now - 20, until=now - 10) == []
    assert len(await gather(events, 99, since=now - 1, until=now + 0.1)) == 1


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"type": ["network"]}, ["connect"]),
        ({"event": ["start", "connect"]}, ["connect", "start"]),
        ({"event": ["exec_start"]}, ["exec_start: sh"]),
        ({"container": ["web"]}, ["create", "exec_start: sh", "start"]),
        ({"container": ["c1"], "event": ["start"]}, ["start"]),
        ({"image": ["busybox"]}, ["create"]),
        ({"label": ["tier=front"]}, ["create"]),
        ({"label": ["tier"]}, ["create"]),
        ({"label": ["tier=back"]}, []),
        ({"scope": ["swarm"]}, []),
        ({"container": ["nonesuch"]}, []),
        ({"type": []}, ["create", "connect", "exec_start: sh", "start"]),
    ],
)
async def test_event_filters(
    database: Database, filters: dict[str, list[str]], expected: list[str]
) -> None:
    events = Events(database, lambda _: None)
    labelled = {"image": "busybox:latest", "name": "web", "tier": "front"}
    events.emit("container", "create", "c1", labelled)
    events.emit("network", "connect", "n1")
    events.emit("container", "exec_start: sh", "c1", {"name": "web"})
    events.emit("container", "start", "c1", {"name": "web"})
    now = time.time()
    got = await gather(events, 99, since=now - 1, until=now, filters=filters)
    assert [m["Action"] for m in got] == expected


async def test_an_unknown_event_filter(database: Database) -> None:
    with pytest.raises(InvalidParameter, match="invalid filter 'nonesuch'"):
        await gather(Events(database, lambda _: None), 1, filters={"nonesuch": ["x"]})


async def test_the_journal_is_bounded_and_survives(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "KEEP", 10)
    events = Events(database, lambda _: None)
    for number in range(25):
        events.emit("container", f"a{number}", "c1")
    events.close()
    await database.commit()
    again = Events(database, lambda _: None)
    again.emit("container", "last", "c1")
    now = time.time()
    got = await gather(again, 99, since=now - 10, until=now)
    assert [m["Action"] for m in got] == ["gap", *(f"a{n}" for n in range(16, 25)), "last"]


async def test_numbers_go_on_after_a_crash(tmp_path: Path) -> None:
    first = Database(tmp_path / "db")
    events = Events(first, lambda _: None)
    await first.commit()
    for _ in range(3):
        events.emit("container", "start", "c1")
    # It dies before it has written them.
    first.close()
    second = Database(tmp_path / "db")
    again = Events(second, lambda _: None)
    again.emit("container", "die", "c1")
    (message,) = await gather(again, 1, after=0)
    assert message["Action"] == "gap"
    missed, die = await gather(again, 2, after=3)
    assert (missed["Action"], die["Action"]) == ("gap", "die")
    assert die["sequence"] > 3
    again.close()
    second.close()
    third = Database(tmp_path / "db")
    last = Events(third, lambda _: None)
    last.emit("container", "start", "c1")
    got = await gather(last, 1, after=die["sequence"])
    assert [m["sequence"] for m in got] == [die["sequence"] + 1], "one that ended well goes on"
    third.close()


async def test_a_client_goes_on_behind_the_number_it_knows(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "KEEP", 10)
    events = Events(database, lambda _: None)
    for number in range(1, 26):
        events.emit("container", f"a{number}", "c1")
    assert [m["Action"] for m in await gather(events, 3, after=20)] == ["a21", "a22", "a23"]
    missed, *rest = await gather(events, 11, after=5, filters={"type": ["container"]})
    assert missed["Action"] == "gap"
    assert missed["Actor"]["Attributes"] == {"after": "5", "before": "16", "missed": "10"}
    assert [m["Action"] for m in rest] == [f"a{n}" for n in range(16, 26)]
    later = asyncio.create_task(gather(events, 1, after=1000))
    await asyncio.sleep(0.05)
    events.emit("container", "new", "c1")
    assert (await later)[0]["Action"] == "new", "a number that is none of ours"


async def test_who_is_overtaken_is_told(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow client costs no memory, and nobody else's events."""
    monkeypatch.setattr(events_module, "KEEP", 10)
    events = Events(database, lambda _: None)
    slow = events.subscribe()
    first = asyncio.ensure_future(anext(slow))
    await asyncio.sleep(0.01)
    for number in range(1, 31):
        events.emit("container", f"a{number}", "c1")
    got = [await first]
    for _ in range(10):
        got.append(await anext(slow))
    actions = [message["Action"] for message in got]
    assert actions == ["gap", *(f"a{n}" for n in range(21, 31))]
    await slow.aclose()  # type: ignore[attr-defined]


async def test_a_journal_that_does_not_reach_back_far_enough_says_so(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "KEEP", 3)
    events = Events(database, lambda _: None)
    before = time.time() - 1
    for number in range(1, 9):
        events.emit("container", f"a{number}", "c1")
    now = time.time()
    got = [m["Action"] for m in await gather(events, 9, since=before, until=now)]
    assert got == ["gap", "a6", "a7", "a8"]
    only = {"type": ["container"]}
    got = [m["Action"] for m in await gather(events, 9, since=before, until=now, filters=only)]
    assert got == ["a6", "a7", "a8"], "who asks for containers gets nothing else"


async def test_closing_ends_who_listens(database: Database) -> None:
    events = Events(database, lambda _: None)
    listener = asyncio.create_task(gather(events, 1))
    await asyncio.sleep(0.05)
    events.close()
    assert await listener == []


# -- logs ------------------------------------------------------------------------------------------


class Lines(LogReader):
    """Reads whole lines of a file, from where it was."""

    def __init__(self, path: Path) -> None:
        self.path, self.at, self.closed = path, 0, False

    def read(self) -> Iterator[LogChunk]:
        data = self.path.read_bytes()[self.at :]
        self.at += len(data)
        for line in data.splitlines(True):
            yield LogChunk(1, line, 0)

    def close(self) -> None:
        self.closed = True


async def test_following_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"".join(b"%d\n" % n for n in range(100)))
    reader, ended = Lines(path), asyncio.Event()
    got: list[bytes] = []

    async def follow() -> None:
        async for chunk in follow_log(reader, path, ended, lambda data: data.replace(b"7", b"*")):
            got.append(chunk.data)

    task = asyncio.create_task(follow())
    await asyncio.sleep(0.1)
    assert len(got) == 100
    assert got[7] == b"*\n"
    with path.open("ab") as file:
        file.write(b"more\n")
    await asyncio.sleep(0.2)
    assert got[-1] == b"more\n"
    with path.open("ab") as file:
        file.write(b"last\n")
    ended.set()
    await asyncio.wait_for(task, 5)
    assert got[-1] == b"last\n"
    assert reader.closed


async def test_without_following_it_ends_at_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"1\n2\n")
    reader = Lines(path)
    assert [c.data async for c in follow_log(reader, path, None)] == [b"1\n", b"2\n"]
    assert reader.closed


# -- volumes ---------------------------------------------------------------------------------------


@pytest.fixture
async def volumes(database: Database, driver: Fake) -> Volumes:
    async def use(kind: Kind, name: str = "") -> Fake:
        return driver

    drivers: Any = SimpleNamespace(
        use=use, default=lambda kind: "fake", get=lambda kind, name: driver, has=lambda kind: True
    )
    calls = DriverCalls(driver)

    def calls_of(kind: Kind, name: str) -> DriverCalls:
        return calls

    return Volumes(database, drivers, calls_of, Events(database, lambda _: None))


async def test_volumes_are_made_listed_and_removed(volumes: Volumes, driver: Fake) -> None:
    made = await volumes.create("data", labels={"a": "b"})
    assert (made.driver, made.anonymous, made.labels) == ("fake", False, {"a": "b"})
    assert driver.path("data").is_dir()
    assert volumes.mountpoint("data") == str(driver.path("data"))
    assert await volumes.create("data") == made, "again is fine"
    anonymous = await volumes.create()
    assert anonymous.anonymous
    assert len(anonymous.name) == 64
    assert {v.name for v in volumes.list()} == {"data", anonymous.name}
    await volumes.remove("data")
    assert not driver.path("data").exists()
    with pytest.raises(NotFound, match="get data: no such volume"):
        await volumes.remove("data")
    await volumes.remove("data", force=True)


async def test_a_volume_in_use_stays(volumes: Volumes) -> None:
    await volumes.create("data")
    volumes.users = lambda name: ["c1"]
    with pytest.raises(Conflict, match=r"remove data: volume is in use - \[c1\]"):
        await volumes.remove("data", force=True)
    assert await volumes.prune({"all": ["true"]}) == ([], 0)


async def test_servers_that_are_silent_hold_up_nobody_else(volumes: Volumes, driver: Fake) -> None:
    point = MountPoint(type="volume", destination="/x")
    await volumes.create("plain")
    silent = [(await volumes.create(f"silent{n}", options={"o": "1"})).name for n in range(12)]
    driver.stuck.clear()
    waiting = [asyncio.create_task(volumes.mount(name, "c1", point)) for name in silent]
    waiting += [asyncio.create_task(volumes.mount("silent0", "c2", point))]
    while len(driver.asked) < MOUNTS:
        await asyncio.sleep(0.01)
    for _ in range(3):
        async with asyncio.timeout(10):
            assert await volumes.mount("plain", "c3", point) == driver.path("plain")
    assert len(driver.asked) == MOUNTS, "the others wait without a thread"
    assert driver.asked.count("silent0") == 1, "nobody is asked two things about one volume"
    driver.stuck.set()
    assert len(await asyncio.gather(*waiting)) == 13
    assert sorted(driver.asked) == sorted([*silent, "silent0"])


async def test_conflicts_and_bad_names(volumes: Volumes) -> None:
    await volumes.create("data", options={"o": "1"})
    with pytest.raises(Conflict, match="is in use by driver"):
        await volumes.create("data", driver="other")
    with pytest.raises(Conflict, match="exists with other options"):
        await volumes.create("data", options={"o": "2"})
    for name in ("-a", "a/b", "a b"):
        with pytest.raises(
            InvalidParameter, match="includes invalid characters for a local volume"
        ):
            await volumes.create(name)


async def test_volume_filters_and_prune(volumes: Volumes) -> None:
    await volumes.create("data", labels={"a": "b"})
    await volumes.create("other")
    anonymous = (await volumes.create()).name
    volumes.users = lambda name: ["c1"] if name == "other" else []

    def names(**filters: list[str]) -> set[str]:
        return {record.name for record in volumes.list(filters)}

    assert names(name=["dat"]) == {"data"}
    assert names(label=["a"]) == names(label=["a=b"]) == {"data"}
    assert names(dangling=["true"]) == {"data", anonymous}
    assert names(dangling=["0"]) == {"other"}
    assert names(driver=["fake"]) == {"data", "other", anonymous}
    with pytest.raises(InvalidParameter, match="invalid filter 'nonesuch'"):
        names(nonesuch=["x"])
    assert await volumes.prune() == ([anonymous], 7)
    assert (await volumes.prune({"all": ["1"]}))[0] == ["data"]


async def test_what_leaves_with_its_container_is_not_listed(volumes: Volumes) -> None:
    name = (await volumes.create()).name
    volumes.leaves(name)
    assert volumes.list() == []
    await volumes.go(name)
    with pytest.raises(NotFound):
        volumes.get(name)


async def test_what_cannot_leave_is_listed_again(volumes: Volumes) -> None:
    name = (await volumes.create()).name
    volumes.leaves(name)
    volumes.users = lambda name: ["c1"]
    with pytest.raises(Conflict):
        await volumes.go(name)
    assert [record.name for record in volumes.list()] == [name]


async def test_volumes_outlive_the_service(
    volumes: Volumes, database: Database, driver: Fake
) -> None:
    await volumes.create("data")
    again = Volumes(database, volumes._drivers, volumes._calls, volumes._events)
    assert again.get("data").driver == "fake"
    assert await again.reconcile({}) == ["data"]
