"""Which devices a cgroup may use: a file of version 1, a program of version 2.

Version 2 has no files for this. A program of type BPF_PROG_TYPE_CGROUP_DEVICE is attached to the
directory and asked at each open and mknod, with ``struct bpf_cgroup_dev_ctx`` (uapi/linux/bpf.h):
``u32 access_type`` (access in the upper half, type in the lower), ``u32 major``, ``u32 minor``.
The programs are short, so they are assembled here by hand.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Any

from pyengine.errors import EngineError, InvalidParameter
from pyengine.faults import failpoint
from pyengine.linux import syscalls

_ACCESS = {"m": 1, "r": 2, "w": 4}
_TYPE = {"b": 1, "c": 2}

_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH, _PROG_GET_FD_BY_ID, _PROG_QUERY = 5, 8, 9, 13, 16
_TYPE_CGROUP_DEVICE, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI = 15, 6, 2

_LDX_W, _MOV32_REG, _AND32_IMM, _RSH32_IMM = 0x61, 0xBC, 0x54, 0x74
_MOV32_IMM, _JEQ_IMM, _JNE_IMM, _EXIT = 0xB4, 0x15, 0x55, 0x95


#: What every container may do, after its own rules: make any node (which opens nothing by itself),
#: and use the devices that the runtime specification promises, terminals among them
#: (runtime-spec config-linux.md, "Default Devices"; runc allows the same).
DEFAULT_RULES: list[dict[str, Any]] = [
    {"allow": True, "type": "c", "access": "m"},
    {"allow": True, "type": "b", "access": "m"},
    *(
        {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"}
        for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, -1))
    ),
]


def with_defaults(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """``rules`` of a new container, and the default ones that are not among them."""
    return [*rules, *(rule for rule in DEFAULT_RULES if rule not in rules)]


def v1_line(rule: dict[str, Any]) -> tuple[str, str]:
    """File name and content for one rule of the spec."""
    kind = rule.get("type") or "a"
    if kind not in ("a", "b", "c"):
        raise InvalidParameter(f"device rule has an unknown type {kind!r}", help="a, b or c")
    major, minor = (_number(rule.get(key)) for key in ("major", "minor"))
    access = rule.get("access") or "rwm"
    file = "devices.allow" if rule.get("allow") else "devices.deny"
    if kind == "a" and major == minor == "*" and set(access) == set("rwm"):
        return file, "a"
    return file, f"{kind} {major}:{minor} {access}"


def _number(value: int | None) -> str:
    return "*" if value is None or value == -1 else str(value)


def assemble(rules: list[dict[str, Any]]) -> bytes:
    """The program for ``rules``, of which the last that matches decides; by default denied.

    An allowing rule decides when it grants everything that is asked for, a denying one when it
    takes any of it away.
    """
    # r2 = type, r3 = access, r4 = major, r5 = minor
    code = [
        _instruction(_LDX_W, 2, 1, 0),
        _instruction(_MOV32_REG, 3, 2),
        _instruction(_AND32_IMM, 2, immediate=0xFFFF),
        _instruction(_RSH32_IMM, 3, immediate=16),
        _instruction(_LDX_W, 4, 1, 4),
        _instruction(_LDX_W, 5, 1, 8),
    ]
    for rule in _merged(rules)[::-1]:
        code += _rule(rule)
        if rule[:4] == ("a", None, None, 7):
            break  # what stands before it never decides, and the verifier refuses dead code
    else:
        code += _answer(False)
    return b"".join(code)


_Rule = tuple[str, int | None, int | None, int, bool]


def _merged(rules: list[dict[str, Any]]) -> list[_Rule]:
    """Rules as tuples; neighbours that allow different access to one device become one."""
    merged: list[_Rule] = []
    for rule in rules:
        access = sum(_ACCESS[a] for a in set(rule.get("access") or "rwm"))
        major, minor = (None if rule.get(k) in (None, -1) else rule[k] for k in ("major", "minor"))
        item: _Rule = (rule.get("type") or "a", major, minor, access, bool(rule.get("allow")))
        if item[4]:
            for index in range(len(merged) - 1, -1, -1):
                other = merged[index]
                if not other[4]:
                    break
                if other[:3] == item[:3]:
                    item = (*item[:3], item[3] | other[3], True)
                    del merged[index]
                    break
        merged.append(item)
    return merged


def _rule(rule: _Rule) -> list[bytes]:
    kind, major, minor, access, allow = rule
    tests: list[list[bytes]] = []
    if kind != "a":
        tests.append([_instruction(_JNE_IMM, 2, immediate=_TYPE[kind])])
    if major is not None:
        tests.append([_instruction(_JNE_IMM, 4, immediate=major)])
    if minor is not None:
        tests.append([_instruction(_JNE_IMM, 5, immediate=minor)])
    if access != 7:
        tests.append(
            [
                _instruction(_MOV32_REG, 1, 3),
                _instruction(_AND32_IMM, 1, immediate=(7 & ~access) if allow else access),
                _instruction(_JNE_IMM if allow else _JEQ_IMM, 1, immediate=0),
            ]
        )
    code = [instruction for test in tests for instruction in test] + _answer(allow)
    # Each jump leads past the end of this rule.
    for index, instruction in enumerate(code):
        if instruction[0] in (_JEQ_IMM, _JNE_IMM):
            offset = len(code) - index - 1
            code[index] = instruction[:2] + struct.pack("<h", offset) + instruction[4:]
    return code


def _answer(allow: bool) -> list[bytes]:
    return [_instruction(_MOV32_IMM, 0, immediate=int(allow)), _instruction(_EXIT)]


def _instruction(
    opcode: int, target: int = 0, source: int = 0, offset: int = 0, immediate: int = 0
) -> bytes:
    return struct.pack("<BBhi", opcode, source << 4 | target, offset, immediate)


def attach(directory: int, program: bytes) -> None:
    """Attach ``program`` to the cgroup behind ``directory``, instead of those attached before.

    The old ones go last: meanwhile both must agree, so nothing is allowed by accident.
    """
    code = ctypes.create_string_buffer(program, len(program))
    license_ = ctypes.create_string_buffer(b"Apache-2.0")
    attributes = struct.pack(
        "<IIQQIIQII",
        _TYPE_CGROUP_DEVICE,
        len(program) // 8,
        ctypes.addressof(code),
        ctypes.addressof(license_),
        0,
        0,
        0,
        0,
        0,
    ).ljust(64, b"\0")
    failpoint("cgroup.devices")
    try:
        fd = syscalls.bpf(_PROG_LOAD, attributes)
    except OSError as error:
        raise EngineError(
            "the kernel refuses the device rules' program",
            os.strerror(error.errno or 0),
            "it needs CONFIG_CGROUP_BPF and the right to load programs",
        ) from None
    try:
        before = _attached(directory)
        syscalls.bpf(
            _PROG_ATTACH, struct.pack("<IIII", directory, fd, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI)
        )
        for identity in before:
            old = syscalls.bpf(_PROG_GET_FD_BY_ID, struct.pack("<III", identity, 0, 0))
            try:
                syscalls.bpf(
                    _PROG_DETACH, struct.pack("<IIII", directory, old, _ATTACH_CGROUP_DEVICE, 0)
                )
            finally:
                os.close(old)
    finally:
        os.close(fd)


def _attached(directory: int) -> list[int]:
    count = 64
    identities = (ctypes.c_uint32 * count)()
    buffer = ctypes.create_string_buffer(
        struct.pack(
            "<IIIIQII",
            directory,
            _ATTACH_CGROUP_DEVICE,
            0,
            0,
            ctypes.addressof(identities),
            count,
            0,
        ),
        32,
    )
    syscalls.bpf_in_place(_PROG_QUERY, buffer)
    (found,) = struct.unpack_from("<I", buffer, 24)
    return list(identities[:found])
