"""How a layer says that something is deleted: in its tar, and in overlay's directories."""

from __future__ import annotations

import enum

WHITEOUT = b".wh."
WHITEOUT_META = b".wh..wh."
OPAQUE = b".wh..wh..opq"


class Whiteouts(enum.Enum):
    """How whiteouts look in the directory, against ``.wh.*`` in the tar.

    ``OVERLAY``: 0:0 character devices and the attribute ``trusted.overlay.opaque``;
    ``OVERLAY_USER``: the same with ``user.overlay.opaque``, as in a user namespace;
    ``APPLY``: the directory holds the parent's files, and what is whited out is deleted;
    ``PLAIN``: names that begin with ``.wh.`` are names like any other.
    """

    OVERLAY = "trusted.overlay."
    OVERLAY_USER = "user.overlay."
    APPLY = "apply"
    PLAIN = "plain"

    @property
    def overlay(self) -> bool:
        return self in (Whiteouts.OVERLAY, Whiteouts.OVERLAY_USER)


def is_overlay_xattr(name: str) -> bool:
    """True for attributes by which overlay keeps its books; an image must not bring its own."""
    return name.startswith(("trusted.overlay.", "user.overlay."))
