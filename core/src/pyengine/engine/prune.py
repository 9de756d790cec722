"""What the prunes of containers, images, networks and volumes have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from pyengine import timestamps
from pyengine.errors import Conflict, InvalidParameter

Filters = Mapping[str, Sequence[str]]

#: What most filters that are true or false may say.
BOOLEANS = {"1": True, "true": True, "0": False, "false": False}
#: What the others may say, in lower case.
MEANINGS = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}


class PruneFilters:
    """``until``, ``label`` and ``label!``, and the filters of a kind in ``more``.

    Raises ``InvalidParameter`` in Docker's words for what does not exist or cannot be read.
    """

    def __init__(self, filters: Filters, *more: str, until: bool = True) -> None:
        known = {"label", "label!", *more, *(["until"] if until else [])}
        for name in filters:
            if name not in known:
                raise InvalidParameter(f"invalid filter '{name}'")
        self._filters = filters
        self._until = self.moment("until")

    def moment(self, name: str) -> int | None:
        """The filter ``name``, which is a time: ns since the epoch."""
        moments = self._filters.get(name, ())
        if len(moments) > 1:
            raise InvalidParameter(f"more than one {name} filter specified")
        for text in moments:
            try:
                if not text:
                    raise ValueError
                return timestamps.parse_query(text)
            except ValueError:
                raise InvalidParameter(
                    f'failed to parse value as time or duration: "{text}"'
                ) from None
        return None

    def flag(self, name: str, default: bool) -> bool:
        """The filter ``name``, which is true or false."""
        values = self._filters.get(name)
        if not values:
            return default
        if len(values) != 1 or values[0].lower() not in MEANINGS:
            raise InvalidParameter(f"invalid filter '{name}=[{' '.join(values)}]'")
        return MEANINGS[values[0].lower()]

    def match(self, created: str, labels: Mapping[str, str] | None) -> bool:
        """Whether something made at ``created`` (RFC 3339) with ``labels`` may go."""
        if self._until is not None and not self._is_old(created, self._until):
            return False
        unwanted = self._filters.get("label!", ())
        return _has(labels or {}, self._filters.get("label", ())) and not (
            unwanted and _has(labels or {}, unwanted)
        )

    @staticmethod
    def _is_old(created: str, until: int) -> bool:
        """Images need not say when they were made; those are not taken for old."""
        try:
            return created != timestamps.NEVER and timestamps.parse(created) <= until
        except ValueError:
            return False


def _has(labels: Mapping[str, str], wanted: Sequence[str]) -> bool:
    return all(
        labels.get(key) == value if equals else key in labels
        for key, equals, value in (item.partition("=") for item in wanted)
    )


class Turn:
    """Lets one prune of a kind run at a time."""

    def __init__(self) -> None:
        self._taken = False

    @contextmanager
    def taken(self) -> Iterator[None]:
        """``Conflict`` if another one is under way."""
        if self._taken:
            raise Conflict("a prune operation is already running")
        self._taken = True
        try:
            yield
        finally:
            self._taken = False
