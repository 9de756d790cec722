"""The journal of events: numbered, bounded, on disk, and streamed to whoever listens.

Numbers never repeat, also when a daemon is killed: they are reserved in blocks, so that the next
one goes on behind whatever was told. A listener has a place in the journal rather than a queue; one
that is overtaken by its oldest end gets a *gap* message in the place of what it missed.
"""

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
#: Numbers that are reserved at a time.
BLOCK = 10_000
COUNTERS = "counters"

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
            "sequence": self.sequence,
            "Type": self.type,
            "Action": self.action,
            "Actor": {"ID": self.id, "Attributes": self.attributes},
            "scope": "local",
            "time": self.ns // 10**9,
            "timeNano": self.ns,
        }
        return body


class Counter(msgspec.Struct, frozen=True):
    """``next``: no number from here on has been used."""

    next: int


def gap(after: int, before: int) -> Event:
    """What stands for events between these two numbers, which are not there any more: at most
    ``missed``, since some numbers are never used."""
    numbers = {"after": after, "before": before, "missed": before - after - 1}
    attributes = {key: str(number) for key, number in numbers.items()}
    return Event(before - 1, "daemon", "gap", "", attributes, time.time_ns())


class Events:
    """Writes are gathered for a tenth of a second: an event is news, the state it tells of is in
    its own record by then."""

    def __init__(self, database: Database, tell: Callable[[dict[str, Any]], None]) -> None:
        self._database = database
        self._tell = tell
        past = sorted(database.load(TABLE, Event).values(), key=lambda event: event.sequence)
        self._journal: deque[Event] = deque(past[-KEEP:], maxlen=KEEP)
        counter = database.load(COUNTERS, Counter).get(TABLE, Counter(1))
        self._next = max(counter.next, past[-1].sequence + 1 if past else 1)
        self._reserved = 0
        self._unsaved: list[Change] = [Delete(TABLE, _key(e.sequence)) for e in past[:-KEEP]]
        self._timer: asyncio.TimerHandle | None = None
        self._listeners: set[asyncio.Event] = set()
        self._services: list[Callable[[Event], None]] = []
        self._closed = False
        self._reserve()
        database.commit_soon(self._unsaved.pop())

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
        if self._next > self._reserved - BLOCK // 2:
            self._reserve()
        if len(self._journal) == KEEP:
            self._unsaved.append(Delete(TABLE, _key(self._journal[0].sequence)))
        self._journal.append(event)
        self._unsaved.append(Put(TABLE, _key(event.sequence), event))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH, self.flush)
        for service in self._services:
            service(event)
        for listener in self._listeners:
            listener.set()
        self._tell(event.message())

    def flush(self) -> None:
        """Hand what is unsaved to the database."""
        self._timer = None
        if self._unsaved:
            self._database.commit_soon(*self._unsaved)
            self._unsaved = []

    def close(self) -> None:
        """End all subscriptions; save."""
        self._closed = True
        for listener in self._listeners:
            listener.set()
        if self._timer is not None:
            self._timer.cancel()
        self._unsaved.append(Put(COUNTERS, TABLE, Counter(self._next)))
        self.flush()

    async def subscribe(
        self,
        since: float | None = None,
        until: float | None = None,
        filters: Mapping[str, list[str]] | None = None,
        after: int | None = None,
    ) -> AsyncIterator[dict[str, Any]]:
        """Docker's messages: past ones from ``since`` (seconds since the epoch) on, then new ones
        as they happen, to ``until`` (which alone stands for a ``since`` of 0). ``after``: those
        behind that number, for who was here before. ``InvalidParameter`` for an unknown filter.

        Where something is missing there is a ``gap``: if it matches ``filters``, or ``after`` shows
        that this client knows of gaps.
        """
        wanted = check_filters(filters)
        news = asyncio.Event()
        self._listeners.add(news)
        place = self._begin(since, until, after)
        try:
            while True:
                news.clear()
                for event in self._behind(place):
                    if event.sequence > place + 1:
                        missing = gap(place, event.sequence)
                        if after is not None or matches(missing, wanted):
                            yield missing.message()
                    place = event.sequence
                    late = until is not None and event.ns > until * 1e9
                    if event.ns >= (since or 0) * 1e9 and not late and matches(event, wanted):
                        yield event.message()
                left = None if until is None else until - time.time()
                if self._closed or (left is not None and left <= 0):
                    return
                try:
                    await asyncio.wait_for(news.wait(), left)
                except TimeoutError:
                    return
        finally:
            self._listeners.discard(news)

    def _begin(self, since: float | None, until: float | None, after: int | None) -> int:
        """The number behind which a listener begins."""
        if after is not None:
            # A number from another engine's journal, or from the future, says nothing here.
            return min(after, self._next - 1)
        if since is None and until is None:
            return self._next - 1
        oldest = self._journal[0] if self._journal else None
        if oldest is not None and oldest.ns <= (since or 0) * 1e9:
            return oldest.sequence - 1
        return 0  # and if the oldest is not the first, that is a gap

    def _behind(self, place: int) -> list[Event]:
        newer: list[Event] = []
        for event in reversed(self._journal):
            if event.sequence <= place:
                break
            newer.append(event)
        newer.reverse()
        return newer

    def _reserve(self) -> None:
        self._reserved = self._next + BLOCK
        self._unsaved.append(Put(COUNTERS, TABLE, Counter(self._reserved)))


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
