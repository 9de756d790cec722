"""Network hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

from pyengine.hooks import PROJECT

if TYPE_CHECKING:
    from pyengine.contracts.firewall import PublishedPort
    from pyengine.contracts.network import EndpointRecord, NetworkRecord

hookspec = pluggy.HookspecMarker(PROJECT)


@hookspec
def network_endpoint_joined(network: NetworkRecord, endpoint: EndpointRecord) -> None:
    """Fires after an endpoint's links, addresses and rules are up. An exception fails the start.
    Since 1.0."""


@hookspec
def network_endpoint_left(network: NetworkRecord, endpoint: EndpointRecord) -> None:
    """Fires after an endpoint was taken down. Exceptions are logged. Since 1.0."""


@hookspec
def network_ports_published(endpoint: EndpointRecord, ports: list[PublishedPort]) -> None:
    """Fires after ports answer. Exceptions are logged. Since 1.0."""
