"""The host network: containers stay in the host's network namespace."""

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
from pyengine.errors import InvalidParameter, Unsupported

__all__ = ["HostDriver"]


class HostDriver(NetworkDriver):
    name = "host"
    priority = 20

    def __init__(self, context: DriverContext) -> None:
        super().__init__(context)
        reject_unknown_options(self.kind, self.name, context.options, frozenset())

    @classmethod
    def probe(cls, context: DriverContext) -> Probe:
        return Probe(available=True)

    def capabilities(self) -> frozenset[NetworkCapability]:
        return frozenset({NetworkCapability.HOST_NAMESPACE, NetworkCapability.IPV6})

    def validate(self, network: NetworkRecord) -> None:
        if network.subnets:
            raise InvalidParameter("network driver 'host' has no addresses to give")
        if network.internal:
            raise Unsupported("network driver 'host' cannot keep a network internal")
        reject_unknown_options(self.kind, self.name, network.options, frozenset())

    def create_network(self, network: NetworkRecord) -> None:
        """The host's network is there."""

    def delete_network(self, network: NetworkRecord) -> None:
        """The host's network stays."""

    def join(self, network: NetworkRecord, endpoint: EndpointRecord, netns: int) -> Joined:
        """Core makes no namespace for this driver (HOST_NAMESPACE); ``netns`` is the host's."""
        return Joined()

    def leave(self, network: NetworkRecord, endpoint: EndpointRecord, netns: int | None) -> None:
        """Nothing was made."""

    def reconcile(
        self, networks: Mapping[str, NetworkRecord], endpoints: Sequence[EndpointRecord]
    ) -> Reconciled:
        return Reconciled()
