"""Which networks ``GET /networks`` means."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from pyengine.engine.networks.records import Network
from pyengine.engine.prune import BOOLEANS
from pyengine.errors import InvalidParameter

FILTERS = frozenset({"driver", "id", "label", "name", "scope", "type", "dangling"})

#: The name of a filter -> the values that it may have.
Filters = Mapping[str, Sequence[str]]


def select(
    networks: Iterable[Network], filters: Filters, endpoints: Callable[[str], Collection[str]]
) -> list[Network]:
    """Those that pass every filter. ``endpoints``: which containers are on the network of an id.

    ``InvalidParameter`` for a filter or value that does not exist.
    """
    for name in filters:
        if name not in FILTERS:
            raise InvalidParameter(f"invalid filter '{name}'")
    for value in filters.get("type", ()):
        if value not in ("builtin", "custom"):
            raise InvalidParameter(f"invalid filter: 'type'='{value}'")
    dangling = filters.get("dangling", ())
    if len(dangling) > 1:
        raise InvalidParameter('got more than one value for filter key "dangling"')
    if any(value not in BOOLEANS for value in dangling):
        raise InvalidParameter(
            'invalid value for filter \'dangling\', must be "true" (or "1"), or "false" (or "0")'
        )
    wanted = {name: values for name, values in filters.items() if values}
    return [
        network
        for network in networks
        if all(_passes(network, name, values, endpoints) for name, values in wanted.items())
    ]


def _passes(
    network: Network,
    name: str,
    values: Sequence[str],
    endpoints: Callable[[str], Collection[str]],
) -> bool:
    match name:
        case "name":
            return any(value in network.name for value in values)
        case "id":
            return any(value in network.id for value in values)
        case "driver":
            # Network none's driver is called null on the wire.
            return (network.driver if network.driver != "none" else "null") in values
        case "scope":
            return "local" in values
        case "type":
            return ("builtin" if network.predefined else "custom") in values
        case "label":
            return all(
                network.labels.get(k) == v if equals else k in network.labels
                for k, equals, v in (value.partition("=") for value in values)
            )
        case _:
            dangling = BOOLEANS[values[0]]
            return not network.predefined and dangling is (not endpoints(network.id))
