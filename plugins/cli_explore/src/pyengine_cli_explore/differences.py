"""The difference between an image's file system after two layers, as a tree to look at."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from pyengine_cli_explore.history import Change, History, Node, Version

CHANGES: tuple[Change, ...] = ("added", "changed", "removed", "unchanged")


@dataclass(slots=True, eq=False)
class Item:
    """A path in a difference. ``version`` is what stands there after the upper layer, or, removed,
    what stood there. ``size`` and ``files`` count it with everything below it (not what was removed
    below it, unless it is removed itself); ``found`` holds the changes there are at and below it.
    """

    node: Node
    change: Change
    version: Version
    size: int = 0
    files: int = 0
    found: set[Change] = field(default_factory=set)
    children: list[Item] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def is_directory(self) -> bool:
        return self.version.kind == "directory"

    def shown(self, wanted: Collection[Change]) -> bool:
        """Whether it or something below it is one of the ``wanted``."""
        return not self.found.isdisjoint(wanted)


def difference(history: History, below: int, layer: int, *, sparse: bool = False) -> Item:
    """The tree after ``layer`` with what differs from that after ``below`` (-1: from nothing).

    ``sparse`` leaves out directories in which nothing differs: sizes and numbers of files are right
    only for what is new or gone then.
    """
    concerned = range(below + 1, layer + 1)
    version = history.root.versions[0]
    top = Item(history.root, "unchanged", version)
    order = [top]
    for item in order:
        # grows while it is read: parents come before their children
        for name in sorted(item.node.children):
            node = item.node.children[name]
            if sparse and node.layers.isdisjoint(concerned):
                continue
            change = node.change(below, layer)
            if change is not None:
                stands = node.at(layer) or node.at(below)
                assert stands is not None
                child = Item(node, change, stands)
                item.children.append(child)
                order.append(child)
    counted: set[tuple[int, bool]] = set()
    for item in order:
        item.found.add(item.change)
        item.files = int(not item.is_directory)
        content = item.version.content
        # A file with several names counts at the first; names that are gone are another matter.
        if content is not None:
            key = (id(content), item.change == "removed")
            item.size = 0 if key in counted else content.size
            counted.add(key)
    for item in reversed(order):
        for child in item.children:
            item.found |= child.found
            if child.change != "removed" or item.change == "removed":
                item.size += child.size
                item.files += child.files
    return top


def summary(top: Item) -> Iterator[Item]:
    """What changed, with a directory that is wholly new or gone in place of all below it."""
    going = top.children[::-1]
    while going:
        item = going.pop()
        if item.change != "unchanged":
            yield item
        if item.change in ("changed", "unchanged"):
            going += item.children[::-1]


def changes(top: Item) -> Iterator[Item]:
    """Everything that changed, path by path."""
    going = top.children[::-1]
    while going:
        item = going.pop()
        if item.change != "unchanged":
            yield item
        going += item.children[::-1]
