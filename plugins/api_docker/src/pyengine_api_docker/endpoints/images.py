"""Images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from pyengine.engine.images.records import Image
from pyengine.errors import InvalidParameter, NotFound
from pyengine.oci import platforms
from pyengine_api_docker import objects
from pyengine_api_docker.endpoints.image_archives import platform_of, tag_of
from pyengine_api_docker.http import Call, empty, json

Body = dict[str, Any]


def summaries(call: Call, found: Sequence[Image], *, count: bool = False) -> list[Body]:
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
    images, query = call.engine.images, call.query
    filters = query.filters()
    if call.version < 41 and query["filter"]:
        filters.setdefault("reference", []).append(query["filter"])
    found = images.list(filters, query.flag("all"))
    rows = summaries(call, found, count=call.version >= 51)
    if call.version >= 42 and query.flag("shared-size"):
        shared = images.shared_sizes()
        for row in rows:
            row["SharedSize"] = shared[row["Id"]]
    return json(rows)


def _check_platform(call: Call, text: str) -> None:
    """``NotFound`` unless the image is for the platform that was asked for, if one was."""
    wanted, image = platform_of(text), call.engine.images.get(call.name)
    if wanted is not None and not platforms.runs(image.platform, wanted):
        raise NotFound(
            f"image with reference {call.name} was found but its platform ({image.platform}) does "
            f"not match the specified platform ({wanted})"
        )


async def inspect(call: Call) -> web.StreamResponse:
    images = call.engine.images
    if call.version >= 49:
        _check_platform(call, call.query["platform"])
    image = images.get(call.name)
    return json(objects.image(image, call.version, images.metadata(image.id)))


async def history(call: Call) -> web.StreamResponse:
    if call.version >= 48:
        _check_platform(call, call.query["platform"])
    return json(call.engine.images.history(call.name))


async def tag(call: Call) -> web.StreamResponse:
    name = tag_of(call.query["repo"], call.query["tag"])
    if name is None:
        return empty(200)
    await call.engine.images.tag(call.name, name)
    return empty(201)


async def remove(call: Call) -> web.StreamResponse:
    if not call.name.strip():
        raise InvalidParameter("image name cannot be blank")
    query = call.query
    wanted = query.all("platforms") if call.version >= 50 else []
    if len(wanted) > 1:
        raise InvalidParameter("multiple platforms are not supported")
    for platform in wanted:
        _check_platform(call, platform)
    return json(
        await call.engine.images.remove(call.name, query.flag("force"), not query.flag("noprune"))
    )


async def prune(call: Call) -> web.StreamResponse:
    rows, freed = await call.engine.images.prune(call.query.filters())
    return json({"ImagesDeleted": rows or None, "SpaceReclaimed": freed})
