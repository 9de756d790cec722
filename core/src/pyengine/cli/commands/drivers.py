"""``pyengine drivers``: what is installed, what this host can run, and what is missing."""

from __future__ import annotations

import sys

from pyengine.cli import table
from pyengine.cli.client import CommandError
from pyengine.cli.flags import Flag, Options, command
from pyengine.cli.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyengine.drivers import DriverStatus

_COLUMNS = ("KIND", "NAME", "PACKAGE", "VERSION", "AVAILABLE")


def rows(found: list[DriverStatus]) -> str:
    """The table, and below it a paragraph for every driver that is not available."""
    lines = ["\t".join(_COLUMNS) + "\t"]
    for status in found:
        available = "yes" if status.available else "no"
        name = f"{status.name} *" if status.chosen else status.name
        cells = (status.kind, name, status.package, status.version, available)
        lines.append("\t".join(cells) + "\t")
    text = table.align("\n".join([*lines, ""]), minimum=8, padding=3)
    text = "\n".join(line.rstrip() for line in text.split("\n"))
    if any(status.chosen for status in found):
        text += "\n* configured for this engine\n"
    for status in found:
        if not status.available:
            text += f"\n{status.kind} {status.name}: {status.reason}\n"
            if status.help:
                text += f"  {status.help}\n"
    return text


@command(
    "[OPTIONS] [KIND]",
    "List the installed drivers and whether this host can run them",
    [Flag("format", "", "string", "Output format: table or json", default="table")],
    at_most=1,
)
def drivers(session: Session, options: Options, arguments: list[str]) -> int:
    from pyengine import config
    from pyengine.contracts.base import Kind
    from pyengine.drivers import survey

    if options["format"] not in ("table", "json"):
        raise CommandError(f'unknown format "{options["format"]}": must be "table" or "json"')
    try:
        kinds = [Kind(word) for word in arguments] or list(Kind)
    except ValueError:
        known = ", ".join(kind.value for kind in Kind)
        raise CommandError(f'no driver is of kind "{arguments[0]}"; the kinds are {known}')
    flags = [word for driver in session.options["driver"] for word in ("--driver", driver)]
    choices = config.load(flags).config.choices()
    chosen = {kind: [choice.name] for kind, choice in choices.items() if choice.name}
    found = survey(kinds, chosen)
    if options["format"] == "json":
        import msgspec

        sys.stdout.write(msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n")
    else:
        sys.stdout.write(rows(found))
    return 0
