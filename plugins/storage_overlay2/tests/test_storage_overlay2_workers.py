"""overlay2's layers, staged by the engine's worker processes."""

from __future__ import annotations

import asyncio
import errno
import gzip
import hashlib
import io
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from pyengine.engine.calls import DriverCalls
from pyengine.engine.images.unpackers import Unpackers
from pyengine.errors import EngineError, NotFound
from pyengine.linux import syscalls
from pyengine.testing.storage import (
    Bench,
    context_for,
    directory,
    file,
    opaque,
    tar,
    whiteout,
)
from pyengine_storage_overlay2 import Overlay2

Blob = Callable[[bytes], int]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(lambda root: Overlay2(context_for(root)), tmp_path / "root", on_disk=True)
    yield bench
    bench.close()


@pytest.fixture
async def unpacking(bench: Bench) -> AsyncIterator[Unpackers]:
    made = Unpackers(bench.driver, DriverCalls(bench.driver))  # type: ignore[arg-type]
    yield made
    await made.close()


@pytest.fixture
def blob(tmp_path: Path) -> Iterator[Blob]:
    opened: list[int] = []

    def make(data: bytes) -> int:
        path = tmp_path / f"blob{len(opened)}"
        path.write_bytes(data)
        opened.append(os.open(path, os.O_RDONLY))
        return opened[-1]

    yield make
    for fd in opened:
        os.close(fd)


def half_made(bench: Bench) -> list[str]:
    root = bench.root / "driver"
    return [
        path.name for place in (".making", ".staged", ".trash") for path in (root / place).iterdir()
    ]


async def test_layers_come_in_any_order(bench: Bench, unpacking: Unpackers, blob: Blob) -> None:
    layers = [
        tar(directory("d", 0o710, uid=3), file("d/0"), file("all"), directory("o"), file("o/0")),
        tar(file("d/1"), file("all", b"1"), whiteout("d/0"), whiteout("nothing")),
        tar(file("d/2"), file("all", b"2"), opaque("o"), file("o/2")),
        tar(file("d/3"), whiteout("all"), whiteout("d"), directory("d"), file("d/4")),
    ]  # fmt: skip
    sources = [blob(gzip.compress(layer)) for layer in layers]
    ids = [bench.id() for _ in layers]
    staged = await asyncio.gather(
        *(unpacking.stage(id, fd) for id, fd in reversed(list(zip(ids, sources, strict=True))))
    )
    assert [done.diff_id for done in reversed(staged)] == [
        "sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers
    ]
    assert {done.usage for done in staged} == {None}
    parent = None
    for id in ids:
        bench.driver.finish(id, parent)
        parent = id
    applied = None
    for layer in layers:
        id = bench.id()
        bench.driver.apply(id, applied, io.BytesIO(layer))
        applied = id
    assert bench.view(ids[-1]) == bench.view(applied)  # type: ignore[arg-type]
    assert set(bench.view(ids[-1])) == {"d", "d/4", "o", "o/2"}
    assert half_made(bench) == []


async def test_a_worker_that_stages_is_no_administrator(bench: Bench, unpacking: Unpackers) -> None:
    source, out = os.pipe()
    task = asyncio.create_task(unpacking.stage(bench.id(), source))
    while not unpacking._workers:
        await asyncio.sleep(0.01)
    (worker,) = unpacking._workers
    while "CapEff:\t000000008800001f" not in Path(f"/proc/{worker._pid}/status").read_text():
        await asyncio.sleep(0.01)
    os.close(out)
    await task
    os.close(source)


@pytest.mark.parametrize("end", ["cancelled", "killed"])
async def test_ended_midway(bench: Bench, unpacking: Unpackers, end: str) -> None:
    source, out = os.pipe()
    layer = tar(*(file(f"f{number}", b"x" * 900) for number in range(20)))
    os.write(out, layer[:15000])
    id = bench.id()
    task = asyncio.create_task(unpacking.stage(id, source))
    while not list((bench.root / "driver").glob(f".staged/{id}.*/diff/f5")):
        await asyncio.sleep(0.01)
    if end == "cancelled":
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        (worker,) = unpacking._workers
        os.kill(worker._pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="killed"):
            await task
    os.close(out)
    os.close(source)
    assert unpacking._workers == set()
    assert half_made(bench) == []
    with pytest.raises(NotFound):
        bench.driver.finish(id, None)


async def test_a_layer_larger_than_the_disk(tmp_path: Path, blob: Blob) -> None:
    """On a filesystem of its own, as data roots are; what was there before is as it was."""
    image, place = tmp_path / "image", tmp_path / "place"
    place.mkdir()
    with image.open("wb") as out:
        out.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    driver = Overlay2(context_for(place))
    unpacking = Unpackers(driver, DriverCalls(driver))
    try:
        await unpacking.apply("a" * 64, None, blob(tar(file("kept", b"1"))))
        free = os.statvfs(place).f_ffree
        # incompressible to the disk, but not to gzip: 100 MB in 100 KB
        big = gzip.compress(tar(file("big", b"x" * 100_000_000)))
        many = gzip.compress(tar(*(file(f"f{number}", b"x") for number in range(10_000))))
        for layer in (big, many):
            with pytest.raises(OSError, match="No space left") as caught:
                await unpacking.stage("b" * 64, blob(layer))
            assert caught.value.errno == errno.ENOSPC
            assert os.statvfs(place).f_ffree == free
            with pytest.raises(NotFound):
                driver.finish("b" * 64, None)
        assert (place / "driver" / ("a" * 64) / "diff/kept").read_bytes() == b"1"
        await unpacking.apply("c" * 64, "a" * 64, blob(tar(file("more"))))
    finally:
        await unpacking.close()
        syscalls.umount(place, syscalls.MNT_DETACH)


async def test_a_layer_exported_anywhere_has_one_digest(
    bench: Bench, unpacking: Unpackers, blob: Blob, tmp_path: Path
) -> None:
    layer = tar(
        directory("d", mtime=10**18 + 5),
        file("d/b", b"1" * 5000, mtime=123),
        file("implied/deep/a", b"2", xattrs={"user.k": b"v"}),
        whiteout("gone"),
        whiteout("d/never"),
    )
    base = tar(file("gone"))
    other = Overlay2(context_for(tmp_path / "other"))
    digests = set()
    for driver in (bench.driver, other):
        unpacking = Unpackers(driver, DriverCalls(driver))  # type: ignore[arg-type]
        await unpacking.apply("a" * 64, None, blob(base))
        await unpacking.apply("b" * 64, "a" * 64, blob(layer))
        await unpacking.close()
        for _ in range(2):
            out = io.BytesIO()
            driver.diff("b" * 64, out)
            digests.add(hashlib.sha256(out.getvalue()).hexdigest())
    assert len(digests) == 1
    listed = subprocess.run(
        ["tar", "-tf", "-"], input=out.getvalue(), capture_output=True, check=True
    )
    assert listed.stdout.decode().split() == [
        "d/", "d/b", ".wh.gone", "implied/", "implied/deep/", "implied/deep/a",
    ]  # fmt: skip
    assert listed.stderr == b""
