"""What goes to and from registries: pull, push, login, search, a look at a manifest."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import msgspec
from aiohttp import web

from pyengine.engine.images.progress import Progress
from pyengine.errors import EngineError, InvalidParameter, Unauthorized, Unavailable
from pyengine.oci import reference
from pyengine.oci.image import parse_platform
from pyengine.oci.reference import Reference
from pyengine.registry.models import Credentials
from pyengine_api_docker import gojson
from pyengine_api_docker.endpoints import image_archives
from pyengine_api_docker.http import Call, json
from pyengine_api_docker.progress import follow

AUTH = "X-Registry-Auth"


async def create(call: Call) -> web.StreamResponse:
    """``fromImage`` pulls, as long as the client listens; ``fromSrc`` imports."""
    if call.query["fromImage"]:
        return await pull(call)
    # what was begun is carried through, though its client may have gone
    return await asyncio.shield(asyncio.ensure_future(image_archives.create(call)))


async def pull(call: Call) -> web.StreamResponse:
    query = call.query
    # "docker pull -a" of old leaves a colon behind the name
    name = _name(query["fromImage"].removesuffix(":"), query["tag"])
    wanted = query["platform"] if call.version >= 32 else ""
    platform = parse_platform(wanted) if wanted else None
    credentials = _credentials(call)

    async def work(progress: Progress) -> None:
        with _told_plainly():
            await call.engine.puller.pull(name, progress, credentials, platform)

    return await follow(call, work)


@contextlib.contextmanager
def _told_plainly() -> Iterator[None]:
    """That a registry wants a login, or cannot be reached, is an error of 500, as in Docker: its
    CLI would take another one for a question of this engine, and ask for a password."""
    try:
        yield
    except (Unauthorized, Unavailable) as error:
        raise EngineError(error.brief, error.detail, error.help) from error


def _name(text: str, tag: str) -> Reference:
    """``tag`` may be a digest; without one the name stays as it is."""
    name = reference.parse(text)
    if not tag:
        return name
    if ":" in tag:
        return reference.parse(f"{name.name}@{tag}")
    return reference.with_tag(name, tag)


def _credentials(call: Call) -> Credentials | None:
    """What cannot be read counts for nothing, as in Docker: the registry will say what it lacks."""
    with contextlib.suppress(InvalidParameter):
        return Credentials.decode(call.request.headers.get(AUTH, ""))
    return None


async def push(call: Call) -> web.StreamResponse:
    query = call.query
    if call.request.headers.get(AUTH):
        credentials = _credentials(call)
    else:
        credentials = await _credentials_of_body(call)
    name = reference.parse(call.name)
    if query["tag"]:
        if name.digest:
            raise InvalidParameter("cannot import digest reference")
        name = reference.with_tag(name, query["tag"])
    platform = image_archives.platform_of(query["platform"]) if call.version >= 46 else None

    async def work(progress: Progress) -> None:
        await call.engine.pusher.push(name, progress, credentials, platform)

    return await follow(call, work)


async def _credentials_of_body(call: Call) -> Credentials:
    """Where clients of old sent them."""
    body = await call.request.read()
    try:
        if not body.strip():
            raise InvalidParameter("EOF")
        return gojson.decode(body, Credentials)
    except InvalidParameter as error:
        raise InvalidParameter(
            "bad parameters and missing X-Registry-Auth: invalid X-Registry-Auth header",
            error.message(),
        ) from error


async def auth(call: Call) -> web.StreamResponse:
    """Docker does not ask here whether the body says that it is JSON."""
    credentials = gojson.decode(await call.any_body(), Credentials)
    try:
        result = await call.engine.registries.login(credentials)
    except Unavailable as error:
        # as with a pull: this engine is there, and the registry is not
        raise EngineError(error.brief, error.detail, error.help) from error
    return json({"IdentityToken": result.identity_token, "Status": result.status})


async def search(call: Call) -> web.StreamResponse:
    query = call.query
    try:
        limit = query.integer("limit") or 0
    except InvalidParameter as error:
        raise InvalidParameter("invalid limit specified", error.message()) from error
    if limit < 0:
        raise InvalidParameter("invalid limit specified")
    filters = query.filters()
    with _told_plainly():
        found = await call.engine.registries.search(
            query["term"], limit, _credentials(call), filters
        )
    return json(found)


async def distribution(call: Call) -> web.StreamResponse:
    if reference.digest_of(call.name):
        raise EngineError("no manifest found for full image ID")
    name = reference.parse(call.name)
    with _told_plainly():
        found = await call.engine.puller.inspect(name, _credentials(call))
    body: dict[str, Any] = {
        "Descriptor": msgspec.to_builtins(found.descriptor),
        "Platforms": [msgspec.to_builtins(platform) for platform in found.platforms] or None,
    }
    return json(body)
