"""Streams of progress messages: pull, push, import, load."""

from __future__ import annotations

import os
import re

from pyengine.cli import reference
from pyengine.cli.client import CommandError, json_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, BinaryIO, TextIO

    from pyengine.cli.bars import Bars
    from pyengine.cli.http import Response
    from pyengine.cli.session import Session

_CHUNK = 1 << 20
#: What our engine says when it is not the registry itself that it asks.
_MIRROR = re.compile(r"Using (\S+), a mirror of ")


def describe(message: dict[str, Any]) -> str:
    """One message as a line: id and status, or what a stream says."""
    if "stream" in message:
        return str(message["stream"]).rstrip("\n")
    text = str(message.get("status") or "")
    return f"{message['id']}: {text}" if message.get("id") else text


def show(response: Response, out: TextIO | None, source: str = "") -> list[Any]:
    """Print messages as they come; CommandError for one that tells of an error.

    On a terminal the layers' steps are drawn as bars, and ``source`` says where the bytes come from
    or go to; elsewhere only the steps' beginnings and ends are printed, as in Docker. Returns what
    came in ``aux``.
    """
    bars = _bars(out, source)
    extra: list[Any] = []
    try:
        for message in json_lines(response):
            failure = message.get("errorDetail") or message.get("error")
            if failure:
                text = failure.get("message") if isinstance(failure, dict) else failure
                raise CommandError(str(text))
            if message.get("aux") is not None:
                extra.append(message["aux"])
            elif out is not None:
                _print(message, out, bars)
    finally:
        if bars is not None:
            bars.close()
    if out is not None:
        out.flush()
    return extra


def _bars(out: TextIO | None, source: str, noun: str = "layers") -> Bars | None:
    if out is None or not out.isatty() or os.environ.get("TERM") == "dumb":
        return None
    from pyengine.cli.bars import Bars

    return Bars(out, source, noun)


def _print(message: dict[str, Any], out: TextIO, bars: Bars | None) -> None:
    text = describe(message)
    if bars is not None:
        if message.get("id") and message.get("status") and "progressDetail" in message:
            bars.update(message)
        elif text:
            bars.print(text)
            mirror = _MIRROR.match(text)
            bars.source = f"from {mirror[1]}" if mirror else bars.source
    elif text and not message.get("progressDetail"):
        out.write(text + "\n")
        out.flush()


def show_pull(
    session: Session,
    image: str,
    platform: str,
    *,
    quiet: bool,
    out: TextIO,
    all_tags: bool = False,
) -> None:
    """Pull an image and show how it goes; CommandError if it fails."""
    from pyengine.cli import credentials

    name, tag = reference.split(image)
    if "@" in image:
        # The digest says it all, whatever tag stands before it.
        name = reference.split(name)[0]
    query = {"fromImage": name, "tag": "" if all_tags else tag or "latest", "platform": platform}
    headers = credentials.header(session, image)
    response = session.client.open("POST", "/images/create", query, headers=headers)
    server = reference.normalize(name).partition("/")[0]
    show(response, None if quiet else out, f"from {server}")


def upload(file: BinaryIO, out: TextIO | None) -> Iterator[bytes]:
    """The file in pieces; on a terminal a bar tells how much of it has been sent."""
    bars = _bars(out, "", noun="")
    size = os.fstat(file.fileno()).st_size if bars is not None else 0
    sent = 0
    while data := file.read(_CHUNK):
        yield data
        sent += len(data)
        if bars is not None:
            detail = {"current": sent, "total": size}
            bars.update({"id": "archive", "status": "Sending", "progressDetail": detail})
    if bars is not None:
        bars.close()
