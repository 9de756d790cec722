"""The layers of an image as the engine lists them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from pyengine.cli.client import Client, CommandError, quote
from pyengine_cli_explore.history import BadLayer, Entry, History, Layer


def read(client: Client, name: str) -> History:
    """Ask the engine about an image. CommandError if it does not know it, or breaks off."""
    response = client.open("GET", f"/pyengine/images/{quote(name)}/layers")
    try:
        return history(json.loads(line) for line in response.lines())
    except (BadLayer, ValueError, KeyError, TypeError) as error:
        raise CommandError(f"cannot make sense of the layers of {name}: {error}")


def history(lines: Iterable[dict[str, Any]]) -> History:
    """The lines of ``GET /pyengine/images/NAME/layers``: the image, then each layer with its
    entries, lowest first, then ``end``. ValueError if that is missing."""
    source = iter(lines)
    image = next(source)["image"]
    found = History(image["id"], image["names"])
    line = next(source)
    while "layer" in line:
        layer = Layer(len(found.layers), **line["layer"])
        entries = _Entries(source)
        found.add(layer, entries)
        line = entries.next
    if "end" not in line:
        raise ValueError("the list has been cut short")
    found.finish()
    return found


class _Entries(Iterator[Entry]):
    """The entries up to the line that is none, which is kept in ``next``."""

    def __init__(self, source: Iterator[dict[str, Any]]) -> None:
        self._source = source
        self.next: dict[str, Any] = {}

    def __next__(self) -> Entry:
        line = next(self._source)
        if "path" not in line:
            self.next = line
            raise StopIteration
        return Entry(**line)
