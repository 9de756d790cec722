"""Networks."""

from __future__ import annotations

from aiohttp import web

from pyengine.engine.model import EndpointSettings
from pyengine.engine.networks.records import NetworkRequest
from pyengine.errors import InvalidParameter, NotFound, Unsupported
from pyengine_api_docker import objects, requests
from pyengine_api_docker.http import Call, empty, json


async def list_(call: Call) -> web.StreamResponse:
    """Since 1.28 without the containers on each."""
    networks = call.engine.networks
    return json(
        [
            objects.network(
                record,
                call.version,
                networks.endpoints(record.id) if call.version < 28 else {},
            )
            for record in networks.list(call.query.filters())
        ]
    )


async def inspect(call: Call) -> web.StreamResponse:
    networks = call.engine.networks
    verbose = call.query["verbose"]
    if verbose and verbose.lower() not in ("1", "t", "true", "0", "f", "false"):
        raise InvalidParameter(
            f'invalid value for verbose: {verbose}: strconv.ParseBool: parsing "{verbose}": '
            "invalid syntax"
        )
    record = networks.get(call.name)
    if call.query["scope"] not in ("", "local"):
        raise NotFound(f"network {call.name} not found")
    return json(objects.network(record, call.version, networks.endpoints(record.id)))


async def create(call: Call) -> web.StreamResponse:
    body = await call.body(requests.CreateNetwork)
    if body.scope not in ("", "local"):
        raise Unsupported(f"networks of scope {body.scope!r} need a swarm, which pyengine has not")
    if body.ingress or body.config_only or body.config_from.network:
        raise Unsupported("ingress and config-only networks are not in this version of pyengine")
    ipam = body.ipam or requests.Ipam()
    network, warnings = await call.engine.networks.create(
        NetworkRequest(
            name=body.name,
            driver=body.driver,
            internal=body.internal,
            attachable=body.attachable,
            ipv4=body.enable_ipv4 if call.version >= 48 else None,
            ipv6=body.enable_ipv6,
            ipam_driver=ipam.driver,
            ipam_options=ipam.options,
            ipam=ipam.config or [],
            options=body.options or {},
            labels=body.labels or {},
        )
    )
    return json({"Id": network.id, "Warning": "\n".join(warnings)}, 201)


async def remove(call: Call) -> web.StreamResponse:
    await call.engine.networks.remove(call.name)
    return empty()


async def connect(call: Call) -> web.StreamResponse:
    body = await call.body(requests.ConnectNetwork)
    await call.engine.containers.connect(
        body.container, call.name, body.endpoint_config or EndpointSettings()
    )
    return empty(200)


async def disconnect(call: Call) -> web.StreamResponse:
    body = await call.body(requests.DisconnectNetwork)
    await call.engine.containers.disconnect(body.container, call.name, body.force)
    return empty(200)


async def prune(call: Call) -> web.StreamResponse:
    removed = await call.engine.networks.prune(call.query.filters())
    return json({"NetworksDeleted": list(removed) or None})
