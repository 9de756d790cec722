"""The layers of an image as the engine lists them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pyengine.cli.client import Client, CommandError, quote
from pyengine_cli_explore.history import BadLayer, Entry, History, Layer


def read(client: Client, name: str) -> History:
    """Ask the engine about an image. CommandError if it does not know it, or breaks off."""
    response = client.open("GET", f"/pyengine/images/{quote(name)}/layers")
    try:
        return history(json.loads(line) for line in response.lines())
    except (BadLayer, ValueError) as error:
        raise CommandError(f"cannot make sense of the layers of {name}: {error}")


def history(lines: Iterable[dict[str, Any]]) -> History:
    """The lines of ``GET /pyengine/images/NAME/layers``: the image, then each layer with its
    entries, lowest first, then ``end``. ValueError if that is missing; CommandError if it is an
    ``error`` instead."""
    found = History()
    layer: Layer | None = None
    entries: list[Entry] = []
    for line in lines:
        if "path" in line:
            entries.append(Entry(**line))
            continue
        if "error" in line:
            raise CommandError(line["error"])
        if layer is not None:
            found.add(layer, entries)
        if "end" in line:
            found.finish()
            return found
        if "image" in line:
            found.image, found.names = line["image"]["id"], line["image"]["names"]
        else:
            layer, entries = Layer(len(found.layers), **line["layer"]), []
    raise ValueError("the list has been cut short")
