"""Layers are unpacked in processes of their own, which may be killed."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pyengine.engine.calls import DriverCalls
from pyengine.engine.unpackers import Unpackers
from pyengine.testing.plain_storage import PlainStorage
from pyengine.testing.storage import context_for, directory, file, tar


def blob(place: Path, data: bytes) -> int:
    path = place / hashlib.sha256(data).hexdigest()
    path.write_bytes(data)
    return os.open(path, os.O_RDONLY)


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@pytest.fixture
def driver(tmp_path: Path) -> PlainStorage:
    return PlainStorage(context_for(tmp_path))


@pytest.fixture
async def unpacking(driver: PlainStorage) -> AsyncIterator[Unpackers]:
    made = Unpackers(driver, DriverCalls(driver))
    yield made
    await made.close()


async def test_a_layer(unpacking: Unpackers, driver: PlainStorage, tmp_path: Path) -> None:
    stream = tar(directory("d"), file("d/f", b"x" * 10000))
    source = blob(tmp_path, gzip.compress(stream))
    seen: list[int] = []
    done = await unpacking.apply(
        "a" * 64, None, source, diff_id=digest(stream), progress=seen.append
    )
    assert (done.diff_id, done.size) == (digest(stream), len(stream))
    assert done.usage == driver.usage("a" * 64)
    assert (driver.mount("a" * 64) / "d/f").read_bytes() == b"x" * 10000
    driver.unmount("a" * 64)
    assert seen
    # the descriptor is still the caller's, at its beginning
    assert os.lseek(source, 0, os.SEEK_CUR) == 0
    os.close(source)
