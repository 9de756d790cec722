"""Ours: the content store and what is unpacked of it, below ``/pyengine/``."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from pyengine.archive.compression import CHUNK
from pyengine.errors import InvalidParameter, NotFound
from pyengine_api_docker.http import Call, begun, json

Body = dict[str, Any]


async def list_(call: Call) -> web.StreamResponse:
    """``GET /pyengine/content``: every blob, and who needs it."""
    content = call.engine.content
    users: dict[str, list[str]] = {}
    for name, digests in content.named().items():
        for digest in digests:
            users.setdefault(digest, []).append(name)
    return json(
        [
            {
                "Digest": blob.digest,
                "Size": blob.size,
                "MediaType": blob.media_type,
                "DiffID": blob.diff_id,
                "Sources": blob.sources,
                "UsedBy": users.get(blob.digest, []),
            }
            for blob in content.list()
        ]
    )


async def get(call: Call) -> web.StreamResponse:
    """``GET /pyengine/content/{digest}``: the blob itself, under its media type. A beginning of the
    digest will do."""
    content = call.engine.content
    blob = content.get(_digest(call))
    if blob is None:
        raise NotFound(f"no such content: {call.name}")
    file = await asyncio.to_thread(content.store.open, blob.digest)
    try:
        response = begun(
            blob.media_type or "application/octet-stream", {"Docker-Content-Digest": blob.digest}
        )
        response.content_length = blob.size
        await response.prepare(call.request)
        while piece := await asyncio.to_thread(file.read, CHUNK):
            await response.write(piece)
        return response
    finally:
        file.close()


async def remove(call: Call) -> web.StreamResponse:
    """``DELETE /pyengine/content/{digest}``: ``Conflict`` names the image that needs it."""
    blob = await call.engine.content.remove(_digest(call))
    return json({"Deleted": blob.digest, "SpaceReclaimed": blob.size})


async def fsck(call: Call) -> web.StreamResponse:
    """``GET /pyengine/content/fsck``: what is wrong; ``quick=1`` does not read the blobs."""
    found = await call.engine.content.fsck(quick=call.query.flag("quick"))
    return json(
        [
            {"Kind": problem.kind, "What": problem.what, "Detail": problem.detail}
            for problem in found
        ]
    )


async def usage(call: Call) -> web.StreamResponse:
    """``GET /pyengine/content/usage``."""
    blobs = call.engine.content.list()
    partial = await asyncio.to_thread(call.engine.content.store.partial)
    return json(
        {
            "Blobs": len(blobs),
            "Size": sum(blob.size for blob in blobs),
            "Ingests": len(partial),
            "IngestsSize": sum(one.size for one in partial),
        }
    )


async def snapshots(call: Call) -> web.StreamResponse:
    """``GET /pyengine/snapshots``: layers of images and of containers, in every storage driver."""
    return json(_snapshots(call))


async def snapshots_usage(call: Call) -> web.StreamResponse:
    """``GET /pyengine/snapshots/usage``: sums by storage driver and kind."""
    sums: dict[tuple[str, str], Body] = {}
    for row in _snapshots(call):
        key = row["Driver"], row["Kind"]
        total = sums.setdefault(
            key, {"Driver": key[0], "Kind": key[1], "Count": 0, "Size": 0, "Unused": 0}
        )
        total["Count"] += 1
        total["Size"] += row["Size"]
        total["Unused"] += 0 if row["UsedBy"] else row["Size"]
    return json([sums[key] for key in sorted(sums)])


def _snapshots(call: Call) -> list[Body]:
    engine = call.engine
    users: dict[str, list[str]] = {}
    for image in engine.images.list(all=True):
        for chain_id in image.chain:
            users.setdefault(chain_id, []).append(f"image {image.shown}")
    rows: list[Body] = []
    for name, layers in sorted(engine.unpacked().items()):
        for layer in layers.all():
            rows.append(
                {
                    "Driver": name,
                    "Kind": "committed",
                    "ID": layer.storage_id,
                    "Parent": layers.storage_id(layer.parent) or "",
                    "ChainID": layer.chain_id,
                    "DiffID": layer.diff_id,
                    "Size": layer.size,
                    "UsedBy": users.get(layer.chain_id, []),
                }
            )
    for container in engine.containers.list(all=True):
        rows.append(
            {
                "Driver": container.drivers["storage"],
                "Kind": "writable",
                "ID": container.layer,
                "Parent": "",
                "ChainID": "",
                "DiffID": "",
                "Size": engine.usage.layer(container.id),
                "UsedBy": [f"container {container.name}"],
            }
        )
    return rows


def _digest(call: Call) -> str:
    """The whole digest that the name in the path means."""
    wanted = call.name.removeprefix("sha256:")
    if not wanted or set(wanted) - set("0123456789abcdef"):
        raise InvalidParameter(f"invalid digest {call.name!r}", help="sha256:<64 hex digits>")
    found = [
        blob.digest
        for blob in call.engine.content.list()
        if blob.digest.startswith(wanted, len("sha256:"))
    ]
    if len(found) > 1:
        raise InvalidParameter(f"{call.name} is the beginning of {len(found)} digests")
    if not found:
        raise NotFound(f"no such content: {call.name}")
    return found[0]
