"""From a command line to a command.

Built-in commands stand in ``registry`` as ``module:name`` and are imported when they are called.
Only a word that is none of them makes us look for plugins (entry points of group
``pyengine.cli``), because reading every installed distribution's metadata costs more than a
whole command.
"""

from __future__ import annotations

import os
import signal
import sys

from pyengine.cli import registry
from pyengine.cli.client import CommandError
from pyengine.cli.flags import Command, Options, UsageError, parse
from pyengine.cli.http import ConnectError
from pyengine.cli.session import GLOBAL_FLAGS, Session
from pyengine.errors import EngineError


def run(argv: list[str] | None = None) -> int:
    """Run one command line and return the exit status; never raises but for SystemExit."""
    words = sys.argv[1:] if argv is None else argv
    try:
        return _run(words)
    except UsageError as error:
        return _print_usage_error(error)
    except CommandError as error:
        if str(error):
            print(error, file=sys.stderr)
        return error.code
    except ConnectError as error:
        # In the middle of an answer; before one it is a CommandError.
        print(f"error during connect: {error.strerror}", file=sys.stderr)
        return 1
    except EngineError as error:
        print(
            f"pyengine: {error.brief}" + (f": {error.detail}" if error.detail else ""),
            file=sys.stderr,
        )
        if error.help:
            print(f"  help: {error.help}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader has gone (`pyengine ps | head -1`): end quietly, as SIGPIPE would do.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE


def _run(words: list[str]) -> int:
    options, rest = parse(GLOBAL_FLAGS, words, interspersed=False)
    if options["version"]:
        from pyengine import __version__

        print(f"pyengine version {__version__}")
        return 0
    if options["debug"]:
        os.environ["PYENGINE_DEBUG"] = "1"
    if not rest:
        print(registry.root_help())
        return 0
    name, rest = rest[0], rest[1:]
    if name == "help":
        return _run([*rest, "--help"]) if rest else _run([])
    if name in registry.GROUPS:
        return _run_group(options, name, rest)
    if options["help"]:
        if name not in registry.COMMANDS:
            print(registry.root_help())
            return 0
        rest = ["--help"]
    if name in registry.COMMANDS:
        return invoke(options, registry.load(name), rest)
    from pyengine.cli.clickgroup import run_plugin

    return run_plugin(options, name, rest)


def _run_group(options: Options, group: str, rest: list[str]) -> int:
    if options["help"] or not rest or rest[0] in ("--help", "-h"):
        print(registry.group_help(group))
        return 0
    command = registry.load_in_group(group, rest[0])
    if command is None:
        from pyengine.cli.clickgroup import run_plugin

        return run_plugin(options, f"{group}.{rest[0]}", rest[1:])
    return invoke(options, command, rest[1:])


def invoke(options: Options, command: Command, words: list[str]) -> int:
    """Parse the command's own words and run it."""
    given, rest = command.parse(words)
    if given.get("help"):
        from pyengine.cli.help import command_help

        print(command_help(command))
        return 0
    status = command.handler(Session(options, command), given, rest) or 0
    sys.stdout.flush()
    return status


def _print_usage_error(error: UsageError) -> int:
    print(error, file=sys.stderr)
    command = error.command
    if command is not None:
        bounded = "requires at least" not in str(error) or "at most" in str(error)
        word = "Run" if bounded else "See"
        print(
            f"\nUsage:  {command.path} {command.usage}".rstrip() + "\n\n"
            f"{word} '{command.path} --help' for more information",
            file=sys.stderr,
        )
    elif "unknown command" not in str(error):
        print(
            "\nUsage:  pyengine [OPTIONS] COMMAND [ARG...]\n\n"
            "Run 'pyengine --help' for more information",
            file=sys.stderr,
        )
    return error.code
