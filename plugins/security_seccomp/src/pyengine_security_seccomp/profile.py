"""Profiles: Docker's JSON format, checked, and resolved for one container."""

from __future__ import annotations

import enum
import json
import os
import platform
import re
from collections.abc import Collection
from typing import Any

import msgspec
from msgspec import field

from pyengine.errors import InvalidParameter


class Action(enum.StrEnum):
    """What happens to a call that a rule covers (seccomp_rule_add(3))."""

    ALLOW = "SCMP_ACT_ALLOW"
    ERRNO = "SCMP_ACT_ERRNO"
    KILL = "SCMP_ACT_KILL"
    KILL_PROCESS = "SCMP_ACT_KILL_PROCESS"
    KILL_THREAD = "SCMP_ACT_KILL_THREAD"
    TRAP = "SCMP_ACT_TRAP"
    TRACE = "SCMP_ACT_TRACE"
    LOG = "SCMP_ACT_LOG"
    NOTIFY = "SCMP_ACT_NOTIFY"


class Op(enum.StrEnum):
    NOT_EQUAL = "SCMP_CMP_NE"
    LESS = "SCMP_CMP_LT"
    LESS_EQUAL = "SCMP_CMP_LE"
    EQUAL = "SCMP_CMP_EQ"
    GREATER_EQUAL = "SCMP_CMP_GE"
    GREATER = "SCMP_CMP_GT"
    MASKED_EQUAL = "SCMP_CMP_MASKED_EQ"


class Arg(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """``value``: what the argument is compared with; with MASKED_EQUAL the mask, and ``value_two``
    what the masked argument must be."""

    index: int
    value: int
    value_two: int = 0
    op: Op


class Condition(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """``includes``: all must hold. ``excludes``: any one is enough. ``arches`` are Go's names."""

    caps: list[str] = []
    arches: list[str] = []
    min_kernel: str = ""


_ANY = Condition()


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    names: list[str]
    action: Action = Action.ALLOW
    errno_ret: int | None = None
    args: list[Arg] = []
    includes: Condition = _ANY
    excludes: Condition = _ANY


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """``architectures``: as given; or ``arch_map``: native one -> those that come with it."""

    default_action: Action
    default_errno_ret: int | None = None
    architectures: list[str] = []
    arch_map: dict[str, tuple[str, ...]] = {}
    flags: list[str] = []
    rules: list[Rule] = []

    def capabilities(self) -> frozenset[str]:
        """Those that any rule depends on; no other makes a difference."""
        return frozenset(
            name for rule in self.rules for name in (*rule.includes.caps, *rule.excludes.caps)
        )


class _JsonArch(msgspec.Struct):
    architecture: str
    sub_architectures: list[str] | None = field(name="subArchitectures", default=None)


class _JsonRule(msgspec.Struct, rename="camel"):
    action: Action
    names: list[str] | None = None
    name: str = ""
    errno_ret: int | None = None
    args: list[Arg] | None = None
    includes: Condition | None = None
    excludes: Condition | None = None


class _JsonProfile(msgspec.Struct, rename="camel"):
    default_action: Action | None = None
    default_errno_ret: int | None = None
    architectures: list[str] | None = None
    arch_map: list[_JsonArch] | None = None
    flags: list[str] | None = None
    syscalls: list[_JsonRule] | None = None
    listener_path: str = ""


_FLAGS = frozenset(
    {
        "SECCOMP_FILTER_FLAG_TSYNC",
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    }
)


def parse(text: str) -> Profile | None:
    """A profile in Docker's format; None for one that says nothing at all (as ``{}``).

    Raises ``InvalidParameter`` that names the line and the reason.
    """
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        raise _refused(error.lineno, f"{error.msg.lower()} (column {error.colno})") from None
    try:
        given = msgspec.json.decode(text, type=_JsonProfile)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `")
        raise _refused(line_of(text, path.rstrip("`")), reason, path.rstrip("`")) from None
    rules = given.syscalls or []
    if given.default_action is None:
        if rules:
            raise _refused(1, "defaultAction is missing")
        return None
    if given.architectures and given.arch_map:
        raise _refused(
            line_of(text, "$.archMap"),
            "both 'architectures' and 'archMap' are specified in the seccomp profile, use either "
            "'architectures' or 'archMap'",
        )
    for index, rule in enumerate(rules):
        try:
            _check(rule)
        except ValueError as error:
            path = f"$.syscalls[{index}]"
            raise _refused(line_of(text, path), str(error), path) from None
    for flag in given.flags or ():
        if flag not in _FLAGS:
            raise _refused(line_of(text, "$.flags"), f"flag {flag} is not supported")
    if given.default_action is Action.NOTIFY or given.listener_path:
        raise _refused(1, "SCMP_ACT_NOTIFY needs a listener, which this engine does not have")
    return Profile(
        default_action=given.default_action,
        default_errno_ret=given.default_errno_ret,
        architectures=given.architectures or [],
        arch_map={
            item.architecture: tuple(item.sub_architectures or ()) for item in given.arch_map or ()
        },
        flags=given.flags or [],
        rules=[
            Rule(
                names=rule.names or [rule.name],
                action=rule.action,
                errno_ret=rule.errno_ret,
                args=rule.args or [],
                includes=rule.includes or _ANY,
                excludes=rule.excludes or _ANY,
            )
            for rule in rules
        ],
    )


def _check(rule: _JsonRule) -> None:
    if rule.name and rule.names:
        raise ValueError(
            "both 'name' and 'names' are specified in the seccomp profile, use either 'name' or "
            "'names'"
        )
    if not rule.name and not rule.names:
        raise ValueError("names is missing")
    if rule.action is Action.NOTIFY:
        raise ValueError("SCMP_ACT_NOTIFY needs a listener, which this engine does not have")
    for arg in rule.args or ():
        if not 0 <= arg.index <= 5:
            raise ValueError(f"a system call has arguments 0 to 5, not {arg.index}")
        if not (0 <= arg.value < 1 << 64 and 0 <= arg.value_two < 1 << 64):
            raise ValueError("value is not an unsigned number of 64 bits")
    for condition in (rule.includes, rule.excludes):
        if condition and condition.min_kernel:
            kernel_number(condition.min_kernel)


def _refused(line: int, reason: str, where: str = "") -> InvalidParameter:
    place = f"line {line}" + (f", {where}" if where else "")
    return InvalidParameter("Decoding seccomp profile failed", f"{place}: {reason}")


_KERNEL = re.compile(r"(\d{1,3})\.(\d{1,3})", re.ASCII)


def kernel_number(text: str) -> tuple[int, int]:
    """``4.8`` -> (4, 8); ``ValueError`` for anything else."""
    match = _KERNEL.fullmatch(text)
    if not match or match[0] == "0.0":
        raise ValueError(f'invalid kernel version: "{text}", expected "<kernel>.<major>"')
    return int(match[1]), int(match[2])


def line_of(text: str, path: str) -> int:
    """The line on which the value at ``path`` (``$.syscalls[3].action``) of valid JSON begins.

    A part of the path that is not there (a missing field) gives the line of what should hold it.
    """
    decoder = json.JSONDecoder()
    position = _skip(text, 0)
    for name, number in re.findall(r"\.(\w+)|\[(\d+)\]", path):
        found = _descend(decoder, text, position, name, int(number) if number else -1)
        if found < 0:
            break
        position = found
    return text.count("\n", 0, position) + 1


def _descend(decoder: json.JSONDecoder, text: str, position: int, name: str, index: int) -> int:
    """Where the member ``name`` or item ``index`` of the value at ``position`` begins, or -1."""
    position = _skip(text, position + 1)
    count = 0
    while text[position] not in "}]":
        key = ""
        if name:
            key, position = decoder.raw_decode(text, position)
            position = _skip(text, _skip(text, position) + 1)
        if key == name if name else count == index:
            return position
        _, position = decoder.raw_decode(text, position)
        position = _skip(text, position)
        if text[position] == ",":
            position = _skip(text, position + 1)
        count += 1
    return -1


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


class Machine(msgspec.Struct, frozen=True):
    """What conditions are held against. ``go``: the processor as Go (and the profile format) names
    it; ``scmp``: as the runtime spec names it."""

    go: str
    scmp: str
    kernel: tuple[int, int]


_MACHINES = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "armv7l": ("arm", "SCMP_ARCH_ARM"),
    "i686": ("x86", "SCMP_ARCH_X86"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
    "loongarch64": ("loong64", "SCMP_ARCH_LOONGARCH64"),
}


def this_machine() -> Machine:
    go, scmp = _MACHINES.get(platform.machine(), (platform.machine(), ""))
    numbers = re.match(r"(\d+)\.(\d+)", os.uname().release)
    kernel = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    return Machine(go, scmp, kernel)


def resolve(profile: Profile, capabilities: Collection[str], machine: Machine) -> dict[str, Any]:
    """``linux.seccomp`` of a runtime spec: the rules whose conditions hold, in order.

    ``capabilities``: the container's bounding set.
    """
    if machine.scmp in profile.arch_map:
        architectures = [machine.scmp, *profile.arch_map[machine.scmp]]
    else:
        architectures = list(profile.architectures)
    made: dict[str, Any] = {"defaultAction": profile.default_action.value}
    if profile.default_errno_ret is not None:
        made["defaultErrnoRet"] = profile.default_errno_ret
    made["architectures"] = architectures
    if profile.flags:
        made["flags"] = list(profile.flags)
    made["syscalls"] = [
        _as_oci(rule) for rule in profile.rules if _applies(rule, capabilities, machine)
    ]
    return made


def _applies(rule: Rule, capabilities: Collection[str], machine: Machine) -> bool:
    out, needed = rule.excludes, rule.includes
    if machine.go in out.arches or any(name in capabilities for name in out.caps):
        return False
    if out.min_kernel and machine.kernel >= kernel_number(out.min_kernel):
        return False
    if needed.arches and machine.go not in needed.arches:
        return False
    if needed.min_kernel and machine.kernel < kernel_number(needed.min_kernel):
        return False
    return all(name in capabilities for name in needed.caps)


def _as_oci(rule: Rule) -> dict[str, Any]:
    made: dict[str, Any] = {"names": rule.names, "action": rule.action.value}
    if rule.errno_ret is not None:
        made["errnoRet"] = rule.errno_ret
    if rule.args:
        made["args"] = [
            {
                "index": arg.index,
                "value": arg.value,
                "valueTwo": arg.value_two,
                "op": arg.op.value,
            }
            for arg in rule.args
        ]
    return made
