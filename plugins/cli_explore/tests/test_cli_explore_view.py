"""The terminal view, driven by keys."""

from __future__ import annotations

import pytest
from textual.widgets import DataTable, OptionList, Static

from pyengine_cli_explore.history import Entry, History, Layer
from pyengine_cli_explore.view import Files, View, Wasted


def file(path: str, size: int) -> Entry:
    return Entry(path, "file", size, 0o644)


@pytest.fixture
def history() -> History:
    layers = [
        [
            *(Entry(path, "directory", mode=0o755) for path in ("etc", "etc/deep", "old")),
            file("etc/a", 1000),
            file("etc/deep/b", 2000),
            file("old/x", 4000),
            file("same", 1),
        ],
        [file("etc/a", 8000), file("new", 16000)],
        [Entry("old", "whiteout"), file("etc/a", 32000)],
    ]
    found = History("sha256:1", ["test:latest"])
    for number, entries in enumerate(layers):
        found.add(Layer(0, f"sha256:{number}", created_by=f"/bin/sh -c step {number}"), entries)
    found.finish()
    return found


def lines(app: View) -> list[str]:
    """The tree as it is shown, indented."""
    files = app.query_one(Files)
    found = []
    going = [(child, 0) for child in reversed(files.root.children)]
    while going:
        node, depth = going.pop()
        text = str(node.label)
        found.append("  " * depth + (text if node.allow_expand else text.removeprefix("  ")))
        if node.is_expanded:
            going += [(child, depth + 1) for child in reversed(node.children)]
    return found


async def test_layers_and_their_files(history: History) -> None:
    app = View(history)
    async with app.run_test(size=(120, 30)) as pilot:
        await pilot.pause()
        assert lines(app) == [
            "A etc/  3kB in 2 files",
            "A old/  4kB in 1 file",
            "A same  1B",
        ]
        layers = app.query_one("#layers", OptionList)
        assert layers.has_focus
        assert str(layers.get_option_at_index(1).prompt).split() == ["1", "24kB", "step", "1"]
        await pilot.press("down")
        await pilot.pause()
        assert app.layer == 1
        assert lines(app)[:2] == ["  etc/  10kB in 2 files", "A new  16kB"]
        details = str(app.query_one("#details", Static).content)
        assert details.splitlines()[:2] == [
            "1 added, 1 changed, 0 removed",
            "24kB in files, 8kB of it wasted",
        ]
        await pilot.press("down")
        await pilot.pause()
        assert "D old/  4kB in 1 file" in lines(app)


async def test_directories_open_and_stay_open(history: History) -> None:
    app = View(history)
    async with app.run_test(size=(120, 30)) as pilot:
        await pilot.press("tab")
        files = app.query_one(Files)
        assert files.has_focus
        await pilot.press("enter")
        await pilot.pause()
        assert lines(app)[:3] == [
            "A etc/  3kB in 2 files",
            "  A a  1kB",
            "  A deep/  2kB in 1 file",
        ]
        await pilot.press("down", "down", "space")
        await pilot.pause()
        assert lines(app)[3] == "    A b  2kB"
        await pilot.press("shift+tab", "down")
        await pilot.pause()
        assert lines(app)[:4] == [
            "  etc/  10kB in 2 files", "  C a  8kB", "    deep/  2kB in 1 file", "      b  2kB",
        ]  # fmt: skip
        # The cursor stays at its path, too.
        assert files.cursor_node is not None
        assert files.cursor_node.data is not None
        assert files.cursor_node.data.node.path == "/etc/deep"
        await pilot.press("tab", "enter")
        await pilot.pause()
        assert len(lines(app)) == 6


async def test_filters(history: History) -> None:
    app = View(history)
    async with app.run_test(size=(120, 30)) as pilot:
        await pilot.press("down", "4")
        await pilot.pause()
        files = app.query_one(Files)
        assert [line.split()[:2] for line in lines(app)] == [["etc/", "10kB"], ["A", "new"]]
        assert files.border_subtitle == "without unchanged"
        await pilot.press("1", "3")
        await pilot.pause()
        assert [line.split()[0] for line in lines(app)] == ["etc/"]
        assert files.border_subtitle == "without added, removed, unchanged"
        await pilot.press("2")
        await pilot.pause()
        assert lines(app) == []
        await pilot.press("1", "2", "3", "4")
        await pilot.pause()
        assert len(lines(app)) == 4
        assert files.border_subtitle == ""


async def test_all_layers_together(history: History) -> None:
    app = View(history)
    async with app.run_test(size=(120, 30)) as pilot:
        await pilot.press("down", "down", "4")
        await pilot.pause()
        assert [line.split()[1] for line in lines(app)] == ["34kB", "old/"]
        await pilot.press("a")
        await pilot.pause()
        files = app.query_one(Files)
        assert files.border_title == "Layers 1 to 2"
        assert lines(app) == ["  etc/  34kB in 2 files", "A new  16kB", "D old/  4kB in 1 file"]
        await pilot.press("a")
        await pilot.pause()
        assert files.border_title == "Layer 2"
        assert len(lines(app)) == 2


async def test_the_files_that_waste(history: History) -> None:
    app = View(history)
    async with app.run_test(size=(120, 30)) as pilot:
        await pilot.press("w")
        await pilot.pause()
        assert isinstance(app.screen, Wasted)
        table = app.screen.query_one(DataTable)
        assert table.border_title == "13kB wasted of 63kB"
        rows = [table.get_row_at(index) for index in range(table.row_count)]
        assert rows == [
            ["9kB", "2", "/etc/a", "layer 0 overwritten by 1, layer 1 overwritten by 2"],
            ["4kB", "1", "/old/x", "layer 0 removed by 2"],
        ]
        await pilot.press("escape")
        await pilot.pause()
        assert not isinstance(app.screen, Wasted)
        await pilot.press("q")
    assert app.return_code == 0


async def test_what_a_name_holds_is_shown_as_it_is() -> None:
    history = History("sha256:1", ["[bold]x[/]"])
    entries = [file("[red]a", 1), file("b\x1b[31m\n", 1), file("\udcff", 1)]
    history.add(Layer(0, created_by="echo [link=x]"), entries)
    history.finish()
    app = View(history)
    async with app.run_test(size=(120, 30)) as pilot:
        await pilot.pause()
        assert lines(app) == [
            "A [red]a  1B",
            "A b\\x1b[31m\\n  1B",
            "A \\xff  1B",
        ]
        assert "[bold]x[/]" in str(app.query_one("#image", Static).content)


async def test_an_image_without_layers() -> None:
    app = View(History("sha256:1"))
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("down", "a", "1", "tab", "enter")
        await pilot.pause()
        assert lines(app) == []
