"""Flags and file become one configuration, or all that is wrong with them is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pyengine.config import flags
from pyengine.config.checks import wrong
from pyengine.config.driverchecks import refusals
from pyengine.config.file import read
from pyengine.config.keys import DEFAULT_FILE, DRIVER_KEYS, FEATURES, FIELDS, Config
from pyengine.config.together import contradictions
from pyengine.config.words import nearest
from pyengine.contracts.base import Kind
from pyengine.drivers import Catalog
from pyengine.errors import ConfigError


class Loaded(msgspec.Struct):
    """A configuration and what has to be said about it (flags that beat the file)."""

    config: Config
    notes: list[str] = []
    file: Path = DEFAULT_FILE
    check_only: bool = False
    replace: bool = False


def load(
    argv: Sequence[str],
    catalog: Catalog | None = None,
    look: Callable[[Config], Sequence[str]] = lambda config: (),
) -> Loaded:
    """Read flags and file. ``ConfigError`` with every mistake, a line each; its ``detail`` is the
    lines. With ``catalog``, drivers that are chosen and their options are looked at too; ``look``
    gives a line for what this host has not."""
    parser = flags.parser()
    given, extra = parser.parse_known_args(list(argv))
    problems = [f"unknown flag {word!r}{flags.nearest_flag(parser, word)}" for word in extra]
    path = Path(given.config_file) if given.config_file else DEFAULT_FILE
    values: dict[str, Any] = {}
    notes: list[str] = []
    if path.exists():
        values = read(path, problems, notes)
    elif given.config_file:
        problems.append(f"{path}: no such file")
    for key in FIELDS:
        text = getattr(given, flags.dest(key), None)
        if text is None:
            continue
        value = flags.from_flag(key, text, problems)
        problems += [f"{flags.flag_of(key)}: {problem}" for _, problem in wrong(key, value)]
        if key in flags.ADDED:
            value = {**values.get(key, {}), **value}
        elif key in values and values[key] != value:
            notes.append(f"{key}: the flag's {value!r} is used, not {values[key]!r} from {path}")
        values[key] = value
        flags.drop_choice(values, DRIVER_KEYS.get(key, ""), value, notes)
    flags.not_honoured(given, problems, notes)
    flags.apply_driver_flags(given.driver or [], values, problems, notes)
    config = _convert(values, problems)
    # What is wrong by itself has been said: the rest is looked at without it.
    right = _convert(_right(values), [])
    problems += contradictions(right)
    problems += refusals(right, catalog) if catalog is not None else []
    problems += look(right)
    notes += [
        f"features: {name!r} changes nothing: there is no such feature here"
        for name in config.features
        if name not in FEATURES
    ]
    if problems:
        raise ConfigError(
            "the configuration has errors", "\n  " + "\n  ".join(problems), "nothing was started"
        )
    return Loaded(config, notes, path, given.validate, given.replace)


def _right(values: Mapping[str, Any]) -> dict[str, Any]:
    """What there is nothing to say against."""
    kept = {key: value for key, value in values.items() if not wrong(key, value)}
    if "drivers" in kept:
        kinds = {kind.value for kind in Kind}
        kept["drivers"] = {kind: v for kind, v in kept["drivers"].items() if kind in kinds}
    return kept


def _convert(values: Mapping[str, Any], problems: list[str]) -> Config:
    drivers = values.get("drivers") or {}
    for kind in drivers:
        if kind not in {k.value for k in Kind}:
            meant = nearest(kind, [k.value for k in Kind])
            problems.append(f"drivers: unknown kind {kind!r}{meant}")
    for key, kind in DRIVER_KEYS.items():
        ours = drivers.get(kind)
        name = ours.get("name") if isinstance(ours, dict) else ours
        if values.get(key) and name and values[key] != name:
            problems.append(
                f"{key} is {values[key]!r} but drivers.{kind} is {name!r}: keep one of them"
            )
    try:
        return msgspec.convert(dict(values), Config)
    except msgspec.ValidationError as error:
        problems.append(str(error))
        return Config()
