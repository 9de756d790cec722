"""Sizes as Docker's users write them."""

from __future__ import annotations

import re

from pyengine.errors import InvalidParameter

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)i?b?", re.IGNORECASE)


def parse_size(text: str | int) -> int:
    """Bytes of ``64m``, ``1.5GiB``, ``1024``: units are powers of 1024 (go-units RAMInBytes).

    ``InvalidParameter`` otherwise.
    """
    if isinstance(text, int):
        return text
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise InvalidParameter(f"invalid size: '{text}'")
    return int(float(match.group(1)) * 1024 ** " kmgtp".index(match.group(2).lower() or " "))
