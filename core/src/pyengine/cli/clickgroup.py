"""The commands that plugins bring, which are click's.

A plugin's entry point in group ``pyengine.cli`` names a ``click.Command`` (or group); its context
object is the ``Session``, so ``click.pass_obj`` gives it the engine's client. The entry point's
name is the command's: ``compose``; or, with a group's name and a dot before it, that of a command
which joins the group: ``image.explore`` is ``pyengine image explore``. Built-in words win.
"""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points

import click

from pyengine.cli import registry
from pyengine.cli.client import CommandError
from pyengine.cli.flags import Options, UsageError
from pyengine.cli.livenames import LiveNames
from pyengine.cli.session import GLOBAL_FLAGS, Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

GROUP = "pyengine.cli"


class Names(click.ParamType):  # type: ignore[type-arg]
    """Completes names of a kind of ``LiveNames``, as ``images``; silent where nothing answers."""

    name = "name"

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[Any]:
        session = ctx.find_object(Session) or Session(Options(GLOBAL_FLAGS))
        found = LiveNames(session).of(self._kind)
        return [
            click.shell_completion.CompletionItem(name, help=text)
            for name, text in sorted(found.items())
            if name.startswith(incomplete)
        ]


def plugins() -> list[EntryPoint]:
    """The commands that installed packages offer."""
    return list(entry_points(group=GROUP))


def plugin_words(group: str = "") -> list[str]:
    """The words that plugins add to a group, or at the top."""
    prefix = group + "." if group else ""
    words = {
        point.name.removeprefix(prefix) for point in plugins() if point.name.startswith(prefix)
    }
    return sorted(word for word in words if "." not in word)


def plugin_shorts(group: str = "") -> dict[str, str]:
    """The same words with what they do, or why they cannot."""
    shorts = {}
    for word in plugin_words(group):
        try:
            command = load_plugin(f"{group}.{word}" if group else word)
        except CommandError as error:
            shorts[word] = f"({error})"
        else:
            shorts[word] = command.get_short_help_str(80) if command else ""
    return shorts


def load_plugin(name: str) -> click.Command | None:
    """A plugin's command, or None. CommandError if it is there but broken or there twice."""
    found = [point for point in plugins() if point.name == name]
    if not found:
        return None
    packages = sorted({point.dist.name if point.dist else point.value for point in found})
    if len(packages) > 1:
        raise CommandError(f"two packages offer the command {name}: {', '.join(packages)}")
    try:
        command = found[0].load()
    except Exception as error:
        raise CommandError(f"the command {name} of {packages[0]} cannot be loaded: {error!r}")
    if not isinstance(command, click.Command):
        raise CommandError(f"the command {name} of {packages[0]} is no click command")
    return command


def run_plugin(options: Options, name: str, words: list[str]) -> int:
    """Run a plugin's command; UsageError if no installed package has it.

    ``name`` is the entry point's.
    """
    path = "pyengine " + name.replace(".", " ")
    command = load_plugin(name)
    if command is None:
        raise _unknown(name, path)
    try:
        result = command.main(words, prog_name=path, obj=Session(options), standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        print("Aborted!", file=sys.stderr)
        return 1
    return result if isinstance(result, int) else 0


def _unknown(name: str, path: str) -> UsageError:
    if name in registry.PACKAGES:
        advice = f"It comes with a package of its own: pip install {registry.PACKAGES[name]}"
    elif "." in name:
        above = path.rpartition(" ")[0]
        advice = f"Usage:  {above}\n\nRun '{above} --help' for more information"
    else:
        advice = "Run 'pyengine --help' for more information"
    return UsageError(f"pyengine: unknown command: {path}\n\n{advice}", code=1)
