"""The images service over a real storage driver, database and content store."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import io
import json
import lzma
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

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
from pyengine.engine.images.imports import import_image
from pyengine.engine.streams import reader
from pyengine.errors import Conflict, InvalidParameter, NotFound
from pyengine.oci import reference
from pyengine.oci.image import Platform, chain_ids


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    yield world
    assert await world.left() == []
    await world.close()


# -- import ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "compress",
    [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress],
)
async def test_import(world: World, compress: Any) -> None:
    stream = io.BytesIO(compress(BASE))
    made = await import_image(
        world.images,
        stream,
        reference.parse("demo"),
        ["CMD /bin/app --flag", "ENV A=1 B='two words'", "EXPOSE 80/tcp", "LABEL l=v"],
        "Imported from -",
    )
    id = made.id
    image = world.images.get("demo")
    assert image.id == id == digest(world.images.raw_config("demo"))
    assert image.repo_tags == ["demo:latest"]
    assert image.config.cmd == ["/bin/sh", "-c", "/bin/app --flag"]
    assert image.config.env == ["A=1", "B=two words"]
    assert image.config.exposed_ports == {"80/tcp": {}}
    assert image.diff_ids == [digest(BASE)]
    assert image.size == 4
    layer = await world.top(id)
    assert (world.storage.mount(layer) / "etc/os").read_text() == "base"
    world.storage.unmount(layer)
    assert world.events == [
        ("tag", id, {"l": "v", "name": "demo:latest"}),
        ("import", id, {"l": "v", "name": id}),
    ]
    (row,) = world.images.history("demo")
    assert row["Id"] == id
    assert row["Comment"] == "Imported from -"
    assert (row["Tags"], row["Size"]) == (["demo:latest"], 4)


async def test_the_same_layer_is_kept_once(world: World) -> None:
    first = (await import_image(world.images, io.BytesIO(BASE), reference.parse("one"))).id
    second = (await import_image(world.images, io.BytesIO(BASE), reference.parse("two"))).id
    assert first != second
    assert len(world.layers()) == 1
    assert world.images.layers_size() == 4
    assert world.images.shared_sizes()[first] == 4
    await world.images.remove("one")
    assert len(world.layers()) == 1
    rows = await world.images.remove("two")
    assert rows == [{"Untagged": "two:latest"}, {"Deleted": second}, {"Deleted": digest(BASE)}]
    assert world.layers() == set()
    assert not world.content.has(first)


async def test_a_bad_import_leaves_nothing(world: World) -> None:
    for stream in (b"no tar" * 1000, gzip.compress(BASE)[:-20], BASE[:700]):
        with pytest.raises(InvalidParameter):
            await import_image(world.images, io.BytesIO(stream), reference.parse("bad"))
    with pytest.raises(InvalidParameter, match="FROM is not a valid change command"):
        await import_image(world.images, io.BytesIO(BASE), None, ["FROM x"])
    with pytest.raises(InvalidParameter, match="windows"):
        await import_image(world.images, io.BytesIO(BASE), None, platform=Platform(os="windows"))
    assert world.images.list(all=True) == []
    assert world.layers() == set()


async def test_import_from_an_async_stream(world: World) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for position in range(0, len(BASE), 700):
            await asyncio.sleep(0)
            yield BASE[position : position + 700]

    await import_image(world.images, reader(chunks()), reference.parse("streamed"))
    assert world.images.get("streamed").diff_ids == [digest(BASE)]

    async def broken() -> AsyncIterator[bytes]:
        yield BASE[:1000]
        raise RuntimeError("client went away")

    with pytest.raises(InvalidParameter, match="client went away"):
        await import_image(world.images, reader(broken()), None)


async def test_an_import_given_up_leaves_nothing(world: World) -> None:
    go_on = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield BASE[:600]
        await go_on.wait()
        yield BASE[600:]

    task = asyncio.create_task(import_image(world.images, reader(chunks()), None))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    for _ in range(100):
        await asyncio.sleep(0.02)
        if not world.layers():
            break
    assert world.layers() == set()
    assert world.images.list(all=True) == []


# -- load -----------------------------------------------------------------------------------------


async def test_load_of_a_docker_archive(world: World) -> None:
    raw = config([BASE, UPPER])
    stream = saved((raw, [BASE, UPPER], ["app:1", "ghcr.io/x/app:2"]), (config([BASE]), [BASE], []))
    messages = await world.load(gzip.compress(stream))
    assert messages[:2] == ["Loaded image: app:1", "Loaded image: ghcr.io/x/app:2"]
    image = world.images.get("app:1")
    assert image.id == digest(raw)
    assert image.repo_tags == ["app:1", "ghcr.io/x/app:2"]
    assert image.size == 1004
    assert image.config.labels == {"made": "here"}
    top = await world.top(image.id)
    assert top == chain_ids([digest(BASE), digest(UPPER)])[1][7:]
    merged = world.storage.mount(top)
    assert (merged / "app").exists()
    assert not (merged / "etc/os").exists()
    world.storage.unmount(top)
    assert len(world.layers()) == 2
    assert ("load", image.id, {"made": "here", "name": image.id}) in world.events
    assert [row["Id"] for row in world.images.history("app:1")] == [image.id, "<missing>"]
    assert [row["Size"] for row in world.images.history("app:1")] == [1000, 4]


async def test_load_without_a_name_tells_the_id(world: World) -> None:
    raw = config([BASE])
    messages = await world.load(saved((raw, [BASE], [])))
    assert messages == [f"Loaded image ID: {digest(raw)}"]


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.ZstdCompressor().compress])
async def test_load_of_an_oci_layout(world: World, compress: Any) -> None:
    raw = config([BASE, UPPER])
    files = layout(raw, [compress(BASE), compress(UPPER)], "docker.io/library/oci:3")
    messages = await world.load(archive(files))
    assert messages == ["Loaded image: oci:3"]
    assert world.images.get("oci:3").id == digest(raw)


async def test_load_of_what_is_both(world: World) -> None:
    raw = config([BASE])
    blob = gzip.compress(BASE)
    files = layout(raw, [blob], "docker.io/library/ignored:1")
    files["manifest.json"] = json.dumps(
        [
            {
                "Config": "blobs/sha256/" + digest(raw)[7:],
                "RepoTags": ["both:1"],
                "Layers": ["blobs/sha256/" + digest(blob)[7:]],
            }
        ]
    ).encode()
    assert await world.load(archive(files)) == ["Loaded image: both:1"]


async def test_load_picks_the_platform(world: World) -> None:
    arm, intel = config([UPPER], architecture="arm64"), config([BASE])
    files = layout(arm, [UPPER], platform={"os": "linux", "architecture": "arm64"})
    first = json.loads(files["index.json"])["manifests"]
    more = layout(intel, [BASE], platform={"os": "linux", "architecture": "amd64"})
    nested = json.dumps(
        {"schemaVersion": 2, "manifests": first + json.loads(more["index.json"])["manifests"]}
    ).encode()
    files |= more
    files["blobs/sha256/" + digest(nested)[7:]] = nested
    files["index.json"] = json.dumps(
        {
            "schemaVersion": 2,
            "manifests": [
                {
                    "mediaType": "application/vnd.oci.image.index.v1+json",
                    "digest": digest(nested),
                    "size": len(nested),
                    "annotations": {"io.containerd.image.name": "docker.io/library/multi:1"},
                }
            ],
        }
    ).encode()
    await world.load(archive(files), Platform(os="linux", architecture="amd64"))
    assert world.images.get("multi:1").id == digest(intel)
    await world.load(archive(files), Platform(os="linux", architecture="arm64"))
    assert world.images.get("multi:1").id == digest(arm)


async def test_load_takes_names_from_older_images(world: World) -> None:
    old = await world.imported("app:1")
    messages = await world.load(saved((config([BASE]), [BASE], ["app:1"])))
    assert messages == [
        f"The image app:1 already exists, renaming the old one with ID {old} to empty string",
        "Loaded image: app:1",
    ]
    assert world.images.get(old).repo_tags == []


def _bad_archives() -> Iterator[tuple[str, bytes, str]]:
    good = config([BASE])
    yield "no list", archive({"x": b"1"}), "does not contain a manifest.json"
    yield "wrong layer", saved((good, [UPPER], [])), 'invalid diffID for layer 0: expected "sha256'
    yield (
        "layer count",
        saved((good, [BASE, UPPER], [])),
        "mismatch: expected 2, got 1",
    )
    yield "null", archive({"manifest.json": b"null"}), "manifest cannot be null"
    yield "bad json", archive({"manifest.json": b"{"}), "manifest.json"
    yield "windows", saved((config([BASE], os="windows"), [BASE], [])), "cannot load windows image"
    yield (
        "missing",
        archive({"manifest.json": b'[{"Config":"../../etc/passwd","Layers":[]}]'}),
        "etc/passwd is missing",
    )
    files = layout(good, [BASE])
    name = next(name for name in files if files[name] == BASE)
    yield "damaged blob", archive(files | {name: BASE[:-1] + b"x"}), "is damaged"
    yield "untagged", saved((good, [BASE], ["name"])), 'invalid tag "name"'
    yield "damaged", gzip.compress(saved((good, [BASE], [])))[:-50], "damaged gzip|unexpected end"


@pytest.mark.parametrize(
    ("stream", "message"), [case[1:] for case in _bad_archives()],
    ids=[case[0] for case in _bad_archives()],
)  # fmt: skip
async def test_a_bad_archive_leaves_nothing(world: World, stream: bytes, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        await world.load(stream)
    assert world.images.list(all=True) == []
    assert world.layers() == set()
    assert world.images.layers.known() == {}
    assert world.content.list() == []


async def test_two_loads_at_once_share_a_layer(world: World) -> None:
    one, two = config([BASE], author="one"), config([BASE, UPPER], author="two")
    await asyncio.gather(
        world.load(saved((one, [BASE], ["one:1"]))),
        world.load(saved((two, [BASE, UPPER], ["two:1"]))),
    )
    assert len(world.layers()) == 2
    assert len(world.images.list()) == 2


# -- finding --------------------------------------------------------------------------------------


async def test_get(world: World) -> None:
    id = await world.imported("Registry.example:5000/team/app:v1".lower())
    full = "registry.example:5000/team/app:v1"
    for ref in (full, id, id[7:], id[7:19], "sha256:" + id[7:14]):
        assert world.images.get(ref).id == id
    for ref, message in (
        ("app", "No such image: app:latest"),
        ("app:v1", "No such image: app:v1"),
        ("f" * 64, "No such image: sha256:" + "f" * 64),
        ("registry.example:5000/team/app", "No such image: registry.example:5000/team/app:latest"),
    ):
        with pytest.raises(NotFound) as caught:
            world.images.get(ref)
        assert caught.value.message() == message
    with pytest.raises(InvalidParameter, match=r"name \(library/Foo\) must be lowercase"):
        world.images.get("Foo")


async def test_list_and_filters(world: World) -> None:
    base = await world.imported("alpine:3", "docker.io/team/tool:1")
    await world.load(saved((config([BASE]), [BASE], ["old:1"])))
    dangling = (await import_image(world.images, io.BytesIO(UPPER))).id

    def names(**filters: list[str]) -> list[list[str]]:
        return [image.repo_tags for image in world.images.list(filters)]

    assert names() == [[], ["alpine:3", "team/tool:1"], ["old:1"]]
    assert names(reference=["alp*"]) == [["alpine:3"]]
    assert names(reference=["*/tool"]) == [["team/tool:1"]]
    assert names(reference=["docker.io/library/*"]) == []
    assert names(reference=["tool"]) == []
    assert [i.id for i in world.images.list({"dangling": ["true"]})] == [dangling]
    assert names(dangling=["false"]) == [["alpine:3", "team/tool:1"], ["old:1"]]
    assert names(label=["made=here"]) == [["old:1"]]
    assert names(label=["made=there"]) == []
    assert names(before=["alpine:3"]) == [["old:1"]]
    assert names(since=["old:1"]) == [[], ["alpine:3", "team/tool:1"]]
    assert names(until=["2024-06-01"]) == [["old:1"]]
    assert world.images.get("alpine:3").id == base
    for filters, message in (
        ({"colour": ["red"]}, "invalid filter 'colour'"),
        ({"dangling": ["maybe"]}, r"invalid filter 'dangling=\[maybe\]'"),
        ({"until": ["teatime"]}, 'time or duration: "teatime"'),
    ):
        with pytest.raises(InvalidParameter, match=message):
            world.images.list(filters)


# -- removing -------------------------------------------------------------------------------------


async def test_remove_by_name_only_untags_while_there_are_others(world: World) -> None:
    id = await world.imported("a:1", "b:1")
    assert await world.images.remove("a:1") == [{"Untagged": "a:1"}]
    assert world.images.get(id).repo_tags == ["b:1"]
    rows = await world.images.remove("b:1")
    assert rows[:2] == [{"Untagged": "b:1"}, {"Deleted": id}]
    assert [event[0] for event in world.events[-3:]] == ["untag", "untag", "delete"]


async def test_remove_by_id(world: World) -> None:
    id = await world.imported("a:1", "b:1")
    with pytest.raises(Conflict) as caught:
        await world.images.remove(id)
    assert caught.value.message() == (
        f"conflict: unable to delete {id[7:19]} (must be forced) - "
        "image is referenced in multiple repositories"
    )
    rows = await world.images.remove(id[7:19], force=True)
    assert rows[:3] == [{"Untagged": "a:1"}, {"Untagged": "b:1"}, {"Deleted": id}]


async def test_containers_keep_their_image(world: World) -> None:
    id = await world.imported("a:1")
    short, container = id[7:19], "c" * 64
    world.containers[id] = [(container, False)]
    with pytest.raises(Conflict) as by_name:
        await world.images.remove("a:1")
    assert by_name.value.message() == (
        'conflict: unable to remove repository reference "a:1" (must force) - container '
        f"{container[:12]} is using its referenced image {short}"
    )
    with pytest.raises(Conflict) as by_id:
        await world.images.remove(id)
    assert by_id.value.message() == (
        f"conflict: unable to delete {short} (must be forced) - "
        f"image is being used by stopped container {container[:12]}"
    )
    world.containers[id] = [(container, True)]
    with pytest.raises(Conflict) as running:
        await world.images.remove(id, force=True)
    assert running.value.message() == (
        f"conflict: unable to delete {short} (cannot be forced) - "
        f"image is being used by running container {container[:12]}"
    )
    assert await world.images.remove("a:1", force=True) == [{"Untagged": "a:1"}]
    world.containers[id] = [(container, False)]
    assert (await world.images.remove(id, force=True))[0] == {"Deleted": id}


async def test_an_image_in_use_is_not_removed(world: World) -> None:
    id = await world.imported("a:1")
    with world.images.using(id), pytest.raises(Conflict, match="being created"):
        await world.images.remove("a:1", force=True)
    assert world.images.get("a:1").id == id
    await world.images.remove("a:1")


async def test_children_keep_their_parent(world: World) -> None:
    history = [{"created_by": "base"}]
    parent = config([BASE], history=history)
    child = config([BASE, UPPER], history=[*history, {"created_by": "child"}])
    files = {
        "p.json": parent,
        "c.json": child,
        "1.tar": BASE,
        "2.tar": UPPER,
        "manifest.json": json.dumps(
            [
                {"Config": "p.json", "Layers": ["1.tar"], "RepoTags": None},
                {
                    "Config": "c.json",
                    "Layers": ["1.tar", "2.tar"],
                    "RepoTags": ["child:1"],
                    "Parent": digest(parent),
                },
            ]
        ).encode(),
    }
    await world.load(archive(files))
    assert [row["Id"] for row in world.images.history("child:1")] == [digest(child), digest(parent)]
    assert world.images.descendants(digest(parent)) == {digest(parent), digest(child)}
    assert world.images.descendants("child:1") == {digest(child)}
    assert world.images.descendants("nobody") == set()
    assert [image.id for image in world.images.list()] == [digest(child)]
    assert len(world.images.list(all=True)) == 2
    with pytest.raises(Conflict, match=r"cannot be forced.*image has dependent child images"):
        await world.images.remove(digest(parent), force=True)
    rows = await world.images.remove("child:1")
    chain = chain_ids([digest(BASE), digest(UPPER)])
    assert rows == [
        {"Untagged": "child:1"},
        {"Deleted": digest(child)},
        {"Deleted": chain[1]},
        {"Deleted": digest(parent)},
        {"Deleted": chain[0]},
    ]


async def test_tag_moves_a_name(world: World) -> None:
    first, second = await world.imported("a:1"), await world.imported("b:1")
    await world.images.tag(second, reference.parse("a:1"))
    assert world.images.get("a:1").id == second
    assert world.images.get(first).repo_tags == []
    with pytest.raises(InvalidParameter, match="digest"):
        await world.images.tag(first, reference.parse("a@sha256:" + "0" * 64))
    with pytest.raises(InvalidParameter, match="ambiguous tag using digest algorithm as name"):
        await world.images.tag(first, reference.parse("sha256:latest"))
    with pytest.raises(NotFound):
        await world.images.tag("nothing", reference.parse("a:2"))


# -- the next daemon ------------------------------------------------------------------------------


async def test_everything_is_there_after_a_restart(world: World) -> None:
    id = await world.imported("a:1", "b:1")
    before = world.images.get(id)
    await world.again()
    assert world.images.get("b:1") == before
    done = world.storage.reconcile(world.images.layers.known())
    assert (done.removed, done.failed) == ([], [])
    assert len(world.content.list()) == 3


async def test_a_layer_without_an_image_goes_at_the_next_start(world: World) -> None:
    await world.imported("a:1")
    lease = await world.content.lease("killed").__aenter__()
    with (world.root / "layer").open("w+b") as source:
        source.write(UPPER)
        source.flush()
        stray = await world.images.layers.add(source.fileno(), "", lease)
    await world.content.add(b"half an image", "", lease)
    assert len(world.layers()) == 2
    await world.again()
    world.storage.reconcile(world.images.layers.known())
    assert not world.storage.exists(stray.storage_id)
    assert len(world.layers()) == 1
    assert len(world.content.list()) == 3
