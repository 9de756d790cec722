"""Layers put together: versions of paths, differences, and bytes that are wasted."""

from __future__ import annotations

from typing import Any

import pytest

from pyengine_cli_explore.differences import Item, changes, difference, summary
from pyengine_cli_explore.history import BadLayer, Entry, History, Layer


def file(path: str, size: int, **attributes: Any) -> Entry:
    return Entry(path, "file", size, 0o644, **attributes)


def directory(path: str, mode: int = 0o755) -> Entry:
    return Entry(path, "directory", mode=mode)


def symlink(path: str, link: str) -> Entry:
    return Entry(path, "symlink", mode=0o777, link=link)


def hardlink(path: str, link: str) -> Entry:
    return Entry(path, "hardlink", link=link)


def whiteout(path: str) -> Entry:
    return Entry(path, "whiteout")


def opaque(path: str) -> Entry:
    return Entry(path, "opaque")


def build(*layers: list[Entry]) -> History:
    history = History("sha256:1", ["test:latest"])
    for entries in layers:
        history.add(Layer(0), entries)
    history.finish()
    return history


def changed(history: History, layer: int, below: int | None = None) -> dict[str, str]:
    """Path and first letter of its change."""
    top = difference(history, layer - 1 if below is None else below, layer)
    return {item.node.path: item.change[0] for item in changes(top)}


def losses(history: History) -> list[tuple[str, int, int, int, str]]:
    return [(loss.path, loss.size, loss.layer, loss.by, loss.how) for loss in history.losses]


def counts(history: History) -> list[tuple[int, int, int]]:
    return [(layer.added, layer.changed, layer.removed) for layer in history.layers]


def test_added_changed_removed() -> None:
    history = build(
        [directory("a"), file("a/kept", 10), file("a/changed", 20), file("a/gone", 30)],
        [directory("a"), file("a/changed", 25), whiteout("a/gone"), file("a/new", 5)],
    )
    assert changed(history, 0) == {"/a": "a", "/a/kept": "a", "/a/changed": "a", "/a/gone": "a"}
    assert changed(history, 1) == {"/a/changed": "c", "/a/gone": "r", "/a/new": "a"}
    assert counts(history) == [(4, 0, 0), (1, 1, 1)]
    assert losses(history) == [
        ("/a/gone", 30, 0, 1, "removed"),
        ("/a/changed", 20, 0, 1, "overwritten"),
    ]
    assert [(layer.stored, layer.wasted) for layer in history.layers] == [(60, 50), (30, 0)]
    assert (history.stored, history.wasted) == (90, 50)
    assert history.efficiency == pytest.approx(40 / 90)


def test_an_image_without_files_wastes_nothing() -> None:
    assert build([directory("a")], []).efficiency == 1.0
    assert build().efficiency == 1.0


def test_attributes_alone() -> None:
    """chmod stores the file again; a directory holds no bytes, and counts if it is different."""
    history = build(
        [directory("d"), directory("e"), file("d/f", 7)],
        [directory("d"), directory("e", 0o700), Entry("d/f", "file", 7, 0o600)],
    )
    assert changed(history, 1) == {"/e": "c", "/d/f": "c"}
    assert history.wasted == 7


def test_a_whiteout_of_a_directory_takes_everything_below() -> None:
    history = build(
        [directory("d"), directory("d/e"), file("d/e/f", 4), file("d/g", 8), file("h", 1)],
        [whiteout("d")],
        [file("d/again", 2)],
    )
    assert changed(history, 1) == {"/d": "r", "/d/e": "r", "/d/e/f": "r", "/d/g": "r"}
    assert sorted(losses(history)) == [
        ("/d/e/f", 4, 0, 1, "removed"),
        ("/d/g", 8, 0, 1, "removed"),
    ]
    assert changed(history, 2) == {"/d": "a", "/d/again": "a"}
    assert counts(history) == [(5, 0, 0), (0, 0, 4), (2, 0, 0)]


@pytest.mark.parametrize("first", [True, False])
def test_an_opaque_directory_hides_what_was_in_it(first: bool) -> None:
    """Wherever the marker stands among the layer's entries: it concerns the layers below."""
    marker, entries = [opaque("d")], [directory("d"), file("d/new", 3), file("d/same", 5)]
    history = build(
        [directory("d"), file("d/old", 7), file("d/same", 6), directory("d/s"), file("d/s/x", 1)],
        marker + entries if first else entries + marker,
    )
    assert changed(history, 1) == {
        "/d/new": "a", "/d/old": "r", "/d/same": "c", "/d/s": "r", "/d/s/x": "r",
    }  # fmt: skip
    assert history.wasted == 14


def test_an_opaque_root() -> None:
    history = build([file("a", 1), directory("b"), file("b/c", 2)], [opaque(""), file("d", 4)])
    assert changed(history, 1) == {"/a": "r", "/b": "r", "/b/c": "r", "/d": "a"}
    assert history.wasted == 3


def test_removed_and_made_again_in_one_layer() -> None:
    history = build(
        [directory("d"), file("d/old", 9), file("f", 5)],
        [whiteout("d"), directory("d"), file("d/new", 1), whiteout("f"), file("f", 6)],
    )
    assert changed(history, 1) == {"/d/old": "r", "/d/new": "a", "/f": "c"}
    assert counts(history)[1] == (1, 1, 1)
    assert history.wasted == 14


def test_a_whiteout_of_nothing() -> None:
    history = build([directory("d")], [whiteout("d/x"), whiteout("y/z"), opaque("q")])
    assert changed(history, 1) == {}


def test_a_directory_becomes_a_file() -> None:
    history = build(
        [directory("d"), file("d/a", 3), directory("d/e"), file("d/e/b", 4)],
        [file("d", 10)],
    )
    assert changed(history, 1) == {"/d": "c", "/d/a": "r", "/d/e": "r", "/d/e/b": "r"}
    assert sorted(losses(history)) == [
        ("/d/a", 3, 0, 1, "removed"),
        ("/d/e/b", 4, 0, 1, "removed"),
    ]


def test_a_file_becomes_a_directory() -> None:
    history = build([file("d", 10)], [directory("d"), file("d/a", 1)])
    assert changed(history, 1) == {"/d": "c", "/d/a": "a"}
    assert losses(history) == [("/d", 10, 0, 1, "overwritten")]


def test_a_file_becomes_a_symlink_and_back() -> None:
    history = build([file("f", 10)], [symlink("f", "x")], [file("f", 1)])
    assert changed(history, 1) == changed(history, 2) == {"/f": "c"}
    assert history.wasted == 10


def test_hard_links_store_their_bytes_once() -> None:
    history = build(
        [file("a", 100), hardlink("b", "a"), hardlink("c", "b")],
        [whiteout("a")],
        [file("b", 1)],
        [whiteout("c")],
    )
    assert history.layers[0].stored == 100
    # Only when the last name is gone nobody can see them any more.
    assert losses(history) == [("/a", 100, 0, 3, "removed")]
    top = difference(history, -1, 0)
    assert (top.size, top.files) == (100, 3)
    after = difference(history, 0, 1)
    assert (after.size, after.files) == (100, 2)


def test_a_hard_link_to_what_it_replaces_or_to_nothing() -> None:
    history = build(
        [file("a", 10), file("b", 20)],
        [hardlink("b", "a"), hardlink("a", "a"), hardlink("c", "nowhere")],
    )
    assert losses(history) == [("/b", 20, 0, 1, "overwritten")]
    assert changed(history, 1) == {"/b": "c", "/c": "a"}


def test_twice_in_one_layer() -> None:
    history = build([file("f", 3), file("f", 4), directory("d"), directory("d", 0o700)], [])
    assert losses(history) == [("/f", 3, 0, 0, "overwritten")]
    assert changed(history, 0) == {"/f": "a", "/d": "a"}
    assert counts(history)[0] == (2, 0, 0)
    history = build([file("f", 1)], [file("f", 3), file("f", 4)])
    assert changed(history, 1) == {"/f": "c"}
    assert history.wasted == 4


def test_paths_go_through_symlinks_of_lower_layers() -> None:
    history = build(
        [directory("usr"), directory("usr/lib"), symlink("lib", "usr/lib"), symlink("l", "/lib")],
        [file("lib/x", 5)],
        [whiteout("l/x"), file("l/../up", 1), hardlink("lib/y", "l/x")],
    )
    assert changed(history, 1) == {"/usr/lib/x": "a"}
    assert changed(history, 2) == {"/usr/lib/x": "r", "/usr/up": "a", "/usr/lib/y": "a"}


def test_symlinks_in_circles() -> None:
    with pytest.raises(BadLayer, match="too many symlinks"):
        build([symlink("a", "b"), symlink("b", "a")], [file("a/x", 1)])


def test_directories_that_no_entry_names() -> None:
    history = build([file("a/b/c", 1), directory("a", 0o700)], [file("a/b", 1), file("a/b/d", 2)])
    assert changed(history, 0) == {"/a": "a", "/a/b": "a", "/a/b/c": "a"}
    version = history.root.children["a"].now
    assert version is not None
    assert version.mode == 0o700
    # The file that stood there for a moment is seen by nobody, but stored.
    assert changed(history, 1) == {"/a/b/c": "r", "/a/b/d": "a"}
    assert counts(history) == [(3, 0, 0), (1, 0, 1)]
    assert history.wasted == 2


def test_a_deep_tree() -> None:
    deep = "/".join(["d"] * 2000)
    history = build([file(deep, 1)], [whiteout("d")])
    assert history.wasted == 1
    assert history.layers[1].removed == 2000
    assert len(changed(history, 1)) == 2000


# -- differences -----------------------------------------------------------------------------------


@pytest.fixture
def four() -> History:
    return build(
        [directory("etc"), file("etc/a", 1), file("etc/b", 2), directory("old"), file("old/x", 4)],
        [directory("new"), file("new/1", 8), file("new/2", 16), file("etc/a", 32)],
        [whiteout("old"), file("etc/a", 64), whiteout("new/1")],
        [directory("etc"), whiteout("etc/a")],
    )


def test_all_layers_above_the_first_together(four: History) -> None:
    assert changed(four, 2, below=0) == {
        "/etc/a": "c", "/new": "a", "/new/2": "a", "/old": "r", "/old/x": "r",
    }  # fmt: skip
    assert changed(four, 3, below=0)["/etc/a"] == "r"
    assert changed(four, 3, below=3) == {}


def find(top: Item, *names: str) -> Item:
    for name in names:
        top = next(item for item in top.children if item.name == name)
    return top


def test_sums_of_directories(four: History) -> None:
    top = difference(four, 1, 2)
    assert (top.size, top.files) == (2 + 64 + 16, 3)
    assert (find(top, "etc").size, find(top, "etc").files) == (66, 2)
    assert (find(top, "new").size, find(top, "new").files) == (16, 1)
    old = find(top, "old")
    assert (old.change, old.size, old.files) == ("removed", 4, 1)
    assert find(top, "etc").found == {"unchanged", "changed"}
    assert find(top, "new").shown(["removed"])
    assert not find(top, "etc").shown(["removed", "added"])


def test_a_summary_names_whole_directories_once(four: History) -> None:
    def paths(below: int, layer: int) -> list[str]:
        return [item.node.path for item in summary(difference(four, below, layer))]

    assert paths(-1, 0) == ["/etc", "/old"]
    assert paths(0, 1) == ["/etc/a", "/new"]
    assert paths(1, 2) == ["/etc/a", "/new/1", "/old"]


@pytest.mark.parametrize(("below", "layer"), [(-1, 0), (0, 1), (1, 2), (2, 3), (0, 2), (0, 3)])
def test_a_sparse_difference_has_every_change(four: History, below: int, layer: int) -> None:
    def found(sparse: bool) -> list[tuple[str, str, int]]:
        top = difference(four, below, layer, sparse=sparse)
        whole = ("added", "removed")
        return [
            (one.node.path, one.change, one.size if one.change in whole else 0)
            for one in changes(top)
        ]

    assert found(sparse=True) == found(sparse=False)
    assert {item.name for item in difference(four, 2, 3, sparse=True).children} == {"etc"}
