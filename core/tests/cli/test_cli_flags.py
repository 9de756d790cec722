"""Flag syntax: what Docker's users type must mean the same here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pyengine.cli.flags import Flag, UsageError, parse

FLAGS = [
    Flag("detach", "d", "bool"),
    Flag("interactive", "i", "bool"),
    Flag("tty", "t", "bool"),
    Flag("sig-proxy", "", "bool", default=True),
    Flag("env", "e", "list"),
    Flag("memory", "m", "bytes"),
    Flag("memory-swap", "", "swap"),
    Flag("cpus", "", "decimal"),
    Flag("name", "", "string"),
    Flag("publish", "p", "list"),
    Flag("trace", "", "string", implied="table"),
    Flag("filter", "f", "filter"),
]


@pytest.mark.parametrize(
    ("words", "values", "rest"),
    [
        (["-it", "img", "sh"], {"interactive": True, "tty": True}, ["img", "sh"]),
        (["-dit=false", "img"], {"detach": True, "interactive": True, "tty": False}, ["img"]),
        (["--sig-proxy=false", "img"], {"sig-proxy": False}, ["img"]),
        (["-e", "A=1", "-eB=2", "--env=C=3"], {"env": ["A=1", "B=2", "C=3"]}, []),
        (["-p80:80", "-ip", "81:81"], {"publish": ["80:80", "81:81"], "interactive": True}, []),
        (["--memory-swap", "-1", "-m", "64m"], {"memory-swap": -1, "memory": 64 << 20}, []),
        (["--cpus", ".5"], {"cpus": 500_000_000}, []),
        (["img", "-d", "--name", "x"], {"detach": False, "name": ""}, ["img", "-d", "--name", "x"]),
        (["--", "-d"], {"detach": False}, ["-d"]),
        (["--trace", "img"], {"trace": "table"}, ["img"]),
        (["--trace=json", "img"], {"trace": "json"}, ["img"]),
        (["-", "x"], {}, ["-", "x"]),
        (["--name="], {"name": ""}, []),
    ],
)
def test_parse(words: list[str], values: dict[str, Any], rest: list[str]) -> None:
    options, left = parse(FLAGS, words, interspersed=False)
    assert left == rest
    assert {name: options[name] for name in values} == values


def test_interspersed() -> None:
    options, rest = parse(FLAGS, ["a", "-d", "b", "--", "-t"])
    assert rest == ["a", "b", "-t"]
    assert options["detach"]
    assert options.changed == {"detach"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--foo"], "unknown flag: --foo"),
        (["-dQ"], "unknown shorthand flag: 'Q' in -dQ"),
        (["--name"], "flag needs an argument: --name"),
        (["-e"], "flag needs an argument: 'e' in -e"),
        (
            ["-d=x"],
            'invalid argument "x" for "-d, --detach" flag: strconv.ParseBool: parsing "x": '
            "invalid syntax",
        ),
        (["-m", "foo"], 'invalid argument "foo" for "-m, --memory" flag: invalid size: \'foo\''),
        (
            ["--cpus", "0.0000000001"],
            'invalid argument "0.0000000001" for "--cpus" flag: value is too precise',
        ),
        (
            ["-f", "x"],
            'invalid argument "x" for "-f, --filter" flag: bad format of filter '
            "(expected name=value)",
        ),
    ],
)
def test_refusals(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(FLAGS, words)
    assert str(caught.value) == message
    assert caught.value.code == 125


@pytest.mark.parametrize(
    ("words", "code", "first", "hint"),
    [
        (
            ["run"],
            1,
            "pyengine: 'pyengine run' requires at least 1 argument",
            "See 'pyengine run --help'",
        ),
        (
            ["ps", "x"],
            1,
            "pyengine: 'pyengine ps' accepts no arguments",
            "Run 'pyengine ps --help'",
        ),
        (
            ["logs", "a", "b"],
            1,
            "pyengine: 'pyengine logs' requires 1 argument",
            "Run 'pyengine logs --help'",
        ),
        (["run", "--foo", "x"], 125, "unknown flag: --foo", "Run 'pyengine run --help'"),
        (["--foo", "ps"], 125, "unknown flag: --foo", "Run 'pyengine --help'"),
        (
            ["container", "foo"],
            1,
            "pyengine: unknown command: pyengine container foo",
            "Run 'pyengine container",
        ),
        (["foo"], 1, "pyengine: unknown command: pyengine foo", "Run 'pyengine --help'"),
    ],
)
def test_usage_errors(
    pyengine: Callable[..., Any], words: list[str], code: int, first: str, hint: str
) -> None:
    outcome = pyengine(*words)
    assert outcome.code == code
    assert outcome.err.splitlines()[0] == first
    assert hint in outcome.err
    assert outcome.out == ""


def test_help_names_flags_and_aliases(pyengine: Callable[..., Any]) -> None:
    outcome = pyengine("container", "ls", "--help")
    assert outcome.code == 0
    assert outcome.out.startswith("Usage:  pyengine container ls [OPTIONS]\n\nList containers\n")
    assert "pyengine container ls, pyengine container list, pyengine container ps, pyengine ps" in (
        outcome.out
    )
    assert "  -q, --quiet           Only display container IDs\n" in outcome.out


@pytest.mark.parametrize("word", ["", "container", "image", "network", "system", "volume"])
def test_every_command_loads_and_has_help(pyengine: Callable[..., Any], word: str) -> None:
    from pyengine.cli import registry

    assert pyengine(*([word] if word else []), "--help").code == 0
    for name in registry.GROUPS[word][1] if word else set(registry.COMMANDS) - {"daemon"}:
        outcome = pyengine(*([word] if word else []), name, "--help")
        assert outcome.code == 0
        assert outcome.out.startswith("Usage:  pyengine ")
