"""IPAM drivers: which addresses networks and endpoints get.

Core keeps the leases (it writes them in the transaction that needs them); a driver chooses. It is
told all leases by ``reconcile`` before any other call, so a lease is never given twice.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import msgspec

from pyengine.contracts.base import Driver, Kind


class PoolRequest(msgspec.Struct, frozen=True):
    """A subnet wanted. All addresses are text; ``range`` narrows dynamic choice inside ``subnet``.

    ``subnet`` empty: the driver picks the first free of its default pools (option
    ``default-address-pools``, JSON as in daemon.json) that overlaps none of ``avoid``: networks
    and host routes in CIDR form.
    """

    subnet: str = ""
    range: str = ""
    gateway: str = ""
    auxiliary: dict[str, str] = {}
    v6: bool = False
    avoid: Sequence[str] = ()
    options: dict[str, str] = {}


class Pool(msgspec.Struct, frozen=True):
    """A subnet given. ``id`` is the driver's; ``gateway`` and ``auxiliary`` count as leased."""

    id: str
    subnet: str
    range: str = ""
    gateway: str = ""
    auxiliary: dict[str, str] = {}


class IpamDriver(Driver):
    """Chooses pools of addresses, and addresses of a pool; keeps nothing on disk."""

    kind: ClassVar[Kind] = Kind.IPAM

    @abstractmethod
    def request_pool(self, request: PoolRequest) -> Pool:
        """Give a pool; with a default gateway (the first usable address) if none was asked for.

        Raises ``InvalidParameter`` (not a network; range or gateway outside it), ``Forbidden``
        naming what it overlaps with (a given pool or an entry of ``avoid``), and ``Conflict`` when
        the default pools are used up.
        """

    @abstractmethod
    def release_pool(self, pool_id: str) -> None:
        """Give the pool back, with all its leases."""

    @abstractmethod
    def request_address(self, pool_id: str, preferred: str = "", owner: str = "") -> str:
        """Lease ``preferred`` or the lowest free address (without prefix length).

        The lowest, as with dockerd: a container that is made anew finds the address that it had.
        Never the network, broadcast, gateway or an auxiliary address. Raises ``Conflict`` if taken
        or none is left, ``InvalidParameter`` if outside the subnet. ``owner``: the endpoint's id.
        """

    @abstractmethod
    def release_address(self, pool_id: str, address: str) -> None:
        """Give one lease back."""

    @abstractmethod
    def reconcile(self, pools: Sequence[Pool], leases: Sequence[tuple[str, str]]) -> None:
        """Forget everything and take these pools and (pool id, address) leases as given."""
