"""From ``linux.seccomp`` to BPF, by libseccomp.

Importing pyseccomp loads libseccomp, which means looking for it (ctypes runs ldconfig): that
happens when the first profile is compiled, in the daemon, never in a shim.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pyengine.errors import InvalidParameter
from pyengine_security_seccomp.profile import Action, Op

#: The annotation that carries the path of the compiled filter to the runtime.
ANNOTATION = "io.pyengine.seccomp.bpf"

_ERRNO, _ALLOW = 0x00050000, 0x7FFF0000
_ACTIONS = {
    Action.ALLOW: _ALLOW,
    Action.ERRNO: _ERRNO,
    Action.KILL: 0x00000000,
    Action.KILL_THREAD: 0x00000000,
    Action.KILL_PROCESS: 0x80000000,
    Action.TRAP: 0x00030000,
    Action.TRACE: 0x7FF00000,
    Action.LOG: 0x7FFC0000,
}
_OPS = {
    Op.NOT_EQUAL: 1,
    Op.LESS: 2,
    Op.LESS_EQUAL: 3,
    Op.EQUAL: 4,
    Op.GREATER_EQUAL: 5,
    Op.GREATER: 6,
    Op.MASKED_EQUAL: 7,
}
#: AUDIT_ARCH_* (linux/audit.h), which libseccomp uses as its own numbers but for x32.
_ARCHES = {
    "SCMP_ARCH_X86": 0x40000003,
    "SCMP_ARCH_X86_64": 0xC000003E,
    "SCMP_ARCH_X32": 0x4000003E,
    "SCMP_ARCH_ARM": 0x40000028,
    "SCMP_ARCH_AARCH64": 0xC00000B7,
    "SCMP_ARCH_MIPS": 0x00000008,
    "SCMP_ARCH_MIPS64": 0x80000008,
    "SCMP_ARCH_MIPS64N32": 0xA0000008,
    "SCMP_ARCH_MIPSEL": 0x40000008,
    "SCMP_ARCH_MIPSEL64": 0xC0000008,
    "SCMP_ARCH_MIPSEL64N32": 0xE0000008,
    "SCMP_ARCH_PPC": 0x00000014,
    "SCMP_ARCH_PPC64": 0x80000015,
    "SCMP_ARCH_PPC64LE": 0xC0000015,
    "SCMP_ARCH_S390": 0x00000016,
    "SCMP_ARCH_S390X": 0x80000016,
    "SCMP_ARCH_RISCV64": 0xC00000F3,
    "SCMP_ARCH_LOONGARCH64": 0xC0000102,
}
_X32 = _ARCHES["SCMP_ARCH_X32"]
_X86_64 = _ARCHES["SCMP_ARCH_X86_64"]
_X32_BIT = 0x40000000

_ATTRIBUTE_NO_NEW_PRIVILEGES, _ATTRIBUTE_OPTIMIZE = 3, 8
_BINARY_TREE = 2

# struct sock_filter and the few instructions of it that are needed (linux/filter.h).
_INSTRUCTION = struct.Struct("=HBBI")
_LOAD_WORD, _JUMP_EQUAL, _JUMP_GREATER, _JUMP_GREATER_EQUAL, _RETURN, _JUMP = (
    *(0x20, 0x15, 0x25, 0x35, 0x06, 0x05),
)
_OFFSET_NUMBER, _OFFSET_ARCH = 0, 4


def version() -> str:
    """Of libseccomp: other versions know other calls. ``OSError`` if it is not there."""
    library = _library()._libseccomp

    class Version(_library().ctypes.Structure):  # type: ignore[misc]
        _fields_ = [(name, _library().ctypes.c_uint) for name in ("major", "minor", "micro")]

    library.seccomp_version.restype = _library().ctypes.POINTER(Version)
    found = library.seccomp_version().contents
    return f"{found.major}.{found.minor}.{found.micro}"


def compile_filter(seccomp: Mapping[str, Any]) -> bytes:
    """The filter as an array of ``struct sock_filter``.

    Names that libseccomp does not know on an architecture are passed over, as runc does. Raises
    ``InvalidParameter`` for what libseccomp refuses.
    """
    library = _library()
    default = _action(seccomp["defaultAction"], seccomp.get("defaultErrnoRet"))
    program = library.SyscallFilter(default)
    program.set_attr(_ATTRIBUTE_NO_NEW_PRIVILEGES, 0)
    arches = [_arch(name) for name in seccomp.get("architectures") or ()]
    for arch in arches:
        if not program.exist_arch(arch):
            program.add_arch(arch)
    if len(seccomp["syscalls"]) > 8:
        # Shorter ways through the many calls of a default profile; libseccomp 2.5 and later.
        program.set_attr(_ATTRIBUTE_OPTIMIZE, _BINARY_TREE)
    numbers: dict[int, int] = {}
    for rule in seccomp["syscalls"]:
        action = _action(rule["action"], rule.get("errnoRet"))
        if action == default:
            continue
        for name in rule["names"]:
            number = library.resolve_syscall(library.Arch.NATIVE, name)
            for arch in arches or [library.system_arch()]:
                here = library.resolve_syscall(arch, name)
                numbers[arch] = max(numbers.get(arch, -1), here)
            if number is None or number == -1:
                continue
            for arguments in _combinations(rule.get("args") or ()):
                try:
                    program.add_rule(
                        action,
                        number,
                        *(
                            library.Arg(
                                arg["index"],
                                _OPS[Op(arg["op"])],
                                arg["value"],
                                arg.get("valueTwo", 0),
                            )
                            for arg in arguments
                        ),
                    )
                except OSError as error:
                    raise InvalidParameter(
                        f"the seccomp rule for {name} cannot be compiled", str(error.strerror)
                    ) from None
    body = _export(program)
    if default & 0x7FFF0000 in (_ALLOW, _ACTIONS[Action.LOG]) or default == _errno(errno.ENOSYS):
        return body
    return _unknown_calls(numbers) + body


def _combinations(args: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """libseccomp compares an argument once per rule; more comparisons of one become alternatives,
    as runc has it."""
    if len({arg["index"] for arg in args}) == len(args):
        yield args
    else:
        for arg in args:
            yield (arg,)


def _unknown_calls(last: Mapping[int, int]) -> bytes:
    """Instructions to stand before a filter: calls above the last that it knows fail with ENOSYS.

    Otherwise a program would take "not permitted" of a call that is younger than the profile for
    an answer, instead of using an older one. runc does the same.
    """
    checks: list[tuple[int, list[tuple[int, int, int, int]]]] = []
    for arch, number in last.items():
        if number < 0 or arch == _X32:
            continue
        steps = [(_LOAD_WORD, 0, 0, _OFFSET_NUMBER)]
        if arch == _X86_64:
            # x32 has the same architecture, and numbers of its own above one bit.
            other = last.get(_X32, -1)
            limit = other | _X32_BIT if other >= 0 else 0xFFFFFFFF
            steps += [
                (_JUMP_GREATER_EQUAL, 0, 2, _X32_BIT),
                (_JUMP_GREATER, 2, 0, limit),
                (_JUMP, 0, 0, 2),
                (_JUMP_GREATER, 0, 1, number),
            ]
        else:
            steps.append((_JUMP_GREATER, 0, 1, number))
        steps.append((_RETURN, 0, 0, _errno(errno.ENOSYS)))
        checks.append((arch, steps))
    made: list[tuple[int, int, int, int]] = [(_LOAD_WORD, 0, 0, _OFFSET_ARCH)]
    for index, (arch, steps) in enumerate(checks):
        made.append((_JUMP_EQUAL, 0, len(steps) + 1, arch))
        made += steps
        # The filter itself follows the last check.
        made.append((_JUMP, 0, 0, sum(len(other) + 2 for _, other in checks[index + 1 :])))
    return b"".join(_INSTRUCTION.pack(*step) for step in made)


def _export(program: Any) -> bytes:
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    with open(fd, "rb+") as file:
        program.export_bpf(file)
        file.seek(0)
        return file.read()


def _action(name: str, number: int | None) -> int:
    action = Action(name)
    value = _ACTIONS[action]
    if action in (Action.ERRNO, Action.TRACE):
        value |= (errno.EPERM if number is None else number) & 0xFFFF
    return value


def _errno(number: int) -> int:
    return _ERRNO | number


def _arch(name: str) -> int:
    try:
        return _ARCHES[name]
    except KeyError:
        raise InvalidParameter(
            f"unknown architecture {name!r} in the seccomp profile",
            help="known: " + ", ".join(sorted(_ARCHES)),
        ) from None


def _library() -> Any:
    import pyseccomp

    return pyseccomp
