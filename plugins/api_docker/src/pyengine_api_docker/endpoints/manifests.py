"""Ours: a manifest as a registry has it."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import msgspec
from aiohttp import web

from pyengine.oci import reference
from pyengine.oci.image import Descriptor, Index, Platform, parse_manifest
from pyengine.oci.reference import Reference
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


def _body(name: Reference, found: RemoteManifest, platform: Platform | None = None) -> Any:
    descriptor = Descriptor(
        media_type=found.media_type, digest=found.digest, size=len(found.data), platform=platform
    )
    return {
        "Ref": str(name),
        "Descriptor": msgspec.to_builtins(descriptor),
        "Raw": b64encode(found.data).decode(),
    }
