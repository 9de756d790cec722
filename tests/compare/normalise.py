"""What a comparison overlooks: ids, times, addresses, sizes, and where an engine keeps its files.

Anything else that differs needs a line in accepted.toml.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tests.compare.steps import Rule

_AGE = r"(?:(?:About )?an?|Less than a|\d+) (?:second|minute|hour)s?"

_RULES = tuple(
    (re.compile(pattern), value)
    for pattern, value in (
        (r"\b(?!0001-)\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", "<time>"),
        (r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)? [+-]\d{4} [A-Z]+", "<time>"),
        (rf"\b{_AGE}( ago)?", r"<age>\1"),
        (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "<id>"),
        (r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])", "<id>"),
        (r"(?<![0-9a-f])[0-9a-f]{12}(?![0-9a-f])", "<short id>"),
        (r"\b[0-9a-f]{2}(:[0-9a-f]{2}){5}\b", "<mac>"),
        (r"\b(?!0\.0\.0\.0|127\.)\d{1,3}(\.\d{1,3}){3}\b", "<ip>"),
        # A port that the engine chose, from the kernel's ephemeral range.
        (r"(?<=[\d\]:]:)(3[2-9]|4\d|5\d|6[0-5])\d{3}\b", "<port>"),
        (r"\b\d+(\.\d+)?(e\+\d+)?[kMG]?B\b", "<size>"),
        # Columns are as wide as what was overlooked above.
        (r" {2,}", "  "),
        # The CLI's own advice, whose words change with its version.
        (r"\n*(Run|See) 'docker .*--help'( for more information)?\.?\n*", "\n"),
    )
)

_SIZES = {
    "Size",
    "SizeRw",
    "SizeRootFs",
    "VirtualSize",
    "SharedSize",
    "LayersSize",
    "SpaceReclaimed",
}
_TIMES = {"Created", "time", "timeNano"}
_ZERO = (0, -1, "", None)

#: They come in the order of a Go map: `-v` from the CLI, the registries from dockerd.
_UNORDERED = {"Binds", "InsecureRegistryCIDRs"}

#: Lists in which an engine promises no order, by the key that tells their members apart.
_KEYED = {
    "Mounts": "Destination",
    "Volumes": "Name",
    "Components": "Name",
    "Ports": "PrivatePort",
}


def text(value: str, places: Sequence[tuple[str, str]] = (), rules: Sequence[Rule] = ()) -> str:
    """A text without what differs from run to run; ``places`` are paths and their names."""
    for path, name in places:
        value = value.replace(path, name)
    for pattern, replacement in rules:
        value = re.sub(pattern, replacement, value)
    for compiled, replacement in _RULES:
        value = compiled.sub(replacement, value)
    return value


def tree(value: Any, places: Sequence[tuple[str, str]] = (), key: str = "") -> Any:
    """A decoded JSON value without what differs from run to run."""
    if isinstance(value, dict):
        return {text(k, places): tree(v, places, k) for k, v in value.items()}
    if isinstance(value, list):
        if key in _UNORDERED:
            value = sorted(value)
        by = _KEYED.get(key) or next((k for k in ("Path", "Name") if k in _first(value)), None)
        if by and value and all(isinstance(v, dict) and v.get(by) for v in value):
            value = sorted(value, key=lambda v: str(v[by]))
        return [tree(v, places) for v in value]
    if key == "HostPort" and isinstance(value, str) and value.isdigit() and int(value) >= 32768:
        return "<port>"
    if isinstance(value, str):
        return text(value, places)
    if value in _ZERO or isinstance(value, bool):
        return value
    if key in _SIZES:
        return "<size>"
    if key in _TIMES:
        return "<time>"
    if key == "Pid":
        return "<pid>"
    return value


def _first(value: list[Any]) -> Any:
    return value[0] if value and isinstance(value[0], dict) else {}


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """A value as {path: leaf}; an empty object or list is a leaf, for `{}` and `null` differ."""
    if isinstance(value, dict) and value:
        found: dict[str, Any] = {}
        for key, inner in value.items():
            found.update(leaves(inner, f"{path}.{key}" if path else key))
        return found
    if isinstance(value, list) and value:
        found = {}
        for index, inner in enumerate(value):
            found.update(leaves(inner, f"{path}.{index}" if path else str(index)))
        return found
    return {path: value}
