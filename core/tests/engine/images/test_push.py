"""Pushes to a registry in this process, through the real client, from real stores."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from pyengine.engine.images.progress import Line, Progress
from pyengine.errors import EngineError, Forbidden, InvalidParameter, NotFound
from pyengine.oci import reference
from pyengine.oci.image import host_platform, parse_platform
from pyengine.testing.registry import MadeImage, SmallRegistry, digest_of, make_image
from pyengine.testing.storage import file, tar

World = Any


def image(name: str = "one", layers: int = 3) -> MadeImage:
    tars = [tar(file(f"{name}{number}", name.encode() * 500)) for number in range(layers)]
    return make_image(tars, platform=str(host_platform()))


async def here(world: World, registry: SmallRegistry, made: MadeImage, ref: str) -> None:
    """Have ``made`` in the engine under the name ``ref``, and nowhere else."""
    registry.add("source", "1", made)
    await world.puller.pull(reference.parse(f"{registry.host}/source:1"), Progress())
    await world.images.tag(made.id, reference.parse(ref))
    await world.images.remove(f"{registry.host}/source:1")
    registry.requests.clear()
    world.events.clear()


async def push(world: World, ref: str, **options: Any) -> list[Line]:
    """The lines that a client saw; raises what the push raises."""
    progress = Progress()
    await world.pusher.push(reference.parse(ref), progress, **options)
    progress.close()
    return [line async for batch in progress.batches() for line in batch]


def texts(lines: list[Line]) -> list[str]:
    found: list[str] = []
    for line in lines:
        text = f"{line.id}: {line.status}" if line.id else line.status
        if text not in found:
            found.append(text)
    return found


def ids(world: World, made: MadeImage) -> list[str]:
    """As pushes name layers: by what they unpack to, the top first."""
    return [diff_id[7:19] for diff_id in reversed(world.images.get(made.id).diff_ids)]


@pytest.fixture
async def target() -> Any:
    made = SmallRegistry()
    await made.start()
    yield made
    await made.close()


async def test_a_push_brings_all_of_it_as_it_was_pulled(
    world: World, registry: SmallRegistry, target: SmallRegistry
) -> None:
    made = image()
    ref = f"{target.host}/a/b:1"
    await here(world, registry, made, ref)
    lines = await push(world, ref)
    shown = ids(world, made)
    said = texts(lines)
    assert said[:4] == [
        f"The push refers to repository [{target.host}/a/b]",
        *(f"{id}: Preparing" for id in shown),
    ]
    for id in shown:
        mine = [line.partition(": ")[2] for line in said if line.startswith(id)]
        assert mine == ["Preparing", "Pushing", "Pushed"]
    assert said[-2] == f"1: digest: {made.digest} size: {len(made.manifest)}"
    assert lines[-1].aux == {"Tag": "1", "Digest": made.digest, "Size": len(made.manifest)}
    assert target.tags["a/b"] == {"1": made.digest}
    assert target.manifests["a/b"][made.digest][1] == made.manifest
    assert set(target.blobs["a/b"]) == {digest_of(b) for b in (made.config, *made.layers)}
    # the manifest is last
    assert target.requests[-1] == ("PUT", "/v2/a/b/manifests/1")
    found = world.images.get(made.id)
    assert f"{target.host}/a/b@{made.digest}" in found.repo_digests
    assert world.events == [("push", ref, {"name": f"{target.host}/a/b"})]


async def test_bars_count_to_their_end(
    world: World, registry: SmallRegistry, target: SmallRegistry
) -> None:
    made = image()
    ref = f"{target.host}/a:1"
    await here(world, registry, made, ref)
    lines = await push(world, ref)
    for layer, id in zip(made.layers, reversed(ids(world, made)), strict=True):
        counts = [line.current for line in lines if line.status == "Pushing" and line.id == id]
        assert counts[-1] == len(layer)


async def test_what_is_there_is_not_sent_again(
    world: World, registry: SmallRegistry, target: SmallRegistry
) -> None:
    made = image()
    ref = f"{target.host}/a:1"
    await here(world, registry, made, ref)
    await push(world, ref)
    target.requests.clear()
    said = texts(await push(world, ref))
    for id in ids(world, made):
        assert f"{id}: Layer already exists" in said
    assert [method for method, _ in target.requests if method not in ("HEAD",)] == ["PUT"]


async def test_layers_are_mounted_from_where_they_came(
    world: World, registry: SmallRegistry
) -> None:
    made = image()
    ref = f"{registry.host}/mine:1"
    await here(world, registry, made, ref)
    said = texts(await push(world, ref))
    for id in ids(world, made):
        assert f"{id}: Mounted from source" in said
    assert not registry.asked("PUT", "/blobs/")
    assert set(registry.blobs["mine"]) == {digest_of(b) for b in (made.config, *made.layers)}


async def test_what_cannot_be_mounted_is_uploaded(world: World, registry: SmallRegistry) -> None:
    made = image()
    ref = f"{registry.host}/mine:1"
    await here(world, registry, made, ref)
    registry.blobs["source"].clear()
    said = texts(await push(world, ref))
    for id in ids(world, made):
        assert f"{id}: Pushed" in said
    # the upload that the registry began instead of mounting was used
    assert len(registry.asked("POST", "/blobs/uploads/")) == len(made.layers) + 1


async def test_another_registry_is_not_asked_to_mount(
    world: World, registry: SmallRegistry, target: SmallRegistry
) -> None:
    ref = f"{target.host}/a:1"
    await here(world, registry, image(), ref)
    seen: list[str] = []

    async def look(request: web.Request) -> None:
        seen.append(request.query_string)

    target.intercept = look
    await push(world, ref)
    assert not [query for query in seen if "mount" in query]


async def test_what_is_no_image_is_pushed_like_one(
    world: World, registry: SmallRegistry, target: SmallRegistry
) -> None:
    made = make_image([b"chart"], manifest={"artifactType": "application/vnd.chart"})
    kind = b"application/vnd.oci.empty.v1+json"
    manifest = made.manifest.replace(b"application/vnd.oci.image.config.v1+json", kind)
    made = made._replace(manifest=manifest)
    registry.add("source", "1", made)
    await world.puller.pull(reference.parse(f"{registry.host}/source:1"), Progress())
    await world.images.tag(made.digest, reference.parse(f"{target.host}/a:1"))
    said = texts(await push(world, f"{target.host}/a:1"))
    assert f"{digest_of(made.layers[0])[7:19]}: Pushed" in said
    assert target.tags["a"] == {"1": made.digest}
    assert set(target.blobs["a"]) == {digest_of(made.config), digest_of(made.layers[0])}


async def test_an_image_without_layers(
    world: World, registry: SmallRegistry, target: SmallRegistry
) -> None:
    made = image(layers=0)
    await here(world, registry, made, f"{target.host}/a:1")
    await push(world, f"{target.host}/a:1")
    assert target.tags["a"] == {"1": made.digest}


async def test_all_tags(world: World, registry: SmallRegistry, target: SmallRegistry) -> None:
    one, two = image("one"), image("two")
    await here(world, registry, one, f"{target.host}/a:1")
    await here(world, registry, two, f"{target.host}/a:2")
    await world.images.tag(one.id, reference.parse(f"{target.host}/other:1"))
    said = texts(await push(world, f"{target.host}/a"))
    assert target.tags == {"a": {"1": one.digest, "2": two.digest}}
    assert [line for line in said if ": digest: " in line] == [
        f"1: digest: {one.digest} size: {len(one.manifest)}",
        f"2: digest: {two.digest} size: {len(two.manifest)}",
    ]
    assert world.events[-1] == ("push", f"{target.host}/a", {"name": f"{target.host}/a"})


async def test_what_is_not_here(world: World, registry: SmallRegistry) -> None:
    await here(world, registry, image(), "known:1")
    with pytest.raises(NotFound) as caught:
        await push(world, f"{registry.host}/unknown:1")
    assert caught.value.message() == (
        f"An image does not exist locally with the tag: {registry.host}/unknown"
    )
    with pytest.raises(NotFound, match="tag does not exist: known:2"):
        await push(world, "known:2")
    with pytest.raises(InvalidParameter, match="cannot push a digest reference"):
        await push(world, f"known@sha256:{'a' * 64}")
    # only its digest is known
    name = reference.parse(f"digested@sha256:{'a' * 64}")
    await world.images.learn_digest(world.images.get("known:1").id, name)
    with pytest.raises(NotFound, match="no tags to push for digested"):
        await push(world, "digested")


async def test_the_first_line_comes_before_what_is_not_here(
    world: World, registry: SmallRegistry
) -> None:
    progress = Progress()
    with pytest.raises(NotFound):
        await world.pusher.push(reference.parse("unknown:1"), progress)
    progress.close()
    lines = [line async for batch in progress.batches() for line in batch]
    assert texts(lines) == ["The push refers to repository [docker.io/library/unknown]"]


async def test_a_platform_that_the_image_is_not_for(world: World, registry: SmallRegistry) -> None:
    ref = f"{registry.host}/a:1"
    await here(world, registry, image(), ref)
    await push(world, ref, platform=host_platform())
    with pytest.raises(NotFound, match=r"does not match the specified platform \(linux/s390x\)"):
        await push(world, ref, platform=parse_platform("linux/s390x"))


async def test_a_registry_that_refuses(world: World, registry: SmallRegistry) -> None:
    ref = f"{registry.host}/a:1"
    await here(world, registry, image(), ref)

    async def refuse(request: web.Request) -> web.StreamResponse | None:
        if request.method != "POST":
            return None
        error = {"code": "DENIED", "message": "requested access to the resource is denied"}
        return web.json_response({"errors": [error]}, status=403)

    registry.intercept = refuse
    with pytest.raises(Forbidden, match="denied: requested access to the resource is denied"):
        await push(world, ref)
    assert "a" not in registry.tags


async def test_a_blob_that_is_missing_here(
    world: World, registry: SmallRegistry, target: SmallRegistry
) -> None:
    made = image()
    ref = f"{target.host}/a:1"
    await here(world, registry, made, ref)
    world.content.path(digest_of(made.layers[0])).unlink()
    with pytest.raises(EngineError, match=digest_of(made.layers[0])):
        await push(world, ref)
    assert "a" not in target.tags


async def test_two_pushes_share_uploads_and_one_that_goes_leaves_the_other(
    world: World, registry: SmallRegistry, target: SmallRegistry
) -> None:
    made = image()
    for tag in ("1", "2"):
        await here(world, registry, made, f"{target.host}/a:{tag}")
    gate, arrived = asyncio.Event(), asyncio.Event()

    async def hold(request: web.Request) -> None:
        if request.method == "PUT" and "/blobs/" in request.path:
            arrived.set()
            await gate.wait()

    target.intercept = hold
    first = asyncio.create_task(push(world, f"{target.host}/a:1"))
    await asyncio.wait_for(arrived.wait(), 10)
    second = asyncio.create_task(push(world, f"{target.host}/a:2"))
    await asyncio.sleep(0.1)
    first.cancel()
    await asyncio.wait([first])
    gate.set()
    said = texts(await asyncio.wait_for(second, 10))
    for id in ids(world, made):
        assert f"{id}: Pushed" in said
    assert len(target.asked("POST", "/blobs/uploads/")) == len(made.layers) + 1
    assert target.tags["a"] == {"2": made.digest}


async def test_an_image_that_goes_while_it_is_pushed_still_arrives(
    world: World, registry: SmallRegistry, target: SmallRegistry
) -> None:
    made = image()
    ref = f"{target.host}/a:1"
    await here(world, registry, made, ref)

    async def remove(request: web.Request) -> None:
        if request.method == "POST" and world.images.list():
            await world.images.remove(made.id, force=True)

    target.intercept = remove
    await push(world, ref)
    assert target.tags["a"] == {"1": made.digest}
    assert world.images.list() == []
    await world.content.collect()
    assert world.content.list() == []
