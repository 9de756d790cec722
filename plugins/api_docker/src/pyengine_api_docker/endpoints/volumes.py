"""Volumes."""

from __future__ import annotations

from aiohttp import web

from pyengine.errors import InvalidParameter, Unavailable
from pyengine_api_docker import objects, requests
from pyengine_api_docker.endpoints.swarm import no_swarm
from pyengine_api_docker.http import Call, empty, json


async def list_(call: Call) -> web.StreamResponse:
    volumes = call.engine.volumes
    try:
        filters = call.query.filters()
    except InvalidParameter as error:
        raise InvalidParameter("error reading volume filters", error.message()) from error
    records = volumes.list(filters)
    return json(
        {
            "Volumes": [objects.volume(r, volumes.mountpoint(r.name)) for r in records],
            "Warnings": None,
        }
    )


async def inspect(call: Call) -> web.StreamResponse:
    record = call.engine.volumes.get(call.name)
    return json(objects.volume(record, call.engine.volumes.mountpoint(record.name)))


async def create(call: Call) -> web.StreamResponse:
    body = await call.body(requests.CreateVolume)
    if body.cluster_volume_spec is not None and call.version >= 42:
        raise no_swarm()
    volumes = call.engine.volumes
    record = await volumes.create(body.name, body.driver, body.driver_opts or {}, body.labels or {})
    return json(objects.volume(record, volumes.mountpoint(record.name)), 201)


async def update(_: Call) -> web.StreamResponse:
    raise Unavailable("volume update only valid for cluster volumes, but swarm is unavailable")


async def remove(call: Call) -> web.StreamResponse:
    await call.engine.volumes.remove(call.name, call.query.flag("force"))
    return empty()


async def prune(call: Call) -> web.StreamResponse:
    """Since 1.42 anonymous volumes only, unless the filter ``all`` says otherwise."""
    filters = call.query.filters()
    if call.version < 42:
        filters["all"] = ["true"]
    removed, freed = await call.engine.volumes.prune(filters)
    return json({"VolumesDeleted": list(removed), "SpaceReclaimed": freed})
