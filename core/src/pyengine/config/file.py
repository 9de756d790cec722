"""Reading daemon.json: every mistake with its line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec

from pyengine.config.checks import wrong
from pyengine.config.keys import FIELDS, REFUSED, WITHOUT_EFFECT
from pyengine.config.words import nearest


def read(path: Path, problems: list[str], notes: list[str]) -> dict[str, Any]:
    """The values of the keys that are known and right. ``problems`` and ``notes`` get a line for
    each mistake, and for each key that changes nothing."""
    try:
        text = path.read_text()
        pairs = json.loads(text, object_pairs_hook=_Pairs) if text.strip() else _Pairs(())
    except OSError as error:
        problems.append(f"{path}: {error.strerror}")
        return {}
    except json.JSONDecodeError as error:
        problems.append(f"{path}:{error.lineno}: not JSON: {error.msg} (column {error.colno})")
        return {}
    if not isinstance(pairs, _Pairs):
        problems.append(f"{path}:1: a JSON object is wanted, found {type(pairs).__name__}")
        return {}
    values = pairs.plain()
    for key in pairs.doubles():
        problems.append(f"{path}:{line(text, key)}: {key!r} is there more than once")
    good: dict[str, Any] = {}
    for key, value in values.items():
        where = f"{path}:{line(text, key)}"
        if key in WITHOUT_EFFECT:
            notes.append(f"{where}: {key!r} changes nothing: {WITHOUT_EFFECT[key]}")
        elif key in REFUSED:
            if value not in REFUSED[key].nothing:
                problems.append(
                    f"{where}: {key!r} is not supported by pyengine: {REFUSED[key].reason}; found "
                    f"{json.dumps(value)}"
                )
        elif key not in FIELDS:
            meant = nearest(key, [*FIELDS, *REFUSED, *WITHOUT_EFFECT])
            problems.append(f"{where}: unknown key {key!r}{meant}")
        elif value is not None:  # which is the default, as to dockerd
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


class _Pairs(tuple[tuple[str, Any], ...]):
    """An object as it is written: JSON takes the last of several values of one key, silently."""

    def plain(self) -> dict[str, Any]:
        return {key: _plain(value) for key, value in self}

    def doubles(self) -> list[str]:
        names = [key for key, _ in self]
        return sorted({name for name in names if names.count(name) > 1})


def _plain(value: Any) -> Any:
    if isinstance(value, _Pairs):
        return value.plain()
    return [_plain(item) for item in value] if isinstance(value, list) else value


def line(text: str, key: str, item: str = "") -> int:
    """Where ``key`` is, or the string ``item`` in its value."""
    match = re.search(rf'"{re.escape(key)}"\s*:', text)
    start = match.start() if match else 0
    if item:
        start = max(start, text.find(json.dumps(item), start))
    return text.count("\n", 0, start) + 1
