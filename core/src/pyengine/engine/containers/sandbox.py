"""A container's place in the network: leases before it starts, links and rules while it runs.

``NetworkMode`` decides: a network by name or id, ``host`` and ``none`` (networks too), or
``container:ID`` (another container's namespace; nothing to do here).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pyengine.engine.containers.bundle import Bundles
from pyengine.engine.containers.resolv import embedded, has_ipv6
from pyengine.engine.model import Container, EndpointSettings, EndpointWish, HostConfig
from pyengine.engine.networks import endpointcheck, linknames, linksysctls
from pyengine.engine.networks.dns.names import Names
from pyengine.engine.networks.ports import PortAllocator, unpublished
from pyengine.engine.networks.records import keep_wishes
from pyengine.engine.networks.service import Networks
from pyengine.engine.threads import on_thread
from pyengine.engine.timings import NETWORK_ACTIONS, timed
from pyengine.errors import EngineError, Forbidden, InvalidParameter, NotFound
from pyengine.faults import failpoint
from pyengine.linux import syscalls
from pyengine.linux.interfaces import bring_up_loopback, set_gateways

if TYPE_CHECKING:
    from pyengine.engine.networks.dns.servers import NameServers

#: ioctl_nsfs(2): what kind of namespace a descriptor is of.
NS_GET_NSTYPE = 0xB703


class Sandboxes:
    """Connects containers to their networks and disconnects them."""

    def __init__(
        self,
        networks: Networks,
        bundles: Bundles,
        allocator: PortAllocator,
        published: Callable[[], Awaitable[None]],
        names: Names,
        name_servers: NameServers,
    ) -> None:
        self._networks = networks
        self._bundles = bundles
        self._ports = allocator
        self._published = published
        self._names = names
        self._name_servers = name_servers

    def plan(
        self, container: Container, asked: dict[str, EndpointSettings | None]
    ) -> dict[str, EndpointSettings]:
        """At create: which networks the container will be on, by name."""
        mode = container.host_config.network_mode
        if mode.startswith("container:") or container.config.network_disabled:
            return {}
        named = {
            self._name(name): keep_wishes(settings or EndpointSettings())
            for name, settings in asked.items()
        }
        first = self._name(mode)
        endpoints = {}
        # Where networks are listed the mode says which one is asked for first, and adds none.
        if first in named or not named:
            endpoints[first] = named.pop(first, EndpointSettings())
        if first in ("host", "none") and named:
            raise InvalidParameter(
                f"container cannot be connected to network {next(iter(named))}: "
                f"it is on the {first} network"
            )
        endpoints |= named
        for name, settings in endpoints.items():
            self._check(name, settings, f"invalid config for network {name}: ")
        main = endpoints.get(first)
        if main is not None and container.config.mac_address and not main.mac_address:
            main.mac_address = container.config.mac_address
        container.wishes = {
            name: EndpointWish(mac=settings.mac_address)
            for name, settings in endpoints.items()
            if settings.mac_address
        }
        return endpoints

    def warnings(self, host: HostConfig) -> Sequence[str]:
        """What a user who publishes ports has to know about this host."""
        published = host.port_bindings or host.publish_all_ports
        return self._networks.firewall.obstacles if published else []

    @timed(NETWORK_ACTIONS, "allocate")
    async def lease(self, container: Container) -> None:
        """Before a start: addresses and host ports, into the record that the caller commits."""
        try:
            attached = self._networks.attached(container)
            for name, settings in attached.items():
                network = self._networks.get(name)
                await self._networks.lease(
                    network, settings, _wish(container, name), has_ipv6(container)
                )
            host = container.host_config
            if any(map(self._networks.publishes, attached)):
                container.ports = unpublished(
                    container.config.exposed_ports or (), host.port_bindings or ()
                )
            if host.port_bindings or host.publish_all_ports:
                await self._publish(container)
        except BaseException:
            await self.release(container)
            raise

    @timed(NETWORK_ACTIONS, "release")
    async def release(self, container: Container) -> None:
        """Give back what :meth:`lease` took."""
        self._ports.release(container.id)
        container.published = []
        container.ports = {}
        for name in container.networks:
            await self._release(container, name)

    async def join(self, container: Container, netns: int) -> None:
        """Connect the new namespace behind ``netns``; it stays findable under its name."""
        path = self._bundles.files(container).netns
        await asyncio.to_thread(_pin, netns, path)
        container.sandbox_key = str(path)
        main = self._main_network(container)
        gateways = self._gateways(container)
        attached = self._networks.attached(container)
        links = linknames.choose([self._named(n, settings) for n, settings in attached.items()])
        if not attached:
            await on_thread("network", bring_up_loopback, netns)
        serving: Awaitable[None] | None = None
        if embedded(container):
            serving = asyncio.ensure_future(self._name_servers.open(container, netns))
        try:
            for link, name in zip(links, attached, strict=True):
                await self._networks.join(container, name, link, gateways.get(name, ()), netns)
            for link, settings in zip(links, attached.values(), strict=True):
                if linksysctls.OPTION in (settings.driver_opts or {}):
                    await on_thread("sysctl", linksysctls.apply, settings, link, netns)
            container.published_on = main if container.published else ""
            if main:
                await self._networks.open(container, main, container.published)
            for name in attached:
                if name != main:
                    await self._networks.open(container, name, [])
            if container.published:
                await self._published()
        finally:
            # Whoever undoes a start that failed has to find it.
            if serving is not None:
                await serving
        self._names.changed()

    async def close(self, container: Container) -> None:
        """Undo the fast part of :meth:`join`: nothing reaches the container any more, and its host
        ports are free. Goes on after errors and raises them together at the end."""
        problems: list[str] = []
        self._name_servers.close(container.id)
        for name in container.networks:
            try:
                await self._networks.close(container, name)
            except (EngineError, OSError) as error:
                problems.append(f"{name}: {error}")
        self._ports.release(container.id)
        if container.published:
            container.published = []
            await self._published()
        container.ports = {}
        self._names.changed()
        _raise(problems)

    async def leave(self, container: Container) -> None:
        """Undo the rest of :meth:`join`, and give the addresses back. Taking a link down waits for
        the kernel (an RCU grace period, some 15 ms), so it is off everybody's path."""
        problems: list[str] = []
        path = self._bundles.files(container).netns
        netns = _open(path)
        try:
            for name in container.networks:
                try:
                    await self._networks.leave(container, name, netns)
                    await self._release(container, name)
                except (EngineError, OSError) as error:
                    problems.append(f"{name}: {error}")
        finally:
            if netns is not None:
                os.close(netns)
        await asyncio.to_thread(_unpin, path)
        container.sandbox_key = ""
        _raise(problems)

    @timed(NETWORK_ACTIONS, "connect")
    async def connect(
        self, container: Container, name: str, settings: EndpointSettings, netns: int | None
    ) -> None:
        """``docker network connect``; with ``netns`` the container runs and gets the link now, and
        without it what it is to get may be said anew."""
        network = self._networks.get(name)
        keep_wishes(settings)
        self._check(network.name, settings)
        if netns is not None and network.name in container.networks:
            raise Forbidden(
                f"endpoint with name {container.name} already exists in network {network.name}"
            )
        self._check_joinable(container, network.name)
        container.wishes[network.name] = EndpointWish(mac=settings.mac_address)
        if netns is not None:
            await self._networks.lease(
                network, settings, _wish(container, network.name), has_ipv6(container)
            )
        container.networks[network.name] = settings
        if netns is None:
            return
        joined = False
        try:
            taken = await on_thread("network", linknames.present, netns)
            (interface,) = linknames.choose([self._named(network.name, settings)], taken)
            gateways = self._gateways(container).get(network.name, ())
            await self._networks.join(container, network.name, interface, gateways, netns)
            joined = True
            await on_thread("sysctl", linksysctls.apply, settings, interface, netns)
            await self._networks.open(container, network.name, [])
            await self._move_ports(container)
        except BaseException:
            if joined:
                with contextlib.suppress(EngineError, OSError):
                    await self._networks.close(container, network.name)
                await self._networks.leave(container, network.name, netns)
            await self._networks.release(settings)
            container.networks.pop(network.name, None)
            container.wishes.pop(network.name, None)
            await self._reroute(container, netns)
            await self._move_ports(container)
            raise
        self._bundles.amend_hosts(container, come=settings)
        if embedded(container):
            await self._name_servers.open(container, netns)
            self._bundles.write_resolv(container)
        self._names.changed()

    async def disconnect(self, container: Container, name: str, netns: int | None) -> None:
        """``docker network disconnect``."""
        name = self._name(name)
        _check_private(container, name)
        if name not in container.networks:
            raise Forbidden(f"container {container.id} is not connected to network {name}")
        if netns is not None:
            self._bundles.amend_hosts(container, gone=container.networks[name])
            await self._networks.close(container, name)
            await self._networks.leave(container, name, netns)
            await self._networks.release(container.networks[name])
        container.networks.pop(name, None)
        container.wishes.pop(name, None)
        if netns is not None:
            await self._reroute(container, netns)
            await self._move_ports(container)
        self._names.changed()

    def open_netns(self, container: Container) -> int | None:
        """Descriptor of a running container's namespace; the caller closes it."""
        return _open(self._bundles.files(container).netns)

    async def restore(self, container: Container) -> None:
        """At start: a container that runs keeps the host ports it has, and can ask for names."""
        self._ports.restore(container.id, container.published)
        if embedded(container):
            netns = self.open_netns(container)
            if netns is not None:
                try:
                    await self._name_servers.open(container, netns)
                finally:
                    os.close(netns)

    def stray(self, known: Sequence[Container], exec_root: Path) -> list[str]:
        """At start: take away names of namespaces whose containers do not run."""
        wanted = {self._bundles.files(container).netns for container in known}
        removed = []
        for path in (exec_root / "netns").glob("*"):
            if path not in wanted:
                _unpin(path)
                removed.append(f"network namespace {path.name}")
        return removed

    # -- inside --------------------------------------------------------------------------------

    async def _release(self, container: Container, name: str) -> None:
        settings, wish = container.networks[name], _wish(container, name)
        wish.ipv4 = settings.ip_address or wish.ipv4
        wish.ipv6 = settings.global_ipv6_address or wish.ipv6
        await self._networks.release(settings)

    async def _publish(self, container: Container) -> None:
        main = self._main_network(container)
        settings = container.networks.get(main)
        if settings is None or not (settings.ip_address or settings.global_ipv6_address):
            return
        grant = await asyncio.to_thread(
            self._ports.allocate,
            container.id,
            container.name,
            settings.endpoint_id,
            settings.ip_address or settings.global_ipv6_address,
            container.host_config.port_bindings or {},
            container.config.exposed_ports or {},
            container.host_config.publish_all_ports,
            self._networks.host_binding(main),
        )
        for port in grant.published:
            if not _is_local(port.host_ip):
                raise EngineError(
                    "driver failed programming external connectivity on endpoint "
                    f"{container.name} ({settings.endpoint_id})",
                    f"failed to bind host port for {port.host_ip}:{port.host_port}: "
                    "cannot assign requested address",
                )
        container.published = grant.published
        container.ports |= grant.bindings

    def _ranked(self, container: Container) -> list[str]:
        """Its networks in the order in which they may give the default routes: by priority, those
        with more gateways first, then by name. An internal one has none."""

        def rank(name: str) -> tuple[bool, int, int, str]:
            settings = container.networks[name]
            gateways = bool(settings.gateway) + bool(settings.ipv6_gateway)
            internal = self._networks.get(name).internal
            return internal, -settings.gw_priority, -gateways, name

        return sorted(self._networks.attached(container), key=rank)

    def _main_network(self, container: Container) -> str:
        """The network on which its ports are published; "": nobody outside is to reach it."""
        first = next(iter(self._ranked(container)), "")
        return "" if first and self._networks.get(first).internal else first

    def _gateways(self, container: Container) -> dict[str, list[str]]:
        """Through which networks what goes elsewhere is sent: name -> gateways. One network serves
        both families if one has gateways of both, as with Docker."""
        found: dict[str, list[str]] = {}
        families: set[int] = set()
        for name in self._ranked(container):
            settings = container.networks[name]
            both = {4: settings.gateway, 6: settings.ipv6_gateway}
            if all(both.values()):
                return {name: [*both.values()]}
            new = {version for version, gateway in both.items() if gateway} - families
            if new:
                found[name] = [both[version] for version in sorted(new)]
                families |= new
        return found

    async def _move_ports(self, container: Container) -> None:
        """Published ports lead to the main network, whichever that is by now."""
        before, main = container.published_on, self._main_network(container)
        host = container.host_config
        if main and not container.published and (host.port_bindings or host.publish_all_ports):
            await self._publish(container)  # so far it was on internal networks alone
        if not container.published or main == before:
            return
        if before in container.networks:
            await self._networks.open(container, before, [])
        container.published_on = main
        if main:
            await self._networks.open(container, main, container.published)
        await self._published()

    async def _reroute(self, container: Container, netns: int) -> None:
        """The default routes, after a network has gone that may have given them."""
        gateways = [one for several in self._gateways(container).values() for one in several]
        if not gateways:
            return
        try:
            await on_thread("network", set_gateways, netns, gateways)
        except OSError as error:
            raise EngineError(
                f"cannot set the default routes of container {container.name}",
                f"{', '.join(gateways)}: {(error.strerror or str(error)).lower()}",
            ) from error

    def _name(self, ref: str) -> str:
        """A network's own name; one that does not exist is missed at the start, as Docker does (at
        create its client would take "not found" for a missing image)."""
        try:
            return self._networks.get("bridge" if ref in ("", "default") else ref).name
        except NotFound:
            return ref

    def _named(self, name: str, settings: EndpointSettings) -> tuple[EndpointSettings, str]:
        """For :func:`linknames.choose`."""
        return settings, self._networks.get(name).options.get(linknames.PREFIX_OPTION, "")

    def _check_joinable(self, container: Container, name: str) -> None:
        """Whether the container can be put on network ``name`` besides those it is on."""
        _check_private(container)
        if name == "host":
            raise InvalidParameter(
                "cannot connect container to host network - container must be created in host "
                "network mode"
            )
        if "none" in (name, *container.networks) and container.networks:
            raise InvalidParameter(
                "container cannot be connected to multiple networks with one of the networks in "
                "private (none) mode"
            )

    def _check(self, name: str, settings: EndpointSettings, prefix: str = "") -> None:
        linksysctls.parse(settings)
        linknames.parse(settings)
        network = None
        with contextlib.suppress(NotFound):
            network = self._networks.get(name)
        try:
            endpointcheck.normalise_mac(settings)
            if network is not None and settings.ipam_config is not None:
                endpointcheck.check_addresses(network, settings.ipam_config)
        except InvalidParameter as error:
            raise InvalidParameter(f"{prefix}{error.brief}") from None
        if network is None:
            return
        if settings.aliases and network.predefined:
            raise InvalidParameter(
                "network-scoped alias is supported only for containers in user defined networks"
            )


def _wish(container: Container, name: str) -> EndpointWish:
    return container.wishes.setdefault(name, EndpointWish())


def _check_private(container: Container, leaving: str = "") -> None:
    """Whether its network namespace is its own. ``leaving``: a network it shall leave."""
    mode = container.host_config.network_mode
    if mode == leaving == "host":
        raise InvalidParameter(
            "cannot disconnect container from host network - container was created in host "
            "network mode"
        )
    if mode == "host" or mode.startswith("container:"):
        raise InvalidParameter(
            "container sharing network namespace with another container or host cannot be "
            "connected to any other network"
        )


def _raise(problems: Sequence[str]) -> None:
    if problems:
        raise EngineError("a container did not leave its networks whole", "; ".join(problems))


def _pin(netns: int, path: Path) -> None:
    """Bind the namespace to a name, so that it can be entered and outlives its processes."""
    failpoint("sandbox.pin")
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    path.touch(mode=0o444)
    syscalls.mount(f"/proc/self/fd/{netns}", path, None, syscalls.MS_BIND)


def _unpin(path: Path) -> None:
    with contextlib.suppress(OSError):
        while True:
            syscalls.umount(path, syscalls.MNT_DETACH)
    path.unlink(missing_ok=True)


def _open(path: Path) -> int | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if fcntl.ioctl(fd, NS_GET_NSTYPE) == syscalls.CLONE_NEWNET:
            return fd
    except OSError:
        pass  # the name is left from before a reboot, or the pin was never made
    os.close(fd)
    return None


def _is_local(address: str) -> bool:
    """Whether the host has ``address``; a port published on another one would never answer."""
    if address in ("", "0.0.0.0", "::"):
        return True
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            return error.errno != errno.EADDRNOTAVAIL
    return True
