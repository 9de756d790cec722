"""``docker cp``: one path of a container's tree, as a tar."""

from __future__ import annotations

import base64
from typing import BinaryIO

import msgspec
from aiohttp import web

from pyengine.engine.containers.rootview import PathStat
from pyengine.engine.streams import reader
from pyengine_api_docker.http import Call, empty
from pyengine_api_docker.pipes import download

STAT = "X-Docker-Container-Path-Stat"


def _header(found: PathStat) -> str:
    return base64.b64encode(msgspec.json.encode(found)).decode()


async def stat(call: Call) -> web.StreamResponse:
    found = await call.engine.copying.stat(call.name, call.query["path"])
    return web.Response(headers={STAT: _header(found)})


async def read(call: Call) -> web.StreamResponse:
    """Compressed for a client that asks for it, as those do that are not on a unix socket."""
    headers: dict[str, str] = {}
    accepted = call.request.headers.get("Accept-Encoding", "")
    compress = any(word.partition(";")[0].strip() == "gzip" for word in accepted.split(","))

    def begin(found: PathStat) -> None:
        headers[STAT] = _header(found)
        if compress:
            headers["Content-Encoding"] = "gzip"

    async def produce(out: BinaryIO) -> None:
        await call.engine.copying.read(call.name, call.query["path"], out, begin, compress=compress)

    return await download(call, "application/x-tar", produce, headers)


async def write(call: Call) -> web.StreamResponse:
    await call.expect()
    query = call.query
    await call.engine.copying.write(
        call.name,
        query["path"],
        reader(call.request.content.iter_any()),
        keep_kinds=query.flag("noOverwriteDirNonDir"),
        own=query.flag("copyUIDGID"),
    )
    return empty(200)
