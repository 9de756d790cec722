"""Behind the border nothing is loaded: the process ends before it happens."""

from __future__ import annotations

import ctypes
import os
import pwd
from collections.abc import Callable

import pytest

from pyengine.linux import border, syscalls


def status_of(action: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            border.enter_foreign_root()
            action()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def imports_something() -> None:
    import colorsys  # noqa: F401


@pytest.mark.parametrize(
    "action",
    [
        imports_something,
        lambda: ctypes.CDLL("libnss_files.so.2"),
        lambda: compile("1", "x", "eval"),
        lambda: exec("1"),
        lambda: "x".encode("cp1026"),  # one that nobody has looked up before,
    ],
    ids=["import", "dlopen", "compile", "exec", "codec"],
)
def test_loading_ends_the_process(action: Callable[[], object]) -> None:
    assert status_of(action) == border.VIOLATION


def test_system_calls_go_on() -> None:
    def work() -> None:
        os.chdir("/")
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        "text".encode("utf-8", "replace").decode("ascii", "replace")
        try:
            os.open("/nowhere", os.O_RDONLY)
        except OSError as error:
            if "nowhere" not in str(error):
                raise

    assert status_of(work) == 0
    assert pwd.getpwuid(0), "here, in front of it, everything works"
