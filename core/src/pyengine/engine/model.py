"""The engine's objects, under Docker's field names.

These structs are at once the typed form of the API's JSON bodies, what the database keeps and what
hooks and the spec builder read. Field names on the wire are Docker's (API 1.51); where Docker's
spelling is not plain PascalCase, the field says so. Times on the wire are RFC 3339 in UTC.
"""

from __future__ import annotations

import enum
from typing import Annotated, Any

import msgspec
from msgspec import Meta, field

from pyengine.contracts.firewall import PublishedPort
from pyengine.linux.idmaps import IdMaps

#: Networks that every engine has.
PREDEFINED = ("bridge", "host", "none")


#: Widths that Docker's fields have and Python's numbers do not.
UInt16 = Annotated[int, Meta(ge=0, le=(1 << 16) - 1)]
UInt32 = Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]
UInt64 = Annotated[int, Meta(ge=0)]


class Wire(msgspec.Struct, rename="pascal", kw_only=True, omit_defaults=False):
    """Base of all bodies. Unknown fields are accepted, as Docker accepts them."""


class HealthConfig(Wire):
    test: list[str] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class ContainerConfig(Wire):
    """``Config`` of a container or image: what travels with an image."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, dict[str, Any]] | None = None
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] | None = None
    cmd: list[str] | None = None
    healthcheck: HealthConfig | None = None
    args_escaped: bool = False
    image: str = ""
    volumes: dict[str, dict[str, Any]] | None = None
    working_dir: str = ""
    entrypoint: list[str] | None = None
    network_disabled: bool = False
    mac_address: str = ""
    on_build: list[str] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    stop_timeout: int | None = None
    shell: list[str] | None = None


class LogConfig(Wire):
    type: str = ""
    config: dict[str, str] | None = None


class PortBinding(Wire):
    host_ip: str = ""
    host_port: str = ""


class RestartPolicy(Wire):
    name: str = ""
    maximum_retry_count: int = 0


class WeightDevice(Wire):
    path: str = ""
    weight: UInt16 = 0


class ThrottleDevice(Wire):
    path: str = ""
    rate: UInt64 = 0


class DeviceMapping(Wire):
    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = ""


class DeviceRequest(Wire):
    driver: str = ""
    count: int = 0
    device_ids: list[str] | None = field(name="DeviceIDs", default=None)
    capabilities: list[list[str]] | None = None
    options: dict[str, str] | None = None


class Ulimit(Wire):
    name: str = ""
    hard: int = 0
    soft: int = 0


class BindOptions(Wire, omit_defaults=True):
    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class DriverConfig(Wire, omit_defaults=True):
    name: str = ""
    options: dict[str, str] | None = None


class VolumeOptions(Wire, omit_defaults=True):
    no_copy: bool = False
    labels: dict[str, str] | None = None
    driver_config: DriverConfig | None = None
    subpath: str = ""


class TmpfsOptions(Wire, omit_defaults=True):
    size_bytes: int = 0
    mode: UInt32 = 0
    options: list[list[str]] | None = None


class ImageOptions(Wire, omit_defaults=True):
    subpath: str = ""


class Mount(Wire, omit_defaults=True):
    """One entry of ``HostConfig.Mounts`` (``--mount``). ``cluster_options`` belong to swarms: only
    looked at to refuse them."""

    type: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    image_options: ImageOptions | None = None
    tmpfs_options: TmpfsOptions | None = None
    cluster_options: dict[str, Any] | None = None


class HostConfig(Wire):
    """``HostConfig``: what belongs to this host. Memory in bytes, CPU in 1e-9 of a processor."""

    binds: list[str] | None = None
    container_id_file: str = field(name="ContainerIDFile", default="")
    log_config: LogConfig = field(default_factory=LogConfig)
    network_mode: str = ""
    port_bindings: dict[str, list[PortBinding] | None] | None = None
    restart_policy: RestartPolicy = field(default_factory=RestartPolicy)
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: list[str] | None = None
    console_size: list[UInt64] = field(default_factory=lambda: [0, 0])
    annotations: dict[str, str] | None = None
    cap_add: list[str] | None = None
    cap_drop: list[str] | None = None
    cgroupns_mode: str = ""
    dns: list[str] | None = None
    dns_options: list[str] | None = None
    dns_search: list[str] | None = None
    extra_hosts: list[str] | None = None
    group_add: list[str] | None = None
    ipc_mode: str = ""
    cgroup: str = ""
    links: list[str] | None = None
    oom_score_adj: int = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: list[str] | None = None
    storage_opt: dict[str, str] | None = None
    tmpfs: dict[str, str] | None = None
    uts_mode: str = field(name="UTSMode", default="")
    userns_mode: str = ""
    shm_size: int = 0
    sysctls: dict[str, str] | None = None
    runtime: str = ""
    isolation: str = ""
    cpu_shares: int = 0
    memory: int = 0
    nano_cpus: int = 0
    cgroup_parent: str = ""
    blkio_weight: UInt16 = 0
    blkio_weight_device: list[WeightDevice] | None = None
    blkio_device_read_bps: list[ThrottleDevice] | None = None
    blkio_device_write_bps: list[ThrottleDevice] | None = None
    blkio_device_read_iops: list[ThrottleDevice] | None = field(
        name="BlkioDeviceReadIOps", default=None
    )
    blkio_device_write_iops: list[ThrottleDevice] | None = field(
        name="BlkioDeviceWriteIOps", default=None
    )
    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_realtime_period: int = 0
    cpu_realtime_runtime: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: list[DeviceMapping] | None = None
    device_cgroup_rules: list[str] | None = None
    device_requests: list[DeviceRequest] | None = None
    kernel_memory: int = 0
    kernel_memory_tcp: int = field(name="KernelMemoryTCP", default=0)
    memory_reservation: int = 0
    memory_swap: int = 0
    memory_swappiness: int | None = None
    oom_kill_disable: bool | None = None
    pids_limit: int | None = None
    ulimits: list[Ulimit] | None = None
    cpu_count: int = 0
    cpu_percent: int = 0
    io_maximum_iops: UInt64 = field(name="IOMaximumIOps", default=0)
    io_maximum_bandwidth: UInt64 = field(name="IOMaximumBandwidth", default=0)
    mounts: list[Mount] | None = None
    masked_paths: list[str] | None = None
    readonly_paths: list[str] | None = None
    init: bool | None = None


class EndpointIPAMConfig(Wire, omit_defaults=True):
    ipv4_address: str = field(name="IPv4Address", default="")
    ipv6_address: str = field(name="IPv6Address", default="")
    link_local_ips: list[str] | None = field(name="LinkLocalIPs", default=None)


class EndpointSettings(Wire):
    """A container's side of a network, both as asked for and as it is."""

    ipam_config: EndpointIPAMConfig | None = field(name="IPAMConfig", default=None)
    links: list[str] | None = None
    aliases: list[str] | None = None
    mac_address: str = ""
    driver_opts: dict[str, str] | None = None
    gw_priority: int = 0
    network_id: str = field(name="NetworkID", default="")
    endpoint_id: str = field(name="EndpointID", default="")
    gateway: str = ""
    ip_address: str = field(name="IPAddress", default="")
    ip_prefix_len: int = field(name="IPPrefixLen", default=0)
    ipv6_gateway: str = field(name="IPv6Gateway", default="")
    global_ipv6_address: str = field(name="GlobalIPv6Address", default="")
    global_ipv6_prefix_len: int = field(name="GlobalIPv6PrefixLen", default=0)
    dns_names: list[str] | None = field(name="DNSNames", default=None)


class NetworkingConfig(Wire):
    endpoints_config: dict[str, EndpointSettings | None] | None = None


class ExecConfig(Wire):
    """Body of ``POST /containers/{id}/exec``."""

    user: str = ""
    privileged: bool = False
    tty: bool = False
    console_size: list[int] | None = None
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    detach: bool = False
    detach_keys: str = ""
    env: list[str] | None = None
    working_dir: str = ""
    cmd: list[str] | None = None


class Exec(msgspec.Struct, kw_only=True):
    """A further process in a container. ``exit_code`` is None until it has ended."""

    id: str
    container_id: str
    config: ExecConfig
    pid: int = 0
    running: bool = False
    exit_code: int | None = None
    can_remove: bool = False


class Status(enum.StrEnum):
    """``State.Status``. ``removing`` and ``dead`` are what is left of a removal."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    REMOVING = "removing"
    EXITED = "exited"
    DEAD = "dead"


class HealthStatus(enum.StrEnum):
    """``State.Health.Status``."""

    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class HealthResult(Wire):
    """One probe. Times: RFC 3339. ``exit_code`` 0: healthy; -1: it did not end in time."""

    start: str
    end: str
    exit_code: int = 0
    output: str = ""


class Health(Wire):
    """What the latest probes said, oldest first; ``failing_streak``: of those that counted."""

    status: HealthStatus = HealthStatus.STARTING
    failing_streak: int = 0
    log: list[HealthResult] = []


class State(Wire):
    """What became of the process. Times: RFC 3339, ``0001-01-01T00:00:00Z`` for never."""

    status: Status = Status.CREATED
    oom_killed: bool = field(name="OOMKilled", default=False)
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    started_at: str = "0001-01-01T00:00:00Z"
    finished_at: str = "0001-01-01T00:00:00Z"
    #: None: the container has no health check, or has never been started
    health: Health | None = None

    @property
    def running(self) -> bool:
        return self.status in (Status.RUNNING, Status.PAUSED)

    @property
    def paused(self) -> bool:
        return self.status is Status.PAUSED


class MountPoint(Wire):
    """``Mounts`` of inspect: one resolved mount. ``name`` and ``driver`` only for volumes."""

    type: str
    name: str = ""
    source: str = ""
    destination: str = ""
    driver: str = ""
    mode: str = ""
    rw: bool = field(name="RW", default=True)
    propagation: str = ""
    #: ours, not on the wire: the entry of HostConfig.Mounts or Binds, and details to mount it
    spec: Mount | None = None
    no_copy: bool = False
    #: of an image: id of its layer, and chain id of what that stands on
    layer: str = ""
    base: str = ""


class LogSinkChoice(msgspec.Struct, frozen=True):
    """A log sink of a container, and its options, complete."""

    driver: str
    options: dict[str, str] = {}


class EndpointWish(msgspec.Struct, omit_defaults=True):
    """What an endpoint shall have again at the next start: the MAC that its user asked for, and the
    addresses of the last run, if nobody has them now."""

    mac: str = ""
    ipv4: str = ""
    ipv6: str = ""


class Container(msgspec.Struct, kw_only=True):
    """The record of a container: desired state, and the last state that was seen.

    ``base``: chain id of the image's top layer, on which its own stands.
    ``drivers``: the driver of each kind that was chosen at create ("storage", "runtime",
    "logging"). ``networks`` and ``wishes``: by network name. ``layer``: id of its writable layer.
    ``phase``: what was being done ("creating", "starting", "removing"), so that the next daemon can
    finish or undo it; empty: nothing. ``published``: the host ports it holds.
    """

    id: str
    name: str
    created: str
    path: str
    args: list[str]
    config: ContainerConfig
    host_config: HostConfig
    image: str = ""
    image_name: str = ""
    platform: str = "linux"
    layer: str = ""
    base: str = ""
    drivers: dict[str, str] = {}
    networks: dict[str, EndpointSettings] = {}
    wishes: dict[str, EndpointWish] = {}
    mounts: list[MountPoint] = []
    log_options: dict[str, str] = {}
    log_sinks: list[LogSinkChoice] = []
    state: State = field(default_factory=State)
    phase: str = ""
    restart_count: int = 0
    manually_stopped: bool = False
    ports: dict[str, list[PortBinding] | None] = {}
    published: list[PublishedPort] = []
    #: The network that they lead to.
    published_on: str = ""
    sandbox_id: str = ""
    sandbox_key: str = ""
    #: of its user namespace, as it was last started; None: it has none of its own
    id_maps: IdMaps | None = None
    apparmor_profile: str = ""
    mount_label: str = ""
    process_label: str = ""

    @property
    def layers(self) -> list[str]:
        """Ids of all layers that are its own: the one it writes, and those of mounted images."""
        return [self.layer, *(point.layer for point in self.mounts if point.layer)]

    @property
    def bases(self) -> list[str]:
        """Chain ids of the images' layers that those stand on."""
        return [base for base in (self.base, *(point.base for point in self.mounts)) if base]

    @property
    def images(self) -> list[str]:
        """Ids of its image and of those that are mounted in it."""
        mounted = [point.spec for point in self.mounts if point.type == "image" and point.spec]
        return [self.image, *(spec.source for spec in mounted)]
