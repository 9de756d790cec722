"""``docker search``: version 1 of the index API, which docker.io and a few others still serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

from pyengine.errors import InvalidParameter, Unavailable
from pyengine.registry import names
from pyengine.registry.auth import basic
from pyengine.registry.failures import Failure
from pyengine.registry.hosts import Endpoint
from pyengine.registry.models import Credentials, SearchResult, parse_json
from pyengine.registry.session import Transport, read

DEFAULT_LIMIT = 25
LIMIT = 100
#: Longest answer, in bytes.
MAX_ANSWER = 16 << 20

_TRUE = {"1", "t", "T", "TRUE", "true", "True"}
_FALSE = {"0", "f", "F", "FALSE", "false", "False"}


class Filters:
    """Docker's filters of a search; ``InvalidParameter`` for others."""

    def __init__(self, filters: Mapping[str, Sequence[str]]) -> None:
        for name in filters:
            if name not in ("is-automated", "is-official", "stars"):
                raise InvalidParameter(f"invalid filter '{name}'")
        self._official = _boolean(filters, "is-official")
        self.automated = _boolean(filters, "is-automated")
        self._stars = 0
        for text in filters.get("stars", ()):
            if not text.lstrip("-").isdigit():
                raise InvalidParameter(f"invalid filter 'stars={text}'")
            self._stars = max(self._stars, int(text))

    def match(self, result: SearchResult) -> bool:
        if self._official is not None and result.is_official != self._official:
            return False
        return result.star_count >= self._stars


def _boolean(filters: Mapping[str, Sequence[str]], name: str) -> bool | None:
    values = set(filters.get(name, ()))
    if not values:
        return None
    if len(values) > 1 or not values <= _TRUE | _FALSE:
        raise InvalidParameter(f"invalid filter '{name}={sorted(values)}'")
    return values <= _TRUE


def split_term(term: str) -> tuple[str, str]:
    """(registry, what to look for there)."""
    if "://" in term:
        raise InvalidParameter(
            f"invalid repository name: repository name ({term}) should not have a scheme"
        )
    first, slash, rest = term.partition("/")
    if not slash or not (set(first) & set(".:") or first == "localhost"):
        return names.DEFAULT_REGISTRY, term.removeprefix("library/")
    domain = names.normalize(first)
    return domain, rest.removeprefix("library/") if domain == names.DEFAULT_REGISTRY else rest


def check_limit(limit: int) -> int:
    """0 is the default; ``InvalidParameter``."""
    limit = limit or DEFAULT_LIMIT
    if not 1 <= limit <= LIMIT:
        raise InvalidParameter(f"limit {limit} is outside the range of [1, {LIMIT}]")
    return limit


async def search(
    transport: Transport,
    endpoints: Sequence[Endpoint],
    term: str,
    limit: int,
    credentials: Credentials | None,
) -> list[SearchResult]:
    """What the first of ``endpoints`` that answers has found."""
    headers = {"X-Docker-Token": "true"}
    if credentials is not None and credentials.username:
        headers["Authorization"] = basic(credentials.username, credentials.password)
    query = urlencode({"q": term, "n": limit})
    failed: Failure | None = None
    for endpoint in endpoints:
        url = f"{endpoint.url}/v1/search?{query}"
        try:
            async with transport.exchange(endpoint, "GET", url, headers) as response:
                if response.status != 200:
                    raise Unavailable(
                        f"unexpected status code {response.status}", f"from {endpoint.host}"
                    )
                return _results(await read(response, MAX_ANSWER))
        except Failure as failure:
            failed = failure
    assert failed is not None
    raise Unavailable(failed.text, help=failed.help) from failed


def _results(data: bytes) -> list[SearchResult]:
    try:
        items = parse_json(data)["results"] or []
        return [
            SearchResult(
                name=str(item["name"]),
                description=str(item.get("description") or ""),
                star_count=int(item.get("star_count") or 0),
                is_official=bool(item.get("is_official")),
            )
            for item in items
        ]
    except (ValueError, OverflowError, KeyError, TypeError, AttributeError) as error:
        raise Unavailable("error decoding registry search results", str(error)) from error
