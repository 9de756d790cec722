"""``docker info`` and ``docker version``."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyengine import __version__, timestamps
from pyengine.config import API_VERSION, Config
from pyengine.config.addresses import with_scheme
from pyengine.contracts.base import Kind
from pyengine.contracts.security import SecurityPlugin
from pyengine.contracts.storage import StorageDriver
from pyengine.drivers import Drivers, Places
from pyengine.engine.containers.registry import Registry
from pyengine.engine.containers.runtimes import Runtimes
from pyengine.engine.model import Status
from pyengine.engine.networks.service import Networks
from pyengine.engine.units import parse_size
from pyengine.errors import EngineError
from pyengine.hooks.manager import Hooks
from pyengine.oci.cdi import Devices
from pyengine.oci.facts import HostFacts

if TYPE_CHECKING:
    from pyengine.engine.images.service import Images
    from pyengine.registry.client import Registries


class System:
    """What the engine says of itself and of its host."""

    def __init__(
        self,
        config: Config,
        places: Places,
        facts: HostFacts,
        registry: Registry,
        images: Images,
        networks: Networks,
        drivers: Drivers,
        hooks: Hooks,
        init_path: str,
        warnings: Callable[[], Sequence[str]],
        registries: Registries,
        runtimes: Runtimes,
        devices: Devices,
        *,
        remapped: bool = False,
    ) -> None:
        self._remapped = remapped
        self._config = config
        self._places = places
        self._facts = facts
        self._registry = registry
        self._images = images
        self._networks = networks
        self._drivers = drivers
        self._hooks = hooks
        self._init_path = init_path
        self._devices = devices
        self._warnings = warnings
        self._registries = registries
        self._runtimes = runtimes
        self._exposed = _exposed(config)
        self._os = _os_release()

    def version(self) -> dict[str, Any]:
        """The body of ``GET /version``."""
        kernel = os.uname().release
        details = {
            "ApiVersion": API_VERSION,
            "Arch": _architecture(),
            "BuildTime": "",
            "Experimental": "false",
            "GitCommit": "",
            "GoVersion": "",
            "KernelVersion": kernel,
            "MinAPIVersion": self._config.min_api_version,
            "Os": "linux",
            "PythonVersion": platform.python_version(),
        }
        return {
            "Platform": {"Name": f"pyengine {__version__}"},
            "Components": [
                {"Name": "Engine", "Version": __version__, "Details": details},
                *(
                    {"Name": item.package, "Version": item.version, "Details": {}}
                    for item in self._drivers.catalog.all()
                    if item.kind is Kind.RUNTIME
                ),
            ],
            "Version": __version__,
            "ApiVersion": API_VERSION,
            "MinAPIVersion": self._config.min_api_version,
            "GitCommit": "",
            "GoVersion": "",
            "Os": "linux",
            "Arch": _architecture(),
            "KernelVersion": kernel,
            "BuildTime": "",
        }

    async def info(self) -> dict[str, Any]:
        """The body of ``GET /info``."""
        facts, config = self._facts, self._config
        states = [record.state.status for record in self._registry.records()]
        storage = self._drivers.get(Kind.STORAGE)
        assert isinstance(storage, StorageDriver)
        warnings = [*self._exposed, *self._warnings(), *self._hooks.engine_health()]
        try:
            warnings += await self._networks.warnings()
        except EngineError as error:
            warnings.append(str(error))
        devices = self._devices.scan()
        for path, problems in devices.problems.items():
            warnings += [f"CDI: Error associated with spec file {path}: {one}" for one in problems]
        catalog = self._drivers.catalog
        return {
            "ID": self._places.engine_id,
            "Containers": len(states),
            "ContainersRunning": states.count(Status.RUNNING),
            "ContainersPaused": states.count(Status.PAUSED),
            "ContainersStopped": sum(s not in (Status.RUNNING, Status.PAUSED) for s in states),
            "Images": len(self._images.list({}, all=True)),
            "Driver": storage.name,
            "DriverStatus": [list(pair) for pair in storage.status()],
            "Plugins": {
                "Volume": catalog.names(Kind.VOLUME),
                "Network": catalog.names(Kind.NETWORK),
                "Authorization": None,
                "Log": catalog.names(Kind.LOGGING),
            },
            "MemoryLimit": facts.memory_limit,
            "SwapLimit": facts.swap_limit,
            "KernelMemoryTCP": facts.kernel_memory_tcp,
            "CpuCfsPeriod": facts.cpu_cfs,
            "CpuCfsQuota": facts.cpu_cfs,
            "CPUShares": facts.cpu_shares,
            "CPUSet": facts.cpuset,
            "PidsLimit": facts.pids_limit,
            "IPv4Forwarding": _enabled("/proc/sys/net/ipv4/ip_forward"),
            "BridgeNfIptables": _enabled("/proc/sys/net/bridge/bridge-nf-call-iptables"),
            "BridgeNfIp6tables": _enabled("/proc/sys/net/bridge/bridge-nf-call-ip6tables"),
            "Debug": config.debug,
            "NFd": len(os.listdir("/proc/self/fd")),
            "OomKillDisable": facts.oom_kill_disable,
            # What goes on beside each other here.
            "NGoroutines": _threads() + len(asyncio.all_tasks()),
            "SystemTime": timestamps.now(),
            "LoggingDriver": self._drivers.default(Kind.LOGGING),
            "CgroupDriver": "systemd" if config.systemd_cgroups() else "cgroupfs",
            "CgroupVersion": "2" if facts.cgroup_v2 else "1",
            "NEventsListener": 0,
            "KernelVersion": os.uname().release,
            "OperatingSystem": self._os.get("PRETTY_NAME", "Linux"),
            "OSVersion": self._os.get("VERSION_ID", ""),
            "OSType": "linux",
            "Architecture": platform.machine(),
            "IndexServerAddress": "https://index.docker.io/v1/",
            "NCPU": facts.cpu_count,
            "MemTotal": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "GenericResources": None,
            "DockerRootDir": str(self._places.data_root),
            **self._registries.info(),
            "Name": socket.gethostname(),
            "Labels": config.labels,
            "ExperimentalBuild": False,
            "ServerVersion": __version__,
            "Runtimes": self._runtimes.shown(),
            "DefaultRuntime": self._runtimes.default,
            "Swarm": {
                "NodeID": "",
                "NodeAddr": "",
                "LocalNodeState": "inactive",
                "ControlAvailable": False,
                "Error": "",
                "RemoteManagers": None,
            },
            "LiveRestoreEnabled": config.live_restore,
            "Isolation": "",
            "InitBinary": Path(self._init_path).name or "docker-init",
            "FirewallBackend": self._firewall(),
            "ContainerdCommit": {"ID": "", "Expected": ""},
            "RuncCommit": {"ID": "", "Expected": ""},
            "InitCommit": {"ID": "", "Expected": ""},
            "SecurityOptions": self._security(),
            "DefaultAddressPools": [
                {"Base": pool.base, "Size": pool.size} for pool in config.default_address_pools
            ]
            or None,
            "CDISpecDirs": self._devices.directories,
            "DiscoveredDevices": [
                {"Source": "cdi", "ID": name} for name in sorted(devices.devices)
            ],
            "ProductLicense": "",
            "Warnings": warnings or None,
        }

    def settings(self) -> dict[str, str]:
        """What a running engine can change, as the event ``reload`` tells it."""
        config, limits = self._config, self._registries.config.limits
        return {
            "name": socket.gethostname(),
            "debug": json.dumps(config.debug),
            "default-cgroupns-mode": config.default_cgroupns_mode,
            "default-ipc-mode": config.default_ipc_mode,
            "default-runtime": self._runtimes.default,
            "default-shm-size": str(parse_size(config.default_shm_size)),
            "features": json.dumps(config.features),
            "insecure-registries": json.dumps(config.insecure_registries),
            "labels": json.dumps(config.labels),
            "live-restore": json.dumps(config.live_restore),
            "max-concurrent-downloads": str(limits.downloads),
            "max-concurrent-uploads": str(limits.uploads),
            "max-download-attempts": str(limits.attempts),
            "registry-mirrors": json.dumps(config.registry_mirrors),
            "runtimes": " ".join(
                f"{name}:{entry.path or entry.runtime_type}"
                for name, entry in config.runtimes.items()
            ),
            "shutdown-timeout": str(config.shutdown_timeout),
        }

    def _firewall(self) -> dict[str, Any] | None:
        """None where no firewall driver is installed."""
        if not self._drivers.has(Kind.FIREWALL):
            return None
        return {"Driver": self._drivers.default(Kind.FIREWALL)}

    def _security(self) -> list[str]:
        options: list[str] = []
        for plugin in self._drivers.loaded(Kind.SECURITY):
            if isinstance(plugin, SecurityPlugin):
                options += plugin.security_options()
        if self._remapped:
            options.append("name=userns")
        if self._facts.cgroup_namespaces and self._facts.cgroup_v2:
            options.append("name=cgroupns")
        return options


def _exposed(config: Config) -> list[str]:
    """Warnings for addresses at which anybody is served."""
    if config.tlsverify:
        return []
    scheme, lacks = ("https", "TLS client verification") if config.tls else ("http", "encryption")
    return [
        f"WARNING: API is accessible on {scheme}://{address.removeprefix('tcp://')} without "
        f"{lacks}. Access to the remote API is equivalent to root access on the host."
        for address in map(with_scheme, config.hosts)
        if address.startswith("tcp://")
    ]


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def _enabled(path: str) -> bool:
    try:
        return Path(path).read_text().strip() == "1"
    except OSError:
        return False


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _os_release() -> dict[str, str]:
    found: dict[str, str] = {}
    try:
        for line in Path("/etc/os-release").read_text().splitlines():
            key, _, value = line.partition("=")
            found[key] = value.strip('"')
    except OSError:
        found["PRETTY_NAME"] = sys.platform
    return found
