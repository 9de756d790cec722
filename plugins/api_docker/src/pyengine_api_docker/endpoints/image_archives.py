"""Images as archives: load, save, import; and images made from containers: commit."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from aiohttp import web

from pyengine.archive.compression import CHUNK
from pyengine.engine.images.imports import import_address, import_image
from pyengine.engine.images.load import load_images
from pyengine.engine.images.progress import Progress
from pyengine.engine.images.save import Archive, save_images
from pyengine.engine.model import ContainerConfig
from pyengine.engine.streams import reader
from pyengine.errors import EngineError, InvalidParameter
from pyengine.oci import reference
from pyengine.oci.image import Platform, parse_platform
from pyengine.oci.reference import Reference
from pyengine_api_docker import gojson
from pyengine_api_docker.http import JSON, Call, Stream, begun, json
from pyengine_api_docker.progress import encode, failure, follow

_TAR = "application/x-tar"


def tag_of(repository: str, tag: str) -> Reference | None:
    """``repo`` and ``tag`` of a query; None without ``repo``."""
    if not repository:
        return None
    name = reference.parse(repository)
    return reference.with_tag(name, tag) if tag else name


def platform_of(text: str) -> Platform | None:
    """A platform as JSON, as newer parameters have it."""
    if not text:
        return None
    try:
        platform = msgspec.json.decode(text, type=Platform)
    except msgspec.MsgspecError as error:
        raise InvalidParameter(f"failed to parse platform: {error}") from error
    if not (platform.os and platform.architecture):
        raise InvalidParameter("both OS and Architecture must be provided")
    return platform


async def create(call: Call) -> web.StreamResponse:
    """``fromSrc=-`` makes an image of a root filesystem in a tar stream; else it is an address."""
    query = call.query
    source = query["fromSrc"]
    if not source:
        raise InvalidParameter("fromImage or fromSrc must say where the image comes from")
    name = tag_of(query["repo"], query["tag"])
    message = query["message"] or f"Imported from {source}"
    wanted = query["platform"] if call.version >= 32 else ""
    platform = parse_platform(wanted) if wanted else None
    changes = query.all("changes")
    images = call.engine.images
    if source == "-":
        upload = await _upload(call)
        image = await import_image(images, upload, name, changes, message, platform)
        stream = await call.stream(JSON)
        await stream.write_json({"status": image.id})
        return stream.response

    async def work(progress: Progress) -> None:
        image = await import_address(images, source, progress, name, changes, message, platform)
        progress.message(image.id)

    return await follow(call, work)


async def load(call: Call) -> web.StreamResponse:
    """Errors come inside the stream: clients look for them there."""
    platform = _one_platform(call)
    progress = None if call.query.flag("quiet", default=True) else Progress()
    source = await _upload(call)
    loading = asyncio.ensure_future(load_images(call.engine.images, source, platform, progress))
    stream: Stream | None = None
    if progress is not None:
        said = progress
        loading.add_done_callback(lambda _: said.close())
        async for lines in progress.batches():
            stream = stream or await call.stream(JSON)
            await stream.write(b"".join(map(encode, lines)))
    try:
        messages = await loading
    except (EngineError, OSError) as error:
        answer = failure(error)
    else:
        answer = b"".join(
            msgspec.json.encode({"stream": f"{message}\n"}) + b"\r\n" for message in messages
        )
    stream = stream or await call.stream(JSON)
    await stream.write(answer)
    return stream.response


async def save(call: Call) -> web.StreamResponse:
    """Nothing is sent before everything was found."""
    names = [call.name] if call.name else call.query.all("names")
    async with save_images(call.engine.images, names, _one_platform(call)) as archive:
        response = begun(_TAR)
        response.content_length = archive.size
        await response.prepare(call.request)
        await _send(archive, response)
        return response


async def _send(archive: Archive, response: web.StreamResponse) -> None:
    for part in archive.parts():
        if isinstance(part, Path):
            file = await asyncio.to_thread(part.open, "rb", 0)
            try:
                while piece := await asyncio.to_thread(file.read, CHUNK):
                    await response.write(piece)
            finally:
                file.close()
        else:
            await response.write(part)


async def commit(call: Call) -> web.StreamResponse:
    """The body, if there is one, is a configuration that goes before the container's."""
    query = call.query
    raw = await call.raw_body()
    given = bool(raw.strip()) and raw.strip() != b"null"
    image = await call.engine.commits.commit(
        query["container"],
        tag_of(query["repo"], query["tag"]),
        comment=query["comment"],
        author=query["author"],
        changes=query.all("changes"),
        config=gojson.decode(raw, ContainerConfig) if given else None,
        pause=query.flag("pause", default=True),
    )
    return json({"Id": image.id}, 201)


def _one_platform(call: Call) -> Platform | None:
    wanted: list[Any] = call.query.all("platform") if call.version >= 48 else []
    if len(wanted) > 1:
        raise InvalidParameter("multiple platform parameters not supported")
    return platform_of(wanted[0]) if wanted else None


async def _upload(call: Call) -> BinaryIO:
    """The request's body as a file; where it breaks off, reading raises ``InvalidParameter``."""
    await call.expect()
    return reader(call.request.content.iter_any())
