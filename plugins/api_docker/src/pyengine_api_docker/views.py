"""Containers as Docker shows them: the bodies of inspect and of list.

Fields and the API versions they came or went with: the Engine's API description and its version
history. Values that Go leaves out when empty (``omitempty``) are left out here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from pyengine import timestamps
from pyengine.engine.logsinks import SinkStatus
from pyengine.engine.model import (
    Container,
    ContainerConfig,
    EndpointSettings,
    Health,
    HealthStatus,
    HostConfig,
    MountPoint,
    PortBinding,
    State,
    Status,
    Ulimit,
)
from pyengine.engine.networks.records import clear
from pyengine_api_docker.durations import human

Body = dict[str, Any]

#: A list shows the same times again and again, and reading one costs more than all else in a row.
_moment = lru_cache(maxsize=4096)(timestamps.parse)

_CONFIG_OPTIONAL = (
    "ExposedPorts",
    "Healthcheck",
    "ArgsEscaped",
    "NetworkDisabled",
    "MacAddress",
    "StopSignal",
    "StopTimeout",
    "Shell",
)
_HOST_OPTIONAL = (
    "Annotations",
    "Init",
    "Mounts",
    "Runtime",
    "StorageOpt",
    "Sysctls",
    "Tmpfs",
)
_HEALTH_OPTIONAL = ("Test", "Interval", "Timeout", "StartPeriod", "StartInterval", "Retries")
#: Lists that Docker makes when there are none.
_HOST_LISTS = ("Dns", "DnsOptions", "DnsSearch")

#: Network modes that are no network one can name endpoints in.
_NOT_USER_DEFINED = frozenset({"bridge", "host", "none", "default", ""})


def status_text(state: State, now: float) -> str:
    """``Status`` of ``docker ps``."""
    started = human(now - _moment(state.started_at) / 1e9)
    match state.status:
        case Status.RUNNING:
            return f"Up {started}{_health_text(state.health)}"
        case Status.PAUSED:
            return f"Up {started} (Paused)"
        case Status.CREATED:
            return "Created"
        case Status.REMOVING:
            return "Removal In Progress"
        case Status.DEAD:
            return "Dead"
    finished = _moment(state.finished_at)
    if not finished:
        return "Created" if not _moment(state.started_at) else ""
    ago = human(now - finished / 1e9)
    word = "Restarting" if state.status is Status.RESTARTING else "Exited"
    return f"{word} ({state.exit_code}) {ago} ago"


def _health_text(health: Health | None) -> str:
    if health is None:
        return ""
    starting = health.status is HealthStatus.STARTING
    return " (health: starting)" if starting else f" ({health.status})"


def command_line(path: str, args: Sequence[str]) -> str:
    """``Command`` of ``docker ps``: words with blanks are quoted, nothing is escaped."""
    return " ".join([path, *(f"'{word}'" if " " in word else word for word in args)])


def ports(bindings: Mapping[str, list[PortBinding] | None]) -> list[Body]:
    """``Ports`` of the list: one entry per binding, and one per port that is only exposed."""
    rows: list[Body] = []
    for port, hosts in bindings.items():
        number, _, protocol = port.partition("/")
        private, protocol = int(number), protocol or "tcp"
        if not hosts:
            rows.append({"PrivatePort": private, "Type": protocol})
        for host in hosts or ():
            row: Body = {"IP": host.host_ip} if host.host_ip else {}
            row |= {"PrivatePort": private, "PublicPort": int(host.host_port), "Type": protocol}
            rows.append(row)
    rows.sort(key=lambda r: (r["PrivatePort"], r["Type"], r.get("IP", ""), r.get("PublicPort", 0)))
    return rows


def mount_point(mount: MountPoint) -> Body:
    """An entry of ``Mounts``; only volumes have a name and a driver."""
    body: Body = {"Type": mount.type}
    if mount.name:
        body["Name"] = mount.name
    body["Source"] = mount.source
    body["Destination"] = mount.destination
    if mount.driver:
        body["Driver"] = mount.driver
    body["Mode"] = mount.mode
    body["RW"] = mount.rw
    body["Propagation"] = mount.propagation
    return body


def _present(container: Container, settings: EndpointSettings) -> EndpointSettings:
    """Addresses of a container that has ended are given back a moment later; they are not shown."""
    if container.state.status is not Status.EXITED:
        return settings
    shown = msgspec.structs.replace(settings)
    clear(shown)
    return shown


def endpoint(settings: EndpointSettings, version: int) -> Body:
    body: Body = msgspec.to_builtins(settings)
    if version < 48:
        del body["GwPriority"]
    return body


def host_config(config: HostConfig) -> Body:
    body: Body = msgspec.to_builtins(config)
    for key in _HOST_OPTIONAL:
        if body[key] is None or body[key] == {} or body[key] == [] or body[key] == "":
            del body[key]
    for key in _HOST_LISTS:
        body[key] = body[key] or []
    del body["KernelMemory"]  # gone since 1.42
    if not body["KernelMemoryTCP"]:
        del body["KernelMemoryTCP"]
    log = body["LogConfig"]
    log["Config"] = log["Config"] or {}
    if body["PortBindings"] is None:
        body["PortBindings"] = {}
    return body


def config(config: ContainerConfig) -> Body:
    body: Body = msgspec.to_builtins(config)
    for key in _CONFIG_OPTIONAL:
        if not body[key] and body[key] != 0:
            del body[key]
    if body.get("ArgsEscaped") is False:
        del body["ArgsEscaped"]
    if body.get("NetworkDisabled") is False:
        del body["NetworkDisabled"]
    health = body.get("Healthcheck")
    if health is not None:
        for key in _HEALTH_OPTIONAL:
            if not health[key]:
                del health[key]
    body["Env"] = body["Env"] or None
    body["Volumes"] = body["Volumes"] or None
    body["Labels"] = body["Labels"] or {}
    return body


def state(state: State) -> Body:
    status = state.status
    body: Body = {
        "Status": status.value,
        "Running": state.running or status is Status.RESTARTING,
        "Paused": status is Status.PAUSED,
        "Restarting": status is Status.RESTARTING,
        "OOMKilled": state.oom_killed,
        "Dead": status is Status.DEAD,
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": state.started_at,
        "FinishedAt": state.finished_at,
    }
    if state.health is not None:
        body["Health"] = msgspec.to_builtins(state.health)
    return body


def inspect_networks(container: Container, version: int) -> Body:
    """Before 1.45 ``Aliases`` also held the short id, and the host name if it was another."""
    networks = {}
    for name, settings in container.networks.items():
        body = endpoint(_present(container, settings), version)
        if version < 45 and name not in _NOT_USER_DEFINED:
            more = (container.id[:12], container.config.hostname)
            body["Aliases"] = list(dict.fromkeys([*(body["Aliases"] or ()), *more]))
        networks[name] = body
    return networks


def network_settings(container: Container, version: int) -> Body:
    """``NetworkSettings``; its top level repeats the default bridge's endpoint, as ever."""
    networks = inspect_networks(container, version)
    bridge = networks.get("bridge", {})
    joins = container.host_config.network_mode.startswith("container:")
    return {
        "Bridge": "",
        "SandboxID": "" if joins else container.sandbox_id,
        "SandboxKey": container.sandbox_key,
        "Ports": msgspec.to_builtins(container.ports),
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": bridge.get("EndpointID", ""),
        "Gateway": bridge.get("Gateway", ""),
        "GlobalIPv6Address": bridge.get("GlobalIPv6Address", ""),
        "GlobalIPv6PrefixLen": bridge.get("GlobalIPv6PrefixLen", 0),
        "IPAddress": bridge.get("IPAddress", ""),
        "IPPrefixLen": bridge.get("IPPrefixLen", 0),
        "IPv6Gateway": bridge.get("IPv6Gateway", ""),
        "MacAddress": bridge.get("MacAddress", ""),
        "Networks": networks,
    }


def inspect(
    container: Container,
    version: int,
    *,
    graph: Mapping[str, Any],
    exec_ids: Sequence[str],
    links: Sequence[str] | None,
    ulimits: Sequence[Ulimit] | None,
    directory: Path,
    log_path: str,
    sinks: Sequence[SinkStatus] = (),
    size: tuple[int, int] | None = None,
) -> Body:
    """``GET /containers/{id}/json``. ``links``, ``ulimits``: as Docker shows them.
    ``directory``: where its hosts, hostname and resolv.conf are. ``log_path``: of a log
    that others may read. ``sinks``: where its log goes beside or instead of staying here;
    ``LogSinks`` is ours, and only there if there are some. ``size``: (SizeRw, SizeRootFs) when
    asked for."""
    body: Body = {
        "Id": container.id,
        "Created": container.created,
        "Path": container.path,
        "Args": container.args,
        "State": state(container.state),
        "Image": container.image,
        **_paths(container, directory),
        "LogPath": log_path,
        "Name": "/" + container.name.removeprefix("/"),
        "RestartCount": container.restart_count,
        "Driver": container.drivers.get("storage", ""),
        "Platform": container.platform,
        "MountLabel": container.mount_label,
        "ProcessLabel": container.process_label,
        "AppArmorProfile": container.apparmor_profile,
        "ExecIDs": list(exec_ids) or None,
        "HostConfig": host_config(container.host_config)
        | {"Links": links, "Ulimits": msgspec.to_builtins(ulimits)},
        "GraphDriver": graph,
    }
    if size is not None:
        body["SizeRw"], body["SizeRootFs"] = size
    body["Mounts"] = [mount_point(mount) for mount in container.mounts]
    body["Config"] = config(container.config)
    wish = container.wishes.get(container.host_config.network_mode)
    if wish is not None and wish.mac:
        body["Config"]["MacAddress"] = wish.mac
    body["NetworkSettings"] = network_settings(container, version)
    if sinks:
        body["LogSinks"] = msgspec.to_builtins(sinks)
    return body


def _paths(container: Container, directory: Path) -> Body:
    """Files that a container has since its first start."""
    started = container.state.started_at != timestamps.NEVER
    names = {
        "ResolvConfPath": "resolv.conf",
        "HostnamePath": "hostname",
        "HostsPath": "hosts",
    }
    return {key: str(directory / name) if started else "" for key, name in names.items()}


def summary(
    container: Container,
    version: int,
    *,
    image_id: Callable[[str], str | None],
    size: tuple[int, int] | None = None,
    names: Sequence[str] = (),
    now: float | None = None,
) -> Body:
    """An entry of ``GET /containers/json``. ``image_id`` resolves a name to the id it has now:
    an image that has lost its name since is shown by id. ``names``: of links to it."""
    image = container.config.image
    if image_id(image) != container.image:
        image = container.image
    body: Body = {
        "Id": container.id,
        "Names": ["/" + container.name.removeprefix("/"), *names],
        "Image": image,
        "ImageID": container.image,
        "Command": command_line(container.path, container.args),
        "Created": _moment(container.created) // 10**9,
        "Ports": ports(container.ports),
    }
    if size is not None:
        written, root = size
        if written:
            body["SizeRw"] = written
        if root:
            body["SizeRootFs"] = root
    annotations = container.host_config.annotations
    host: Body = {"NetworkMode": container.host_config.network_mode}
    if version >= 46 and annotations:
        host["Annotations"] = annotations
    body |= {
        "Labels": container.config.labels or {},
        "State": container.state.status.value,
        "Status": status_text(container.state, time.time() if now is None else now),
        "HostConfig": host,
        "NetworkSettings": {
            "Networks": {
                name: _endpoint_summary(_present(container, settings), version)
                for name, settings in container.networks.items()
            }
        },
        "Mounts": [mount_point(mount) for mount in container.mounts],
    }
    return body


def _endpoint_summary(settings: EndpointSettings, version: int) -> Body:
    """The list shows where a container is, not under which names."""
    body = endpoint(settings, version)
    body["Links"] = body["Aliases"] = body["DriverOpts"] = body["DNSNames"] = None
    return body
