"""``--change`` of import and commit: single Dockerfile instructions applied to a configuration.

Which instructions there are, how words are quoted and variables replaced is in the Dockerfile
reference (https://docs.docker.com/reference/dockerfile/); the messages are Docker's.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Sequence

import msgspec

from pyengine import durations
from pyengine.engine.model import ContainerConfig, HealthConfig
from pyengine.errors import InvalidParameter

DEFAULT_SHELL = ["/bin/sh", "-c"]

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::([-+])([^}]*))?\})")
_SIGNAL = re.compile(r"(?:SIG)?[A-Z][A-Z0-9+-]*|\d+")


def apply_changes(config: ContainerConfig, changes: Sequence[str]) -> ContainerConfig:
    """A copy of ``config`` after the instructions in ``changes``, in order.

    Raises ``InvalidParameter`` for one that is unknown, not allowed here, or malformed.
    """
    config = msgspec.structs.replace(config)
    lines = [line.strip() for line in "\n".join(changes).splitlines()]
    command_set = False
    for line in lines:
        if not line or line.startswith("#"):
            continue
        word, *rest = line.split(None, 1)
        instruction, text = word.upper(), rest[0] if rest else ""
        handler = _HANDLERS.get(instruction)
        if handler is None:
            raise InvalidParameter(f"{word} is not a valid change command")
        handler(config, text)
        if instruction == "CMD":
            command_set = True
        elif instruction == "ENTRYPOINT" and not command_set:
            config.cmd = None
    return config


def _environment(config: ContainerConfig) -> dict[str, str]:
    pairs = (item.partition("=") for item in config.env or [])
    return {name: value for name, _, value in pairs}


def _expand(word: str, environment: dict[str, str]) -> str:
    """Take quotes off and replace variables, except inside single quotes and after a backslash."""
    out: list[str] = []
    position, quote = 0, ""
    while position < len(word):
        char = word[position]
        if char == "\\" and quote != "'" and position + 1 < len(word):
            follower = word[position + 1]
            # Inside double quotes a backslash is only special before what it could escape.
            out.append(follower if not quote or follower in '"$\\' else char + follower)
            position += 2
            continue
        if char in "'\"" and quote in ("", char):
            quote = "" if quote else char
            position += 1
            continue
        match = _VARIABLE.match(word, position) if char == "$" and quote != "'" else None
        if match:
            name = match[1] or match[2]
            value = environment.get(name, "")
            if match[3] == "-":
                value = value or _expand(match[4], environment)
            elif match[3] == "+":
                value = _expand(match[4], environment) if value else ""
            out.append(value)
            position = match.end()
            continue
        out.append(char)
        position += 1
    return "".join(out)


def _words(text: str) -> list[str]:
    """Split at blanks outside of quotes; quotes stay."""
    words: list[str] = []
    current, quote, escaped = "", "", False
    for char in text:
        if escaped:
            current, escaped = current + char, False
        elif char == "\\" and quote != "'":
            current, escaped = current + char, True
        elif quote:
            current += char
            quote = "" if char == quote else quote
        elif char.isspace():
            if current:
                words.append(current)
            current = ""
        else:
            quote = char if char in "'\"" else ""
            current += char
    return [*words, current] if current else words


def _json_list(text: str) -> list[str] | None:
    try:
        value = json.loads(text) if text.startswith("[") else None
    except ValueError:
        return None
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    return None


def _command(config: ContainerConfig, text: str) -> list[str]:
    listed = _json_list(text)
    if listed is not None:
        return listed
    return [*(config.shell or DEFAULT_SHELL), text] if text else []


def _pairs(config: ContainerConfig, text: str, instruction: str) -> dict[str, str]:
    words = _words(text)
    if not words:
        raise InvalidParameter(f"{instruction} requires at least one argument")
    environment = _environment(config)
    if "=" not in words[0]:
        name, *value = text.split(None, 1)
        if not value:
            raise InvalidParameter(f"{instruction} must have two arguments")
        return {_expand(name, environment): _expand(value[0], environment)}
    pairs: dict[str, str] = {}
    for word in words:
        name, equals, value_text = word.partition("=")
        if not equals:
            raise InvalidParameter(
                f'Syntax error - can\'t find = in "{word}". Must be of the form: name=value'
            )
        key = _expand(name, environment)
        if not key:
            raise InvalidParameter(f"{instruction} names can not be blank")
        pairs[key] = _expand(value_text, environment)
    return pairs


def _single(text: str, instruction: str) -> str:
    if not text:
        raise InvalidParameter(f"{instruction} requires exactly one argument")
    return text


def _cmd(config: ContainerConfig, text: str) -> None:
    config.cmd = _command(config, text)


def _entrypoint(config: ContainerConfig, text: str) -> None:
    config.entrypoint = _command(config, text) or None


def _env(config: ContainerConfig, text: str) -> None:
    pairs = _pairs(config, text, "ENV")
    config.env = [f"{name}={value}" for name, value in (_environment(config) | pairs).items()]


def _label(config: ContainerConfig, text: str) -> None:
    config.labels = (config.labels or {}) | _pairs(config, text, "LABEL")


def _expose(config: ContainerConfig, text: str) -> None:
    environment = _environment(config)
    words = [part for word in _words(text) for part in _expand(word, environment).split()]
    if not words:
        raise InvalidParameter("EXPOSE requires at least one argument")
    ports = dict(config.exposed_ports or {})
    for word in words:
        numbers, _, protocol = word.rpartition(":")[2].partition("/")
        protocol = protocol.lower() or "tcp"
        first, _, last = numbers.partition("-")
        if protocol not in ("tcp", "udp", "sctp"):
            raise InvalidParameter(f"invalid proto: {protocol}")
        if not (first.isdigit() and (last or first).isdigit()):
            raise InvalidParameter(f"Invalid containerPort: {numbers}")
        low, high = int(first), int(last or first)
        if not 0 <= low <= high <= 65535:
            raise InvalidParameter(f"Invalid containerPort: {numbers}")
        ports |= {f"{port}/{protocol}": {} for port in range(low, high + 1)}
    config.exposed_ports = ports


def _user(config: ContainerConfig, text: str) -> None:
    config.user = _expand(_single(text, "USER"), _environment(config))


def _volume(config: ContainerConfig, text: str) -> None:
    listed = _json_list(text)
    environment = _environment(config)
    paths = [_expand(word, environment) for word in (_words(text) if listed is None else listed)]
    if not paths:
        raise InvalidParameter("VOLUME requires at least one argument")
    if not all(path.strip() for path in paths):
        raise InvalidParameter("VOLUME specified can not be an empty string")
    config.volumes = (config.volumes or {}) | {path.strip(): {} for path in paths}


def _workdir(config: ContainerConfig, text: str) -> None:
    path = _expand(_single(text, "WORKDIR"), _environment(config))
    if not path:
        raise InvalidParameter("cannot normalize nothing")
    config.working_dir = posixpath.normpath(posixpath.join("/", config.working_dir, path))


def _onbuild(config: ContainerConfig, text: str) -> None:
    trigger = _single(text, "ONBUILD").split()[0].upper()
    if trigger == "ONBUILD":
        raise InvalidParameter("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("FROM", "MAINTAINER"):
        raise InvalidParameter(f"{trigger} isn't allowed as an ONBUILD trigger")
    config.on_build = [*(config.on_build or []), text]


def _stop_signal(config: ContainerConfig, text: str) -> None:
    signal = _expand(_single(text, "STOPSIGNAL"), _environment(config))
    if not _SIGNAL.fullmatch(signal.upper()):
        raise InvalidParameter(f"Invalid signal: {signal}")
    config.stop_signal = signal


def _healthcheck(config: ContainerConfig, text: str) -> None:
    if not text:
        raise InvalidParameter("HEALTHCHECK requires at least one argument")
    health = HealthConfig()
    while text.startswith("--"):
        flag, _, text = text.partition(" ")
        name, _, value = flag[2:].partition("=")
        text = text.strip()
        if name == "retries":
            if not value.isdigit():
                raise InvalidParameter(f"--retries cannot be negative or no number ({value})")
            health.retries = int(value)
        elif name in ("interval", "timeout", "start-period", "start-interval"):
            setattr(health, name.replace("-", "_"), _duration(name, value))
        else:
            raise InvalidParameter(f"unknown flag: --{name}")
    kind, _, command = text.partition(" ")
    if kind.upper() == "NONE":
        if command.strip():
            raise InvalidParameter("HEALTHCHECK NONE takes no arguments")
        config.healthcheck = HealthConfig(test=["NONE"])
        return
    if kind.upper() != "CMD":
        raise InvalidParameter(f'Unknown type "{kind.upper()}" in HEALTHCHECK (try CMD)')
    command = command.strip()
    if not command:
        raise InvalidParameter("Missing command after HEALTHCHECK CMD")
    listed = _json_list(command)
    health.test = ["CMD-SHELL", command] if listed is None else ["CMD", *listed]
    config.healthcheck = health


def _duration(flag: str, text: str) -> int:
    try:
        ns = durations.parse(text)
    except ValueError as error:
        raise InvalidParameter(str(error), f"--{flag}") from None
    if ns != 0 and ns < 10**6:
        raise InvalidParameter(f'Interval "{flag}" cannot be less than 1ms')
    return ns


_HANDLERS = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
