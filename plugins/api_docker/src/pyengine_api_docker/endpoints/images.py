"""Images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from pyengine.errors import EngineError, InvalidParameter, Unsupported
from pyengine_api_docker import objects
from pyengine_api_docker.http import JSON, Call, empty, json
from pyengine_api_docker.pipes import upload

Body = dict[str, Any]


def summaries(call: Call, found: Sequence[Any], *, count: bool = False) -> list[Body]:
    """Entries of ``GET /images/json``; ``count``: how many containers use each (since 1.51 the
    list tells it, before that only the disk usage did)."""
    users: dict[str, int] = {}
    for container in call.engine.containers.list(all=True) if count else ():
        users[container.image] = users.get(container.image, 0) + 1
    return [
        objects.image_summary(image, call.version, users.get(image.id, 0) if count else -1)
        for image in found
    ]


async def list_(call: Call) -> web.StreamResponse:
    filters = call.query.filters()
    if call.version < 41 and call.query["filter"]:
        filters.setdefault("reference", []).append(call.query["filter"])
    found = call.engine.images.list(all=call.query.flag("all"), filters=filters or None)
    return json(summaries(call, found, count=call.version >= 51))


async def inspect(call: Call) -> web.StreamResponse:
    image = call.engine.images.get(call.name)
    return json(objects.image(image, call.version))


async def history(call: Call) -> web.StreamResponse:
    return json(call.engine.images.history(call.name))


async def tag(call: Call) -> web.StreamResponse:
    await call.engine.images.tag(call.name, call.query["repo"], call.query["tag"])
    return empty(201)


async def remove(call: Call) -> web.StreamResponse:
    if not call.name.strip():
        raise InvalidParameter("image name cannot be blank")
    query = call.query
    removed = await call.engine.images.remove(
        call.name, force=query.flag("force"), prune=not query.flag("noprune")
    )
    return json(removed)


async def create(call: Call) -> web.StreamResponse:
    """``fromSrc=-`` makes an image of a root filesystem in a tar stream."""
    query = call.query
    if query["fromImage"]:
        raise Unsupported(
            "pulling from a registry is not in this version of pyengine",
            help="bring images in with docker load or docker import",
        )
    if query["fromSrc"] != "-":
        raise Unsupported(
            "importing from an address is not in this version of pyengine",
            help="download it, and give docker import the file or -",
        )
    async with upload(call) as source:
        id = await call.engine.images.import_tar(
            source,
            repo=query["repo"],
            tag=query["tag"],
            message=query["message"] or "Imported from -",
            changes=query.all("changes"),
            platform=query["platform"] if call.version >= 32 else "",
        )
    stream = await call.stream(JSON)
    await stream.write_json({"status": id})
    return stream.response


async def load(call: Call) -> web.StreamResponse:
    """Errors come inside the stream: clients look for them there."""
    stream = await call.stream(JSON)
    try:
        async with upload(call) as source:
            for name in await call.engine.images.load(source):
                await stream.write_json({"stream": f"Loaded image: {name}\n"})
    except EngineError as error:
        text = error.message()
        await stream.write_json({"errorDetail": {"message": text}, "error": text})
    return stream.response


async def prune(call: Call) -> web.StreamResponse:
    removed, freed = await call.engine.images.prune(call.query.filters())
    return json({"ImagesDeleted": list(removed) or None, "SpaceReclaimed": freed})


async def search(call: Call) -> web.StreamResponse:
    raise Unsupported("searching a registry is not in this version of pyengine")


async def push(call: Call) -> web.StreamResponse:
    raise Unsupported("pushing to a registry is not in this version of pyengine")


async def save(call: Call) -> web.StreamResponse:
    raise Unsupported("saving images is not in this version of pyengine")


async def distribution(call: Call) -> web.StreamResponse:
    raise Unsupported("asking a registry about an image is not in this version of pyengine")


async def build(call: Call) -> web.StreamResponse:
    raise Unsupported("building images is not in this version of pyengine")


async def commit(call: Call) -> web.StreamResponse:
    raise Unsupported("making images from containers is not in this version of pyengine")
