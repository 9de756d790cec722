"""``pyengine events``."""

from __future__ import annotations

import sys
import time

from pyengine.cli import formatting, table, units
from pyengine.cli.client import CommandError, filters, json_lines
from pyengine.cli.flags import Flag, Options, command
from pyengine.cli.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def moment(nanoseconds: int) -> str:
    """Local time in RFC 3339 with all nine digits."""
    seconds, rest = divmod(nanoseconds, 10**9)
    local = time.localtime(seconds)
    zone = time.strftime("%z", local)
    zone = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', local)}.{rest:09d}{zone}"


def pretty(event: dict[str, Any]) -> str:
    """One event on one line."""
    actor = event.get("Actor") or {}
    nanoseconds = event.get("timeNano") or event.get("time", 0) * 10**9
    line = f"{event['Type']} {event['Action']} {actor.get('ID', '')}"
    attributes = actor.get("Attributes") or {}
    if attributes:
        line += " (" + ", ".join(f"{key}={attributes[key]}" for key in sorted(attributes)) + ")"
    return f"{moment(nanoseconds)} {line}" if nanoseconds else line


def _fields(event: dict[str, Any]) -> dict[str, Any]:
    """The names that a template may use: the struct's, which differ from JSON's in two."""
    return {
        **{key: event.get(key, "") for key in ("status", "id", "from")},
        "Type": event.get("Type", ""),
        "Action": event.get("Action", ""),
        "Actor": {"ID": "", "Attributes": {}, **(event.get("Actor") or {})},
        "Scope": event.get("scope", ""),
        "Time": event.get("time", 0),
        "TimeNano": event.get("timeNano", 0),
        "Status": event.get("status", ""),
        "ID": event.get("id", ""),
        "From": event.get("from", ""),
    }


@command(
    "[OPTIONS]",
    "Get real time events from the server",
    [
        Flag("after", "", "int", "Show all events behind this number (sequence)"),
        Flag("filter", "f", "filter", "Filter output based on conditions provided"),
        Flag("format", "", "string", table.INSPECT_FORMAT_HELP),
        Flag("since", "", "string", "Show all events created since timestamp"),
        Flag("until", "", "string", "Stream events until this timestamp"),
    ],
    at_most=0,
)
def events(session: Session, options: Options, _: list[str]) -> None:
    format = options["format"]
    whole = format in ("json", "{{json .}}")
    template = None
    if format and not whole:
        try:
            template = formatting.parse_or_64(format)
            formatting.execute_typed(template, _fields({}), "*events.Message")
        except CommandError as error:
            text = str(error).removeprefix("template parsing error: ")
            raise CommandError(f"Error parsing format: {text}", 64)
    query: dict[str, object] = {"filters": filters(options["filter"])}
    if "after" in options.changed:
        query["after"] = options["after"]
    for name in ("since", "until"):
        try:
            query[name] = units.api_timestamp(options[name])
        except ValueError as error:
            raise CommandError(str(error))
    response = session.client.open("GET", "/events", query)
    if whole:
        for raw in response.lines():
            sys.stdout.write(raw.decode() + "\n")
            sys.stdout.flush()
        return
    for event in json_lines(response):
        if template is None:
            line = pretty(event)
        else:
            line = formatting.execute_typed(template, _fields(event), "*events.Message")
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
