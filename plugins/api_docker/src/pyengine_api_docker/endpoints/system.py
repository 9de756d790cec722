"""Ping, version, info, events, disk usage; and what an engine without a cluster says."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from aiohttp import web
from multidict import CIMultiDict

from pyengine.errors import InvalidParameter, Unavailable, Unsupported
from pyengine_api_docker import objects, views
from pyengine_api_docker.endpoints.containers import image_resolver
from pyengine_api_docker.endpoints.images import summaries
from pyengine_api_docker.http import JSON, Call, empty, json

_KINDS = frozenset({"container", "image", "volume", "build-cache"})


async def ping(call: Call) -> web.StreamResponse:
    headers = CIMultiDict(
        {
            "Builder-Version": "2",
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
    if call.version < 44:
        body["Runtimes"] = {
            name: {key: value for key, value in runtime.items() if key != "status"}
            for name, runtime in (body.get("Runtimes") or {}).items()
        }
    for key in ("DefaultAddressPools", "ProductLicense"):
        if not body.get(key):
            body.pop(key, None)
    if call.version < 46:
        body.pop("Containerd", None)
    if call.version < 49:
        body.pop("FirewallBackend", None)
    if call.version < 50:
        body.pop("DiscoveredDevices", None)
        body.setdefault("BridgeNfIptables", False)
        body.setdefault("BridgeNfIp6tables", False)
    return json(body)


async def events(call: Call) -> web.StreamResponse:
    """Headers at once, then a JSON object per line."""
    query = call.query
    since, until = query.time("since"), query.time("until")
    if until and until < since:
        raise InvalidParameter(
            f"`since` time ({query['since']}) cannot be after `until` time ({query['until']})"
        )
    messages = call.engine.events.subscribe(
        since / 1e9 if query["since"] else None,
        until / 1e9 if query["until"] else None,
        query.filters(),
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
    engine = call.engine
    kinds = call.query.all("type") if call.version >= 42 else []
    for kind in kinds:
        if kind not in _KINDS:
            raise InvalidParameter(f"unknown object type: {kind}")
    wanted = frozenset(kinds) or _KINDS
    body: dict[str, Any] = {}
    if "image" in wanted:
        body["LayersSize"] = engine.images.layers_size()
        images = summaries(call, engine.images.list(), count=True)
        for image in images:
            image["SharedSize"] = engine.images.shared_size(image["Id"])
        body["Images"] = images
    if "container" in wanted:
        image_id = image_resolver(engine)
        body["Containers"] = [
            views.summary(
                container,
                call.version,
                image_id=image_id,
                size=await engine.containers.size(container.id),
            )
            for container in engine.containers.list(all=True)
        ]
    if "volume" in wanted:
        body["Volumes"] = [
            objects.volume(record, engine.volumes.mountpoint(record.name))
            | {
                "UsageData": {
                    "RefCount": len(engine.volumes.users(record.name)),
                    "Size": await engine.volumes.usage(record.name),
                }
            }
            for record in engine.volumes.list()
        ]
    if "build-cache" in wanted:
        body["BuildCache"] = []
    return json(body)


async def auth(call: Call) -> web.StreamResponse:
    raise Unsupported("logging in to a registry is not in this version of pyengine")


async def plugins(call: Call) -> web.StreamResponse:
    """Docker's managed plugins: there are none; drivers are packages here."""
    return json([])


async def options(call: Call) -> web.StreamResponse:
    return empty(200)


async def swarm(call: Call) -> web.StreamResponse:
    if call.path == "/swarm/leave":
        raise Unavailable("This node is not part of a swarm")
    raise Unavailable(
        'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to '
        "connect this node to swarm and try again."
    )
