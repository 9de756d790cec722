"""Redirects, retries, manifests and lists that a registry sends to do harm, and how it is told."""

from __future__ import annotations

import asyncio
import email.utils
import hashlib
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from pyengine.config import Config
from pyengine.errors import EngineError, InvalidParameter, NotFound, Unauthorized, Unavailable
from pyengine.oci.image import Descriptor
from pyengine.registry.failures import retry_after
from pyengine.registry.models import Credentials
from pyengine.registry.repository import MAX_MANIFEST, Repository
from pyengine.registry.slots import Slots
from pyengine.testing.registry import SmallRegistry, make_image

from .conftest import Memory

Open = Callable[..., Repository]
Answers = Callable[..., list[Any]]
Step = Callable[[Any], Awaitable[Any]]

IMAGE = make_image([b"tar"])


def answer(status: int, body: bytes = b"", **headers: str) -> Step:
    async def step(request: Any) -> web.Response:
        now = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, body=body, headers=now)

    return step


# -- manifests -------------------------------------------------------------------------------------


async def test_a_manifest_by_tag_and_by_digest(repository: Open, registry: SmallRegistry) -> None:
    registry.add("a/b", "v1", IMAGE)
    for ref in ("v1", IMAGE.digest):
        found = await repository().manifest(ref)
        assert (found.data, found.digest) == (IMAGE.manifest, IMAGE.digest)
        assert found.media_type == "application/vnd.oci.image.manifest.v1+json"
        described = await repository().resolve(ref)
        assert (described.digest, described.size) == (IMAGE.digest, len(IMAGE.manifest))


async def test_what_is_accepted_is_said(repository: Open, answers: Answers) -> None:
    seen = answers("GET", "/manifests/", answer(200, b"{}"))
    await repository().manifest("v1")
    accept = seen[0].headers["Accept"]
    for kind in ("vnd.oci.image.index.v1+json", "vnd.docker.distribution.manifest.v2+json"):
        assert kind in accept
    assert seen[0].headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("ref", ["v1", IMAGE.digest])
async def test_a_manifest_with_another_digest(repository: Open, answers: Answers, ref: str) -> None:
    step = answer(200, b'{"other": 1}', Docker_Content_Digest=IMAGE.digest)
    answers("GET", "/manifests/", step)
    with pytest.raises(Unavailable, match=f"verification failed for digest {IMAGE.digest}"):
        await repository().manifest(ref)


async def test_sha512(repository: Open, answers: Answers) -> None:
    ref = "sha512:" + hashlib.sha512(b"{}").hexdigest()
    answers("GET", "/manifests/", answer(200, b"{}"))
    assert (await repository().manifest(ref)).digest == ref


async def test_the_type_comes_from_the_manifest_where_the_server_knows_none(
    repository: Open, answers: Answers
) -> None:
    data = json.dumps({"mediaType": "application/vnd.x+json"}).encode()
    plain = answer(200, data, Content_Type="text/plain; charset=utf-8")
    answers("GET", "/manifests/", plain, answer(200, b"[1]", Content_Type="application/json"))
    assert (await repository().manifest("v1")).media_type == "application/vnd.x+json"
    assert (await repository().manifest("v1")).media_type == "application/json"


async def test_a_huge_manifest_is_refused_early(repository: Open, answers: Answers) -> None:
    sent = 0

    async def endless(request: Any) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while sent < 50 << 20:
            await response.write(bytes(1 << 20))
            sent += 1 << 20
        return response

    announced = answer(200, bytes(MAX_MANIFEST + 1))
    answers("GET", "/manifests/", announced, endless)
    for _ in range(2):
        with pytest.raises(InvalidParameter, match="manifest v1 is too large"):
            await repository().manifest("v1")
    assert sent < 20 << 20


async def test_resolve_asks_again_where_head_does_not_help(
    repository: Open, registry: SmallRegistry, answers: Answers
) -> None:
    registry.add("a/b", "v1", IMAGE)
    answers("HEAD", "/manifests/", answer(405), answer(404), answer(200))
    for _ in range(3):
        assert (await repository().resolve("v1")).digest == IMAGE.digest
    with pytest.raises(NotFound, match=r"manifest for .*/a/b:v9 not found: manifest unknown"):
        await repository().resolve("v9")


# -- errors ----------------------------------------------------------------------------------------


def body(code: str, message: str = "") -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


@pytest.mark.parametrize(
    ("status", "data", "kind", "words"),
    [
        (404, body("MANIFEST_UNKNOWN", "manifest unknown"), NotFound,
         "manifest for {name}:v1 not found: manifest unknown: manifest unknown"),
        (404, body("MANIFEST_UNKNOWN"), NotFound,
         "manifest for {name}:v1 not found: manifest unknown: manifest unknown"),
        (404, body("NAME_UNKNOWN", "no such name"), NotFound,
         "repository {name} not found: name unknown: no such name"),
        (404, b"<html>nothing</html>", NotFound,
         "manifest for {name}:v1 not found: manifest unknown: manifest unknown"),
        (403, body("DENIED", "no"), NotFound,
         "pull access denied for {name}, repository does not exist or may require 'docker login': "
         "denied: no"),
        (403, b"go away", NotFound,
         "pull access denied for {name}, repository does not exist or may require 'docker login': "
         "denied: go away"),
        (401, body("UNAUTHORIZED", "authentication required"), Unauthorized,
         "unauthorized: authentication required"),
        (401, b"", Unauthorized, "unauthorized: authentication required"),
        (429, body("TOOMANYREQUESTS", "slow down"), Unavailable, "toomanyrequests: slow down"),
        (400, body("STRANGE", "what"), InvalidParameter, "unknown: what"),
        (400, body("NAME_INVALID"), InvalidParameter, "name invalid: invalid repository name"),
        (418, b'{"errors": []}', Unavailable, "unknown: 418 I'm a Teapot"),
        (418, b'[1]', Unavailable, "unknown: [1]"),
        (500, b"oops", Unavailable,
         "received unexpected HTTP status: 500 Internal Server Error"),
        (599, b"", Unavailable, "received unexpected HTTP status: 599"),
    ],
)  # fmt: skip
async def test_errors_in_dockers_words(
    repository: Open,
    registry: SmallRegistry,
    answers: Answers,
    status: int,
    data: bytes,
    kind: type[EngineError],
    words: str,
) -> None:
    step = answer(status, data, Content_Type="application/json", Retry_After="9999")
    answers("GET", "/manifests/", step)
    with pytest.raises(EngineError) as caught:
        await repository(config=Config(max_download_attempts=1)).manifest("v1")
    assert type(caught.value) is kind
    assert caught.value.message() == words.format(name=f"{registry.host}/a/b")


async def test_what_may_pass_is_asked_again(
    repository: Open, registry: SmallRegistry, answers: Answers
) -> None:
    registry.add("a/b", "v1", IMAGE)

    async def abort(request: Any) -> web.Response:
        request.transport.abort()
        return web.Response()

    seen = answers("GET", "/manifests/", answer(503), answer(429, Retry_After="0"), abort)
    assert (await repository().manifest("v1")).digest == IMAGE.digest
    assert len(seen) >= 4


async def test_not_for_ever(repository: Open, answers: Answers) -> None:
    seen = answers("GET", "/manifests/", *(answer(503) for _ in range(20)))
    with pytest.raises(Unavailable, match="503 Service Unavailable"):
        await repository(config=Config(max_download_attempts=4)).manifest("v1")
    assert len(seen) == 4


def test_retry_after() -> None:
    assert retry_after("12") == 12
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert 28 < (retry_after(date) or 0) <= 30
    assert retry_after(email.utils.formatdate(0)) == 0
    assert retry_after("") is retry_after("soon") is retry_after("²") is None


# -- redirects -------------------------------------------------------------------------------------


async def test_a_redirect_for_ever(repository: Open, answers: Answers) -> None:
    async def again(request: Any) -> web.Response:
        return web.Response(status=307, headers={"Location": str(request.rel_url)})

    seen = answers("GET", "/manifests/", *(again for _ in range(50)))
    with pytest.raises(Unavailable, match="stopped after 10 redirects"):
        await repository().manifest("v1")
    assert len(seen) == 11


async def test_content_elsewhere_is_fetched_without_authorization(
    repository: Open, registry: SmallRegistry, another: SmallRegistry, answers: Answers
) -> None:
    data = b"layer" * 1000
    blob = Descriptor(digest="sha256:" + hashlib.sha256(data).hexdigest(), size=len(data))
    sent = []

    async def storage(request: Any) -> web.Response:
        sent.append((request.path_qs, dict(request.headers)))
        start = int(request.headers["Range"].removeprefix("bytes=").partition("-")[0])
        headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        return web.Response(status=206, body=data[start:], headers=headers)

    async def guard(request: Any) -> web.Response | None:
        if "Authorization" in request.headers:
            return None
        return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})

    another.intercept = storage
    registry.intercept_ping = guard
    target = f"http://{another.host}/bucket/x?X-Sig=a%2Fb%3D&y=%7E"
    seen = answers("GET", "/blobs/", answer(307, Location=target))
    ingest = Memory(data[:10])
    who = Credentials(username="u", password="p")
    await repository(credentials=who).fetch(blob, ingest, lambda _: None)
    assert bytes(ingest.data) == data
    assert "Authorization" in seen[0].headers
    ((path, headers),) = sent
    assert path == "/bucket/x?X-Sig=a%2Fb%3D&y=%7E"
    assert "Authorization" not in headers
    assert headers["Range"] == f"bytes=10-{len(data) - 1}"


async def test_a_challenge_from_elsewhere_is_not_answered(
    repository: Open, registry: SmallRegistry, another: SmallRegistry, answers: Answers
) -> None:
    asked = []

    async def greedy(request: Any) -> web.Response:
        asked.append(dict(request.headers))
        return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})

    another.intercept = greedy
    answers("GET", "/manifests/", answer(302, Location=f"http://{another.host}/v2/x"))
    with pytest.raises(Unauthorized):
        await repository(credentials=Credentials(username="u", password="p")).manifest("v1")
    assert len(asked) == 1
    assert "Authorization" not in asked[0]


async def test_signatures_in_addresses_are_not_told(repository: Open, answers: Answers) -> None:
    secret = answer(307, Location="http://127.0.0.1:1/x?X-Signature=secret")
    answers("GET", "/manifests/", secret, secret)
    opened = repository()
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            await opened.manifest("v1")
        assert caught.value.message() == (
            'Get "http://127.0.0.1:1/x": dial tcp 127.0.0.1:1: connect: connection refused'
        )


@pytest.mark.parametrize(
    "location", ["http://[::1", "http://x:port/", "ftp://127.0.0.1/x", "http://", "//"]
)
async def test_redirects_to_nowhere(repository: Open, answers: Answers, location: str) -> None:
    answers("GET", "/manifests/", *(answer(307, Location=location) for _ in range(20)))
    with pytest.raises(Unavailable):
        await repository(config=Config(max_download_attempts=1)).manifest("v1")


async def test_json_that_is_too_deep(repository: Open, answers: Answers) -> None:
    deep = b"[" * 60_000
    answers("GET", "/manifests/", answer(400, deep), answer(200, deep))
    with pytest.raises(InvalidParameter):
        await repository().manifest("v1")
    assert (await repository().manifest("v1")).data == deep


async def test_digests_are_part_of_an_address(repository: Open, registry: SmallRegistry) -> None:
    for digest in ("sha256:../../x", "sha256:a?b", "sha256:", "x", "sha256:a b"):
        blob = Descriptor(digest=digest, size=1)
        with pytest.raises(InvalidParameter, match="invalid digest"):
            await repository().fetch(blob, Memory(), lambda _: None)
        with pytest.raises(InvalidParameter, match="invalid digest"):
            await repository().has_blob(digest)
    with pytest.raises(InvalidParameter, match="invalid digest"):
        await repository().manifest("sha256:../x")
    assert registry.requests == []


# -- tags ------------------------------------------------------------------------------------------


async def test_tags_of_all_pages(repository: Open, answers: Answers) -> None:
    def page(tags: list[str] | None, following: str = "") -> Step:
        link = {"Link": f'<{following}>; rel="next"'} if following else {}
        return answer(200, json.dumps({"name": "a/b", "tags": tags}).encode(), **link)

    seen = answers(
        "GET",
        "/tags/",
        page(["1", "2"], "/v2/a/b/tags/list?n=2&last=2"),
        page(["3", "3"], "?n=2&last=3"),
        page(None),
    )
    assert await repository().tags() == ["1", "2", "3"]
    assert [request.query_string for request in seen] == ["n=1000", "n=2&last=2", "n=2&last=3"]


@pytest.mark.parametrize("data", [b"[]", b"nothing", b'{"tags": 5}'])
async def test_a_list_of_tags_that_is_none(repository: Open, answers: Answers, data: bytes) -> None:
    answers("GET", "/tags/", answer(200, data))
    with pytest.raises(Unavailable, match="sent no list of tags"):
        await repository().tags()


async def test_tags_do_not_go_on_elsewhere(
    repository: Open, another: SmallRegistry, answers: Answers
) -> None:
    link = f'<http://{another.host}/v2/a/b/tags/list?last=x>; rel="next"'
    answers("GET", "/tags/", answer(200, b'{"tags": ["x"]}', Link=link))
    with pytest.raises(Unavailable, match="it goes on at"):
        await repository().tags()
    assert another.requests == []


async def test_tags_that_never_end(repository: Open, answers: Answers) -> None:
    step = answer(200, b'{"tags": ["x"]}', Link='</v2/a/b/tags/list?last=x>; rel="next"')
    answers("GET", "/tags/", *(step for _ in range(50)))
    with pytest.raises(Unavailable, match="never end"):
        await repository().tags()


# -- who is there ----------------------------------------------------------------------------------


async def test_nobody_there(repository: Open, registry: SmallRegistry) -> None:
    opened = repository()
    await registry.close()
    with pytest.raises(Unavailable) as caught:
        await opened.manifest("v1")
    assert caught.value.message() == (
        f'Get "http://{registry.host}/v2/": dial tcp {registry.host}: connect: connection refused'
    )


async def test_slots() -> None:
    slots = Slots(2)
    inside: list[int] = []

    async def work(number: int, gate: asyncio.Event) -> None:
        async with slots.taken():
            inside.append(number)
            await gate.wait()

    gates = [asyncio.Event() for _ in range(6)]
    tasks = [asyncio.create_task(work(n, gate)) for n, gate in enumerate(gates)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert inside == [0, 1]
    tasks[2].cancel()
    gates[0].set()
    await asyncio.sleep(0.01)
    assert inside == [0, 1, 3]
    slots.resize(3)
    await asyncio.sleep(0.01)
    assert inside == [0, 1, 3, 4]
    slots.resize(1)
    for gate in gates:
        gate.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert inside == [0, 1, 3, 4, 5]
    async with slots.taken():
        pass
