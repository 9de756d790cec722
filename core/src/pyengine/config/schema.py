"""The JSON schema of daemon.json (``pyengine daemon --schema``), for editors and for checking."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

from pyengine.config.keys import REFUSED, WITHOUT_EFFECT, Config


def schema() -> dict[str, Any]:
    """JSON Schema 2020-12: what :func:`pyengine.config.load` takes, but for what only a look at
    this host can tell."""
    described = msgspec.json.schema(Config)
    # As written in the source, or without its indentation: msgspec's releases differ.
    for definition in described["$defs"].values():
        definition["description"] = inspect.cleandoc(definition.get("description", ""))
    top = described["$defs"].pop("Config")
    for key, reason in WITHOUT_EFFECT.items():
        top["properties"][key] = {"description": f"changes nothing: {reason}"}
    for key, refused in REFUSED.items():
        limit: dict[str, Any] = {"enum": [*refused.nothing]} if refused.nothing else {"not": {}}
        top["properties"][key] = {"description": f"refused: {refused.reason}", **limit}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": described["$defs"],
        **top,
        "title": "pyengine daemon.json",
        "description": "Docker's keys, and pyengine's own: drivers, registries.",
    }
