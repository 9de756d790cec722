"""Mirrors come first, the registry is behind them, and what is the registry's stays with it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from pyengine.config import Config, RegistryEntry
from pyengine.errors import NotFound, Unavailable
from pyengine.oci import reference
from pyengine.oci.image import Descriptor
from pyengine.registry.client import Registries
from pyengine.registry.models import Credentials
from pyengine.registry.repository import Repository
from pyengine.testing.registry import MadeImage, SmallRegistry, digest_of, make_image

from .conftest import Memory

DEAD = "http://127.0.0.1:1"


@pytest.fixture
def image(registry: SmallRegistry, another: SmallRegistry) -> MadeImage:
    """Both have it: ``another`` is the mirror of ``registry``."""
    image = make_image([os.urandom(100_000)])
    for server in (registry, another):
        server.add("a/b", "v1", image)
    return image


@pytest.fixture
def mirrored(
    registry: SmallRegistry, another: SmallRegistry, engine: Callable[..., Registries]
) -> Callable[..., Repository]:
    def open(
        *mirrors: str, credentials: Credentials | None = None, push: bool = False
    ) -> Repository:
        entry = RegistryEntry(mirrors=list(mirrors or (f"http://{another.host}",)))
        client = engine(Config(registries={registry.host: entry}))
        return client.repository(reference.parse(f"{registry.host}/a/b"), credentials, push=push)

    return open


def layer_of(image: MadeImage) -> tuple[Descriptor, bytes]:
    data = image.layers[0]
    return Descriptor(digest=digest_of(data), size=len(data)), data


def break_with(server: SmallRegistry, status: int, part: str = "/") -> None:
    async def intercept(request: Any) -> web.Response | None:
        return web.Response(status=status) if part in request.path else None

    server.intercept = intercept


async def pull(repository: Repository, image: MadeImage) -> None:
    assert (await repository.manifest("v1")).data == image.manifest
    blob, data = layer_of(image)
    ingest = Memory()
    await repository.fetch(blob, ingest, lambda _: None)
    assert bytes(ingest.data) == data


async def test_the_mirror_serves(
    mirrored: Callable[..., Repository],
    registry: SmallRegistry,
    another: SmallRegistry,
    image: MadeImage,
) -> None:
    repository = mirrored()
    await pull(repository, image)
    assert registry.requests == []
    assert len(another.requests) == 2
    assert repository.host == another.host


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
async def test_a_mirror_that_fails_is_not_the_end(
    mirrored: Callable[..., Repository],
    registry: SmallRegistry,
    another: SmallRegistry,
    image: MadeImage,
    status: int,
) -> None:
    break_with(another, status)
    repository = mirrored(DEAD, f"http://{another.host}")
    await pull(repository, image)
    assert len(another.requests) == 1  # who has failed is not asked first again
    assert repository.host == registry.host


async def test_a_layer_that_the_mirror_lacks(
    mirrored: Callable[..., Repository],
    registry: SmallRegistry,
    another: SmallRegistry,
    image: MadeImage,
) -> None:
    another.blobs["a/b"].clear()
    await pull(mirrored(), image)
    assert another.asked("GET", "/manifests/")
    assert registry.asked("GET", "/manifests/") == []
    assert registry.asked("GET", "/blobs/")


async def test_a_download_that_a_mirror_began_goes_on_elsewhere(
    mirrored: Callable[..., Repository],
    registry: SmallRegistry,
    another: SmallRegistry,
    image: MadeImage,
) -> None:
    blob, data = layer_of(image)

    cuts = 0

    async def cut(request: Any) -> web.StreamResponse | None:
        nonlocal cuts
        if "/blobs/" not in request.path:
            return None
        cuts += 1
        if cuts > 1:
            return web.Response(status=502)
        response = web.StreamResponse(headers={"Content-Length": str(len(data))})
        await response.prepare(request)
        await response.write(data[:1000])
        await asyncio.sleep(0.05)
        request.transport.abort()
        return response

    another.intercept = cut
    ingest = Memory()
    repository = mirrored()
    await repository.manifest("v1")
    await repository.fetch(blob, ingest, lambda _: None)
    assert bytes(ingest.data) == data
    assert cuts == 2  # one is no reason to leave it
    assert registry.ranges == [f"bytes=1000-{len(data) - 1}"]


async def test_wrong_bytes_of_a_mirror_are_asked_for_elsewhere(
    mirrored: Callable[..., Repository],
    registry: SmallRegistry,
    another: SmallRegistry,
    image: MadeImage,
) -> None:
    blob, data = layer_of(image)
    another.blobs["a/b"][blob.digest] = bytes(len(data))
    repository = mirrored()
    ingest = Memory()
    await repository.fetch(blob, ingest, lambda _: None)
    assert bytes(ingest.data) != data
    ingest.reset()
    await repository.fetch(blob, ingest, lambda _: None)
    assert bytes(ingest.data) == data


async def test_a_manifest_that_a_mirror_forged(
    mirrored: Callable[..., Repository],
    registry: SmallRegistry,
    another: SmallRegistry,
    image: MadeImage,
) -> None:
    media_type, _ = another.manifests["a/b"][image.digest]
    another.manifests["a/b"][image.digest] = media_type, b'{"forged": true}'
    repository = mirrored()
    for ref in (image.digest, "v1"):
        assert (await repository.manifest(ref)).data == image.manifest
        assert repository.host == registry.host


async def test_what_nobody_has_is_told_in_the_registrys_words(
    mirrored: Callable[..., Repository], registry: SmallRegistry, image: MadeImage
) -> None:
    repository = mirrored()
    with pytest.raises(NotFound) as caught:
        await repository.manifest("v2")
    assert caught.value.message() == (
        f"manifest for {registry.host}/a/b:v2 not found: manifest unknown: manifest unknown"
    )


async def test_the_registrys_failure_is_told_not_the_mirrors(
    mirrored: Callable[..., Repository],
    registry: SmallRegistry,
    another: SmallRegistry,
    image: MadeImage,
) -> None:
    break_with(another, 404)
    break_with(registry, 500)
    with pytest.raises(Unavailable) as caught:
        await mirrored().manifest("v1")
    assert caught.value.message() == "received unexpected HTTP status: 500 Internal Server Error"


async def test_credentials_are_not_for_mirrors(
    mirrored: Callable[..., Repository],
    registry: SmallRegistry,
    another: SmallRegistry,
    image: MadeImage,
) -> None:
    seen: dict[str, list[str]] = {registry.host: [], another.host: []}

    def guard(server: SmallRegistry) -> Any:
        async def intercept(request: Any) -> web.Response | None:
            sent = request.headers.get("Authorization", "")
            seen[server.host].append(sent)
            if sent:
                return None
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})

        return intercept

    for server in (registry, another):
        server.intercept = server.intercept_ping = guard(server)
    await pull(mirrored(credentials=Credentials(username="u", password="p")), image)
    assert not any(seen[another.host])
    assert any(seen[registry.host])


async def test_pushes_go_to_the_registry(
    mirrored: Callable[..., Repository], registry: SmallRegistry, another: SmallRegistry
) -> None:
    await mirrored(push=True).put_manifest("v1", b"{}", "application/x+json")
    assert another.requests == []
    assert registry.asked("PUT", "/manifests/v1")


async def test_mirrors_of_the_default_registry(
    engine: Callable[..., Registries], another: SmallRegistry
) -> None:
    image = make_image([b"tar"])
    another.add("library/alpine", "latest", image)
    client = engine(Config(registry_mirrors=[f"http://{another.host}/"]))
    repository = client.repository(reference.parse("alpine"), None)
    assert (await repository.manifest("latest")).digest == image.digest
    assert repository.host == another.host


async def test_a_mirror_below_a_path(
    engine: Callable[..., Registries], another: SmallRegistry
) -> None:
    image = make_image([b"tar"])
    paths = []

    async def intercept(request: Any) -> web.Response | None:
        paths.append(request.path)
        if not request.path.startswith("/proxy/hub/v2/"):
            return web.Response(status=404)
        return web.Response(body=image.manifest, content_type="application/vnd.x+json")

    another.intercept = intercept
    client = engine(Config(registry_mirrors=[f"http://{another.host}/proxy/hub/"]))
    repository = client.repository(reference.parse("alpine"), None)
    assert (await repository.manifest("latest")).digest == image.digest
    assert paths == ["/proxy/hub/v2/", "/proxy/hub/v2/library/alpine/manifests/latest"]


async def test_a_reload_counts_for_the_next_pull(
    registry: SmallRegistry,
    another: SmallRegistry,
    engine: Callable[..., Registries],
    image: MadeImage,
) -> None:
    client = engine()
    name = reference.parse(f"{registry.host}/a/b")
    begun = client.repository(name, None)
    await begun.manifest("v1")
    entry = RegistryEntry(mirrors=[f"http://{another.host}"])
    client.reload(Config(registries={registry.host: entry}, max_concurrent_downloads=1))
    await client.repository(name, None).manifest("v1")
    assert len(another.requests) == 1
    await begun.manifest("v1")  # what runs goes on as it was
    assert len(another.requests) == 1
