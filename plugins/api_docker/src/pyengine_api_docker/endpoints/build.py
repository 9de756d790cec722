"""Building, which this version does not do, and the build cache, which is therefore empty."""

from __future__ import annotations

from aiohttp import web

from pyengine.engine.prune import PruneFilters
from pyengine.errors import InvalidParameter, Unsupported
from pyengine_api_docker.http import Call, json

# Of a cache entry; ``unused-for`` is the old name of ``until``.
_FILTERS = ("unused-for", "id", "parent", "type", "description", "inuse", "shared", "private")
_SIZES = ("keep-storage", "reserved-space", "max-used-space", "min-free-space")


async def build(call: Call) -> web.StreamResponse:
    raise Unsupported("building images is not in this version of pyengine")


async def prune(call: Call) -> web.StreamResponse:
    """Nothing to remove, which is a success: ``docker system prune`` always asks for it too."""
    given = call.query.filters()
    try:
        filters = PruneFilters(given, *_FILTERS)
        filters.moment("unused-for")
    except InvalidParameter as error:
        raise InvalidParameter("failed to prune build cache", error.message()) from error
    for size in _SIZES if call.version >= 48 else _SIZES[:1]:
        try:
            call.query.integer(size)
        except InvalidParameter as error:
            raise InvalidParameter(
                f"{size} is in bytes and expects an integer, got {call.query[size]}: {error}"
            ) from error
    call.engine.events.emit("builder", "prune", "", {"reclaimed": "0"})
    return json({"CachesDeleted": None, "SpaceReclaimed": 0})
