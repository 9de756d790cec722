"""The keys of daemon.json: what each is called, its type, what it is when nobody says it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from pyengine.contracts.base import Kind
from pyengine.drivers import Choice
from pyengine.oci.cdi import DEFAULT_DIRECTORIES

DEFAULT_DATA_ROOT = Path("/var/lib/pyengine")
DEFAULT_EXEC_ROOT = Path("/run/pyengine")
DEFAULT_SOCKET = "unix:///run/pyengine.sock"
DEFAULT_FILE = Path("/etc/pyengine/daemon.json")

#: Versions of Docker's API that are served, the oldest unless ``min-api-version`` says otherwise.
MIN_API_VERSION, API_VERSION = "1.24", "1.51"


class DriverChoice(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """An entry of ``drivers`` in long form."""

    name: str = ""
    options: dict[str, str] = {}
    default: str = ""
    allow: list[str] | None = None


class AddressPool(msgspec.Struct):
    """An entry of ``default-address-pools``."""

    base: str
    size: int


class UlimitDefault(msgspec.Struct, rename={"name": "Name", "hard": "Hard", "soft": "Soft"}):
    """An entry of ``default-ulimits``."""

    name: str = ""
    hard: int = 0
    soft: int = 0


class Proxies(msgspec.Struct, rename="kebab", kw_only=True, forbid_unknown_fields=True):
    """``proxies``; what is empty comes from the environment (``HTTPS_PROXY`` and so on)."""

    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""


class RegistryEntry(msgspec.Struct, rename="kebab", kw_only=True, forbid_unknown_fields=True):
    """An entry of ``registries``: how one registry is reached.

    ``mirrors`` are asked first, in this order; ``insecure`` None is as ``insecure-registries`` has
    it; ``ca``, ``client-cert`` and ``client-key`` are paths of PEM files.
    """

    mirrors: list[str] = []
    insecure: bool | None = None
    ca: str = ""
    client_cert: str = ""
    client_key: str = ""


class RuntimeEntry(msgspec.Struct, rename="camel", kw_only=True, forbid_unknown_fields=True):
    """An entry of ``runtimes``: a program (``path``, ``runtimeArgs``), or the driver that
    ``runtimeType`` names."""

    path: str = ""
    runtime_args: list[str] = []
    runtime_type: str = ""
    options: dict[str, Any] = {}


class Config(msgspec.Struct, rename="kebab", kw_only=True, forbid_unknown_fields=True):
    """Every key that is honoured. Sizes in bytes or Docker's units, times in seconds; those of the
    real-time scheduler in microseconds."""

    data_root: str = str(DEFAULT_DATA_ROOT)
    exec_root: str = str(DEFAULT_EXEC_ROOT)
    pidfile: str = ""
    hosts: list[str] = []
    group: str = "docker"
    tls: bool = False
    tlsverify: bool = False
    tlscacert: str = ""
    tlscert: str = ""
    tlskey: str = ""
    debug: bool = False
    log_level: str = "info"
    log_format: str = "text"
    labels: list[str] = []
    storage_driver: str = ""
    storage_opts: list[str] = []
    log_driver: str = ""
    log_opts: dict[str, str] = {}
    default_runtime: str = ""
    runtimes: dict[str, RuntimeEntry] = {}
    drivers: dict[str, str | list[str] | DriverChoice] = {}
    live_restore: bool = False
    shutdown_timeout: int = 15
    default_stop_timeout: int = 10
    min_api_version: str = MIN_API_VERSION
    bridge: str = ""
    bip: str = ""
    bip6: str = ""
    fixed_cidr: str = ""
    default_gateway: str = ""
    default_gateway_v6: str = ""
    default_address_pools: list[AddressPool] = []
    ip: str = "0.0.0.0"
    ip_forward: bool = True
    ip_masq: bool = True
    iptables: bool = True
    ip6tables: bool = True
    allow_direct_routing: bool = False
    bridge_accept_fwmark: str = ""
    icc: bool = True
    mtu: int = 0
    dns: list[str] = []
    dns_opts: list[str] = []
    dns_search: list[str] = []
    default_ulimits: dict[str, UlimitDefault] = {}
    default_shm_size: str | int = 67108864
    userns_remap: str = ""
    default_cgroupns_mode: str = ""
    default_ipc_mode: str = "private"
    cgroup_parent: str = ""
    cpu_rt_period: int = 0
    cpu_rt_runtime: int = 0
    init: bool = False
    init_path: str = ""
    no_new_privileges: bool = False
    seccomp_profile: str = ""
    registry_mirrors: list[str] = []
    insecure_registries: list[str] = []
    registries: dict[str, RegistryEntry] = {}
    max_concurrent_downloads: int = 3
    max_concurrent_uploads: int = 5
    max_download_attempts: int = 5
    proxies: Proxies = msgspec.field(default_factory=Proxies)
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""
    features: dict[str, bool] = {}
    cdi_spec_dirs: list[str] | None = None
    authorization_plugins: list[str] = []
    metrics_addr: str = ""
    userland_proxy: bool = True
    host_gateway_ip: str = ""
    host_gateway_ips: list[str] = []
    default_network_opts: dict[str, dict[str, str]] = {}
    ipv6: bool = False
    fixed_cidr_v6: str = ""
    exec_opts: list[str] = []
    oom_score_adjust: int = 0
    firewall_backend: str = ""

    def choices(self) -> dict[Kind, Choice]:
        """Which driver of each kind was asked for, from our ``drivers`` and Docker's keys."""
        chosen: dict[Kind, Choice] = {}
        for key, value in self.drivers.items():
            if key == Kind.SECURITY.value or isinstance(value, list):
                continue
            if isinstance(value, str):
                chosen[Kind(key)] = Choice(value)
            else:
                chosen[Kind(key)] = Choice(value.name or value.default, value.options)
        # Of several log drivers each gets the options that it knows, of the container.
        log_driver, several, _ = self.log_driver.partition(",")
        for kind, name in ((Kind.STORAGE, self.storage_driver), (Kind.LOGGING, log_driver.strip())):
            if name and kind not in chosen:
                chosen[kind] = Choice(name)
        if self.firewall_backend and Kind.FIREWALL not in chosen:
            chosen[Kind.FIREWALL] = Choice(self.firewall_backend)
        if self.default_runtime and Kind.RUNTIME not in chosen:
            named = self.runtimes.get(self.default_runtime)
            chosen[Kind.RUNTIME] = Choice(named.runtime_type if named else self.default_runtime)
        if self.storage_opts:
            options = dict(split_option(item) for item in self.storage_opts)
            now = chosen.get(Kind.STORAGE, Choice())
            chosen[Kind.STORAGE] = Choice(now.name, {**options, **now.options})
        if self.log_opts and not several:
            now = chosen.get(Kind.LOGGING, Choice())
            chosen[Kind.LOGGING] = Choice(now.name, {**self.log_opts, **now.options})
        if self.default_address_pools:
            pools = msgspec.json.encode(self.default_address_pools).decode()
            now = chosen.get(Kind.IPAM, Choice())
            chosen[Kind.IPAM] = Choice(now.name, {"default-address-pools": pools, **now.options})
        return chosen

    def log_drivers(self) -> str:
        """What a container's log goes to unless it says otherwise, as ``--log-driver`` names it;
        empty: whichever driver is best here."""
        return "" if Kind.LOGGING.value in self.drivers else self.log_driver

    def systemd_cgroups(self) -> bool:
        """Whether containers are systemd's scopes; of several words about it the last counts."""
        return self.exec_opts[-1:] == ["native.cgroupdriver=systemd"]

    def host_gateways(self) -> list[str]:
        """What ``host-gateway`` means in ``--add-host``; none: the container's own gateway."""
        return self.host_gateway_ips or [ip for ip in [self.host_gateway_ip] if ip]

    def cdi_directories(self) -> list[str]:
        """Where devices are described; none if that is turned off, by an empty name or by the
        feature ``cdi``."""
        if not self.features.get("cdi", True):
            return []
        if self.cdi_spec_dirs is None:
            return list(DEFAULT_DIRECTORIES)
        return [directory for directory in self.cdi_spec_dirs if directory]

    def for_plugins(self) -> dict[str, str]:
        """The keys of :data:`PLUGIN_KEYS` that say something, as options of drivers are written."""
        found = {}
        for key in sorted(PLUGIN_KEYS if self.iptables else PLUGIN_KEYS - RULE_KEYS):
            value = getattr(self, FIELDS[key].name)
            if value != getattr(_DEFAULTS, FIELDS[key].name):
                found[key] = _as_option(value)
        return found

    def absent(self) -> frozenset[Kind]:
        """Kinds of driver that the operator does without: no rules with ``iptables`` false."""
        return frozenset() if self.iptables else frozenset({Kind.FIREWALL})

    def security(self) -> list[str] | None:
        """The security plugins that were named, or None: all that are available."""
        value = self.drivers.get(Kind.SECURITY.value)
        if value is None:
            return None
        return [value] if isinstance(value, str) else list(value) if isinstance(value, list) else []

    def allowed(self, kind: Kind) -> list[str] | None:
        """Drivers that containers and networks may ask for, or None: any that is installed."""
        value = self.drivers.get(kind.value)
        return value.allow if isinstance(value, DriverChoice) else None


#: The fields of :class:`Config` by key.
FIELDS = {field.encode_name: field for field in msgspec.structs.fields(Config)}

_DEFAULTS = Config()

#: Docker's keys that plugins honour. Each plugin says which are its own (``Driver.keys``,
#: ``Frontend.keys``); one that is set and that nobody honours is an error.
PLUGIN_KEYS = frozenset(
    (
        *("allow-direct-routing", "authorization-plugins", "bridge-accept-fwmark", "ip-forward"),
        *("ip6tables", "metrics-addr", "seccomp-profile"),
    )
)

#: Those of them that are about rules, and say nothing where nobody makes any (``iptables`` false).
RULE_KEYS = frozenset({"allow-direct-routing", "bridge-accept-fwmark", "ip6tables"})

#: Names in ``features`` that mean something here.
FEATURES = frozenset({"buildkit", "cdi"})

#: Docker's keys that choose a driver, and the kinds they choose for.
DRIVER_KEYS = {
    "storage-driver": "storage",
    "log-driver": "logging",
    "default-runtime": "runtime",
    "firewall-backend": "firewall",
}

#: Keys of Docker's that change nothing here, and why. They are accepted, and a line says so.
WITHOUT_EFFECT = {
    "allow-nondistributable-artifacts": "every layer is pushed",
    "api-cors-header": "the API serves no browsers",
    "builder": "there is no builder yet",
    "containerd": "no containerd is used",
    "containerd-namespace": "no containerd is used",
    "containerd-plugin-namespace": "no containerd is used",
    "containerd-plugins-namespace": "no containerd is used",
    "cri-containerd": "no containerd is used",
    "deprecated-key-path": "the engine's id is a file of the data root",
    "experimental": "nothing is hidden behind it",
    "ip-forward-no-drop": "the policy of a chain that is not ours is never changed",
    "network-control-plane-mtu": "there is no swarm",
    "node-generic-resources": "there is no swarm",
    "raw-logs": "the log has no colours",
    "restart": "each container has a policy of its own",
    "swarm-default-advertise-addr": "there is no swarm",
    "swarm-raft-election-tick": "there is no swarm",
    "swarm-raft-heartbeat-tick": "there is no swarm",
    "userland-proxy-path": "the proxy is a part of the engine",
}


class Refused(msgspec.Struct, frozen=True):
    """Why a key of Docker's is refused, and the values that ask for nothing and are accepted."""

    reason: str
    nothing: tuple[object, ...] = ()


#: Keys that are not honoured: naming them is better than ignoring them.
REFUSED = {
    "cluster-advertise": Refused("it went with Docker's first swarm", ("",)),
    "cluster-store": Refused("it went with Docker's first swarm", ("",)),
    "cluster-store-opts": Refused("it went with Docker's first swarm", ({},)),
    "graph": Refused("it is called data-root"),
    "network-diagnostic-port": Refused("there is no cluster of networks to look into", (0,)),
    "nri-opts": Refused(
        "containers are changed by hook plugins (pyengine.hooks)", ({}, {"enable": False})
    ),
    "rootless": Refused("this version needs root", (False,)),
    "selinux-enabled": Refused("labels are not in this version", (False,)),
}


def _as_option(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(value) if isinstance(value, list) else str(value)


def split_option(item: str) -> tuple[str, str]:
    """``KEY=VALUE`` in two; ``ValueError`` without an equals sign."""
    key, equals, value = item.partition("=")
    if not equals:
        raise ValueError(f"{item!r} has no '='")
    return key, value
