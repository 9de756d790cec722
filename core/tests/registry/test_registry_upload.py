"""Blobs go out whole: in one piece, in chunks, after cuts; not at all where they are already."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from pyengine.config import Config
from pyengine.errors import Forbidden, InvalidParameter, NotFound, Unavailable
from pyengine.oci.image import Descriptor
from pyengine.registry import session, upload
from pyengine.registry.repository import Repository
from pyengine.testing.registry import SmallRegistry

Step = Callable[[Any], Awaitable[Any]]
Answers = Callable[..., list[Any]]
Open = Callable[..., Repository]

DATA = os.urandom(2_500_000)
BLOB = Descriptor(digest="sha256:" + hashlib.sha256(DATA).hexdigest(), size=len(DATA))


def answer(status: int, **headers: str) -> Step:
    async def step(request: Any) -> web.Response:
        await request.content.read()
        return web.Response(
            status=status, headers={name.replace("_", "-"): v for name, v in headers.items()}
        )

    return step


async def abort(request: Any) -> web.Response:
    await request.content.readexactly(100_000)
    request.transport.abort()
    return web.Response()


async def push(repository: Repository, blob: Descriptor = BLOB, data: bytes = DATA) -> list[int]:
    told: list[int] = []
    await repository.upload(blob, lambda: io.BytesIO(data), told.append)
    return told


async def test_in_one_piece(repository: Open, registry: SmallRegistry) -> None:
    opened = repository(push=True)
    assert await opened.has_blob(BLOB.digest) is None
    told = await push(opened)
    assert registry.blobs["a/b"][BLOB.digest] == DATA
    assert told[-1] == len(DATA)
    found = await opened.has_blob(BLOB.digest)
    assert found is not None
    assert (found.digest, found.size) == (BLOB.digest, len(DATA))
    methods = [method for method, path in registry.requests if "uploads" in path]
    assert methods == ["POST", "PUT"]


async def test_an_empty_blob(repository: Open, registry: SmallRegistry) -> None:
    empty = Descriptor(digest="sha256:" + hashlib.sha256(b"").hexdigest(), size=0)
    await push(repository(push=True), empty, b"")
    assert registry.blobs["a/b"][empty.digest] == b""


@pytest.mark.parametrize("status", [413, 405, 411])
async def test_in_chunks_where_one_piece_is_too_much(
    repository: Open,
    registry: SmallRegistry,
    answers: Answers,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
) -> None:
    monkeypatch.setattr(upload, "CHUNK", 1 << 20)
    seen = answers("PUT", "/uploads/", answer(status))
    chunks = answers("PATCH", "/uploads/")
    await push(repository(push=True))
    assert registry.blobs["a/b"][BLOB.digest] == DATA
    assert len(seen) == 2
    assert [request.headers["Content-Range"] for request in chunks] == [
        "0-1048575",
        "1048576-2097151",
        "2097152-2499999",
    ]


async def test_chunks_are_as_large_as_the_registry_wants(
    repository: Open, registry: SmallRegistry, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "CHUNK", 1_000)

    async def begin(request: Any) -> web.Response:
        response = await registry._upload(request, "a/b", "")
        response.headers["OCI-Chunk-Min-Length"] = "2000000"
        assert isinstance(response, web.Response)
        return response

    answers("POST", "/uploads/", begin)
    answers("PUT", "/uploads/", answer(413))
    chunks = answers("PATCH", "/uploads/")
    await push(repository(push=True))
    assert [request.headers["Content-Length"] for request in chunks] == ["2000000", "500000"]


async def test_a_cut_upload_goes_on_where_the_registry_is(
    repository: Open, registry: SmallRegistry, answers: Answers
) -> None:
    async def abort_late(request: Any) -> web.Response:
        name = request.path.rpartition("/")[2]
        registry._uploads[name] += await request.content.readexactly(1_200_000)
        request.transport.abort()
        return web.Response()

    answers("PUT", "/uploads/", abort_late)
    asked = answers("GET", "/uploads/")
    chunks = answers("PATCH", "/uploads/")
    told = await push(repository(push=True))
    assert registry.blobs["a/b"][BLOB.digest] == DATA
    assert len(asked) == 1
    assert [request.headers["Content-Range"] for request in chunks] == ["1200000-2499999"]
    assert told[-1] == len(DATA)


async def test_a_registry_that_takes_no_more_is_left(
    repository: Open,
    registry: SmallRegistry,
    answers: Answers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session, "STALL_TIMEOUT", 0.3)
    data = bytes(40 << 20)
    blob = Descriptor(digest="sha256:" + hashlib.sha256(data).hexdigest(), size=len(data))

    async def stall(request: Any) -> web.Response:
        await request.content.readexactly(1000)
        await asyncio.sleep(20)
        return web.Response()

    seen = answers("PUT", "/uploads/", stall)
    began = time.monotonic()
    await push(repository(push=True), blob, data)
    assert time.monotonic() - began < 15
    assert registry.blobs["a/b"][blob.digest] == data
    assert len(seen) == 2


async def test_an_upload_that_the_registry_forgot_begins_anew(
    repository: Open, registry: SmallRegistry, answers: Answers
) -> None:
    answers("PUT", "/uploads/", abort)
    answers("GET", "/uploads/", answer(404))
    begun = answers("POST", "/uploads/")
    await push(repository(push=True))
    assert registry.blobs["a/b"][BLOB.digest] == DATA
    assert len(begun) == 2


async def test_tries_are_counted(repository: Open, answers: Answers) -> None:
    seen = answers("PUT", "/uploads/", *(answer(503) for _ in range(20)))
    answers("GET", "/uploads/", *(answer(404) for _ in range(20)))
    with pytest.raises(Unavailable, match="503 Service Unavailable"):
        await push(repository(config=Config(max_download_attempts=3), push=True))
    assert len(seen) == 3


async def test_a_registry_that_forgets_for_ever_is_left(
    repository: Open, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "CHUNK", 1 << 20)
    seen = answers("PUT", "/uploads/", answer(413), *(answer(416) for _ in range(20)))
    with pytest.raises(InvalidParameter, match=r"unknown: .*Range Not Satisfiable"):
        await push(repository(config=Config(max_download_attempts=3), push=True))
    assert len(seen) == 4  # in one piece, one that got to the end, two that got no further


async def test_a_relative_and_an_absolute_location(
    repository: Open, registry: SmallRegistry, answers: Answers
) -> None:
    async def absolute(request: Any) -> web.Response:
        response = await registry._upload(request, "a/b", "")
        assert isinstance(response, web.Response)
        response.headers["Location"] = (
            f"http://{registry.host}{response.headers['Location']}?_state=x%2Fy%3D"
        )
        return response

    answers("POST", "/uploads/", absolute)
    seen = answers("PUT", "/uploads/")
    await push(repository(push=True))
    assert registry.blobs["a/b"][BLOB.digest] == DATA
    # what the registry put into the query comes back as it was
    assert seen[0].rel_url.raw_query_string.startswith("_state=x%2Fy%3D&digest=sha256%3A")


async def test_mount(repository: Open, registry: SmallRegistry) -> None:
    registry.blobs["c/d"] = {BLOB.digest: DATA}
    opened = repository(push=True)
    assert await opened.mount(BLOB.digest, "c/d") is True
    assert registry.blobs["a/b"][BLOB.digest] == DATA


async def test_a_mount_that_fails_is_an_upload_begun(
    repository: Open, registry: SmallRegistry
) -> None:
    opened = repository(push=True)
    assert await opened.mount(BLOB.digest, "c/d") is False
    await push(opened)
    assert registry.blobs["a/b"][BLOB.digest] == DATA
    assert len(registry.asked("POST", "/uploads/")) == 1


async def test_refusals_are_told_in_the_registrys_words(repository: Open, answers: Answers) -> None:
    async def denied(request: Any) -> web.Response:
        body = {"errors": [{"code": "DENIED", "message": "requested access is denied"}]}
        return web.json_response(body, status=403)

    answers("POST", "/uploads/", denied)
    with pytest.raises(Forbidden) as caught:
        await push(repository(push=True))
    assert caught.value.message() == "denied: requested access is denied"


async def test_a_blob_that_is_not_what_was_said(repository: Open) -> None:
    wrong = Descriptor(digest=BLOB.digest, size=5)
    with pytest.raises(InvalidParameter, match="digest invalid: provided digest did not match"):
        await push(repository(push=True), wrong, b"other")


async def test_a_blob_that_is_shorter_than_was_said(repository: Open, answers: Answers) -> None:
    seen = answers("PUT", "/uploads/")
    with pytest.raises(Unavailable, match="ends at 2500000, not 2600000 bytes"):
        await push(repository(push=True), Descriptor(digest=BLOB.digest, size=2_600_000))
    assert len(seen) == 1


async def test_a_blob_that_is_gone(repository: Open) -> None:
    def open() -> io.BytesIO:
        raise NotFound("no such content")

    with pytest.raises(NotFound, match="no such content"):
        await repository(push=True).upload(BLOB, open, lambda _: None)


async def test_manifests(repository: Open, registry: SmallRegistry, answers: Answers) -> None:
    opened = repository(push=True)
    data = b'{"schemaVersion": 2}'
    digest = await opened.put_manifest("v1", data, "application/vnd.x+json")
    assert registry.manifests["a/b"][digest] == ("application/vnd.x+json", data)
    assert registry.tags["a/b"] == {"v1": digest}

    answers("PUT", "/manifests/", answer(201, Docker_Content_Digest="sha256:" + "0" * 64))
    with pytest.raises(Unavailable, match="the registry has stored sha256:000"):
        await opened.put_manifest("v1", data, "application/vnd.x+json")
