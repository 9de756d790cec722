"""Every endpoint, and how a path finds it.

A path is an area, then an object's name (which may hold slashes: images do), then a verb. So the
table needs no patterns: the whole path is looked up first, then the path with its name taken out.
Source of the list: the Engine's API description, v1.51.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from aiohttp import web

from pyengine_api_docker.endpoints import (
    attach,
    build,
    containers,
    content,
    copying,
    execs,
    image_archives,
    images,
    layers,
    manifests,
    networks,
    registry,
    swarm,
    system,
    volumes,
)
from pyengine_api_docker.http import Call

Run = Callable[[Call], Coroutine[Any, Any, web.StreamResponse]]


class Endpoint(NamedTuple):
    """``reads``: changes nothing, so it may be dropped when its client goes. ``lasting``: ends
    when something happens or the client goes; dropped when the daemon ends. ``early``: answered
    while a daemon that has just started still puts its host in order."""

    run: Run
    reads: bool = False
    lasting: bool = False
    early: bool = False


def _read(run: Run) -> Endpoint:
    return Endpoint(run, reads=True)


def _early(run: Run) -> Endpoint:
    return Endpoint(run, reads=True, early=True)


def _last(run: Run) -> Endpoint:
    return Endpoint(run, lasting=True)


_ENDPOINTS: dict[str, Endpoint] = {
    "GET /_ping": _early(system.ping),
    "HEAD /_ping": _early(system.ping),
    "GET /version": _early(system.version),
    "GET /info": _read(system.info),
    "GET /events": _last(system.events),
    "GET /system/df": _read(system.disk_usage),
    "POST /auth": _read(registry.auth),
    "GET /plugins": _read(system.plugins),
    "GET /plugins/privileges": _read(system.install_plugin),
    "POST /plugins/pull": _read(system.install_plugin),
    "POST /plugins/create": _read(system.install_plugin),
    "GET /plugins/*/json": _read(system.plugin),
    "DELETE /plugins/*": _read(system.plugin),
    **{
        f"POST /plugins/*/{verb}": _read(system.plugin)
        for verb in ("enable", "disable", "set", "upgrade", "push")
    },
    "GET /containers/json": _early(containers.list_),
    "POST /containers/create": Endpoint(containers.create),
    "POST /containers/prune": Endpoint(containers.prune),
    "GET /containers/*/json": _early(containers.inspect),
    "POST /containers/*/start": Endpoint(containers.start),
    "POST /containers/*/stop": Endpoint(containers.stop),
    "POST /containers/*/restart": Endpoint(containers.restart),
    "POST /containers/*/kill": Endpoint(containers.kill),
    "POST /containers/*/pause": Endpoint(containers.pause),
    "POST /containers/*/unpause": Endpoint(containers.unpause),
    "POST /containers/*/rename": Endpoint(containers.rename),
    "POST /containers/*/update": Endpoint(containers.update),
    "POST /containers/*/resize": Endpoint(containers.resize),
    "GET /containers/*/checkpoints": _read(containers.checkpoints),
    "POST /containers/*/checkpoints": _read(containers.checkpoints),
    "DELETE /containers/*": Endpoint(containers.remove),
    "GET /containers/*/top": _read(containers.top),
    "GET /containers/*/changes": _read(containers.changes),
    "GET /containers/*/export": _last(containers.export),
    "GET /containers/*/stats": _last(containers.stats),
    "HEAD /containers/*/archive": _read(copying.stat),
    "GET /containers/*/archive": _last(copying.read),
    "PUT /containers/*/archive": Endpoint(copying.write),
    "POST /containers/*/wait": _last(attach.wait),
    "GET /containers/*/logs": _last(attach.logs),
    "POST /containers/*/attach": _last(attach.attach),
    "GET /containers/*/attach/ws": _last(attach.attach_websocket),
    "POST /containers/*/exec": Endpoint(execs.create),
    "POST /exec/*/start": _last(execs.start),
    "POST /exec/*/resize": Endpoint(execs.resize),
    "GET /exec/*/json": _read(execs.inspect),
    "POST /commit": Endpoint(image_archives.commit),
    "GET /images/json": _read(images.list_),
    "POST /images/create": _last(registry.create),
    "POST /images/load": Endpoint(image_archives.load),
    "POST /images/prune": Endpoint(images.prune),
    "GET /images/search": _read(registry.search),
    "GET /images/get": _last(image_archives.save),
    "GET /images/*/get": _last(image_archives.save),
    "GET /images/*/json": _read(images.inspect),
    "GET /images/*/history": _read(images.history),
    "POST /images/*/tag": Endpoint(images.tag),
    "POST /images/*/push": _last(registry.push),
    "DELETE /images/*": Endpoint(images.remove),
    "GET /distribution/*/json": _read(registry.distribution),
    "POST /build": _read(build.build),
    "POST /build/cancel": _read(build.build),
    "POST /build/prune": Endpoint(build.prune),
    "GET /networks": _read(networks.list_),
    "GET /networks/": _read(networks.list_),
    "POST /networks/create": Endpoint(networks.create),
    "POST /networks/prune": Endpoint(networks.prune),
    "GET /networks/*": _read(networks.inspect),
    "DELETE /networks/*": Endpoint(networks.remove),
    "POST /networks/*/connect": Endpoint(networks.connect),
    "POST /networks/*/disconnect": Endpoint(networks.disconnect),
    "GET /volumes": _read(volumes.list_),
    "POST /volumes/create": Endpoint(volumes.create),
    "POST /volumes/prune": Endpoint(volumes.prune),
    "GET /volumes/*": _read(volumes.inspect),
    "PUT /volumes/*": _read(volumes.update),
    "DELETE /volumes/*": Endpoint(volumes.remove),
    "GET /pyengine/content": _read(content.list_),
    "GET /pyengine/content/fsck": _read(content.fsck),
    "GET /pyengine/content/usage": _read(content.usage),
    "GET /pyengine/content/*": _last(content.get),
    "DELETE /pyengine/content/*": Endpoint(content.remove),
    "GET /pyengine/snapshots": _read(content.snapshots),
    "GET /pyengine/snapshots/usage": _read(content.snapshots_usage),
    "GET /pyengine/containers/*/trace": _read(containers.trace),
    "GET /pyengine/images/*/layers": _last(layers.layers),
    "GET /pyengine/manifests/*": _read(manifests.manifest),
    "PUT /pyengine/manifests/*": Endpoint(manifests.push),
}

# What only a cluster has. The answer to all of it is the same, but for what a path asks first.
_ENDPOINTS |= {
    "GET /swarm": _read(swarm.refuse),
    "GET /swarm/unlockkey": _read(swarm.refuse),
    "POST /swarm/init": _read(swarm.begin),
    "POST /swarm/join": _read(swarm.begin),
    "POST /swarm/leave": _read(swarm.leave),
    "POST /swarm/update": _read(swarm.refuse_body),
    "POST /swarm/unlock": _read(swarm.refuse_body),
    "GET /services/*/logs": _read(swarm.refuse),
    "GET /tasks/*/logs": _read(swarm.refuse),
}
for _kind in ("services", "nodes", "tasks", "secrets", "configs"):
    _ENDPOINTS |= {f"GET /{_kind}": _read(swarm.refuse), f"GET /{_kind}/*": _read(swarm.refuse)}
    if _kind != "tasks":
        _ENDPOINTS[f"DELETE /{_kind}/*"] = _read(swarm.refuse)
        _ENDPOINTS[f"POST /{_kind}/*/update"] = _read(swarm.refuse_body)
    if _kind not in ("tasks", "nodes"):
        _ENDPOINTS[f"POST /{_kind}/create"] = _read(swarm.refuse_body)

_OPTIONS = _read(system.options)


def find(method: str, path: str) -> tuple[Endpoint | None, str]:
    """The endpoint of a path without version, and the name in it, still percent-encoded."""
    endpoint = _ENDPOINTS.get(f"{method} {path}")
    if endpoint is not None:
        return endpoint, ""
    _, _, rest = path.partition("/")
    area, _, rest = rest.partition("/")
    if area == "pyengine":
        kind, _, rest = rest.partition("/")
        area = f"pyengine/{kind}"
    name, _, verb = rest.rpartition("/")
    if name.endswith("/attach") and verb == "ws":
        name, verb = name.removesuffix("/attach"), "attach/ws"
    if name:
        endpoint = _ENDPOINTS.get(f"{method} /{area}/*/{verb}")
        if endpoint is not None:
            return endpoint, name
    endpoint = _ENDPOINTS.get(f"{method} /{area}/*")
    if endpoint is not None and path.count("/") > 1:
        return endpoint, rest
    return (_OPTIONS, "") if method == "OPTIONS" else (None, "")
