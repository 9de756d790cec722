"""The ``--security-opt`` values that the engine itself understands; plugins claim the others."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pyengine.errors import InvalidParameter

_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


class SecurityOptions(msgspec.Struct, frozen=True):
    """``writable_cgroups`` None: as ``--privileged`` has it. ``label`` is for SELinux, which this
    engine leaves off, as dockerd does by default: accepted and without effect."""

    no_new_privileges: bool = False
    unconfined_paths: bool = False
    writable_cgroups: bool | None = None
    labels: tuple[str, ...] = ()


def split(option: str) -> tuple[str, str]:
    """``name=value``, or the old ``name:value``; a bare word has the value ""."""
    separator = "=" if "=" in option else ":"
    name, _, value = option.partition(separator)
    return name, value


def claims(option: str) -> bool:
    """True if the option is the engine's own."""
    return split(option)[0] in (
        *("no-new-privileges", "label", "disable", "systempaths", "writable-cgroups"),
    )


def parse(options: Sequence[str] | None, no_new_privileges: bool = False) -> SecurityOptions:
    """What the engine's own among ``options`` say; ``no_new_privileges`` is the engine's default.

    Raises ``InvalidParameter`` with Docker's text for a bad value. Others are passed over: the
    caller asks the plugins about those.
    """
    if not options:
        return _PLAIN[no_new_privileges]
    unconfined, writable, labels = False, None, []
    for option in options:
        name, value = split(option)
        if name == "no-new-privileges":
            no_new_privileges = True if option == name else _bool(option, value)
        elif name == "writable-cgroups":
            writable = True if option == name else _bool(option, value)
        elif name == "systempaths":
            if value != "unconfined":
                raise _invalid(option)
            unconfined = True
        elif name in ("label", "disable"):
            labels.append(value or name)
        elif option == name and not claims(option):
            raise InvalidParameter(f'invalid --security-opt 1: "{option}"')
    return SecurityOptions(no_new_privileges, unconfined, writable, tuple(labels))


_PLAIN = {flag: SecurityOptions(no_new_privileges=flag) for flag in (False, True)}


def _bool(option: str, value: str) -> bool:
    if value in _TRUE or value in _FALSE:
        return value in _TRUE
    raise _invalid(option)


def _invalid(option: str) -> InvalidParameter:
    return InvalidParameter(f'invalid --security-opt 2: "{option}"')
