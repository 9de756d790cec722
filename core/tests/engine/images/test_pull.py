"""Pulls from a registry in this process, through the real client, into real stores."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web

from pyengine.config import Config, RegistryEntry
from pyengine.engine.images import pull as pull_module
from pyengine.engine.images.progress import Line, Progress
from pyengine.errors import (
    EngineError,
    Forbidden,
    InvalidParameter,
    NotFound,
    Unavailable,
    Unsupported,
)
from pyengine.hooks import hookimpl
from pyengine.oci import reference
from pyengine.oci.image import Platform, host_platform, parse_platform
from pyengine.testing.registry import MadeImage, SmallRegistry, digest_of, make_image
from pyengine.testing.storage import file, tar

World = Any

HOST = str(host_platform())
OTHER = "linux/s390x"


def layers_of(name: str, count: int = 3, size: int = 3000) -> list[bytes]:
    """Tars of one file each, unlike any other's, and not much smaller when compressed."""
    noise = b"".join(digest_of(b"%d" % number).encode() for number in range(size // 71 + 1))
    return [
        tar(file(f"{name}-{number}", f"{name}{number}".encode() + noise[:size]))
        for number in range(count)
    ]


def image(name: str = "one", **options: Any) -> MadeImage:
    return make_image(layers_of(name), **{"platform": HOST, **options})


def short(blob: bytes) -> str:
    return digest_of(blob)[7:19]


class Gate:
    """Holds back the answers to requests whose path ends with one of ``names``."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.open = asyncio.Event()
        self.arrived = asyncio.Event()

    async def __call__(self, request: web.Request) -> web.StreamResponse | None:
        if request.method == "GET" and request.path.endswith(self.names):
            self.arrived.set()
            await self.open.wait()
        return None


async def pull(world: World, ref: str, **options: Any) -> list[Line]:
    """The lines that a client saw; raises what the pull raises."""
    progress = Progress()
    try:
        await world.puller.pull(reference.parse(ref), progress, **options)
    finally:
        progress.close()
    return [line async for batch in progress.batches() for line in batch]


def texts(lines: list[Line]) -> list[str]:
    """Lines as people read them; of a bar's counts only one."""
    found: list[str] = []
    for line in lines:
        text = f"{line.id}: {line.status}" if line.id else line.status
        if text not in found:
            found.append(text)
    return found


# -- what is pulled ------------------------------------------------------------------------------


async def test_a_pull_brings_everything_and_says_so(world: World, registry: SmallRegistry) -> None:
    made = image()
    registry.add("a/b", "1", made)
    lines = texts(await pull(world, f"{registry.host}/a/b:1"))
    assert lines[0] == "1: Pulling from a/b"
    assert lines[-2:] == [
        f"Digest: {made.digest}",
        f"Status: Downloaded newer image for {registry.host}/a/b:1",
    ]
    ids = [short(layer) for layer in made.layers]
    assert lines[1:4] == [f"{id}: Pulling fs layer" for id in ids]
    for id in ids:
        mine = [line.partition(": ")[2] for line in lines if line.startswith(id)]
        assert [status for status in mine if status != "Waiting"] == [
            "Pulling fs layer",
            "Downloading",
            "Verifying Checksum",
            "Download complete",
            "Extracting",
            "Pull complete",
        ]
    found = world.images.get(f"{registry.host}/a/b:1")
    assert found.id == made.id
    assert found.manifest == made.digest
    assert found.repo_tags == [f"{registry.host}/a/b:1"]
    assert found.repo_digests == [f"{registry.host}/a/b@{made.digest}"]
    assert world.content.read(made.digest) == made.manifest
    for layer in made.layers:
        assert world.content.get(digest_of(layer)).sources == [f"{registry.host}/a/b"]
    assert world.events[-1] == (
        "pull", f"{registry.host}/a/b:1", {"name": f"{registry.host}/a/b"},
    )  # fmt: skip
    assert await world.content.fsck() == []


async def test_bars_count_to_their_end(world: World, registry: SmallRegistry) -> None:
    made = image()
    registry.add("a", "1", made)
    lines = await pull(world, f"{registry.host}/a:1")
    for layer in made.layers:
        for status in ("Downloading", "Extracting"):
            counts = [
                (line.current, line.total)
                for line in lines
                if line.status == status and line.id == short(layer)
            ]
            assert counts[-1] == (len(layer), len(layer))
            assert counts == sorted(counts)


async def test_nothing_new_is_one_request(world: World, registry: SmallRegistry) -> None:
    made = image()
    registry.add("a", "1", made)
    await pull(world, f"{registry.host}/a:1")
    registry.requests.clear()
    lines = texts(await pull(world, f"{registry.host}/a:1"))
    assert registry.requests == [("HEAD", "/v2/a/manifests/1")]
    assert lines == [
        "1: Pulling from a",
        f"Digest: {made.digest}",
        f"Status: Image is up to date for {registry.host}/a:1",
    ]
    registry.requests.clear()
    lines = texts(await pull(world, f"{registry.host}/a@{made.digest}"))
    assert lines[-1] == f"Status: Image is up to date for {registry.host}/a@{made.digest}"
    assert lines[0] == f"{registry.host}/a@{made.digest}: Pulling from a"
    assert len(registry.requests) == 1


async def test_a_digest_gives_no_tag(world: World, registry: SmallRegistry) -> None:
    made = image()
    registry.add("a", "", made)
    await pull(world, f"{registry.host}/a@{made.digest}")
    found = world.images.get(f"{registry.host}/a@{made.digest}")
    assert found.id == made.id
    assert found.repo_tags == []


async def test_a_moved_tag_leaves_its_old_image_without_one(
    world: World, registry: SmallRegistry
) -> None:
    old, new = image("old"), image("new")
    registry.add("a", "1", old)
    await pull(world, f"{registry.host}/a:1")
    registry.add("a", "1", new)
    lines = texts(await pull(world, f"{registry.host}/a:1"))
    assert lines[-1] == f"Status: Downloaded newer image for {registry.host}/a:1"
    assert world.images.get(f"{registry.host}/a:1").id == new.id
    assert world.images.get(old.id).repo_tags == []
    assert world.images.get(old.id).repo_digests == [f"{registry.host}/a@{old.digest}"]


async def test_a_pull_brings_back_what_was_lost(world: World, registry: SmallRegistry) -> None:
    made = image()
    registry.add("a", "1", made)
    await pull(world, f"{registry.host}/a:1")
    world.content.path(digest_of(made.layers[1])).unlink()
    await world.again()
    assert await world.content.fsck() != []
    await pull(world, f"{registry.host}/a:1")
    assert await world.content.fsck() == []
    assert world.content.path(digest_of(made.layers[1])).read_bytes() == made.layers[1]


async def test_another_tag_of_a_known_image_brings_nothing(
    world: World, registry: SmallRegistry
) -> None:
    made = image()
    registry.add("a", "1", made)
    registry.add("a", "2", made)
    await pull(world, f"{registry.host}/a:1")
    registry.requests.clear()
    lines = texts(await pull(world, f"{registry.host}/a:2"))
    assert registry.requests == [("HEAD", "/v2/a/manifests/2")]
    assert lines[-1] == f"Status: Downloaded newer image for {registry.host}/a:2"
    assert world.images.get(made.id).repo_tags == [
        f"{registry.host}/a:1", f"{registry.host}/a:2",
    ]  # fmt: skip


async def test_layers_that_are_here_do_not_come_again(
    world: World, registry: SmallRegistry
) -> None:
    common, own = layers_of("common", 2), layers_of("own", 1)
    registry.add("a", "1", make_image(common, platform=HOST))
    second = make_image([*common, *own], platform=HOST)
    registry.add("b", "1", second)
    await pull(world, f"{registry.host}/a:1")
    registry.requests.clear()
    lines = texts(await pull(world, f"{registry.host}/b:1"))
    assert f"{short(second.layers[0])}: Already exists" in lines
    assert f"{short(second.layers[1])}: Already exists" in lines
    assert f"{short(second.layers[2])}: Pull complete" in lines
    blobs = registry.asked("GET", "/blobs/")
    assert sorted(blobs) == sorted(
        f"/v2/b/blobs/{digest_of(blob)}" for blob in (second.config, second.layers[2])
    )
    # both repositories are known to have it
    sources = world.content.get(digest_of(second.layers[0])).sources
    assert sources == [f"{registry.host}/a", f"{registry.host}/b"]


async def test_a_layer_that_is_unpacked_still_comes_if_its_blob_is_another(
    world: World, registry: SmallRegistry
) -> None:
    tars = layers_of("same", 1)
    first = make_image(tars, platform=HOST)
    registry.add("a", "1", first)
    await pull(world, f"{registry.host}/a:1")
    second = recompressed(first, tars[0])
    registry.add("b", "1", second)
    lines = texts(await pull(world, f"{registry.host}/b:1"))
    assert f"{short(second.layers[0])}: Pull complete" in lines
    assert world.content.has(digest_of(second.layers[0]))


def recompressed(made: MadeImage, plain: bytes) -> MadeImage:
    """Another image with the same layer, stored as it is."""
    config = json.dumps({**json.loads(made.config), "author": "somebody"}).encode()
    manifest = json.loads(made.manifest)
    manifest["config"].update(digest=digest_of(config), size=len(config))
    manifest["layers"] = [
        {
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": digest_of(plain),
            "size": len(plain),
        }
    ]
    return MadeImage(config, [plain], json.dumps(manifest).encode())


async def test_a_layer_twice_in_an_image_comes_once(world: World, registry: SmallRegistry) -> None:
    tars = layers_of("one", 2)
    made = make_image([tars[0], tars[1], tars[0]], platform=HOST)
    registry.add("a", "1", made)
    await pull(world, f"{registry.host}/a:1")
    assert len(registry.asked("GET", digest_of(made.layers[0]))) == 1
    assert len(world.images.get(made.id).chain) == 3


async def test_all_tags(world: World, registry: SmallRegistry) -> None:
    one, two = image("one"), image("two")
    registry.add("a", "1", one)
    registry.add("a", "2", two)
    lines = texts(await pull(world, f"{registry.host}/a"))
    assert "1: Pulling from a" in lines
    assert "2: Pulling from a" in lines
    assert lines[-1] == f"Status: Downloaded newer image for {registry.host}/a"
    assert world.images.get(f"{registry.host}/a:1").id == one.id
    assert world.images.get(f"{registry.host}/a:2").id == two.id
    lines = texts(await pull(world, f"{registry.host}/a"))
    assert lines[-1] == f"Status: Image is up to date for {registry.host}/a"


# -- platforms -----------------------------------------------------------------------------------


async def test_an_index_gives_the_image_for_this_machine(
    world: World, registry: SmallRegistry
) -> None:
    mine, theirs = image("mine"), image("theirs", platform=OTHER)
    top = registry.add_index("a", "1", {OTHER: theirs, HOST: mine})
    lines = texts(await pull(world, f"{registry.host}/a:1"))
    assert f"Digest: {top}" in lines
    found = world.images.get(f"{registry.host}/a:1")
    assert (found.id, found.manifest) == (mine.id, mine.digest)
    assert found.repo_digests == [f"{registry.host}/a@{top}"]
    registry.requests.clear()
    await pull(world, f"{registry.host}/a:1")
    assert len(registry.requests) == 1


async def test_another_platform_of_the_same_index_is_another_image(
    world: World, registry: SmallRegistry
) -> None:
    mine, theirs = image("mine"), image("theirs", platform=OTHER)
    registry.add_index("a", "1", {HOST: mine, OTHER: theirs})
    ref = f"{registry.host}/a:1"
    await pull(world, ref)
    lines = texts(await pull(world, ref, platform=parse_platform(OTHER)))
    assert lines[-1] == f"Status: Downloaded newer image for {ref}"
    assert world.images.get(ref).id == theirs.id
    assert not [line for line in lines if "WARNING" in line]
    await pull(world, ref)
    assert world.images.get(ref).id == mine.id


async def test_an_index_without_this_platform(world: World, registry: SmallRegistry) -> None:
    registry.add_index("a", "1", {OTHER: image(platform=OTHER)})
    with pytest.raises(NotFound, match=f"no matching manifest for {HOST} in the manifest list"):
        await pull(world, f"{registry.host}/a:1")
    with pytest.raises(NotFound, match="no matching manifest for linux/arm64 in the manifest"):
        await pull(world, f"{registry.host}/a:1", platform=Platform("arm64", "linux"))


async def test_an_image_for_one_platform_is_taken_with_a_warning(
    world: World, registry: SmallRegistry
) -> None:
    registry.add("a", "1", image(platform=OTHER))
    ref = f"{registry.host}/a:1"
    for _ in range(2):
        lines = texts(await pull(world, ref, platform=parse_platform("linux/arm64")))
        assert (
            f"WARNING: image with reference {ref} was found but its platform ({OTHER}) does not "
            "match the specified platform (linux/arm64)"
        ) in lines
    assert not [line for line in texts(await pull(world, ref)) if "WARNING" in line]


# -- what is refused -----------------------------------------------------------------------------


async def refused(world: World, registry: SmallRegistry, made: MadeImage) -> EngineError:
    """Why ``made`` is not taken; nothing of it is left."""
    registry.add("bad", "1", made)
    with pytest.raises(EngineError) as caught:
        await pull(world, f"{registry.host}/bad:1")
    assert world.images.list() == []
    assert world.content.list() == []
    return caught.value


async def test_layers_and_configuration_that_do_not_agree(
    world: World, registry: SmallRegistry
) -> None:
    error = await refused(
        world, registry, image(config={"rootfs": {"type": "layers", "diff_ids": []}})
    )
    assert error.message() == "layers from manifest don't match image configuration"


async def test_a_layer_that_unpacks_to_something_else(
    world: World, registry: SmallRegistry
) -> None:
    diff_ids = [digest_of(b"%d" % number) for number in range(3)]
    error = await refused(
        world, registry, image(config={"rootfs": {"type": "layers", "diff_ids": diff_ids}})
    )
    assert isinstance(error, InvalidParameter)
    assert "diff" in error.message().lower()


async def test_another_operating_system(world: World, registry: SmallRegistry) -> None:
    error = await refused(world, registry, image(platform="windows/amd64"))
    assert error.message() == (
        'cannot download image with operating system "windows" when requesting "linux"'
    )


async def test_a_layer_that_lies_elsewhere(world: World, registry: SmallRegistry) -> None:
    def elsewhere(layers: list[dict[str, Any]]) -> None:
        layers[0]["urls"] = ["https://elsewhere.example/layer"]

    made = image(descriptors=elsewhere)
    registry.add("a", "1", made)
    # the registry has it nevertheless
    await pull(world, f"{registry.host}/a:1")
    other = make_image(layers_of("other"), platform=HOST, descriptors=elsewhere)
    registry.add("b", "1", other)
    del registry.blobs["b"][digest_of(other.layers[0])]
    with pytest.raises(Unsupported, match=r"it is to be had at https://elsewhere.example/layer"):
        await pull(world, f"{registry.host}/b:1")


async def test_a_configuration_without_end(world: World, registry: SmallRegistry) -> None:
    made = image()
    manifest = json.loads(made.manifest)
    manifest["config"]["size"] = 1 << 40
    made = made._replace(manifest=json.dumps(manifest).encode())
    assert "too large" in (await refused(world, registry, made)).message()


async def test_a_layer_larger_than_the_disk(world: World, registry: SmallRegistry) -> None:
    def enormous(layers: list[dict[str, Any]]) -> None:
        layers[0]["size"] = 1 << 60

    error = await refused(world, registry, image(descriptors=enormous))
    assert "is too large" in error.message()
    assert not registry.asked("GET", json.loads(image().manifest)["layers"][0]["digest"])


async def test_the_name_of_nothing(world: World) -> None:
    with pytest.raises(Forbidden, match="'scratch' is a reserved name"):
        await pull(world, "scratch")


async def test_a_hook_may_refuse_before_anything_is_recorded(
    world: World, registry: SmallRegistry
) -> None:
    class Guard:
        @hookimpl
        def security_admit_image(self, name: str, digest: str) -> None:
            raise Forbidden(f"{name} is not wanted here")

    world.guard(Guard())
    made = image()
    registry.add("a", "1", made)
    with pytest.raises(Forbidden, match="a:1 is not wanted here"):
        await pull(world, f"{registry.host}/a:1")
    assert world.images.list() == []


async def test_what_is_not_there_fails_before_the_first_line(
    world: World, registry: SmallRegistry
) -> None:
    progress = Progress()
    with pytest.raises(NotFound) as caught:
        await world.puller.pull(reference.parse(f"{registry.host}/a:1"), progress)
    assert caught.value.message() == (
        f"manifest for {registry.host}/a:1 not found: manifest unknown: manifest unknown"
    )
    progress.close()
    assert [batch async for batch in progress.batches()] == []


async def test_what_is_no_image_is_kept_as_it_is(world: World, registry: SmallRegistry) -> None:
    made = make_image([b"chart"], manifest={"artifactType": "application/vnd.chart"})
    manifest = json.loads(made.manifest)
    manifest["config"]["mediaType"] = "application/vnd.oci.empty.v1+json"
    manifest["layers"][0]["mediaType"] = "application/vnd.chart.content"
    made = made._replace(manifest=json.dumps(manifest).encode())
    registry.add("a", "1", made)
    ref = f"{registry.host}/a:1"
    lines = texts(await pull(world, ref))
    assert lines[-1] == f"Status: Downloaded newer image for {ref}"
    assert f"{short(made.layers[0])}: Pull complete" in lines
    found = world.images.get(ref)
    assert (found.id, found.artifact) == (made.digest, "application/vnd.chart")
    assert world.content.read(digest_of(made.layers[0])) == made.layers[0]
    assert texts(await pull(world, ref))[-1] == f"Status: Image is up to date for {ref}"
    assert await world.content.fsck() == []


# -- shared, cancelled, resumed ------------------------------------------------------------------


async def test_two_pulls_of_one_image_share_every_blob(
    world: World, registry: SmallRegistry
) -> None:
    made = image()
    registry.add("a", "1", made)
    registry.add("b", "1", made)
    gate = registry.intercept = Gate(digest_of(made.layers[0]))
    first = asyncio.create_task(pull(world, f"{registry.host}/a:1"))
    await asyncio.wait_for(gate.arrived.wait(), 10)
    second = asyncio.create_task(pull(world, f"{registry.host}/b:1"))
    third = asyncio.create_task(pull(world, f"{registry.host}/a:1"))
    await asyncio.sleep(0.2)
    gate.open.set()
    for lines in map(texts, await asyncio.gather(first, second, third)):
        for layer in made.layers:
            assert f"{short(layer)}: Pull complete" in lines or (
                f"{short(layer)}: Already exists" in lines
            )
        assert f"{short(made.layers[0])}: Download complete" in lines
    for layer in made.layers:
        assert len(registry.asked("GET", digest_of(layer))) == 1
    assert world.images.get(made.id).repo_tags == [
        f"{registry.host}/a:1", f"{registry.host}/b:1",
    ]  # fmt: skip


async def test_one_client_that_goes_leaves_the_others_transfer_alone(
    world: World, registry: SmallRegistry
) -> None:
    made = image()
    registry.add("a", "1", made)
    gate = registry.intercept = Gate(digest_of(made.layers[0]))
    first = asyncio.create_task(pull(world, f"{registry.host}/a:1"))
    await asyncio.wait_for(gate.arrived.wait(), 10)
    second = asyncio.create_task(pull(world, f"{registry.host}/a:1"))
    await asyncio.sleep(0.2)
    first.cancel()
    await asyncio.wait([first])
    assert first.cancelled()
    gate.open.set()
    await asyncio.wait_for(second, 20)
    assert len(registry.asked("GET", digest_of(made.layers[0]))) == 1
    assert await world.content.fsck() == []


async def test_a_cancelled_pull_goes_on_where_it_ended(
    world: World, registry: SmallRegistry
) -> None:
    made = make_image(layers_of("big", 2, 400_000), platform=HOST)
    registry.add("a", "1", made)
    blob = made.layers[1]
    half = asyncio.Event()

    async def stall(request: web.Request) -> web.StreamResponse | None:
        if half.is_set() or not request.path.endswith(digest_of(blob)):
            return None
        response = web.StreamResponse(headers={"Content-Length": str(len(blob))})
        await response.prepare(request)
        await response.write(blob[: len(blob) // 2])
        await asyncio.sleep(0.3)
        half.set()
        await asyncio.sleep(30)
        return response

    registry.intercept = stall
    task = asyncio.create_task(pull(world, f"{registry.host}/a:1"))
    await asyncio.wait_for(half.wait(), 10)
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.wait([task])
    assert world.images.list() == []
    await world.again()
    registry.requests.clear()
    registry.ranges.clear()
    await pull(world, f"{registry.host}/a:1")
    assert registry.ranges == [f"bytes={len(blob) // 2}-{len(blob) - 1}"]
    # what was complete came no second time
    assert registry.asked("GET", "/blobs/") == [f"/v2/a/blobs/{digest_of(blob)}"]
    assert await world.content.fsck() == []


async def test_what_a_failed_pull_has_brought_is_kept_for_a_while(
    world: World, registry: SmallRegistry
) -> None:
    made = image()
    registry.add("a", "1", made)

    async def busy(request: web.Request) -> web.StreamResponse | None:
        wanted = request.path.endswith(digest_of(made.layers[2]))
        return web.Response(status=507) if wanted else None

    registry.intercept = busy
    with pytest.raises(Unavailable):
        await pull(world, f"{registry.host}/a:1")
    await world.content.collect()
    assert world.content.has(made.digest)
    registry.intercept = None
    registry.requests.clear()
    await pull(world, f"{registry.host}/a:1")
    assert digest_of(made.config) not in str(registry.requests)
    assert await world.content.fsck() == []
    # and the lease is gone with the success
    await world.images.remove(made.id, force=True)
    await world.content.collect()
    assert world.content.list() == []


async def test_what_can_never_succeed_leaves_nothing(world: World, registry: SmallRegistry) -> None:
    made = image()
    registry.add("a", "1", made)
    del registry.blobs["a"][digest_of(made.layers[2])]
    with pytest.raises(NotFound):
        await pull(world, f"{registry.host}/a:1")
    assert world.content.list() == []
    assert world.layers.all() == []
    assert await world.content.fsck() == []


async def test_wrong_bytes_are_fetched_again_and_given_up_at_last(
    world: World, registry: SmallRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull_module, "TICK", 0.001)
    made = image()
    registry.add("a", "1", made)
    blob = made.layers[1]
    wrong = 2

    async def corrupt(request: web.Request) -> web.StreamResponse | None:
        nonlocal wrong
        if request.path.endswith(digest_of(blob)) and wrong:
            wrong -= 1
            return web.Response(body=b"x" * len(blob))
        return None

    registry.intercept = corrupt
    lines = texts(await pull(world, f"{registry.host}/a:1"))
    assert f"{short(blob)}: Retrying in 1 second" in lines
    assert f"{short(blob)}: Retrying in 2 seconds" in lines
    assert len(registry.asked("GET", digest_of(blob))) == 3

    await world.images.remove(made.id, force=True)
    wrong = 1000
    registry.requests.clear()
    with pytest.raises(EngineError, match="filesystem layer verification failed for digest"):
        await pull(world, f"{registry.host}/a:1")
    assert len(registry.asked("GET", digest_of(blob))) == 5
    assert not world.content.has(digest_of(blob))


async def test_downloads_are_limited_for_all_pulls_together(
    world: World, registry: SmallRegistry
) -> None:
    busy = most = 0

    async def count(request: web.Request) -> web.StreamResponse | None:
        nonlocal busy, most
        if request.method == "GET" and "/blobs/" in request.path:
            data = registry.blobs[request.path.split("/")[2]][request.path.rpartition("/")[2]]
            busy += 1
            most = max(most, busy if len(data) > 1000 else 0)
            await asyncio.sleep(0.05)
            busy -= 1
        return None

    for name in ("a", "b", "c"):
        registry.add(name, "1", make_image(layers_of(name, 4), platform=HOST))
    registry.intercept = count
    seen = await asyncio.gather(*(pull(world, f"{registry.host}/{name}:1") for name in "abc"))
    assert most <= 3 + 3  # configurations take no slot
    assert any("Waiting" in line for lines in seen for line in texts(lines))


# -- mirrors and inspection ----------------------------------------------------------------------


async def test_a_mirror_is_named(world: World, registry: SmallRegistry) -> None:
    made = image()
    registry.add("library/x", "1", made)
    entry = RegistryEntry(mirrors=[f"http://{registry.host}"])
    world.registries.reload(Config(registries={"docker.io": entry}))
    lines = texts(await pull(world, "x:1"))
    assert lines[:2] == [
        "1: Pulling from library/x",
        f"Using {registry.host}, a mirror of docker.io",
    ]
    assert world.images.get("x:1").repo_digests == [f"x@{made.digest}"]


async def test_inspection(world: World, registry: SmallRegistry) -> None:
    mine, theirs = image("mine"), image("theirs", platform=OTHER)
    top = registry.add_index("a", "1", {HOST: mine, OTHER: theirs})
    registry.add("a", "latest", theirs)
    found = await world.puller.inspect(reference.parse(f"{registry.host}/a:1"))
    assert found.descriptor.digest == top
    assert [str(platform) for platform in found.platforms] == [HOST, OTHER]
    found = await world.puller.inspect(reference.parse(f"{registry.host}/a"))
    assert (found.descriptor.digest, found.descriptor.size) == (theirs.digest, len(theirs.manifest))
    assert [str(platform) for platform in found.platforms] == [OTHER]
    assert world.content.list() == []
