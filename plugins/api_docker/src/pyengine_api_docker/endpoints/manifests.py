"""Ours: manifests as a registry has them."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

import msgspec
from aiohttp import web

from pyengine.engine.model import Wire
from pyengine.errors import InvalidParameter
from pyengine.oci import reference
from pyengine.oci.image import Descriptor, Index, Platform, parse_manifest
from pyengine.oci.reference import Reference
from pyengine.registry.lists import push_list
from pyengine.registry.models import RemoteManifest
from pyengine_api_docker.endpoints.registry import _credentials
from pyengine_api_docker.http import Call, json


async def manifest(call: Call) -> web.StreamResponse:
    """``GET /pyengine/manifests/NAME``: an object with ``Ref`` (the full name), ``Descriptor``
    (media type, digest, size), and ``Raw`` (the manifest or index, base64).

    ``verbose``: the descriptor also has the platform, and an index's object has ``Manifests``, an
    object like itself for each.
    """
    name = reference.parse(call.name).with_default_tag()
    who = _credentials(call)
    repository = call.engine.registries.repository(name, who)
    found = await repository.manifest(name.digest or name.tag)
    if not call.query.flag("verbose"):
        return json(_body(name, found))
    parsed = parse_manifest(found.data, found.media_type)
    if isinstance(parsed, Index):
        members = []
        for entry in parsed.manifests or []:
            member = await repository.manifest(entry.digest)
            members.append(_body(name._replace(digest=entry.digest), member, entry.platform))
        return json({**_body(name, found), "Manifests": members})
    there = await call.engine.puller.inspect(name._replace(tag="", digest=found.digest), who)
    return json(_body(name, found, *there.platforms))


class PushMember(Wire):
    """An image of a list: its repository on the registry, and its digest there."""

    name: str
    digest: str


class PushList(Wire):
    """``PUT /pyengine/manifests/NAME``. ``raw``: the list itself, base64."""

    media_type: str = ""
    raw: str = ""
    members: list[PushMember] = []


async def push(call: Call) -> web.StreamResponse:
    """Answers with the list's ``Digest`` and ``Pushed``, the full names of members from other
    repositories."""
    body = await call.body(PushList)
    target = reference.parse(call.name).with_default_tag()
    members = [reference.parse(f"{one.name}@{one.digest}") for one in body.members]
    try:
        data = b64decode(body.raw, validate=True)
    except ValueError as error:
        raise InvalidParameter("Raw is not base64", str(error)) from error
    digest, pushed = await push_list(
        call.engine.registries, target, _credentials(call), data, body.media_type, members
    )
    return json({"Digest": digest, "Pushed": [str(name) for name in pushed]})


def _body(name: Reference, found: RemoteManifest, platform: Platform | None = None) -> Any:
    descriptor = Descriptor(
        media_type=found.media_type, digest=found.digest, size=len(found.data), platform=platform
    )
    return {
        "Ref": str(name),
        "Descriptor": msgspec.to_builtins(descriptor),
        "Raw": b64encode(found.data).decode(),
    }
