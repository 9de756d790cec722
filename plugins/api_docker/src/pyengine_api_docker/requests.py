"""Bodies of requests that are no objects of the engine themselves."""

from __future__ import annotations

from msgspec import field

from pyengine.engine.model import (
    ContainerConfig,
    EndpointSettings,
    HostConfig,
    NetworkingConfig,
    Wire,
)
from pyengine.engine.networks.records import IpamConfig


class CreateContainer(ContainerConfig):
    """``POST /containers/create``: the configuration with two more keys beside its own."""

    host_config: HostConfig = field(default_factory=HostConfig)
    networking_config: NetworkingConfig = field(default_factory=NetworkingConfig)

    def config(self) -> ContainerConfig:
        """The configuration alone."""
        return ContainerConfig(**{name: getattr(self, name) for name in _CONFIG})


_CONFIG = ContainerConfig.__struct_fields__


class UpdateContainer(HostConfig):
    """``POST /containers/{id}/update``: some fields of a ``HostConfig``."""


#: Fields of a ``HostConfig`` that a container may be given anew: resources, and when to restart.
UPDATABLE = frozenset(
    {
        "blkio_weight",
        "cpu_period",
        "cpu_quota",
        "cpu_realtime_period",
        "cpu_realtime_runtime",
        "cpu_shares",
        "cpuset_cpus",
        "cpuset_mems",
        "memory",
        "memory_reservation",
        "memory_swap",
        "nano_cpus",
        "pids_limit",
        "restart_policy",
    }
)


class StartExec(Wire):
    detach: bool = False
    tty: bool = False
    console_size: list[int] | None = None


class Ipam(Wire):
    driver: str = ""
    options: dict[str, str] | None = None
    config: list[IpamConfig] | None = None


class ConnectNetwork(Wire):
    """Body of ``POST /networks/{id}/connect``."""

    container: str = ""
    endpoint_config: EndpointSettings | None = None


class DisconnectNetwork(Wire):
    """Body of ``POST /networks/{id}/disconnect``."""

    container: str = ""
    force: bool = False


class ConfigReference(Wire):
    """A network that only holds a configuration for others."""

    network: str = ""


class CreateNetwork(Wire):
    """``check_duplicate``: of old clients; names are always checked."""

    name: str = ""
    check_duplicate: bool = False
    driver: str = ""
    scope: str = ""
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: ConfigReference = field(default_factory=ConfigReference)
    enable_ipv4: bool | None = field(name="EnableIPv4", default=None)
    enable_ipv6: bool | None = field(name="EnableIPv6", default=None)
    ipam: Ipam | None = field(name="IPAM", default=None)
    options: dict[str, str] | None = None
    labels: dict[str, str] | None = None


class CreateVolume(Wire):
    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    cluster_volume_spec: dict[str, object] | None = None
