"""Layers are unpacked in processes of their own, which may be killed."""

from __future__ import annotations

import asyncio
import errno
import gzip
import hashlib
import os
import resource
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from pyengine.engine.calls import DriverCalls
from pyengine.engine.images import unpackers
from pyengine.engine.images.unpackers import DiffIdMismatch, Unpackers
from pyengine.errors import EngineError, InvalidParameter, NotFound, Unavailable, Unsupported
from pyengine.linux import syscalls
from pyengine.testing.plain_storage import PlainStorage
from pyengine.testing.storage import context_for, directory, file, tar

ID = "a" * 64
LAYER = tar(directory("d"), file("d/f", b"x" * 10000), file("g", os.urandom(100_000)))
Blob = Callable[[bytes], int]


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


DIFF_ID = digest(LAYER)


@pytest.fixture
def blob(tmp_path: Path) -> Iterator[Blob]:
    """Makes a file of what it is given, and returns a descriptor of it."""
    opened: list[int] = []

    def make(data: bytes) -> int:
        path = tmp_path / f"blob{len(opened)}"
        path.write_bytes(data)
        opened.append(os.open(path, os.O_RDONLY))
        return opened[-1]

    yield make
    for fd in opened:
        os.close(fd)


class Pipe:
    """A layer that comes as slowly as the test likes."""

    def __init__(self, data: bytes = b"") -> None:
        self.fd, self._in = os.pipe()
        os.write(self._in, data)

    def end(self, data: bytes = b"") -> None:
        os.write(self._in, data)
        os.close(self._in)
        self._in = -1

    def __del__(self) -> None:
        os.close(self.fd)
        if self._in >= 0:
            os.close(self._in)


@pytest.fixture
def driver(tmp_path: Path) -> PlainStorage:
    return PlainStorage(context_for(tmp_path))


@pytest.fixture
async def unpacking(driver: PlainStorage) -> AsyncIterator[Unpackers]:
    made = Unpackers(driver, DriverCalls(driver))
    yield made
    await made.close()


def pids(unpacking: Unpackers) -> list[int]:
    return [worker._pid for worker in unpacking._workers]


async def working(unpacking: Unpackers) -> int:
    """The pid of a worker that has taken up its job and waits for more of its layer."""
    while True:
        for pid in pids(unpacking):
            threads = len(os.listdir(f"/proc/{pid}/task"))
            if threads == 3:  # it, what watches the daemon, and what decompresses
                return pid
        await asyncio.sleep(0.01)


def left_over(driver: PlainStorage) -> list[str]:
    root = Path(driver.context.root)
    return [
        str(path.relative_to(root))
        for place in (".making", ".staged", ".trash", "dir", "meta")
        for path in (root / place).glob("*")
    ]


async def test_a_layer(unpacking: Unpackers, driver: PlainStorage, blob: Blob) -> None:
    source = blob(gzip.compress(LAYER))
    seen: list[int] = []
    done = await unpacking.apply(ID, None, source, diff_id=DIFF_ID, progress=seen.append)
    assert (done.diff_id, done.size) == (DIFF_ID, len(LAYER))
    assert done.usage == driver.usage(ID)
    assert (Path(driver.context.root) / "dir" / ID / "d/f").read_bytes() == b"x" * 10000
    assert seen
    assert max(seen) <= os.fstat(source).st_size
    assert os.lseek(source, 0, os.SEEK_CUR) == 0, "the descriptor is still the caller's"
    upper = blob(tar(file("upper")))
    await unpacking.apply("b" * 64, ID, upper)
    assert driver.changes("b" * 64)[0].path == "/upper"


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
async def test_small_layers_need_no_worker(
    unpacking: Unpackers, driver: PlainStorage, blob: Blob, compress: Callable[[bytes], bytes]
) -> None:
    layer = tar(file("f", b"x" * 1000))
    seen: list[int] = []
    source = blob(compress(layer))
    done = await unpacking.apply(ID, None, source, diff_id=digest(layer), progress=seen.append)
    assert (done.diff_id, done.size, done.usage) == (digest(layer), len(layer), driver.usage(ID))
    assert pids(unpacking) == []
    assert seen == [os.fstat(source).st_size]
    for bad in (layer[:700], compress(layer)[:-5], b"x" * 5000):
        with pytest.raises(InvalidParameter):
            await unpacking.apply("b" * 64, None, blob(bad), diff_id=digest(layer))
    assert not driver.exists("b" * 64)
    assert {path for path in left_over(driver) if "b" * 64 in path} == set()
    task = asyncio.create_task(unpacking.apply("c" * 64, None, source))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert {path for path in left_over(driver) if "c" * 64 in path} == set()


async def test_a_pipe(unpacking: Unpackers, driver: PlainStorage) -> None:
    data = gzip.compress(LAYER, mtime=0)
    pipe = Pipe(data[:500])
    task = asyncio.create_task(unpacking.apply(ID, None, pipe.fd, diff_id=DIFF_ID))
    await working(unpacking)
    pipe.end(data[500:60000])
    with pytest.raises(InvalidParameter, match="gzip"):
        await task
    assert left_over(driver) == []


async def test_pipes_hold_up_nobody(driver: PlainStorage, blob: Blob) -> None:
    unpacking = Unpackers(driver, DriverCalls(driver), limit=1)
    pipe = Pipe(b"")
    slow = asyncio.create_task(unpacking.apply(ID, None, pipe.fd))
    await working(unpacking)
    for number in range(3):
        await unpacking.apply(f"{number:064x}", None, blob(LAYER))
    pipe.end(tar(file("a")))
    assert (await slow).usage is not None
    await unpacking.close()


async def test_at_most_so_many(driver: PlainStorage, blob: Blob) -> None:
    unpacking = Unpackers(driver, DriverCalls(driver), limit=2)
    source = blob(LAYER)
    await asyncio.gather(*(unpacking.apply(f"{number:064x}", None, source) for number in range(6)))
    assert len(unpacking._workers) == 2
    await unpacking.close()
    assert pids(unpacking) == []


@pytest.mark.parametrize(
    ("data", "diff_id", "message"),
    [
        (gzip.compress(LAYER), "sha256:" + "0" * 64, "invalid diffID"),
        (gzip.compress(LAYER)[:-100], "", "gzip"),
        (LAYER[:5000], "", "unexpected end"),
        (b"no archive at all" * 1000, "", "not a tar archive"),
        (tar(file("../../escape")), "", "outside"),
    ],
)
async def test_bad_layers(
    unpacking: Unpackers,
    driver: PlainStorage,
    blob: Blob,
    data: bytes,
    diff_id: str,
    message: str,
) -> None:
    with pytest.raises(InvalidParameter, match=message):
        await unpacking.apply(ID, None, blob(data), diff_id=diff_id)
    assert left_over(driver) == []
    await unpacking.apply(ID, None, blob(LAYER))
    assert driver.exists(ID)


async def test_the_digests_of_a_mismatch(unpacking: Unpackers, blob: Blob) -> None:
    wrong = "sha256:" + "0" * 64
    with pytest.raises(DiffIdMismatch) as caught:
        await unpacking.apply(ID, None, blob(LAYER), diff_id=wrong)
    assert (caught.value.expected, caught.value.got) == (wrong, DIFF_ID)


async def test_errors_are_what_they_were(unpacking: Unpackers, blob: Blob) -> None:
    source = blob(LAYER)
    with pytest.raises(NotFound, match="f" * 64):
        await unpacking.apply(ID, "f" * 64, source)
    with pytest.raises(Unsupported, match="plain"):
        await unpacking.stage(ID, source)
    with pytest.raises(InvalidParameter, match="invalid layer id"):
        await unpacking.apply("../x", None, source)


async def test_a_full_disk(tmp_path: Path, blob: Blob) -> None:
    place = tmp_path / "small"
    place.mkdir()
    syscalls.mount("tmpfs", place, "tmpfs", 0, "size=1m")
    driver = PlainStorage(context_for(place))
    unpacking = Unpackers(driver, DriverCalls(driver))
    try:
        await unpacking.apply(ID, None, blob(LAYER))
        free = os.statvfs(place).f_bfree
        big = blob(gzip.compress(tar(file("big", b"x" * 30_000_000))))
        with pytest.raises(OSError, match="No space") as caught:
            await unpacking.apply("b" * 64, None, big)
        assert caught.value.errno == errno.ENOSPC
        assert os.statvfs(place).f_bfree == free
        assert driver.exists(ID)
    finally:
        await unpacking.close()
        syscalls.umount(place, syscalls.MNT_DETACH)


# -- killing --------------------------------------------------------------------------------------


async def test_a_cancelled_call_leaves_nothing(unpacking: Unpackers, driver: PlainStorage) -> None:
    pipe = Pipe(LAYER[:30000])
    task = asyncio.create_task(unpacking.apply(ID, None, pipe.fd))
    pid = await working(unpacking)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not os.path.exists(f"/proc/{pid}")
    assert left_over(driver) == []


async def test_closing_ends_what_is_under_way(unpacking: Unpackers, driver: PlainStorage) -> None:
    pipe = Pipe(LAYER[:60_000])
    going = asyncio.create_task(unpacking.apply(ID, None, pipe.fd))
    while not pids(unpacking):
        await asyncio.sleep(0.01)
    await unpacking.close()
    with pytest.raises(Unavailable, match="shutting down"):
        await going
    with pytest.raises(Unavailable, match="shutting down"):
        await unpacking.apply(ID, None, pipe.fd)
    assert not driver.exists(ID)
    assert not pids(unpacking)


async def test_killed_over_a_pipe(unpacking: Unpackers, driver: PlainStorage) -> None:
    pipe = Pipe(LAYER[:30000])
    task = asyncio.create_task(unpacking.apply(ID, None, pipe.fd))
    os.kill(await working(unpacking), signal.SIGKILL)
    with pytest.raises(EngineError, match=r"was killed: signal 9 .*memory"):
        await task
    assert left_over(driver) == []


async def test_killed_at_every_step(
    driver: PlainStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blob: Blob
) -> None:
    """A file is unpacked once more; whatever the first worker left does not matter."""
    faults = tmp_path / "faults"
    faults.mkdir()
    monkeypatch.setenv("PYENGINE_FAULTS", str(faults))
    source = blob(gzip.compress(LAYER))
    step = 0
    while True:
        step += 1
        unpacking = Unpackers(driver, DriverCalls(driver))
        (faults / "killed").unlink(missing_ok=True)
        (faults / "kill").write_text(f"unpacker {step}")
        done = await unpacking.apply(ID, None, source, diff_id=DIFF_ID)
        assert done.usage == driver.usage(ID)
        await unpacking.close()
        driver.remove(ID)
        driver.sweep()
        assert left_over(driver) == [], f"after a kill at step {step}"
        if not (faults / "killed").exists():
            break
    assert step > 4


async def test_killed_again_and_again(
    unpacking: Unpackers, driver: PlainStorage, blob: Blob
) -> None:
    source = blob(gzip.compress(tar(file("f", os.urandom(30_000_000))), 1))
    task = asyncio.create_task(unpacking.apply(ID, None, source))
    killed: set[int] = set()
    while not task.done():
        for pid in set(pids(unpacking)) - killed:
            killed.add(pid)
            os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.005)
    with pytest.raises(EngineError, match="killed"):
        await task
    assert len(killed) == 2
    assert left_over(driver) == []


async def test_an_idle_worker_that_died_is_not_missed(
    unpacking: Unpackers, driver: PlainStorage, blob: Blob
) -> None:
    source = blob(LAYER)
    await unpacking.apply(ID, None, source)
    (pid,) = pids(unpacking)
    os.kill(pid, signal.SIGKILL)
    await unpacking.apply("b" * 64, None, source)
    assert driver.exists("b" * 64)


async def test_idle_workers_end(
    unpacking: Unpackers, blob: Blob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpackers, "IDLE", 0.2)
    unpacking.warm()
    (warm,) = pids(unpacking)
    await unpacking.apply(ID, None, blob(LAYER))
    assert pids(unpacking) == [warm]
    while os.path.exists(f"/proc/{warm}"):
        await asyncio.sleep(0.02)
    assert pids(unpacking) == []
    await unpacking.apply("b" * 64, None, blob(LAYER))


def test_workers_end_with_the_daemon(tmp_path: Path) -> None:
    script = """
    import asyncio, os, sys
    from pathlib import Path
    from pyengine.engine.calls import DriverCalls
    from pyengine.engine.images.unpackers import Unpackers
    from pyengine.testing.plain_storage import PlainStorage
    from pyengine.testing.storage import context_for

    async def main():
        driver = PlainStorage(context_for(Path(sys.argv[1])))
        unpacking = Unpackers(driver, DriverCalls(driver))
        source, _ = os.pipe()
        asyncio.ensure_future(unpacking.apply("a" * 64, None, source))
        while not unpacking._workers:
            await asyncio.sleep(0.01)
        (worker,) = unpacking._workers
        while len(os.listdir(f"/proc/{worker._pid}/task")) < 3:
            await asyncio.sleep(0.01)
        print(worker._pid, flush=True)
        await asyncio.sleep(60)

    asyncio.run(main())
    """
    daemon = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert daemon.stdout is not None
    pidfd = os.pidfd_open(int(daemon.stdout.readline()))
    daemon.kill()
    daemon.communicate()
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(10_000), "the worker outlives the daemon"
    os.close(pidfd)


# -- what a worker is -----------------------------------------------------------------------------


async def test_a_worker_has_little(unpacking: Unpackers, tmp_path: Path) -> None:
    secret = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(secret, True)
    pipe = Pipe()
    task = asyncio.create_task(unpacking.apply(ID, None, pipe.fd))
    pid = await working(unpacking)
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    # chown, dac_override, dac_read_search, fowner, fsetid, mknod, setfcap; sys_admin for apply
    assert int(status["CapEff"], 16) == 0x8820001F == int(status["CapPrm"], 16)
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Umask"].strip() == "0000"
    opened = {
        os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd") if int(fd) > 2
    }
    assert str(tmp_path) not in opened
    # its socket, the layer's pipe, and the parts of the one root it works on
    assert all(
        name.startswith(("socket:", "pipe:", str(tmp_path / "driver"))) for name in opened
    ), opened
    os.close(secret)
    pipe.end(tar(file("a")))
    await task


async def test_the_daemon_does_not_grow(unpacking: Unpackers, blob: Blob) -> None:
    many = tar(*(file(f"f{number}", b"x" * 100) for number in range(5000)))
    big = tar(file("big", os.urandom(1 << 20) * 60))
    sources = [blob(many), blob(big)]
    await unpacking.apply(ID, None, blob(LAYER))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number, source in enumerate(sources):
        await unpacking.apply(f"{number:064x}", None, source)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4096, "KiB"
