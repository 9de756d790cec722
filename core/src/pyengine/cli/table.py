"""Listings: a format, rows, and columns that line up as in Docker's CLI."""

from __future__ import annotations

import re
import sys
import unicodedata

from pyengine.cli import gofunctions
from pyengine.cli.client import CommandError
from pyengine.cli.gotemplate import Template, TemplateError
from pyengine.cli.govalues import Header, Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def width(text: str) -> int:
    """Columns that the text takes; East Asian wide characters take two."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def align(text: str, minimum: int = 10, padding: int = 3) -> str:
    """Go's text/tabwriter with blanks: a column is a run of lines that have its cell.

    A cell ends with a tab; what follows the last tab of a line belongs to no column.
    """
    lines = [line.split("\t") for line in text.split("\n")]
    widths: list[list[int]] = [[] for _ in lines]
    _measure(lines, widths, 0, len(lines), 0, minimum, padding)
    out = []
    for cells, sizes in zip(lines, widths, strict=True):
        padded = (
            cell + " " * (size - width(cell)) for cell, size in zip(cells, sizes, strict=False)
        )
        out.append("".join(padded) + cells[-1])
    return "\n".join(out)


def _measure(
    lines: list[list[str]],
    widths: list[list[int]],
    start: int,
    end: int,
    column: int,
    minimum: int,
    padding: int,
) -> None:
    row = start
    while row < end:
        if column >= len(lines[row]) - 1:
            row += 1
            continue
        stop = row
        while stop < end and column < len(lines[stop]) - 1:
            stop += 1
        cells = [lines[index][column] for index in range(row, stop)]
        size = max(minimum, max(width(cell) for cell in cells) + padding)
        if not any(cells):
            size = 0
        for index in range(row, stop):
            widths[index].append(size)
        _measure(lines, widths, row, stop, column + 1, minimum, padding)
        row = stop


def ellipsis(text: str, limit: int) -> str:
    """At most ``limit`` columns, the last one an ellipsis if something was cut."""
    if width(text) <= limit:
        return text
    out, used = "", 0
    for char in text:
        used += width(char)
        if used > limit - 1:
            break
        out += char
    return out + "…"


def short_id(text: str) -> str:
    """Twelve hex digits of an id, without its algorithm."""
    return text.rpartition(":")[2][:12]


def parse_format(text: str) -> Template:
    """A format of the user, with its ``\\t`` and ``\\n``; CommandError if Go would refuse it."""
    if text == "json":
        text = "{{json .}}"
    text = text.removeprefix("table").strip(" ").replace("\\t", "\t").replace("\\n", "\n")
    try:
        return Template(text)
    except TemplateError as error:
        raise CommandError(f"template parsing error: {error}")


def render(format: str, rows: Iterable[Row], headers: dict[str, str]) -> str:
    """Every row through the format; a ``table`` format gets headings and columns."""
    template = parse_format(format)
    try:
        lines = [template.execute(row) for row in rows]
        if not format.startswith("table"):
            return "".join(line + "\n" for line in lines)
        heading = template.execute(Header(headers), functions=gofunctions.HEADER_FUNCTIONS)
    except TemplateError as error:
        raise CommandError(f"template parsing error: {error}")
    return align("".join(line + "\n" for line in [heading, *lines]))


def show(format: str, rows: Iterable[Row], headers: dict[str, str]) -> None:
    """``render`` to standard output."""
    sys.stdout.write(render(format, rows, headers))


def choose_format(given: str, default: str, quiet: bool, quiet_format: str = "{{.ID}}") -> str:
    """The format that ``--format`` and ``--quiet`` ask for together."""
    if given in ("", "table"):
        return quiet_format if quiet else default
    return given


FORMAT_HELP = (
    "Format output using a custom template:\n"
    "'table':            Print output in table format with column headers (default)\n"
    "'table TEMPLATE':   Print output in table format using the given Go template\n"
    "'json':             Print in JSON format\n"
    "'TEMPLATE':         Print output using the given Go template."
)
INSPECT_FORMAT_HELP = (
    "Format output using a custom template:\n"
    "'json':             Print in JSON format\n"
    "'TEMPLATE':         Print output using the given Go template."
)


def labels_text(labels: dict[str, str] | None) -> str:
    """Labels in one column: sorted, comma-separated."""
    return ",".join(sorted(f"{key}={value}" for key, value in (labels or {}).items()))


def natural(text: str) -> list[tuple[int, int, str]]:
    """A sort key in which ``v10`` comes after ``v9``."""
    parts = re.split(r"(\d+)", text)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
