"""Networks, volumes, execs and images as Docker shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyengine import timestamps
from pyengine.contracts.ipam import Pool
from pyengine.contracts.volume import VolumeRecord
from pyengine.engine.images.records import Image
from pyengine.engine.model import ContainerConfig, Exec
from pyengine.engine.networks.records import EndpointView, Network
from pyengine_api_docker import views

Body = dict[str, Any]

_CONTAINERS_ONLY = (
    "Hostname",
    "Domainname",
    "AttachStdin",
    "AttachStdout",
    "AttachStderr",
    "Tty",
    "OpenStdin",
    "StdinOnce",
    "Image",
    "NetworkDisabled",
    "MacAddress",
    "StopTimeout",
)


def network(record: Network, version: int, endpoints: Mapping[str, EndpointView]) -> Body:
    """``GET /networks/{id}``; the list (since 1.28) has no endpoints."""
    body: Body = {
        "Name": record.name,
        "Id": record.id,
        "Created": record.created,
        "Scope": "local",
        # Docker's name for the driver of the network "none"
        "Driver": "null" if record.driver == "none" else record.driver,
    }
    if version >= 48:
        body["EnableIPv4"] = record.ipv4
    return body | {
        "EnableIPv6": record.ipv6,
        "IPAM": {
            "Driver": record.ipam_driver or "default",
            "Options": record.ipam_options,
            "Config": [_pool(pool) for pool in record.pools] or None,
        },
        "Internal": record.internal,
        "Attachable": record.attachable,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {
            container: {
                "Name": view.name.removeprefix("/"),
                "EndpointID": view.endpoint_id,
                "MacAddress": view.mac,
                "IPv4Address": view.ipv4,
                "IPv6Address": view.ipv6,
            }
            for container, view in endpoints.items()
        },
        "Options": record.options,
        "Labels": record.labels,
    }


def _pool(pool: Pool) -> Body:
    body: Body = {"Subnet": pool.subnet}
    if pool.range:
        body["IPRange"] = pool.range
    if pool.gateway:
        body["Gateway"] = pool.gateway
    if pool.auxiliary:
        body["AuxiliaryAddresses"] = pool.auxiliary
    return body


def volume(record: VolumeRecord, mountpoint: str) -> Body:
    return {
        "CreatedAt": record.created,
        "Driver": record.driver,
        "Labels": record.labels or None,
        "Mountpoint": mountpoint,
        "Name": record.name,
        "Options": record.options or None,
        "Scope": "local",
    }


def exec_inspect(record: Exec) -> Body:
    config = record.config
    words = config.cmd or [""]
    process: Body = {
        "tty": config.tty,
        "entrypoint": words[0],
        "arguments": words[1:],
        "privileged": config.privileged,
    }
    if config.user:
        process["user"] = config.user
    return {
        "ID": record.id,
        "Running": record.running,
        "ExitCode": record.exit_code,
        "ProcessConfig": process,
        "OpenStdin": config.attach_stdin,
        "OpenStderr": config.attach_stderr,
        "OpenStdout": config.attach_stdout,
        "CanRemove": record.can_remove,
        "ContainerID": record.container_id,
        "DetachKeys": config.detach_keys,
        "Pid": record.pid,
    }


def image_summary(record: Image, version: int, containers: int) -> Body:
    """An entry of ``GET /images/json``. ``containers``: how many use it, -1 if nobody counted."""
    tags: list[str] | None = list(record.repo_tags)
    digests: list[str] | None = list(record.repo_digests)
    if version < 43:
        if not tags and not digests:
            tags, digests = ["<none>:<none>"], ["<none>@<none>"]
        tags, digests = tags or None, digests or None
    body: Body = {
        "Containers": containers,
        "Created": timestamps.parse(record.created) // 10**9,
        "Id": record.id,
        "Labels": record.config.labels,
        "ParentId": record.parent,
        "RepoDigests": digests,
        "RepoTags": tags,
        "SharedSize": -1,
        "Size": record.size,
    }
    if version < 44:
        body["VirtualSize"] = record.size
    return body


def image(record: Image, version: int, graph: Mapping[str, Any]) -> Body:
    """``GET /images/{name}/json``."""
    body: Body = {
        "Id": record.id,
        "RepoTags": list(record.repo_tags),
        "RepoDigests": list(record.repo_digests),
        "Parent": record.parent,
        "Comment": record.comment or (record.history[-1].comment if record.history else ""),
    }
    if record.created != timestamps.NEVER or version < 44:
        body["Created"] = record.created
    if version < 45:
        body["ContainerConfig"] = views.config(ContainerConfig()) | {"Labels": None}
    body |= {
        "DockerVersion": record.docker_version,
        "Author": record.author,
        "Config": _image_config(record.config, version),
        "Architecture": record.architecture,
    }
    if record.variant:
        body["Variant"] = record.variant
    body["Os"] = record.os
    if record.os_version:
        body["OsVersion"] = record.os_version
    body["Size"] = record.size
    if version < 44:
        body["VirtualSize"] = record.size
    return body | {
        "GraphDriver": graph,
        "RootFS": {"Type": "layers", "Layers": record.diff_ids},
        "Metadata": {"LastTagTime": record.last_tagged or timestamps.NEVER},
    }


def _image_config(config: ContainerConfig, version: int) -> Body:
    """Since 1.50 without what only containers have."""
    body = views.config(config) | {"Labels": config.labels}
    if version >= 50:
        for key in _CONTAINERS_ONLY:
            body.pop(key, None)
    return body
