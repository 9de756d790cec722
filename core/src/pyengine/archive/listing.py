"""What a layer's tar says, without its data: entries, and what it removes from the layers below."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from pyengine.archive.reader import (
    BLOCK_DEVICE,
    CHAR,
    DIRECTORY,
    FIFO,
    HARD_LINK,
    REGULAR,
    SYMLINK,
    TarReader,
)
from pyengine.archive.unpack import clean
from pyengine.archive.whiteouts import OPAQUE, WHITEOUT, WHITEOUT_META
from pyengine.errors import InvalidParameter

_KINDS = {
    HARD_LINK: "hardlink",
    SYMLINK: "symlink",
    CHAR: "char",
    BLOCK_DEVICE: "block",
    DIRECTORY: "directory",
    FIFO: "fifo",
    **dict.fromkeys(REGULAR, "file"),
}


class Listed(NamedTuple):
    """One entry of a layer.

    ``kind`` is file, directory, symlink, hardlink, char, block or fifo; or ``whiteout``: ``path``
    is removed from the layers below; or ``opaque``: everything in the directory ``path`` is.
    ``size`` counts the bytes that the layer holds of it (without a sparse file's holes). ``link``:
    the target of a symlink as it is written, that of a hard link as a path like ``path``, which has
    neither a slash nor a dot at its ends. Names that are no UTF-8 have surrogate escapes.
    """

    path: str
    kind: str
    size: int = 0
    mode: int = 0
    uid: int = 0
    gid: int = 0
    link: str = ""


def list_layer(stream: BinaryIO) -> Iterator[Listed]:
    """The entries of an uncompressed layer in their order; the root's own is left out.

    Raises ``InvalidParameter`` for what is no layer.
    """
    for entry in TarReader(stream):
        path = clean(entry.name)
        directory, _, name = path.rpartition(b"/")
        if name.startswith(WHITEOUT_META):
            if name == OPAQUE:
                yield Listed(_text(directory), "opaque")
        elif name.startswith(WHITEOUT):
            removed = path.removesuffix(name) + name.removeprefix(WHITEOUT)
            yield Listed(_text(removed), "whiteout")
        elif path:
            kind = _KINDS.get(entry.type)
            if kind is None:
                raise InvalidParameter(
                    f"invalid tar entry {_text(entry.name)!r}", f"unknown type {entry.type!r}"
                )
            link = clean(entry.link) if kind == "hardlink" else entry.link
            yield Listed(
                _text(path), kind, entry.size, entry.mode, entry.uid, entry.gid, _text(link)
            )


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
