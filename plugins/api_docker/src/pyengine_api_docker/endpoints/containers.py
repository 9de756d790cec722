"""Containers: what is asked for and answered in one piece, and the streams that need no hijack."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from aiohttp import web

from pyengine.contracts.runtime import RuntimeStats
from pyengine.engine.model import (
    Container,
    ContainerConfig,
    EndpointSettings,
    HostConfig,
    NetworkingConfig,
    PortBinding,
    Status,
)
from pyengine.engine.networks import linksysctls
from pyengine.errors import (
    Conflict,
    EngineError,
    InvalidParameter,
    NotFound,
    NotModified,
    Unsupported,
)
from pyengine_api_docker import figures, gojson, requests, views
from pyengine_api_docker.http import JSON, Call, empty, json
from pyengine_api_docker.pipes import download

if TYPE_CHECKING:
    from pyengine.engine.engine import Engine

STATS_PERIOD = 1.0


def image_resolver(engine: Engine) -> Callable[[str], str | None]:
    """Name -> the id of the image that bears it now, looked up once per name."""
    known: dict[str, str | None] = {}

    def resolve(name: str) -> str | None:
        if name not in known:
            try:
                known[name] = engine.images.get(name).id
            except EngineError:
                known[name] = None
        return known[name]

    return resolve


async def list_(call: Call) -> web.StreamResponse:
    query, engine = call.query, call.engine
    limit = query.integer("limit") or -1
    found = engine.containers.list(
        all=query.flag("all"), limit=limit, filters=query.filters() or None
    )
    image_id = image_resolver(engine)
    with_size = query.flag("size")
    if with_size:
        await engine.containers.catch_up([container.id for container in found])
    names = engine.containers.link_names()
    return json(
        [
            views.summary(
                container,
                call.version,
                image_id=image_id,
                size=engine.containers.size(container.id) if with_size else None,
                names=names.get(container.id, ()),
            )
            for container in found
        ]
    )


async def inspect(call: Call) -> web.StreamResponse:
    engine = call.engine
    container = engine.containers.get(call.name)
    if call.query.flag("size"):
        await engine.containers.catch_up([container.id])
    return json(
        views.inspect(
            container,
            call.version,
            graph=engine.containers.graph(container.id),
            exec_ids=engine.containers.exec_ids(container.id),
            links=engine.containers.links(container.id),
            ulimits=engine.containers.ulimits(container.id),
            directory=engine.containers.names_directory(container.id),
            log_path=engine.containers.log_path(container.id),
            sinks=engine.log_sinks.status(container),
            size=engine.containers.size(container.id) if call.query.flag("size") else None,
        )
    )


async def create(call: Call) -> web.StreamResponse:
    raw = await call.raw_body()
    body = gojson.decode(raw, requests.CreateContainer)
    if not body.image and not gojson.names_any(raw, ContainerConfig):
        raise InvalidParameter("config cannot be empty in order to create a container")
    host, networking = body.host_config, body.networking_config
    config = body.config()
    platform = call.query["platform"] if call.version >= 41 else ""
    warnings = _adjust(config, host, networking, call.version)
    id, more = await call.engine.containers.create(
        call.query["name"],
        config,
        host,
        networking,
        platform,
        recursive_read_only=call.version >= 44,
    )
    return json({"Id": id, "Warnings": [*more, *warnings]}, 201)


def _adjust(
    config: ContainerConfig,
    host: HostConfig,
    networking: NetworkingConfig,
    version: int,
) -> list[str]:
    """What older versions of the API lacked or meant otherwise; returns warnings."""
    endpoints = networking.endpoints_config or {}
    if host.network_mode in ("", "default"):
        host.network_mode = "bridge"
        if "default" in endpoints:
            endpoints["bridge"] = endpoints.pop("default")
    if version < 40 and not host.ipc_mode:
        host.ipc_mode = "shareable"
    if version < 41 and not host.cgroupns_mode:
        host.cgroupns_mode = "host"
    if version < 42:
        host.console_size = [0, 0]
    if version < 43:
        host.annotations = None
    if version < 44:
        if len(endpoints) > 1:
            raise InvalidParameter(
                "Container cannot be created with multiple network endpoints: "
                + ", ".join(sorted(endpoints))
            )
        if config.healthcheck is not None:
            config.healthcheck.start_interval = 0
    for settings in endpoints.values():
        if settings is not None and version < 48:
            settings.gw_priority = 0
    _check_mounts(host, version)
    for port, bindings in (host.port_bindings or {}).items():
        if not bindings and host.port_bindings is not None:
            host.port_bindings[port] = [PortBinding()]
    if host.pids_limit is not None and host.pids_limit <= 0:
        host.pids_limit = None
    if version >= 42:
        host.kernel_memory = 0
    networking.endpoints_config = endpoints
    return [
        *_volume_driver_warnings(host, version),
        *_move_mac_address(config, host, networking, version),
        *linksysctls.migrate(host, endpoints, by_itself=version < 48),
    ]


def _volume_driver_warnings(host: HostConfig, version: int) -> list[str]:
    if not host.volume_driver or version < 48:
        return []
    for mount in host.mounts or ():
        options = mount.volume_options
        named = options and options.driver_config and options.driver_config.name
        if mount.type == "volume" and not named:
            return [
                "WARNING: the container-wide volume-driver configuration is ignored for volumes "
                "specified via 'mount'. Use '--mount type=volume,volume-driver=...' instead"
            ]
    return []


def _check_mounts(host: HostConfig, version: int) -> None:
    for mount in host.mounts or ():
        options = {
            "VolumeOptions": (mount.volume_options, "volume"),
            "BindOptions": (mount.bind_options, "bind"),
            "TmpfsOptions": (mount.tmpfs_options, "tmpfs"),
        }
        for name, (given, kind) in options.items():
            if given is None or mount.type == kind:
                continue
            if version >= 42:
                raise InvalidParameter(f'{name} must not be specified on mount type "{mount.type}"')
            setattr(
                mount,
                {"volume": "volume_options", "tmpfs": "tmpfs_options"}.get(kind, "bind_options"),
                None,
            )
        if mount.bind_options is not None and version < 42:
            mount.bind_options.create_mountpoint = False
        if mount.bind_options is not None and version < 40:
            mount.bind_options.non_recursive = False
        if mount.bind_options is not None and version < 44:
            mount.bind_options.read_only_non_recursive = False
            if mount.bind_options.read_only_force_recursive:
                raise InvalidParameter(
                    "BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer"
                )
        if mount.type == "image" and version < 48:
            raise InvalidParameter('Mount type "Image" needs API v1.48 or newer')
        if mount.volume_options is not None and mount.volume_options.subpath and version < 45:
            raise InvalidParameter("VolumeOptions.Subpath needs API v1.45 or newer")


def _move_mac_address(
    config: ContainerConfig,
    host: HostConfig,
    networking: NetworkingConfig,
    version: int,
) -> list[str]:
    """A container's MAC address belongs to an endpoint since 1.44, and to the container before."""
    endpoints = networking.endpoints_config
    assert endpoints is not None
    wanted = config.mac_address
    mode = host.network_mode
    networked = mode not in ("host", "none") and not mode.startswith("container:")
    if version < 44:
        for settings in endpoints.values():
            if settings is not None:
                settings.mac_address = ""
        if wanted and not networked:
            raise InvalidParameter("conflicting options: mac-address and the network mode")
    if not wanted:
        return []
    if networked:
        if endpoints and version >= 44 and mode not in endpoints:
            raise InvalidParameter(
                "unable to migrate container-wide MAC address to a specific network: "
                "HostConfig.NetworkMode must match the identity of a network in "
                "NetworkSettings.Networks"
            )
        name = mode if version >= 44 or not endpoints else next(iter(endpoints))
        settings = endpoints.get(name) or EndpointSettings()
        if settings.mac_address and settings.mac_address != wanted:
            raise InvalidParameter(
                "the container-wide MAC address must match the endpoint-specific MAC address for "
                "the main network, or be left empty"
            )
        settings.mac_address = wanted
        endpoints[name] = settings
    if version < 44:
        return []
    return [
        "The container-wide MacAddress field is now deprecated. It should be specified in "
        "EndpointsConfig instead."
    ]


async def start(call: Call) -> web.StreamResponse:
    length = call.request.content_length
    if (length is None and call.request.can_read_body) or (length or 0) > 7:
        raise InvalidParameter(
            "starting container with non-empty request body was deprecated since API v1.22 and "
            "removed in v1.24"
        )
    if call.query["checkpoint"]:
        raise Unsupported("starting from a checkpoint is not in this version of pyengine")
    await call.engine.containers.start(call.name)
    return empty()


async def stop(call: Call) -> web.StreamResponse:
    seconds, signal = _patience(call)
    with _named(call, f"cannot stop container: {call.name}"):
        await call.engine.containers.stop(call.name, seconds, signal)
    return empty()


async def restart(call: Call) -> web.StreamResponse:
    seconds, signal = _patience(call)
    with _named(call, f"Cannot restart container {call.name}"):
        await call.engine.containers.restart(call.name, seconds, signal)
    return empty()


def _patience(call: Call) -> tuple[int | None, str]:
    """How long the command may take to end, and the signal that asks it to."""
    return call.query.integer("t"), call.query["signal"] if call.version >= 42 else ""


@contextlib.contextmanager
def _named(call: Call, what: str) -> Iterator[None]:
    """An error is told with what it kept from being done to the container, if there is one."""
    call.engine.containers.get(call.name)
    try:
        yield
    except NotModified:
        raise
    except EngineError as error:
        raise type(error)(f"{what}: {error.brief}", error.detail, error.help) from error


async def kill(call: Call) -> web.StreamResponse:
    try:
        await call.engine.containers.kill(call.name, call.query["signal"])
    except (Conflict, InvalidParameter, NotFound) as error:
        brief, prefix = error.brief, "cannot kill container: "
        if not brief.startswith(prefix):
            brief = f"{prefix}{call.name}: {brief}"
        raise type(error)(brief, error.detail, error.help) from error
    return empty()


async def pause(call: Call) -> web.StreamResponse:
    await call.engine.containers.pause(call.name)
    return empty()


async def unpause(call: Call) -> web.StreamResponse:
    await call.engine.containers.unpause(call.name)
    return empty()


async def rename(call: Call) -> web.StreamResponse:
    await call.engine.containers.rename(call.name, call.query["name"])
    return empty()


async def update(call: Call) -> web.StreamResponse:
    """What is absent, null or zero stays as it is; only ``PidsLimit`` knows a zero of its own."""
    body = await call.body(requests.UpdateContainer)
    default = requests.UpdateContainer()
    if call.version < 40:
        body.pids_limit = None
    elif body.pids_limit is not None and body.pids_limit < 0:
        body.pids_limit = 0
    given = {name for name in requests.UPDATABLE if getattr(body, name) != getattr(default, name)}
    warnings = await call.engine.containers.update(call.name, body, given)
    return json({"Warnings": list(warnings) or None})


async def resize(call: Call) -> web.StreamResponse:
    height, width = call.query.size("h", "height"), call.query.size("w", "width")
    await call.engine.containers.resize(call.name, width, height)
    return empty(200)


async def remove(call: Call) -> web.StreamResponse:
    query = call.query
    await call.engine.containers.remove(
        call.name, force=query.flag("force"), volumes=query.flag("v"), link=query.flag("link")
    )
    return empty()


async def prune(call: Call) -> web.StreamResponse:
    removed, freed = await call.engine.containers.prune(call.query.filters())
    return json({"ContainersDeleted": list(removed) or None, "SpaceReclaimed": freed})


async def top(call: Call) -> web.StreamResponse:
    titles, processes = await call.engine.containers.top(call.name, call.query["ps_args"])
    return json({"Titles": titles, "Processes": processes})


async def changes(call: Call) -> web.StreamResponse:
    found = await call.engine.containers.changes(call.name)
    return json([{"Path": c.path, "Kind": int(c.kind)} for c in found] or None)


async def checkpoints(_: Call) -> web.StreamResponse:
    raise Unsupported("checkpoints are not in this version of pyengine")


async def trace(call: Call) -> web.StreamResponse:
    """Ours: what starting the container did, and how long each step took."""
    return json(
        {
            "steps": [
                {
                    "name": step.name,
                    "start_us": step.start / 1000,
                    "duration_us": step.duration / 1000,
                    "process": step.process,
                }
                for step in call.engine.containers.trace(call.name)
            ]
        }
    )


async def stats(call: Call) -> web.StreamResponse:
    """A reading a second; a single answer takes two, so that ``precpu_stats`` is filled."""
    engine = call.engine
    streaming = call.query.flag("stream", True)
    one_shot = call.version >= 41 and call.query.flag("one-shot")
    if streaming and one_shot:
        raise InvalidParameter("cannot have stream=true and one-shot=true")
    id = engine.containers.get(call.name).id
    before: dict[str, Any] | None = None
    if not streaming:
        if not one_shot:
            before = await _reading(engine, id, None)
            if before["pids_stats"]:
                await asyncio.sleep(STATS_PERIOD)
        return json(await _reading(engine, id, before))
    stream = await call.stream(JSON)
    with contextlib.suppress(NotFound):
        while True:
            before = await _reading(engine, id, before)
            await stream.write_json(before)
            await asyncio.sleep(STATS_PERIOD)
    return stream.response


async def _reading(engine: Engine, id: str, before: dict[str, Any] | None) -> dict[str, Any]:
    container: Container = engine.containers.get(id)
    if container.state.status not in (Status.RUNNING, Status.PAUSED):
        return figures.nothing(container)
    try:
        now: RuntimeStats = await engine.containers.stats(id)
    except Conflict:
        return figures.nothing(container)
    return figures.sample(container, now, before)


async def export(call: Call) -> web.StreamResponse:
    container = call.engine.containers.get(call.name)

    async def produce(out: BinaryIO) -> None:
        await call.engine.containers.export(container.id, out)

    return await download(call, "application/octet-stream", produce)
