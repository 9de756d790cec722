"""An image's history as plain text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pyengine.cli import table
from pyengine.cli.units import human_size
from pyengine_cli_explore.differences import Item, changes, difference, summary
from pyengine_cli_explore.history import History, Layer, Loss

LETTERS = {"added": "A", "changed": "C", "removed": "D", "unchanged": " "}


def printable(text: str) -> str:
    """A path as it can be shown: no control characters, nothing that cannot be encoded."""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def command_text(created_by: str) -> str:
    """What made a layer, without what the classic builder puts around it."""
    text = created_by.removeprefix("/bin/sh -c ").strip()
    return printable(" ".join(text.removeprefix("#(nop)").split()))


def size_text(item: Item) -> str:
    """``4.5MB``, and how many files where there are more: ``4.5MB in 12 files``."""
    if item.is_directory:
        files = f"{item.files} file{'s' if item.files != 1 else ''}"
        return f"{human_size(item.size, 3)} in {files}"
    if item.version.kind in ("symlink", "hardlink"):
        arrow = "->" if item.version.kind == "symlink" else "="
        return f"{arrow} {printable(item.version.link)}"
    if item.version.kind == "file":
        return human_size(item.version.size, 3)
    return item.version.kind


def text(history: History, *, full: bool = False) -> Iterator[str]:
    """Lines: the image, its layers, what each of them does, and which files are wasted.

    A directory that is wholly new or gone is one line, unless ``full``.
    """
    yield f"Image:       {', '.join([*history.names, history.image])}"
    yield f"Layers:      {len(history.layers)}, with {human_size(history.stored)} in files"
    yield f"Wasted:      {human_size(history.wasted)}"
    yield f"Efficiency:  {history.efficiency:.1%}"
    yield ""
    rows = ["LAYER\tADDED\tCHANGED\tREMOVED\tIN FILES\tWASTED\tCOMPRESSED\tCREATED BY"]
    rows += [
        f"{layer.index}\t{layer.added}\t{layer.changed}\t{layer.removed}\t"
        f"{human_size(layer.stored, 3)}\t{human_size(layer.wasted, 3)}\t"
        f"{human_size(layer.size, 3)}\t{table.ellipsis(command_text(layer.created_by), 45)}"
        for layer in history.layers
    ]
    yield from table.align("\n".join(rows), 1).split("\n")
    for layer in history.layers:
        yield ""
        yield f"Layer {layer.index}: {layer.digest}"
        top = difference(history, layer.index - 1, layer.index, sparse=True)
        for item in changes(top) if full else summary(top):
            yield f"  {LETTERS[item.change]} {_line(item)}"
    yield ""
    yield from _wasted(history)


def _line(item: Item) -> str:
    path = printable(item.node.path)
    if not item.is_directory:
        return f"{path}  {size_text(item)}"
    if item.change == "changed":
        version = item.version
        return f"{path}/  {version.mode:04o} {version.uid}:{version.gid}"
    return f"{path}/  {size_text(item)}"


def _wasted(history: History) -> Iterator[str]:
    if not history.losses:
        yield "Nothing is wasted."
        return
    rows = ["WASTED\tPATH\tSTORED BY\tGONE SINCE\tHOW"]
    for path, losses in by_path(history):
        for loss in losses:
            rows.append(
                f"{human_size(loss.size, 3)}\t{printable(path)}\tlayer {loss.layer}\t"
                f"layer {loss.by}\t{loss.how}"
            )
    yield from table.align("\n".join(rows), 1).split("\n")


def by_path(history: History) -> list[tuple[str, list[Loss]]]:
    """What is wasted, path by path, most first."""
    found: dict[str, list[Loss]] = {}
    for loss in history.losses:
        found.setdefault(loss.path, []).append(loss)
    return sorted(found.items(), key=lambda one: (-sum(loss.size for loss in one[1]), one[0]))


def document(history: History) -> dict[str, Any]:
    """Everything, for programs: sizes in bytes; names that are no UTF-8 with backslashes."""
    return {
        "image": history.image,
        "names": history.names,
        "bytes": history.stored,
        "wasted_bytes": history.wasted,
        "efficiency": round(history.efficiency, 6),
        "layers": [_layer(history, layer) for layer in history.layers],
        "wasted": [
            {
                "path": printable(path),
                "bytes": sum(loss.size for loss in losses),
                "copies": [
                    {"bytes": loss.size, "layer": loss.layer, "by": loss.by, "how": loss.how}
                    for loss in losses
                ],
            }
            for path, losses in by_path(history)
        ],
    }


def _layer(history: History, layer: Layer) -> dict[str, Any]:
    top = difference(history, layer.index - 1, layer.index, sparse=True)
    return {
        "index": layer.index,
        "digest": layer.digest,
        "diff_id": layer.diff_id,
        "created": layer.created,
        "created_by": layer.created_by,
        "compressed_bytes": layer.size,
        "bytes": layer.stored,
        "wasted_bytes": layer.wasted,
        "added": layer.added,
        "changed": layer.changed,
        "removed": layer.removed,
        "changes": [_change(item) for item in changes(top)],
    }


def _change(item: Item) -> dict[str, Any]:
    version = item.version
    found = {
        "path": printable(item.node.path),
        "change": item.change,
        "kind": version.kind,
        "bytes": version.size,
        "mode": f"{version.mode:04o}",
        "uid": version.uid,
        "gid": version.gid,
    }
    return {**found, "link": printable(version.link)} if version.link else found
