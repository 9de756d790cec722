"""Archives of images: what is written, what is read, what is refused, and what stays stored."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
import zstandard
from aiohttp import web

from core.tests.engine.images.images_world import (
    BASE,
    UPPER,
    World,
    archive,
    config,
    digest,
    layout,
    saved,
)
from pyengine import timestamps
from pyengine.engine.images.imports import import_address, import_image
from pyengine.engine.images.load import load_images
from pyengine.engine.images.making import Gzip
from pyengine.engine.images.progress import Progress
from pyengine.engine.images.save import save_images
from pyengine.errors import EngineError, Forbidden, InvalidParameter, NotFound, Unavailable
from pyengine.hooks import hookimpl
from pyengine.oci import reference
from pyengine.oci.image import Platform, chain_ids, parse_manifest
from pyengine.testing.plain_storage import PlainStorage
from pyengine.testing.storage import context_for, file, tar


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    yield world
    assert await world.left() == []
    await world.close()


async def save(world: World, *names: str, platform: Platform | None = None) -> bytes:
    async with save_images(world.images, names, platform) as written:
        data = b"".join(written.read())
        assert len(data) == written.size
    return data


def members(data: bytes) -> dict[str, bytes]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            body = tar.extractfile(member) if member.isfile() else None
            found[member.name] = body.read() if body else b""
    return found


# -- what is stored -------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 511, 70_000, 1 << 20, 3 << 20])
def test_equal_layers_make_equal_blobs_however_they_come(world: World, step: int) -> None:
    data = b"".join(b"%d\n" % number for number in range(400_000))
    blobs = set()
    for size in (step if step > 1 else 1 << 16, len(data)):
        with world.content.store.ingest() as ingest:
            store = Gzip(ingest)
            for position in range(0, len(data), size):
                store.write(data[position : position + size])
            store.finish()
            blobs.add(ingest.commit())
    (blob,) = blobs
    assert gzip.decompress(world.content.store.read(blob)) == data
    world.content.store.remove(blob)


@pytest.mark.parametrize(
    ("compress", "media_type", "kept"),
    [
        (bytes, "application/vnd.docker.image.rootfs.diff.tar.gzip", False),
        (gzip.compress, "application/vnd.docker.image.rootfs.diff.tar.gzip", True),
        (bz2.compress, "application/vnd.docker.image.rootfs.diff.tar.gzip", False),
        (lzma.compress, "application/vnd.docker.image.rootfs.diff.tar.gzip", False),
        (
            zstandard.ZstdCompressor().compress,
            "application/vnd.oci.image.layer.v1.tar+zstd",
            True,
        ),
    ],
    ids=["plain", "gzip", "bzip2", "xz", "zstd"],
)
@pytest.mark.parametrize("how", ["import", "load"])
async def test_layers_are_kept_as_they_came(
    world: World, how: str, compress: Any, media_type: str, kept: bool
) -> None:
    data = compress(BASE)
    if how == "import":
        await import_image(world.images, io.BytesIO(data), reference.parse("a:1"))
    else:
        await world.load(saved((config([BASE]), [BASE], ["a:1"])))
        await world.images.remove("a:1")
        raw = config([BASE])
        items = [{"Config": "c.json", "RepoTags": ["a:1"], "Layers": ["x"]}]
        body = {"c.json": raw, "x": data, "manifest.json": json.dumps(items).encode()}
        await world.load(archive(body))
    image = world.images.get("a:1")
    (layer,) = world.images.manifest(image).layers
    assert layer.media_type == media_type
    assert (layer.digest == digest(data)) == kept
    blob = world.content.get(layer.digest)
    assert blob is not None
    assert (blob.size, blob.diff_id) == (layer.size, digest(BASE))
    assert sorted(image.blobs) == [one.digest for one in world.content.list()]


# -- save -----------------------------------------------------------------------------------------


async def test_save_is_both_kinds_of_archive(world: World) -> None:
    raw = config([BASE, UPPER])
    await world.load(saved((raw, [BASE, UPPER], ["app:1", "ghcr.io/x/app:2"])))
    data = await save(world, "app:1", "ghcr.io/x/app:2")
    assert data == await save(world, "app:1", "ghcr.io/x/app:2")
    found = members(data)
    image = world.images.get("app:1")
    for blob in image.blobs:
        assert found[f"blobs/sha256/{blob[7:]}"] == world.content.read(blob)
    (item,) = json.loads(found["manifest.json"])
    assert item["RepoTags"] == ["app:1", "ghcr.io/x/app:2"]
    assert found[item["Config"]] == raw
    assert [gzip.decompress(found[name]) for name in item["Layers"]] == [BASE, UPPER]
    assert json.loads(found["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads(found["index.json"])["manifests"]
    assert [entry["annotations"]["io.containerd.image.name"] for entry in index] == [
        "docker.io/library/app:1",
        "ghcr.io/x/app:2",
    ]
    assert index[0]["annotations"]["org.opencontainers.image.ref.name"] == "1"
    assert {entry["digest"] for entry in index} == {image.manifest}
    assert world.events[-1][:2] == ("save", image.id)


async def test_saved_and_loaded_is_the_same_image(world: World, tmp_path: Path) -> None:
    raw = config([BASE, UPPER])
    await world.load(saved((raw, [BASE, UPPER], ["app:1"])))
    before = world.images.get("app:1")
    data = await save(world, "app:1")
    (tmp_path / "other").mkdir()
    other = World(tmp_path / "other")
    assert await other.load(data) == ["Loaded image: app:1"]
    after = other.images.get("app:1")
    assert (after.id, after.manifest, after.blobs) == (before.id, before.manifest, before.blobs)
    assert await save(other, "app:1") == data
    await other.close()


async def test_what_is_saved(world: World) -> None:
    raw = config([BASE])
    await world.load(saved((raw, [BASE], ["app:1", "app:2"]), (config([UPPER]), [UPPER], ["b:1"])))
    by_id = members(await save(world, digest(raw)))
    assert json.loads(by_id["manifest.json"])[0]["RepoTags"] is None
    assert "repositories" not in by_id
    (entry,) = json.loads(by_id["index.json"])["manifests"]
    assert "annotations" not in entry
    every = members(await save(world, "app"))
    assert json.loads(every["manifest.json"])[0]["RepoTags"] == ["app:1", "app:2"]
    two = members(await save(world, "app:2", "b:1", "app:2"))
    assert [item["RepoTags"] for item in json.loads(two["manifest.json"])] == [["app:2"], ["b:1"]]
    for name in ("nothing", "app:3", "sha256:" + "0" * 64):
        with pytest.raises(NotFound):
            await save(world, name)
    with pytest.raises(NotFound, match="no suitable export target found for platform linux/arm64"):
        await save(world, "app:1", platform=Platform(os="linux", architecture="arm64"))


async def test_members_are_as_old_as_the_image(world: World) -> None:
    id = await world.imported("a:1")
    image = world.images.get(id)
    with tarfile.open(fileobj=io.BytesIO(await save(world, "a:1"))) as tar:
        times = {member.name: member.mtime for member in tar}
    path = "blobs/sha256/{}".format
    made = timestamps.parse(image.created) // 10**9
    assert made > 0
    assert times[path(id[7:])] == made
    assert times["manifest.json"] == times[path(image.manifest[7:])] == 0
    assert set(times.values()) == {0, made}


async def test_what_is_being_saved_is_not_removed(world: World) -> None:
    await world.load(saved((config([BASE]), [BASE], ["app:1"])))
    async with save_images(world.images, ["app:1"]) as written:
        await world.images.remove("app:1")
        assert (await world.content.collect()).removed == []
        assert len(b"".join(written.read())) == written.size
    assert world.content.list() == []


# -- load -----------------------------------------------------------------------------------------


async def test_load_of_an_archive_with_links(world: World) -> None:
    """As skopeo writes it: layers beside, and links to them where they were in old days."""
    raw = config([BASE])
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in (("layer.tar", BASE), ("c.json", raw)):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("abc/layer.tar")
        link.type, link.linkname = tarfile.SYMTYPE, "../layer.tar"
        tar.addfile(link)
        hard = tarfile.TarInfo("def/layer.tar")
        hard.type, hard.linkname = tarfile.LNKTYPE, "abc/layer.tar"
        tar.addfile(hard)
        items = [{"Config": "c.json", "RepoTags": ["l:1"], "Layers": ["./def/layer.tar"]}]
        data = json.dumps(items).encode()
        member = tarfile.TarInfo("manifest.json")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    assert await world.load(out.getvalue()) == ["Loaded image: l:1"]
    assert world.images.get("l:1").id == digest(raw)


async def test_load_of_an_archive_from_before_there_was_a_manifest(world: World) -> None:
    command = {"container_config": {"Cmd": ["/bin/sh", "-c", "base"]}}
    top = {
        "id": "bb",
        "parent": "aa",
        "os": "linux",
        "architecture": "amd64",
        "config": {"Cmd": ["run"]},
        "Size": 7,
    }
    files = {
        "aa/json": json.dumps({"id": "aa", "created": "2015-01-01T00:00:00Z"} | command).encode(),
        "aa/layer.tar": BASE,
        "aa/VERSION": b"1.0",
        "cc/json": json.dumps({"id": "cc", "parent": "bb", "os": "linux"}).encode(),
        "cc/layer.tar": b"",
        "bb/json": json.dumps(top).encode(),
        "bb/layer.tar": UPPER,
        "repositories": json.dumps(
            {"old": {"1": "bb", "3": "cc"}, "old/name": {"2": "bb"}}
        ).encode(),
    }
    await world.load(archive(files))
    image = world.images.get("old:1")
    assert image.repo_tags == ["old:1", "old/name:2"]
    assert image.diff_ids == [digest(BASE), digest(UPPER)]
    assert world.images.get("old:3").diff_ids == [*image.diff_ids, digest(b"")]
    assert image.config.cmd == ["run"]
    assert [entry.created_by for entry in image.history] == ["/bin/sh -c base", ""]
    assert "Size" not in json.loads(world.images.raw_config("old:1"))
    with pytest.raises(InvalidParameter, match="invalid target ID: zz"):
        await world.load(archive({"repositories": b'{"x": {"1": "zz"}}'}))


async def test_load_with_attestations(world: World) -> None:
    """As buildx writes it: an index with the image and something about it."""
    raw = config([BASE])
    files = layout(raw, [gzip.compress(BASE)])
    (image,) = json.loads(files.pop("index.json"))["manifests"]
    image["platform"] = {"os": "linux", "architecture": "amd64"}
    statement = b'{"_type":"https://in-toto.io/Statement/v0.1"}'
    about = json.dumps(
        {
            "schemaVersion": 2,
            "config": {"mediaType": "x", "digest": digest(b"{}"), "size": 2},
            "layers": [
                {
                    "mediaType": "application/vnd.in-toto+json",
                    "digest": digest(statement),
                    "size": len(statement),
                }
            ],
        }
    ).encode()
    attestation = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest(about),
        "size": len(about),
        "platform": {"os": "unknown", "architecture": "unknown"},
        "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
    }
    index = json.dumps({"schemaVersion": 2, "manifests": [image, attestation]}).encode()
    for data in (statement, about, index, b"{}"):
        files["blobs/sha256/" + digest(data)[7:]] = data
    top = {
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "digest": digest(index),
        "size": len(index),
        "annotations": {"io.containerd.image.name": "docker.io/library/built:1"},
    }
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [top]}).encode()
    assert await world.load(archive(files)) == ["Loaded image: built:1"]
    assert world.images.get("built:1").id == digest(raw)
    # what is said about the image is not the image's
    assert len(world.content.list()) == 3


async def test_load_tells_how_far_it_is(world: World) -> None:
    progress = Progress()
    data = saved((config([BASE, UPPER]), [BASE, UPPER], ["p:1"]))
    await load_images(world.images, io.BytesIO(data), None, progress)
    progress.close()
    lines = [line async for batch in progress.batches() for line in batch]
    assert {line.id for line in lines} == {digest(BASE)[7:19], digest(UPPER)[7:19]}
    assert {line.status for line in lines} == {"Loading layer"}
    assert all(line.current == line.total > 0 for line in lines)
    progress = Progress()
    await load_images(world.images, io.BytesIO(data), None, progress)
    progress.close()
    assert [batch async for batch in progress.batches()] == []


async def test_loading_what_is_here_changes_nothing(world: World) -> None:
    raw = config([BASE])
    files = layout(raw, [zstandard.ZstdCompressor().compress(BASE)], "docker.io/library/a:1")
    await world.load(archive(files))
    before = world.images.get("a:1")
    written = len(list((world.root / "content/blobs/sha256").iterdir()))
    await world.load(archive(files))
    # another archive of it, with plain layers and without a manifest
    await world.load(saved((raw, [BASE], ["a:1"])))
    assert world.images.get("a:1") == before
    assert len(list((world.root / "content/blobs/sha256").iterdir())) == written


async def test_one_bad_image_spoils_the_whole_archive(world: World) -> None:
    good, bad = config([BASE]), config([UPPER])
    await world.imported("here:1")
    before = world.images.list(all=True)
    with pytest.raises(InvalidParameter, match="invalid diffID for layer 0"):
        await world.load(saved((good, [BASE], ["good:1"]), (bad, [BASE], ["here:1"])))
    assert world.images.list(all=True) == before


async def test_one_image_that_is_not_admitted_spoils_the_whole_archive(world: World) -> None:
    class Guard:
        @hookimpl
        def security_admit_image(self, name: str, digest: str) -> None:
            if name == "bad:1":
                raise Forbidden("not here")

    world.hooks.register(Guard(), "guard")
    data = saved((config([BASE]), [BASE], ["good:1"]), (config([UPPER]), [UPPER], ["bad:1"]))
    with pytest.raises(Forbidden):
        await world.load(data)
    assert world.images.list(all=True) == []
    assert world.layers() == set()


def _lies() -> dict[str, tuple[bytes, str]]:
    raw = config([BASE])
    files = layout(raw, [BASE], "docker.io/library/a:1")
    index = json.loads(files["index.json"])
    blobs = {name: data for name, data in files.items() if name.startswith("blobs/")}
    manifest = next(name for name, data in blobs.items() if b'"schemaVersion"' in data)
    layer = next(name for name, data in blobs.items() if data == BASE)

    def with_index(**fields: Any) -> bytes:
        entry = index["manifests"][0] | fields
        return archive(files | {"index.json": json.dumps({**index, "manifests": [entry]}).encode()})

    def with_manifest(change: Any) -> bytes:
        body = json.loads(files[manifest])
        change(body)
        data = json.dumps(body).encode()
        kept = {name: data for name, data in files.items() if name != manifest}
        kept["blobs/sha256/" + digest(data)[7:]] = data
        entry = index["manifests"][0] | {"digest": digest(data), "size": len(data)}
        kept["index.json"] = json.dumps({**index, "manifests": [entry]}).encode()
        return archive(kept)

    def layers(body: dict[str, Any]) -> Any:
        return body["layers"][0]

    without = {name: data for name, data in files.items() if name != layer}
    deep = b"[" * 100_000 + b"]" * 100_000
    large = b"[" + b" " * (17 << 20)
    many = ",".join(['{"Config":"c","Layers":[]}'] * 2)
    return {
        "size of a manifest": (with_index(size=1), "its descriptor says 1"),
        "type of a manifest": (
            with_index(mediaType="application/vnd.oci.image.index.v1+json"),
            "promises",
        ),
        "unknown type": (with_index(mediaType="text/html"), "media type: text/html"),
        "missing manifest": (with_index(digest="sha256:" + "0" * 64), "is missing"),
        "missing layer": (archive(without), "is missing"),
        "type of a layer": (
            with_manifest(lambda body: layers(body).update(mediaType="text/x-layer")),
            "layer media type: text/x-layer",
        ),
        "size of a layer": (
            with_manifest(lambda body: layers(body).update(size=3)),
            "its descriptor says 3",
        ),
        "both kinds": (
            with_manifest(lambda body: body.update(manifests=[])),
            "both manifests and layers",
        ),
        "schema 1": (
            with_manifest(lambda body: body.update(schemaVersion=1)),
            "schema 1 are not supported",
        ),
        "artifact": (
            with_manifest(lambda body: body["config"].update(mediaType="application/x-chart")),
            "is no image: application/x-chart",
        ),
        "no object": (archive({"manifest.json": b'"x"'}), "manifest.json"),
        "deep": (archive({"manifest.json": deep}), "manifest.json"),
        "a layer for JSON": (archive({"manifest.json": BASE}), "manifest.json"),
        "not JSON": (archive({"manifest.json": b"\0" * 700}), "manifest.json"),
        "large": (
            archive({"manifest.json": large}),
            "manifest.json is too large",
        ),
        "a list for an index": (archive({"index.json": b"[]"}), "invalid manifest"),
        "config twice": (archive({"manifest.json": f"[{many}]".encode()}), "c is missing"),
        "loop of links": (_loop(), "does not contain a manifest.json"),
        "cut off": (archive(files)[:-9000], "unexpected end|is missing|invalid"),
    }


def _loop() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, target in (("manifest.json", "b"), ("b", "manifest.json")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return out.getvalue()


@pytest.mark.parametrize("lie", list(_lies()))
async def test_archives_that_lie_leave_nothing(world: World, lie: str) -> None:
    data, message = _lies()[lie]
    await world.imported("here:1")
    before = (world.images.list(all=True), world.content.list(), world.layers())
    with pytest.raises(InvalidParameter, match=message):
        await world.load(data)
    assert (world.images.list(all=True), world.content.list(), world.layers()) == before
    assert list((world.root / "content/ingest").iterdir()) == []


async def test_removal_beside_loads(world: World) -> None:
    """Blobs and layers that one load is about to use, and another's image gives up."""
    one = saved((config([BASE, UPPER], author="one"), [BASE, UPPER], ["one:1"]))
    two = saved((config([BASE, UPPER], author="two"), [BASE, UPPER], ["two:1"]))
    for _ in range(8):
        await world.load(one)
        await asyncio.gather(world.load(two), world.images.remove("one:1"), world.content.collect())
        assert await world.left() == []
        assert world.images.get("two:1").size == 1004
        await world.images.remove("two:1")
        assert world.layers() == set()
        assert world.content.list() == []


# -- other storage drivers ------------------------------------------------------------------------


class OtherStorage(PlainStorage):
    """A second driver beside the engine's."""

    name: ClassVar[str] = "other"


async def test_another_driver_unpacks_on_demand(world: World, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    other = OtherStorage(context_for(tmp_path / "second"))
    layers = world.make_layers(other)
    raw = config([BASE, UPPER])
    await world.load(saved((raw, [BASE, UPPER], ["app:1"])))
    id = world.images.get("app:1").id
    assert layers.all() == []
    top = await world.top(id, "other")
    assert top == chain_ids([digest(BASE), digest(UPPER)])[1][7:]
    assert (other.mount(top) / "app").exists()
    other.unmount(top)
    assert await world.top(id, "other") == top
    assert await world.left() == []
    await world.images.remove("app:1")
    assert layers.all() == []
    assert other._layers.names() == []


async def test_images_of_another_driver_keep_their_content(world: World) -> None:
    await world.load(saved((config([BASE]), [BASE], ["app:1"])))
    blobs = world.content.list()
    await world.close()
    world.storage = OtherStorage(context_for(world.root))
    world.open()
    await world.content.start()
    assert (await world.content.collect()).removed == []
    assert world.images.list(all=True) == []
    assert world.content.list() == blobs
    await world.close()
    world.storage = PlainStorage(context_for(world.root))
    world.open()
    assert world.images.get("app:1").blobs


# -- artifacts ------------------------------------------------------------------------------------


async def test_an_artifact_is_stored_and_not_run(world: World) -> None:
    chart = b"chart"
    async with world.content.lease("pull") as lease:
        body = await world.content.add(chart, "application/x-chart.content", lease)
        settings = await world.content.add(b"{}", "application/x-chart", lease)
        manifest = {
            "schemaVersion": 2,
            "config": {"mediaType": "application/x-chart", "digest": settings.digest, "size": 2},
            "layers": [
                {"mediaType": body.media_type, "digest": body.digest, "size": body.size},
            ],
        }
        stored = await world.content.add(
            msgspec.json.encode(manifest), "application/vnd.oci.image.manifest.v1+json", lease
        )
        image = await world.images.install_artifact(
            [reference.parse("chart:1")], manifest=stored.digest
        )
    assert world.images.get("chart:1").artifact == "application/x-chart"
    assert (image.id, image.size) == (stored.digest, 5)
    with pytest.raises(InvalidParameter, match=r"cannot run chart:1: .*application/x-chart"):
        world.images.runnable("chart:1")
    with pytest.raises(EngineError, match="has no layers to save"):
        await save(world, "chart:1")
    assert len(world.content.list()) == 3
    await world.images.remove("chart:1")
    assert world.content.list() == []


# -- import from an address -----------------------------------------------------------------------


async def test_import_from_an_address(world: World) -> None:
    layer = tar(file("big", bytes(300_000)))

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.path == "/root.tar":
            return web.Response(body=gzip.compress(layer))
        return web.Response(status=404 if request.path == "/nothing" else 500)

    server = web.Server(answer)
    runner = web.ServerRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    progress = Progress()
    image = await import_address(
        world.images, f"127.0.0.1:{port}/root.tar", progress, reference.parse("web:1"), ["CMD x"]
    )
    assert image.diff_ids == [digest(layer)]
    progress.close()
    lines = [line async for batch in progress.batches() for line in batch]
    assert lines[0].status == f"Downloading from http://127.0.0.1:{port}/root.tar"
    assert lines[-1][:2] == ("Importing", "")
    with pytest.raises(NotFound, match="with status 404 Not Found"):
        await import_address(world.images, f"http://127.0.0.1:{port}/nothing", Progress())
    with pytest.raises(Unavailable, match="with status 500"):
        await import_address(world.images, f"http://127.0.0.1:{port}/x", Progress())
    await runner.cleanup()
    with pytest.raises(Unavailable, match=r'Get ".*": dial tcp .*: connect: connection refused'):
        await import_address(world.images, f"http://127.0.0.1:{port}/root.tar", Progress())
    with pytest.raises(InvalidParameter, match='unsupported protocol scheme "ftp"'):
        await import_address(world.images, "ftp://host/file", Progress())


async def test_a_generated_manifest_is_one(world: World) -> None:
    await world.imported("a:1")
    image = world.images.get("a:1")
    found = parse_manifest(world.content.read(image.manifest))
    assert found.media_type == "application/vnd.docker.distribution.manifest.v2+json"
