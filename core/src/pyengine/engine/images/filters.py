"""``docker images --filter``: which images a list shows, and by which of their names."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from pyengine import timestamps
from pyengine.engine.images.records import Image
from pyengine.errors import InvalidParameter
from pyengine.oci import reference

Filters = Mapping[str, Sequence[str]]

KNOWN = frozenset({"dangling", "label", "before", "since", "reference", "until"})


def select(
    images: Mapping[str, Image], filters: Filters, all: bool, find: Callable[[str], Image]
) -> list[Image]:
    """Newest first. Without ``all``, images without a name that others are built upon are left out.

    Raises ``InvalidParameter`` for a filter or value that does not exist, ``NotFound`` for the
    image that ``before`` or ``since`` names.
    """
    for name in filters:
        if name not in KNOWN:
            raise InvalidParameter(f"invalid filter '{name}'")
    dangling = _dangling(filters)
    until = [_until(value) for value in filters.get("until", ())]
    before = [_created(find(ref)) for ref in filters.get("before", ())] + until
    since = [_created(find(ref)) for ref in filters.get("since", ())]
    patterns = [_glob(pattern) for pattern in filters.get("reference", ())]
    parents = {image.parent for image in images.values()}

    def shown(image: Image) -> Image | None:
        created = _created(image)
        if any(created >= moment for moment in before) or any(created <= m for m in since):
            return None
        if not _has_labels(image, filters.get("label", ())):
            return None
        names = [n for n in image.references if not patterns or _matches(n, patterns)]
        if not names:
            if patterns or dangling is False or (image.id in parents and (dangling or not all)):
                return None
        elif dangling and any(reference.parse(name).tag for name in names):
            return None
        return image if not patterns else msgspec.structs.replace(image, references=names)

    found = [image for image in map(shown, images.values()) if image is not None]
    return sorted(found, key=_created, reverse=True)


def _dangling(filters: Filters) -> bool | None:
    values = filters.get("dangling")
    if not values:
        return None
    meanings = {"1": True, "true": True, "0": False, "false": False}
    if len(values) != 1 or values[0].lower() not in meanings:
        raise InvalidParameter(f"invalid filter 'dangling=[{' '.join(values)}]'")
    return meanings[values[0].lower()]


def _until(text: str) -> int:
    try:
        if not text:
            raise ValueError
        return timestamps.parse_query(text, time.time_ns())
    except ValueError:
        raise InvalidParameter(f'failed to parse value as time or duration: "{text}"') from None


def _created(image: Image) -> int:
    try:
        return timestamps.parse(image.created)
    except ValueError:
        return 0


def _has_labels(image: Image, wanted: Iterable[str]) -> bool:
    labels = image.config.labels or {}
    return all(
        labels.get(key) == value if equals else key in labels
        for key, equals, value in (item.partition("=") for item in wanted)
    )


def _matches(name: str, patterns: Iterable[re.Pattern[str]]) -> bool:
    parsed = reference.parse(name)
    forms = (parsed.familiar, parsed.familiar_name)
    return any(pattern.fullmatch(form) for pattern in patterns for form in forms)


def _glob(pattern: str) -> re.Pattern[str]:
    """Go's path.Match: ``*`` and ``?`` stop at slashes."""
    out, position = "", 0
    while position < len(pattern):
        char = pattern[position]
        if char == "*":
            out += "[^/]*"
        elif char == "?":
            out += "[^/]"
        elif char == "[":
            end = pattern.find("]", position + 2)
            if end < 0:
                raise InvalidParameter("syntax error in pattern")
            inside = pattern[position + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            out += f"(?!/)[{inside}]"
            position = end
        elif char == "\\" and position + 1 < len(pattern):
            position += 1
            out += re.escape(pattern[position])
        else:
            out += re.escape(char)
        position += 1
    try:
        return re.compile(out)
    except re.error:
        raise InvalidParameter("syntax error in pattern") from None
