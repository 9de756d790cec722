"""Command-line flags with the rules of Docker's CLI.

Docker's flags follow POSIX getopt with Go's additions: ``--flag=false`` for switches, ``-it``
bundles, ``-p80:80``, lists by repetition, and for ``run`` and ``exec`` everything after the first
word belongs to the container. click has no switch with an optional ``=value`` and importing it
takes longer than most commands here need for their work, so built-in commands are declared with
these classes; commands that plugins bring are click's.
"""

from __future__ import annotations

from pyengine import durations
from pyengine.cli import units

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from pyengine.cli.session import Session

    Handler = Callable[[Session, "Options", list[str]], int | None]


class UsageError(Exception):
    """A flag or argument the command does not take. ``code`` is the exit status."""

    def __init__(self, message: str, command: Command | None = None, code: int = 125) -> None:
        super().__init__(message)
        self.command = command
        self.code = code


def switch(text: str) -> bool:
    if text in ("1", "t", "T", "TRUE", "true", "True"):
        return True
    if text in ("0", "f", "F", "FALSE", "false", "False"):
        return False
    raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')


def _integer(text: str) -> int:
    try:
        return int(text, 10 if text.lstrip("-+")[:1] != "0" else 0)
    except ValueError:
        raise ValueError(f'strconv.ParseInt: parsing "{text}": invalid syntax')


def _unsigned(limit: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text) if text.isdecimal() else -1
        if value < 0:
            raise ValueError(f'strconv.ParseUint: parsing "{text}": invalid syntax')
        if value > limit:
            raise ValueError(f'strconv.ParseUint: parsing "{text}": value out of range')
        return value

    return parse


def _bytes_or_unlimited(text: str) -> int:
    return -1 if text == "-1" else units.parse_bytes(text)


def _nano_cpus(text: str) -> int:
    from fractions import Fraction

    try:
        nano = Fraction(text) * 10**9
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"failed to parse {text} as a rational number")
    if nano.denominator != 1:
        raise ValueError("value is too precise")
    return int(nano)


def _pairs(text: str) -> dict[str, str]:
    """``key=value,"key=va,lue"`` (RFC 4180)."""
    words = [text.strip('"')]
    if text.count("=") > 1:
        import csv

        words = next(csv.reader([text]))
    pairs = [word.partition("=") for word in words if word or len(words) == 1]
    for word, equals, _ in pairs:
        if not equals:
            raise ValueError(f"{word} must be formatted as key=value")
    return {key: value for key, _, value in pairs}


def _strings(text: str) -> list[str]:
    """``a,b`` or ``"a,b",c`` (RFC 4180)."""
    import csv

    return next(csv.reader([text]), [])


def _filter(text: str) -> str:
    if "=" not in text:
        raise ValueError("bad format of filter (expected name=value)")
    return text


_PARSERS: dict[str, Callable[[str], Any]] = {
    "bool": switch,
    "int": _integer,
    "uint16": _unsigned(0xFFFF),
    "uint": _unsigned(2**64 - 1),
    "bytes": units.parse_bytes,
    "swap": _bytes_or_unlimited,
    "decimal": _nano_cpus,
    "duration": durations.parse,
    "string": str,
    "filter": _filter,
    "stringToString": _pairs,
    "strings": _strings,
}
_REPEATED = (
    *("list", "map", "filter", "mount", "network", "ulimit", "gpu-request", "KIND=NAME"),
    *("stringToString", "strings"),
)
_ZERO: dict[str, Any] = {"bool": False, "string": "", "path": ""}


class Flag:
    """One flag. ``kind`` is the word that the help shows after the name; it decides the value.

    ``check`` maps the text to the value and raises ValueError; without it the kind's own parser
    is used. Repeated kinds give a list. ``implied`` is the value of the flag without ``=``.
    """

    __slots__ = ("check", "default", "help", "hidden", "implied", "kind", "name", "short")

    def __init__(
        self,
        name: str,
        short: str = "",
        kind: str = "string",
        help: str = "",
        *,
        default: Any = None,
        check: Callable[[str], Any] | None = None,
        implied: str | None = None,
        hidden: bool = False,
    ) -> None:
        self.name = name
        self.short = short
        self.kind = kind
        self.help = help
        self.check = check or _PARSERS.get(kind, str)
        self.default = default
        self.implied = "true" if kind == "bool" else implied
        self.hidden = hidden

    @property
    def repeated(self) -> bool:
        return self.kind in _REPEATED

    def initial(self) -> Any:
        if self.repeated:
            return []
        return _ZERO.get(self.kind, 0) if self.default is None else self.default

    def label(self) -> str:
        return f"-{self.short}, --{self.name}" if self.short else f"--{self.name}"


class Options(dict[str, "Any"]):
    """The flags' values by long name; ``changed`` holds the names that were given."""

    def __init__(self, flags: Iterable[Flag]) -> None:
        super().__init__((flag.name, flag.initial()) for flag in flags)
        self.changed: set[str] = set()

    def put(self, flag: Flag, text: str) -> None:
        try:
            value = flag.check(text)
        except ValueError as error:
            raise UsageError(f'invalid argument "{text}" for "{flag.label()}" flag: {error}')
        if flag.kind == "strings":
            self[flag.name].extend(value)
        elif flag.repeated:
            self[flag.name].append(value)
        else:
            self[flag.name] = value
        self.changed.add(flag.name)


class Command:
    """A built-in command: its words, flags and handler.

    ``at_least`` and ``at_most`` bound the arguments that are no flags; ``interspersed`` tells
    whether flags may follow them; ``creates`` says that the command makes something, so a missing
    engine may be started for it; ``long`` is what the help says below ``short``; a ``hidden``
    command is not listed.
    """

    def __init__(
        self,
        usage: str,
        short: str,
        flags: Iterable[Flag],
        handler: Handler,
        *,
        at_least: int = 0,
        at_most: int | None = None,
        interspersed: bool = True,
        creates: bool = False,
        raw: bool = False,
        hidden: bool = False,
        long: str = "",
    ) -> None:
        self.usage = usage
        self.short = short
        self.flags = list(flags)
        self.handler = handler
        self.at_least = at_least
        self.at_most = at_most
        self.interspersed = interspersed
        self.creates = creates
        self.raw = raw
        self.hidden = hidden
        self.long = long
        self.path = ""
        self.aliases: list[str] = []

    def parse(self, words: list[str]) -> tuple[Options, list[str]]:
        """Flags and the other words. UsageError names this command."""
        if self.raw:
            return Options(()), words
        try:
            options, rest = parse(self.flags, words, self.interspersed)
        except UsageError as error:
            raise UsageError(str(error), self, error.code)
        if not options.get("help"):
            self._count(len(rest))
        return options, rest

    def _count(self, given: int) -> None:
        low, high = self.at_least, self.at_most
        if given >= low and (high is None or given <= high):
            return
        if high == 0:
            rule = "accepts no arguments"
        elif low == high:
            rule = f"requires {low} argument{'s' if low != 1 else ''}"
        elif low and high is not None:
            rule = f"requires at least {low} and at most {high} arguments"
        elif given < low:
            rule = f"requires at least {low} argument{'s' if low != 1 else ''}"
        else:
            rule = f"requires at most {high} argument{'s' if high != 1 else ''}"
        raise UsageError(f"pyengine: '{self.path}' {rule}", self, 1)


HELP = Flag("help", "", "bool", "Print usage", hidden=True)


def command(
    usage: str, short: str, flags: Iterable[Flag] = (), **settings: Any
) -> Callable[[Handler], Command]:
    """Decorator: the function becomes the handler of a Command."""

    def wrap(handler: Handler) -> Command:
        return Command(usage, short, [*flags, HELP], handler, **settings)

    return wrap


def parse(
    flags: Iterable[Flag], words: list[str], interspersed: bool = True
) -> tuple[Options, list[str]]:
    """Split ``words`` into the flags' values and the rest; UsageError in Docker's words."""
    flags = list(flags)
    by_name = {flag.name: flag for flag in flags}
    by_short = {flag.short: flag for flag in flags if flag.short}
    options = Options(flags)
    rest: list[str] = []
    queue = iter(words)
    for word in queue:
        if word == "--":
            rest.extend(queue)
        elif word.startswith("--"):
            name, equals, text = word[2:].partition("=")
            flag = by_name.get(name)
            if flag is None:
                raise UsageError(f"unknown flag: --{name}")
            options.put(flag, text if equals else _value(flag, queue, word))
        elif word.startswith("-") and word != "-":
            _parse_bundle(word, by_short, options, queue)
        else:
            rest.append(word)
            if not interspersed:
                rest.extend(queue)
    return options, rest


def _value(flag: Flag, queue: Iterable[str], word: str) -> str:
    if flag.implied is not None:
        return flag.implied
    for text in queue:
        return text
    raise UsageError(f"flag needs an argument: {word}")


def _parse_bundle(
    word: str, by_short: dict[str, Flag], options: Options, queue: Iterable[str]
) -> None:
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        flag = by_short.get(letter)
        if flag is None:
            if letter == "h" and "help" in options:
                options["help"] = True
                return
            raise UsageError(f"unknown shorthand flag: '{letter}' in {word}")
        if letters.startswith("="):
            options.put(flag, letters[1:])
            return
        if flag.implied is not None:
            options.put(flag, flag.implied)
        elif letters:
            options.put(flag, letters)
            return
        else:
            options.put(flag, _value(flag, queue, f"'{letter}' in {word}"))
