"""The none network: a namespace of its own with nothing but loopback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyengine.contracts.base import DriverContext, Probe, Reconciled, reject_unknown_options
from pyengine.contracts.network import (
    EndpointRecord,
    Joined,
    NetworkCapability,
    NetworkDriver,
    NetworkRecord,
)
from pyengine.errors import InvalidParameter
from pyengine.linux.interfaces import bring_up_loopback

__all__ = ["NoneDriver"]


class NoneDriver(NetworkDriver):
    name = "none"
    priority = 10

    def __init__(self, context: DriverContext) -> None:
        super().__init__(context)
        reject_unknown_options(self.kind, self.name, context.options, frozenset())

    @classmethod
    def probe(cls, context: DriverContext) -> Probe:
        return Probe(available=True)

    def capabilities(self) -> frozenset[NetworkCapability]:
        return frozenset({NetworkCapability.INTERNAL})

    def validate(self, network: NetworkRecord) -> None:
        if network.subnets:
            raise InvalidParameter("network driver 'none' has no addresses to give")
        reject_unknown_options(self.kind, self.name, network.options, frozenset())

    def create_network(self, network: NetworkRecord) -> None:
        """Nothing is shared."""

    def delete_network(self, network: NetworkRecord) -> None:
        """Nothing was made."""

    def join(self, network: NetworkRecord, endpoint: EndpointRecord, netns: int) -> Joined:
        bring_up_loopback(netns)
        return Joined()

    def leave(self, network: NetworkRecord, endpoint: EndpointRecord, netns: int | None) -> None:
        """Loopback stays up: processes may use it as long as the namespace lives."""

    def reconcile(
        self, networks: Mapping[str, NetworkRecord], endpoints: Sequence[EndpointRecord]
    ) -> Reconciled:
        return Reconciled()
