"""Reading daemon.json: every mistake with its line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec

from pyengine.config.checks import wrong
from pyengine.config.keys import FIELDS, NOT_YET
from pyengine.config.words import nearest


def read(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        text = path.read_text()
        values = json.loads(text) if text.strip() else {}
    except OSError as error:
        problems.append(f"{path}: {error.strerror}")
        return {}
    except json.JSONDecodeError as error:
        problems.append(f"{path}:{error.lineno}: not JSON: {error.msg} (column {error.colno})")
        return {}
    if not isinstance(values, dict):
        problems.append(f"{path}:1: a JSON object is wanted, found {type(values).__name__}")
        return {}
    good: dict[str, Any] = {}
    for key, value in values.items():
        where = f"{path}:{line(text, key)}"
        if key in NOT_YET:
            problems.append(f"{where}: {key!r} is not supported by this version of pyengine")
        elif key not in FIELDS:
            meant = nearest(key, [*FIELDS, *NOT_YET])
            problems.append(f"{where}: unknown key {key!r}{meant}")
        else:
            try:
                msgspec.convert(value, FIELDS[key].type)
                good[key] = value
            except msgspec.ValidationError as error:
                problems.append(f"{where}: {key!r}: {error}; found {json.dumps(value)}")
                continue
            problems += [
                f"{path}:{line(text, key, item)}: {key!r}: {problem}"
                for item, problem in wrong(key, value)
            ]
    return good


def line(text: str, key: str, item: str = "") -> int:
    """Where ``key`` is, or the string ``item`` in its value."""
    match = re.search(rf'"{re.escape(key)}"\s*:', text)
    start = match.start() if match else 0
    if item:
        start = max(start, text.find(json.dumps(item), start))
    return text.count("\n", 0, start) + 1
