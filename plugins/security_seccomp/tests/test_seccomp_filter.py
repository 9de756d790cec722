"""The compiled filter on the real kernel: each call is tried in a child that has loaded it.

The arguments are such that a call which gets through to the kernel fails with something else than
EPERM and changes nothing; what "gets through" looks like is measured in a child without a filter.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pyengine.linux import syscalls
from pyengine.oci import capabilities
from pyengine_security_seccomp.compile import compile_filter
from pyengine_security_seccomp.default import profile
from pyengine_security_seccomp.profile import parse, resolve, this_machine

pytestmark = pytest.mark.skipif(
    this_machine().go != "amd64", reason="the numbers of the calls below are x86_64's"
)

NOWHERE = b"/nonexistent/pyengine"
NEWUSER, NEWUTS, SIGHAND = 0x10000000, 0x04000000, 0x800
#: name -> (number, arguments): harmless whether or not they get through.
CALLS: dict[str, tuple[int, Sequence[Any]]] = {
    "reboot": (169, (0, 0, 0, None)),
    "swapon": (167, (NOWHERE, 0)),
    "swapoff": (168, (NOWHERE,)),
    "mount": (165, (NOWHERE, NOWHERE, b"none", 0, None)),
    "umount2": (166, (NOWHERE, 0)),
    "pivot_root": (155, (NOWHERE, NOWHERE)),
    "clock_settime": (227, (9999, None)),
    "settimeofday": (164, (1, None)),
    "init_module": (175, (None, 0, None)),
    "delete_module": (176, (b"pyengine_no_such_module", 0)),
    "acct": (163, (NOWHERE,)),
    "kexec_load": (246, (0, 0, None, 0xFFFF)),
    "unshare_all": (272, (0xFFFFFFFF,)),
    # CLONE_SIGHAND without CLONE_VM: refused by the kernel, whatever else is asked.
    "clone_newuser": (56, (NEWUSER | SIGHAND, None, None, None, None)),
    "clone_newuts": (56, (NEWUTS | SIGHAND, None, None, None, None)),
    "clone_plain": (56, (SIGHAND, None, None, None, None)),
    "clone3": (435, (None, 0)),
    "setns": (308, (-1, 0)),
    "chroot": (161, (NOWHERE,)),
    "ptrace": (101, (12345, 0, None, None)),
    "kcmp": (312, (-1, -1, 99, 0, 0)),
    "iopl": (172, (9,)),
    "open_by_handle_at": (304, (-1, None, 0)),
    "bpf": (321, (9999, None, 0)),
    "perf_event_open": (298, (None, 0, 0, 0, 0)),
    "syslog": (103, (9999, None, 0)),
    "mbind": (237, (1, 0, 9999, None, 0, 0)),
    "fsopen": (430, (None, 0)),
    "personality_query": (135, (0xFFFFFFFF,)),
    "personality_linux": (135, (0,)),
    "personality_no_random": (135, (0x0040000,)),
    "socket_inet": (41, (2, 9999, 0)),
    "socket_vsock": (41, (40, 9999, 0)),
    "socket_alg": (41, (38, 9999, 0)),
    "socket_39": (41, (39, 9999, 0)),
    "keyctl": (250, (9999, 0, 0, 0, 0)),
    "add_key": (248, (None, None, None, 0, 0)),
    "userfaultfd": (323, (0xFFFFFFFF,)),
    "io_uring_setup": (425, (0, None)),
    "younger_than_all": (4000, ()),
    "uselib": (134, (NOWHERE,)),
    "getcwd": (79, (None, 0)),
    "fchmodat": (268, (-1, NOWHERE, 0)),
}

#: Refused by default, and which capability lets it through; None: nothing does.
GATED: dict[str, str | None] = {
    "reboot": "SYS_BOOT",
    "swapon": None,
    "swapoff": None,
    "mount": "SYS_ADMIN",
    "umount2": "SYS_ADMIN",
    "pivot_root": None,
    "clock_settime": "SYS_TIME",
    "settimeofday": "SYS_TIME",
    "init_module": "SYS_MODULE",
    "delete_module": "SYS_MODULE",
    "acct": "SYS_PACCT",
    "kexec_load": None,
    "unshare_all": "SYS_ADMIN",
    "clone_newuser": "SYS_ADMIN",
    "clone_newuts": "SYS_ADMIN",
    "setns": "SYS_ADMIN",
    "kcmp": "SYS_PTRACE",
    "iopl": "SYS_RAWIO",
    "open_by_handle_at": "DAC_READ_SEARCH",
    "bpf": "BPF",
    "perf_event_open": "PERFMON",
    "syslog": "SYSLOG",
    "mbind": "SYS_NICE",
    "fsopen": "SYS_ADMIN",
    "personality_no_random": None,
    "socket_vsock": None,
    "socket_alg": None,
    "keyctl": None,
    "add_key": None,
    "userfaultfd": None,
    "io_uring_setup": None,
    "uselib": None,
}
OPEN = [
    *("chroot", "ptrace", "clone_plain", "personality_query", "personality_linux", "socket_inet"),
    *("socket_39", "getcwd", "fchmodat"),
]

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def load(filter: bytes) -> None:
    buffer = ctypes.create_string_buffer(filter, len(filter))
    program = _Program(len(filter) // 8, ctypes.addressof(buffer))
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    if _libc.syscall(syscalls.SYS_SECCOMP, 1, 0, ctypes.byref(program)):
        raise OSError(ctypes.get_errno(), "seccomp")


def in_child(action: Callable[[], Any]) -> Any:
    """The JSON-able result of ``action``, run in a child that ends afterwards."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, json.dumps(action()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        answer = file.read()
    _, status = os.waitpid(child, 0)
    assert answer, f"the child ended with {status:#x}"
    return json.loads(answer)


def attempt(filter: bytes | None) -> dict[str, int]:
    """errno of every call in CALLS, 0 where it succeeds, in a child with ``filter``."""

    def action() -> dict[str, int]:
        if filter is not None:
            load(filter)
        found = {}
        for name, (number, arguments) in CALLS.items():
            ctypes.set_errno(0)
            result = _libc.syscall(
                ctypes.c_long(number),
                *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments),
            )
            found[name] = ctypes.get_errno() if result == -1 else 0
        return found

    return dict(in_child(action))


def default_filter(*added: str) -> bytes:
    names = capabilities.effective(added, None, privileged=False)
    return compile_filter(resolve(profile(), names, this_machine()))


@pytest.fixture(scope="module")
def unfiltered() -> dict[str, int]:
    return attempt(None)


@pytest.fixture(scope="module")
def by_default() -> dict[str, int]:
    return attempt(default_filter())


@pytest.mark.parametrize("call", sorted(GATED))
def test_refused_by_default(call: str, by_default: dict[str, int]) -> None:
    assert errno.errorcode.get(by_default[call]) == "EPERM"


@pytest.mark.parametrize("call", OPEN)
def test_open_to_all(call: str, by_default: dict[str, int], unfiltered: dict[str, int]) -> None:
    assert by_default[call] == unfiltered[call]
    assert by_default[call] != errno.EPERM


@pytest.mark.parametrize("capability", sorted({name for name in GATED.values() if name}))
def test_a_capability_opens_its_calls_and_no_others(
    capability: str, by_default: dict[str, int], unfiltered: dict[str, int]
) -> None:
    found = attempt(default_filter(capability))
    for call, gate in GATED.items():
        also_admin = capability == "SYS_ADMIN" and call in ("bpf", "perf_event_open", "syslog")
        if gate == capability or also_admin:
            # EPERM of the kernel itself would prove nothing about the filter.
            assert unfiltered[call] != errno.EPERM, call
            assert found[call] == unfiltered[call], call
        else:
            assert found[call] == errno.EPERM, call


def test_calls_that_libc_probes_for(by_default: dict[str, int], unfiltered: dict[str, int]) -> None:
    assert by_default["clone3"] == errno.ENOSYS
    assert by_default["younger_than_all"] == errno.ENOSYS
    assert unfiltered["clone3"] not in (errno.ENOSYS, errno.EPERM)
    assert attempt(default_filter("SYS_ADMIN"))["clone3"] == unfiltered["clone3"]


def test_programs_still_run() -> None:
    """fork, exec, files, threads and sockets of an ordinary program, under the filter."""
    filter = default_filter()

    def action() -> int:
        load(filter)
        script = (
            "import threading,socket,subprocess,tempfile,os;"
            "t=threading.Thread(target=lambda:None);t.start();t.join();"
            "socket.socket();subprocess.run(['true'],check=True);tempfile.TemporaryFile()"
        )
        return os.spawnlp(os.P_WAIT, "python3", "python3", "-c", script)

    assert in_child(action) == 0


def test_a_custom_profile_is_enforced() -> None:
    text = json.dumps(
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [
                {"names": ["chroot", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 71},
                {
                    "names": ["socket"],
                    "action": "SCMP_ACT_ERRNO",
                    "args": [
                        {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"},
                        {"index": 0, "value": 40, "op": "SCMP_CMP_EQ"},
                    ],
                },
            ],
        }
    )
    custom = parse(text)
    assert custom is not None
    found = attempt(compile_filter(resolve(custom, (), this_machine())))
    assert found["chroot"] == 71
    # Two comparisons of one argument are alternatives, as with runc.
    assert found["socket_inet"] == found["socket_vsock"] == errno.EPERM
    assert found["socket_alg"] not in (0, errno.EPERM)
    assert found["getcwd"] != errno.EPERM


def test_kernel_versions_and_processors_decide() -> None:
    machine = this_machine()
    old = resolve(profile(), (), type(machine)("amd64", "SCMP_ARCH_X86_64", (4, 7)))
    new = resolve(profile(), (), type(machine)("amd64", "SCMP_ARCH_X86_64", (4, 8)))
    arm = resolve(profile(), (), type(machine)("arm64", "SCMP_ARCH_AARCH64", (6, 1)))

    def names(made: dict[str, Any]) -> set[str]:
        return {name for rule in made["syscalls"] for name in rule["names"]}

    assert names(new) - names(old) == {"ptrace", "process_vm_readv", "process_vm_writev"}
    assert "arch_prctl" in names(new)
    assert "arch_prctl" not in names(arm)
    assert arm["architectures"] == ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    assert compile_filter(arm)


def test_the_filter_is_well_formed(tmp_path: Path) -> None:
    filter = default_filter()
    assert len(filter) % 8 == 0
    assert len(filter) // 8 <= 4096, "the kernel takes no longer ones"
    code, _, _, offset = struct.unpack_from("=HBBI", filter)
    assert (code, offset) == (0x20, 4), "a filter looks at the architecture first"
