"""Sizes as Docker's users write them (the Go package ``docker/go-units``)."""

from __future__ import annotations

import re

_SIZE = re.compile(r"(\d+\.?\d*|\.\d+) ?([a-z]*)", re.ASCII | re.IGNORECASE)
#: What is larger is as large as this: no disk holds it.
LARGEST = 1 << 62


def parse(text: str, thousand: int = 1000) -> int:
    """Bytes, of what Docker's go-units reads: ``20m``, ``1.5 GB``, ``64KiB``; all three units come
    to the same power of ``thousand``; at most :data:`LARGEST`. ``ValueError`` in its words."""
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError(f"invalid size: '{text}'")
    number, unit = float(match[1]), match[2].lower()
    if unit not in ("", "b"):
        power = "kmgtp".find(unit[0]) + 1
        if not power or unit[1:] not in ("", "b", "ib"):
            raise ValueError(f"invalid suffix: '{unit}'")
        number *= thousand**power
    return int(min(number, float(LARGEST)))
