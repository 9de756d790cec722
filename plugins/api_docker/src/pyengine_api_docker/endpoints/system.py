"""Ping, version, info, events, disk usage; and what an engine without a cluster says."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from aiohttp import web
from multidict import CIMultiDict

from pyengine.errors import InvalidParameter, NotFound, Unsupported
from pyengine_api_docker import gojson, objects, views
from pyengine_api_docker.endpoints.containers import image_resolver
from pyengine_api_docker.endpoints.images import summaries
from pyengine_api_docker.http import JSON, Call, empty, json

if TYPE_CHECKING:
    from pyengine.engine.engine import Engine

Body = dict[str, Any]

_KINDS = frozenset({"container", "image", "volume", "build-cache"})


async def ping(call: Call) -> web.StreamResponse:
    headers = CIMultiDict(
        {
            "Builder-Version": "2" if call.engine.config.features.get("buildkit", True) else "1",
            "Cache-Control": "no-cache, no-store, must-revalidate",
            "Content-Type": "text/plain; charset=utf-8",
            "Pragma": "no-cache",
            "Swarm": "inactive",
        }
    )
    if call.request.method == "HEAD":
        # the description promises a length of nothing for HEAD, not that of the body
        headers["Content-Length"] = "0"
        return web.Response(headers=headers)
    return web.Response(body=b"OK", headers=headers)


async def version(call: Call) -> web.StreamResponse:
    return json(call.engine.system.version())


async def info(call: Call) -> web.StreamResponse:
    body: dict[str, Any] = dict(await call.engine.system.info())
    return json(_info(body, call.version))


def _info(body: Body, version: int) -> Body:
    """``/info`` as a version of the API has it."""
    if version < 44:
        body["Runtimes"] = {
            name: {key: value for key, value in runtime.items() if key != "status"}
            for name, runtime in (body.get("Runtimes") or {}).items()
        }
    for key in ("DefaultAddressPools", "DiscoveredDevices", "KernelMemoryTCP", "ProductLicense"):
        if not body.get(key):
            body.pop(key, None)
    if version < 46:
        body.pop("Containerd", None)
    if version < 49:
        body.pop("FirewallBackend", None)
    else:
        for program in ("ContainerdCommit", "RuncCommit", "InitCommit"):
            body[program] = {"ID": body[program]["ID"]}
        body["RegistryConfig"] = {
            key: value
            for key, value in body["RegistryConfig"].items()
            if not key.startswith("AllowNondistributableArtifacts")
        }
    if version < 50:
        body.pop("DiscoveredDevices", None)
    else:
        del body["BridgeNfIptables"], body["BridgeNfIp6tables"]
    return body


async def events(call: Call) -> web.StreamResponse:
    """Headers at once, then a JSON object per line. ``after`` is ours: a number of ``sequence``."""
    query = call.query
    since, until = query.time("since"), query.time("until")
    if query["until"] and until < since:
        raise InvalidParameter(
            f"`since` time ({query['since']}) cannot be after `until` time ({query['until']})"
        )
    messages = call.engine.events.subscribe(
        since / 1e9 if query["since"] else None,
        until / 1e9 if query["until"] else None,
        query.filters(),
        query.integer("after"),
    )
    upcoming = aiter(messages)
    # the subscription stands, or has been refused, before the client reads the headers
    following = asyncio.ensure_future(anext(upcoming))
    try:
        await asyncio.sleep(0)
        if following.done() and isinstance(following.exception(), InvalidParameter):
            following.result()
        stream = await call.stream(JSON)
        with contextlib.suppress(StopAsyncIteration):
            while True:
                message = await following
                # a message for the creation of an image came with 1.46
                if call.version >= 46 or (message["Type"], message["Action"]) != (
                    "image",
                    "create",
                ):
                    await stream.write_json(message)
                following = asyncio.ensure_future(anext(upcoming))
        return stream.response
    finally:
        following.cancel()


async def disk_usage(call: Call) -> web.StreamResponse:
    """A look-up: nothing is measured for it. Since 1.42 ``type`` chooses, and what was not chosen
    is null."""
    kinds = call.query.all("type") if call.version >= 42 else []
    for kind in kinds:
        if kind not in _KINDS:
            raise InvalidParameter(f"unknown object type: {kind}")
    wanted = frozenset(kinds) or _KINDS
    engine = call.engine
    engine.usage.revisit()
    return json(
        {
            "LayersSize": engine.images.layers_size() if "image" in wanted else 0,
            "Images": _images(call) if "image" in wanted else None,
            "Containers": _containers(call) if "container" in wanted else None,
            "Volumes": _volumes(engine) if "volume" in wanted else None,
            "BuildCache": [] if "build-cache" in wanted else None,
        }
    )


def _images(call: Call) -> list[Body]:
    """As in the list of images, but what an image has none of is null in every version."""
    images = call.engine.images
    found = images.list()
    rows, shared = summaries(call, found, count=True), images.shared_sizes()
    for row, image in zip(rows, found, strict=True):
        row["RepoTags"] = list(image.repo_tags) or None
        row["RepoDigests"] = list(image.repo_digests) or None
        row["SharedSize"] = shared[image.id]
    return rows


def _containers(call: Call) -> list[Body]:
    engine = call.engine
    image_id = image_resolver(engine)
    return [
        views.summary(
            record, call.version, image_id=image_id, size=engine.containers.size(record.id)
        )
        for record in engine.containers.list(all=True)
    ]


def _volumes(engine: Engine) -> list[Body]:
    """Those with options are left out, as with dockerd: what they stand for is elsewhere."""
    references = engine.usage.references()
    return [
        objects.volume(record, engine.volumes.mountpoint(record.name))
        | {
            "UsageData": {
                "RefCount": references.get(record.name, 0),
                "Size": engine.usage.volume(record.name),
            }
        }
        for record in engine.volumes.list()
        if not record.options
    ]


async def plugins(call: Call) -> web.StreamResponse:
    """Docker's managed plugins: there are none; drivers are packages here."""
    for name in call.query.filters():
        if name not in ("capability", "enabled"):
            raise InvalidParameter(f"invalid filter '{name}'")
    return json([])


async def plugin(call: Call) -> web.StreamResponse:
    raise NotFound(f'plugin "{call.name}" not found')


async def install_plugin(call: Call) -> web.StreamResponse:
    if call.path == "/plugins/pull" and (raw := await call.raw_body()):
        gojson.decode(raw, list[dict[str, Any]])
    raise Unsupported(
        "managed plugins are not in this version of pyengine",
        help="drivers are packages here: pip install pyengine-..., and pyengine drivers lists them",
    )


async def options(call: Call) -> web.StreamResponse:
    return empty(200)
