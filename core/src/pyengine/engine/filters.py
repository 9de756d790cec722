"""``docker ps --filter``: which containers a list shows."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence

from pyengine import timestamps
from pyengine.engine.model import Container, Status
from pyengine.engine.prune import BOOLEANS
from pyengine.errors import InvalidParameter

Filters = Mapping[str, Sequence[str]]

_PORTS = re.compile(r"\d+(-\d+)?(/(tcp|udp|sctp))?")

KNOWN = frozenset(
    {"ancestor", "before", "expose", "exited", "health", "id", "isolation", "is-task", "label"}
    | {"name", "network", "publish", "since", "status", "volume"}
)

HEALTH = frozenset({"starting", "healthy", "unhealthy", "none"})


def select(
    records: Sequence[Container],
    filters: Filters,
    *,
    all: bool,
    limit: int,
    images_of: Callable[[str], Collection[str]],
    find: Callable[[str], Container],
) -> list[Container]:
    """Newest first. Values of one filter are alternatives (labels excepted), filters add up.

    ``images_of``: ids of an image and of those that were built upon it.
    Raises ``InvalidParameter`` for a filter or value that does not exist, ``NotFound`` for the
    container that ``before`` or ``since`` names.
    """
    for name in filters:
        if name not in KNOWN:
            raise InvalidParameter(f"invalid filter '{name}'")
    for status in filters.get("status", ()):
        if status not in set(Status):
            raise InvalidParameter(f"invalid filter 'status={status}'")
    for code in filters.get("exited", ()):
        if not code.lstrip("-").isdigit():
            raise InvalidParameter(f"invalid filter 'exited={code}'")
    for health in filters.get("health", ()):
        if health not in HEALTH:
            raise InvalidParameter(f"unrecognized filter value for health: {health}")
    for word in filters.get("is-task", ()):
        if word not in BOOLEANS:
            raise InvalidParameter(f"invalid filter 'is-task=[{word}]'")
    for name in ("publish", "expose"):
        for port in filters.get(name, ()):
            if not _PORTS.fullmatch(port):
                raise InvalidParameter(f"invalid filter '{name}={port}'")
    ancestors = filters.get("ancestor", ())
    images = {id for ref in ancestors for id in images_of(ref)}
    before = [timestamps.parse(find(ref).created) for ref in filters.get("before", ())]
    since = [timestamps.parse(find(ref).created) for ref in filters.get("since", ())]
    everything = all or limit > 0 or any(filters.get(name) for name in ("status", "exited"))

    def matches(record: Container) -> bool:
        alive = record.state.running or record.state.status is Status.RESTARTING
        if not everything and not alive:
            return False
        if ancestors and record.image not in images:
            return False
        if before or since:
            created = timestamps.parse(record.created)
            if any(created >= moment for moment in before):
                return False
            if any(created <= moment for moment in since):
                return False
        return not filters or _match(record, filters)

    found = sorted(filter(matches, records), key=lambda record: record.created, reverse=True)
    return found[:limit] if limit > 0 else found


def _match(record: Container, filters: Filters) -> bool:
    for name, values in filters.items():
        if not values or name in ("ancestor", "before", "since", "isolation"):
            continue
        if not _one(record, name, values):
            return False
    return True


def _one(record: Container, name: str, values: Sequence[str]) -> bool:
    match name:
        case "id":
            return any(value and record.id.startswith(value) for value in values)
        case "name":
            return any(_named(record.name, value) for value in values)
        case "status":
            return record.state.status.value in values
        case "exited":
            ended = record.state.status in (Status.EXITED, Status.DEAD)
            return ended and str(record.state.exit_code) in values
        case "label":
            labels = record.config.labels or {}
            return all(
                labels.get(key) == wanted if equals else key in labels
                for key, equals, wanted in (value.partition("=") for value in values)
            )
        case "network":
            ids = [settings.network_id for settings in record.networks.values()]
            return any(
                value in record.networks or any(value and id.startswith(value) for id in ids)
                for value in values
            )
        case "volume":
            mounts = {point.destination for point in record.mounts}
            mounts |= {point.name or point.source for point in record.mounts}
            return any(value in mounts for value in values)
        case "health":
            health = record.state.health
            return (health.status.value if health else "none") in values
        case "is-task":
            return any(not BOOLEANS[value] for value in values)
        case "publish":
            return any(_has_port(record.ports, value, host=True) for value in values)
        case _:  # expose
            exposed = {**(record.config.exposed_ports or {}), **record.ports}
            return any(_has_port(exposed, value, host=False) for value in values)


def _named(name: str, wanted: str) -> bool:
    """A regular expression for the name, with or without its slash."""
    try:
        pattern = re.compile(wanted)
    except re.error:
        return wanted == name
    return bool(pattern.search(name) or pattern.search(f"/{name}"))


def _has_port(ports: Mapping[str, object], wanted: str, *, host: bool) -> bool:
    numbers, _, protocol = wanted.partition("/")
    first, _, last = numbers.partition("-")
    low, high = int(first), int(last or first)
    for key, bindings in ports.items():
        number, _, kind = key.partition("/")
        if kind != (protocol or "tcp"):
            continue
        if not host and low <= int(number) <= high:
            return True
        if host and isinstance(bindings, list):
            found = [int(b.host_port) for b in bindings if b.host_port]
            if any(low <= port <= high for port in found):
                return True
    return False
