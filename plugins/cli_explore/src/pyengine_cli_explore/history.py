"""The file system of an image as it grows layer by layer, and the bytes that are lost on the way.

Every path has its *versions*: what stood there, from which layer to which. So the tree after any
layer, and the difference between any two, can be read off without a copy of the tree per layer.

Bytes are counted where they are stored. A layer that changes a file stores it again, whole; the
bytes stored before are *wasted*: every pull fetches them, and no container ever sees them. They are
wasted when the last name of a stored file (hard links) is gone, by whatever means: overwritten,
removed by a whiteout or an opaque directory, or hidden with the directory above it.

    efficiency = 1 - wasted bytes / bytes of all files in all layers
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

Change = Literal["added", "changed", "removed", "unchanged"]

_MAX_SYMLINKS = 40


class BadLayer(Exception):
    """A layer's entries cannot be put together to a file system."""


@dataclass(slots=True)
class Entry:
    """One entry of a layer, as ``GET /pyengine/images/NAME/layers`` lists it."""

    path: str
    kind: str
    size: int = 0
    mode: int = 0
    uid: int = 0
    gid: int = 0
    link: str = ""


@dataclass(slots=True)
class Layer:
    """``size``: of the blob, compressed; ``stored``: bytes of its files; ``wasted``: of these."""

    index: int
    digest: str = ""
    diff_id: str = ""
    size: int = 0
    created: str = ""
    created_by: str = ""
    stored: int = 0
    wasted: int = 0
    added: int = 0
    changed: int = 0
    removed: int = 0


@dataclass(slots=True)
class Content:
    """Bytes of a file that a layer stores: once, however many names it has."""

    path: str
    size: int
    layer: int
    names: int = 0


@dataclass(slots=True)
class Loss:
    """Stored by ``layer`` and gone since layer ``by``, which overwrote or removed it."""

    path: str
    size: int
    layer: int
    by: int
    how: Literal["overwritten", "removed"]


@dataclass(slots=True)
class Version:
    """What stands at a path from layer ``first`` until before layer ``last`` (None: to the end)."""

    first: int
    kind: str
    size: int = 0
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    link: str = ""
    content: Content | None = None
    last: int | None = None

    @property
    def attributes(self) -> tuple[int, int, int]:
        return self.mode, self.uid, self.gid


@dataclass(slots=True, eq=False)
class Node:
    """A path: its name, its versions in order, what was ever below it, and the ``layers`` that had
    to do with it or something below it."""

    name: str
    parent: Node | None = None
    children: dict[str, Node] = field(default_factory=dict)
    versions: list[Version] = field(default_factory=list)
    layers: set[int] = field(default_factory=set)

    @property
    def path(self) -> str:
        parts = []
        node: Node | None = self
        while node is not None and node.parent is not None:
            parts.append(node.name)
            node = node.parent
        return "/" + "/".join(reversed(parts))

    def touch(self, layer: int) -> None:
        """Note that a layer has to do with it."""
        node: Node | None = self
        while node is not None and layer not in node.layers:
            node.layers.add(layer)
            node = node.parent

    @property
    def now(self) -> Version | None:
        """The version that stands after the last layer so far."""
        return self.versions[-1] if self.versions and self.versions[-1].last is None else None

    def at(self, layer: int) -> Version | None:
        """The version after ``layer``; -1 is before the first one, where nothing is."""
        for version in reversed(self.versions):
            if version.first <= layer:
                return version if version.last is None or layer < version.last else None
        return None

    def change(self, below: int, layer: int) -> Change | None:
        """How ``layer`` differs from ``below``; None if neither has the path."""
        before, after = self.at(below), self.at(layer)
        if before is after:
            return None if after is None else "unchanged"
        if before is None:
            return "added"
        return "removed" if after is None else "changed"


@dataclass
class History:
    """``names``: of the image. Layers are put on with :meth:`add`, the lowest first."""

    image: str = ""
    names: list[str] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    root: Node = field(default_factory=lambda: Node("", versions=[Version(-1, "directory")]))

    @property
    def stored(self) -> int:
        """Bytes of all files in all layers."""
        return sum(layer.stored for layer in self.layers)

    @property
    def wasted(self) -> int:
        return sum(loss.size for loss in self.losses)

    @property
    def efficiency(self) -> float:
        """From 0 to 1: the part of the stored bytes that a container sees."""
        return 1 - self.wasted / self.stored if self.stored else 1.0

    def add(self, layer: Layer, entries: Iterable[Entry]) -> None:
        """Put a layer on top. :class:`BadLayer` if its paths lead in circles."""
        layer.index = len(self.layers)
        self.layers.append(layer)
        made = []
        for entry in entries:
            # What a layer removes is removed from those below, wherever in the layer it says so.
            if entry.kind == "whiteout":
                self._remove_at(entry.path, layer)
            elif entry.kind == "opaque":
                self._empty(entry.path, layer)
            else:
                made.append(entry)
        for entry in made:
            self._put(entry, layer)

    def finish(self) -> None:
        """Count each layer's changes, once all layers are there."""
        for node in walk(self.root):
            ended = None
            for version in node.versions:
                if version.first >= 0:
                    layer = self.layers[version.first]
                    if ended == version.first:
                        layer.changed += 1
                        self.layers[ended].removed -= 1
                    else:
                        layer.added += 1
                ended = version.last
                if ended is not None:
                    self.layers[ended].removed += 1

    # -- one layer -----------------------------------------------------------------------------

    def _put(self, entry: Entry, layer: Layer) -> None:
        directory, _, name = entry.path.rpartition("/")
        parent = self._directory(directory, layer)
        assert parent is not None
        node = parent.children.setdefault(name, Node(name, parent))
        node.touch(layer.index)
        if entry.kind == "directory":
            self._put_directory(node, entry, layer)
            return
        version = Version(
            layer.index, entry.kind, entry.size, entry.mode, entry.uid, entry.gid, entry.link
        )
        if entry.kind == "hardlink":
            target = self._find(entry.link)
            if target is node:
                return
            if target is not None and target.now is not None:
                version.content, version.size = target.now.content, target.now.size
        elif entry.kind == "file":
            version.content = Content(node.path, entry.size, layer.index)
            layer.stored += entry.size
        if version.content is not None:
            version.content.names += 1
        self._remove(node, layer, "overwritten")
        node.versions.append(version)

    def _put_directory(self, node: Node, entry: Entry, layer: Layer) -> None:
        made = Version(layer.index, "directory", 0, entry.mode, entry.uid, entry.gid)
        last = node.versions[-1] if node.versions else None
        if last is not None and last.kind == "directory" and last.last in (None, layer.index):
            if last.attributes == made.attributes:
                # Layers name the directories in which something changed: that is no change. Nor
                # is one that was removed and made again: what was below it counts by itself.
                last.last = None
                return
            if last.first == layer.index:
                last.mode, last.uid, last.gid = made.attributes
                return
            last.last = layer.index
        elif node.now is not None:
            self._remove(node, layer, "overwritten")
        node.versions.append(made)

    def _remove_at(self, path: str, layer: Layer) -> None:
        node = self._find(path)
        if node is not None:
            self._remove(node, layer, "removed")

    def _empty(self, path: str, layer: Layer) -> None:
        node = self._find(path)
        for child in node.children.values() if node is not None else ():
            self._remove(child, layer, "removed")

    def _remove(self, node: Node, layer: Layer, how: Literal["overwritten", "removed"]) -> None:
        """End what stands at a path and below it."""
        going = [(node, how)]
        while going:
            node, how = going.pop()
            version = node.now
            if version is None:
                continue
            going += [(child, "removed") for child in node.children.values()]
            node.touch(layer.index)
            version.last = layer.index
            if version.first == layer.index:
                node.versions.pop()
            content = version.content
            if content is not None:
                content.names -= 1
                if not content.names:
                    self._lose(content, layer, how)

    def _lose(self, content: Content, layer: Layer, how: Literal["overwritten", "removed"]) -> None:
        self.layers[content.layer].wasted += content.size
        self.losses.append(Loss(content.path, content.size, content.layer, layer.index, how))

    # -- paths -----------------------------------------------------------------------------------

    def _find(self, path: str) -> Node | None:
        """What stands at a path, itself not followed if it is a symlink; None if nothing does."""
        directory, _, name = path.rpartition("/")
        parent = self._directory(directory)
        if parent is None or not name:
            return parent
        return parent.children.get(name)

    def _directory(self, path: str, layer: Layer | None = None) -> Node | None:
        """The directory at a path, through symlinks, as unpacking goes; None if there is none,
        but with ``layer`` it is made, as a part of that."""
        node, symlinks = self.root, 0
        parts = path.split("/")[::-1]
        while parts:
            part = parts.pop()
            if part in ("", ".", ".."):
                node = (node.parent or node) if part == ".." else node
                continue
            child = node.children.get(part)
            now = child.now if child is not None else None
            if child is not None and now is not None and now.kind == "symlink":
                symlinks += 1
                if symlinks > _MAX_SYMLINKS:
                    raise BadLayer(f"too many symlinks on the way to {path!r}")
                node = self.root if now.link.startswith("/") else node
                parts += now.link.split("/")[::-1]
                continue
            if child is None or now is None or now.kind != "directory":
                if layer is None:
                    return None
                child = self._imply(node, part, layer)
            node = child
        return node

    def _imply(self, parent: Node, name: str, layer: Layer) -> Node:
        """A directory that no entry has named yet."""
        node = parent.children.setdefault(name, Node(name, parent))
        node.touch(layer.index)
        self._remove(node, layer, "overwritten")
        last = node.versions[-1] if node.versions else None
        if last is not None and last.kind == "directory" and last.last == layer.index:
            last.last = None
        else:
            node.versions.append(Version(layer.index, "directory"))
        return node


def walk(node: Node) -> Iterator[Node]:
    """Everything below a node, parents first."""
    going = [*node.children.values()]
    while going:
        node = going.pop()
        yield node
        going += node.children.values()
