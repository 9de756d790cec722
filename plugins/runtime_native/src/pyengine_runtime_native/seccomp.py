"""Seccomp filters: found compiled, or compiled from the spec where libseccomp is at hand.

The engine hands a compiled program over as a file named by the annotation. A bundle made by others
has ``linux.seccomp``, which pyseccomp compiles if the program that runs us has imported it: a
zygote does not, for its import runs ldconfig and brings in more modules than all the rest.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

from pyengine.errors import EngineError, InvalidParameter, Unsupported
from pyengine.linux import syscalls

ANNOTATION = "io.pyengine.seccomp.bpf"
#: SECCOMP_FILTER_FLAG_SPEC_ALLOW: no slow-down against speculation, as runc has it.
_SPEC_ALLOW = 4


def program(spec: dict[str, Any]) -> bytes:
    """The filter of a container: an array of ``struct sock_filter``, or nothing.

    Raises ``Unsupported`` for a profile that cannot be compiled here.
    """
    path = (spec.get("annotations") or {}).get(ANNOTATION)
    if path:
        try:
            with open(path, "rb") as file:
                code = file.read()
        except OSError as error:
            raise EngineError(
                "the compiled seccomp profile cannot be read",
                f"{path}: {os.strerror(error.errno or 0)}",
            ) from None
        if not code or len(code) % 8:
            raise InvalidParameter(f"{path} is no seccomp program", f"{len(code)} bytes")
        return code
    profile = (spec.get("linux") or {}).get("seccomp")
    if not profile:
        return b""
    pyseccomp = sys.modules.get("pyseccomp")
    if pyseccomp is None:
        raise Unsupported(
            "linux.seccomp of the runtime spec cannot be compiled here",
            "the Python package pyseccomp is not loaded in this process",
            f"import it first, or name a compiled program in the annotation {ANNOTATION}",
        )
    return compile_profile(profile, pyseccomp)


_ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
_OPERATORS = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}


def _action(name: str, number: int | None) -> int:
    value = _ACTIONS.get(name)
    if value is None:
        raise Unsupported(f"seccomp action {name!r} is not supported")
    if name in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        value |= (errno.EPERM if number is None else number) & 0xFFFF
    return value


def compile_profile(profile: dict[str, Any], pyseccomp: Any) -> bytes:
    """``linux.seccomp`` of a runtime spec as a program, by libseccomp."""
    default = _action(profile["defaultAction"], profile.get("defaultErrnoRet"))
    filter = pyseccomp.SyscallFilter(default)
    for name in profile.get("architectures") or ():
        arch = getattr(pyseccomp.Arch, name.removeprefix("SCMP_ARCH_"), None)
        if arch is not None and not filter.exist_arch(arch):
            filter.add_arch(arch)
    for rule in profile.get("syscalls") or ():
        action = _action(rule["action"], rule.get("errnoRet"))
        if action == default:
            continue
        arguments = [
            pyseccomp.Arg(
                argument["index"],
                _OPERATORS[argument["op"]],
                argument["value"],
                argument.get("valueTwo", 0),
            )
            for argument in rule.get("args") or ()
        ]
        for name in rule["names"]:
            try:
                filter.add_rule(action, name, *arguments)
            except (OSError, ValueError, RuntimeError):
                continue  # a name that this libseccomp or machine does not know
    memory = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    with open(memory, "w+b", buffering=0) as file:
        filter.export_bpf(file)
        file.seek(0)
        return file.read()


def load(code: bytes) -> None:
    """Install ``code`` for this process (needs no_new_privs or CAP_SYS_ADMIN)."""
    try:
        syscalls.seccomp_filter(code, _SPEC_ALLOW)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        syscalls.seccomp_filter(code)
