"""Blobs come in whole whatever the registry does, and never more of them than was said."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from pyengine.config import Config
from pyengine.errors import NotFound, Unavailable
from pyengine.oci.image import Descriptor
from pyengine.registry import session
from pyengine.registry.repository import Repository
from pyengine.testing.registry import SmallRegistry

from .conftest import Memory

Step = Callable[[Any], Awaitable[Any]]
Answers = Callable[..., list[Any]]
Open = Callable[..., Repository]

DATA = os.urandom(3_000_000)
BLOB = Descriptor(digest="sha256:" + hashlib.sha256(DATA).hexdigest(), size=len(DATA))


@pytest.fixture(autouse=True)
def _blob(registry: SmallRegistry) -> None:
    registry.blobs["a/b"] = {BLOB.digest: DATA}


def ignore(_: float) -> None: ...


def start_of(request: Any) -> int:
    return int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])


def cut(after: int) -> Step:
    """The connection ends after so many bytes."""

    async def step(request: Any) -> web.StreamResponse:
        start = start_of(request)
        headers = {"Content-Length": str(len(DATA) - start)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        await response.prepare(request)
        await response.write(DATA[start : start + after])
        await asyncio.sleep(0.02)
        request.transport.abort()
        return response

    return step


def answer(status: int, body: bytes = b"", **headers: str) -> Step:
    async def step(request: Any) -> web.Response:
        now = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, body=body, headers=now)

    return step


async def fetch(repository: Repository, ingest: Memory, blob: Descriptor = BLOB) -> list[int]:
    told: list[int] = []
    await repository.fetch(blob, ingest, told.append)
    return told


async def test_a_blob_comes_with_progress(repository: Open) -> None:
    ingest = Memory()
    told = await fetch(repository(), ingest)
    assert bytes(ingest.data) == DATA
    assert told == sorted(told)
    assert told[-1] == len(DATA)


async def test_only_what_is_missing_is_asked_for(repository: Open, registry: SmallRegistry) -> None:
    ingest = Memory(DATA[:1_234_567])
    await fetch(repository(), ingest)
    assert bytes(ingest.data) == DATA
    assert registry.ranges == [f"bytes=1234567-{len(DATA) - 1}"]
    assert ingest.resets == 0
    await fetch(repository(), ingest)  # nothing is missing, nothing is asked
    assert len(registry.ranges) == 1


async def test_a_cut_is_taken_up_where_it_was(
    repository: Open, registry: SmallRegistry, answers: Answers
) -> None:
    seen = answers("GET", "/blobs/", *(cut(200_000) for _ in range(8)))
    ingest = Memory()
    await fetch(repository(), ingest)
    assert bytes(ingest.data) == DATA
    assert ingest.resets == 0
    # more cuts than tries are allowed: each brought something
    assert [start_of(request) for request in seen] == [n * 200_000 for n in range(9)]


async def test_tries_that_bring_nothing_are_counted(repository: Open, answers: Answers) -> None:
    seen = answers("GET", "/blobs/", *(cut(10) for _ in range(20)))
    ingest = Memory()
    with pytest.raises(Unavailable, match="unexpected EOF"):
        await fetch(repository(config=Config(max_download_attempts=3)), ingest)
    assert len(seen) == 3
    assert bytes(ingest.data) == DATA[:30]  # what came stays for the next pull


async def test_a_server_without_ranges_sends_it_all_again(
    repository: Open, answers: Answers
) -> None:
    answers("GET", "/blobs/", cut(100_000), answer(200, DATA))
    ingest = Memory()
    await fetch(repository(), ingest)
    assert bytes(ingest.data) == DATA
    assert ingest.resets == 1


@pytest.mark.parametrize(
    "step",
    [
        answer(416),
        answer(206, DATA[7:], Content_Range=f"bytes 7-{len(DATA) - 1}/{len(DATA)}"),
        answer(206, DATA[1000:], Content_Range=f"bytes 1000-{len(DATA) - 1}/{len(DATA) + 1}"),
        answer(206, DATA[1000:], Content_Range="garbage"),
        answer(206, DATA[1000:]),
    ],
    ids=["416", "another start", "another size", "garbage", "no Content-Range"],
)
async def test_a_wrong_range_means_from_the_beginning(
    repository: Open, answers: Answers, step: Step
) -> None:
    seen = answers("GET", "/blobs/", step)
    ingest = Memory(DATA[:1000])
    await fetch(repository(), ingest)
    assert bytes(ingest.data) == DATA
    assert ingest.resets == 1
    assert "Range" not in seen[1].headers


async def test_a_part_of_the_range_is_not_all(repository: Open, answers: Answers) -> None:
    part = answer(206, DATA[1000:500_000], Content_Range=f"bytes 1000-499999/{len(DATA)}")
    seen = answers("GET", "/blobs/", part)
    ingest = Memory(DATA[:1000])
    await fetch(repository(), ingest)
    assert bytes(ingest.data) == DATA
    assert start_of(seen[1]) == 500_000


async def test_never_more_than_the_descriptor_says(
    repository: Open, registry: SmallRegistry, answers: Answers
) -> None:
    small = Descriptor(digest=BLOB.digest, size=1_000_000)
    ingest = Memory()
    with pytest.raises(Unavailable, match="3000000 bytes came where 1000000 were left"):
        await fetch(repository(), ingest, small)
    assert ingest.size == 0

    async def endless(request: Any) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(100):
            await response.write(bytes(65536))
        return response

    answers("GET", "/blobs/", endless)
    with pytest.raises(Unavailable, match="it is longer than 1000000 bytes"):
        await fetch(repository(), ingest, small)
    assert ingest.size <= 1_000_000
    # what an ingest has too much of is not trusted either
    ingest = Memory(bytes(len(DATA) + 5))
    await fetch(repository(), ingest)
    assert bytes(ingest.data) == DATA


async def test_a_stalled_server_is_left(
    repository: Open, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "STALL_TIMEOUT", 0.3)

    async def stall(request: Any) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(DATA))})
        await response.prepare(request)
        await response.write(DATA[:100_000])
        await asyncio.sleep(3)
        return response

    seen = answers("GET", "/blobs/", stall)
    ingest = Memory()
    began = time.monotonic()
    await fetch(repository(), ingest)
    assert time.monotonic() - began < 2.5
    assert bytes(ingest.data) == DATA
    assert start_of(seen[1]) == 100_000


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
async def test_what_may_pass_is_tried_again(
    repository: Open, answers: Answers, status: int
) -> None:
    seen = answers("GET", "/blobs/", answer(status), answer(status))
    ingest = Memory()
    await fetch(repository(), ingest)
    assert bytes(ingest.data) == DATA
    assert len(seen) == 3


async def test_retry_after_is_obeyed_and_told(repository: Open, answers: Answers) -> None:
    answers("GET", "/blobs/", answer(429, Retry_After="1"))
    told: list[float] = []
    began = time.monotonic()
    await repository().fetch(BLOB, Memory(), ignore, told.append)
    assert time.monotonic() - began >= 1
    assert 0.9 < told[0] <= 1
    assert told[-1] == 0


async def test_too_long_a_wait_is_an_error_now(repository: Open, answers: Answers) -> None:
    body = b'{"errors": [{"code": "TOOMANYREQUESTS", "message": "You have reached your limit"}]}'
    seen = answers("GET", "/blobs/", answer(429, body, Retry_After="3600"))
    with pytest.raises(Unavailable) as caught:
        await fetch(repository(), Memory())
    assert caught.value.message() == "toomanyrequests: You have reached your limit"
    assert len(seen) == 1


async def test_a_missing_blob_is_not_asked_for_twice(repository: Open, answers: Answers) -> None:
    blob = Descriptor(digest="sha256:" + "0" * 64, size=10)
    seen = answers("GET", "/blobs/")
    with pytest.raises(NotFound, match="blob unknown"):
        await fetch(repository(), Memory(), blob)
    assert len(seen) == 1


async def test_corrupt_bytes_are_fetched_again_so_often(repository: Open) -> None:
    opened = repository(config=Config(max_download_attempts=3))
    for _ in range(3):
        await fetch(opened, Memory())
    with pytest.raises(Unavailable, match="filesystem layer verification failed for digest"):
        await fetch(opened, Memory())


async def test_cancelling_leaves_what_came(repository: Open, answers: Answers) -> None:
    async def slowly(request: Any) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(DATA))})
        await response.prepare(request)
        await response.write(DATA[:700_000])
        await asyncio.sleep(30)
        return response

    answers("GET", "/blobs/", slowly)
    ingest = Memory()
    task = asyncio.create_task(fetch(repository(), ingest))
    await asyncio.sleep(0.4)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bytes(ingest.data) == DATA[:700_000]


async def test_cancelling_waits_for_the_thread(repository: Open, answers: Answers) -> None:
    class Slow(Memory):
        busy = False

        def write(self, data: bytes) -> None:
            assert not self.busy
            self.busy = True
            time.sleep(0.02)
            super().write(data)
            self.busy = False

    for after in (0.05, 0.1, 0.2):
        ingest = Slow()
        task = asyncio.create_task(fetch(repository(), ingest))
        await asyncio.sleep(after)
        task.cancel()
        await asyncio.sleep(0.01)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        size = ingest.size
        assert bytes(ingest.data) == DATA[:size]
        await asyncio.sleep(0.1)
        assert ingest.size == size


async def test_nothing_is_written_after_a_gap(repository: Open, answers: Answers) -> None:
    class Once(Memory):
        failed = False

        def write(self, data: bytes) -> None:
            if self.size and not self.failed:
                self.failed = True
                raise OSError(28, "No space left on device")
            super().write(data)

    ingest = Once()
    with pytest.raises(OSError, match="No space"):
        await fetch(repository(), ingest)
    assert bytes(ingest.data) == DATA[: ingest.size]


async def test_a_full_disk_is_not_a_matter_of_the_registry(
    repository: Open, answers: Answers
) -> None:
    class Full(Memory):
        def write(self, data: bytes) -> None:
            raise OSError(28, "No space left on device")

    seen = answers("GET", "/blobs/")
    with pytest.raises(OSError, match="No space"):
        await fetch(repository(), Full())
    assert len(seen) == 1
