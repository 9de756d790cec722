"""Help texts in the layout of Docker's CLI."""

from __future__ import annotations

import shutil

from pyengine.cli.flags import HELP, Command, Flag


def command_help(command: Command) -> str:
    """The text of ``pyengine COMMAND --help``."""
    parts = [f"Usage:  {command.path} {command.usage}".rstrip(), "", command.short]
    parts += ["", command.long] if command.long else []
    if len(command.aliases) > 1:
        parts += ["", "Aliases:", "  " + ", ".join(command.aliases)]
    # -h usually shows the help too; where it means something else, --help is worth a line.
    taken = any(flag.short == "h" for flag in command.flags)
    flags = [flag for flag in command.flags if not flag.hidden or (taken and flag is HELP)]
    if flags:
        parts += ["", "Options:", *options(flags)]
    return "\n".join(parts)


def options(flags: list[Flag]) -> list[str]:
    """The flags, one a line, wrapped to the terminal."""
    rows = [(_left(flag), _right(flag)) for flag in sorted(flags, key=lambda flag: flag.name)]
    return columns(rows)


def _left(flag: Flag) -> str:
    short = f"-{flag.short}, " if flag.short else "    "
    kind = {"bool": "", "swap": "bytes", "uint": "uint"}.get(flag.kind, flag.kind)
    return f"  {short}--{flag.name}" + (f" {kind}" if kind else "")


def _right(flag: Flag) -> str:
    default = flag.default
    if default is None or default in (False, "") or default == 0:
        return flag.help
    shown = f'"{default}"' if isinstance(default, str) else str(default).lower()
    return f"{flag.help} (default {shown})"


def columns(rows: list[tuple[str, str]]) -> list[str]:
    """Two columns, the second wrapped to what the terminal leaves."""
    left = max(len(row[0]) for row in rows) + 3
    room = max(shutil.get_terminal_size().columns - left, 24)
    lines: list[str] = []
    for name, text in rows:
        wrapped = _wrap(text, room)
        lines.append(name.ljust(left) + wrapped[0])
        lines += [" " * left + line for line in wrapped[1:]]
    return [line.rstrip() for line in lines]


def _wrap(text: str, room: int) -> list[str]:
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            if line and len(line) + 1 + len(word) > room:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}" if line else word
        lines.append(line)
    return lines
