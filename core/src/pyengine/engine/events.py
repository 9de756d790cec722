"""The journal of events: numbered, bounded, on disk, and streamed to whoever listens."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import msgspec

from pyengine.errors import InvalidParameter
from pyengine.state.database import Change, Database, Delete, Put

TABLE = "events"
KEEP = 4096
FLUSH = 0.1

FILTERS = frozenset(
    {"type", "event", "container", "image", "label", "network", "volume", "daemon", "scope"}
    | {"plugin", "config", "node", "secret", "service"}
)


class Event(msgspec.Struct, frozen=True):
    """One event; ``ns`` since the epoch, ``sequence`` counts from 1 and never repeats."""

    sequence: int
    type: str
    action: str
    id: str
    attributes: dict[str, str]
    ns: int

    def message(self) -> dict[str, Any]:
        """As ``GET /events`` sends it; ``status``, ``id`` and ``from`` are for old clients."""
        body: dict[str, Any] = {}
        if self.type in ("container", "image"):
            body["status"] = self.action
            body["id"] = self.id
            if self.type == "container" and "image" in self.attributes:
                body["from"] = self.attributes["image"]
        body |= {
            "Type": self.type,
            "Action": self.action,
            "Actor": {"ID": self.id, "Attributes": self.attributes},
            "scope": "local",
            "time": self.ns // 10**9,
            "timeNano": self.ns,
        }
        return body


class Events:
    """Writes are gathered for a tenth of a second: an event is news, the state it tells of is in
    its own record by then."""

    def __init__(self, database: Database, tell: Callable[[dict[str, Any]], None]) -> None:
        self._database = database
        self._tell = tell
        past = sorted(database.load(TABLE, Event).values(), key=lambda event: event.sequence)
        self._journal: deque[Event] = deque(past[-KEEP:], maxlen=KEEP)
        self._next = past[-1].sequence + 1 if past else 1
        self._unsaved: list[Change] = [Delete(TABLE, _key(e.sequence)) for e in past[:-KEEP]]
        self._timer: asyncio.TimerHandle | None = None
        self._listeners: set[asyncio.Queue[Event | None]] = set()
        self._services: list[Callable[[Event], None]] = []

    def inform(self, service: Callable[[Event], None]) -> None:
        """Call ``service`` with each event from now on: within :meth:`emit`, so it must be quick
        and must not raise."""
        self._services.append(service)

    def emit(
        self, type: str, action: str, id: str, attributes: Mapping[str, str] | None = None
    ) -> None:
        """Record that ``action`` happened to object ``id``, and tell listeners and hooks."""
        event = Event(self._next, type, action, id, dict(attributes or {}), time.time_ns())
        self._next += 1
        if len(self._journal) == KEEP:
            self._unsaved.append(Delete(TABLE, _key(self._journal[0].sequence)))
        self._journal.append(event)
        self._unsaved.append(Put(TABLE, _key(event.sequence), event))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH, self.flush)
        for service in self._services:
            service(event)
        for queue in self._listeners:
            queue.put_nowait(event)
        self._tell(event.message())

    def flush(self) -> None:
        """Hand what is unsaved to the database."""
        self._timer = None
        if self._unsaved:
            self._database.commit_soon(*self._unsaved)
            self._unsaved = []

    def close(self) -> None:
        """End all subscriptions; save."""
        for queue in self._listeners:
            queue.put_nowait(None)
        if self._timer is not None:
            self._timer.cancel()
        self.flush()

    async def subscribe(
        self,
        since: float | None = None,
        until: float | None = None,
        filters: Mapping[str, list[str]] | None = None,
    ) -> AsyncIterator[dict[str, Any]]:
        """Docker's messages: past ones from ``since`` (seconds since the epoch) on, then new ones
        as they happen, to ``until`` (which alone stands for a ``since`` of 0).
        ``InvalidParameter`` for an unknown filter."""
        wanted = check_filters(filters)
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            if since is not None or until is not None:
                for event in list(self._journal):
                    late = until is not None and event.ns > until * 1e9
                    if event.ns >= (since or 0) * 1e9 and not late and matches(event, wanted):
                        yield event.message()
            while True:
                left = None if until is None else until - time.time()
                if left is not None and left <= 0:
                    return
                try:
                    next_event = await asyncio.wait_for(queue.get(), left)
                except TimeoutError:
                    return
                if next_event is None:
                    return
                if matches(next_event, wanted):
                    yield next_event.message()
        finally:
            self._listeners.discard(queue)


def _key(sequence: int) -> str:
    return f"{sequence:016d}"


def check_filters(filters: Mapping[str, list[str]] | None) -> Mapping[str, list[str]]:
    """``filters`` itself, or ``InvalidParameter`` in Docker's words."""
    for name in filters or {}:
        if name not in FILTERS:
            raise InvalidParameter(f"invalid filter '{name}'")
    return filters or {}


def matches(event: Event, filters: Mapping[str, list[str]]) -> bool:
    """Each filter must match by one of its values."""
    return all(_one_matches(event, name, values) for name, values in filters.items() if values)


def _one_matches(event: Event, name: str, values: list[str]) -> bool:
    attributes = event.attributes
    match name:
        case "type":
            return event.type in values
        case "event":
            # "exec_start: sh" answers to "exec_start", as Docker's does
            return event.action in values or event.action.partition(":")[0] in values
        case "label":
            return all(
                attributes.get(key) == value if equals else key in attributes
                for key, equals, value in (v.partition("=") for v in values)
            )
        case "scope":
            return "local" in values
        case "image":
            names = {event.id, attributes.get("name", "")} if event.type == "image" else set()
            image = attributes.get("image", "")
            names |= {image, image.partition(":")[0]}
            return any(v in names or f"{v}:latest" in names for v in values)
        case _:
            return event.type == name and any(
                event.id.startswith(v) or attributes.get("name") == v.removeprefix("/")
                for v in values
            )
