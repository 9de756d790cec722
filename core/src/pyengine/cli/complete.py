"""What may come next on a command line: for the scripts of ``pyengine completion``.

A shell asks with the line up to the cursor; every answer is a line, with a description after a tab
where the shell shows one. The line ``:files`` leaves the word to the shell.
"""

from __future__ import annotations

import shlex

from pyengine.cli import registry
from pyengine.cli.client import CommandError
from pyengine.cli.flags import Command, Flag, Options, UsageError
from pyengine.cli.livenames import FILES, LiveNames
from pyengine.cli.session import GLOBAL_FLAGS, Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyengine.cli.livenames import Names

#: What stands in the places after a command, by what ``registry`` calls it: kinds of LiveNames.
#: The last goes on where the command takes any number of words.
_PLACES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        [
            *("attach:attach", "containers:kill", "containers:pause", "containers:stop"),
            *("containers:top", "stats:stats"),
        ],
        ("running",),
    ),
    **dict.fromkeys(
        [
            *("archive:commit", "archive:export", "containers:diff", "containers:port"),
            *("containers:rename", "containers:restart", "containers:wait", "logs:logs"),
            *("inspect:container_inspect", "update:update"),
        ],
        ("containers",),
    ),
    "containers:rm": ("stopped",),
    "start:start": ("stopped",),
    "containers:unpause": ("paused",),
    "exec:exec_command": ("running", FILES),
    "copy:cp": ("places", "places"),
    **dict.fromkeys(["run:run", "run:create"], ("images", FILES)),
    **dict.fromkeys(
        [
            *("images:history", "images:images", "images:rmi", "images:save"),
            *("inspect:image_inspect", "manifest:inspect", "registry:pull", "registry:push"),
        ],
        ("images",),
    ),
    "images:import_image": (FILES, "images"),
    "images:tag": ("images", "images"),
    "inspect:inspect": ("objects",),
    "networks:connect": ("networks", "containers"),
    "networks:disconnect": ("networks", "containers"),
    "networks:rm": ("removable-networks",),
    "inspect:network_inspect": ("networks",),
    **dict.fromkeys(
        ["inspect:volume_inspect", "volumes:rm", "volumes:update"],
        ("volumes",),
    ),
    **dict.fromkeys(
        ["context:inspect", "context:rm", "context:update", "context:use"], ("contexts",)
    ),
    "context:export": ("contexts", FILES),
    "context:import_context": ("contexts", FILES),
    **dict.fromkeys(["login:login", "login:logout"], ("servers",)),
    "drivers:drivers": ("kinds",),
    "completion:completion": ("shells",),
}
#: Commands one of whose places may have files as well as names.
_OR_FILES = {"places", "mounted"}
#: What a flag takes, by its name, or by command and name.
_VALUES = {
    **dict.fromkeys(["network", "net"], "networks"),
    **dict.fromkeys(["volumes-from", "link"], "containers"),
    **dict.fromkeys(["context", "from"], "contexts"),
    **dict.fromkeys(["signal", "stop-signal"], "signals"),
    **dict.fromkeys(
        [
            *("cidfile", "config", "device", "env-file", "input", "label-file", "output"),
            *("tlscacert", "tlscert", "tlskey"),
        ],
        FILES,
    ),
    **dict.fromkeys(["userns", "uts"], "host"),
    "cgroupns": "cgroup-namespaces",
    "format": "formats",
    "log-driver": "log-drivers",
    "log-level": "levels",
    "on-unhealthy": "unhealthy",
    "platform": "architectures",
    "pull": "pull",
    "restart": "restart",
    "runtime": "runtimes",
    "trace": "traces",
    "type": "types",
    "volume": "mounted",
    "volume-driver": "volume-drivers",
    "networks:create driver": "network-drivers",
    "volumes:create driver": "volume-drivers",
}


class Files(Exception):
    """The shell knows better: a file's name comes next."""


def split(line: str) -> list[str]:
    """The words of a line; the last, which is empty after a blank, is being written."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters = True, ""
    words = []
    try:
        for word in lexer:
            words.append(word)
    except ValueError:
        # A quotation is not closed yet.
        words.append(lexer.token.lstrip("'\""))
        return words
    return [*words, ""] if not line or line[-1].isspace() else words


def complete(words: list[str]) -> Names:
    """What may stand in place of the last word. Files if that is a file's name."""
    *before, current = words[1:] or [""]
    options, rest, waiting = _scan(GLOBAL_FLAGS, before, False)
    session = Session(options)
    if waiting is not None:
        return _begin(_values(session, waiting, "", current), current)
    if not rest:
        if current.startswith("-"):
            return _flags(session, GLOBAL_FLAGS, options, "", current)
        return _begin(_top(), current)
    name, *rest = rest
    if name == "help":
        return _begin(_top(), current) if not rest else {}
    if name in registry.GROUPS:
        if not rest:
            return _begin(_members(name), current)
        command = registry.load_in_group(name, rest[0])
        word = registry.ALIASES.get((name, rest[0]), rest[0])
        target = registry.GROUPS[name][1].get(word, "")
        name, rest = f"{name}.{rest[0]}", rest[1:]
    else:
        target = registry.COMMANDS.get(name, "")
        command = registry.load(name) if target else None
    if command is None:
        return _of_plugin(session, name, rest, current)
    return _arguments(session, command, target, rest, current)


def _arguments(
    session: Session, command: Command, target: str, before: list[str], current: str
) -> Names:
    if command.raw:
        raise Files
    options, given, waiting = _scan(command.flags, before, command.interspersed)
    if waiting is not None:
        return _begin(_values(session, waiting, target, current), current)
    flags_end = "--" in before or (given and not command.interspersed)
    if current.startswith("-") and not flags_end:
        return _flags(session, command.flags, options, target, current)
    places = _PLACES.get(target, ())
    if not places or (command.at_most is not None and len(given) >= len(places)):
        return {}
    kind = places[min(len(given), len(places) - 1)]
    if target == "containers:rm" and options["force"]:
        kind = "containers"
    if target == "inspect:inspect" and options["type"] in ("container", "image", "network"):
        kind = f"{options['type']}s"
    names = _begin(_named(session, kind, current), current)
    return {name: text for name, text in names.items() if name not in given}


def _named(session: Session, kind: str, current: str) -> Names:
    if kind == FILES or (kind in _OR_FILES and ("/" in current or ":" in current)):
        raise Files
    found = LiveNames(session).of(kind)
    if kind in _OR_FILES and current and not _begin(found, current):
        raise Files
    return found


def _values(session: Session, flag: Flag, target: str, current: str) -> Names:
    if flag.kind == "bool":
        return {"true": "", "false": ""}
    kind = _VALUES.get(f"{target} {flag.name}") or _VALUES.get(flag.name)
    return _named(session, kind, current) if kind else {}


def _flags(session: Session, flags: list[Flag], given: Options, target: str, current: str) -> Names:
    name, equals, value = current.partition("=")
    if equals:
        known = next((flag for flag in flags if f"--{flag.name}" == name), None)
        values = _begin(_values(session, known, target, value), value) if known else {}
        return {f"{name}={value}": text for value, text in values.items()}
    shown = [
        flag
        for flag in flags
        if (not flag.hidden or flag.name == "help")
        and (flag.repeated or flag.name not in given.changed)
    ]
    return _begin({f"--{flag.name}": flag.help.partition("\n")[0] for flag in shown}, current)


def _scan(
    flags: list[Flag], words: list[str], interspersed: bool
) -> tuple[Options, list[str], Flag | None]:
    """The flags that are given, the other words, and the flag that waits for its value.

    What a command would refuse is passed over: the line is not finished.
    """
    options, rest, queue = Options(flags), list[str](), list(words)
    while queue:
        word = queue.pop(0)
        if word == "--":
            return options, [*rest, *queue], None
        if not word.startswith("-") or word == "-":
            rest.append(word)
            if not interspersed:
                return options, [*rest, *queue], None
            continue
        for flag, text in _in_word(flags, word):
            if text is None and not queue:
                return options, rest, flag
            try:
                options.put(flag, queue.pop(0) if text is None else text)
            except UsageError:
                continue
    return options, rest, None


def _in_word(flags: list[Flag], word: str) -> list[tuple[Flag, str | None]]:
    """The flags in ``--name=value`` or ``-abc``, each with its value; None if that comes next."""
    if word.startswith("--"):
        name, equals, text = word[2:].partition("=")
        return [(f, text if equals else f.implied) for f in flags if f.name == name]
    found: list[tuple[Flag, str | None]] = []
    by_short = {flag.short: flag for flag in flags if flag.short}
    for number, letter in enumerate(word[1:], 2):
        flag, left = by_short.get(letter), word[number:]
        if flag is None:
            break
        if flag.implied is not None and not left.startswith("="):
            found.append((flag, flag.implied))
            continue
        found.append((flag, left.removeprefix("=") or None))
        break
    return found


def _begin(names: Names, current: str) -> Names:
    return {name: names[name] for name in sorted(names) if name.startswith(current)}


def _top() -> Names:
    from pyengine.cli.clickgroup import plugin_words

    groups = {name: short for name, (short, _) in registry.GROUPS.items()}
    commands = {name: registry.load(name) for name in registry.COMMANDS}
    shown = {name: command.short for name, command in commands.items() if not command.hidden}
    return {**dict.fromkeys(plugin_words(), ""), **shown, **groups}


def _members(group: str) -> Names:
    from pyengine.cli.clickgroup import plugin_words

    commands = {name: registry.load_in_group(group, name) for name in registry.GROUPS[group][1]}
    shown = {name: one.short for name, one in commands.items() if one and not one.hidden}
    return {**dict.fromkeys(plugin_words(group), ""), **shown}


def _of_plugin(session: Session, name: str, before: list[str], current: str) -> Names:
    from click.shell_completion import ShellComplete

    from pyengine.cli.clickgroup import load_plugin

    try:
        command = load_plugin(name)
    except CommandError:
        return {}
    if command is None:
        return {}
    asked = ShellComplete(command, {"obj": session}, name, "")
    items = asked.get_completions(before, current)
    if any(item.type in ("file", "dir") for item in items):
        raise Files
    return {item.value: item.help or "" for item in items}


def answer(shell: str, line: str, breaks: str = "") -> list[str]:
    """The lines for a shell. ``breaks``: where bash, in its own idea, begins a new word."""
    words = split(line)
    try:
        names = complete(words)
    except Files:
        return [":files"]
    if shell == "bash":
        written = words[-1]
        cut = max((written.rfind(char) + 1 for char in "=:" if char in breaks), default=0)
        return [name[cut:] for name in names]
    return [f"{name}\t{text}" if text else name for name, text in names.items()]
