"""The built-in commands: where each lives, and the groups they also stand in."""

from __future__ import annotations

from importlib import import_module

from pyengine.cli.flags import Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# word: module of pyengine.cli.commands, attribute
COMMANDS: dict[str, str] = {
    "__complete": "completion:ask",
    "attach": "attach:attach",
    "commit": "archive:commit",
    "completion": "completion:completion",
    "cp": "copy:cp",
    "create": "run:create",
    "daemon": "daemon:daemon",
    "diff": "containers:diff",
    "drivers": "drivers:drivers",
    "events": "events:events",
    "exec": "exec:exec_command",
    "export": "archive:export",
    "history": "images:history",
    "images": "images:images",
    "import": "images:import_image",
    "info": "info:info",
    "inspect": "inspect:inspect",
    "kill": "containers:kill",
    "load": "images:load",
    "login": "login:login",
    "logout": "login:logout",
    "logs": "logs:logs",
    "pause": "containers:pause",
    "port": "containers:port",
    "ps": "ps:ps",
    "pull": "registry:pull",
    "push": "registry:push",
    "rename": "containers:rename",
    "restart": "containers:restart",
    "rm": "containers:rm",
    "rmi": "images:rmi",
    "run": "run:run",
    "save": "images:save",
    "search": "search:search",
    "start": "start:start",
    "stats": "stats:stats",
    "stop": "containers:stop",
    "tag": "images:tag",
    "top": "containers:top",
    "unpause": "containers:unpause",
    "update": "update:update",
    "version": "version:version",
    "wait": "containers:wait",
}
COMMON = ("run", "exec", "ps", "pull", "push", "images", "version", "info", "daemon", "drivers")

_CONTAINER_WORDS = (
    *("attach", "commit", "cp", "create", "diff", "exec", "export", "kill", "logs", "pause"),
    *("port", "rename", "restart", "rm", "run", "start", "stats", "stop", "top", "unpause"),
    *("update", "wait"),
)

GROUPS: dict[str, tuple[str, dict[str, str]]] = {
    "container": (
        "Manage containers",
        {word: COMMANDS[word] for word in _CONTAINER_WORDS}
        | {
            "inspect": "inspect:container_inspect",
            "ls": "ps:ps",
            "prune": "prune:container_prune",
        },
    ),
    "content": (
        "Manage the content store",
        {
            "fsck": "content:fsck",
            "get": "content:get",
            "ls": "content:ls",
            "rm": "content:rm",
        },
    ),
    "context": (
        "Manage contexts",
        {
            "create": "context:create",
            "export": "context:export",
            "import": "context:import_context",
            "inspect": "context:inspect",
            "ls": "context:ls",
            "rm": "context:rm",
            "show": "context:show",
            "update": "context:update",
            "use": "context:use",
        },
    ),
    "image": (
        "Manage images",
        {
            "history": "images:history",
            "import": "images:import_image",
            "inspect": "inspect:image_inspect",
            "load": "images:load",
            "ls": "images:images",
            "prune": "prune:image_prune",
            "pull": "registry:pull",
            "push": "registry:push",
            "rm": "images:rmi",
            "save": "images:save",
            "tag": "images:tag",
        },
    ),
    "manifest": (
        "Manage Docker image manifests and manifest lists",
        {
            "annotate": "manifest:annotate",
            "create": "manifest:create",
            "inspect": "manifest:inspect",
            "push": "manifest:push",
            "rm": "manifest:rm",
        },
    ),
    "network": (
        "Manage networks",
        {
            "connect": "networks:connect",
            "create": "networks:create",
            "disconnect": "networks:disconnect",
            "inspect": "inspect:network_inspect",
            "ls": "networks:ls",
            "prune": "prune:network_prune",
            "rm": "networks:rm",
        },
    ),
    "snapshot": (
        "Manage the layers in storage drivers",
        {
            "ls": "content:snapshot_ls",
            "usage": "content:snapshot_usage",
        },
    ),
    "system": (
        "Manage pyengine",
        {
            "df": "df:df",
            "dial-stdio": "dialstdio:dial_stdio",
            "events": "events:events",
            "info": "info:info",
            "prune": "prune:system_prune",
        },
    ),
    "volume": (
        "Manage volumes",
        {
            "create": "volumes:create",
            "inspect": "inspect:volume_inspect",
            "ls": "volumes:ls",
            "prune": "prune:volume_prune",
            "rm": "volumes:rm",
            "update": "volumes:update",
        },
    ),
}
ALIASES = {
    ("container", "list"): "ls",
    ("container", "ps"): "ls",
    ("container", "remove"): "rm",
    ("content", "list"): "ls",
    ("content", "remove"): "rm",
    ("context", "list"): "ls",
    ("context", "remove"): "rm",
    ("image", "list"): "ls",
    ("image", "remove"): "rm",
    ("network", "list"): "ls",
    ("network", "remove"): "rm",
    ("snapshot", "list"): "ls",
    ("volume", "list"): "ls",
    ("volume", "remove"): "rm",
}

#: Commands that packages of their own bring, so that an error can name them.
PACKAGES = {"image.explore": "pyengine-cli-explore"}


def _import(target: str) -> Command:
    module, _, name = target.partition(":")
    found = getattr(import_module(f"pyengine.cli.commands.{module}"), name)
    assert isinstance(found, Command)
    return found


def _names(target: str) -> list[str]:
    names = []
    for group, (_, members) in GROUPS.items():
        for word, where in members.items():
            if where == target:
                names.append(f"pyengine {group} {word}")
                names += [
                    f"pyengine {group} {alias}"
                    for (of, alias), word_meant in ALIASES.items()
                    if of == group and word_meant == word
                ]
    return names + [f"pyengine {word}" for word, where in COMMANDS.items() if where == target]


def load(word: str) -> Command:
    """A top-level command."""
    command = _import(COMMANDS[word])
    command.path = f"pyengine {word}"
    command.aliases = _names(COMMANDS[word])
    return command


def load_in_group(group: str, word: str) -> Command | None:
    """A command of a group, or None."""
    members = GROUPS[group][1]
    word = ALIASES.get((group, word), word)
    if word not in members:
        return None
    command = _import(members[word])
    command.path = f"pyengine {group} {word}"
    command.aliases = _names(members[word])
    return command


def _shorts(words: dict[str, str], plugins: dict[str, str] | None = None) -> Iterator[str]:
    """A line for each word, built in or (``plugins``: word, description) not."""
    commands = {word: _import(target) for word, target in words.items()}
    shown = {word: command.short for word, command in commands.items() if not command.hidden}
    shorts = {**(plugins or {}), **shown}
    width = max(len(word) for word in shorts)
    for word, short in sorted(shorts.items()):
        yield f"  {word.ljust(width)}  {short}"


def root_help() -> str:
    """The text of ``pyengine --help``."""
    from pyengine.cli.clickgroup import plugin_shorts
    from pyengine.cli.help import options
    from pyengine.cli.session import GLOBAL_FLAGS

    common = {word: COMMANDS[word] for word in COMMON}
    others = {word: where for word, where in COMMANDS.items() if word not in COMMON}
    lines = ["Usage:  pyengine [OPTIONS] COMMAND", "", "A container engine composed of drivers", ""]
    lines += ["Common Commands:", *_shorts(common), ""]
    lines += ["Management Commands:"]
    lines += [f"  {name.ljust(10)}  {short}" for name, (short, _) in sorted(GROUPS.items())]
    lines += ["", "Commands:", *_shorts(others, plugin_shorts()), ""]
    shown = [flag for flag in GLOBAL_FLAGS if not flag.hidden]
    lines += ["Global Options:", *options(shown), ""]
    lines += ["Run 'pyengine COMMAND --help' for more information on a command."]
    return "\n".join(lines)


def group_help(group: str) -> str:
    """The text of ``pyengine GROUP --help``."""
    from pyengine.cli.clickgroup import plugin_shorts

    short, members = GROUPS[group]
    lines = [f"Usage:  pyengine {group} COMMAND", "", short, "", "Commands:"]
    lines += _shorts(members, plugin_shorts(group))
    lines += ["", f"Run 'pyengine {group} COMMAND --help' for more information on a command."]
    return "\n".join(lines)
