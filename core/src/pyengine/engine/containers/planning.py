"""From the request to make a container to its record: what is asked for is checked, and what nobody
said is filled in."""

from __future__ import annotations

import os
from collections.abc import MutableSequence, Sequence

import msgspec

from pyengine import timestamps
from pyengine.contracts.base import Kind
from pyengine.contracts.logging import record_attributes
from pyengine.contracts.volume import VolumeRecord
from pyengine.drivers import Drivers
from pyengine.engine import names, remap
from pyengine.engine.containers import health, links
from pyengine.engine.containers.bundle import Bundles, check_tmpfs
from pyengine.engine.containers.lifecycle import signal_number
from pyengine.engine.containers.logchoice import LogChoices
from pyengine.engine.containers.registry import Registry
from pyengine.engine.containers.resolv import check_extra_hosts
from pyengine.engine.containers.runtimes import Runtimes
from pyengine.engine.containers.sandbox import Sandboxes
from pyengine.engine.images.records import Image
from pyengine.engine.model import Container, ContainerConfig, HostConfig, LogConfig, MountPoint
from pyengine.engine.networks.ports import host_ports, parse_port
from pyengine.engine.volumes import Volumes
from pyengine.errors import InvalidParameter, NotFound
from pyengine.hooks.manager import Hooks
from pyengine.oci import devicerequests, security
from pyengine.oci.cdi import Devices
from pyengine.oci.facts import HostFacts
from pyengine.oci.spec import EngineOptions
from pyengine.oci.validate import adapt, check_resources, check_settings
from pyengine.state.database import Change as RecordChange


class Defaults(msgspec.Struct):
    """What the daemon's configuration says where a container says nothing; it may say something
    else later."""

    ipc_mode: str = "private"
    cgroupns_mode: str = ""
    devices: Devices = msgspec.field(default_factory=Devices)


class Planner:
    """Makes nothing and keeps nothing. Errors are ``InvalidParameter`` in Docker's words."""

    def __init__(
        self,
        registry: Registry,
        bundles: Bundles,
        sandboxes: Sandboxes,
        volumes: Volumes,
        drivers: Drivers,
        hooks: Hooks,
        facts: HostFacts,
        options: EngineOptions,
        defaults: Defaults,
        runtimes: Runtimes,
        logs: LogChoices,
    ) -> None:
        self._registry = registry
        self._bundles = bundles
        self._sandboxes = sandboxes
        self._volumes = volumes
        self._drivers = drivers
        self._hooks = hooks
        self._facts = facts
        self._options = options
        self._defaults = defaults
        self._runtimes = runtimes
        self._logs = logs

    def check(self, config: ContainerConfig, host: HostConfig) -> Sequence[str]:
        """Warnings. Fills in of ``host`` what Docker fills in."""
        if not (config.entrypoint or config.cmd):
            raise InvalidParameter("no command specified")
        for option in host.security_opt or []:
            if not security.claims(option) and not self._hooks.security_parse_option(option):
                raise InvalidParameter(
                    f'invalid --security-opt 2: "{option}"',
                    help="no installed security plugin knows it: see pyengine drivers security",
                )
        self._hooks.security_validate(host)
        check_extra_hosts(host.extra_hosts or [])
        check_settings(config, host)
        remap.check(host, self._bundles.id_maps)
        self._bundles.check_cgroup_parent(host.cgroup_parent)
        devicerequests.check(host.device_requests or (), self._defaults.devices)
        if config.stop_signal:
            signal_number(config.stop_signal)
        for key, bindings in (host.port_bindings or {}).items():
            parse_port(key)
            for binding in bindings or ():
                host_ports(binding.host_port)
        adapt(
            host,
            self._facts,
            self._options,
            ipc_mode=self._defaults.ipc_mode,
            cgroupns_mode=self._defaults.cgroupns_mode,
        )
        warnings = check_resources(host, self._facts)
        if host.network_mode == "host" and host.port_bindings:
            warnings.append("Published ports are discarded when using host network mode")
        return [*warnings, *self._sandboxes.warnings(host)]

    def record(
        self, name: str, config: ContainerConfig, host: HostConfig, image: Image
    ) -> Container:
        """Without its networks and mounts."""
        id = names.new_id()
        host.network_mode = host.network_mode or "bridge"
        if host.network_mode == "default":
            host.network_mode = "bridge"
        for mode in ("network_mode", "pid_mode", "ipc_mode"):
            kind, _, ref = getattr(host, mode).partition(":")
            if kind == "container":
                # By its id, since a name can go to another container.
                try:
                    setattr(host, mode, f"container:{self._registry.record(ref).id}")
                except NotFound as error:
                    if mode != "network_mode":  # which is looked for when the container starts
                        raise InvalidParameter(error.brief) from None
        host.links = links.bind(host, self._registry.record)
        host.restart_policy.name = host.restart_policy.name or "no"
        host.runtime = host.runtime or self._runtimes.default
        logs = self._logs.plan(host.log_config.type, host.log_config.config or {})
        host.log_config = LogConfig(
            type=host.log_config.type or self._logs.default,
            config=self._logs.options(host.log_config.type, host.log_config.config or {}),
        )
        storage = self._known(Kind.STORAGE, (host.storage_opt or {}).get("driver", ""))
        if not config.hostname:
            config.hostname = os.uname().nodename if host.network_mode == "host" else id[:12]
        command = [*(config.entrypoint or []), *(config.cmd or [])]
        record = Container(
            id=id,
            name=name or names.random_name(self._registry.named),
            created=timestamps.now(),
            path=command[0],
            args=command[1:],
            config=config,
            host_config=host,
            image=image.id,
            image_name=config.image,
            base=image.chain[-1] if image.chain else "",
            layer=names.new_id(),
            drivers={
                "storage": storage,
                "runtime": self._runtimes.driver(host.runtime),
                "logging": logs.writer,
            },
            log_options=logs.options,
            log_sinks=logs.sinks,
        )
        check_tmpfs(record)
        health.on_unhealthy(record)
        record_attributes(record, record.log_options)
        for sink in record.log_sinks:
            record_attributes(record, sink.options)
        return record

    def _known(self, kind: Kind, asked: str) -> str:
        name = asked or self._drivers.default(kind)
        return self._drivers.get(kind, name).name

    def volumes(
        self, record: Container, made: MutableSequence[VolumeRecord]
    ) -> Sequence[RecordChange]:
        """What to commit for the container's new volumes, which are added to ``made``."""
        changes: list[RecordChange] = []
        for point in record.mounts:
            if point.type != "volume":
                continue
            options = point.spec.volume_options if point.spec else None
            driver = options.driver_config if options else None
            volume, puts = self._volumes.prepare(
                point.name,
                volume_driver(point),
                driver.options if driver else None,
                options.labels if options else None,
            )
            point.name, point.driver = volume.name, volume.driver
            if puts:
                changes += puts
                made.append(volume)
            point.source = self._volumes.mountpoint(volume.name)
        return changes


def volume_driver(point: MountPoint) -> str:
    """The volume driver that a mount asks for; empty: the engine's."""
    options = point.spec.volume_options if point.spec else None
    driver = options.driver_config if options else None
    return point.driver or (driver.name if driver else "")
