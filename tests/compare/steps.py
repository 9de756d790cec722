"""What a case is made of: commands of the stock docker CLI, raw API requests, and waiting."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

#: A pattern and what it becomes, for what only one step prints (process ids of `top`).
Rule = tuple[str, str]


@dataclass(frozen=True)
class Step:
    """One step; ``line`` is the command after ``docker``, or ``METHOD /path``, or a program's.

    ``{t0}``, ``{now}`` and ``{soon}`` in it become the moment at which the case began, the present
    and two seconds from now; ``{dir}`` a directory of the case on the client's side, ``{image}`` an
    archive for `load`; ``{registry}`` a registry that has what `offered` says, ``{digest}`` that of
    its ``two:1``; ``{id:IMAGE}`` the short id of an image. ``lines``: lines of stdout are in no
    order.
    """

    kind: str
    line: str
    stdin: str = ""
    body: Any = None
    json: bool = False
    rules: tuple[Rule, ...] = ()
    script: tuple[tuple[str, str], ...] = ()
    until: str = ""
    name: str = ""
    lines: bool = False


@dataclass(frozen=True)
class Case:
    """Steps in their order. What they answer is kept by label: the line, numbered if repeated."""

    name: str
    steps: tuple[Step, ...] = field(default=())


def docker(
    line: str, *, stdin: str = "", rules: tuple[Rule, ...] = (), lines: bool = False
) -> Step:
    """A command; exit code, stdout and stderr are compared."""
    return Step("docker", line, stdin=stdin, rules=rules, lines=lines)


def data(line: str) -> Step:
    """A command that prints JSON (one value, or one a line); it is compared by path."""
    return Step("docker", line, json=True)


def quiet(line: str, *, stdin: str = "") -> Step:
    """A command that only prepares; it must succeed, and is not compared."""
    return Step("quiet", line, stdin=stdin)


def api(method: str, path: str, body: Any = None) -> Step:
    """A raw request below /v1.45; status and body are compared. A string is sent as it is."""
    return Step("api", f"{method} {path}", body=body)


def terminal(line: str, *script: tuple[str, str], rules: tuple[Rule, ...] = ()) -> Step:
    """A command on a pty: wait for the first of each pair, type the second; compare it all."""
    return Step("terminal", line, script=script, rules=rules)


def background(name: str, line: str) -> Step:
    """Start a command and go on."""
    return Step("background", line, name=name)


def finish(name: str) -> Step:
    """Wait for the end of a background command, and compare as `docker` does."""
    return Step("finish", name, name=name)


def host(line: str) -> Step:
    """A program in the engine's network namespace: what a user on its host would see."""
    return Step("host", line)


def settle(line: str, until: str) -> Step:
    """Repeat a command until what it prints holds a pattern; not compared."""
    re.compile(until)
    return Step("settle", line, until=until)


def pause(seconds: float) -> Step:
    """Let a background command reach the engine."""
    return Step("pause", str(seconds))
