"""``pyengine search``."""

from __future__ import annotations

from pyengine.cli import credentials, table
from pyengine.cli.client import filters
from pyengine.cli.flags import Flag, Options, command
from pyengine.cli.govalues import Row
from pyengine.cli.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TABLE = "table {{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}"


class SearchRow(Row):
    """A repository that was found, as ``--format`` sees it."""

    HEADERS = {
        "Name": "NAME",
        "Description": "DESCRIPTION",
        "StarCount": "STARS",
        "IsOfficial": "OFFICIAL",
    }
    type_name = "*registry.searchContext"

    def __init__(self, result: dict[str, Any], trunc: bool) -> None:
        self._r, self._trunc = result, trunc

    def Name(self) -> str:
        return str(self._r["name"])

    def Description(self) -> str:
        text = str(self._r.get("description") or "").replace("\n", " ").replace("\r", " ")
        return table.ellipsis(text, 45) if self._trunc else text

    def StarCount(self) -> str:
        return str(self._r.get("star_count") or 0)

    def IsOfficial(self) -> str:
        return "[OK]" if self._r.get("is_official") else ""

    def fields(self) -> dict[str, Any]:
        official = str(bool(self._r.get("is_official"))).lower()
        return {**super().fields(), "IsOfficial": official}


@command(
    "[OPTIONS] TERM",
    "Search Docker Hub for images",
    [
        Flag("filter", "f", "filter", "Filter output based on conditions provided"),
        Flag("format", "", "string", "Pretty-print search using a Go template"),
        Flag("limit", "", "int", "Max number of search results"),
        Flag("no-trunc", "", "bool", "Don't truncate output"),
    ],
    at_least=1,
    at_most=1,
)
def search(session: Session, options: Options, arguments: list[str]) -> None:
    term = arguments[0]
    query = {
        "term": term,
        "limit": options["limit"] or None,
        "filters": filters(options["filter"]),
    }
    headers = credentials.header(session, term)
    found = session.client.call("GET", "/images/search", query, headers=headers)
    format = table.choose_format(options["format"], _TABLE, quiet=False)
    rows = [SearchRow(result, not options["no-trunc"]) for result in found or []]
    table.show(format, rows, SearchRow.HEADERS)
