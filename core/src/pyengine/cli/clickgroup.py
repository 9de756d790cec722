"""The commands as a click group: for shell completion, and for the commands of plugins.

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
from pyengine.cli.credentials import Credentials
from pyengine.cli.flags import Command, Flag, Options, UsageError
from pyengine.cli.session import GLOBAL_FLAGS, Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

GROUP = "pyengine.cli"


def _option(flag: Flag) -> click.Option:
    names = [f"--{flag.name}", *([f"-{flag.short}"] if flag.short else [])]
    names.append("flag_" + flag.name.replace("-", "_"))
    if flag.kind == "bool":
        return click.Option(names, is_flag=True, help=flag.help, hidden=flag.hidden)
    return click.Option(names, multiple=flag.repeated, help=flag.help, hidden=flag.hidden)


class Names(click.ParamType):  # type: ignore[type-arg]
    """Completes what a command works on by asking the engine (for registries: what is stored);
    silent where nothing answers. ``usage`` is the command's: ``IMAGE``, ``CONTAINER [COMMAND]``."""

    name = "name"

    def __init__(self, usage: str) -> None:
        self._usage = usage

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[Any]:
        try:
            names = self._known(Session(Options(GLOBAL_FLAGS)))
        except CommandError:
            return []
        return [
            click.shell_completion.CompletionItem(name)
            for name in sorted(names)
            if name.startswith(incomplete)
        ]

    def _known(self, session: Session) -> list[str]:
        if "SERVER" in self._usage:
            return Credentials(session.config_dir()).servers()
        client = session.client
        if "CONTAINER" in self._usage:
            found = client.get("/containers/json", {"all": True})
            return [name.removeprefix("/") for one in found for name in one["Names"][:1]]
        if "IMAGE" in self._usage or "NAME[:TAG" in self._usage:
            return [tag for image in client.get("/images/json") for tag in image["RepoTags"] or []]
        if "NETWORK" in self._usage:
            return [network["Name"] for network in client.get("/networks")]
        if "VOLUME" in self._usage:
            return [volume["Name"] for volume in client.get("/volumes")["Volumes"] or []]
        return []


class _BuiltIn(click.Command):
    """A built-in command: click completes its flags, our own parser reads them."""

    def __init__(self, command: Command, name: str) -> None:
        arguments = click.Argument(["words"], nargs=-1, type=Names(command.usage))
        params: list[click.Parameter] = [_option(flag) for flag in command.flags if not flag.hidden]
        super().__init__(name, params=[*params, arguments], help=command.short)
        self.command = command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        ctx.args = list(args)
        return ctx.args

    def invoke(self, ctx: click.Context) -> int:
        from pyengine.cli.root import invoke

        session = ctx.find_object(Session)
        options = session.options if session is not None else Options(GLOBAL_FLAGS)
        return invoke(options, self.command, ctx.args)


class _Group(click.Group):
    def __init__(self, name: str) -> None:
        short, self._members = registry.GROUPS[name]
        super().__init__(name, help=short)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*self._members, *plugin_words(str(self.name))})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = registry.load_in_group(str(self.name), cmd_name)
        return _BuiltIn(command, cmd_name) if command else load_plugin(f"{self.name}.{cmd_name}")


class Root(click.Group):
    """``pyengine``: built-in commands by name, then those of plugins."""

    def __init__(self) -> None:
        super().__init__("pyengine", params=[_option(flag) for flag in GLOBAL_FLAGS])

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*registry.COMMANDS, *registry.GROUPS, *plugin_words()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in registry.GROUPS:
            return _Group(cmd_name)
        if cmd_name in registry.COMMANDS:
            return _BuiltIn(registry.load(cmd_name), cmd_name)
        return load_plugin(cmd_name)


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


def complete(words: list[str]) -> int:
    """Answer the shell's request in the environment (see click's shell completion)."""
    try:
        Root().main(words, prog_name="pyengine", complete_var="_PYENGINE_COMPLETE")
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0
