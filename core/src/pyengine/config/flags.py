"""Flags of ``pyengine daemon``: one for each key, with dockerd's names."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import msgspec

from pyengine.config.keys import (
    DEFAULT_FILE,
    DRIVER_KEYS,
    FIELDS,
    REFUSED,
    WITHOUT_EFFECT,
    split_option,
)
from pyengine.config.words import nearest
from pyengine.contracts.base import Kind

#: Keys whose flag is not the key itself: lists have the singular, as dockerd has them.
FLAGS = {
    "hosts": ("-H", "--host"),
    "debug": ("-D", "--debug"),
    "group": ("-G", "--group"),
    "log-level": ("-l", "--log-level"),
    "pidfile": ("-p", "--pidfile"),
    "storage-driver": ("-s", "--storage-driver"),
    "bridge": ("-b", "--bridge"),
    "labels": ("--label",),
    "storage-opts": ("--storage-opt",),
    "log-opts": ("--log-opt",),
    "dns-opts": ("--dns-opt",),
    "default-address-pools": ("--default-address-pool",),
    "default-ulimits": ("--default-ulimit",),
    "cdi-spec-dirs": ("--cdi-spec-dir",),
    "registry-mirrors": ("--registry-mirror",),
    "insecure-registries": ("--insecure-registry",),
    "exec-opts": ("--exec-opt",),
    "authorization-plugins": ("--authorization-plugin",),
    "default-network-opts": ("--default-network-opt",),
    "host-gateway-ips": ("--host-gateway-ip",),
    "runtimes": ("--add-runtime",),
    "features": ("--feature",),
    "cluster-store-opts": ("--cluster-store-opt",),
    "node-generic-resources": ("--node-generic-resource",),
}

_BOOL = {"true": True, "1": True, "false": False, "0": False}

#: Not settable by a flag.
FILE_ONLY = {"drivers", "registries", "proxies", "host-gateway-ip", "min-api-version"}

#: Keys of which the flag adds to what the file says.
ADDED = {"runtimes", "features"}


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pyengine daemon",
        description="Run the engine. Flags and daemon.json have dockerd's names.",
        allow_abbrev=False,
    )
    parser.add_argument("--config-file", help=f"daemon.json (default {DEFAULT_FILE})")
    parser.add_argument(
        "--driver",
        action="append",
        metavar="KIND=NAME[,OPTION=VALUE...]",
        help="choose a driver; repeatable",
    )
    parser.add_argument(
        "--schema", action="store_true", help="print the JSON schema of daemon.json and stop"
    )
    parser.add_argument("--validate", action="store_true", help="check the configuration and stop")
    parser.add_argument(
        "--replace",
        action="store_true",
        help="take over from the daemon that runs on this data root; containers go on",
    )
    for key in (*WITHOUT_EFFECT, *REFUSED):
        parser.add_argument(
            flag_of(key), dest=dest(key), nargs="?", const="true", help=argparse.SUPPRESS
        )
    for key, field in FIELDS.items():
        if key in FILE_ONLY:
            continue
        names = FLAGS.get(key, (f"--{key}",))
        if field.type is bool:
            parser.add_argument(*names, dest=dest(key), nargs="?", const="true", metavar="BOOL")
        elif _is_many(key):
            parser.add_argument(*names, dest=dest(key), action="append", metavar="VALUE")
        else:
            parser.add_argument(*names, dest=dest(key), metavar="VALUE")
    return parser


def flag_of(key: str) -> str:
    """The flag of a key, in its long form."""
    return FLAGS.get(key, (f"--{key}",))[-1]


def dest(key: str) -> str:
    return "key_" + key.replace("-", "_")


def not_honoured(given: argparse.Namespace, problems: list[str], notes: list[str]) -> None:
    """Say of each flag of dockerd's that changes nothing or is refused why that is so."""
    for key in (*WITHOUT_EFFECT, *REFUSED):
        text = getattr(given, dest(key))
        if text is None:
            continue
        if key in WITHOUT_EFFECT:
            notes.append(f"{flag_of(key)} changes nothing: {WITHOUT_EFFECT[key]}")
            continue
        refused = REFUSED[key]
        if text.lower() not in {str(value).lower() for value in refused.nothing}:
            problems.append(
                f"{flag_of(key)} is not supported by pyengine: {refused.reason}; found {text!r}"
            )


def _is_many(key: str) -> bool:
    return not isinstance(FIELDS[key].default, str | int | bool)


def nearest_flag(parser: argparse.ArgumentParser, word: str) -> str:
    known = [name for action in parser._actions for name in action.option_strings]
    return nearest(word.partition("=")[0], known)


def from_flag(key: str, given: Any, problems: list[str]) -> Any:
    field = FIELDS[key]
    flag = flag_of(key)
    try:
        if field.type is bool:
            return _BOOL[given.lower()]
        if field.type is int:
            return int(given)
        if key == "log-opts":
            return dict(split_option(item) for item in given)
        if key == "default-network-opts":
            return _network_options(given)
        if key == "default-address-pools":
            return [_address_pool(item) for item in given]
        if key == "default-ulimits":
            return dict(_ulimit(item) for item in given)
        if key == "runtimes":
            return {name: {"path": path} for name, path in map(split_option, given)}
        if key == "features":
            return dict(_feature(item) for item in given)
    except (KeyError, ValueError) as error:
        problems.append(f"{flag}: {given!r} is no valid value ({error})")
        return field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return given


def _address_pool(item: str) -> dict[str, Any]:
    parts = dict(split_option(part) for part in item.split(","))
    return {"base": parts["base"], "size": int(parts["size"])}


def _network_options(items: Sequence[str]) -> dict[str, dict[str, str]]:
    """``DRIVER=OPTION=VALUE``, one or more."""
    found: dict[str, dict[str, str]] = {}
    for item in items:
        driver, option = split_option(item)
        name, value = split_option(option)
        found.setdefault(driver, {})[name] = value
    return found


def _feature(item: str) -> tuple[str, bool]:
    """``NAME`` or ``NAME=BOOL``."""
    name, equals, value = item.partition("=")
    return name, _BOOL[value.lower()] if equals else True


def _ulimit(item: str) -> tuple[str, dict[str, Any]]:
    name, value = split_option(item)
    soft, _, hard = value.partition(":")
    return name, {"Name": name, "Soft": int(soft), "Hard": int(hard or soft)}


def drop_choice(values: dict[str, Any], kind: str, name: Any, notes: list[str]) -> None:
    """A flag with Docker's name has chosen: what the file's ``drivers`` says of that kind goes."""
    drivers = dict(values.get("drivers") or {})
    ours = drivers.get(kind)
    if ours is not None and (ours.get("name", "") if isinstance(ours, dict) else ours) != name:
        notes.append(f"drivers.{kind}: the flag's {name!r} is used, not {ours!r}")
        del drivers[kind]
        values["drivers"] = drivers


def apply_driver_flags(
    flags: Sequence[str], values: dict[str, Any], problems: list[str], notes: list[str]
) -> None:
    drivers = dict(values.get("drivers") or {})
    security: list[str] = []
    for flag in flags:
        choice, *options = flag.split(",")
        kind, equals, name = choice.partition("=")
        if not equals or kind not in {k.value for k in Kind}:
            known = ", ".join(k.value for k in Kind)
            problems.append(f"--driver {flag!r}: wants KIND=NAME; kinds are {known}")
            continue
        if kind == Kind.SECURITY.value:
            security.append(name)
            continue
        try:
            parsed = dict(split_option(option) for option in options)
        except ValueError as error:
            problems.append(f"--driver {flag!r}: {error}")
            continue
        if kind in drivers:
            notes.append(f"drivers.{kind}: the flag's {name!r} is used, not {drivers[kind]!r}")
        drivers[kind] = {"name": name, "options": parsed}
        for key, chosen_kind in DRIVER_KEYS.items():
            if chosen_kind == kind and values.get(key, name) != name:
                notes.append(f"{key}: the flag's {name!r} is used, not {values.pop(key)!r}")
    if security:
        drivers[Kind.SECURITY.value] = security
    if drivers:
        values["drivers"] = drivers
