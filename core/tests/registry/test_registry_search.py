"""Searches go where dockerd sends them, and come back as it gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from aiohttp import web

from pyengine.errors import InvalidParameter, Unavailable
from pyengine.registry.client import Registries
from pyengine.registry.models import Credentials, SearchResult
from pyengine.registry.search import split_term
from pyengine.testing.registry import SmallRegistry

FOUND = [
    {"name": "busybox", "description": "small", "star_count": 100, "is_official": True},
    {"name": "me/busybox", "description": None, "star_count": 3, "is_automated": True},
    {"name": "you/busybox"},
]


@pytest.fixture
def index(registry: SmallRegistry) -> list[Any]:
    """The registry searches; what it was asked."""
    asked: list[Any] = []

    async def search(request: Any) -> web.Response:
        asked.append((request.path, dict(request.query), request.headers.get("Authorization")))
        return web.json_response({"num_results": len(FOUND), "results": FOUND})

    registry.intercept = search
    return asked


async def test_search(
    registry: SmallRegistry, index: list[Any], engine: Callable[..., Registries]
) -> None:
    who = Credentials(username="u", password="p")
    found = await engine().search(f"{registry.host}/busy box", 7, who, {})
    assert found[0] == SearchResult(
        name="busybox", description="small", star_count=100, is_official=True
    )
    assert [result.name for result in found] == ["busybox", "me/busybox", "you/busybox"]
    assert not any(result.is_automated for result in found)
    assert index == [("/v1/search", {"q": "busy box", "n": "7"}, "Basic dTpw")]


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({"is-official": ["true"]}, ["busybox"]),
        ({"is-official": ["0"]}, ["me/busybox", "you/busybox"]),
        ({"stars": ["2", "50"]}, ["busybox"]),
        ({"stars": ["3"]}, ["busybox", "me/busybox"]),
        ({"is-automated": ["true"]}, []),
        ({"is-automated": ["false"], "stars": ["3"]}, ["busybox", "me/busybox"]),
    ],
)
async def test_filters(
    registry: SmallRegistry,
    index: list[Any],
    engine: Callable[..., Registries],
    filters: Mapping[str, list[str]],
    names: list[str],
) -> None:
    found = await engine().search(f"{registry.host}/x", 0, None, filters)
    assert [result.name for result in found] == names
    assert index == [] or index[0][1]["n"] == "25"


@pytest.mark.parametrize(
    ("term", "limit", "filters", "words"),
    [
        ("x", 101, {}, r"limit 101 is outside the range of \[1, 100\]"),
        ("x", -1, {}, "limit -1 is outside"),
        ("http://x", 1, {}, r"repository name \(http://x\) should not have a scheme"),
        ("x", 1, {"stars": ["many"]}, "invalid filter 'stars=many'"),
        ("x", 1, {"is-official": ["maybe"]}, "invalid filter 'is-official"),
        ("x", 1, {"colour": ["red"]}, "invalid filter 'colour'"),
    ],
)
async def test_what_is_refused(
    engine: Callable[..., Registries], term: str, limit: int, filters: Any, words: str
) -> None:
    with pytest.raises(InvalidParameter, match=words):
        await engine().search(term, limit, None, filters)


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (web.Response(status=404), "unexpected status code 404"),
        (web.Response(body=b"<html>"), "error decoding registry search results"),
        (web.Response(body=b"[]"), "error decoding registry search results"),
        (web.Response(body=b'{"results": [1]}'), "error decoding registry search results"),
    ],
)
async def test_registries_that_cannot_search(
    registry: SmallRegistry, engine: Callable[..., Registries], response: Any, words: str
) -> None:
    async def answer(request: Any) -> Any:
        return response

    registry.intercept = answer
    with pytest.raises(Unavailable, match=words):
        await engine().search(f"{registry.host}/x", 0, None, {})


@pytest.mark.parametrize(
    ("term", "where"),
    [
        ("busybox", ("docker.io", "busybox")),
        ("library/busybox", ("docker.io", "busybox")),
        ("me/busybox", ("docker.io", "me/busybox")),
        ("reg.example/busybox", ("reg.example", "busybox")),
        ("localhost/library/x", ("localhost", "library/x")),
        ("docker.io/library/x", ("docker.io", "x")),
    ],
)
def test_terms(term: str, where: tuple[str, str]) -> None:
    assert split_term(term) == where
