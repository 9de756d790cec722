"""Streams of progress messages: pull, push, import, load."""

from __future__ import annotations

from pyengine.cli import reference, units
from pyengine.cli.client import Client, CommandError, json_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

    from pyengine.cli.http import Response


def describe(message: dict[str, Any]) -> str:
    """One message as a line: id, status, and how far it is."""
    if "stream" in message:
        return str(message["stream"]).rstrip("\n")
    text = str(message.get("status") or "")
    if message.get("id"):
        text = f"{message['id']}: {text}"
    detail = message.get("progressDetail") or {}
    if detail.get("total"):
        current = units.human_size(detail.get("current", 0))
        text += f" {current}/{units.human_size(detail['total'])}"
    return text


def show(response: Response, out: TextIO | None) -> list[Any]:
    """Print messages as they come; CommandError for one that tells of an error.

    On a terminal a step that goes on rewrites its line; elsewhere only its beginning and end
    are printed, as in Docker. Returns what came in ``aux``.
    """
    terminal = out is not None and out.isatty()
    lines: dict[str, int] = {}
    extra: list[Any] = []
    for message in json_lines(response):
        failure = message.get("errorDetail") or message.get("error")
        if failure:
            text = failure.get("message") if isinstance(failure, dict) else failure
            raise CommandError(str(text))
        if message.get("aux") is not None:
            extra.append(message["aux"])
        elif out is not None:
            _print(message, out, terminal, lines)
    if out is not None:
        out.flush()
    return extra


def _print(message: dict[str, Any], out: TextIO, terminal: bool, lines: dict[str, int]) -> None:
    identity = message.get("id")
    text = describe(message)
    if terminal and identity and message.get("status"):
        if identity not in lines:
            lines[identity] = len(lines)
            out.write("\n")
        up = len(lines) - lines[identity]
        out.write(f"\x1b[{up}A\r\x1b[2K{text}\x1b[{up}B\r")
    elif text and (terminal or not message.get("progressDetail")):
        out.write(text + "\n")
    out.flush()


def show_pull(
    client: Client,
    image: str,
    platform: str,
    *,
    quiet: bool,
    out: TextIO,
    all_tags: bool = False,
    headers: dict[str, str] | None = None,
) -> None:
    """Pull an image and show how it goes; CommandError if it fails."""
    name, tag = reference.split(image)
    query = {"fromImage": name, "tag": "" if all_tags else tag or "latest", "platform": platform}
    show(client.open("POST", "/images/create", query, headers=headers), None if quiet else out)
