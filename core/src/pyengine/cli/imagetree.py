"""``images --tree``: images with their names above one another and their platforms below."""

from __future__ import annotations

import shutil

from pyengine.cli import units
from pyengine.cli.table import ellipsis, short_id, width

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_GAP = "   "
#: Title, width and whether it stands at the right; the name's column comes before them.
_COLUMNS = (
    *(("ID", 12, False), ("DISK USAGE", 10, True), ("CONTENT SIZE", 12, True)),
    ("EXTRA", 5, False),
)
#: The name's column does not get narrower for another.
_NARROWEST = 12
_USED = "U"


class _Line:
    """A line with all columns. ``names`` stand above it, without any."""

    def __init__(self, name: str, names: list[str], cells: list[str]) -> None:
        self.name, self.names, self.cells = name, names, cells


def _cells(id: str, total: int, content: int, used: bool) -> list[str]:
    sizes = [units.human_size(size, 3) for size in (total, content)]
    return [short_id(id), *sizes, _USED if used else ""]


def _platform(platform: dict[str, Any]) -> str:
    parts = (platform.get(part) for part in ("os", "architecture", "variant"))
    return "/".join(part for part in parts if part)


def _lines(image: dict[str, Any]) -> list[_Line]:
    """An image (of ``GET /images/json`` with its manifests) and its platforms."""
    manifests = image.get("Manifests") or []
    members, used = [], image.get("Containers", -1) > 0
    for manifest in manifests:
        if manifest.get("Kind") != "image":
            continue
        data, size = manifest.get("ImageData") or {}, manifest["Size"]
        mine = bool(data.get("Containers"))
        used = used or mine
        cells = _cells(manifest["ID"], size["Total"], size["Content"], mine)
        members.append(_Line(_platform(data.get("Platform") or {}), [], cells))
    for number, member in enumerate(members):
        member.name = ("└─ " if number == len(members) - 1 else "├─ ") + member.name
    content = sum(manifest["Size"]["Content"] for manifest in manifests)
    names = sorted(image.get("RepoTags") or ["<untagged>"], key=len, reverse=True)
    cells = _cells(image["Id"], image["Size"], content, used)
    return [_Line(names[-1], names[:-1], cells), *members]


def render(images: list[dict[str, Any]]) -> str:
    """The tree, newest image first, as wide as the terminal."""
    room = shutil.get_terminal_size().columns
    legend = f"Info ->  {_USED} In Use "
    groups = [_lines(image) for image in sorted(images, key=lambda i: i["Created"], reverse=True)]
    columns, left = list[tuple[str, int, bool]](), room
    for column in _COLUMNS:
        left -= column[1] + len(_GAP)
        if left < _NARROWEST:
            left += column[1] + len(_GAP)
            break
        columns.append(column)
    names = (name for lines in groups for line in lines for name in (line.name, *line.names))
    first = min(left, max((width(name) for name in ("IMAGE", *names)), default=0))

    def row(name: str, cells: list[str]) -> str:
        text = ellipsis(name, first)
        parts = [text + " " * (first - width(text))]
        for cell, (_, size, right) in zip(cells, columns, strict=False):
            parts.append(cell.rjust(size) if right else cell.ljust(size))
        return _GAP.join(parts)

    out = [legend.rjust(room), "", row("IMAGE", [title for title, _, _ in columns])]
    spaced = any(len(lines) > 1 for lines in groups)
    for lines in groups:
        out += [ellipsis(name, room) for name in lines[0].names]
        out += [row(line.name, line.cells) for line in lines]
        out += [""] if spaced else []
    return "".join(line.rstrip() + "\n" for line in out)
