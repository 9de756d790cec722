"""What an engine without a cluster says to those who ask for one."""

from __future__ import annotations

from typing import Any, NoReturn

from aiohttp import web

from pyengine.errors import Unavailable, Unsupported
from pyengine_api_docker import gojson
from pyengine_api_docker.http import Call


def no_swarm() -> Unavailable:
    """The refusal of whatever only a cluster has."""
    return Unavailable(
        'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to '
        "connect this node to swarm and try again."
    )


async def refuse(_: Call) -> web.StreamResponse:
    raise no_swarm()


async def refuse_body(call: Call) -> web.StreamResponse:
    """A body that cannot be read is refused first."""
    await _body(call)
    raise no_swarm()


async def begin(call: Call) -> NoReturn:
    """``docker swarm init`` and ``join``."""
    await _body(call)
    raise Unsupported("swarms are not in this version of pyengine")


async def leave(_: Call) -> web.StreamResponse:
    raise Unavailable("This node is not part of a swarm")


async def _body(call: Call) -> None:
    raw = await call.raw_body()
    if raw:
        gojson.decode(raw, dict[str, Any])
