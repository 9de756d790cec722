"""The terminal view: layers to the left, the files of the chosen one to the right."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, OptionList, Static, Tree
from textual.widgets.option_list import Option
from textual.widgets.tree import TreeNode

from pyengine.cli.units import human_size
from pyengine_cli_explore.differences import CHANGES, Item, difference
from pyengine_cli_explore.history import Change, History, Node
from pyengine_cli_explore.report import LETTERS, by_path, command_text, printable, size_text

_STYLES = {"added": "green", "changed": "yellow", "removed": "red", "unchanged": ""}


def layer_text(history: History, index: int) -> Text:
    """A layer in the list."""
    layer = history.layers[index]
    text = Text(f"{index:>3}  {human_size(layer.stored, 3):>7}  ", no_wrap=True)
    return text.append(command_text(layer.created_by) or layer.digest[:19], "dim")


def item_text(item: Item) -> Text:
    """A path in the tree."""
    style = _STYLES[item.change]
    text = Text(f"{LETTERS[item.change]} ", style)
    text.append(printable(item.name) + ("/" if item.is_directory else ""), style)
    return text.append(f"  {size_text(item)}", "dim")


class Files(Tree[Item]):
    """The tree; what is below a directory is filled in when that is opened."""

    BORDER_TITLE = "Files"
    guide_depth = 2
    show_root = False

    def __init__(self) -> None:
        super().__init__("/", id="files")
        self._opened: set[Node] = set()
        self._wanted: set[Change] = set()

    def show(self, top: Item, wanted: set[Change]) -> None:
        """Show another tree. Directories that were open stay open."""
        chosen = self.cursor_node.data.node if self.cursor_node and self.cursor_node.data else None
        self._wanted = wanted
        self.clear()
        self.root.data = top
        self._fill(self.root)
        self.root.expand()
        self.call_after_refresh(self._choose, chosen)

    def _choose(self, chosen: Node | None) -> None:
        """Put the cursor where it was, if that is still shown."""
        going = [self.root]
        while going:
            branch = going.pop()
            if branch.data is not None and branch.data.node is chosen:
                self.move_cursor(branch)
                return
            going += branch.children
        self.cursor_line = 0

    def _fill(self, branch: TreeNode[Item]) -> None:
        going = [branch]
        while going:
            branch = going.pop()
            assert branch.data is not None
            for item in branch.data.children:
                if not item.shown(self._wanted):
                    continue
                if not any(child.shown(self._wanted) for child in item.children):
                    # as far in as those with an arrow before them
                    branch.add_leaf(Text("  ").append_text(item_text(item)), item)
                    continue
                opened = item.node in self._opened
                child = branch.add(item_text(item), item, expand=opened)
                if opened:
                    going.append(child)

    def on_tree_node_expanded(self, event: Tree.NodeExpanded[Item]) -> None:
        if event.node.data is not None and not event.node.is_root:
            self._opened.add(event.node.data.node)
            if not event.node.children:
                self._fill(event.node)

    def on_tree_node_collapsed(self, event: Tree.NodeCollapsed[Item]) -> None:
        if event.node.data is not None:
            self._opened.discard(event.node.data.node)


class Wasted(ModalScreen[None]):
    """The files that waste bytes, most first."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape,w,q", "dismiss", "Back")]
    CSS = """
    Wasted { align: center middle; }
    Wasted DataTable { width: 90%; height: 80%; border: round $warning; }
    """

    def __init__(self, history: History) -> None:
        super().__init__()
        self._history = history

    def compose(self) -> ComposeResult:
        table: DataTable[str] = DataTable(cursor_type="row", zebra_stripes=True)
        share = human_size(self._history.wasted)
        table.border_title = f"{share} wasted of {human_size(self._history.stored)}"
        table.add_columns("Wasted", "Copies", "Path", "How")
        for path, losses in by_path(self._history):
            how = (f"layer {loss.layer} {loss.how} by {loss.by}" for loss in losses)
            size = human_size(sum(loss.size for loss in losses), 3)
            table.add_row(size, str(len(losses)), printable(path), ", ".join(how))
        yield table
        yield Footer()


class View(App[None]):
    """``pyengine image explore`` on a terminal."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "app.focus_next", "Other side"),
        Binding("a", "together", "All layers / this one"),
        *(
            Binding(str(number), f"filter('{change}')", change.capitalize())
            for number, change in enumerate(CHANGES, 1)
        ),
        Binding("w", "wasted", "Wasted"),
        Binding("q", "quit", "Quit"),
    ]
    CSS = """
    #image { height: 1; padding: 0 1; background: $primary; color: $text; }
    #left { width: 45%; }
    #layers, #details, #files { border: round $surface-lighten-2; }
    #layers:focus, #files:focus { border: round $accent; }
    #layers { height: 1fr; text-wrap: nowrap; text-overflow: ellipsis; }
    #details { height: auto; max-height: 50%; padding: 0 1; }
    #files { width: 1fr; }
    """
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, history: History) -> None:
        super().__init__()
        self.history = history
        self.layer = 0
        #: All layers above the first one together, instead of one alone.
        self.together = False
        self.wanted: set[Change] = set(CHANGES)
        self._difference = lru_cache(maxsize=4)(self._compare)

    def _compare(self, below: int, layer: int) -> Item:
        return difference(self.history, below, layer)

    def compose(self) -> ComposeResult:
        history = self.history
        yield Static(
            f"{', '.join(history.names) or history.image}   "
            f"{len(history.layers)} layers with {human_size(history.stored)} in files   "
            f"{human_size(history.wasted)} wasted   efficiency {history.efficiency:.1%}",
            id="image",
            markup=False,
        )
        with Horizontal():
            with Vertical(id="left"):
                rows = (Option(layer_text(history, layer.index)) for layer in history.layers)
                yield OptionList(*rows, id="layers")
                yield Static(id="details", markup=False)
            yield Files()
        yield Footer()

    def on_mount(self) -> None:
        self.query_one("#layers", OptionList).border_title = "Layers"
        self.query_one("#details").border_title = "Layer"
        self.query_one("#layers").focus()
        self._show()

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        if event.option_index != self.layer:
            self.layer = event.option_index
            self._show()

    def on_option_list_option_selected(self, _: OptionList.OptionSelected) -> None:
        self.query_one(Files).focus()

    def action_together(self) -> None:
        self.together = not self.together
        self._show()

    def action_filter(self, change: Change) -> None:
        self.wanted ^= {change}
        self._show()

    def action_wasted(self) -> None:
        self.push_screen(Wasted(self.history))

    def _show(self) -> None:
        if not self.history.layers:
            return
        layer = self.history.layers[self.layer]
        together = self.together and self.layer > 0
        top = self._difference(0 if together else self.layer - 1, self.layer)
        files = self.query_one(Files)
        files.show(top, self.wanted)
        files.border_title = f"Layers 1 to {self.layer}" if together else f"Layer {self.layer}"
        hidden = [change for change in CHANGES if change not in self.wanted]
        files.border_subtitle = f"without {', '.join(hidden)}" if hidden else ""
        self.query_one("#details", Static).update(
            f"{layer.added} added, {layer.changed} changed, {layer.removed} removed\n"
            f"{human_size(layer.stored)} in files, {human_size(layer.wasted)} of it wasted\n"
            f"{human_size(layer.size)} compressed\n"
            f"{layer.digest}\n"
            f"{command_text(layer.created_by)}"
        )
