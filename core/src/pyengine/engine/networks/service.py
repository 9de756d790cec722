"""Networks: records, leases, and the endpoints of running containers.

A network driver makes links, an ipam driver chooses addresses, the firewall driver translates and
isolates; this service tells each what to do, in that order, and undoes it in the reverse one.
Leases are kept in the records of networks and containers and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from pyengine import timestamps
from pyengine.contracts.base import Kind
from pyengine.contracts.firewall import (
    Change,
    FirewallEndpoint,
    FirewallNetwork,
    PublishedPort,
)
from pyengine.contracts.ipam import IpamDriver, Pool, PoolRequest
from pyengine.contracts.network import (
    BridgeInfo,
    EndpointRecord,
    NetworkCapability,
    NetworkDriver,
)
from pyengine.drivers import Drivers
from pyengine.engine.calls import DriverCalls
from pyengine.engine.events import Events
from pyengine.engine.model import PREDEFINED, Container, EndpointSettings, EndpointWish
from pyengine.engine.names import new_id
from pyengine.engine.networks import ipamcheck
from pyengine.engine.networks.endpointcheck import link_local
from pyengine.engine.networks.filters import Filters, select
from pyengine.engine.networks.firewall import Firewall
from pyengine.engine.networks.records import (
    GATEWAY_V4,
    GATEWAY_V6,
    EndpointView,
    IpamConfig,
    Network,
    NetworkRequest,
    choose_families,
    clear,
)
from pyengine.engine.prune import PruneFilters, Turn
from pyengine.errors import (
    Conflict,
    EngineError,
    Forbidden,
    InvalidParameter,
    NotFound,
)
from pyengine.hooks.manager import Hooks
from pyengine.linux.routes import host_routes
from pyengine.state.database import Database, Delete, Put

log = logging.getLogger(__name__)

TABLE = "networks"

Lines = list[str]


class Networks:
    """The networks service. The containers service gives it ``containers``, all of them, and
    ``left``, which waits until those that have ended are off their networks."""

    def __init__(
        self,
        database: Database,
        drivers: Drivers,
        calls: Callable[[Kind, str], DriverCalls],
        events: Events,
        hooks: Hooks,
        default_bridge: NetworkRequest | None,
        asked: str,
        allowed: Sequence[str] | None,
        driver_options: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """``default_bridge``: None for none at all; ``asked`` differs where it would be another.
        ``driver_options``: of every network that a user makes, by its driver, where the user says
        nothing."""
        self._database = database
        self._drivers = drivers
        self._calls = calls
        self._events = events
        self._hooks = hooks
        self._default_bridge = default_bridge
        self._asked = asked
        self._allowed = allowed
        self._driver_options = driver_options or {}
        self._records = database.load(TABLE, Network)
        self._lock = asyncio.Lock()
        self._pruning = Turn()
        self._heal: asyncio.Lock = asyncio.Lock()
        self.containers: Callable[[], Sequence[Container]] = lambda: []
        self.left: Callable[[Iterable[str]], Awaitable[None]] = _nobody_leaves
        self.firewall = Firewall(drivers, calls)

    def attached(self, container: Container) -> dict[str, EndpointSettings]:
        """The networks that a container gets when it starts: without a default bridge, those that
        would be on it get none, as with Docker."""
        absent = self._default_bridge is None and not any(
            network.name == "bridge" for network in self._records.values()
        )
        return {
            name: settings
            for name, settings in container.networks.items()
            if not (absent and name == "bridge")
        }

    # -- look-ups: no driver is asked ----------------------------------------------------------

    def list(self, filters: Filters | None = None) -> Sequence[Network]:
        """Networks, oldest first. ``InvalidParameter`` for an unknown filter."""
        return select(self._records.values(), filters or {}, self.endpoints)

    def get(self, ref: str) -> Network:
        """By name, id, or unambiguous beginning of an id; ``NotFound`` in Docker's words."""
        by_name = [network for network in self._records.values() if network.name == ref]
        if ref in self._records:
            return self._records[ref]
        if by_name:
            return by_name[0]
        matches = [n for id, n in self._records.items() if ref and id.startswith(ref)]
        if len(matches) > 1:
            raise InvalidParameter(
                f"network {ref} is ambiguous ({len(matches)} matches found based on ID prefix)"
            )
        if not matches:
            raise NotFound(f"network {ref} not found")
        return matches[0]

    def endpoints(self, network_id: str) -> Mapping[str, EndpointView]:
        """Containers that have an endpoint now, by container id."""
        views = {}
        for container in self.containers():
            for settings in container.networks.values():
                if settings.network_id == network_id and settings.endpoint_id:
                    views[container.id] = EndpointView(
                        name=container.name,
                        endpoint_id=settings.endpoint_id,
                        mac=settings.mac_address,
                        ipv4=_cidr(settings.ip_address, settings.ip_prefix_len),
                        ipv6=_cidr(settings.global_ipv6_address, settings.global_ipv6_prefix_len),
                    )
        return views

    def is_host(self, network: Network) -> bool:
        """True if containers of this network stay in the host's namespace."""
        capabilities = self._driver(network.driver).capabilities()
        return NetworkCapability.HOST_NAMESPACE in capabilities

    # -- networks ------------------------------------------------------------------------------

    async def create(self, request: NetworkRequest) -> tuple[Network, Lines]:
        """Make a network: (it, warnings). ``Conflict``: name taken, or a subnet that overlaps."""
        async with self._lock:
            if not request.name.strip():
                raise InvalidParameter(f"invalid name: {request.name}")
            if request.name in (*PREDEFINED, "default"):
                raise Forbidden(f"operation is not permitted on predefined {request.name} network")
            if any(n.name == request.name for n in self._records.values()):
                raise Conflict(f"network with name {request.name} already exists")
            ipamcheck.check(request.ipam, ipv6=bool(request.ipv6))
            if self._allowed is not None and request.driver not in ("", *self._allowed):
                raise Forbidden(
                    f"network driver {request.driver!r} is not allowed here",
                    f"allowed: {', '.join(self._allowed)}",
                    "see drivers.network.allow in daemon.json",
                )
            network = await self._make(request, predefined=False)
        self._events.emit("network", "create", network.id, _attributes(network))
        return network, []

    async def remove(self, ref: str) -> None:
        """``Forbidden`` for a predefined network, and while endpoints are on it."""
        await self.left(self.endpoints(self.get(ref).id))
        async with self._lock:
            network = self.get(ref)
            if network.predefined:
                raise Forbidden(f"{network.name} is a pre-defined network and cannot be removed")
            active = self.endpoints(network.id)
            if active:
                names = ", ".join(f'name:"{v.name}" id:"{k[:12]}"' for k, v in active.items())
                raise Forbidden(
                    f"error while removing network: network {network.name} "
                    f"has active endpoints ({names})"
                )
            await self._database.commit(Delete(TABLE, network.id))
            self._records.pop(network.id, None)
            await self._unmake(network)
        self._events.emit("network", "destroy", network.id, _attributes(network))

    async def prune(self, filters: Filters | None = None) -> Sequence[str]:
        """Remove every user-defined network without a container; their names."""
        wanted = PruneFilters(filters or {})
        used = {s.network_id for c in self.containers() for s in c.networks.values()}
        used |= {c.host_config.network_mode for c in self.containers()}
        removed = []
        with self._pruning.taken():
            for network in self.list():
                if network.predefined or network.id in used or network.name in used:
                    continue
                if not wanted.match(network.created, network.labels):
                    continue
                try:
                    await self.remove(network.id)
                    removed.append(network.name)
                except EngineError as error:
                    log.warning("network %s stays: %s", network.name, error)
        self._events.emit("network", "prune", "", {"reclaimed": "0"})
        return removed

    def internal_only(self, container: Container) -> bool:
        """Whether all its networks are internal ones."""
        return bool(container.networks) and all(
            self._records[s.network_id].internal
            for s in container.networks.values()
            if s.network_id in self._records
        )

    # -- endpoints -----------------------------------------------------------------------------

    async def lease(
        self, network: Network, settings: EndpointSettings, wish: EndpointWish, ipv6: bool
    ) -> None:
        """Fill in ``settings`` with an endpoint id and addresses; the caller commits them.
        ``ipv6``: whether the container takes any of IPv6."""
        settings.network_id = network.id
        settings.endpoint_id = new_id()
        settings.mac_address = wish.mac
        driver = self._driver(network.driver)
        if NetworkCapability.ADDRESSES not in driver.capabilities():
            return
        ipam, calls = self._ipam(network)
        wanted = settings.ipam_config

        async def take(pool: Pool, fixed: str, last: str) -> str:
            if last and not fixed:
                with contextlib.suppress(Conflict, InvalidParameter):
                    return await calls(ipam.request_address, pool.id, last, settings.endpoint_id)
            return await calls(ipam.request_address, pool.id, fixed, settings.endpoint_id)

        try:
            for pool in network.pools:
                net = ipaddress.ip_network(pool.subnet)
                if net.version == 4:
                    fixed = wanted.ipv4_address if wanted else ""
                    settings.ip_address = await take(pool, fixed, wish.ipv4)
                    settings.ip_prefix_len = net.prefixlen
                    gateway = pool.auxiliary.get(GATEWAY_V4, pool.gateway)
                    settings.gateway = "" if network.internal else gateway
                elif ipv6:
                    fixed = wanted.ipv6_address if wanted else ""
                    settings.global_ipv6_address = await take(pool, fixed, wish.ipv6)
                    settings.global_ipv6_prefix_len = net.prefixlen
                    gateway = pool.auxiliary.get(GATEWAY_V6, pool.gateway)
                    settings.ipv6_gateway = "" if network.internal else gateway
        except EngineError:
            await self.release(settings)
            raise

    async def release(self, settings: EndpointSettings) -> None:
        """Give the addresses back and clear what :meth:`lease` and :meth:`join` filled in."""
        network = self._records.get(settings.network_id)
        if network is not None and network.pools:
            ipam, calls = self._ipam(network)
            for pool in network.pools:
                v4 = ipaddress.ip_network(pool.subnet).version == 4
                address = settings.ip_address if v4 else settings.global_ipv6_address
                if address:
                    await calls(ipam.release_address, pool.id, address)
        clear(settings)

    async def join(
        self,
        container: Container,
        name: str,
        interface: str,
        gateways: Sequence[str],
        netns: int,
    ) -> None:
        """Connect the namespace behind ``netns`` to network ``name`` of the container's record.
        ``gateways``: those of the network's through which the container sends what goes elsewhere.

        Links, addresses, routes, then the firewall. After an error nothing of it is left.
        """
        settings = container.networks[name]
        network = self._records[settings.network_id]
        driver, calls = self._network(network)
        endpoint = self.endpoint(container, settings, interface, gateways)
        joined = await calls(driver.join, network.record(), endpoint, netns)
        if joined.mac:
            settings.mac_address = joined.mac
        if not network.predefined:
            own = [container.name, *(settings.aliases or ()), container.id[:12]]
            own.append(container.config.hostname)
            settings.dns_names = list(dict.fromkeys(filter(None, own)))
        try:
            await self._hook_joined(network, endpoint)
        except EngineError:
            await calls(driver.leave, network.record(), endpoint, netns)
            raise
        attributes = {**_attributes(network), "container": container.id}
        self._events.emit("network", "connect", network.id, attributes)

    async def open(self, container: Container, name: str, ports: Sequence[PublishedPort]) -> None:
        """Tell the firewall about an endpoint, with what is published to it."""
        settings = container.networks[name]
        network = self._records[settings.network_id]
        rules = self.firewall_endpoint(network, settings, ports)
        if rules is not None:
            await self.firewall.apply(Change(endpoints=[rules]))
            if ports:
                endpoint = self.endpoint(container, settings)
                self._hooks.network_ports_published(endpoint, list(ports))

    async def close(self, container: Container, name: str) -> None:
        """Undo :meth:`open`: for everybody else the container is off the network then."""
        settings = container.networks[name]
        network = self._records.get(settings.network_id)
        if network is None or not settings.endpoint_id:
            return
        attributes = {**_attributes(network), "container": container.id}
        self._events.emit("network", "disconnect", network.id, attributes)
        if self._view(network) is not None:
            await self.firewall.apply(Change(remove_endpoints=[settings.endpoint_id]))

    async def leave(self, container: Container, name: str, netns: int | None) -> None:
        """Undo :meth:`join`."""
        settings = container.networks[name]
        network = self._records.get(settings.network_id)
        if network is None or not settings.endpoint_id:
            return
        driver, calls = self._network(network)
        endpoint = self.endpoint(container, settings)
        await calls(driver.leave, network.record(), endpoint, netns)
        self._hooks.network_endpoint_left(network.record(), endpoint)

    def endpoint(
        self,
        container: Container,
        settings: EndpointSettings,
        interface: str = "",
        gateways: Sequence[str] = (),
    ) -> EndpointRecord:
        """The part of ``settings`` that a network driver is told."""
        addresses = [
            _cidr(settings.ip_address, settings.ip_prefix_len),
            _cidr(settings.global_ipv6_address, settings.global_ipv6_prefix_len),
        ]
        return EndpointRecord(
            id=settings.endpoint_id,
            network_id=settings.network_id,
            sandbox_id=container.sandbox_id or container.id,
            interface=interface,
            addresses=[*filter(None, addresses), *link_local(settings)],
            gateways=list(gateways),
            mac=settings.mac_address,
            options=settings.driver_opts or {},
        )

    def publishes(self, name: str) -> bool:
        """Whether ports of containers on that network may be published."""
        return self._view(self.get(name)) is not None

    def host_binding(self, name: str) -> str:
        """Where ports of containers on that network are published if they do not say; "": on all
        addresses."""
        view = self._view(self.get(name))
        return view.host_binding if view and view.host_binding != "0.0.0.0" else ""

    def firewall_endpoint(
        self, network: Network, settings: EndpointSettings, ports: Sequence[PublishedPort]
    ) -> FirewallEndpoint | None:
        """What the firewall is told of an endpoint; None where it has no business."""
        view = self._view(network)
        if view is None:
            return None
        addresses = [a for a in (settings.ip_address, settings.global_ipv6_address) if a]
        return FirewallEndpoint(
            settings.endpoint_id, network.id, view.bridge, addresses, list(ports)
        )

    # -- start and healing ---------------------------------------------------------------------

    async def restore(
        self, endpoints: Sequence[tuple[Container, Sequence[PublishedPort]]]
    ) -> Lines:
        """At start: make the predefined networks if they are new, and the kernel agree with the
        records. ``endpoints``: the containers that run. What was done, a sentence each."""
        await self._restore_leases()
        for name in PREDEFINED:
            if name in self._drivers.catalog.names(Kind.NETWORK):
                await self._predefine(name, [container for container, _ in endpoints])
        done: list[str] = []
        for driver_name in {network.driver for network in self._records.values()}:
            try:
                driver = self._driver(driver_name)
                networks = {
                    n.id: n.record() for n in self._records.values() if n.driver == driver_name
                }
                records = [
                    self.endpoint(container, settings)
                    for container, _ in endpoints
                    for settings in container.networks.values()
                    if settings.endpoint_id and settings.network_id in networks
                ]
                result = await self._calls(Kind.NETWORK, driver_name)(
                    driver.reconcile, networks, records
                )
                done += result.removed + result.restored + result.failed
            except EngineError as error:
                log.error("network driver %s: %s", driver_name, error)
        done += await self._restore_firewall(endpoints)
        await self.warnings()
        return done

    async def heal(self, endpoints: Sequence[tuple[Container, Sequence[PublishedPort]]]) -> bool:
        """Make our rules again if somebody flushed them. True if that was so."""
        async with self._heal:
            if await self.firewall.intact():
                return False
            log.warning("the firewall's rules were removed by somebody else: making them again")
            await self._restore_firewall(endpoints)
            await self.warnings()
            return True

    async def warnings(self) -> Sequence[str]:
        """What on this host gets into the way of published ports; looks anew."""
        return await self.firewall.look()

    async def shutdown(self) -> None:
        """The engine ends and no container runs: leave nothing in the kernel."""
        for network in self._records.values():
            driver, calls = self._network(network)
            try:
                await calls(driver.delete_network, network.record())
            except (EngineError, OSError) as error:
                log.warning("network %s: %s", network.name, error)
        await self.firewall.remove_all()

    # -- inside --------------------------------------------------------------------------------

    async def _make(
        self, request: NetworkRequest, predefined: bool, asked: str = "", id: str = ""
    ) -> Network:
        await self._drivers.use(Kind.NETWORK, request.driver)
        name = request.driver or self._default_driver()
        driver = self._driver(name)
        if NetworkCapability.MULTIPLE not in driver.capabilities() and not predefined:
            raise Forbidden(f'only one instance of "{name}" network is allowed')
        defaults = {} if predefined else self._driver_options.get(name, {})
        ipv4, ipv6, options = choose_families(request, defaults)
        network = Network(
            id=id or new_id(),
            name=request.name,
            driver=name,
            created=timestamps.now(),
            ipv4=ipv4,
            ipv6=ipv6,
            internal=request.internal,
            attachable=request.attachable,
            options=options,
            labels=request.labels,
            predefined=predefined,
            asked=asked,
        )
        if NetworkCapability.ADDRESSES in driver.capabilities():
            network.ipam_driver = request.ipam_driver or self._drivers.default(Kind.IPAM)
            if network.ipam_driver == "default":
                network.ipam_driver = self._drivers.default(Kind.IPAM)
            network.ipam_options = request.ipam_options
            await self._request_pools(network, request)
        calls = self._calls(Kind.NETWORK, name)
        try:
            await calls(driver.validate, network.record())
            await self._database.commit(Put(TABLE, network.id, network))
        except EngineError:
            await self._release_pools(network)
            raise
        self._records[network.id] = network
        try:
            await calls(driver.create_network, network.record())
            rules = self._firewall_network(network)
            if rules is not None:
                await self.firewall.apply(Change(networks=[rules]))
        except (EngineError, OSError):
            self._records.pop(network.id, None)
            await self._database.commit(Delete(TABLE, network.id))
            await self._unmake(network)
            raise
        return network

    async def _unmake(self, network: Network, rules: bool = True) -> None:
        if rules and self._view(network) is not None:
            await self.firewall.apply(Change(remove_networks=[network.id]))
        driver, calls = self._network(network)
        await calls(driver.delete_network, network.record())
        await self._release_pools(network)

    async def _request_pools(self, network: Network, request: NetworkRequest) -> None:
        ipam, calls = self._ipam(network)
        avoid = await asyncio.to_thread(host_routes, request.interface)
        avoid += [pool.subnet for n in self._records.values() for pool in n.pools]
        # IPv4 comes first, whatever the order is in which they were named.
        named = sorted(request.ipam, key=lambda item: _is_v6(item.subnet))
        wanted = [item for item in named if network.ipv4 or _is_v6(item.subnet)]
        if network.ipv4 and not any(not _is_v6(item.subnet) for item in wanted):
            wanted.insert(0, IpamConfig())
        if network.ipv6 and not any(_is_v6(item.subnet) for item in wanted):
            wanted.append(IpamConfig(subnet="v6"))
        try:
            for item in wanted:
                automatic_v6 = item.subnet == "v6"
                pool = await calls(
                    ipam.request_pool,
                    PoolRequest(
                        subnet="" if automatic_v6 else item.subnet,
                        range=item.ip_range,
                        gateway=item.gateway,
                        auxiliary=item.auxiliary_addresses or {},
                        v6=automatic_v6 or _is_v6(item.subnet),
                        avoid=avoid,
                        options=request.ipam_options or {},
                    ),
                )
                network.pools.append(pool)
        except EngineError:
            await self._release_pools(network)
            raise

    async def _release_pools(self, network: Network) -> None:
        if network.pools:
            ipam, calls = self._ipam(network)
            for pool in network.pools:
                await calls(ipam.release_pool, pool.id)

    async def _predefine(self, name: str, running: Sequence[Container]) -> None:
        """Make a predefined network if there is none, and the default bridge anew where the
        operator wants another one and none of the ``running`` containers is on it."""
        old = next((n for n in self._records.values() if n.name == name), None)
        wanted = (
            self._default_bridge if name == "bridge" else NetworkRequest(name=name, driver=name)
        )
        asked = self._asked if name == "bridge" else ""
        if old is not None and old.asked == asked:
            return
        if old is not None and any(
            settings.network_id == old.id and settings.endpoint_id
            for container in running
            for settings in container.networks.values()
        ):
            log.warning("the default bridge stays as it is: containers run on it")
            return
        try:
            if old is not None:
                await self._unmake(old, rules=False)  # they are all made anew after this
                self._records.pop(old.id)
            if wanted is not None:
                await self._make(wanted, predefined=True, asked=asked, id=old.id if old else "")
            elif old is not None:
                await self._database.commit(Delete(TABLE, old.id))
        except (EngineError, OSError) as error:
            log.error("the predefined network %s cannot be made: %s", name, error)

    async def _restore_leases(self) -> None:
        by_driver: dict[str, tuple[list[Pool], list[tuple[str, str]]]] = {}
        pool_of: dict[str, Network] = {}
        for network in self._records.values():
            if network.pools:
                pools, _ = by_driver.setdefault(network.ipam_driver, ([], []))
                pools += network.pools
                pool_of[network.id] = network
        for container in self.containers():
            for settings in container.networks.values():
                owner = pool_of.get(settings.network_id)
                for pool in owner.pools if owner else []:
                    v4 = ipaddress.ip_network(pool.subnet).version == 4
                    address = settings.ip_address if v4 else settings.global_ipv6_address
                    if address and owner:
                        by_driver[owner.ipam_driver][1].append((pool.id, address))
        if self._drivers.has(Kind.IPAM):
            by_driver.setdefault(self._drivers.default(Kind.IPAM), ([], []))
        for name, (pools, leases) in by_driver.items():
            driver = self._drivers.get(Kind.IPAM, name)
            assert isinstance(driver, IpamDriver)
            await self._calls(Kind.IPAM, name)(driver.reconcile, pools, leases)

    async def _restore_firewall(
        self, endpoints: Sequence[tuple[Container, Sequence[PublishedPort]]]
    ) -> Lines:
        networks = [self._firewall_network(n) for n in self._records.values()]
        rules: list[FirewallEndpoint] = []
        for container, ports in endpoints:
            for name, settings in container.networks.items():
                network = self._records.get(settings.network_id)
                if network is None or not settings.endpoint_id:
                    continue
                own = ports if container.published_on in ("", name) else []
                rule = self.firewall_endpoint(network, settings, own)
                if rule is not None:
                    rules.append(rule)
                    ports = [] if own else ports
        return await self.firewall.rebuild([n for n in networks if n is not None], rules)

    async def _hook_joined(self, network: Network, endpoint: EndpointRecord) -> None:
        self._hooks.network_endpoint_joined(network.record(), endpoint)

    def _firewall_network(self, network: Network) -> FirewallNetwork | None:
        view = self._view(network)
        if view is None:
            return None
        return FirewallNetwork(
            id=network.id,
            bridge=view.bridge,
            subnets=[pool.subnet for pool in network.pools],
            masquerade=view.masquerade,
            icc=view.icc,
            internal=network.internal,
        )

    def _view(self, network: Network) -> BridgeInfo | None:
        return self._driver(network.driver).firewall_view(network.record())

    def _default_driver(self) -> str:
        return self._drivers.default(Kind.NETWORK)

    def _driver(self, name: str) -> NetworkDriver:
        driver = self._drivers.get(Kind.NETWORK, name)
        assert isinstance(driver, NetworkDriver)
        return driver

    def _network(self, network: Network) -> tuple[NetworkDriver, DriverCalls]:
        return self._driver(network.driver), self._calls(Kind.NETWORK, network.driver)

    def _ipam(self, network: Network) -> tuple[IpamDriver, DriverCalls]:
        driver = self._drivers.get(Kind.IPAM, network.ipam_driver)
        assert isinstance(driver, IpamDriver)
        return driver, self._calls(Kind.IPAM, network.ipam_driver)


async def _nobody_leaves(ids: Iterable[str]) -> None:
    """There are no containers yet."""


def _attributes(network: Network) -> dict[str, str]:
    return {"name": network.name, "type": network.driver}


def _cidr(address: str, length: int) -> str:
    return f"{address}/{length}" if address else ""


def _is_v6(subnet: str) -> bool:
    return ":" in subnet or subnet == "v6"
