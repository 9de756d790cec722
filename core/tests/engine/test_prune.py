"""Filters of prunes, and one prune at a time."""

from __future__ import annotations

import pytest

from pyengine.engine.prune import PruneFilters, Turn
from pyengine.errors import Conflict, InvalidParameter

CREATED = "2026-01-02T03:04:05Z"


@pytest.mark.parametrize(
    ("filters", "labels", "matches"),
    [
        ({}, None, True),
        ({"until": ["2026-01-02T03:04:05Z"]}, None, True),
        ({"until": ["2026-01-02T03:04:04Z"]}, None, False),
        ({"until": ["1h"]}, None, True),
        ({"label": ["a"]}, {"a": "1"}, True),
        ({"label": ["a=1", "b"]}, {"a": "1"}, False),
        ({"label": ["a=2"]}, {"a": "1"}, False),
        ({"label!": ["a"]}, {"a": "1"}, False),
        ({"label!": ["a=2"]}, {"a": "1"}, True),
        # as with dockerd, those that have all of them are kept
        ({"label!": ["a", "b"]}, {"a": "1"}, True),
        ({"label": ["a"], "label!": ["b"]}, {"a": "1", "b": ""}, False),
    ],
)
def test_matches(
    filters: dict[str, list[str]], labels: dict[str, str] | None, matches: bool
) -> None:
    assert PruneFilters(filters).match(CREATED, labels) is matches


@pytest.mark.parametrize(
    "filters",
    [
        {"x": ["y"]},
        {"until": ["x"]},
        {"until": ["1h", "2h"]},
        {"until": [""]},
        {"dangling": ["true"]},
    ],
)
def test_refused(filters: dict[str, list[str]]) -> None:
    with pytest.raises(InvalidParameter):
        PruneFilters(filters)


def test_flags() -> None:
    assert PruneFilters({}, "dangling").flag("dangling", True)
    assert not PruneFilters({"dangling": ["0"]}, "dangling").flag("dangling", True)
    with pytest.raises(InvalidParameter, match=r"invalid filter 'dangling=\[x\]'"):
        PruneFilters({"dangling": ["x"]}, "dangling").flag("dangling", True)


def test_one_at_a_time() -> None:
    turn = Turn()
    with turn.taken(), pytest.raises(Conflict, match="already running"), turn.taken():
        pass
    with turn.taken():
        pass


@pytest.mark.parametrize("created", ["0001-01-01T00:00:00Z", "yesterday"])
def test_what_does_not_say_when_it_was_made_is_not_old(created: str) -> None:
    assert not PruneFilters({"until": ["1h"]}).match(created, None)
    assert PruneFilters({}).match(created, None)
