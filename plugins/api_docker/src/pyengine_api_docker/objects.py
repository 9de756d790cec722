"""Networks, volumes and execs as Docker shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyengine.contracts.ipam import Pool
from pyengine.contracts.volume import VolumeRecord
from pyengine.engine.model import Exec
from pyengine.engine.networks import EndpointView, Network

Body = dict[str, Any]


def network(record: Network, version: int, endpoints: Mapping[str, EndpointView]) -> Body:
    """``GET /networks/{id}``; the list (since 1.28) has no endpoints."""
    body: Body = {
        "Name": record.name,
        "Id": record.id,
        "Created": record.created,
        "Scope": "local",
        "Driver": record.driver,
    }
    if version >= 48:
        body["EnableIPv4"] = record.ipv4
    return body | {
        "EnableIPv6": record.ipv6,
        "IPAM": {
            "Driver": record.ipam_driver or "default",
            "Options": None if record.predefined else record.ipam_options,
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
    body = {"Subnet": pool.subnet}
    if pool.range:
        body["IPRange"] = pool.range
    if pool.gateway:
        body["Gateway"] = pool.gateway
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


def image_summary(record: Any, version: int, containers: int) -> Body:
    return {}


def image(record: Any, version: int) -> Body:
    return {}
