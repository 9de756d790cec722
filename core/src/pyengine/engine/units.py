"""Sizes in the engine's configuration and in requests."""

from __future__ import annotations

from pyengine import sizes
from pyengine.errors import InvalidParameter


def parse_size(text: str | int) -> int:
    """Bytes of ``64m``, ``1.5GiB``, ``1024``: units are powers of 1024.

    ``InvalidParameter`` otherwise.
    """
    if isinstance(text, int):
        return text
    try:
        return sizes.parse(text.strip(), 1024)
    except ValueError as error:
        raise InvalidParameter(f"invalid size: '{text}'") from error
