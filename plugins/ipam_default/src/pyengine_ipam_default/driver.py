"""Pools and leases as sets of integers: what a subnet costs depends on its leases, not its size."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Sequence

from pyengine.contracts.base import DriverContext, Probe, reject_unknown_options
from pyengine.contracts.ipam import IpamDriver, Pool, PoolRequest
from pyengine.errors import Conflict, Forbidden, InvalidParameter, NotFound
from pyengine_ipam_default.pools import (
    Network,
    default_pools,
    first_free,
    overlapping,
    read_pools,
)

_OPTION = "default-address-pools"


class DefaultIpam(IpamDriver):
    """Option ``default-address-pools``: where subnets come from when none is asked for."""

    name = "default"
    priority = 100

    def __init__(self, context: DriverContext) -> None:
        super().__init__(context)
        reject_unknown_options(self.kind, self.name, context.options, frozenset({_OPTION}))
        configured = read_pools(context.options.get(_OPTION) or "[]")
        builtin = default_pools(context.engine_id)
        # An operator's list for one family leaves the other family's defaults in force.
        versions = {pool.network().version for pool in configured}
        self._sources = configured + [p for p in builtin if p.network().version not in versions]
        self._lock = threading.Lock()
        self._pools: dict[str, _Leases] = {}

    @classmethod
    def probe(cls, context: DriverContext) -> Probe:
        return Probe(available=True)

    def request_pool(self, request: PoolRequest) -> Pool:
        reject_unknown_options(self.kind, self.name, request.options, frozenset())
        avoid = [_network(text, "network to avoid") for text in request.avoid]
        with self._lock:
            given = [leases.network for leases in self._pools.values()]
            if request.subnet:
                subnet = _network(request.subnet, "subnet")
                other = overlapping(subnet, given + avoid)
                if other is not None:
                    raise Forbidden(
                        f"subnet {subnet} overlaps with {other}",
                        "which is a network or a route of this host already",
                        "choose another subnet",
                    )
            else:
                found = first_free(self._sources, 6 if request.v6 else 4, given + avoid)
                if found is None:
                    raise Conflict(
                        "all predefined address pools have been fully subnetted",
                        help=f"remove networks, name a subnet, or widen {_OPTION}",
                    )
                subnet = _network(found, "subnet")
            leases = _Leases(subnet, request.range)
            gateway = leases.special(request.gateway, "gateway") or leases.first_usable()
            auxiliary = {
                name: leases.special(address, f"auxiliary address {name}")
                for name, address in request.auxiliary.items()
            }
            pool = Pool(str(subnet), str(subnet), request.range, gateway, auxiliary)
            leases.check(pool)
            leases.reserve(pool)
            self._pools[pool.id] = leases
        return pool

    def release_pool(self, pool_id: str) -> None:
        with self._lock:
            self._pools.pop(pool_id, None)

    def request_address(self, pool_id: str, preferred: str = "", owner: str = "") -> str:
        with self._lock:
            leases = self._pools.get(pool_id)
            if leases is None:
                raise NotFound(f"no address pool {pool_id}")
            return leases.take(preferred) if preferred else leases.take_next()

    def release_address(self, pool_id: str, address: str) -> None:
        with self._lock:
            leases = self._pools.get(pool_id)
            if leases is not None:
                leases.give_back(address)

    def reconcile(self, pools: Sequence[Pool], leases: Sequence[tuple[str, str]]) -> None:
        known = {}
        for pool in pools:
            known[pool.id] = _Leases(_network(pool.subnet, "subnet"), pool.range)
            known[pool.id].reserve(pool)
        for pool_id, address in leases:
            if pool_id in known:
                known[pool_id].restore(address)
        with self._lock:
            self._pools = known


class _Leases:
    """One subnet: what may be given, what is given, and below what nothing is free."""

    def __init__(self, network: Network, narrowed: str) -> None:
        self.network = network
        first, last = int(network.network_address), int(network.broadcast_address)
        # A point-to-point subnet (RFC 3021, RFC 6164) has neither network nor broadcast address;
        # IPv6 has no broadcast, but its first address means any router (RFC 4291, 2.6.1).
        if network.prefixlen < network.max_prefixlen - 1:
            first += 1
            last -= 1 if network.version == 4 else 0
        self._first, self._last = first, last
        self._low, self._high = first, last
        if narrowed:
            inner = _network(narrowed, "range")
            low, high = int(inner.network_address), int(inner.broadcast_address)
            if inner.version != network.version or low < first - 1 or high > last + 1:
                raise InvalidParameter(f"range {narrowed} is not inside subnet {network}")
            self._low, self._high = max(low, first), min(high, last)
        self._fixed: set[int] = set()
        self._leased: set[int] = set()
        self._search = self._low

    def first_usable(self) -> str:
        return self._text(self._first)

    def special(self, address: str, what: str) -> str:
        """Check an address that is no lease; returns it in normal form."""
        return self._text(self._number(address, what)) if address else ""

    def check(self, pool: Pool) -> None:
        """Each address of a new pool is one that can be given, and is there once."""
        seen: set[int] = set()
        for what, address in (
            (f"gateway ({pool.gateway})", pool.gateway),
            *(
                (f"secondary ip address ({name}:{address})", address)
                for name, address in pool.auxiliary.items()
            ),
        ):
            number = self._number(address, what) if address else self._first
            if number in seen or not self._first <= number <= self._last:
                raise InvalidParameter(f"failed to allocate {what}: Address already in use")
            if address:
                seen.add(number)

    def reserve(self, pool: Pool) -> None:
        for address in (pool.gateway, *pool.auxiliary.values()):
            if address:
                self._fixed.add(self._number(address, "reserved address"))

    def restore(self, address: str) -> None:
        self._leased.add(self._number(address, "leased address"))

    def take(self, address: str) -> str:
        number = self._number(address, "address")
        if number in self._leased or number in self._fixed:
            raise Conflict(f"Address already in use: {address}", f"in subnet {self.network}")
        if not self._first <= number <= self._last:
            raise InvalidParameter(f"address {address} stands for the subnet {self.network} itself")
        self._leased.add(number)
        return self._text(number)

    def take_next(self) -> str:
        while self._search <= self._high:
            number = self._search
            self._search += 1
            if number not in self._leased and number not in self._fixed:
                self._leased.add(number)
                return self._text(number)
        raise Conflict(f"no available addresses left in subnet {self.network}")

    def give_back(self, address: str) -> None:
        number = self._number(address, "address")
        self._leased.discard(number)
        if number >= self._low:
            self._search = min(self._search, number)

    def _number(self, address: str, what: str) -> int:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            raise InvalidParameter(f"invalid {what}: {address!r}") from None
        if parsed not in self.network:
            raise InvalidParameter(f"{what} {address} is not inside subnet {self.network}")
        return int(parsed)

    def _text(self, number: int) -> str:
        return str(ipaddress.ip_address(number.to_bytes(self.network.max_prefixlen // 8)))


def _network(text: str, what: str) -> Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise InvalidParameter(f"invalid {what} {text}", "invalid CIDR block notation") from None
